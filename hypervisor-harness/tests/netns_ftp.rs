//! FTP through NAT, between a real client (Python's) and real servers (vsftpd) in network namespaces: active and passive, plain and
//! extended, over IPv4 and IPv6. The client has no route to the servers: what is not rewritten leads nowhere. Needs root and KVM.
//!
//! ```text
//!   client 10.2.0.9 -- bridge -- ringlet -- alpha 10.1.0.11, beta 10.1.0.12 (default route: the balancer)
//! ```

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::netns::{self, Host, ip};
use common::program::{PATIENCE, Program, there};
use common::ringlet::Ringlet;
use common::rules::File;
use common::scratch::Scratch;
use common::traffic;

const RULES: &str = "\
-A -t 10.2.0.100:21 -s rr
-a -t 10.2.0.100:21 -r 10.1.0.11:21 -m -w 1
-a -t 10.2.0.100:21 -r 10.1.0.12:21 -m -w 1
-A -t [fd10:2::100]:21 -s rr
-a -t [fd10:2::100]:21 -r [fd10:1::11]:21 -m -w 1
-a -t [fd10:2::100]:21 -r [fd10:1::12]:21 -m -w 1
";

/// The balancer's addresses.
#[rustfmt::skip]
const ADDRESSES: [&str; 8] =
    ["--ip", "10.1.0.2/24", "--ip", "10.2.0.2/24", "--ip", "fd10:1::2/64", "--ip", "fd10:2::2/64"];

/// Bytes of a large file.
const LENGTH: usize = 2_000_003;

/// What the client does: many files over one control connection, so that its numbers are moved again and again. It says which server
/// it met.
const CLIENT: &str = r#"
import ftplib, io, socket, sys

address, mode, path = sys.argv[1:]
large = open(path, "rb").read()
ftp = ftplib.FTP()
ftp.connect(address, 21, timeout=60)
ftp.login()
# The address that the server tells is believed: it has to be right.
ftp.trust_server_pasv_ipv4_address = True
ftp.set_pasv(mode in ("PASV", "EPSV"))
if mode == "EPSV":
    # Over IPv4 too.
    ftp.af = socket.AF_INET6

def get(name):
    there = io.BytesIO()
    ftp.retrbinary("RETR " + name, there.write)
    return there.getvalue()

name = get("name").decode()
for _ in range(3):
    assert sorted(ftp.nlst()) == ["large", "name", "upload"], ftp.nlst()
    assert get("large") == large
    ftp.voidcmd("NOOP")
ftp.storbinary("STOR upload/" + mode + address.replace(":", "."), io.BytesIO(large))
assert ftp.sendcmd("PWD").startswith("257")
ftp.quit()
print("met", name)
"#;

/// A host on a bridge, with addresses and a way out.
fn host(name: &str, addresses: [&str; 2], gateways: Option<[&str; 2]>) -> Host {
    let (host, inner) = (Host::new(), format!("in-{name}"));
    ip(&format!("link add {name} type veth peer name {inner}"));
    host.adopt(&inner);
    ip(&format!("link set {name} master bridge0 up"));
    host.ip("link set lo up");
    host.ip(&format!("link set {inner} name eth0"));
    let [v4, v6] = addresses;
    host.ip(&format!("address add {v4}/24 dev eth0"));
    host.ip(&format!("address add {v6}/64 dev eth0 nodad"));
    host.ip("link set eth0 up");
    host.inside(|| netns::ready(v6.parse().expect("an address")));
    for gateway in gateways.into_iter().flatten() {
        host.ip(&format!("route add default via {gateway}"));
    }
    host
}

/// vsftpd on a host, with the files that the client asks for.
fn serve(name: &str, host: &Host, directory: &Path, large: &[u8]) -> Program {
    let (root, empty) = (directory.join(name), directory.join(format!("{name}-empty")));
    fs::create_dir_all(root.join("upload")).expect("a directory");
    fs::create_dir(&empty).expect("a directory");
    fs::write(root.join("name"), name).expect("written");
    fs::write(root.join("large"), large).expect("written");
    // Whoever is not logged in is `daemon`, who has a home on every system, has to find all this, and may write into one place.
    for (path, mode) in [(directory, 0o755), (&*root, 0o755), (&*empty, 0o555), (&*root.join("upload"), 0o777)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    }
    let configuration = format!(
        "listen_ipv6=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nwrite_enable=YES\nanon_upload_enable=YES\n\
         connect_from_port_20=YES\nanon_root={}\nsecure_chroot_dir={}\nftp_username=daemon\nnopriv_user=nobody\nisolate=NO\n\
         isolate_network=NO\nseccomp_sandbox=NO\nxferlog_enable=NO\n",
        root.display(),
        empty.display()
    );
    let file = directory.join(format!("{name}.conf"));
    fs::write(&file, configuration).expect("written");
    let mut server = Command::new(common::program::find("vsftpd").expect("it was found before"));
    server.arg(&file);
    let mut server = host.inside(|| Program::start(&mut server));
    let until = Instant::now() + PATIENCE;
    let greeting = loop {
        match host.inside(|| TcpStream::connect("127.0.0.1:21")) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                let mut greeting = [0; 3];
                stream.read_exact(&mut greeting).expect("a greeting");
                break greeting;
            }
            Err(error) if Instant::now() > until => {
                server.say("");
                panic!("{name}: {error}: {}", server.seen.join("\n"));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    };
    assert_eq!(&greeting, b"220");
    server
}

/// Which server the client met that got and brought all there is.
fn client(host: &Host, script: &str, address: &str, mode: &str, large: &str) -> String {
    let mut command = Command::new("python3");
    command.args([script, address, mode, large]).stdin(Stdio::null());
    let output = host.inside(|| command.output()).expect("python3 runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{mode} {address}: {said}{complained}");
    said.trim().strip_prefix("met ").expect("the name of a server").to_owned()
}

#[test]
fn files_are_fetched_and_brought_in_every_mode() {
    needs_kvm!();
    if !there(&[("vsftpd", "vsftpd"), ("python3", "python3")]) {
        return;
    }
    netns::inside(|| {
        ip("link add bridge0 type bridge");
        ip("link set bridge0 up");
        ip("tuntap add dev balancer0 mode tap");
        ip("link set balancer0 master bridge0 up");
        let through_the_balancer = Some(["10.1.0.2", "fd10:1::2"]);
        let customer = host("client", ["10.2.0.9", "fd10:2::9"], None);
        let servers = [
            ("alpha", host("alpha", ["10.1.0.11", "fd10:1::11"], through_the_balancer)),
            ("beta", host("beta", ["10.1.0.12", "fd10:1::12"], through_the_balancer)),
        ];
        let scratch = Scratch::new("ftp");
        let large = traffic::bytes(LENGTH);
        let programs: Vec<_> = servers.iter().map(|(name, host)| serve(name, host, scratch.path(), &large)).collect();
        let (script, file) = (scratch.file("client.py"), scratch.file("alpha/large"));
        fs::write(&script, CLIENT).expect("written");
        let rules = File::new("netns-ftp.rules", RULES);
        for features in ["--features=+csum", "--features=-csum,-guest_csum,-mrg_rxbuf"] {
            let arguments = ["run", "--net", "tap=balancer0", "--rules", rules.path(), features];
            let ringlet = Ringlet::start(&[&arguments[..], &ADDRESSES].concat());
            for (address, mode) in [
                ("10.2.0.100", "PASV"),
                ("10.2.0.100", "EPSV"),
                ("10.2.0.100", "PORT"),
                ("fd10:2::100", "EPSV"),
                ("fd10:2::100", "EPRT"),
            ] {
                let met: BTreeSet<_> = (0..2).map(|_| client(&customer, &script, address, mode, &file)).collect();
                let both: BTreeSet<_> = servers.iter().map(|(name, _)| (*name).to_owned()).collect();
                assert_eq!(met, both, "{features}, {mode}, {address}");
                for name in both {
                    let brought =
                        scratch.path().join(name).join("upload").join(mode.to_owned() + &address.replace(':', "."));
                    assert!(fs::read(&brought).expect("a file") == large, "{features}, {}", brought.display());
                    fs::remove_file(brought).expect("removed");
                }
            }
            for host in servers.iter().map(|(_, host)| host).chain([&customer]) {
                assert_eq!(host.inside(netns::checksum_errors), 0, "{features}");
            }
            assert_eq!(ringlet.interrupt(), 0, "{features}");
        }
        drop(programs);
    });
}
