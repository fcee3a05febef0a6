//! Cases: rules, and then what happens.

mod parse;

use std::time::Duration;

pub use parse::parse;

use ringlet_balancer::MarkRule;

use crate::packet::Packet;

/// One thing to be tried on both sides.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name: the heading of a section of a file.
    pub name: String,
    /// The file it is in.
    pub file: String,
    /// Commands of ipvsadm that both sides carry out at the start.
    pub rules: Vec<String>,
    /// What happens then.
    pub steps: Vec<Step>,
}

impl Case {
    /// Whether rates are looked at: then it matters when it begins.
    pub fn has_rates(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.action, Action::Rates))
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where it stands in the file.
    pub line: usize,
    /// How it stands there, braces expanded.
    pub text: String,
    /// The documented choice for which the sides differ here.
    pub choice: Option<String>,
    /// What is done.
    pub action: Action,
}

/// What is done in a step.
#[derive(Clone, Debug)]
pub enum Action {
    /// A command of ipvsadm.
    Control(String),
    /// A packet comes.
    Packet(Packet),
    /// The server that got the last packet answers it; each side has its own. Flags or chunks, and options.
    Reply(Vec<String>),
    /// Time passes.
    Wait(Duration),
    /// A variable of `net.ipv4.vs` is set.
    Set(String, String),
    /// Packets of a kind get a mark from now on.
    Mark(MarkRule),
    /// Three seconds pass, and everything is listed, but for rates: as at the end.
    List,
    /// Everything is listed at once, but for counters and rates.
    ListNow,
    /// Everything is listed at once, with counters.
    Counters,
    /// The rates are listed.
    Rates,
}
