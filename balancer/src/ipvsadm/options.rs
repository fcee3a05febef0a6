//! The options, and how words are split into them: as popt does it for ipvsadm.

use super::{ParseError, Problem};

/// An option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Opt {
    // Commands first: the order is that of `COMMANDS`.
    AddService,
    EditService,
    DeleteService,
    AddServer,
    EditServer,
    DeleteServer,
    Clear,
    Zero,
    Set,
    List,
    Save,
    Restore,
    StartDaemon,
    StopDaemon,
    Help,
    Version,
    // What goes with them.
    Tcp,
    Udp,
    Sctp,
    Mark,
    Ipv6,
    Scheduler,
    SchedulerFlags,
    Persistent,
    Netmask,
    Engine,
    OnePacket,
    Server,
    Gateway,
    Ipip,
    Masquerade,
    Weight,
    Upper,
    Lower,
    TunType,
    TunPort,
    TunNoCsum,
    TunCsum,
    TunRemCsum,
    Connection,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Exact,
    Thresholds,
    PersistentConn,
    TunInfo,
    Sort,
    NoSort,
    Numeric,
    SyncId,
    SyncMaxLen,
    McastInterface,
    McastGroup,
    McastPort,
    McastTtl,
}

impl Opt {
    pub const fn is_command(self) -> bool {
        self as u8 <= Opt::Version as u8
    }

    /// How it is called in messages.
    pub fn name(self) -> &'static str {
        OPTIONS.iter().find(|option| option.3 == self).map_or("", |option| option.1)
    }
}

/// What follows an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    /// A word, which may be in the same word; this is what to write.
    Word(&'static str),
    /// A word unless it begins with `-`.
    Perhaps,
}
use Value::{Perhaps, Word};

const ADDRESS: &str = "ADDRESS:PORT";
const NUMBER: &str = "a number";

/// Short name, long name, value, option. Another long name of the same option comes after the first.
const OPTIONS: &[(char, &str, Value, Opt)] = &[
    ('A', "--add-service", Value::None, Opt::AddService),
    ('E', "--edit-service", Value::None, Opt::EditService),
    ('D', "--delete-service", Value::None, Opt::DeleteService),
    ('a', "--add-server", Value::None, Opt::AddServer),
    ('e', "--edit-server", Value::None, Opt::EditServer),
    ('d', "--delete-server", Value::None, Opt::DeleteServer),
    ('C', "--clear", Value::None, Opt::Clear),
    ('Z', "--zero", Value::None, Opt::Zero),
    ('\0', "--set", Value::None, Opt::Set),
    ('L', "--list", Value::None, Opt::List),
    ('l', "--list", Value::None, Opt::List),
    ('S', "--save", Value::None, Opt::Save),
    ('R', "--restore", Value::None, Opt::Restore),
    ('\0', "--start-daemon", Word("master or backup"), Opt::StartDaemon),
    ('\0', "--stop-daemon", Word("master or backup"), Opt::StopDaemon),
    ('h', "--help", Value::None, Opt::Help),
    ('v', "--version", Value::None, Opt::Version),
    ('t', "--tcp-service", Word(ADDRESS), Opt::Tcp),
    ('u', "--udp-service", Word(ADDRESS), Opt::Udp),
    ('\0', "--sctp-service", Word(ADDRESS), Opt::Sctp),
    ('f', "--fwmark-service", Word(NUMBER), Opt::Mark),
    ('6', "--ipv6", Value::None, Opt::Ipv6),
    ('s', "--scheduler", Word("a scheduler, such as wlc,"), Opt::Scheduler),
    ('b', "--sched-flags", Word("flags, such as sh-port,"), Opt::SchedulerFlags),
    ('p', "--persistent", Perhaps, Opt::Persistent),
    ('M', "--netmask", Word("a mask"), Opt::Netmask),
    ('\0', "--pe", Word("a persistence engine"), Opt::Engine),
    ('o', "--ops", Value::None, Opt::OnePacket),
    ('r', "--real-server", Word(ADDRESS), Opt::Server),
    ('g', "--gatewaying", Value::None, Opt::Gateway),
    ('i', "--ipip", Value::None, Opt::Ipip),
    ('m', "--masquerading", Value::None, Opt::Masquerade),
    ('w', "--weight", Word(NUMBER), Opt::Weight),
    ('x', "--u-threshold", Word(NUMBER), Opt::Upper),
    ('y', "--l-threshold", Word(NUMBER), Opt::Lower),
    ('\0', "--tun-type", Word("ipip, gue or gre"), Opt::TunType),
    ('\0', "--tun-port", Word(NUMBER), Opt::TunPort),
    ('\0', "--tun-nocsum", Value::None, Opt::TunNoCsum),
    ('\0', "--tun-csum", Value::None, Opt::TunCsum),
    ('\0', "--tun-remcsum", Value::None, Opt::TunRemCsum),
    ('c', "--connection", Value::None, Opt::Connection),
    ('\0', "--timeout", Value::None, Opt::Timeout),
    ('\0', "--daemon", Value::None, Opt::Daemon),
    ('\0', "--stats", Value::None, Opt::Stats),
    ('\0', "--rate", Value::None, Opt::Rate),
    ('\0', "--exact", Value::None, Opt::Exact),
    ('\0', "--thresholds", Value::None, Opt::Thresholds),
    ('\0', "--persistent-conn", Value::None, Opt::PersistentConn),
    ('\0', "--tun-info", Value::None, Opt::TunInfo),
    ('\0', "--sort", Value::None, Opt::Sort),
    ('\0', "--nosort", Value::None, Opt::NoSort),
    ('n', "--numeric", Value::None, Opt::Numeric),
    ('\0', "--syncid", Word(NUMBER), Opt::SyncId),
    ('\0', "--sync-maxlen", Word(NUMBER), Opt::SyncMaxLen),
    ('\0', "--mcast-interface", Word("an interface"), Opt::McastInterface),
    ('\0', "--mcast-group", Word("an address"), Opt::McastGroup),
    ('\0', "--mcast-port", Word(NUMBER), Opt::McastPort),
    ('\0', "--mcast-ttl", Word(NUMBER), Opt::McastTtl),
];

/// One piece of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// An option, the word it was in, and its value.
    Option(Opt, &'a str, Option<&'a str>),
    /// A word that belongs to none.
    Word(&'a str),
}

/// Splits words into options: `-Ln`, `-t VALUE`, `-tVALUE`, `-t=VALUE`, `--name VALUE`, `--name=VALUE`.
#[derive(Clone, Debug)]
pub(super) struct Pieces<'a> {
    words: core::slice::Iter<'a, &'a str>,
    /// The word of short options that is being read, and what is left of it.
    cluster: (&'a str, &'a str),
}

impl<'a> Pieces<'a> {
    pub fn new(words: &'a [&'a str]) -> Self {
        Pieces { words: words.iter(), cluster: ("", "") }
    }

    fn option(
        &mut self,
        word: &'a str,
        (_, _, value, option): (char, &str, Value, Opt),
        attached: Option<&'a str>,
    ) -> Result<Piece<'a>, ParseError> {
        let given = match (value, attached) {
            (Value::None, Some(_)) => return Err(ParseError::new(word, Problem::UnexpectedValue)),
            (Value::None, None) => None,
            (_, Some(text)) => Some(text),
            (Word(what), None) => {
                Some(*self.words.next().ok_or_else(|| ParseError::new(word, Problem::MissingValue(what)))?)
            }
            (Perhaps, None) => {
                let next = self.words.as_slice().first().filter(|next| !next.starts_with('-'));
                next.inspect(|_| _ = self.words.next()).copied()
            }
        };
        Ok(Piece::Option(option, word, given))
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Result<Piece<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (word, rest) = self.cluster;
        if let Some(letter) = rest.chars().next() {
            let rest = &rest[letter.len_utf8()..];
            let Some(&found) = OPTIONS.iter().find(|option| option.0 == letter && letter != '\0') else {
                self.cluster = ("", "");
                return Some(Err(ParseError::new(word, Problem::UnknownOption)));
            };
            if let Some(value) = rest.strip_prefix('=') {
                self.cluster = ("", "");
                return Some(self.option(word, found, Some(value)));
            }
            if found.2 == Value::None || rest.is_empty() {
                self.cluster = (word, rest);
                return Some(self.option(word, found, None));
            }
            self.cluster = ("", "");
            return Some(self.option(word, found, Some(rest)));
        }
        let word = *self.words.next()?;
        if word.starts_with("--") {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            return Some(match OPTIONS.iter().find(|option| option.1 == name) {
                Some(&found) => self.option(word, found, value),
                None => Err(ParseError::new(word, Problem::UnknownOption)),
            });
        }
        match word.strip_prefix('-') {
            Some(rest) if !rest.is_empty() => {
                self.cluster = (word, rest);
                self.next()
            }
            _ => Some(Ok(Piece::Word(word))),
        }
    }
}
