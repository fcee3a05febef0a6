//! The table of what was exercised, as it stands in docs/features.md.

use std::fmt::Write as _;

use ringlet_driver::features::Features;

use super::cases::{GROUPS, RING, SIZES, companions};
use super::{Case, Kind, TRANSPORTS, evidence};

/// Writes the table of the cases that were run, all of them successfully.
pub fn table(offer: Features, done: &[Case]) -> String {
    let both = offer & Features::IMPLEMENTED;
    let transports = TRANSPORTS.map(|(name, _)| name).join(" and ");
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{words}");
    };
    line(format_args!("| bit | feature | alone, with | all but it | what shows it |"));
    line(format_args!("|---|---|---|---|---|"));
    for feature in both.iter() {
        let bit = feature.bits().trailing_zeros();
        let name = feature.to_string().to_uppercase();
        if feature == Features::VERSION_1 {
            line(format_args!("| {bit} | {name} | always | cannot be refused | everything here |"));
            continue;
        }
        let (shown, _) = evidence(feature).unwrap_or(("", |_| false));
        let alone = how(done, |kind| kind == Kind::Alone(feature));
        let without = how(done, |kind| kind == Kind::Without(feature));
        let companions = companions(feature) & both;
        let with = if companions.is_empty() {
            "nothing".into()
        } else {
            companions.to_string().to_uppercase().replace(',', ", ")
        };
        line(format_args!("| {bit} | {name} | {with}: {alone} | {without} | {shown} |"));
    }
    line(format_args!(""));
    line(format_args!("Every combination of these, with all the rest on:"));
    line(format_args!(""));
    for (group, parts) in GROUPS.into_iter().enumerate() {
        let there: Vec<_> = parts.iter().map(|&part| part & both).filter(|part| !part.is_empty()).collect();
        let names: Vec<_> = there.iter().map(|part| part.to_string().to_uppercase().replace(',', " and ")).collect();
        let count =
            done.iter().filter(|case| matches!(case.kind, Kind::Combination { group: of, .. } if of == group)).count();
        line(format_args!("- {}: {} sets", names.join(" x "), count / TRANSPORTS.len()));
    }
    line(format_args!(""));
    let sizes = SIZES.map(|size| size.to_string()).join(", ");
    let ring = (RING & both).to_string().to_uppercase().replace(',', " x ");
    let count = done.iter().filter(|case| matches!(case.kind, Kind::Sized(_))).count() / TRANSPORTS.len();
    line(format_args!(
        "With queues of at most {sizes} descriptors (a split one has the power of two in that, and the driver"
    ));
    line(format_args!(
        "wants 1024 at most), {ring}, with all the rest on: {count} sets. In short queues frames of the lengths"
    ));
    line(format_args!("that they have room for."));
    line(format_args!(""));
    line(format_args!(
        "{} runs, each of its own machine, over {transports}: each line above stands for all of them.",
        done.len()
    ));
    let lonely = |names: Features| {
        if names.is_empty() { "none".into() } else { names.to_string().to_uppercase().replace(',', ", ") }
    };
    line(format_args!("Offered by the device, and not implemented by the driver: {}.", lonely(offer - both)));
    line(format_args!(
        "Implemented by the driver, and not offered by the device: {}.",
        lonely(Features::IMPLEMENTED - both)
    ));
    text
}

/// By whom the rest was left out in the cases of this kind that were run.
fn how(done: &[Case], is: impl Fn(Kind) -> bool) -> &'static str {
    let by = |guest: bool| done.iter().any(|case| is(case.kind) && case.by_guest == guest);
    match (by(false), by(true)) {
        (true, true) => "✅",
        (true, false) => "device only",
        (false, true) => "guest only",
        (false, false) => "❌",
    }
}
