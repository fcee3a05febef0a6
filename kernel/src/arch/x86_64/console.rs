//! The console: a 16550 serial port, or the harness's block console.
//!
//! A byte to the serial port is an exit to the virtual machine monitor, so where the harness announces its block console
//! (`console=ringlet`) a whole message costs one.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};

use spin::Mutex;
use x86_64::instructions::port::{PortReadOnly, PortWriteOnly};

/// COM1.
const SERIAL: u16 = 0x3f8;
/// Bit of the line status register: the transmit holding register is empty.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// How often the line status is looked at before a byte is given up, so that a dead port hangs nothing.
const SERIAL_PATIENCE: u32 = 100_000;
/// The block console: the physical address of a [`Block`].
const BLOCK_PORT: u16 = 0x500;
/// The most one block carries, in bytes.
const BLOCK_BYTES: usize = 4096;

/// What the block console is pointed at: a length in bytes (little endian) and that many bytes.
#[repr(C, align(4096))]
struct Block {
    length: u32,
    bytes: [u8; BLOCK_BYTES],
}

static BLOCK: Mutex<Block> = Mutex::new(Block { length: 0, bytes: [0; BLOCK_BYTES] });
static USE_BLOCK: AtomicBool = AtomicBool::new(false);

/// Sends all further output through the block console.
pub fn use_block_console() {
    USE_BLOCK.store(true, Ordering::Relaxed);
}

/// Writes bytes to the console.
pub fn write(bytes: &[u8]) {
    if USE_BLOCK.load(Ordering::Relaxed) {
        // Taken only while a block is handed over. A fault in between must still be able to report itself, by serial.
        if let Some(mut block) = BLOCK.try_lock() {
            for part in bytes.chunks(BLOCK_BYTES) {
                block.length = part.len() as u32;
                block.bytes[..part.len()].copy_from_slice(part);
                let address = &raw const *block as u64 as u32;
                // The compiler is told of port writes that they read no memory. This one has the monitor read the block.
                compiler_fence(Ordering::SeqCst);
                // SAFETY: the port takes the address of a `Block`, which is what `address` is (the image lies below
                // 4 GiB and memory is mapped one to one). The block is written (the fence sees to it), and the monitor
                // has copied it before the instruction ends.
                unsafe { PortWriteOnly::new(BLOCK_PORT).write(address) };
                compiler_fence(Ordering::SeqCst);
            }
            return;
        }
    }
    for &byte in bytes {
        if byte == b'\n' {
            serial_byte(b'\r');
        }
        serial_byte(byte);
    }
}

fn serial_byte(byte: u8) {
    // SAFETY: reading the line status of COM1 and writing its transmit register touch nothing but that port; where
    // there is no such device reads give all ones and writes are ignored.
    unsafe {
        let mut status = PortReadOnly::<u8>::new(SERIAL + 5);
        for _ in 0..SERIAL_PATIENCE {
            if status.read() & TRANSMIT_EMPTY != 0 {
                break;
            }
        }
        PortWriteOnly::new(SERIAL).write(byte);
    }
}

/// The console as a [`fmt::Write`] that gathers a message and sends it in one go.
pub struct Console {
    buffer: [u8; 1024],
    used: usize,
}

impl Console {
    /// An empty gatherer.
    pub const fn new() -> Self {
        Self { buffer: [0; 1024], used: 0 }
    }

    fn flush(&mut self) {
        write(&self.buffer[..self.used]);
        self.used = 0;
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.as_bytes().chunks(self.buffer.len()) {
            if self.used + part.len() > self.buffer.len() {
                self.flush();
            }
            self.buffer[self.used..self.used + part.len()].copy_from_slice(part);
            self.used += part.len();
        }
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Prints one line.
pub fn line(arguments: fmt::Arguments<'_>) {
    let mut console = Console::new();
    // A `Console` takes everything: only a failing `Display` could make this an error, and then there is no one to tell.
    let _ = console.write_fmt(arguments);
    let _ = console.write_str("\n");
}
