//! The feature matrix: each feature of the network device on alone and off alone, and combinations of those that have to do
//! with each other, agreed on between the real guest and the real device, over each transport. In each run frames of every
//! kind that was agreed on go through the balancer, and what comes out is compared with what must, byte for byte.
//!
//! What was exercised stands in docs/features.md, which this test writes, and compares.

mod common;
mod matrix;

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use matrix::{Case, Guest, Kind, cases, evidence, offer, run, table};
use ringlet_driver::features::Features;

/// Set to 1, the test writes the table instead of comparing it.
const UPDATE: &str = "RINGLET_UPDATE_TABLE";
const BEGIN: &str = "<!-- made by tests/e2e_matrix.rs: begin -->\n";
const END: &str = "<!-- made by tests/e2e_matrix.rs: end -->\n";

#[test]
fn every_feature_works_alone_and_can_be_left_out() {
    needs_kvm!();
    let offer = offer();
    let both = offer & Features::IMPLEMENTED;
    for feature in (both - Features::VERSION_1).iter() {
        assert!(
            evidence(feature).is_some(),
            "{feature} is offered and implemented, and nobody has said what shows it: add it to `evidence` in tests/matrix/mod.rs"
        );
    }
    let cases = cases(offer);
    let (mut frames, mut slowest) = (HashMap::new(), (Duration::ZERO, None));
    for case in &cases {
        let began = Instant::now();
        let seen = run(case);
        if began.elapsed() > slowest.0 {
            slowest = (began.elapsed(), Some(case));
        }
        if let Kind::Alone(feature) = case.kind {
            assert!(seen.features.contains(feature), "{case}: not agreed on");
        }
        for feature in (seen.features - Features::VERSION_1).iter() {
            // What shows a feature may need another one that is not there.
            let (words, shows) = evidence(feature).expect("seen to above");
            let must = match case.kind {
                Kind::All => true,
                Kind::Alone(alone) => alone == feature,
                _ => false,
            };
            assert!(!must || shows(&seen), "{case}: it was not seen that {words}: {seen:?}");
        }
        if let Kind::Without(feature) = case.kind {
            assert!(!seen.features.contains(feature), "{case}");
        }
        *frames.entry(case.transport()).or_insert(0) += seen.frames;
    }
    println!("{} runs; frames compared: {frames:?}", cases.len());
    if let (time, Some(case)) = slowest {
        println!("the slowest, with {time:?}: {case}");
    }
    compare(&table(offer, &cases));
}

#[test]
fn what_needs_a_feature_that_is_refused_is_refused_too() {
    needs_kvm!();
    let case = cases(offer()).into_iter().find(|case: &Case| case.kind == Kind::Refused).expect("there is one");
    let guest = Guest::boot(&case.setup, "");
    let host = Features::HOST_TSO4 | Features::HOST_TSO6 | Features::HOST_ECN | Features::HOST_UFO | Features::HOST_USO;
    assert!(guest.offered().contains(Features::CSUM | Features::HOST_TSO4));
    assert!(!guest.agreed.intersects(host | Features::CSUM | Features::RSC_EXT), "{}", guest.agreed);
    let said = guest.lines.iter().find(|line| line.contains("for want of what it needs")).expect("it says so");
    assert!(said.contains("host_tso4") && said.contains("rsc_ext"), "{said}");
    guest.end();
}

/// Compares the table with the one in docs/features.md, or puts it there.
fn compare(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/features.md");
    let text = std::fs::read_to_string(&path).expect("docs/features.md");
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (old, after) = rest.split_once(END).expect("where the table ends");
    if std::env::var_os(UPDATE).is_some_and(|value| value == "1") {
        std::fs::write(&path, [before, BEGIN, table, END, after].concat()).expect("docs/features.md can be written");
        return;
    }
    let command = format!("{UPDATE}=1 cargo test --package ringlet --test e2e_matrix");
    assert!(
        old == table,
        "docs/features.md is not what was exercised; write it anew with\n    {command}\nThe table is now:\n{table}"
    );
}
