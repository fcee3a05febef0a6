//! The `ringlet` command: its subcommands, their flags, and what becomes of an error.

pub mod options;
mod pin;
mod style;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};

pub use options::{DisplayArgs, GuestArgs, QemuArgs, RunArgs, VhostUserBackendArgs};
pub use pin::Pin;
pub use style::Style;

/// A load balancer that is its own virtual machine.
///
/// Without a subcommand, `ringlet run`: boots the unikernel in KVM with a demonstration network of three web servers, and
/// publishes the balanced service on a port of this host.
#[derive(Debug, Parser)]
#[command(name = "ringlet", version, max_term_width = 110, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

const EXAMPLES: &str = "\
Examples:
  ringlet                                     the demonstration; then: curl http://127.0.0.1:8080/
  ringlet --publish 8081:10.0.0.100:80        the same on another port of this host
  ringlet --rules FILE --real 10.0.0.14:80=127.0.0.1:9001
                                              your own rules (as `ipvsadm-save -n` writes them), your own server
  ringlet --net tap=ringlet0 --ip 192.0.2.2/24 --gateway 192.0.2.1 --rules FILE
                                              on a real network, through a TAP interface
  ringlet --features -mrg_rxbuf,-event_idx    without some features of the network device
  ringlet --for 10 --json                     ten seconds, one JSON object a line
  ringlet ipvsadm -L -n --stats               list the services of a running one
  ringlet sysctl net.ipv4.vs.sloppy_tcp=1     one of its knobs
  ringlet vhost-user-backend --socket /tmp/net.sock
                                              the network device for another monitor's guest
  ringlet qemu --machine q35                  the same image in QEMU, where there is no KVM for instance
";

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot the load balancer in KVM (what `ringlet` alone does)
    #[command(after_help = EXAMPLES)]
    Run(RunArgs),
    /// Boot the same image in QEMU, and show the command that does it
    Qemu(QemuArgs),
    /// Be the network device of another monitor's guest, or of a program on dpdk, through a vhost-user socket
    VhostUserBackend(VhostUserBackendArgs),
    /// Write the unikernel image to a file, for any VMM that boots PVH kernels
    Image {
        /// Where to write it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Administer a running load balancer, in ipvsadm's own syntax
    #[command(disable_help_flag = true)]
    Ipvsadm {
        /// What ipvsadm takes: -A, -E, -D, -a, -e, -d, -C, -Z, -L, ...; --help for more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
        arguments: Vec<OsString>,
    },
    /// Show or set the knobs of net.ipv4.vs of a running load balancer
    #[command(disable_help_flag = true)]
    Sysctl {
        /// NAME or NAME=VALUE, any number; --help for more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
        arguments: Vec<OsString>,
    },
    /// Show or change the rules that give packets the marks of services (`ringlet ipvsadm -f`)
    #[command(disable_help_flag = true)]
    Mark {
        /// add, delete or clear, and a rule; --help for more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
        arguments: Vec<OsString>,
    },
    /// Show or change what services do that IPVS cannot: full NAT, SYN cookies, limits of each source
    #[command(disable_help_flag = true)]
    Extra {
        /// set or clear, a service, and what it is to do; --help for more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
        arguments: Vec<OsString>,
    },
    /// Measure what Ringlet claims, beside what one would take instead
    #[command(disable_help_flag = true)]
    Bench {
        /// What the benchmark takes; --help for more
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
        arguments: Vec<OsString>,
    },
}

/// Runs the command with the arguments of this process. `started` is the time from which boot times are measured.
#[must_use]
pub fn main(started: Instant) -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => crate::run::run(&args, started),
        Command::Qemu(args) => crate::qemu::run(&args, started),
        Command::VhostUserBackend(args) => crate::vhost_user::backend::run(&args, started),
        Command::Image { out } => crate::image::write(&out).map(|()| 0),
        Command::Ipvsadm { arguments } => Ok(crate::ipvsadm::run(arguments)),
        Command::Sysctl { arguments } => Ok(crate::ipvsadm::run_sysctl(arguments)),
        Command::Mark { arguments } => Ok(crate::ipvsadm::run_mark(arguments)),
        Command::Extra { arguments } => Ok(crate::ipvsadm::run_extra(arguments)),
        Command::Bench { arguments } => crate::bench::run(arguments),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ringlet: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, where it has not named them itself already.
fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("ringlet").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_cause_is_named_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("no file: {source}")]
        struct Named {
            source: std::io::Error,
        }
        let error = anyhow::Error::from(Named { source: std::io::Error::other("gone") });
        assert_eq!(message(&error), "no file: gone");
        assert_eq!(message(&error.context("nothing works")), "nothing works: no file: gone");
    }

    #[test]
    fn run_is_what_happens_without_a_subcommand() {
        let cli = parse("--for 3 --json").unwrap();
        assert!(cli.command.is_none());
        assert!(cli.run.display.json);
        let Some(Command::Run(args)) = parse("run --for 3").unwrap().command else { panic!("another command") };
        assert_eq!(args.display.seconds, Some(3.0));
    }

    #[test]
    fn what_is_shown_is_said_in_the_same_way_everywhere() {
        for command in ["run", "qemu", "vhost-user-backend --socket /s"] {
            let cli = parse(&format!("{command} --for 0.5 --status-interval 2 --json --no-color")).unwrap();
            let display = match cli.command.unwrap() {
                Command::Run(args) => args.display,
                Command::Qemu(args) => args.display,
                Command::VhostUserBackend(args) => args.display,
                other => panic!("{other:?}"),
            };
            let now = Instant::now();
            assert_eq!(display.until(now), Some(now + std::time::Duration::from_millis(500)));
            assert_eq!(display.interval(), std::time::Duration::from_secs(2));
            assert!(!display.is_live());
        }
    }

    #[test]
    fn ipvsadm_gets_its_arguments_untouched() {
        let Some(Command::Ipvsadm { arguments }) = parse("ipvsadm -L -n --help --stats").unwrap().command else {
            panic!("another command")
        };
        assert_eq!(arguments, ["-L", "-n", "--help", "--stats"]);
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_starts() {
        for bad in [
            "--cpus 2",
            "--memory 16",
            "--memory 4096",
            "--net wifi",
            "--ip 10.0.0.2",
            "--ip 10.0.0.2/33",
            "--gateway x",
            "--publish 8080",
            "--real 10.0.0.14",
            "--features mrg_rxbuf",
            "--features -nope",
            "--for -1",
            "--for nan",
            "--status-interval 0",
            "--status-interval 3601",
            "image",
            "qemu --machine virt",
            "vhost-user-backend",
            "vhost-user-backend --socket /s --net wifi",
            "vhost-user-backend --socket /s --device-features csum",
            "nonsense",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
