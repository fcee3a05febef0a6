//! The balancer, as a program of this host.

use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use ringlet_balancer::control::Session;
use ringlet_balancer::wire::message::Message;
use ringlet_balancer::{Balancer, Config, Instant, MarkRule, NextHop, Packet, Sink, Verdict, ipvsadm};

use crate::packet::{self, Body, flag};
use crate::side::{self, Effect, Outcome, Side};
use crate::{neighbour, world};

/// When the balancer's clock begins.
const BEGINNING: Instant = Instant::from_secs(1000);

/// Room in front of frames, for the headers of tunnels.
const ROOM: usize = 64;

/// How much later than the balancer's clock tells its connections are looked at. Linux's clock has gone on by some milliseconds since a
/// packet, and it tells whole seconds: so does this, within the same second.
const LATER: Duration = Duration::from_millis(500);

/// The balancer, and what it has said and not yet been asked for.
pub struct Ours {
    balancer: Balancer,
    now: Instant,
    out: Vec<Vec<u8>>,
    /// Frames for which an Ethernet address is missing.
    waiting: Vec<(Vec<u8>, NextHop)>,
}

/// What a call of the balancer has said.
#[derive(Default)]
struct Said {
    frames: Vec<Vec<u8>>,
    resolved: Vec<NextHop>,
}

impl Sink for Said {
    fn transmit(&mut self, frame: &[u8]) {
        self.frames.push(frame.to_vec());
    }

    fn resolved(&mut self, next_hop: NextHop) {
        self.resolved.push(next_hop);
    }

    fn unreachable(&mut self, _: NextHop) {}
}

impl Ours {
    /// One without rules.
    pub fn new() -> Self {
        let config = Config {
            addresses: world::OWN.iter().map(|text| text.parse().expect("an address with a prefix")).collect(),
            gateways: world::GATEWAYS.iter().map(|text| text.parse().expect("an address")).collect(),
            ..Config::new(world::MAC, [1, 2])
        };
        Self { balancer: Balancer::new(config), now: BEGINNING, out: Vec::new(), waiting: Vec::new() }
    }

    /// Sends on what the balancer has said; its questions for Ethernet addresses are answered instead.
    fn say(&mut self, said: Said) {
        for frame in said.frames {
            match neighbour::answer(&frame) {
                Some(answer) => {
                    self.process(&answer);
                }
                None if neighbour::is_chatter(&frame) || packet::is_notice(&frame) => {}
                None => self.out.push(frame),
            }
        }
        for hop in said.resolved {
            let (ready, rest) = mem::take(&mut self.waiting).into_iter().partition(|(_, wanted)| *wanted == hop);
            self.waiting = rest;
            for (mut frame, hop) in ready {
                match self.balancer.complete(&mut frame, hop) {
                    Verdict::Transmit => self.out.push(frame),
                    Verdict::Wait(hop) => self.waiting.push((frame, hop)),
                    Verdict::Local | Verdict::Drop(_) | Verdict::Held | Verdict::Taken => {}
                }
            }
        }
    }

    fn process(&mut self, frame: &[u8]) -> Verdict {
        let mut bytes = vec![0; ROOM];
        bytes.extend(frame);
        let (room, head) = bytes.split_at_mut(ROOM);
        let mut packet = Packet::with_room(room, head);
        let mut said = Said::default();
        self.balancer.process(std::slice::from_mut(&mut packet), self.now, &mut said);
        let (verdict, begin) = (packet.verdict, (ROOM as isize + isize::from(packet.start)) as usize);
        match verdict {
            Verdict::Wait(hop) => self.waiting.push((bytes.split_off(begin), hop)),
            Verdict::Transmit => self.out.push(bytes.split_off(begin)),
            Verdict::Local => self.refuse(&bytes[begin..]),
            Verdict::Drop(_) | Verdict::Held | Verdict::Taken => {}
        }
        self.say(said);
        verdict
    }

    /// Tells the balancer what the local stack answers to a packet, where nobody listens: as Linux's does, which is not compared, but
    /// for what becomes of the connection.
    fn refuse(&mut self, frame: &[u8]) {
        let Some(view) = packet::view(frame).filter(|_| self.balancer.serves_itself()) else { return };
        let Some([from, to]) = view.ports() else { return };
        let (source, destination) = (view.source, view.destination);
        let body = match view.flags() {
            Some(flags) if flags & flag::RST != 0 => return,
            Some(flags) => {
                let flags = if flags & flag::ACK != 0 { flag::RST } else { flag::RST | flag::ACK };
                Body::Tcp { ports: [to, from], flags }
            }
            None => {
                let about = packet::Packet::new(source, destination, Body::Udp { ports: [from, to] });
                let (headers, kind, code) = if source.is_ipv4() { (14 + 20 + 8, 3, 3) } else { (14 + 40 + 8, 1, 4) };
                let about = packet::Packet { len: frame.len().saturating_sub(headers), ..about };
                Body::Error { kind, code, rest: 0, about: Box::new(about) }
            }
        };
        let mut answer = packet::frame(&packet::Packet::new(destination, source, body));
        self.balancer.process_own(&mut Packet::new(&mut answer), self.now);
    }

    fn apply(&mut self, line: &str) -> anyhow::Result<Outcome> {
        let words: Vec<_> = line.split_whitespace().collect();
        let Ok(command) = ipvsadm::parse(&words) else { return Ok(Outcome::Usage) };
        let Some(message) = message(&command) else { return Ok(Outcome::Usage) };
        let answers = self.ask(&message)?;
        outcome(&answers)
    }
}

/// The message that asks for a command.
pub fn message(command: &ipvsadm::Command) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    ipvsadm::request(command, (1, 0), &mut bytes).then(|| bytes.split_off(4))
}

/// What the answers to a change say.
pub fn outcome(answers: &[Vec<u8>]) -> anyhow::Result<Outcome> {
    let number = answers.last().and_then(|answer| Message::read(answer)).and_then(|message| message.error());
    Ok(match number.context("a change was not acknowledged")? {
        0 => Outcome::Done,
        number => Outcome::Refused(-number),
    })
}

impl Side for Ours {
    fn name(&self) -> &'static str {
        "balancer"
    }

    fn reset(&mut self, _aligned: bool) -> anyhow::Result<()> {
        *self = Self::new();
        // The first look starts the timers.
        self.wait(Duration::ZERO)?;
        Ok(())
    }

    fn load(&mut self, rules: &[String]) -> anyhow::Result<Vec<String>> {
        let mut refused = Vec::new();
        for rule in rules {
            match self.apply(rule)? {
                Outcome::Done => {}
                outcome => refused.push(format!("`{rule}`: {outcome:?}")),
            }
        }
        Ok(refused)
    }

    fn control(&mut self, line: &str) -> anyhow::Result<Outcome> {
        self.apply(line)
    }

    fn set(&mut self, variable: &str, value: &str) -> anyhow::Result<bool> {
        Ok(self.apply(&format!("sysctl {variable}={value}"))? == Outcome::Done)
    }

    fn mark(&mut self, rule: &MarkRule) -> anyhow::Result<()> {
        let message = message(&ipvsadm::Command::AddMark(*rule)).context("a mark is no request")?;
        match outcome(&self.ask(&message)?)? {
            Outcome::Done => Ok(()),
            other => bail!("a mark is refused: {other:?}"),
        }
    }

    fn ask(&mut self, message: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        let framed = [&(message.len() as u32).to_be_bytes()[..], message].concat();
        let mut session = Session::new();
        let (mut taken, mut stream) = (0, Vec::new());
        loop {
            taken += session.receive(&framed[taken..]).map_err(anyhow::Error::msg)?;
            session.run(&mut self.balancer).map_err(anyhow::Error::msg)?;
            let output = session.output().to_vec();
            session.sent(output.len());
            stream.extend(output);
            if taken == framed.len() && session.is_idle() {
                break;
            }
        }
        let (mut rest, mut answers) = (&stream[..], Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (answer, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            answers.push(answer.to_vec());
            rest = after;
        }
        Ok(answers)
    }

    fn frame(&mut self, frame: &[u8]) -> anyhow::Result<Effect> {
        let verdict = self.process(frame);
        let remark = match verdict {
            Verdict::Drop(reason) => format!("dropped: {}", reason.label()),
            Verdict::Local => "for the local stack".to_owned(),
            Verdict::Held => "held".to_owned(),
            Verdict::Taken => "taken".to_owned(),
            Verdict::Transmit | Verdict::Wait(_) => String::new(),
        };
        Ok(Effect { frames: mem::take(&mut self.out), local: verdict == Verdict::Local, remark })
    }

    fn wait(&mut self, time: Duration) -> anyhow::Result<Vec<Vec<u8>>> {
        let end = self.now + time;
        loop {
            let mut said = Said::default();
            let next = self.balancer.poll(self.now, &mut said);
            self.say(said);
            if next > end {
                break;
            }
            self.now = next.max(self.now);
        }
        self.now = end;
        let mut said = Said::default();
        self.balancer.poll(end, &mut said);
        self.say(said);
        Ok(mem::take(&mut self.out))
    }

    fn connections(&mut self) -> anyhow::Result<Vec<String>> {
        let mut list: Vec<_> = self
            .balancer
            .connection_list(self.now + LATER)
            .map(|info| {
                let (protocol, state) = info.words();
                let ends: [(IpAddr, u16); 3] = [
                    (info.client, info.client_port),
                    (info.virtual_address, info.virtual_port),
                    (info.destination, info.destination_port),
                ];
                side::connection(protocol, ends.map(SocketAddr::from), state, info.expires)
            })
            .collect();
        list.sort();
        Ok(list)
    }
}
