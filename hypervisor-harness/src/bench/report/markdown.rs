//! The report as tables in Markdown, for docs/performance.md.

use std::fmt;

use super::{Report, Short, Told};
use crate::bench::case::Better;

/// The report in Markdown.
#[derive(Debug)]
pub struct Markdown<'a>(pub &'a Report);

/// Where tables go in a page: between these two lines.
const MARKS: [&str; 2] = ["<!-- bench -->\n", "<!-- /bench -->"];

/// A page with the tables in their place, or nothing but the tables if it has none.
#[must_use]
pub fn embed(page: &str, tables: &str) -> String {
    let [begin, end] = MARKS;
    let split = page.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    match split {
        Some((before, after)) => format!("{before}{begin}{tables}{end}{after}"),
        None => tables.to_owned(),
    }
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

impl fmt::Display for Markdown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { facts, settings, cases, cut_short } = self.0;
        writeln!(f, "| | |\n|---|---|")?;
        for (name, value) in facts.lines(settings) {
            writeln!(f, "| {} | {} |", cell(&name), cell(&value))?;
        }
        writeln!(
            f,
            "\n| case | side | median | least .. greatest | unit | first side ÷ this one |\n|---|---|--:|--:|---|--:|"
        )?;
        for case in cases {
            rows(f, case)?;
        }
        for case in cases {
            for warning in case.warnings() {
                writeln!(f, "\n- `{}`: {warning}", case.name)?;
            }
        }
        if let Some(why) = cut_short {
            writeln!(f, "\nThis is not all: {why}.")?;
        }
        Ok(())
    }
}

fn rows(f: &mut fmt::Formatter<'_>, case: &Told) -> fmt::Result {
    let unit = format!("{}{}", case.unit, if case.better == Better::Less { " (less is better)" } else { "" });
    for (nth, side) in case.sides.iter().enumerate() {
        for (value, label) in case.values.iter().enumerate() {
            let name = if nth + value == 0 { format!("`{}`", case.name) } else { String::new() };
            let who = format!("{} {label}", side.name);
            let who = who.trim_end();
            let Some(summary) = side.summary(value) else {
                if value == 0 {
                    let why = side.missing.as_ref().or(side.failures.last()).map_or("no round was finished", |why| why);
                    writeln!(f, "| {name} | {} | not measured | {} | | |", cell(who), cell(why))?;
                }
                continue;
            };
            let ratio = case.ratio(nth, value).map_or(String::new(), |ratio| {
                format!("{} ({} .. {})", Short(ratio.median), Short(ratio.least), Short(ratio.greatest))
            });
            let range = format!("{} .. {}", Short(summary.least), Short(summary.greatest));
            writeln!(f, "| {name} | {} | {} | {range} | {unit} | {ratio} |", cell(who), Short(summary.median))?;
        }
    }
    Ok(())
}
