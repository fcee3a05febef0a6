//! A case on both sides, and where they differ.

use std::time::Duration;

use anyhow::Context;

use crate::case::{Action, Case, Step};
use crate::packet::{self, Body, Packet, View, comparable, flag, protocol, show, view};
use crate::side::{Effect, Outcome, Side};
use crate::snapshot;

/// Linux tells counters as they were when it last estimated rates, which is every other second. It is a whole number of seconds, so that
/// what is left of timeouts is told alike.
const SETTLE: Duration = Duration::from_secs(3);

/// Where a step came out differently.
#[derive(Debug)]
pub struct Difference {
    /// The step's line in its file; 0 for the rules and for what is listed at the end.
    pub line: usize,
    /// What differs.
    pub text: String,
}

/// What came of a case.
#[derive(Debug, Default)]
pub struct Report {
    /// Differences that no choice explains.
    pub differences: Vec<Difference>,
    /// Choices that were met with.
    pub choices: Vec<String>,
    /// The balancer sent something else than Linux: more than that it does not do something.
    pub is_wrong: bool,
    /// All that happened, for who wants to see it.
    pub story: Vec<String>,
}

/// Plays a case.
pub fn play(case: &Case, ours: &mut dyn Side, linux: &mut dyn Side) -> anyhow::Result<Report> {
    let mut player =
        Player { sides: [ours, linux], last: [None, None], seen: Seen::default(), report: Report::default() };
    for side in &mut player.sides {
        side.reset(case.has_rates())?;
    }
    player.load(&case.rules)?;
    if player.report.differences.is_empty() {
        for step in &case.steps {
            let found = player.step(step).with_context(|| format!("{}:{}: `{}`", case.file, step.line, step.text))?;
            player.judge(step, found);
        }
        let is_listed = case.steps.last().is_some_and(|step| matches!(step.action, Action::List));
        if !is_listed && let Some(text) = player.list()? {
            player.report.differences.push(Difference { line: 0, text: format!("at the end: {text}") });
        }
    }
    Ok(player.report)
}

struct Player<'a> {
    /// The balancer and Linux.
    sides: [&'a mut dyn Side; 2],
    /// The last frame that each sent to a server.
    last: [Option<Vec<u8>>; 2],
    /// How the current step differs.
    seen: Seen,
    report: Report,
}

/// What a step came to on both sides, balancer first: what a choice is held against.
#[derive(Default)]
struct Seen {
    outcomes: Option<[Outcome; 2]>,
    frames: [Vec<Vec<u8>>; 2],
    /// Lists differ, and in nothing but what was counted.
    only_counters: bool,
}

impl Seen {
    /// Whether a difference is exactly the one that a choice makes.
    fn is(&self, choice: &str) -> bool {
        let [ours, linux] = &self.frames;
        match choice {
            "counters" | "own errors" => self.only_counters,
            "hop-by-hop options" => !ours.is_empty() && linux.is_empty(),
            "routing headers" => ours.is_empty() && !linux.is_empty(),
            "atomic fragments" => {
                let whole = |frames: &[Vec<u8>]| -> Vec<_> {
                    let views = frames.iter().filter_map(|f| view(f));
                    views.map(|v| (v.source, v.destination, v.protocol, v.payload.to_vec())).collect()
                };
                self.only_counters || !ours.is_empty() && whole(ours) == whole(linux)
            }
            "no router" => ours.is_empty() && !linux.is_empty(),
            "foreign addresses" => {
                linux.is_empty() && !ours.is_empty() && ours.iter().all(|f| view(f).is_some_and(|v| v.is_error()))
            }
            "quoted hops" => {
                let blank = |frames: &[Vec<u8>]| frames.iter().map(|f| packet::without_hops(f)).collect::<Vec<_>>();
                !ours.is_empty() && blank(ours) == blank(linux)
            }
            "SCTP checksums" => {
                let blank = |frames: &[Vec<u8>]| frames.iter().map(|f| packet::without_crc(f)).collect::<Vec<_>>();
                let right = |frames: &[Vec<u8>]| frames.iter().all(|f| view(f).is_some_and(|v| v.is_right()));
                !ours.is_empty() && blank(ours) == blank(linux) && right(linux) && !right(ours)
            }
            "quoted fragments" => {
                let kind = |frames: &[Vec<u8>]| -> Vec<_> {
                    let errors = frames.iter().filter_map(|f| view(f)).filter(View::is_error);
                    errors.map(|v| (v.icmp(), v.source, v.destination, v.about().and_then(|a| a.ports()))).collect()
                };
                ours.len() == 1 && kind(ours).len() == 1 && kind(ours) == kind(linux)
            }
            "tunnelled fragments" => {
                let bytes =
                    |frames: &[Vec<u8>]| frames.iter().filter_map(|f| view(f)).map(|v| v.payload.len()).sum::<usize>();
                let tunnel =
                    |frames: &[Vec<u8>]| frames.iter().filter_map(|f| view(f)).all(|v| v.protocol == protocol::IPIP);
                // Ours have an inner header each, Linux's one in all.
                ours.len() > 1 && tunnel(ours) && tunnel(linux) && bytes(ours) == bytes(linux) + 20 * (ours.len() - 1)
            }
            "unicast services" => self.outcomes == Some([Outcome::Refused(libc::EINVAL), Outcome::Done]),
            _ => false,
        }
    }
}

impl Player<'_> {
    fn load(&mut self, rules: &[String]) -> anyhow::Result<()> {
        if rules.is_empty() {
            return Ok(());
        }
        for side in &mut self.sides {
            let refused = side.load(rules)?;
            if !refused.is_empty() {
                let text = format!("{} refuses rules: {}", side.name(), refused.join("; "));
                self.report.differences.push(Difference { line: 0, text });
            }
        }
        Ok(())
    }

    /// Counts a difference, or that a choice was met with.
    fn judge(&mut self, step: &Step, found: Option<String>) {
        let text = match (found, &step.choice) {
            (None, None) => return,
            (Some(text), None) => format!("`{}`: {text}", step.text),
            (Some(_), Some(choice)) if self.seen.is(choice) => {
                self.report.choices.push(choice.clone());
                return;
            }
            (Some(text), Some(choice)) => format!("`{}`: more than the choice `{choice}`: {text}", step.text),
            (None, Some(choice)) => {
                format!("`{}`: no difference any more: the choice `{choice}` is none here", step.text)
            }
        };
        self.report.differences.push(Difference { line: step.line, text });
    }

    /// Does a step on both sides; tells the difference, if there is one.
    fn step(&mut self, step: &Step) -> anyhow::Result<Option<String>> {
        self.report.story.push(step.text.clone());
        self.seen = Seen::default();
        match &step.action {
            Action::Control(line) => {
                let [ours, linux] = &mut self.sides;
                let (ours, linux) = (ours.control(line)?, linux.control(line)?);
                let found = differ(format!("{ours:?}"), format!("{linux:?}"));
                self.seen.outcomes = Some([ours, linux]);
                Ok(found)
            }
            Action::Packet(packet) => {
                let packets = [Some(packet.clone()), Some(packet.clone())];
                self.packets(packets)
            }
            Action::Reply(words) => {
                let mut packets = [None, None];
                for (packet, last) in packets.iter_mut().zip(&self.last) {
                    *packet = last.as_ref().map(|last| reply(last, words)).transpose()?;
                }
                if packets.iter().all(Option::is_none) {
                    return Ok(Some("no server has got anything to reply to".to_owned()));
                }
                self.packets(packets)
            }
            Action::Wait(time) => {
                let [ours, linux] = &mut self.sides;
                let (ours, linux) = (ours.wait(*time)?, linux.wait(*time)?);
                self.tell(&ours, &linux);
                Ok(self.judge_frames(ours, linux))
            }
            Action::Set(variable, value) => {
                let [ours, linux] = &mut self.sides;
                let text = |set| if set { "set" } else { "no such variable" }.to_owned();
                Ok(differ(text(ours.set(variable, value)?), text(linux.set(variable, value)?)))
            }
            Action::Mark(rule) => {
                self.sides.iter_mut().try_for_each(|side| side.mark(rule))?;
                Ok(None)
            }
            Action::List => self.list(),
            Action::ListNow => self.compare(snapshot::take_uncounted),
            Action::Counters => self.compare(snapshot::take),
            Action::Rates => self.compare(snapshot::rates),
        }
    }

    fn packets(&mut self, packets: [Option<Packet>; 2]) -> anyhow::Result<Option<String>> {
        let mut effects = [Effect::default(), Effect::default()];
        for ((side, packet), effect) in self.sides.iter_mut().zip(&packets).zip(&mut effects) {
            if let Some(packet) = packet {
                for frame in packet::frames(packet) {
                    let one = side.frame(&frame)?;
                    effect.frames.extend(one.frames);
                    effect.local |= one.local;
                    effect.remark += &one.remark;
                }
            }
        }
        for effect in &mut effects {
            // Fragments may come out in any order.
            effect.frames.sort_by_key(|frame| packet::offset(frame));
        }
        let [ours, mut linux] = effects;
        self.tell(&ours.frames, &linux.frames);
        if ours.local
            && let Some(packet) = &packets[0]
        {
            // What the local stack answers is not the balancer's business, but that it answers at all is.
            let place = linux.frames.iter().position(|frame| is_local_answer(packet, frame));
            place.map(|place| linux.frames.remove(place));
            if place.is_none() && is_to_be_answered(packet) {
                self.seen.frames = [ours.frames, linux.frames];
                return Ok(Some(
                    "the balancer gives it to the local stack, and Linux's local stack is silent".to_owned(),
                ));
            }
        }
        for (last, effect) in self.last.iter_mut().zip([&ours, &linux]) {
            let to_server = |frame: &&Vec<u8>| {
                frame.get(5) != Some(&1)
                    && packet::offset(frame) == 0
                    && view(frame).is_some_and(|v| v.ports().is_some())
            };
            if let Some(frame) = effect.frames.iter().rfind(to_server) {
                *last = Some(frame.clone());
            }
        }
        if !ours.remark.is_empty() {
            self.report.story.push(format!("    balancer: {}", ours.remark));
        }
        let remark = if ours.remark.is_empty() { String::new() } else { format!(" ({})", ours.remark) };
        Ok(self.judge_frames(ours.frames, linux.frames).map(|text| text + &remark))
    }

    fn judge_frames(&mut self, ours: Vec<Vec<u8>>, linux: Vec<Vec<u8>>) -> Option<String> {
        let found = differ_frames(&ours, &linux);
        self.report.is_wrong |= found.is_some() && !ours.is_empty();
        self.seen.frames = [ours, linux];
        found
    }

    fn tell(&mut self, ours: &[Vec<u8>], linux: &[Vec<u8>]) {
        for (name, frames) in [("balancer", ours), ("Linux", linux)] {
            self.report.story.extend(frames.iter().map(|frame| format!("    {name}: {}", show(frame))));
        }
    }

    /// Lists everything on both sides, when Linux has come to tell what it counted.
    fn list(&mut self) -> anyhow::Result<Option<String>> {
        let [ours, linux] = &mut self.sides;
        let (ours, linux) = (ours.wait(SETTLE)?, linux.wait(SETTLE)?);
        if let Some(text) = self.judge_frames(ours, linux) {
            return Ok(Some(format!("while waiting for the list: {text}")));
        }
        self.compare(snapshot::take)
    }

    fn compare(
        &mut self,
        list: impl Fn(&mut dyn Side) -> anyhow::Result<Vec<String>>,
    ) -> anyhow::Result<Option<String>> {
        let [ours, linux] = &mut self.sides;
        let (ours, linux) = (list(*ours)?, list(*linux)?);
        self.report.story.extend(linux.iter().map(|line| format!("    Linux: {line}")));
        let only = |these: &[String], those: &[String], name: &str| -> Vec<String> {
            let new = these.iter().filter(|line| !those.contains(line));
            new.map(|line| format!("\n      {name:<8}  {line}")).collect()
        };
        let lines = [only(&ours, &linux, "balancer"), only(&linux, &ours, "Linux")].concat();
        if lines.is_empty() && ours != linux {
            return Ok(Some(format!("another order:\n{ours:#?}\n{linux:#?}")));
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let [ours, linux] = &mut self.sides;
        self.seen.only_counters = snapshot::take_uncounted(*ours)? == snapshot::take_uncounted(*linux)?;
        Ok(Some(format!("listed:{}", lines.concat())))
    }
}

fn differ(ours: String, linux: String) -> Option<String> {
    (ours != linux).then(|| format!("balancer: {ours}; Linux: {linux}"))
}

fn differ_frames(ours: &[Vec<u8>], linux: &[Vec<u8>]) -> Option<String> {
    let same = |a: &Vec<u8>, b: &Vec<u8>| comparable(a) == comparable(b);
    if ours.len() == linux.len() && ours.iter().zip(linux).all(|(a, b)| same(a, b)) {
        return None;
    }
    // The difference may be one that is not shown.
    let in_full = ours.iter().map(|frame| show(frame)).eq(linux.iter().map(|frame| show(frame)));
    let mut text = String::from("frames out:");
    for (name, frames) in [("balancer", ours), ("Linux", linux)] {
        if frames.is_empty() {
            text += &format!("\n      {name:<8}  none");
        }
        for frame in frames {
            text += &format!("\n      {name:<8}  {}", show(frame));
            if in_full {
                text += &format!("\n                {:02x?}", comparable(frame));
            }
        }
    }
    Some(text)
}

/// What a server says to the packet in `frame`.
fn reply(frame: &[u8], words: &[String]) -> anyhow::Result<Packet> {
    let view = view(frame).context("it got no IP packet")?;
    let [from, to] = view.ports().context("it got a packet without ports")?;
    let ports = [to, from];
    let mut words = words.iter();
    let mut word = || words.next().context("a reply needs flags, or chunks");
    let body = match view.protocol {
        protocol::TCP => Body::Tcp { ports, flags: packet::flags(word()?)? },
        protocol::SCTP => Body::Sctp { ports, chunks: packet::chunks(word()?)? },
        _ => Body::Udp { ports },
    };
    let mut packet = Packet::new(view.destination, view.source, body);
    words.try_for_each(|option| packet::apply(&mut packet, option))?;
    Ok(packet)
}

/// Whether a host answers such a packet if nobody listens.
fn is_to_be_answered(packet: &Packet) -> bool {
    match packet.body {
        Body::Tcp { flags, .. } => flags & flag::RST == 0,
        Body::Udp { .. } | Body::Sctp { .. } => !packet.damaged,
        Body::Echo { reply, .. } => !reply,
        Body::Secured { .. } | Body::Error { .. } => false,
    }
}

/// Whether a frame is what a host answers where nobody listens, or to an echo.
fn is_local_answer(packet: &Packet, frame: &[u8]) -> bool {
    let Some(view) = view(frame) else { return false };
    if (view.source, view.destination) != (packet.destination, packet.source) {
        return false;
    }
    let swapped = packet.ports().map(|[from, to]| [to, from]);
    let about_it = |about: View<'_>| about.ports() == packet.ports();
    match packet.body {
        Body::Tcp { .. } => view.ports() == swapped && view.flags().is_some_and(|flags| flags & flag::RST != 0),
        Body::Udp { .. } | Body::Sctp { .. } => view.about().is_some_and(about_it),
        Body::Secured { .. } => view.about().is_some_and(|about| about.ports().is_none()),
        Body::Echo { .. } => matches!(view.icmp(), Some([0 | 129, 0])),
        Body::Error { .. } => false,
    }
}
