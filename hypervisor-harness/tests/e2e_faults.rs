//! Everything that can go wrong gives a message that a person understands, and an exit code that is not zero.

mod common;

use common::ringlet::{PROGRAM, run, run_exactly};
use common::rules::File;

const FREE_PORT: &str = "0:10.0.0.100:80";

#[test]
fn faults_of_the_guest() {
    for (kind, code, parts) in [
        ("panic", 0x11, &["panicked", "the guest panicked (exit code 0x11)", "  at 0x", "::"][..]),
        ("exception", 0x12, &["exception", "the guest met an exception", "  at 0x", "rip"]),
        ("stack", 0x12, &["the guest met an exception", "stack"]),
        ("heap", 0x13, &["out of memory", "the guest ran out of heap"]),
        ("triple", 0x20, &["triple fault", "rip 0000000000", "ring "]),
    ] {
        let (status, text) = run(&["--publish", FREE_PORT, "--append", &format!("crash={kind}"), "--for", "30"]);
        assert_eq!(status, code, "crash={kind}:\n{text}");
        // A triple fault leaves nothing of QEMU's machine to look at.
        let parts = if kind == "triple" && common::emulated() { &parts[..1] } else { parts };
        for part in parts {
            assert!(text.to_lowercase().contains(part), "crash={kind}: `{part}` is missing:\n{text}");
        }
    }
}

#[test]
fn a_bad_rule_file() {
    let rules = File::new("bad.rules", b"-A -t 10.0.0.100:80 -s wlc\n-a -t 10.0.0.100:80 -r 10.0.0.300:80 -m\n");
    for command in ["run", "qemu"] {
        let (status, text) = run(&[command, "--rules", rules.path()]);
        assert_eq!(status, 1, "{text}");
        assert!(text.contains("bad.rules:2: "), "{text}");
    }
    let (status, text) = run(&["--rules", "/nonexistent/rules"]);
    assert!(status == 1 && text.contains("cannot read the rule file /nonexistent/rules"), "{text}");
}

#[test]
fn a_bad_image() {
    let noise = File::new("noise.elf", [0x5a; 5000]);
    let (status, text) = run(&["--kernel", noise.path()]);
    assert!(status == 1 && text.contains("noise.elf cannot be booted"), "{text}");
    // A proper ELF, of another kind.
    let (status, text) = run(&["--kernel", PROGRAM]);
    assert!(status == 1 && text.contains("cannot be booted"), "{text}");
    // One that was cut.
    let image = std::fs::read(PROGRAM).unwrap();
    let cut = File::new("cut.elf", &image[..300]);
    let (status, text) = run(&["--kernel", cut.path()]);
    assert!(status == 1 && text.contains("cannot be booted"), "{text}");
}

#[test]
fn a_port_that_is_taken() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let (status, text) = run(&["--publish", &format!("{port}:10.0.0.100:80")]);
    assert_eq!(status, 1, "{text}");
    let remedy = text.split("--publish ").nth(1).expect("a remedy").trim();
    assert!(
        text.contains(&format!("port {port} of 127.0.0.1 is taken")) && remedy.ends_with(":10.0.0.100:80"),
        "{text}"
    );
}

#[test]
fn wrong_flags() {
    for (line, part) in [
        ("--memory 8", "32..=3072"),
        ("--net wifi", "expected `lan`, `tap=NAME[,threaded=keep]`, `xdp=NAME[,queue=NUMBER]` or `vhost-user=PATH"),
        ("--net tap=t0", "--ip"),
        ("--features -warp", "warp"),
        ("--for soon", "seconds"),
        ("qemu --qemu /nonexistent/qemu", "apt-get install qemu-system-x86"),
    ] {
        let (status, text) = run_exactly(line.split(' ').map(str::to_owned).collect());
        assert!(status != 0 && text.contains(part), "{line}: {status}: {text}");
    }
    let (status, text) = run(&["--real", "10.0.9.9:80=9001"]);
    assert!(status != 0 && text.contains("10.0.0.0/24"), "{status}: {text}");
}

#[test]
fn an_unknown_word_on_the_guests_command_line_is_reported() {
    let (status, text) = run(&["--publish", FREE_PORT, "--append", "colour=blue", "--for", "0.5"]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("'colour=blue': unknown option"), "{text}");
}
