//! The report as a page that needs nothing but itself: no network, no script, no font of its own. It is XHTML, so that what
//! reads XML can check it.

use std::fmt::Write as _;

use super::{Report, Short, Told, plot};
use crate::bench::case::Better;

const STYLE: &str = "\
body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
h2{margin:2em 0 0;font-size:1.15em}code,td.n{font-family:ui-monospace,monospace}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.15em .8em .15em 0;text-align:left;vertical-align:top}
td.n{text-align:right;white-space:nowrap}th{font-weight:normal;color:#666}
.about,.remark{color:#555}.remark{font-size:.85em}.warning{color:#a40}.failed{color:#b00;font-weight:bold}svg{max-width:100%}";

/// The page.
///
/// # Errors
/// If a picture cannot be drawn.
pub fn write(report: &Report) -> anyhow::Result<String> {
    let mut page = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\
         <meta charset=\"UTF-8\"/><meta name=\"viewport\" content=\"width=device-width\"/><title>Ringlet: measurements</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>Ringlet: measurements</h1>\n"
    );
    if let Some(why) = &report.cut_short {
        write!(page, "<p class=\"warning\">This is not all: {}.</p>", escape(why))?;
    }
    page += "<table>";
    for (name, value) in report.facts.lines(&report.settings) {
        write!(page, "<tr><th>{}</th><td>{}</td></tr>", escape(&name), escape(&value))?;
    }
    page += "</table>\n<p>Sides of a case take turns, round after round. A bar is a median, a dot a round. What is compared is \
             the first side with each other one, round by round: the median of the rounds' ratios, and their range.</p>\n";
    for case in &report.cases {
        one(&mut page, case)?;
    }
    page += "</body>\n</html>\n";
    Ok(page)
}

fn one(page: &mut String, case: &Told) -> anyhow::Result<()> {
    let better = if case.better == Better::More { "more" } else { "less" };
    write!(page, "<h2 id=\"{0}\">{0}</h2>\n<p class=\"about\">{1}", escape(&case.name), escape(&case.about))?;
    write!(page, ". In {}, {better} is better.", escape(&case.unit))?;
    if !case.target.is_empty() {
        write!(page, " Target: {}.", escape(&case.target))?;
    }
    page.push_str("</p>\n");
    for (value, label) in case.values.iter().enumerate() {
        if let Some(svg) = plot::draw(case, value)? {
            if !label.is_empty() {
                write!(page, "<p>{}</p>", escape(label))?;
            }
            page.push_str(&svg);
        }
    }
    page.push_str("<table><tr><th></th><th>median</th><th>least .. greatest</th><th>compared</th></tr>\n");
    for nth in 0..case.sides.len() {
        rows(page, case, nth)?;
    }
    page.push_str("</table>\n");
    for warning in case.warnings() {
        writeln!(page, "<p class=\"warning\">{}</p>", escape(&warning))?;
    }
    Ok(())
}

fn rows(page: &mut String, case: &Told, nth: usize) -> anyhow::Result<()> {
    let side = &case.sides[nth];
    for (value, label) in case.values.iter().enumerate() {
        let Some(summary) = side.summary(value) else { continue };
        let who = format!("{} {label}", side.name);
        let ratio = case.ratio(nth, value).map_or(String::new(), |ratio| {
            format!("{} x ({} .. {})", Short(ratio.median), Short(ratio.least), Short(ratio.greatest))
        });
        writeln!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{} .. {}</td><td class=\"n\">{ratio}</td></tr>",
            escape(who.trim_end()),
            Short(summary.median),
            Short(summary.least),
            Short(summary.greatest)
        )?;
    }
    let mut remark = |class: &str, text: &str| {
        write!(
            page,
            "<tr><td></td><td class=\"{class}\" colspan=\"3\">{}: {}</td></tr>",
            escape(&side.name),
            escape(text)
        )
    };
    if !side.about.is_empty() {
        remark("remark", &side.about)?;
    }
    if !side.remark().is_empty() {
        remark("remark", side.remark())?;
    }
    if let Some(missing) = &side.missing {
        remark("remark", &format!("not measured: {missing}"))?;
    }
    if let Some(failure) = side.failures.last() {
        remark("failed", &format!("failed {} times: {failure}", side.failures.len()))?;
    }
    Ok(())
}

/// Text as it stands in XML. What XML cannot hold becomes a question mark.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push(' '),
            letter if letter.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&letter) => escaped.push('?'),
            letter => escaped.push(letter),
        }
    }
    escaped
}
