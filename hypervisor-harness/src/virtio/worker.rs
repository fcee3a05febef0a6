//! The device's thread: it owns the network device and moves frames while there are any, looks for more for a while, and
//! sleeps. It is compiled for each kind of network, as the device is.
//!
//! While it is awake, the guest rings no doorbells: the thread looks at the rings by itself, which costs neither side a
//! system call or an exit. Before it sleeps it asks for doorbells and looks once more.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Shared;
use super::event;
use super::memory::Memory;
use super::net::{Activation, Net, QUEUES};
use super::queue::Place;
use super::registers::Control;
use super::wait::Wait;
use crate::backend::Backend;

/// How long the thread looks for more to do before it sleeps, when nothing else is asked for.
pub const DEFAULT_SPIN: Duration = Duration::from_micros(50);
/// The least time for which looking for more is worth while; below that it sleeps at once.
const LEAST_SPIN: Duration = Duration::from_micros(5);

/// What the thread is asked to do.
enum Command {
    Start(Activation),
    StartQueue(u16, Place, Option<u32>),
    StopQueue(u16),
    Memory(Memory),
    Doorbell(u16, Option<EventFd>),
    Mute(bool),
    Reset,
    Stop,
}

/// A command, and where to say that it has been done: with the position of the queue, if one was stopped.
type Message = (Command, SyncSender<Option<u32>>);

/// The other threads' end: commands and doorbells.
#[derive(Debug)]
pub struct Remote {
    commands: Sender<Message>,
    wake: EventFd,
    doorbells: [EventFd; QUEUES],
}

impl Remote {
    /// Another handle on the same thread.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let [receive, transmit] = &self.doorbells;
        let doorbells = [receive.try_clone()?, transmit.try_clone()?];
        Ok(Self { commands: self.commands.clone(), wake: self.wake.try_clone()?, doorbells })
    }

    /// Makes the thread end. Frames that it holds are lost.
    pub fn stop(&self) {
        self.call(Command::Stop);
    }

    /// Begins to use one queue of a device that was started ([`Net::start_queue`]). When this returns, the queue is in use, or
    /// the device needs a reset.
    pub fn start_queue(&self, queue: u16, place: Place, position: Option<u32>) {
        self.call(Command::StartQueue(queue, place, position));
    }

    /// Gives up one queue and returns where it stood ([`Net::stop_queue`]). When this returns, its memory is not touched any
    /// more.
    pub fn end_queue(&self, queue: u16) -> Option<u32> {
        self.call(Command::StopQueue(queue))
    }

    /// Exchanges the memory of a device of which no queue is in use ([`Net::set_memory`]).
    pub fn set_memory(&self, memory: Memory) {
        self.call(Command::Memory(memory));
    }

    /// Exchanges what the guest rings for a queue: for an eventfd of another process, whatever that does with it, or for the
    /// one that the thread was started with (`None`), which [`Control::doorbell`] goes on to ring in any case.
    pub fn set_doorbell(&self, queue: u16, doorbell: Option<EventFd>) {
        self.call(Command::Doorbell(queue, doorbell));
    }

    /// Has what the guest sends thrown away, or not any more ([`Net::set_mute`]).
    pub fn set_mute(&self, mute: bool) {
        self.call(Command::Mute(mute));
    }

    /// Has a command done, and returns then. A thread that has ended moves no frames, and so has done everything.
    fn call(&self, command: Command) -> Option<u32> {
        let (done, wait) = mpsc::sync_channel(1);
        if self.commands.send((command, done)).is_ok() {
            // Full means that it is readable already.
            let _ = self.wake.write(1);
            return wait.recv().ok().flatten();
        }
        None
    }
}

impl Control for Remote {
    fn start(&mut self, activation: Activation) {
        self.call(Command::Start(activation));
    }

    fn stop_queue(&mut self, queue: u16) {
        self.end_queue(queue);
    }

    fn restart_queue(&mut self, queue: u16, place: Place) {
        self.start_queue(queue, place, None);
    }

    fn reset(&mut self) {
        self.call(Command::Reset);
    }

    fn doorbell(&mut self, queue: u16) {
        if let Some(doorbell) = self.doorbells.get(usize::from(queue)) {
            let _ = doorbell.write(1);
        }
    }
}

/// The thread's own state.
struct Worker<B> {
    net: Net<B>,
    shared: Arc<Shared>,
    commands: Receiver<Message>,
    wake: EventFd,
    doorbells: [EventFd; QUEUES],
    /// Other processes' doorbells, in the place of ours.
    foreign: [Option<EventFd>; QUEUES],
    spin: Spin,
    wait: Wait,
    fds: Vec<RawFd>,
}

/// Starts the thread. `doorbells` are written by the guest, by queue; `limit` is the longest time for which the thread
/// looks for more to do before it sleeps.
///
/// # Errors
/// If there is no thread or no descriptor to be had.
pub fn spawn<B: Backend + 'static>(
    net: Net<B>,
    shared: Arc<Shared>,
    doorbells: [EventFd; QUEUES],
    limit: Duration,
) -> io::Result<(Remote, JoinHandle<()>)> {
    let (sender, commands) = mpsc::channel();
    let remote = Remote { commands: sender, wake: EventFd::new(EFD_NONBLOCK)?, doorbells };
    let Remote { wake, doorbells, .. } = remote.try_clone()?;
    let mut worker = Worker {
        net,
        shared,
        commands,
        wake,
        doorbells,
        foreign: [const { None }; QUEUES],
        spin: Spin::new(limit),
        wait: Wait::default(),
        fds: Vec::new(),
    };
    let thread = std::thread::Builder::new().name("net0".into()).spawn(move || worker.run())?;
    Ok((remote, thread))
}

impl<B: Backend> Worker<B> {
    fn run(&mut self) {
        let mut last = Instant::now();
        loop {
            match self.commands.try_recv() {
                Ok(message) => {
                    if !self.obey(message) {
                        return;
                    }
                    continue;
                }
                // Nobody is left who could start the device again, or stop it.
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            if !self.net.is_active() {
                self.sleep(None, Awaits::Commands);
                continue;
            }
            let now = Instant::now();
            let turn = self.net.turn(now);
            if turn.moved != 0 {
                last = now;
                continue;
            }
            let due = turn.deadline.is_some_and(|deadline| deadline <= now);
            if due || now.saturating_duration_since(last) < self.spin.now {
                std::hint::spin_loop();
                continue;
            }
            if !self.net.listen(turn.starved) {
                let awaits = if turn.starved { Awaits::Guest } else { Awaits::All };
                let timeout = turn.deadline.map(|deadline| deadline.saturating_duration_since(now));
                self.sleep(timeout, awaits);
                let woken = Instant::now();
                self.spin.slept(woken.saturating_duration_since(now));
                last = woken;
            }
            self.net.quieten();
        }
    }

    /// Does what is asked. Returns whether the thread goes on.
    fn obey(&mut self, (command, done): Message) -> bool {
        let goes_on = !matches!(command, Command::Stop);
        let mut position = None;
        match command {
            Command::Start(activation) => self.net.start(&activation),
            Command::StartQueue(queue, place, from) => drop(self.net.start_queue(queue, &place, from)),
            Command::StopQueue(queue) => position = self.net.stop_queue(queue),
            Command::Memory(memory) => self.net.set_memory(memory),
            Command::Doorbell(queue, doorbell) => {
                if let Some(place) = self.foreign.get_mut(usize::from(queue)) {
                    *place = doorbell;
                }
            }
            Command::Mute(mute) => self.net.set_mute(mute),
            Command::Reset | Command::Stop => self.net.reset(),
        }
        // Nobody waits any more: that is their business.
        let _ = done.send(position);
        goes_on
    }

    fn sleep(&mut self, timeout: Option<Duration>, awaits: Awaits) {
        self.fds.clear();
        self.fds.push(self.wake.as_raw_fd());
        if awaits != Awaits::Commands {
            self.fds.extend(doorbells(&self.doorbells, &self.foreign).map(EventFd::as_raw_fd));
        }
        if awaits == Awaits::All {
            self.net.backend().wait_on(&mut self.fds);
        }
        self.shared.live.sleeps.add(1);
        if let Err(error) = self.wait.sleep(&self.fds, timeout) {
            // Without sleep the device still works, and burns a processor; so it goes on slowly.
            self.shared.say(&format!("the network device cannot wait for events: {error}"));
            std::thread::sleep(Duration::from_millis(10));
        }
        // Emptied, or the next sleep would end at once; that they are empty already is no error.
        let _ = self.wake.read();
        for (own, foreign) in self.doorbells.iter().zip(&self.foreign) {
            match foreign {
                Some(foreign) => drop(event::drain(foreign)),
                // Nobody else has it, so that it never blocks.
                None => drop(own.read()),
            }
        }
    }
}

/// What the guest rings, by queue.
fn doorbells<'a>(own: &'a [EventFd], foreign: &'a [Option<EventFd>]) -> impl Iterator<Item = &'a EventFd> {
    own.iter().zip(foreign).map(|(own, foreign)| foreign.as_ref().unwrap_or(own))
}

/// What a sleep is to be ended by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaits {
    /// Commands only: the device is not active.
    Commands,
    /// The guest too: the backend's frames cannot be taken before it makes buffers available.
    Guest,
    /// Everything.
    All,
}

/// How long to look for more work before going to sleep. It grows while sleeps turn out to be so short that looking on
/// would have found the work, and shrinks while they are long.
#[derive(Debug)]
struct Spin {
    limit: Duration,
    now: Duration,
}

impl Spin {
    fn new(limit: Duration) -> Self {
        Self { limit, now: limit }
    }

    /// A sleep has ended.
    fn slept(&mut self, time: Duration) {
        if time <= self.limit {
            self.now = (self.now * 2).max(LEAST_SPIN).min(self.limit);
        } else if time > self.limit * 8 {
            self.now /= 2;
            if self.now < LEAST_SPIN {
                self.now = Duration::ZERO;
            }
        }
    }
}

#[cfg(test)]
mod tests;
