//! What a master tells, and everything else that is sent.

use core::time::Duration;

use super::datagram::{self, Ends};
use super::master::{BREATH, CHECK, Case, Resync};
use super::message::{Record, Sequence, flag};
use super::notice::Notice;
use super::{DaemonRole, Sync};
use crate::connection::{New, Tuple};
use crate::path::Moment;
use crate::service::{Forward, ServiceKey};
use crate::{Balancer, Instant};

/// Places looked at in one go when everything is sent, and messages that may wait meanwhile.
const PLACES: u32 = 2048;
const MESSAGES: usize = 16;
/// Messages filled in one go when everything is sent: 2000 a second.
const FILLED: u64 = 4;
/// The least time from when everything was sent until it is sent again; and how many times as long as it took.
const RESYNC: Duration = Duration::from_secs(5);
const PAUSE: u32 = 4;
/// How often a master tells how many messages it has sent, if there were any.
const REPORT: Duration = Duration::from_secs(1);
/// Time between two questions for everything.
const QUESTION: Duration = Duration::from_secs(1);
/// The port control messages go to, from the first.
const FIRST: u16 = 0;
/// Ports messages come from: above those that services have.
const SOURCE_PORTS: u16 = 49152;

/// Seconds a template has left when its time was over and it stays because of its connections.
const CONTROLLING: u32 = 60;

impl Balancer {
    /// A packet from a client went through: its connection, or the template that comes from, is told if it is time
    /// (ip_vs_sync_conn).
    #[cold]
    pub(crate) fn tell(&mut self, place: u32, now: Instant) {
        let (template, is_one_packet) = {
            let entry = self.table.get(place);
            let service = self.services.pool[entry.destination as usize].service;
            (entry.template(), self.services.is_one_packet(service, entry.protocol()))
        };
        // This one is counted already.
        let before = u32::from(self.table.get(place).in_packets().saturating_sub(1));
        let packets = match &mut self.sync.master {
            Some(_) if is_one_packet => self.sysctls.sync_threshold as u32,
            Some(master) => master.count(place, before),
            None => return,
        };
        let mut was_told = !is_one_packet && self.tell_one(place, packets, now);
        // Data connections of FTP come from one that is no template, and that may come from one.
        let mut next = template;
        while let Some(above) = next {
            // Version 0 looks at it only where it has told what comes from it.
            if !was_told && self.sysctls.sync_version == 0 {
                break;
            }
            let entry = self.table.get(above);
            let (is_template, before) = (entry.is_template(), entry.in_packets().into());
            next = entry.template();
            let Some(master) = &mut self.sync.master else { break };
            let packets = if is_template { master.count(above, before) } else { self.sysctls.sync_threshold as u32 };
            was_told = self.tell_one(above, packets, now);
        }
    }

    /// A template whose time was over stays, because it has connections.
    #[cold]
    pub(crate) fn tell_kept(&mut self, place: u32, now: Instant) {
        self.tell_for(place, self.sysctls.sync_threshold as u32, CONTROLLING, now);
    }

    /// Tells a connection, or a template, if it is time.
    fn tell_one(&mut self, place: u32, packets: u32, now: Instant) -> bool {
        let timeout = self.lasts(place);
        self.tell_for(place, packets, timeout, now)
    }

    fn tell_for(&mut self, place: u32, packets: u32, timeout: u32, now: Instant) -> bool {
        let entry = self.table.get(place);
        let case = Case {
            protocol: entry.protocol(),
            is_template: entry.is_template(),
            is_persistent: self.is_persistent(place),
            state: entry.state_number(),
            timeout,
        };
        let needs = |sync: &mut Sync| {
            sync.master.as_mut().is_some_and(|master| master.needs(place, &case, packets, &self.sysctls, now))
        };
        // Version 0 has no IPv6, and does not even take note of it. No version has what IPVS does not do.
        let can_be = (self.sysctls.sync_version != 0 || !entry.is_v6()) && self.can_be_told(place);
        let is_told = can_be && needs(&mut self.sync);
        if is_told {
            self.write(place, timeout, now);
        }
        is_told
    }

    /// Whether a connection comes from a template, be it by another.
    fn is_persistent(&self, place: u32) -> bool {
        let mut place = self.table.get(place).template();
        while let Some(at) = place {
            if self.table.get(at).is_template() {
                return true;
            }
            place = self.table.get(at).template();
        }
        false
    }

    /// Whether messages have words for a connection: not for full NAT, nor for what is found no more.
    fn can_be_told(&self, place: u32) -> bool {
        let entry = self.table.get(place);
        !entry.is_extra() && (entry.is_template() || entry.client_port != 0)
    }

    /// Whole seconds a connection has without a further packet, from one on.
    fn lasts(&self, place: u32) -> u32 {
        let entry = self.table.get(place);
        if !entry.is_template() {
            return self.timers.seconds(entry.protocol(), entry.state());
        }
        let service = self.services.pool[entry.destination as usize].service;
        self.services.service(service).map_or(CONTROLLING, |service| service.config.timeout)
    }

    /// Puts a connection into the next message.
    fn write(&mut self, place: u32, timeout: u32, now: Instant) {
        let entry = self.table.get(place);
        let New {
            protocol,
            client,
            client_port,
            virtual_address,
            virtual_port,
            address,
            port,
            forward,
            destination,
            ..
        } = self.table.parts(place);
        let destination = &self.services.pool[destination as usize];
        let tuple = Tuple {
            protocol,
            source: client,
            source_port: client_port,
            destination: virtual_address,
            destination_port: virtual_port,
        };
        let mark = match destination.service_key {
            ServiceKey::Mark { mark, .. } => mark,
            ServiceKey::Address { .. } if entry.is_template() => 0,
            ServiceKey::Address { .. } => self.services.marks.of(&tuple).unwrap_or(0),
        };
        let call_id = self.table.call_id(place);
        let moved = if entry.is_ftp() { self.table.ftp(place).and_then(|ftp| ftp.moved()) } else { None };
        let method = forward as u32;
        let with = |condition: bool, flag: u32| if condition { flag } else { 0 };
        let record = Record {
            protocol: protocol.number(),
            flags: method
                | with(forward != Forward::Masquerade, flag::NO_OUTPUT)
                | with(!entry.is_active(), flag::INACTIVE)
                | with(entry.is_synced(), flag::SYNC)
                | with(entry.is_hearsay(), flag::HEARSAY)
                | with(moved.is_some(), flag::SEQUENCES_OUT)
                | with(entry.is_template(), flag::TEMPLATE),
            state: entry.state_number().into(),
            client: (client, client_port),
            service: (virtual_address, virtual_port),
            destination: (address, port),
            mark,
            timeout,
            sequences: moved
                .map(|(initial, previous, delta)| [Sequence::default(), Sequence { initial, delta, previous }]),
            engine: if call_id.is_empty() { None } else { Some((call_id, b"sip")) },
        };
        if let Some(master) = &mut self.sync.master {
            master.push(place, &record, &self.sysctls, now, &mut self.sync.counters);
            self.sync.is_waiting = master.is_waiting();
        }
    }

    /// Goes on with telling everything.
    fn resync(&mut self, moment: &mut Moment<'_>) {
        let now = moment.now;
        let Some(master) = &mut self.sync.master else { return };
        if master.resync.is_none() && master.again && master.resynced.is_none_or(|rest| rest <= now) {
            master.again = false;
            master.resync = Some(Resync::new(self.table.places(), true));
        }
        let Some(mut resync) = master.resync else { return };
        if resync.turn > now {
            return;
        }
        resync.turn = now + BREATH;
        if resync.began.is_none() {
            resync.began = Some(now);
            self.sync.counters.resyncs += 1;
            if resync.is_asked {
                self.notify(DaemonRole::Master, FIRST, Notice::All, moment);
            }
        }
        let end = resync.places.min(resync.next.saturating_add(PLACES));
        let Some(filled) = self.sync.master.as_ref().map(|master| master.filled) else { return };
        while resync.next < end
            && let Some(master) = &self.sync.master
            && master.filled - filled < FILLED
            && master.has_room(MESSAGES, &self.sysctls)
        {
            let place = resync.next;
            if self.table.is_used(place) && !self.table.is_over(place, now) {
                self.tell_again(place, resync.is_asked, now);
            }
            resync.next += 1;
        }
        let Some(master) = &mut self.sync.master else { return };
        master.resync = Some(resync);
        if resync.next >= resync.places {
            let took = now.since(resync.began.unwrap_or(now));
            master.resynced = Some(now + RESYNC.max(took * PAUSE));
            master.resync = None;
        }
    }

    /// Tells a connection because everything is told, with the time it has left. What is only known from others is told where
    /// somebody has asked, and with a word that it is that: whoever has the connection knows better.
    fn tell_again(&mut self, place: u32, is_asked: bool, now: Instant) {
        let entry = self.table.get(place);
        if entry.is_hearsay() && (!is_asked || self.sysctls.sync_version == 0) {
            return;
        }
        let case = Case {
            protocol: entry.protocol(),
            is_template: entry.is_template(),
            is_persistent: self.is_persistent(place),
            state: entry.state_number(),
            timeout: 0,
        };
        let is_hidden = !case.is_template && self.sysctls.sync_persist_mode != 0 && case.is_persistent;
        let is_invalid = case.is_template && (entry.port, entry.virtual_port) == (u16::MAX, u16::MAX);
        if case.is_told() && !is_hidden && !is_invalid && self.can_be_told(place) {
            let left = self.table.remaining(place, now).max(1);
            self.write(place, left, now);
        }
    }

    /// Sends messages that are finished, if they have waited long enough.
    #[cold]
    pub(crate) fn send_due(&mut self, moment: &mut Moment<'_>) {
        if self.sync.master.as_ref().is_some_and(|master| master.is_due(moment.now)) {
            self.send_messages(moment);
        }
    }

    /// Sends messages that are finished, as many as the knob lets go at once.
    fn send_messages(&mut self, moment: &mut Moment<'_>) {
        let most = match self.sysctls.sync_sock_size {
            0 => usize::MAX,
            bytes => bytes as usize,
        };
        let mut sent = 0;
        while sent < most
            && let Some(master) = &mut self.sync.master
            && let Some((port, bytes, connections)) = master.take()
        {
            sent += bytes.len();
            self.send(DaemonRole::Master, port, &bytes, moment);
            let counters = &mut self.sync.counters;
            counters.sent_messages += 1;
            counters.sent_connections += u64::from(connections);
            counters.sent_bytes += bytes.len() as u64;
            if let Some(master) = &mut self.sync.master {
                master.give_back(bytes);
            }
        }
        self.sync.is_waiting = self.sync.master.as_ref().is_some_and(|master| master.is_waiting());
    }

    /// Sends a message of a daemon to a port of its group.
    fn send(&mut self, role: DaemonRole, port: u16, message: &[u8], moment: &mut Moment<'_>) {
        let Some(daemon) = self.sync.daemons().find(|daemon| daemon.role == role) else { return };
        let group = daemon.group();
        let Some(source) = self.routes.source(group) else { return };
        let ends = Ends {
            mac: self.config.mac,
            source,
            group,
            ports: (SOURCE_PORTS + port, daemon.port.wrapping_add(port)),
            ttl: daemon.ttl,
        };
        self.sync.identification = self.sync.identification.wrapping_add(1);
        datagram::write(&ends, self.sync.identification, message, &mut self.sync.frame);
        moment.sink.transmit(&self.sync.frame);
    }

    /// Sends a notice of a daemon to a port.
    fn notify(&mut self, role: DaemonRole, port: u16, notice: Notice, moment: &mut Moment<'_>) {
        let syncid = self.sync.daemons().find(|daemon| daemon.role == role).map_or(0, |daemon| daemon.syncid);
        let mut scratch = core::mem::take(&mut self.sync.scratch);
        notice.write(syncid as u8, &mut scratch);
        self.send(role, port, &scratch, moment);
        self.sync.scratch = scratch;
    }

    /// Does what is due for the daemons; returns when something is due next.
    pub(crate) fn poll_sync(&mut self, moment: &mut Moment<'_>) -> Option<Instant> {
        if !self.sync.is_on() {
            return None;
        }
        let now = moment.now;
        let mut due = self.speak(moment);
        let mut by = |at: Instant| due = Some(due.map_or(at, |due: Instant| due.min(at)));
        if self.sync.master.is_some() {
            self.resync(moment);
            if let Some(master) = &mut self.sync.master {
                master.flush(now);
            }
            if self.sync.master.as_ref().is_some_and(|master| master.is_due(now)) {
                self.send_messages(moment);
            }
            if self.sync.master.as_ref().is_some_and(|master| now.since(master.reported) >= REPORT) {
                self.report(moment);
            }
        }
        if let Some(backup) = &mut self.sync.backup
            && backup.questions > 0
        {
            if backup.ask_at <= now {
                backup.questions -= 1;
                backup.ask_at = now + QUESTION;
                self.notify(DaemonRole::Backup, FIRST, Notice::Ask, moment);
            }
            if let Some(backup) = self.sync.backup.as_ref().filter(|backup| backup.questions > 0) {
                by(backup.ask_at);
            }
        }
        if let Some(master) = &self.sync.master {
            by(now + CHECK);
            if master.resync.is_some() || master.is_due(now) {
                by(now + BREATH);
            }
            if let Some(at) = master.due() {
                by(at);
            }
        }
        due
    }

    /// Tells how many messages were sent.
    fn report(&mut self, moment: &mut Moment<'_>) {
        let Some(incarnation) = self.sync.master.as_ref().map(|master| master.incarnation) else { return };
        while let Some(master) = &mut self.sync.master
            && let Some((port, sent)) = master.report()
        {
            master.reported = moment.now;
            self.notify(DaemonRole::Master, port, Notice::Report { incarnation, sent }, moment);
        }
    }

    /// Says what there is to say about groups.
    fn speak(&mut self, moment: &mut Moment<'_>) -> Option<Instant> {
        let Sync { members, frame, identification, .. } = &mut self.sync;
        for member in members.iter_mut() {
            let Some(own) = self.routes.source(member.group) else { continue };
            *identification = identification.wrapping_add(1);
            if member.say(moment.now, self.config.mac, own, *identification, frame) {
                moment.sink.transmit(frame);
            }
        }
        members.retain(|member| !member.is_gone());
        members.iter().filter_map(|member| member.due()).min()
    }
}
