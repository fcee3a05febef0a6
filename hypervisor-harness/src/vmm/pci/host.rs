//! The host bridge: the bus, and the three ways on which a guest reaches it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::{ConfigSpace, Identity};
use super::{ECAM_FUNCTION, Function};
use crate::vmm::bus::MmioDevice;
use crate::vmm::layout;

/// The bridge's own function: one that says what it is and does nothing. Red Hat's generic PCI Express host bridge.
const BRIDGE: Identity =
    Identity { vendor: 0x1b36, device: 0x0008, revision: 0, class: [6, 0, 0], subsystem: [0x1af4, 0x1100] };

/// In the address port: configuration accesses are on.
const ENABLE: u32 = 1 << 31;
/// Device numbers on a bus.
const DEVICES: usize = 32;

/// The bus is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no room for another device on the PCI bus")]
pub struct Full;

/// A function that only has a configuration space.
struct Plain(ConfigSpace);

impl Function for Plain {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn decode(&self, _address: u64, _length: usize) -> Option<(u8, u64)> {
        None
    }

    fn read_bar(&mut self, _bar: u8, _offset: u64, _data: &mut [u8]) {}

    fn write_bar(&mut self, _bar: u8, _offset: u64, _data: &[u8]) {}
}

/// The bus, with the bridge as device 0.
pub struct Host {
    /// The address port, 0xcf8.
    address: u32,
    /// By device number; each has function 0 only.
    functions: Vec<Box<dyn Function>>,
    strays: u64,
    /// Accesses to configuration space by ports.
    by_ports: u64,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("functions", &self.functions.len()).finish_non_exhaustive()
    }
}

impl Default for Host {
    fn default() -> Self {
        Self { address: 0, functions: vec![Box::new(Plain(ConfigSpace::new(&BRIDGE)))], strays: 0, by_ports: 0 }
    }
}

impl Host {
    /// Puts a function on the bus. Returns its device number.
    ///
    /// # Errors
    /// If all 32 are taken.
    pub fn add(&mut self, function: Box<dyn Function>) -> Result<u8, Full> {
        if self.functions.len() == DEVICES {
            return Err(Full);
        }
        self.functions.push(function);
        Ok(self.functions.len() as u8 - 1)
    }

    /// Accesses that met nothing.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.strays
    }

    /// How often configuration space was reached by ports: a guest that has found ECAM does without.
    #[must_use]
    pub fn by_ports(&self) -> u64 {
        self.by_ports
    }

    /// The function whose configuration space is at this offset of ECAM, and where in it. Absent functions are looked for
    /// by every guest, and so are no strays.
    fn configured(&mut self, offset: u64) -> Option<(&mut dyn Function, usize)> {
        // Bus in bits 20 and up, device in bits 15 to 19, function in bits 12 to 14.
        let number = offset / ECAM_FUNCTION;
        let function =
            self.functions.get_mut(usize::try_from(number / 8).ok()?).filter(|_| number.is_multiple_of(8))?;
        Some((&mut **function, (offset % ECAM_FUNCTION) as usize))
    }

    /// Reads configuration space at an offset of ECAM, in pieces that lie within a double word.
    fn read_config(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let mut done = 0;
        for piece in pieces(offset, data.len()) {
            if let Some((function, place)) = self.configured(offset + done as u64) {
                function.read_config(place, &mut data[done..done + piece]);
            }
            done += piece;
        }
    }

    /// Writes configuration space at an offset of ECAM.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut done = 0;
        for piece in pieces(offset, data.len()) {
            if let Some((function, place)) = self.configured(offset + done as u64) {
                function.write_config(place, &data[done..done + piece]);
            }
            done += piece;
        }
    }

    /// Where in ECAM the double word is that the address port selects; `None` while accesses are off.
    fn selected(&self) -> Option<u64> {
        let address = self.address;
        let (register, function) = (u64::from(address & 0xfc), u64::from(address >> 8 & 0xffff));
        (address & ENABLE != 0).then_some(function * ECAM_FUNCTION + register)
    }

    /// The guest reads from one of the ports 0xcf8 to 0xcff. What lies beyond the last one reads as ones.
    pub fn read_port(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match port {
            layout::PCI_ADDRESS if data.len() == 4 => data.copy_from_slice(&self.address.to_le_bytes()),
            layout::PCI_DATA..=layout::PCI_DATA_LAST => {
                self.by_ports += 1;
                let offset = port - layout::PCI_DATA;
                let length = data.len().min(4 - usize::from(offset));
                if let Some(selected) = self.selected() {
                    self.read_config(selected + u64::from(offset), &mut data[..length]);
                }
            }
            // Narrower accesses to the address port reach other devices on a PC, none of which is here.
            _ => self.strays += 1,
        }
    }

    /// The guest writes to one of the ports 0xcf8 to 0xcff.
    pub fn write_port(&mut self, port: u16, data: &[u8]) {
        match (port, <[u8; 4]>::try_from(data)) {
            // The two lowest bits, and those between bus and enable bit, are wired to zero.
            (layout::PCI_ADDRESS, Ok(address)) => self.address = u32::from_le_bytes(address) & (ENABLE | 0xff_fffc),
            (layout::PCI_DATA..=layout::PCI_DATA_LAST, _) => {
                self.by_ports += 1;
                let offset = port - layout::PCI_DATA;
                let length = data.len().min(4 - usize::from(offset));
                if let Some(selected) = self.selected() {
                    self.write_config(selected + u64::from(offset), &data[..length]);
                }
            }
            _ => self.strays += 1,
        }
    }

    fn decoded(&mut self, address: u64, length: usize) -> Option<(&mut dyn Function, u8, u64)> {
        let found = self.functions.iter_mut().find_map(|function| {
            let (bar, offset) = function.decode(address, length)?;
            Some((&mut **function as &mut dyn Function, bar, offset))
        });
        if found.is_none() {
            self.strays += 1;
        }
        found
    }

    fn read_memory(&mut self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((function, bar, offset)) = self.decoded(address, data.len()) {
            function.read_bar(bar, offset, data);
        }
    }

    fn write_memory(&mut self, address: u64, data: &[u8]) {
        if let Some((function, bar, offset)) = self.decoded(address, data.len()) {
            function.write_bar(bar, offset, data);
        }
    }
}

/// Cuts `length` bytes at `offset` where double words end.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = usize> {
    let mut at = (offset % 4) as usize;
    let end = at + length;
    std::iter::from_fn(move || {
        let piece = (4 - at % 4).min(end - at);
        at += piece;
        (piece > 0).then_some(piece)
    })
}

/// The bus as those who reach it share it. They are all on the vCPU's thread.
#[derive(Debug, Clone, Default)]
pub struct SharedHost(Arc<Mutex<Host>>);

impl SharedHost {
    /// The bus.
    pub fn lock(&self) -> MutexGuard<'_, Host> {
        // Whoever panicked was in the middle of one access; the next one finds a bus all the same.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration spaces, as memory.
    #[must_use]
    pub fn ecam(&self) -> Box<dyn MmioDevice> {
        Box::new(Ecam(self.clone()))
    }

    /// The memory in which BARs lie.
    #[must_use]
    pub fn window(&self) -> Box<dyn MmioDevice> {
        Box::new(Window(self.clone()))
    }
}

struct Ecam(SharedHost);

impl MmioDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.0.lock().read_config(offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.lock().write_config(offset, data);
    }
}

struct Window(SharedHost);

impl MmioDevice for Window {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.0.lock().read_memory(layout::PCI_WINDOW.start + offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.lock().write_memory(layout::PCI_WINDOW.start + offset, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records each access.
    #[derive(Default)]
    struct Probe(Arc<Mutex<Vec<String>>>);

    impl Function for Probe {
        fn read_config(&mut self, offset: usize, data: &mut [u8]) {
            self.0.lock().unwrap().push(format!("r{offset:x}+{}", data.len()));
            data.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = at as u8);
        }
        fn write_config(&mut self, offset: usize, data: &[u8]) {
            self.0.lock().unwrap().push(format!("w{offset:x}{data:x?}"));
        }
        fn decode(&self, address: u64, _length: usize) -> Option<(u8, u64)> {
            address.checked_sub(layout::PCI_WINDOW.start + 0x100).filter(|offset| *offset < 0x10).map(|at| (2, at))
        }
        fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
            data[0] = bar << 4 | offset as u8;
        }
        fn write_bar(&mut self, bar: u8, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push(format!("bar{bar}+{offset:x}{data:x?}"));
        }
    }

    fn host() -> (SharedHost, Arc<Mutex<Vec<String>>>) {
        let (host, probe) = (SharedHost::default(), Probe::default());
        let log = probe.0.clone();
        assert_eq!(host.lock().add(Box::new(probe)), Ok(1));
        (host, log)
    }

    fn taken(log: &Mutex<Vec<String>>) -> Vec<String> {
        std::mem::take(&mut log.lock().unwrap())
    }

    #[test]
    fn ports_reach_every_byte_of_configuration_space() {
        let (host, log) = host();
        let mut host = host.lock();
        let mut data = [0; 4];
        host.read_port(0xcfc, &mut data);
        assert_eq!(data, [0xff; 4], "off until it is switched on");
        host.write_port(0xcf8, &0x8000_0843_u32.to_le_bytes());
        host.read_port(0xcf8, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x8000_0840);
        for (port, length, read) in [
            (0xcfc, 4, &[0x40, 0x41, 0x42, 0x43][..]),
            (0xcfd, 1, &[0x41]),
            (0xcfe, 2, &[0x42, 0x43]),
            (0xcff, 1, &[0x43]),
            (0xcff, 4, &[0x43, 0xff, 0xff, 0xff]),
            (0xcfd, 4, &[0x41, 0x42, 0x43, 0xff]),
        ] {
            let mut data = vec![0; length];
            host.read_port(port, &mut data);
            assert_eq!(data, read, "{length} at {port:#x}");
        }
        taken(&log);
        host.write_port(0xcfe, &[1, 2]);
        host.write_port(0xcff, &[3, 4, 5, 6]);
        assert_eq!(taken(&log), ["w42[1, 2]", "w43[3]"]);
        // Other functions, devices and buses: nobody.
        for absent in [0x8000_0940_u32, 0x8000_1040, 0x8001_0840, 0x80ff_ff40, 0x0000_0840] {
            host.write_port(0xcf8, &absent.to_le_bytes());
            host.read_port(0xcfc, &mut data);
            assert_eq!(data, [0xff; 4], "{absent:#x}");
            host.write_port(0xcfc, &data);
        }
        assert_eq!(taken(&log), [""; 0]);
        // The host bridge.
        host.write_port(0xcf8, &0x8000_0000_u32.to_le_bytes());
        host.read_port(0xcfc, &mut data);
        assert_eq!(data, [0x36, 0x1b, 8, 0]);
        // Bytes of the address port are other ports.
        assert_eq!(host.strays(), 0);
        host.write_port(0xcf9, &[6]);
        host.read_port(0xcf8, &mut data[..2]);
        assert_eq!((host.strays(), data[0]), (2, 0xff));
    }

    #[test]
    fn ecam_reaches_the_same() {
        let (host, log) = host();
        let mut ecam = host.ecam();
        let mut data = [0; 8];
        ecam.read(0x8000 + 0x10, &mut data);
        assert_eq!(data, [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17]);
        assert_eq!(taken(&log), ["r10+4", "r14+4"]);
        ecam.write(0x8000 + 0x7, &[1, 2, 3]);
        assert_eq!(taken(&log), ["w7[1]", "w8[2, 3]"]);
        // Across the end of a function there is the next one.
        ecam.read(0x8000 + 0xffe, &mut data[..4]);
        assert_eq!(data[..4], [0xfe, 0xff, 0xff, 0xff]);
        for absent in [0x9000, 0x1_0000, 0xf_f000, 0x7000] {
            ecam.read(absent, &mut data);
            assert_eq!(data, [0xff; 8], "{absent:#x}");
        }
        assert_eq!(host.lock().strays(), 0);
    }

    #[test]
    fn the_window_shows_what_answers_there() {
        let (host, log) = host();
        let mut window = host.window();
        let mut data = [0; 2];
        window.read(0x104, &mut data);
        assert_eq!(data, [0x24, 0xff]);
        window.write(0x10f, &[7]);
        assert_eq!(taken(&log), ["bar2+f[7]"]);
        window.read(0x110, &mut data);
        window.write(0, &data);
        assert_eq!((data, host.lock().strays()), ([0xff; 2], 2));
    }

    #[test]
    fn the_bus_has_an_end() {
        let mut host = Host::default();
        for number in 1..32 {
            assert_eq!(host.add(Box::<Probe>::default()), Ok(number));
        }
        assert_eq!(host.add(Box::<Probe>::default()), Err(Full));
    }
}
