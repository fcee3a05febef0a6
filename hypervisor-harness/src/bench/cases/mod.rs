//! The cases, by name: what is asked, of whom.

mod boot;
mod bulk;
mod calls;
mod connections;
pub mod footprint;
mod forward;
mod http;
mod idle;
mod iperf3;
mod kernel;
mod latency;
mod list;
mod round_trip;
mod testpmd;

use super::case::{Better, When};

pub use list::CASES;

/// All cases with their sides, and what they are.
#[must_use]
pub fn list() -> String {
    let mut text = String::new();
    for case in CASES {
        let better = if case.better == Better::More { "more" } else { "less" };
        let long = if case.when == When::Always { "" } else { "; not with --quick" };
        text += &format!("{}: {} ({}, {better} is better{long})\n", case.name, case.about, case.unit);
        for side in case.sides {
            text += &format!("  {:16} {}\n", side.name, side.about);
        }
    }
    text
}

/// What `--help` says about them.
#[must_use]
pub fn help() -> String {
    let mut text = "Cases:\n".to_owned();
    for case in CASES {
        text += &format!("  {:24} {}\n", case.name, case.about);
    }
    text + "--list shows their sides. Whatever happens in network namespaces needs root."
}
