//! The report for a terminal.

use std::fmt;

use super::{Report, Short, Side, Told};
use crate::bench::case::Better;

/// The report for a terminal.
#[derive(Debug)]
pub struct Text<'a>(pub &'a Report);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in &self.0.cases {
            one(f, case)?;
        }
        if let Some(why) = &self.0.cut_short {
            writeln!(f, "\nThis is not all: {why}.")?;
        }
        Ok(())
    }
}

fn one(f: &mut fmt::Formatter<'_>, case: &Told) -> fmt::Result {
    let better = if case.better == Better::More { "more" } else { "less" };
    writeln!(f, "\n{}: {}", case.name, case.about)?;
    write!(f, "  in {}, {better} is better", case.unit)?;
    writeln!(f, "{}", if case.target.is_empty() { String::new() } else { format!("; target: {}", case.target) })?;
    for (nth, side) in case.sides.iter().enumerate() {
        line(f, case, nth, side)?;
    }
    for warning in case.warnings() {
        writeln!(f, "  ! {warning}")?;
    }
    Ok(())
}

/// As much of a remark as a line has room for; the rest is in the other forms.
fn short(remark: &str) -> String {
    const ROOM: usize = 60;
    match remark.char_indices().nth(ROOM) {
        Some((at, _)) => format!("{}...", &remark[..at]),
        None => remark.to_owned(),
    }
}

fn line(f: &mut fmt::Formatter<'_>, case: &Told, nth: usize, side: &Side) -> fmt::Result {
    for (value, label) in case.values.iter().enumerate() {
        let Some(summary) = side.summary(value) else { continue };
        let name = if label.is_empty() { side.name.clone() } else { format!("{} {label}", side.name) };
        let range = format!("{} .. {}", Short(summary.least), Short(summary.greatest));
        write!(f, "  {name:24} {:>9}  {range:>20}", Short(summary.median))?;
        match case.ratio(nth, value) {
            Some(ratio) => {
                let range = format!("({} .. {})", Short(ratio.least), Short(ratio.greatest));
                write!(f, "  {} is {} x of it {range}", case.sides[0].name, Short(ratio.median))?;
            }
            None if value == 0 => write!(f, "  {}", short(side.remark()))?,
            None => {}
        }
        writeln!(f)?;
    }
    if let Some(missing) = &side.missing {
        writeln!(f, "  {:24} not measured: {missing}", side.name)?;
    }
    if let Some(error) = side.failures.last() {
        writeln!(f, "  {:24} FAILED {} times: {error}", side.name, side.failures.len())?;
    }
    Ok(())
}
