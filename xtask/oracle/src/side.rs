//! What the two sides have in common: what can be done to them, and what they tell.

use std::time::Duration;

use ringlet_balancer::MarkRule;

/// How a control command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// It cannot be read as a command.
    Usage,
    /// It was refused with this number of Linux, positive.
    Refused(i32),
}

/// What became of a frame.
#[derive(Clone, Debug, Default)]
pub struct Effect {
    /// Frames that came out, in order.
    pub frames: Vec<Vec<u8>>,
    /// It was given to the local stack, which answers or not. Linux does not tell.
    pub local: bool,
    /// What else is known of it, for a report.
    pub remark: String,
}

/// Linux or the balancer.
pub trait Side {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Forgets everything: no services, no connections, defaults everywhere. With `aligned`, rates have just been estimated then.
    fn reset(&mut self, aligned: bool) -> anyhow::Result<()>;

    /// Loads rules, each a command of ipvsadm. Those that are refused are told.
    fn load(&mut self, rules: &[String]) -> anyhow::Result<Vec<String>>;

    /// Carries out a command of ipvsadm.
    fn control(&mut self, line: &str) -> anyhow::Result<Outcome>;

    /// Sets a variable of `net.ipv4.vs`. Whether that was possible.
    fn set(&mut self, variable: &str, value: &str) -> anyhow::Result<bool>;

    /// Lets packets of a kind have a mark.
    fn mark(&mut self, rule: &MarkRule) -> anyhow::Result<()>;

    /// Sends a message of the "IPVS" family, and tells all that answer it.
    fn ask(&mut self, message: &[u8]) -> anyhow::Result<Vec<Vec<u8>>>;

    /// Gives it a frame.
    fn frame(&mut self, frame: &[u8]) -> anyhow::Result<Effect>;

    /// Lets time pass. What comes out of it meanwhile is told.
    fn wait(&mut self, time: Duration) -> anyhow::Result<Vec<Vec<u8>>>;

    /// Every connection, each a line, sorted.
    fn connections(&mut self) -> anyhow::Result<Vec<String>>;
}

/// A connection as a line.
pub fn connection(
    protocol: &str,
    [client, service, server]: [std::net::SocketAddr; 3],
    state: &str,
    seconds: u32,
) -> String {
    format!("connection {protocol} {client} -> {service} -> {server} {state} {seconds} s")
}
