//! Which device answers at which guest-physical address.

/// A device whose registers are reached by memory accesses.
///
/// Calls come from the vCPU's thread, one at a time. Offsets are relative to the device's base, and the access lies
/// wholly inside its range; the length is 1, 2, 4 or 8 on any sane access, and a device must bear others too.
pub trait MmioDevice: Send {
    /// The guest reads at `offset`. `data` comes filled with ones: what the device leaves alone reads so.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// The guest writes at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Two devices want the same addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a device already answers at {0:#x}")]
pub struct Taken(pub u64);

/// The devices of the memory bus.
#[derive(Default)]
pub struct MmioBus {
    devices: Vec<Slot>,
    strays: u64,
}

struct Slot {
    base: u64,
    size: u64,
    device: Box<dyn MmioDevice>,
}

impl std::fmt::Debug for MmioBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges: Vec<_> = self.devices.iter().map(|slot| (slot.base, slot.size)).collect();
        f.debug_struct("MmioBus").field("devices", &ranges).field("strays", &self.strays).finish()
    }
}

impl MmioBus {
    /// Puts a device at `base .. base + size`.
    ///
    /// # Errors
    /// If another device has a part of that range.
    pub fn add(&mut self, base: u64, size: u64, device: Box<dyn MmioDevice>) -> Result<(), Taken> {
        if let Some(other) = self.devices.iter().find(|slot| base < slot.base + slot.size && slot.base < base + size) {
            return Err(Taken(other.base.max(base)));
        }
        self.devices.push(Slot { base, size, device });
        Ok(())
    }

    /// The guest reads at a guest-physical address. Where no device is, it reads ones.
    pub fn read(&mut self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        match self.find(address, data.len()) {
            Some((offset, device)) => device.read(offset, data),
            None => self.strays += 1,
        }
    }

    /// The guest writes at a guest-physical address. Where no device is, nothing happens.
    pub fn write(&mut self, address: u64, data: &[u8]) {
        match self.find(address, data.len()) {
            Some((offset, device)) => device.write(offset, data),
            None => self.strays += 1,
        }
    }

    /// Accesses that met no device.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.strays
    }

    fn find(&mut self, address: u64, length: usize) -> Option<(u64, &mut dyn MmioDevice)> {
        self.devices.iter_mut().find_map(|slot| {
            let offset = address.checked_sub(slot.base)?;
            let fits = offset < slot.size && length as u64 <= slot.size - offset;
            fits.then_some((offset, &mut *slot.device as &mut dyn MmioDevice))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as its offset; a write is expected at offset 4 only.
    struct Echo;
    impl MmioDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data[0] = offset as u8;
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            assert_eq!((offset, data), (4, &[7][..]));
        }
    }

    #[test]
    fn finds_the_device_or_nothing() {
        let mut bus = MmioBus::default();
        bus.add(0x1000, 0x100, Box::new(Echo)).unwrap();
        assert_eq!(bus.add(0x10ff, 1, Box::new(Echo)), Err(Taken(0x10ff)));
        bus.add(0x1100, 0x100, Box::new(Echo)).unwrap();
        let mut data = [0; 2];
        bus.read(0x10fe, &mut data);
        assert_eq!(data, [0xfe, 0xff]);
        bus.write(0x1104, &[7]);
        assert_eq!(bus.strays(), 0);
        for address in [0, 0xfff, 0x10ff, 0x1200, u64::MAX] {
            data = [0; 2];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff, 0xff], "{address:#x}");
            bus.write(address, &[1, 2]);
        }
        assert_eq!(bus.strays(), 10);
    }
}
