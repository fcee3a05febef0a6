//! Debian's iperf3 against the guest's server, through the network in the process: whatever it is asked for, the client is
//! content, and its numbers are the server's.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::iperf3::{self, Report};
use common::ringlet::Ringlet;

const MIB: u64 = 1 << 20;

struct World {
    ringlet: Ringlet,
    port: u16,
}

impl World {
    fn new(flags: &[&str]) -> Self {
        let port = iperf3::free_port();
        let (tcp, udp) = (format!("{port}:10.0.0.2:5201"), format!("udp:{port}:10.0.0.2:5201"));
        let publish =
            ["--publish", &tcp, "--publish", &udp, "--publish", "0:10.0.0.2:9100", "--publish", "0:10.0.0.2:9101"];
        let ringlet = Ringlet::start(&[&publish[..], &["--publish", "0:10.0.0.100:80"], flags].concat());
        Self { ringlet, port }
    }

    fn counted(&self) -> (u64, u64) {
        iperf3::counted(self.ringlet.host("10.0.0.2:9100"))
    }

    fn try_run(&self, arguments: &str) -> Result<Report, String> {
        iperf3::run(&format!("-c 127.0.0.1 -p {} {arguments}", self.port))
    }

    /// Runs a test. Returns what the client reports, and the bytes that the server counted as received and sent.
    fn run(&self, arguments: &str) -> (Report, u64, u64) {
        let before = self.counted();
        let report = self.try_run(arguments).unwrap_or_else(|error| panic!("{arguments}: {error}"));
        let after = self.counted();
        (report, after.0 - before.0, after.1 - before.1)
    }
}

#[test]
fn the_clients_numbers_are_the_servers() {
    needs_kvm!();
    let world = World::new(&[]);
    // The client counts its amount over all streams.
    for flags in ["-n 32M", "-n 32M -P 4", "-t 1", "-t 1 -O 1"] {
        let (report, received, sent) = world.run(flags);
        let (theirs, ours) = report.bytes();
        if flags.contains("-O") {
            assert!(ours > 0 && ours < received, "{flags}: {ours} of {received}");
        } else {
            assert_eq!((ours, sent), (received, 0), "{flags}");
            // What was under way at the end is nobody's.
            assert!(theirs >= ours, "{flags}: {theirs} sent, {ours} received");
        }
        assert!(!flags.contains("-n") || theirs >= 32 * MIB, "{flags}: {theirs}");

        let (report, received, sent) = world.run(&format!("{flags} -R"));
        let (ours, theirs) = report.bytes();
        assert_eq!(received, 0, "{flags} -R");
        if !flags.contains("-O") {
            assert_eq!(ours, sent, "{flags} -R");
            assert!(ours >= theirs, "{flags} -R: {ours} sent, {theirs} received");
        }
        assert!(!flags.contains("-n") || theirs >= 32 * MIB, "{flags} -R: {theirs}");
        assert_eq!(report.0["end"]["sender_tcp_congestion"], "reno");
    }
    let (report, received, sent) = world.run("-t 1 --bidir -P 2");
    assert_eq!(report.number("sum_received", "bytes"), received);
    assert_eq!(report.number("sum_sent_bidir_reverse", "bytes"), sent);
    assert!(report.number("sum_received_bidir_reverse", "bytes") > 0);
    assert_eq!(world.ringlet.interrupt(), 0);
}

#[test]
fn datagrams_are_counted_with_their_losses() {
    needs_kvm!();
    let world = World::new(&[]);
    // Without a length iperf3 takes one that fits into the packets of the loopback interface.
    for flags in ["-n 2M -b 50M -l 1400", "-n 2M -b 50M -l 1000 --udp-counters-64bit", "-n 1M -b 20M -l 1400 -P 3"] {
        let (report, received, _) = world.run(&format!("-u {flags}"));
        let length = report.0["start"]["test_start"]["blksize"].as_u64().expect("a block size");
        let [packets, lost] = ["packets", "lost_packets"].map(|what| report.number("sum_received", what));
        assert_eq!(report.number("sum_received", "bytes"), received, "{flags}");
        assert_eq!((packets - lost) * length, received, "{flags}");
        assert!(packets > 0 && packets <= report.number("sum_sent", "packets"), "{flags}");

        let (report, _, sent) = world.run(&format!("-u {flags} -R"));
        assert_eq!(report.number("sum_sent", "bytes"), sent, "{flags} -R");
        assert_eq!(report.number("sum_sent", "packets") * length, sent, "{flags} -R");
        assert!(report.number("sum_received", "bytes") > 0, "{flags} -R");
    }
    assert_eq!(world.ringlet.interrupt(), 0);
}

#[test]
fn what_cannot_be_done_is_refused_and_the_next_test_runs() {
    needs_kvm!();
    let world = World::new(&["--append", "iperf3=6201"]);
    assert!(world.try_run("-n 1M").is_err(), "nobody serves port 5201");
    assert_eq!(world.ringlet.interrupt(), 0);

    let world = World::new(&[]);
    for (flags, error) in [
        ("-S 16", "unable to set IP TOS"),
        ("-P 65", "number of parallel streams too large"),
        ("-w 100M", "socket buffer size"),
        ("-u -l 9000", "block size invalid"),
    ] {
        let said = world.try_run(&format!("-t 1 {flags}")).expect_err(flags);
        assert!(said.contains(error), "{flags}: {said}");
        world.run("-n 1M");
    }
    let (report, ..) = world.run("-n 1M --get-server-output");
    let text = report.0["server_output_text"].as_str().expect("what the server has to say");
    assert!(text.contains("receiver"), "{text}");
    // Somebody who says nothing has the server to himself for a while, and is thrown out for saying nonsense.
    let mut mute = TcpStream::connect(("127.0.0.1", world.port)).expect("connected");
    mute.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    mute.write_all(&[b'a'; 37]).expect("written");
    let mut state = [0];
    mute.read_exact(&mut state).expect("a state");
    assert_eq!(state, [9]);
    let said = world.try_run("-n 1M").expect_err("the server is busy");
    assert!(said.contains("busy"), "{said}");
    mute.write_all(&[0xff; 5000]).expect("written");
    let mut end = Vec::new();
    mute.read_to_end(&mut end).expect("an end");
    assert_eq!(end, [0xfe, 0, 0, 0, 114, 0, 0, 0, 0]);
    drop(mute);
    world.run("-n 1M");
    assert_eq!(world.ringlet.interrupt(), 0);
}
