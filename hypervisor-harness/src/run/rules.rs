//! Rule files, checked before a machine is made for them.

use std::fmt::Write as _;

use ringlet_balancer::{Balancer, Config, ipvsadm};

/// The most faults that are listed.
const SHOWN: usize = 10;

/// Loads the rules into a balancer on the host, just as the guest will do it.
///
/// # Errors
/// One line for each of the first faults, as `NAME:LINE: what is wrong`.
pub fn check(name: &str, rules: &[u8]) -> Result<(), String> {
    // Small, and with no network: rules are all it will ever see.
    let config =
        Config { connections: 64, connections_v6: 64, neighbours: 16, ..Config::new([2, 0, 0, 0, 0, 1], [0, 0]) };
    let mut balancer = Balancer::new(config);
    let mut faults = Vec::new();
    let found = std::cell::RefCell::new(&mut faults);
    ipvsadm::load(
        rules,
        |line, command| {
            if let Err(error) = ipvsadm::apply(&command, &mut balancer) {
                found.borrow_mut().push(format!("{name}:{line}: `{command}`: {error}"));
            }
        },
        |line, error| found.borrow_mut().push(format!("{name}:{line}: {error}")),
    );
    if faults.is_empty() {
        return Ok(());
    }
    let mut message = String::from("the rules cannot be loaded");
    for fault in faults.iter().take(SHOWN) {
        // Writing to a String does not fail.
        let _ = write!(message, "\n  {}", fault.escape_debug());
    }
    if faults.len() > SHOWN {
        let _ = write!(message, "\n  and {} more", faults.len() - SHOWN);
    }
    Err(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_with_their_line() {
        check("x", b"# nothing\n\n-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -m\n").unwrap();
        let message = check(
            "my.rules",
            b"-A -t 10.0.0.100:80 -s rr\n-A -t 10.0.0.100:80 -s nope\nwhat\x1b\n-a -t 10.0.0.9:80 -r 10.0.0.11 -m\n",
        )
        .unwrap_err();
        for line in [2, 3, 4] {
            assert!(message.contains(&format!("\n  my.rules:{line}: ")), "{line}: {message}");
        }
        assert!(!message.contains('\x1b'));
    }

    #[test]
    fn a_wrong_file_does_not_fill_the_screen() {
        let message = check("x", &b"nonsense\n".repeat(10_000)).unwrap_err();
        assert!(message.lines().count() == SHOWN + 2 && message.ends_with("and 9990 more"), "{message}");
        assert!(check("x", &[0xff; 1 << 20]).is_err());
    }
}
