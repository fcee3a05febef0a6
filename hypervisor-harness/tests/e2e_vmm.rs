//! The monitor alone, with guests of a few bytes: every way to end, and accesses to nothing.

mod common;

use std::sync::mpsc;

use common::guest::{CODE, block, elf, exit, expect_equal, say};
use ringlet::vmm::console::record::Ready;
use ringlet::vmm::console::{Record, Said};
use ringlet::vmm::machine::Start;
use ringlet::vmm::{Machine, Outcome, Running};

/// Starts a guest; what it says arrives at the receiver.
fn start(code: &[u8], command_line: &str, module: Option<&[u8]>) -> (Running, mpsc::Receiver<Said>) {
    let (sender, said) = mpsc::channel();
    let start = Start {
        image: elf(code).into(),
        command_line: command_line.into(),
        module: module.map(<[u8]>::to_vec),
        said: Box::new(move |said| drop(sender.send(said))),
        ended: Box::new(|_| ()),
    };
    (Machine::new(32).unwrap().start(start).unwrap(), said)
}

/// Runs a guest to its end.
fn run(code: &[u8]) -> (Outcome, Vec<Said>) {
    let (running, said) = start(code, "", None);
    (running.join(), said.iter().collect())
}

fn line(text: &str) -> Said {
    Said::Line(text.into())
}

#[test]
fn exit_codes_come_through() {
    needs_kvm!();
    for code in [0x10, 0x11, 0x15, 0xff] {
        let (outcome, said) = run(&exit(code));
        assert!(matches!(outcome, Outcome::Exit(got) if got == code), "{outcome:?}");
        assert_eq!(said, []);
    }
}

#[test]
fn the_boot_state_is_the_protocols() {
    needs_kvm!();
    // EBX holds the start info; its magic, the command line and the module are where they belong.
    let code = [
        &[0x81, 0x3b, 0x78, 0xc5, 0x6e, 0x33][..], // cmp dword [ebx], magic
        &expect_equal(),
        &[0x8b, 0x43, 0x18, 0x81, 0x38], // mov eax, [ebx + 24]; cmp dword [eax], ...
        b"ip=1",
        &expect_equal(),
        &[0x8b, 0x43, 0x10, 0x8b, 0x00, 0x81, 0x38], // mov eax, [ebx + 16]; mov eax, [eax]; cmp dword [eax], ...
        b"-A -",
        &expect_equal(),
        &exit(0x10),
    ]
    .concat();
    let (running, _) = start(&code, "ip=1", Some(b"-A -t 10.0.0.100:80"));
    assert!(matches!(running.join(), Outcome::Exit(0x10)));
}

#[test]
fn both_consoles_speak_and_records_are_taken_out() {
    needs_kvm!();
    let message = b"\x06\0\0\0block\n";
    let record = b"\x1e{\"type\":\"ready\",\"ns\":7}\n";
    let mut code = [say(b"serial\r\nunfin"), block(CODE + 0x1000), say(record), say(b"ished"), exit(0x10)].concat();
    // The record is in the middle of a line, and so is none; the one of its own line is.
    code.truncate(code.len() - 4);
    code.extend([say(b"\n"), say(record), exit(0x10)].concat());
    code.resize(0x1000, 0);
    code.extend(message);
    let (outcome, said) = run(&code);
    assert!(matches!(outcome, Outcome::Exit(0x10)), "{outcome:?}");
    let broken = line("unfin\\x1e{\"type\":\"ready\",\"ns\":7}");
    assert_eq!(
        said,
        [
            line("serial"),
            line("block"),
            broken,
            line("ished"),
            Said::Record(Record::Ready(Ready { ns: 7, ..Default::default() }))
        ]
    );
}

#[test]
fn a_bad_block_message_is_a_complaint() {
    needs_kvm!();
    let mut code =
        [block(0xffff_fffc), block(0x4000_0000), block(CODE + 0x1000), block((32 << 20) - 4), exit(0x10)].concat();
    code.resize(0x1000, 0);
    code.extend(4097_u32.to_le_bytes());
    let (outcome, said) = run(&code);
    assert!(matches!(outcome, Outcome::Exit(0x10)));
    // The last one is empty, at the very end of memory, and is no error.
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(
        said.iter().all(|said| matches!(said, Said::Complaint(text) if text.contains("block console"))),
        "{said:?}"
    );
}

#[test]
fn nothing_reads_as_ones() {
    needs_kvm!();
    let code = [
        &[0x66, 0xba, 0x34, 0x12, 0xec, 0x3c, 0xff][..], // mov dx, 0x1234; in al, dx; cmp al, 0xff
        &expect_equal(),
        &[0xed, 0x83, 0xf8, 0xff], // in eax, dx; cmp eax, -1
        &expect_equal(),
        &[0xee],                                           // out dx, al
        &[0xa1, 0x00, 0x00, 0x00, 0xe0, 0x83, 0xf8, 0xff], // mov eax, [0xe0000000]; cmp eax, -1
        &expect_equal(),
        &[0xa3, 0x00, 0x00, 0x00, 0xe0], // mov [0xe0000000], eax
        &exit(0x10),
    ]
    .concat();
    let (outcome, said) = run(&code);
    assert!(matches!(outcome, Outcome::Exit(0x10)), "{outcome:?}");
    assert!(matches!(&said[..], [Said::Complaint(text)] if text.starts_with("5 accesses")), "{said:?}");
}

#[test]
fn a_triple_fault_is_reported_with_registers() {
    needs_kvm!();
    // lidt of an empty table; a marker in ECX; an invalid opcode
    let mut code =
        [&[0x0f, 0x01, 0x1d][..], &(CODE + 0x100).to_le_bytes(), &[0xb9, 0xef, 0xbe, 0xad, 0xde, 0x0f, 0x0b]].concat();
    code.resize(0x106, 0);
    let (outcome, _) = run(&code);
    assert_eq!(outcome.exit_code(), 0x20, "{outcome}");
    let report = outcome.to_string();
    for wanted in ["triple fault", "rip 0000000000", "rcx 00000000deadbeef", "32-bit mode", "idt limit 0x0"] {
        assert!(report.contains(wanted), "{wanted} is missing:\n{report}");
    }
}

#[test]
fn a_guest_that_hangs_can_be_stopped() {
    needs_kvm!();
    // Says a word, so that it is known to run, and then spins, or halts with interrupts off.
    for end in [&[0xeb, 0xfe][..], &[0xf4]] {
        let (running, said) = start(&[&say(b"on\n")[..], end].concat(), "", None);
        assert_eq!(said.recv().unwrap(), line("on"));
        running.stop();
        assert!(matches!(running.join(), Outcome::Stopped));
    }
    // Stopped at once, wherever it is by then.
    for _ in 0..20 {
        let (running, _) = start(&[0xeb, 0xfe], "", None);
        running.stop();
        assert!(matches!(running.join(), Outcome::Stopped));
    }
}

#[test]
fn a_flood_on_the_console_does_not_stop_the_end() {
    needs_kvm!();
    // mov ecx, 0x4000; loop: out dx, al; loop
    let code = [&say(b"x")[..], &[0xb9, 0x00, 0x50, 0x00, 0x00, 0xee, 0xe2, 0xfd], &exit(0x10)].concat();
    let (outcome, said) = run(&code);
    assert!(matches!(outcome, Outcome::Exit(0x10)));
    let total: usize = said.iter().map(|said| if let Said::Line(line) = said { line.len() } else { 0 }).sum();
    assert_eq!((said.len(), total), (2, 0x5001), "one line, cut in two");
}
