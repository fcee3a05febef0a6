//! A window of device registers.

use core::ptr::NonNull;

/// Registers of a device, mapped uncached: every access is inside of them, aligned, volatile and of one piece.
#[derive(Debug)]
pub(super) struct Registers {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: device registers can be reached from any processor.
unsafe impl Send for Registers {}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        #[doc = concat!("Reads a `", stringify!($type), "` at a byte offset; all ones if it lies outside.")]
        #[allow(dead_code, reason = "not every width is read and written")]
        pub fn $read(&self, offset: usize) -> $type {
            match self.at::<$type>(offset) {
                // SAFETY: `at` gives only aligned places inside the window, which the caller of `new` vouched for.
                Some(register) => <$type>::from_le(unsafe { register.as_ptr().read_volatile() }),
                None => <$type>::MAX,
            }
        }

        #[doc = concat!("Writes a `", stringify!($type), "` at a byte offset; nothing if it lies outside.")]
        #[allow(dead_code, reason = "not every width is read and written")]
        pub fn $write(&self, offset: usize, value: $type) {
            if let Some(register) = self.at::<$type>(offset) {
                // SAFETY: as for reading.
                unsafe { register.as_ptr().write_volatile(value.to_le()) };
            }
        }
    };
}

impl Registers {
    /// The `length` bytes at `start`.
    ///
    /// # Safety
    /// They must be mapped for good, be device registers (or plain memory that only this is used to access), and
    /// no access to them may have an effect on memory that Rust knows of.
    pub unsafe fn new(start: NonNull<u8>, length: usize) -> Self {
        Self { start, length }
    }

    /// Where a register of type `T` lies at a byte offset, if it lies inside the window and is aligned.
    pub fn at<T>(&self, offset: usize) -> Option<NonNull<T>> {
        if self.length < size_of::<T>() || offset > self.length - size_of::<T>() {
            return None;
        }
        // SAFETY: inside the window: just checked.
        let register = unsafe { self.start.byte_add(offset) }.cast::<T>();
        register.is_aligned().then_some(register)
    }

    access!(read_u8, write_u8, u8);
    access!(read_u16, write_u16, u16);
    access!(read_u32, write_u32, u32);
}
