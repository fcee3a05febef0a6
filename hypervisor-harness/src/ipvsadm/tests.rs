//! The client against a balancer in memory, served over a loopback connection as the guest serves it.

use super::*;
use etherparse::PacketBuilder;
use ringlet_balancer::control::Session;
use ringlet_balancer::{Balancer, Config, Instant, NextHop, Packet, Sink, Verdict};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A balancer on a port of its own. Serves `connections` connections one after the other, then ends.
struct Guest {
    address: String,
    balancer: Arc<Mutex<Balancer>>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    fn new(connections: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let addresses = vec!["10.0.0.2/24".parse().unwrap()];
        let config = Config { addresses, ..Config::new([2, 0, 0, 0, 0, 1], [1, 2]) };
        let balancer = Arc::new(Mutex::new(Balancer::new(config)));
        let shared = balancer.clone();
        let thread = std::thread::spawn(move || {
            for _ in 0..connections {
                serve(listener.accept().unwrap().0, &shared);
            }
        });
        Guest { address, balancer, thread: Some(thread) }
    }

    /// Runs a command line and returns exit code, standard output and standard error.
    fn run(&self, line: &str) -> (u8, String, String) {
        self.run_with(line, "")
    }

    fn run_with(&self, line: &str, input: &str) -> (u8, String, String) {
        let connect = ["--connect", &self.address];
        let words = connect.into_iter().chain(line.split_whitespace()).map(OsString::from);
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = execute(words, &mut input.as_bytes(), &mut out, &mut errors);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

/// One connection, with small buffers so that long lists come in pieces.
fn serve(mut stream: TcpStream, balancer: &Mutex<Balancer>) {
    let mut session = Session::new();
    let (mut buffer, mut held) = ([0; 512], 0..0);
    loop {
        if held.is_empty() {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(read) => held = 0..read,
            }
        }
        held.start += session.receive(&buffer[held.clone()]).unwrap();
        loop {
            let more = session.run(&mut balancer.lock().unwrap()).unwrap();
            let output = session.output();
            let part = output.len().min(3000);
            if stream.write_all(&output[..part]).is_err() {
                return;
            }
            session.sent(part);
            if !more && session.is_idle() {
                break;
            }
        }
    }
}

const RULES: &str = "\
-A -t 10.0.0.100:80 -s wlc
-a -t 10.0.0.100:80 -r 10.0.0.11:80 -m -w 1
-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 3
-a -t 10.0.0.100:80 -r 10.0.0.14:8080 -m -w 70000 -x 100 -y 50
-A -u 10.0.0.100:53 -s rr
-A -t [fd00::100]:80 -s lc
-a -t [fd00::100]:80 -r [fd00::b]:80 -m -w 5
";

#[test]
fn rules_are_restored_listed_and_saved() {
    let guest = Guest::new(8);
    assert_eq!(guest.run_with("-R", RULES), (0, String::new(), String::new()));
    // The columns of ipvsadm 1.31.
    let (code, out, _) = guest.run("-L -n");
    let expected = "\
IP Virtual Server version 1.2.1 (size=65536)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.0.0.100:80 wlc
  -> 10.0.0.11:80                 Masq    1      0          0         
  -> 10.0.0.12:80                 Route   3      0          0         
  -> 10.0.0.14:8080               Masq    70000  0          0         
UDP  10.0.0.100:53 rr
TCP  [fd00::100]:80 lc
  -> [fd00::b]:80                 Masq    5      0          0         
";
    assert_eq!((code, out.as_str()), (0, expected));
    let (_, out, _) = guest.run("-Ln -t 10.0.0.100:80 --nosort");
    let order: Vec<_> = out.lines().skip(3).map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(order, ["10.0.0.14:8080", "10.0.0.12:80", "10.0.0.11:80"], "newest first, and no version");
    assert!(out.starts_with("Prot"));
    let (_, out, _) = guest.run("-L --thresholds -t 10.0.0.100:80");
    let expected = "\
Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn 
  -> RemoteAddress:Port
TCP  10.0.0.100:80 wlc
  -> 10.0.0.11:80                 0          0          0          0         
  -> 10.0.0.12:80                 0          0          0          0         
  -> 10.0.0.14:8080               100        50         0          0         
";
    assert_eq!(out, expected);
    let (_, out, _) = guest.run("-L --stats -u 10.0.0.100:53");
    let expected = "\
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
UDP  10.0.0.100:53                       0        0        0        0        0
";
    assert_eq!(out, expected);
    let (_, out, _) = guest.run("-L --persistent-conn -t [fd00::100]:80");
    let expected = "\
Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn 
  -> RemoteAddress:Port
TCP  [fd00::100]:80 lc
  -> [fd00::b]:80                 5         0           0          0         
";
    assert_eq!(out, expected);
    let (_, out, _) = guest.run("-L --tun-info -t [fd00::100]:80");
    assert!(
        out.ends_with("  -> [fd00::b]:80                 Masq    n/a           5      0          0         \n"),
        "{out}"
    );
    assert_eq!(guest.run("-S -n"), (0, RULES.to_owned(), String::new()));
}

#[test]
fn refusals_are_told_in_ipvsadms_words() {
    let guest = Guest::new(19);
    for (line, code, message) in [
        ("-A -t 10.0.0.100:80", 0, ""),
        ("-A -t 10.0.0.100:80", 255, "Service already exists\n"),
        ("-A -t 10.0.0.100:81 -s best", 255, "Scheduler or persistence engine not found (schedulers: "),
        ("-a -t 10.0.0.100:80 -r 10.0.0.11 -m", 0, ""),
        ("-a -t 10.0.0.100:80 -r 10.0.0.11 -m", 255, "Destination already exists\n"),
        ("-a -t 10.0.0.100:80 -r 10.0.0.12 -m -x 1 -y 2", 255, "Numerical result out of range\n"),
        ("-a -t 10.0.0.100:80 -r 224.0.0.1 -m", 255, "Invalid operation.  Possibly wrong module version, address not"),
        ("-a -t 10.0.0.99:80 -r 10.0.0.11 -m", 255, "Service not defined\n"),
        ("-e -t 10.0.0.100:80 -r 10.0.0.99 -m", 255, "No such destination\n"),
        ("-d -t 10.0.0.100:80 -r 10.0.0.99", 255, "No such destination\n"),
        ("-D -t 10.0.0.99:80", 255, "No such service\n"),
        ("-Z -t 10.0.0.99:80", 255, "No such service\n"),
        ("-L -t 10.0.0.99:80", 1, "No such service\n"),
        ("--start-daemon master --syncid 7", 0, ""),
        ("--start-daemon master", 255, "Daemon has already run\n"),
        ("--start-daemon backup --mcast-interface eth1", 255, "No such device: the only interface is eth0\n"),
        ("--stop-daemon backup", 255, "No daemon is running\n"),
        ("-A -f 1", 0, ""),
        ("-A --sctp-service 10.0.0.100:5000", 0, ""),
    ] {
        let (seen, out, errors) = guest.run(line);
        assert_eq!((seen, out.as_str()), (code, ""), "{line}: {errors}");
        assert!(errors.starts_with(message) && errors.is_empty() == message.is_empty(), "{line}: {errors}");
    }
}

#[test]
fn what_is_no_service_is_shown_too() {
    let guest = Guest::new(6);
    assert_eq!(guest.run("-L --timeout").1, "Timeout (tcp tcpfin udp): 900 120 300\n");
    assert_eq!(guest.run("--set 1 0 3").0, 0);
    assert_eq!(guest.run("-L --timeout").1, "Timeout (tcp tcpfin udp): 1 120 3\n");
    let (code, out, _) = guest.run("-Lnc");
    let expected =
        "IPVS connection entries\npro expire state       source             virtual            destination\n";
    assert_eq!((code, out.as_str()), (0, expected));
    assert_eq!(guest.run("-Lc --json").1, "{\"connections\":[]}\n");
    assert_eq!(guest.run("-L --daemon"), (0, String::new(), String::new()));
}

/// Hears nothing.
struct Deaf;

impl Sink for Deaf {
    fn transmit(&mut self, _: &[u8]) {}
    fn resolved(&mut self, _: NextHop) {}
    fn unreachable(&mut self, _: NextHop) {}
}

#[test]
fn connections_are_listed_by_what_scheduled_them() {
    let guest = Guest::new(8);
    let rules = "-A -t 10.0.0.100:0 -s rr -p 100\n-a -t 10.0.0.100:0 -r 10.0.0.11:0 -m -w 1\n\
                 mark add 7 -d 10.0.0.200\n-A -f 7 -s rr -p 100\n-a -f 7 -r 10.0.0.12:0 -m -w 1\n\
                 -A -t 10.0.0.101:80 -s rr\n-a -t 10.0.0.101:80 -r 10.0.0.13:80 -m -w 1\n";
    assert_eq!(guest.run_with("-R", rules), (0, String::new(), String::new()));
    for (address, port) in [(100, 80), (100, 443), (200, 80), (101, 80)] {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
        let mut frame = Vec::new();
        let builder = builder.ipv4([10, 0, 0, 9], [10, 0, 0, address], 64).tcp(4000, port, 0, 1000).syn();
        builder.write(&mut frame, &[]).unwrap();
        let mut packet = Packet::new(&mut frame);
        let mut balancer = guest.balancer.lock().unwrap();
        balancer.process(std::slice::from_mut(&mut packet), Instant::from_secs(1), &mut Deaf);
        assert!(matches!(packet.verdict, Verdict::Wait(_)), "{:?}", packet.verdict);
    }
    // Where they go, with templates.
    let listed = |line: &str| {
        let (code, out, errors) = guest.run(line);
        assert_eq!((code, errors.as_str()), (0, ""), "{line}");
        let mut services: Vec<_> =
            out.lines().skip(2).filter_map(|line| line.split_whitespace().nth(4).map(str::to_owned)).collect();
        services.sort();
        services.join(" ")
    };
    assert_eq!(listed("-Lc -t 10.0.0.100:0"), "10.0.0.100:0 10.0.0.100:443 10.0.0.100:80");
    assert_eq!(listed("-Lc -t 10.0.0.100:443"), "10.0.0.100:443", "as ipvsadm compares");
    assert_eq!(listed("-Lc -f 7"), "0.0.0.7:0 10.0.0.200:80");
    assert_eq!(listed("-Lc -t 10.0.0.101:80"), "10.0.0.101:80");
    assert_eq!(listed("-Lc -u 10.0.0.101:80"), "");
    assert_eq!(listed("-Lc").split(' ').count(), 6);
    let json: serde_json::Value = serde_json::from_str(&guest.run("-Lc -f 7 --json").1).unwrap();
    assert_eq!(json["connections"].as_array().map(Vec::len), Some(2), "{json}");
}

#[test]
fn rules_with_an_unreadable_line_change_nothing() {
    let guest = Guest::new(1);
    let (code, _, errors) = guest.run_with("-R", "-A -t 10.0.0.100:80\n# remark\n-A -t bogus\n-L\n");
    assert_eq!(code, 2);
    let lines: Vec<_> = errors.lines().collect();
    assert!(lines[0].starts_with("line 3: `bogus`: no virtual address") && lines[1].starts_with("line 4: `-L`"));
    assert_eq!(lines[2], "nothing was changed");
    assert_eq!(guest.balancer.lock().unwrap().services().count(), 0);
    let rules = "-A -t 10.0.0.100:80\n\n-A -t 10.0.0.100:80\n-A -t 10.0.0.100:81\n";
    assert_eq!(guest.run_with("-R", rules), (255, String::new(), "line 3: Service already exists\n".to_owned()));
    assert_eq!(guest.balancer.lock().unwrap().services().count(), 2, "what is refused does not stop the rest");
}

#[test]
fn json_has_everything() {
    let guest = Guest::new(2);
    guest.run_with("-R", RULES);
    let (code, out, _) = guest.run("-L --json");
    assert_eq!((code, out.lines().count()), (0, 1));
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&value["version"], &value["size"]), (&"1.2.1".into(), &65536.into()));
    assert_eq!(value["timeouts"]["tcp"], 900);
    let web = &value["services"][0];
    assert_eq!((&web["protocol"], &web["service"]), (&"tcp".into(), &"10.0.0.100:80".into()));
    assert_eq!((&web["scheduler"], &web["persistence"]), (&"wlc".into(), &serde_json::Value::Null));
    let server = &web["destinations"][2];
    assert_eq!((&server["address"], &server["upper_threshold"]), (&"10.0.0.14:8080".into(), &100.into()));
    assert_eq!((&server["forward"], &server["stats"]["in_bytes"]), (&"masq".into(), &0.into()));
}

#[test]
fn thousands_of_destinations_come_through() {
    let guest = Guest::new(2);
    let mut rules = String::from("-A -t 10.0.0.100:80 -s rr\n");
    for number in 1..=2000 {
        rules += &format!("-a -t 10.0.0.100:80 -r 10.1.{}.{}:80 -m -w 1\n", number / 250, number % 250 + 1);
    }
    assert_eq!(guest.run_with("-R", &rules).0, 0);
    assert_eq!(guest.run("-S").1, rules);
}

#[test]
fn wrong_words_are_told_without_a_connection() {
    let guest = Guest::new(0);
    for (line, message) in [
        ("-A", "`-A`: needs a service: -t, -u or -f\n"),
        ("--bogus", "`--bogus`: no such option"),
        ("-C --json", "`--json`: only a listing"),
        ("-L --connect", "`--connect`: a value is missing"),
    ] {
        let (code, _, errors) = guest.run(line);
        assert!(code == 2 && errors.starts_with(message) && errors.contains("--help"), "{errors}");
    }
    let (code, out, _) = guest.run("--help");
    assert!(code == 0 && out.contains("--connect HOST"));
    assert_eq!(guest.run("-v").0, 0);
}

#[test]
fn a_balancer_that_is_not_there_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let words = ["-L".to_owned(), format!("--connect={free}")].map(OsString::from);
    assert_eq!(execute(words, &mut io::empty(), &mut out, &mut errors), 2);
    let message = String::from_utf8(errors).unwrap();
    assert!(message.contains(&free.to_string()) && message.contains("is `ringlet` running?"), "{message}");
}

/// What a server that is no balancer, or a hostile one, makes of `-L`.
fn against(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut request = [0; 24];
        stream.read_exact(&mut request).unwrap();
        let _ = stream.write_all(answer);
    });
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let words = ["-L", "--connect", &address].map(OsString::from);
    assert_eq!(execute(words, &mut io::empty(), &mut out, &mut errors), 2);
    thread.join().unwrap();
    String::from_utf8(errors).unwrap()
}

#[test]
fn nonsense_is_told_as_such() {
    assert!(against(b"HTTP/1.1 400 Bad Request\r\n\r\n").contains("does not speak the control protocol"));
    assert!(against(b"").contains("closed by the load balancer"));
    assert!(against(&[0, 0, 0, 16]).contains("closed by the load balancer"));
    assert!(against(&[0; 20]).contains("impossible length"));
    assert!(against(&[0, 0, 0, 16, 16, 0, 0, 0, 0x1d, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0]).contains("something else"));
    assert!(against(&[0, 0, 0, 16, 16, 0, 0, 0, 0x1d, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).contains("without a command"));
    assert!(against(&[0, 0, 0, 16, 99, 0, 0, 0, 0x1d, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).contains("fill its frame"));
}

#[test]
fn large_numbers_are_cut_as_ipvsadm_cuts_them() {
    for (number, short, exact) in [
        (0, "        0", "        0"),
        (99_999_999, " 99999999", " 99999999"),
        (100_000_000, "  100000K", " 100000000"),
        (999_999_999, "  999999K", " 999999999"),
        (1_000_000_000, "    1000M", " 1000000000"),
        (100_000_000_000, "     100G", " 100000000000"),
        (100_000_000_000_000, "     100T", " 100000000000000"),
        (u64::MAX, "18446744T", " 18446744073709551615"),
    ] {
        assert_eq!((table::large(number, false), table::large(number, true)), (short.to_owned(), exact.to_owned()));
    }
}

#[test]
fn knobs_are_shown_and_set() {
    let guest = Guest::new(5);
    let sysctl = |line: &str| {
        let words = ["--connect", &guest.address].into_iter().chain(line.split_whitespace()).map(OsString::from);
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let code = execute_sysctl(words, &mut out, &mut errors);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap())
    };
    let (code, all, _) = sysctl("");
    assert_eq!((code, all.lines().count()), (0, ringlet_balancer::Sysctls::NAMES.len()));
    assert!(all.contains("net.ipv4.vs.conn_reuse_mode = 1\n"), "{all}");
    let (code, out, _) = sysctl("net.ipv4.vs.sloppy_tcp=1 drop_entry");
    assert_eq!((code, &out[..]), (0, "net.ipv4.vs.sloppy_tcp = 1\nnet.ipv4.vs.drop_entry = 0\n"));
    let (code, _, errors) = sysctl("drop_entry=4");
    assert_eq!(
        (code, &errors[..]),
        (255, "Invalid argument: the knob cannot have this value: docs/control.md#knobs says which it can\n")
    );
    assert_eq!(guest.run_with("-R", "sysctl net.ipv4.vs.drop_entry=3\n").0, 0);
    assert_eq!(guest.run("sysctl drop_entry"), (0, "net.ipv4.vs.drop_entry = 3\n".into(), String::new()));
    for (line, message) in [
        ("net.ipv4.ip_forward=1", "`net.ipv4.ip_forward`: no such knob"),
        ("sloppy_tcp=yes", "`yes`: no value"),
        ("sloppy_tcp=-1", "`-1`: no value"),
        ("--json sloppy_tcp", "`--json`: knobs are not printed so"),
    ] {
        let (code, _, errors) = sysctl(line);
        assert!(code == 2 && errors.starts_with(message), "{line}: {errors}");
    }
    assert_eq!(sysctl("--help"), (0, sysctl::HELP.to_owned(), String::new()));
}

#[test]
fn marks_are_given_and_saved_with_what_uses_them() {
    let rules = "sysctl net.ipv4.vs.sloppy_tcp=1\nmark add 7 -p tcp -d 10.0.0.200/32 --dport 80\n\
                 -A -f 7 -s sh -p 360\n-a -f 7 -r 10.0.0.11:0 -m -w 1\n";
    let guest = Guest::new(7);
    assert_eq!(guest.run_with("-R", rules), (0, String::new(), String::new()));
    assert_eq!(guest.run("-S -n"), (0, rules.to_owned(), String::new()));
    assert_eq!(guest.run("mark").1, "mark add 7 -p tcp -d 10.0.0.200/32 --dport 80\n");
    let (code, _, errors) = guest.run("mark delete 8");
    assert_eq!((code, &errors[..]), (255, "No such mark rule: `ringlet mark' lists them\n"));
    let rules: String = (1..=256).map(|mark| format!("mark add {mark}\n")).collect();
    let (code, _, errors) = guest.run_with("-R", &rules);
    assert!(
        code == 255 && errors.starts_with("line 256: no room for another mark rule (there can be 256): `ringlet mark")
    );
    assert_eq!(errors.lines().count(), 1);
    assert_eq!(guest.run("mark clear").0, 0);
    assert_eq!(guest.run("mark").1, "");
}
