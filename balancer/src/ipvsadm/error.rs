//! Why words are no command: which word, and what to write instead.

use alloc::string::String;
use core::fmt;

/// A word that cannot stand where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The word at fault, cut to 64 bytes or so; empty if there is none.
    pub word: String,
    /// What is wrong with it.
    pub problem: Problem,
}

impl ParseError {
    pub(super) fn new(word: &str, problem: Problem) -> Self {
        let mut shown: String = word.chars().take(64).flat_map(char::escape_debug).collect();
        if word.chars().nth(64).is_some() {
            shown.push('…');
        }
        ParseError { word: shown, problem }
    }
}

impl core::error::Error for ParseError {}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.word.is_empty() { self.problem.fmt(f) } else { write!(f, "`{}`: {}", self.word, self.problem) }
    }
}

/// What is wrong with a word. Shown, it says what is expected instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// There is no command among the options.
    #[error(
        "no command is given: begin with one of -A, -E, -D, -a, -e, -d, -C, -Z, -L, -S, -R or --set; -h explains them"
    )]
    NoCommand,
    /// There is a command already.
    #[error("a second command: give one, or one on each line of `ipvsadm -R`")]
    SecondCommand,
    /// There is no such option.
    #[error("no such option; -h lists them")]
    UnknownOption,
    /// The option needs a value.
    #[error("a value is missing: write {0} after it")]
    MissingValue(&'static str),
    /// The option takes no value.
    #[error("takes no value: leave it out")]
    UnexpectedValue,
    /// A word that belongs to no option.
    #[error("not expected here: does it lack its option, such as -t, -r or -s, before it?")]
    Stray,
    /// The option is given more than once, or one that excludes it.
    #[error("there is a {0} already: give one")]
    Repeated(&'static str),
    /// The option says nothing for this command.
    #[error("has no place with {0}: leave it out")]
    NotWith(&'static str),
    /// The command needs another option.
    #[error("needs {0}")]
    Needs(&'static str),
    /// No virtual address.
    #[error("no virtual address: expected ADDRESS:PORT in numbers, such as 10.0.0.100:80 or [fd00::100]:80")]
    ServiceAddress,
    /// No address of a server.
    #[error("no server's address: expected ADDRESS or ADDRESS:PORT in numbers, such as 10.0.0.11:80 or [fd00::b]:80")]
    ServerAddress,
    /// No mark.
    #[error("no firewall mark: expected a number from 1 to 4294967295")]
    Mark,
    /// `-6` beside an address.
    #[error("goes only with -f: an address tells its family itself")]
    FamilyOfAddress,
    /// No port, and no persistence.
    #[error("no port, or port 0, means every port, which a service can have only with -p: add the port, or -p")]
    ZeroPort,
    /// One-packet scheduling of TCP.
    #[error("schedules each packet alone, which only -u and -f services can: leave it out")]
    OnePacket,
    /// No name of a scheduler or persistence engine.
    #[error("no name: expected 1 to 15 letters, such as rr, wlc or mh")]
    Name,
    /// A flag of no scheduler.
    #[error("no scheduler flag: expected some of sh-fallback, sh-port, mh-fallback, mh-port, flag-1, flag-2, flag-3")]
    SchedulerFlag,
    /// A flag of another scheduler.
    #[error("a flag of another scheduler: use it with the one it is named after, or flag-1, flag-2, flag-3")]
    OtherSchedulersFlag,
    /// No timeout.
    #[error("no timeout: expected seconds from {0} to 2678400 (31 days)")]
    Timeout(u32),
    /// No mask of an IPv4 service.
    #[error("no netmask: expected one like 255.255.255.0")]
    Netmask,
    /// No mask of an IPv6 service.
    #[error("no IPv6 netmask: expected a prefix length from 1 to 128")]
    NetmaskV6,
    /// No weight or threshold.
    #[error("no {0}: expected a number from 0 to 2147483647")]
    Number(&'static str),
    /// Server and service are of different families.
    #[error("not of the service's address family: only tunnels (-i) lead from one to the other")]
    OtherFamily,
    /// Options of tunnels without a tunnel.
    #[error("goes only with -i: add -i, or leave it out")]
    TunnelWithout,
    /// No tunnel type.
    #[error("no tunnel type: expected ipip, gue or gre")]
    TunnelType,
    /// No port of a tunnel.
    #[error("no tunnel port: expected a number from 1 to 65535")]
    TunnelPort,
    /// A tunnel option of another type.
    #[error("has no place with a tunnel of type {0}: leave it out")]
    TunnelOption(&'static str),
    /// No role of a daemon.
    #[error("no daemon: expected master or backup")]
    Daemon,
    /// A number of a daemon's option.
    #[error("no value of that option: expected a number from {0} to {1}")]
    DaemonNumber(u32, u32),
    /// No name of an interface.
    #[error("no name of an interface: it is eth0, the only one")]
    Interface,
    /// No group.
    #[error("no group: expected a multicast address, such as 224.0.0.81 or ff02::81")]
    Group,
    /// `--set` without its three values.
    #[error("takes three timeouts in seconds, tcp tcpfin udp, such as --set 900 120 300; 0 leaves one as it is")]
    ThreeTimeouts,
    /// The listing cannot show both.
    #[error("cannot be shown together with {0}: give one")]
    ListConflict(&'static str),
    /// `mark` with something else after it.
    #[error("no command of `mark`: expected add, delete or clear, or nothing for a list")]
    MarkCommand,
    /// No option of a rule.
    #[error("no option of a mark rule: expected -p, -s, -d, --sport, --dport or -6")]
    MarkOption,
    /// No protocol of a rule.
    #[error("no protocol that is balanced: expected tcp, udp or sctp, or no -p for all")]
    MarkProtocol,
    /// Networks of a rule of two families.
    #[error("the networks of a mark rule must be of one address family: make them two rules")]
    MarkFamilies,
    /// No network.
    #[error("no network: expected ADDRESS or ADDRESS/PREFIX, such as 10.9.0.0/16 or fd00::/64")]
    Network,
    /// No ports.
    #[error("no ports: expected PORT or FIRST:LAST")]
    Ports,
    /// `extra` with something else after it.
    #[error("no command of `extra`: expected set or clear, or nothing for a list")]
    ExtraCommand,
    /// No option of `extra`.
    #[error("no option of `extra`: `ringlet extra --help` lists them")]
    ExtraOption,
    /// Nothing that a service is to do.
    #[error(
        "says nothing that the service is to do: add --full-nat, --client-address, --syn-cookies, --source-connections or --source-rate, or write `extra clear`"
    )]
    Extra,
    /// No pool of addresses.
    #[error("no addresses: expected ADDRESS or FIRST-LAST, such as 10.0.0.200-10.0.0.203")]
    Pool,
    /// No way to tell of a client.
    #[error("no way to tell a server of its client: expected toa or proxy")]
    Announce,
    /// No rate.
    #[error("no rate: expected RATE or RATE/BURST, new connections a second and at once, such as 50/100")]
    Rate,
    /// A service beside `--all`.
    #[error("means every service: leave the service out, or --all")]
    AllAndService,
    /// No ports of a pool.
    #[error("no ports: expected PORT or FIRST-LAST, from 1 to 65535")]
    PoolPorts,
    /// No knob.
    #[error("no such knob, or none that is honoured here: `ringlet sysctl` lists those of net.ipv4.vs that are")]
    Sysctl,
    /// Bytes that are no text.
    #[error("not UTF-8 text: is this a file of rules?")]
    NotText,
    /// A line beyond all measure.
    #[error("a line of more than 1024 bytes: is this a file of rules?")]
    LongLine,
}
