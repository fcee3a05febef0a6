//! Network namespaces for tests: traffic that never leaves them.

use std::process::Command;
use std::thread;

/// Runs `test` in a thread with a network namespace of its own, which ends with it. Threads and processes that `test` starts
/// are in it too.
pub fn inside(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: `unshare` takes no pointers; CLONE_NEWNET concerns this thread only.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                let error = std::io::Error::last_os_error();
                panic!("cannot make a network namespace: {error}\nRun this test as root: sudo -E cargo test --test netns_tap");
            }
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    run("ip", words);
}

/// Runs a program that must succeed.
pub fn run(program: &str, words: &str) {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .output()
        .unwrap_or_else(|error| panic!("cannot run `{program}`: {error}\nInstall it (Debian: iproute2)."));
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Segments and datagrams with a wrong checksum that Linux has received in this thread's namespace.
pub fn checksum_errors() -> u64 {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("/proc");
    let (snmp, snmp6) = (read("snmp"), read("snmp6"));
    let mut errors = 0;
    // Pairs of lines: names, then values.
    let lines: Vec<_> = snmp.lines().collect();
    for pair in lines.chunks_exact(2) {
        let values = pair[0].split_whitespace().zip(pair[1].split_whitespace());
        errors += values.filter(|(name, _)| *name == "InCsumErrors").map(|(_, value)| number(value)).sum::<u64>();
    }
    let values = snmp6.lines().filter_map(|line| line.split_once(char::is_whitespace));
    errors + values.filter(|(name, _)| name.ends_with("InCsumErrors")).map(|(_, value)| number(value)).sum::<u64>()
}

fn number(text: &str) -> u64 {
    text.trim().parse().expect("a number")
}
