//! The real thing: Linux IPVS in a virtual machine.

mod machine;
mod marks;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use ringlet_balancer::{MarkRule, ipvsadm};

use crate::guest::protocol::{Answer, Request};
use crate::packet::{self, Body, Packet};
use crate::side::{self, Effect, Outcome, Side};
use crate::{neighbour, ours, world};
use machine::Machine;

/// Where the variables of IPVS are.
const VARIABLES: &str = "/proc/sys/net/ipv4/vs";

/// Packets with marks in which this bit is set are taken for our own, wherever they go: this is how IPVS gets to see them on a director
/// for transparent proxies. The balancer asks for no more than the mark.
const LOCAL: &str = "rule add fwmark 0x40/0x40 lookup 100\nroute add local default dev lo table 100\n";

/// How long a removed destination may be remembered: Linux keeps it for two minutes, and looks every minute.
const TRASH: Duration = Duration::from_secs(190);

/// Longer than a packet or a command takes, and long enough for the next tick of the clock.
const MOMENT: Duration = Duration::from_millis(20);

/// Linux, set up as the balancer's [`world`] wants it.
pub struct Linux {
    machine: Machine,
    /// The number of the last marker.
    marker: u16,
    /// What variables were before a case changed them.
    changed: Vec<(String, String)>,
    is_used: bool,
    has_marks: bool,
    version: String,
}

impl Linux {
    /// Boots it. What it needs is made in `directory`.
    pub fn boot(linux: &ringlet_linux::Linux, directory: &Path) -> anyhow::Result<Self> {
        let machine = Machine::boot(linux, directory)?;
        let mut linux = Self {
            machine,
            marker: 0,
            changed: Vec::new(),
            is_used: false,
            has_marks: false,
            version: linux.version(),
        };
        linux.set_up()?;
        Ok(linux)
    }

    /// The version of the kernel.
    pub fn version(&self) -> &str {
        &self.version
    }

    fn set_up(&mut self) -> anyhow::Result<()> {
        for (variable, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/eth0/rp_filter", "0"),
            // Frames leave by the interface by which they come.
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/eth0/send_redirects", "0"),
            // Errors are told however many there are.
            ("ipv4/icmp_ratelimit", "0"),
            ("ipv4/icmp_msgs_per_sec", "100000"),
            ("ipv4/icmp_msgs_burst", "100000"),
            ("ipv6/icmp/ratelimit", "0"),
            // Linux changes what FTP says by its connection tracking, which would look closely at all numbers.
            ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
            // Made up by every host for itself.
            ("ipv6/auto_flowlabels", "0"),
            ("ipv6/conf/eth0/accept_dad", "0"),
            ("ipv6/conf/eth0/accept_ra", "0"),
            ("ipv6/conf/eth0/router_solicitations", "0"),
        ] {
            self.write(&format!("/proc/sys/net/{variable}"), value)?;
        }
        let mut commands = String::new();
        for address in world::OWN {
            commands += &format!("address add {address} dev eth0\n");
        }
        // Those of services belong to the host, as behind any balancer.
        for address in world::VIRTUAL {
            commands += &format!("address add {address} dev lo\n");
        }
        commands += "link set eth0 up\n";
        for gateway in world::GATEWAYS {
            commands += &format!("route add default via {gateway} dev eth0\n");
        }
        commands += LOCAL;
        for address in world::NEIGHBOURS.filter(|&number| number != 2).flat_map(world::neighbours) {
            let mac = world::mac_text(world::mac(address));
            commands += &format!("neigh add {address} lladdr {mac} nud permanent dev eth0\n");
        }
        self.run("/bin/ip -batch -", &commands)?;
        self.settle().map(drop)
    }

    fn run(&mut self, line: &str, input: &str) -> anyhow::Result<String> {
        match self.execute(line, input)? {
            (0, text) => Ok(text),
            (code, text) => bail!("`{line}` ended with {code}: {text}"),
        }
    }

    fn execute(&mut self, line: &str, input: &str) -> anyhow::Result<(i32, String)> {
        let words = line.split_whitespace().map(str::to_owned).collect();
        match self.machine.ask(&Request::Run { words, input: input.to_owned() })? {
            Answer::Ran { code, text } => Ok((code, text)),
            other => bail!("an odd answer: {other:?}"),
        }
    }

    fn read(&mut self, path: &str) -> anyhow::Result<String> {
        match self.machine.ask(&Request::Read(path.to_owned()))? {
            Answer::Text(text) => Ok(text),
            other => bail!("an odd answer: {other:?}"),
        }
    }

    fn write(&mut self, path: &str, text: &str) -> anyhow::Result<()> {
        self.machine.ask(&Request::Write { path: path.to_owned(), text: text.to_owned() }).map(drop)
    }

    fn sleep(&mut self, time: Duration) -> anyhow::Result<()> {
        self.machine.ask(&Request::Sleep(time.as_millis() as u64)).map(drop)
    }

    /// Everything that the guest has sent up to now. It is asked for an echo: there is one queue each way, and one
    /// processor, so that the echo comes after all that was caused before. It is asked twice: a packet that could have been merged
    /// with others (GRO) is passed on after those that came with it.
    fn settle(&mut self) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut frames = self.echo()?;
        frames.extend(self.echo()?);
        Ok(frames)
    }

    /// Asks for an echo. Everything that comes before it.
    fn echo(&mut self) -> anyhow::Result<Vec<Vec<u8>>> {
        self.marker = self.marker.wrapping_add(1);
        let [gateway, _] = world::neighbours(1);
        let [own, _] = world::neighbours(2);
        let echo = |from, to, reply| Packet::new(from, to, Body::Echo { reply, id: self.marker });
        let question = packet::frame(&echo(gateway, own, false));
        let answer = packet::frame(&echo(own, gateway, true));
        let marker = packet::view(&answer).context("an echo is an IP packet")?;
        self.machine.send(&question)?;
        let mut frames = Vec::new();
        loop {
            let frame = self.machine.receive()?;
            match packet::view(&frame) {
                Some(view)
                    if (view.source, view.destination, view.protocol)
                        == (marker.source, marker.destination, marker.protocol)
                        && view.payload == marker.payload =>
                {
                    return Ok(frames);
                }
                _ if neighbour::is_chatter(&frame) => {}
                _ => frames.push(frame),
            }
        }
    }

    fn clear(&mut self) -> anyhow::Result<()> {
        for role in ["master", "backup"] {
            // Most often there is none.
            self.execute(&format!("/bin/ipvsadm --stop-daemon {role}"), "")?;
        }
        // What is left of connections goes at once with their destinations.
        self.write(&format!("{VARIABLES}/expire_nodest_conn"), "1")?;
        self.run("/bin/ipvsadm -C", "")?;
        self.run("/bin/ipvsadm --set 900 120 300", "")?;
        self.sleep(TRASH)?;
        for _ in 0..20 {
            if self.connections()?.is_empty() {
                break;
            }
            self.sleep(Duration::from_secs(100))?;
        }
        let left = self.connections()?;
        if !left.is_empty() {
            bail!("connections do not go away: {left:?}");
        }
        if std::mem::take(&mut self.has_marks) {
            self.run("/bin/nft -f -", marks::NONE)?;
        }
        self.write(&format!("{VARIABLES}/expire_nodest_conn"), "0")?;
        for (path, value) in std::mem::take(&mut self.changed).into_iter().rev() {
            self.write(&path, &value)?;
        }
        Ok(())
    }

    /// Waits until rates have just been estimated. Linux does so every other second or a little later, and shows it by
    /// telling what it counted: one packet, of which nothing is left afterwards.
    fn align(&mut self) -> anyhow::Result<()> {
        const STATISTICS: &str = "/proc/net/ip_vs_stats";
        self.run("/bin/ipvsadm -R", "-A -u 10.0.0.102:9 -s rr -o\n-a -u 10.0.0.102:9 -r 10.0.0.40:9 -g\n")?;
        let before = self.read(STATISTICS)?;
        self.machine.send(&packet::frame(&packet::parse("udp 10.9.0.1:9 > 10.0.0.102:9")?))?;
        let mut counted = before.clone();
        for _ in 0..500 {
            if counted != before {
                return self.run("/bin/ipvsadm -C", "").map(drop);
            }
            self.sleep(MOMENT)?;
            counted = self.read(STATISTICS)?;
        }
        bail!("rates are never estimated: {counted}")
    }
}

impl Side for Linux {
    fn name(&self) -> &'static str {
        "Linux"
    }

    fn reset(&mut self, aligned: bool) -> anyhow::Result<()> {
        if self.is_used {
            self.clear()?;
        }
        self.is_used = true;
        if aligned {
            self.align()?;
        }
        self.settle().map(drop)
    }

    fn load(&mut self, rules: &[String]) -> anyhow::Result<Vec<String>> {
        let input: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
        let (code, text) = self.execute("/bin/ipvsadm -R", &input)?;
        Ok(if code == 0 && text.is_empty() { Vec::new() } else { vec![format!("ipvsadm -R: {code}: {text}")] })
    }

    fn control(&mut self, line: &str) -> anyhow::Result<Outcome> {
        let (code, text) = self.execute(&format!("/bin/ipvsadm {line}"), "")?;
        if code == 0 {
            return Ok(Outcome::Done);
        }
        // ipvsadm says it in words. The same request gives the number: what was refused has changed nothing.
        let words: Vec<_> = line.split_whitespace().collect();
        let message = ipvsadm::parse(&words).ok().and_then(|command| ours::message(&command));
        match message {
            _ if code == 2 => Ok(Outcome::Usage),
            None => bail!("ipvsadm ended with {code} ({text}), and why cannot be found out"),
            Some(message) => match ours::outcome(&self.ask(&message)?)? {
                Outcome::Done => bail!("`{line}` is refused ({text}), but the same message of ours is not"),
                outcome => Ok(outcome),
            },
        }
    }

    fn set(&mut self, variable: &str, value: &str) -> anyhow::Result<bool> {
        let path = format!("{VARIABLES}/{variable}");
        let old = self.read(&path)?;
        self.write(&path, value)?;
        self.changed.push((path, old));
        Ok(true)
    }

    fn mark(&mut self, rule: &MarkRule) -> anyhow::Result<()> {
        if !std::mem::replace(&mut self.has_marks, true) {
            self.run("/bin/nft -f -", marks::TABLE)?;
        }
        self.run("/bin/nft -f -", &marks::rule(rule)).map(drop)
    }

    fn ask(&mut self, message: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        match self.machine.ask(&Request::Ask(message.to_vec()))? {
            Answer::Messages(messages) => Ok(messages),
            other => bail!("an odd answer: {other:?}"),
        }
    }

    fn frame(&mut self, frame: &[u8]) -> anyhow::Result<Effect> {
        self.machine.send(frame)?;
        Ok(Effect { frames: self.settle()?, ..Effect::default() })
    }

    fn wait(&mut self, time: Duration) -> anyhow::Result<Vec<Vec<u8>>> {
        self.sleep(time)?;
        self.settle()
    }

    fn connections(&mut self) -> anyhow::Result<Vec<String>> {
        self.sleep(MOMENT)?;
        let text = self.read("/proc/net/ip_vs_conn")?;
        let mut list = text.lines().skip(1).map(connection).collect::<anyhow::Result<Vec<_>>>()?;
        list.sort();
        Ok(list)
    }
}

/// A line of `/proc/net/ip_vs_conn`.
fn connection(line: &str) -> anyhow::Result<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [protocol, client, client_port, service, service_port, server, server_port, state, seconds, ..] = words[..]
    else {
        bail!("a connection that cannot be read: `{line}`");
    };
    let ends = [(client, client_port), (service, service_port), (server, server_port)].map(|(address, port)| {
        let address: IpAddr = match address.trim_start_matches('[').trim_end_matches(']') {
            address if address.contains(':') => address.parse::<Ipv6Addr>()?.into(),
            address => Ipv4Addr::from_bits(u32::from_str_radix(address, 16)?).into(),
        };
        anyhow::Ok(SocketAddr::new(address, u16::from_str_radix(port, 16)?))
    });
    let [client, service, server] = ends;
    Ok(side::connection(protocol, [client?, service?, server?], state, seconds.parse()?))
}
