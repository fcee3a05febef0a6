//! What happens while a guest runs, in one queue: what it says, its end, the user's wish to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use crate::vmm::console::{Said, Sink};

/// The most events that wait. A guest that talks faster than the terminal takes it loses lines, not the host's memory.
const WAITING: usize = 8192;

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// The guest said something, at this time.
    Said(Instant, Said),
    /// The guest has ended.
    Ended,
    /// Ctrl-C, or the request to terminate.
    Interrupted,
}

/// The end of the queue from which events are taken.
#[derive(Debug)]
pub struct Events {
    receiver: Receiver<Event>,
    sender: SyncSender<Event>,
    lost: Arc<AtomicU64>,
    interrupted: Arc<AtomicBool>,
}

impl Default for Events {
    fn default() -> Self {
        let (sender, receiver) = sync_channel(WAITING);
        Self { receiver, sender, lost: Arc::default(), interrupted: Arc::default() }
    }
}

impl Events {
    /// The next event, if one comes before `until`. The user's wish goes before all that waits, and may come twice.
    pub fn next(&self, until: Instant) -> Option<Event> {
        if self.interrupted.swap(false, Ordering::Relaxed) {
            return Some(Event::Interrupted);
        }
        // The only error there is is the timeout: `self.sender` keeps the channel connected.
        self.receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }

    /// Things the guest said that nobody heard, since the last call.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Takes what the guest says; never blocks.
    pub fn sink(&self) -> Sink {
        let (sender, lost) = (self.sender.clone(), self.lost.clone());
        Box::new(move |said| {
            if let Err(TrySendError::Full(_)) = sender.try_send(Event::Said(Instant::now(), said)) {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Takes what the devices have to say to people, from any thread; never blocks.
    pub fn report(&self) -> Box<dyn Fn(&str) + Send + Sync> {
        let (sender, lost) = (self.sender.clone(), self.lost.clone());
        Box::new(move |text| {
            let said = Event::Said(Instant::now(), Said::Complaint(text.to_owned()));
            if let Err(TrySendError::Full(_)) = sender.try_send(said) {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// Takes the news of the guest's end, which is never lost.
    pub fn ended<T>(&self) -> Box<dyn FnOnce(&T) + Send> {
        let sender = self.sender.clone();
        // Fails only where nobody waits for it any more.
        Box::new(move |_| drop(sender.send(Event::Ended)))
    }

    /// Lets Ctrl-C and SIGTERM end the run in order; the second one ends the process at once.
    ///
    /// # Errors
    /// If the handler cannot be installed.
    pub fn on_interrupt(&self) -> Result<(), ctrlc::Error> {
        let (sender, interrupted) = (self.sender.clone(), self.interrupted.clone());
        let mut before = false;
        ctrlc::set_handler(move || {
            if before {
                std::process::exit(130);
            }
            before = true;
            interrupted.store(true, Ordering::Relaxed);
            // Only to wake the other side; where the queue is full it is awake.
            let _ = sender.try_send(Event::Interrupted);
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_costs_lines_and_nothing_else() {
        let events = Events::default();
        let mut sink = events.sink();
        for _ in 0..WAITING + 5 {
            sink(Said::Line(String::new()));
        }
        assert_eq!((events.lost(), events.lost()), (5, 0));
        let now = Instant::now();
        assert!(matches!(events.next(now + Duration::from_secs(1)), Some(Event::Said(..))));
        events.ended()(&());
        let rest: Vec<_> = std::iter::from_fn(|| events.next(now)).collect();
        assert_eq!(rest.len(), WAITING);
        assert!(matches!(rest.last(), Some(Event::Ended)));
    }
}
