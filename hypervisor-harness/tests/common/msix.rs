//! A vector that is masked and unmasked while the guest's driver works, as another driver could do it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ringlet::vmm::pci::SharedHost;
use ringlet::vmm::{Machine, layout};

use super::program::PATIENCE;

/// Bytes of an MSI-X entry, and its word that masks.
const ENTRY: u64 = 16;
const CONTROL: u64 = 12;
/// The vector of the receive queue, as our driver has it.
const RECEIVE: u64 = 1;

/// The vector of the receive queue of a machine's network device. We reach the bus as the guest does.
pub struct Vector(SharedHost);

impl Vector {
    /// Of this machine's device, which is on PCI.
    pub fn of(machine: &Machine) -> Self {
        Self(machine.pci().expect("a bus").clone())
    }

    fn config(&self, register: u64) -> u32 {
        let mut word = [0; 4];
        self.0.ecam().read(1 << 15 | register, &mut word);
        u32::from_le_bytes(word)
    }

    /// Masks and unmasks it while `work` is done in another thread, until that has ended. Each mask is held until an interrupt
    /// is pending: at least one must have been. The guest has set its driver up already.
    pub fn is_masked_and_unmasked_during(&self, work: impl FnOnce() + Send) {
        assert_eq!(self.0.lock().by_ports(), 0, "the guest has found configuration space in memory");
        assert_eq!(self.config(0), 0x1041_1af4);
        let bar = u64::from(self.config(0x10) & !0xf) - layout::PCI_WINDOW.start;
        let next = |at: &u32| Some(self.config((*at).into()) >> 8 & 0xff);
        let list = std::iter::successors(Some(self.config(0x34) & 0xff), next);
        let is_msix = |at: &u32| self.config((*at).into()) & 0xff == 0x11;
        let msix = u64::from(list.take(48).find(is_msix).expect("MSI-X"));
        let (table, pending) =
            (bar + u64::from(self.config(msix + 4) & !7), bar + u64::from(self.config(msix + 8) & !7));
        let mask = |mask: u32| self.0.window().write(table + ENTRY * RECEIVE + CONTROL, &mask.to_le_bytes());
        let is_pending = || {
            let mut bits = [0; 8];
            self.0.window().read(pending, &mut bits);
            bits[0] >> RECEIVE & 1 == 1
        };
        let over = AtomicBool::new(false);
        let mut held_back = 0_u32;
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                work();
                over.store(true, Ordering::SeqCst);
            });
            let until = Instant::now() + PATIENCE;
            let ended = || over.load(Ordering::SeqCst) || worker.is_finished();
            while !ended() {
                assert!(Instant::now() < until, "the work does not end");
                mask(1);
                // If something else has woken the guest, the work goes on, and so to the next interrupt.
                while !is_pending() && !ended() && Instant::now() < until {
                    std::hint::spin_loop();
                }
                held_back += u32::from(is_pending());
                mask(0);
                assert!(!is_pending());
            }
        });
        assert_ne!(held_back, 0, "no interrupt met the mask");
    }
}
