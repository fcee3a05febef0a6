//! The Ringlet unikernel: from the boot stub to the loop.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod device;

use core::fmt::Write;
use core::slice;

use ringlet_kernel::cmdline::{self, ConsoleKind};
use ringlet_kernel::exit_code;
use ringlet_kernel::machine::Machine;
use ringlet_kernel::memory_map::{Layout, MemoryMap};

use arch::x86_64::hal::IdentityHal;
use arch::x86_64::platform::X86Platform;
use arch::x86_64::start_info::StartInfo;
use arch::x86_64::time::Clock;
use arch::x86_64::{backtrace, boot, console, exit, heap, interrupt};

/// Where the boot stub enters ring 3, with the physical address of PVH's `hvm_start_info`.
#[unsafe(no_mangle)]
extern "C" fn ring3_start(start_info: u64) -> ! {
    exit::exit(start(start_info))
}

/// Ends with a sentence on the console, where the machine is not one to run on.
fn unusable(why: core::fmt::Arguments<'_>) -> u8 {
    console::line(format_args!("error: {why}"));
    exit_code::BAD_CONFIGURATION
}

/// Takes the machine into possession and runs. Returns the exit code.
fn start(start_info: u64) -> u8 {
    let info = match StartInfo::read(start_info) {
        Ok(info) => info,
        Err(why) => return unusable(format_args!("{why}")),
    };
    let command_line = info.command_line();
    // Twice, since where the complaints go is itself an option.
    if cmdline::parse(command_line, &mut |_| ()).console == ConsoleKind::Block {
        console::use_block_console();
    }
    let options = cmdline::parse(command_line, &mut |diagnostic| console::line(format_args!("warning: {diagnostic}")));

    let map = MemoryMap::new(info.memory_map(), &info.holes());
    let layout = match Layout::plan(&map, &options) {
        Ok(layout) => layout,
        Err(too_small) => return unusable(format_args!("{too_small}")),
    };
    // SAFETY: `map` holds usable memory only, from which the image and all the loader left have been taken out; `boot.s` maps
    // all of it for ring 3. `layout` divides it into disjoint parts, of which this one is only given away here, once.
    unsafe { heap::HEAP.init(layout.heap.start, layout.heap.size() as usize) };
    // SAFETY: as above, for the other part. Plain bytes: whatever they hold is valid.
    let pool = unsafe { slice::from_raw_parts_mut(layout.pool.start as *mut u8, layout.pool.size() as usize) };

    if let Err(why) = interrupt::init() {
        return unusable(format_args!("{why}"));
    }
    let platform = X86Platform::new(Clock::new());
    let transport = match device::find(&options, &info) {
        Ok(transport) => transport,
        Err(why) => return unusable(format_args!("{why}")),
    };
    let mut build_id = [0; 2 * boot::BUILD_ID_MAX];
    let machine = Machine {
        transport,
        pool,
        options,
        connections: layout.connections,
        memory: map.total(),
        rules: info.module(),
        build_id: boot::build_id(&mut build_id),
    };
    ringlet_kernel::run::<IdentityHal, _, _>(machine, &platform)
}

/// Reports a panic on the console, with a backtrace, and ends the virtual machine.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    /// Looks whether a message begins like the one of `alloc`'s own panic for want of memory, the only sign of it there is.
    struct Begins(&'static [u8], bool);
    impl Write for Begins {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            let compared = self.0.len().min(text.len());
            self.1 &= self.0[..compared] == text.as_bytes()[..compared];
            self.0 = &self.0[compared..];
            Ok(())
        }
    }
    let mut begins = Begins(b"memory allocation of ", true);
    let _ = write!(begins, "{}", info.message());
    let mut out = console::Console::new();
    let code = if begins.0.is_empty() && begins.1 {
        let (used, total) = heap::HEAP.usage();
        let wanted = heap::HEAP.failed();
        let _ = writeln!(
            out,
            "\nringlet: out of memory: {wanted} bytes wanted, {used} of the heap's {total} bytes in use; give the machine \
             more memory, or lower connections= or buffers= on the command line"
        );
        exit_code::HEAP_EXHAUSTED
    } else {
        let _ = writeln!(out, "\nringlet: {info}");
        exit_code::PANIC
    };
    let rbp = backtrace::frame_pointer();
    backtrace::print(&mut out, panic as *const () as u64, rbp);
    drop(out);
    exit::exit(code)
}
