//! `ringlet ipvsadm`: administers a running load balancer in ipvsadm's own syntax.
//!
//! Speaks the control protocol of docs/control.md over TCP. What is printed, and the exit code, are those of ipvsadm 1.31:
//! 0; 1 for a listing of a service that is not there; 2 for words that are no command, or if the balancer is not reached;
//! 255 for an operation that was refused. What is new: `--connect`, `--json`, comments in rules, and that `-R` reads all
//! rules before it carries out the first.

mod client;
mod extra;
mod help;
mod json;
mod listing;
mod mark;
mod messages;
mod sysctl;
mod table;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, BufWriter, Read, Write};

use ringlet_balancer::ipvsadm::{self, Command, ParseError};

pub use client::{Client, DEFAULT_ADDRESS, Failure};
pub use listing::{Listed, ListedService};

/// The longest file of rules that `-R` reads, in bytes.
const RULES_MAX: u64 = 64 << 20;

/// The exit code of words that are no command, or if the balancer is not reached.
const EXIT_USAGE: u8 = 2;
/// The exit code of an operation that was refused.
const EXIT_REFUSED: u8 = 255;

/// Where the balancer is and how to print, taken off the words before they are read as ipvsadm's.
#[derive(Debug, PartialEq, Eq)]
struct Connection {
    address: String,
    json: bool,
}

/// Runs `ringlet ipvsadm` with these arguments (without `ringlet ipvsadm`) on the standard streams. Returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut out = BufWriter::new(io::stdout().lock());
    let code = execute(arguments, &mut io::stdin().lock(), &mut out, &mut io::stderr().lock());
    match out.flush() {
        // Whoever reads has had enough: `ringlet ipvsadm -L | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
        Err(error) => {
            eprintln!("cannot write: {error}");
            EXIT_USAGE
        }
        Ok(()) => code,
    }
}

/// Runs `ringlet sysctl` with these arguments on the standard streams. Returns the exit code.
pub fn run_sysctl(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    execute_sysctl(arguments, &mut io::stdout().lock(), &mut io::stderr().lock())
}

/// Runs `ringlet mark` with these arguments on the standard streams. Returns the exit code.
pub fn run_mark(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.peek().is_some_and(|word| word == "-h" || word == "--help") {
        let _ = io::stdout().write_all(mark::HELP.as_bytes());
        return 0;
    }
    // Options of the connection may stand anywhere: `mark` is the first of the other words.
    run(std::iter::once(OsString::from("mark")).chain(arguments))
}

/// Runs `ringlet extra` with these arguments on the standard streams. Returns the exit code.
pub fn run_extra(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.peek().is_some_and(|word| word == "-h" || word == "--help") {
        let _ = io::stdout().write_all(extra::HELP.as_bytes());
        return 0;
    }
    run(std::iter::once(OsString::from("extra")).chain(arguments))
}

/// Runs `ringlet sysctl` on any streams.
fn execute_sysctl(arguments: impl IntoIterator<Item = OsString>, out: &mut dyn Write, errors: &mut dyn Write) -> u8 {
    let understood = split(arguments).and_then(|(connection, words)| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if matches!(words[..], ["-h" | "--help", ..]) {
            return Ok((connection, None));
        }
        if connection.json {
            return Err("`--json`: knobs are not printed so: leave it out".to_owned());
        }
        sysctl::commands(&words).map(|commands| (connection, Some(commands)))
    });
    let (connection, commands) = match understood {
        Ok((connection, Some(commands))) => (connection, commands),
        Ok((_, None)) => {
            let _ = out.write_all(sysctl::HELP.as_bytes());
            return 0;
        }
        Err(message) => {
            let _ = writeln!(errors, "{message}\nTry `ringlet sysctl --help' for more information.");
            return EXIT_USAGE;
        }
    };
    let mut client = match Client::connect(&connection.address) {
        Ok(client) => client,
        Err(failure) => {
            let _ = writeln!(errors, "{failure}");
            return EXIT_USAGE;
        }
    };
    for command in &commands {
        // Like sysctl, says what is in effect then.
        let done = match command {
            Command::SetSysctl { name, .. } => {
                client.apply(command).and_then(|()| sysctl::show(&mut client, Some(name), out))
            }
            Command::ShowSysctl(name) => sysctl::show(&mut client, *name, out),
            other => client.apply(other),
        };
        if let Err(failure) = done {
            let _ = writeln!(errors, "{}", messages::of(command, &failure));
            return if matches!(failure, Failure::Refused(_)) { EXIT_REFUSED } else { EXIT_USAGE };
        }
    }
    0
}

/// Runs a command on any streams. A stream that cannot be written is found out by whoever flushes it.
fn execute(
    arguments: impl IntoIterator<Item = OsString>,
    input: &mut dyn Read,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> u8 {
    let (connection, command) = match understand(arguments) {
        Ok(understood) => understood,
        Err(message) => {
            let _ = writeln!(errors, "{message}\nTry `ringlet ipvsadm --help' for more information.");
            return EXIT_USAGE;
        }
    };
    match command {
        Command::Help => {
            let _ = out.write_all(help::TEXT.as_bytes());
            return 0;
        }
        Command::Version => {
            let _ = writeln!(out, "ringlet ipvsadm {} (as ipvsadm v1.31, IPVS v1.2.1)", env!("CARGO_PKG_VERSION"));
            return 0;
        }
        _ => {}
    }
    let rules = match command {
        Command::Restore => match rules(input, errors) {
            Some(rules) => rules,
            None => return EXIT_USAGE,
        },
        _ => Vec::new(),
    };
    let mut client = match Client::connect(&connection.address) {
        Ok(client) => client,
        Err(failure) => {
            let _ = writeln!(errors, "{failure}");
            return EXIT_USAGE;
        }
    };
    let done = match &command {
        Command::Restore => return restore(&mut client, &rules, errors),
        Command::List(what) if connection.json => json::list(&mut client, what, out),
        Command::List(what) => table::list(&mut client, what, out),
        Command::Save => save(&mut client, out),
        Command::ShowSysctl(name) => sysctl::show(&mut client, *name, out),
        Command::ShowMarks => mark::show(&mut client, out),
        Command::ShowExtras if connection.json => extra::json(&mut client, out),
        Command::ShowExtras => extra::show(&mut client, out),
        command => client.apply(command),
    };
    match done {
        Ok(()) => 0,
        Err(failure) => {
            let _ = writeln!(errors, "{}", messages::of(&command, &failure));
            match (failure, command) {
                (Failure::Refused(_), Command::List(_)) => 1,
                (Failure::Refused(_), _) => EXIT_REFUSED,
                _ => EXIT_USAGE,
            }
        }
    }
}

/// Takes our own options off.
fn split(arguments: impl IntoIterator<Item = OsString>) -> Result<(Connection, Vec<String>), String> {
    let mut connection = Connection { address: DEFAULT_ADDRESS.to_owned(), json: false };
    let mut words = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(word) = arguments.next() {
        let word = word.into_string().map_err(|word| format!("`{}`: not UTF-8 text", word.display()))?;
        if word == "--json" {
            connection.json = true;
        } else if word == "--connect" {
            let next = arguments.next().and_then(|next| next.into_string().ok());
            connection.address = next.ok_or("`--connect`: a value is missing: write HOST:PORT after it")?;
        } else if let Some(address) = word.strip_prefix("--connect=") {
            connection.address = address.to_owned();
        } else {
            words.push(word);
        }
    }
    Ok((connection, words))
}

/// Takes our own options off and reads the rest as ipvsadm's.
fn understand(arguments: impl IntoIterator<Item = OsString>) -> Result<(Connection, Command), String> {
    let (connection, words) = split(arguments)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let command = ipvsadm::parse(&words).map_err(|error: ParseError| error.to_string())?;
    if connection.json && !matches!(command, Command::List(_) | Command::ShowExtras) {
        return Err("`--json`: only a listing (-L, extra) is printed so: leave it out".to_owned());
    }
    Ok((connection, command))
}

/// The commands of a file of rules, with their lines. `None` if any line is at fault, each of which is told.
fn rules(input: &mut dyn Read, errors: &mut dyn Write) -> Option<Vec<(usize, Command)>> {
    let mut text = Vec::new();
    match input.take(RULES_MAX + 1).read_to_end(&mut text) {
        Ok(_) if text.len() as u64 > RULES_MAX => {
            let _ = writeln!(errors, "more than 64 MiB of rules");
            return None;
        }
        Ok(_) => {}
        Err(error) => {
            let _ = writeln!(errors, "cannot read the rules: {error}");
            return None;
        }
    }
    let mut found: Vec<(usize, Command)> = Vec::new();
    let mut wrong: Vec<String> = Vec::new();
    ipvsadm::load(
        &text,
        |line, command| found.push((line, command)),
        |line, error| {
            wrong.push(format!("line {line}: {error}"));
        },
    );
    for (line, command) in &found {
        let shows = matches!(
            command,
            Command::List(_)
                | Command::ShowSysctl(_)
                | Command::ShowMarks
                | Command::ShowExtras
                | Command::Save
                | Command::Restore
                | Command::Help
                | Command::Version
        );
        if shows {
            wrong.push(format!("line {line}: `{command}` changes nothing: rules are -A, -a and the like"));
        }
    }
    for message in &wrong {
        let _ = writeln!(errors, "{message}");
    }
    if !wrong.is_empty() {
        let _ = writeln!(errors, "nothing was changed");
    }
    wrong.is_empty().then_some(found)
}

/// Carries out rules in order. As ipvsadm, goes on after one that is refused.
fn restore(client: &mut Client, rules: &[(usize, Command)], errors: &mut dyn Write) -> u8 {
    let mut code = 0;
    for (line, command) in rules {
        if let Err(failure) = client.apply(command) {
            let _ = writeln!(errors, "line {line}: {}", messages::of(command, &failure));
            if !matches!(failure, Failure::Refused(_)) {
                return EXIT_USAGE;
            }
            code = EXIT_REFUSED;
        }
    }
    code
}

/// Prints the rules that would make what there is. What ipvsadm has no words for comes first, if there is any.
fn save(client: &mut Client, out: &mut dyn Write) -> Result<(), Failure> {
    let defaults = ringlet_balancer::Sysctls::default();
    let knobs = client.sysctls(None)?;
    let get = |wanted: &str| knobs.iter().find(|(name, _)| name == wanted).map(|&(_, value)| value);
    for (name, value) in &knobs {
        let Some(name) = ringlet_balancer::Sysctls::find(name) else { continue };
        // Two numbers that have to fit each other are given together.
        let (name, second) = match name {
            "sync_period" => continue,
            "sync_threshold" => (name, get("sync_period")),
            _ => (name, None),
        };
        if defaults.get(name) != Some(*value) || second.is_some_and(|second| second != defaults.sync_period) {
            let _ = writeln!(out, "{}", Command::SetSysctl { name, value: *value, second });
        }
    }
    mark::show(client, out)?;
    for Listed { service, destinations } in client.list(None, true)? {
        let _ = writeln!(out, "{}", Command::AddService(service.entry));
        for destination in &destinations {
            let command = ipvsadm::destination_of(&service.entry.key, &destination.key, &destination.config);
            let _ = writeln!(out, "{command}");
        }
    }
    for info in client.extras()? {
        let _ = writeln!(out, "{}", extra::command(&info));
    }
    for (daemon, _) in client.daemons()? {
        let _ = writeln!(out, "{}", Command::StartDaemon(daemon));
    }
    Ok(())
}
