//! The report for programs: one JSON object.

use anyhow::Context;
use serde_json::{Value, json};

use super::Report;
use crate::bench::statistics::Summary;

fn summary(summary: Option<Summary>) -> Value {
    summary.map_or(Value::Null, |Summary { median, least, greatest, count }| {
        json!({ "median": median, "least": least, "greatest": greatest, "count": count })
    })
}

/// The report, with what follows from it: `summary` for each value of each side, `ratio` of the first side to each other
/// one, and `warnings`.
///
/// # Errors
/// Never, unless a number in it is none.
pub fn write(report: &Report) -> anyhow::Result<String> {
    let mut value = serde_json::to_value(report)?;
    for (nth, case) in report.cases.iter().enumerate() {
        let shown = &mut value["cases"][nth];
        shown["warnings"] = json!(case.warnings());
        for (side, told) in case.sides.iter().enumerate() {
            let values = 0..case.values.len();
            shown["sides"][side]["summary"] = values.clone().map(|value| summary(told.summary(value))).collect();
            if side > 0 {
                shown["sides"][side]["ratio"] = values.map(|value| summary(case.ratio(side, value))).collect();
            }
        }
    }
    Ok(serde_json::to_string_pretty(&value)?)
}

/// Reads a report back.
///
/// # Errors
/// If it is none.
pub fn read(text: &str) -> anyhow::Result<Report> {
    serde_json::from_str(text).context("this is no report of `ringlet bench --json`")
}
