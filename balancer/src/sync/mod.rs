//! Connection synchronization: what a balancer knows of connections, told to others that may have to take its place.
//!
//! As Linux has it (net/netfilter/ipvs/ip_vs_sync.c): a master daemon sends what it knows of connections by UDP to a multicast
//! group, a backup daemon takes it in; both may run at once. There is no authentication and no answer. Beyond Linux: a backup
//! that begins asks for everything, a master that begins sends everything, and both count ([`SyncCounters`]).
//!
//! Nothing here costs a packet anything unless a master runs, but for one test of a flag.
//!
//! | module | what |
//! |---|---|
//! | `message` | the form of messages, versions 0 and 1 |
//! | `notice` | what Ringlets say besides, and Linux does not hear |
//! | `master` | which connection is told when, and messages that wait |
//! | `tell` | the balancer's part of that |
//! | `hear` | what a backup makes of messages |
//! | `member` | membership of the group: IGMP and MLD |
//! | `datagram` | frames around it all |

mod config;
mod datagram;
mod hear;
mod master;
mod member;
mod message;
mod notice;
mod tell;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

pub use config::{Daemon, DaemonRole, INTERFACE, SyncCounters};
use master::{Master, Resync};
use member::Member;
use notice::Peers;

use crate::{Balancer, Errno, Instant};

/// The most ports there can be (IPVS_SYNC_PORTS_MAX).
const PORTS_MAX: usize = 64;
/// How often a backup that begins asks for everything.
const QUESTIONS: u8 = 3;

/// A backup.
#[derive(Debug)]
struct Backup {
    daemon: Daemon,
    peers: Peers,
    /// How often everything is still to be asked for, and when next.
    questions: u8,
    ask_at: Instant,
}

/// The daemons.
#[derive(Debug, Default)]
pub(crate) struct Sync {
    /// A master runs: packets of connections matter. The only thing a packet looks at.
    pub is_telling: bool,
    /// Messages wait to be sent.
    pub is_waiting: bool,
    master: Option<Box<Master>>,
    backup: Option<Box<Backup>>,
    /// Ports that are used: a power of two, fixed while a daemon runs.
    ports: u16,
    members: Vec<Member>,
    pub counters: SyncCounters,
    /// The frame that is being made.
    frame: Vec<u8>,
    /// A message of ours that has no place in a queue.
    scratch: Vec<u8>,
    /// Of the last packet.
    identification: u16,
    random: u64,
    incarnations: u64,
}

impl Sync {
    /// No daemon.
    pub fn new(seed: u64) -> Self {
        Sync { random: seed | 1, identification: (seed >> 48) as u16, ..Sync::default() }
    }

    /// Whether a backup runs.
    pub fn is_backup(&self) -> bool {
        self.backup.is_some()
    }

    /// Whether any daemon runs, or a group is being left.
    pub fn is_on(&self) -> bool {
        self.master.is_some() || self.backup.is_some() || !self.members.is_empty()
    }

    /// A connection or template is new.
    #[cold]
    pub fn begin(&mut self, place: u32, now: Instant) {
        if let Some(master) = &mut self.master {
            master.begin(place, now);
        }
    }

    /// A number nobody outside can tell (xorshift64*).
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        let master = self.master.as_ref().map(|master| &master.daemon);
        master.into_iter().chain(self.backup.as_ref().map(|backup| &backup.daemon))
    }

    /// Joins and leaves groups, so that they are those of the daemons.
    fn regroup(&mut self, now: Instant) {
        let mut groups = [None; 2];
        for (place, daemon) in groups.iter_mut().zip(self.daemons()) {
            *place = Some(daemon.group());
        }
        for member in &mut self.members {
            if groups.contains(&Some(member.group)) { member.stay(now) } else { member.leave(now) }
        }
        for group in groups.into_iter().flatten() {
            if !self.members.iter().any(|member| member.group == group) {
                self.members.push(Member::new(group, now));
            }
        }
    }
}

impl Balancer {
    /// Starts a synchronization daemon. A master and a backup can run at the same time.
    ///
    /// # Errors
    /// [`Errno::Exists`] if it runs already; [`Errno::NoDevice`] if the interface is not [`INTERFACE`]; [`Errno::Invalid`] if the
    /// group is none, there is no address of ours of its family, or a destination is of another family than its service;
    /// [`Errno::OutOfMemory`].
    pub fn start_daemon(&mut self, daemon: Daemon) -> Result<(), Errno> {
        if self.services.is_mixed() {
            return Err(Errno::Invalid);
        }
        let daemon = daemon.complete(&self.config)?;
        let is_there = match daemon.role {
            DaemonRole::Master => self.sync.master.is_some(),
            DaemonRole::Backup => self.sync.backup.is_some(),
        };
        if is_there {
            return Err(Errno::Exists);
        }
        if self.routes.source(daemon.group()).is_none() {
            return Err(Errno::Invalid);
        }
        let memory = |_| Errno::OutOfMemory;
        let now = self.table.clock();
        if self.sync.daemons().next().is_none() {
            self.sync.ports = (self.sysctls.sync_ports as usize).clamp(1, PORTS_MAX) as u16;
        }
        self.sync.frame.try_reserve(usize::from(self.config.mtu).max(1500) + 64).map_err(memory)?;
        self.sync.scratch.try_reserve(64).map_err(memory)?;
        self.sync.members.try_reserve(4).map_err(memory)?;
        match daemon.role {
            DaemonRole::Master => {
                self.sync.incarnations += 1;
                let incarnation = self.sync.random() ^ self.sync.incarnations;
                let (places, ports) = (self.table.limit(), usize::from(self.sync.ports));
                let mut master = Master::new(daemon, places, ports, &self.sysctls, incarnation, now)?;
                // What there is already is told; what comes from now on is told when it is time.
                if self.table.len() > 0 {
                    master.resync = Some(Resync::new(self.table.places(), false));
                }
                self.sync.master = Some(Box::new(master));
                self.sync.is_telling = true;
            }
            DaemonRole::Backup => {
                let mut peers = Peers::default();
                if !peers.reserve() {
                    return Err(Errno::OutOfMemory);
                }
                self.sync.backup = Some(Box::new(Backup { daemon, peers, questions: QUESTIONS, ask_at: now }));
            }
        }
        self.sync.regroup(now);
        Ok(())
    }

    /// Stops a synchronization daemon. What a master has not sent yet is not sent; what a backup has brought stays.
    ///
    /// # Errors
    /// [`Errno::NoService`] if it does not run.
    pub fn stop_daemon(&mut self, role: DaemonRole) -> Result<(), Errno> {
        let was_there = match role {
            DaemonRole::Master => {
                (self.sync.is_telling, self.sync.is_waiting) = (false, false);
                self.sync.master.take().is_some()
            }
            DaemonRole::Backup => self.sync.backup.take().is_some(),
        };
        self.sync.regroup(self.table.clock());
        if was_there { Ok(()) } else { Err(Errno::NoService) }
    }

    /// The daemons that run, the master first.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> + '_ {
        self.sync.daemons()
    }

    /// What the daemons have counted.
    pub fn sync_counters(&self) -> &SyncCounters {
        &self.sync.counters
    }

    /// The groups whose frames the daemons need, each once: a device that filters is to let their Ethernet addresses through.
    pub fn groups(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.sync.members.iter().map(|member| member.group)
    }
}
