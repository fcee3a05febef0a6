//! Leaving the virtual machine.

use x86_64::instructions::port::PortWriteOnly;

/// The port of the exit device: QEMU's `isa-debug-exit,iobase=0xf4`, and the harness's equivalent.
const EXIT_PORT: u16 = 0xf4;

/// Ends the virtual machine with `code` (docs/abi.md lists them). Where there is no exit device it sleeps for good.
pub fn exit(code: u8) -> ! {
    // SAFETY: the exit device has no effect but to end the virtual machine; where it is missing the write goes nowhere.
    unsafe { PortWriteOnly::new(EXIT_PORT).write(code) };
    loop {
        super::interrupt::wait();
    }
}
