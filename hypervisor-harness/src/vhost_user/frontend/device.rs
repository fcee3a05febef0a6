//! The device behind the registers: its queues are the backend's.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Error;
use super::session::{Session, Wakes};
use crate::virtio::Shared;
use crate::virtio::event;
use crate::virtio::net::{Activation, QUEUES};
use crate::virtio::queue::Place;
use crate::virtio::registers::Control;
use crate::vmm::GuestRam;

/// Who has had the queues since the driver started the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rings {
    /// Nobody: any backend can begin with them.
    Untouched,
    /// The backend that there is.
    Served,
    /// A backend that has gone. It may have taken buffers and not given them back, and of a packed ring nobody else knows where
    /// it was: only the driver can set them up again.
    Orphaned,
}

/// What the vCPU's thread and the one that keeps the connection have to agree on.
pub(super) struct State {
    /// The connection, while there is one.
    pub(super) session: Option<Session>,
    /// What the driver has started, until it resets the device.
    pub(super) active: Option<Activation>,
    /// Who has had its queues.
    pub(super) rings: Rings,
    /// The machine ends.
    pub(super) over: bool,
}

/// The device.
pub(super) struct Device {
    state: Mutex<State>,
    pub(super) shared: Arc<Shared>,
    ram: GuestRam,
    mtu: u16,
    doorbells: [EventFd; QUEUES],
    /// Wakes the thread that keeps the connection.
    pub(super) wake: EventFd,
}

impl Device {
    pub(super) fn new(
        session: Session,
        shared: Arc<Shared>,
        ram: GuestRam,
        mtu: u16,
        doorbells: [EventFd; QUEUES],
    ) -> io::Result<Self> {
        let state = State { session: Some(session), active: None, rings: Rings::Untouched, over: false };
        Ok(Self { state: Mutex::new(state), shared, ram, mtu, doorbells, wake: EventFd::new(EFD_NONBLOCK)? })
    }

    /// The guest's memory.
    #[cfg(test)]
    pub(super) fn ram(&self) -> &GuestRam {
        &self.ram
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // What is under the lock is only changed as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the connection's thread that there is something to do.
    pub(super) fn wake(&self) {
        // Full means that it is readable already.
        let _ = self.wake.write(1);
    }

    /// Does something with the connection, if there is one. If that fails, there is none any more.
    fn with_session(&self, state: &mut State, work: impl FnOnce(&mut Session) -> Result<(), Error>) {
        let Some(session) = &mut state.session else { return };
        if let Err(error) = work(session) {
            self.shared.say(&error.to_string());
            self.lose(state);
        }
    }

    /// Gives the connection up.
    pub(super) fn lose(&self, state: &mut State) {
        state.session = None;
        if state.rings == Rings::Served {
            state.rings = Rings::Orphaned;
        }
        self.shared.set_link(false);
        self.wake();
    }

    /// Hands what is active over to the backend, if there is one.
    pub(super) fn hand_over(&self, state: &mut State) {
        let Some(activation) = state.active else { return };
        if state.session.is_some() {
            state.rings = Rings::Served;
        }
        self.with_session(state, |session| {
            let calls = self.calls()?;
            session.start(&activation, &self.ram, self.mtu, &self.wakes(&calls))
        });
    }

    /// The machine has ended: the backend is to give everything back.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.over = true;
        if let Some(mut session) = state.session.take()
            && let Err(error) = session.stop()
        {
            self.shared.say(&error.to_string());
        }
        self.wake();
    }

    fn calls(&self) -> io::Result<[EventFd; QUEUES]> {
        let [receive, transmit] = [0, 1].map(|queue| self.shared.call(queue));
        Ok([receive?, transmit?])
    }

    fn wakes<'a>(&'a self, calls: &'a [EventFd; QUEUES]) -> [Wakes<'a>; QUEUES] {
        std::array::from_fn(|queue| Wakes { kick: &self.doorbells[queue], call: &calls[queue] })
    }
}

/// What the registers have of it.
pub(super) struct Remote(pub(super) Arc<Device>);

impl Control for Remote {
    fn start(&mut self, activation: Activation) {
        let mut state = self.0.lock();
        (state.active, state.rings) = (Some(activation), Rings::Untouched);
        self.0.shared.set_negotiated(activation.features);
        // Without a connection, this waits for one, with the link down.
        self.0.hand_over(&mut state);
    }

    fn stop_queue(&mut self, queue: u16) {
        let mut state = self.0.lock();
        if let Some(place) = state.active.as_mut().and_then(|active| active.queues.get_mut(usize::from(queue))) {
            *place = None;
            self.0.with_session(&mut state, |session| session.stop_queue(queue.into()));
        }
    }

    fn restart_queue(&mut self, queue: u16, place: Place) {
        let index = usize::from(queue);
        let mut state = self.0.lock();
        let Some(active) = &mut state.active else { return };
        let features = active.features;
        if let Some(old) = active.queues.get_mut(index) {
            *old = Some(place);
        }
        let device = &self.0;
        device.with_session(&mut state, |session| {
            let calls = device.calls()?;
            let wakes = device.wakes(&calls);
            session.restart_queue(index, &place, &features, &device.ram, &wakes[index])
        });
    }

    fn reset(&mut self) {
        let mut state = self.0.lock();
        (state.active, state.rings) = (None, Rings::Untouched);
        self.0.with_session(&mut state, Session::stop);
    }

    fn doorbell(&mut self, queue: u16) {
        if let Some(doorbell) = self.0.doorbells.get(usize::from(queue)) {
            // The backend has it too, and must not hold the vCPU up.
            event::ring(doorbell);
        }
    }
}
