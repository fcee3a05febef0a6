//! The program at the interface, which gives what comes by one queue to a socket: six instructions of BPF (Linux,
//! include/uapi/linux/bpf.h; RFC 9669), which the kernel verifies. It goes with the process.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Commands of bpf(2).
mod command {
    pub const MAP_CREATE: libc::c_int = 0;
    pub const MAP_UPDATE_ELEM: libc::c_int = 2;
    pub const PROG_LOAD: libc::c_int = 5;
    pub const LINK_CREATE: libc::c_int = 28;
}

const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// Where programs of that kind are attached.
const BPF_XDP: u32 = 37;

/// How a program is run (XDP_FLAGS_).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// By the kernel, for drivers that do not know of it.
    Generic = 1 << 1,
    /// By the interface's driver.
    Native = 1 << 2,
}

/// Attributes of MAP_CREATE.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// Attributes of MAP_UPDATE_ELEM.
#[repr(C)]
struct MapUpdate {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Attributes of PROG_LOAD.
#[repr(C)]
struct ProgLoad {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
}

/// Attributes of LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Which structures are attributes of a command.
///
/// # Safety
/// Plain integers without padding, laid out as the kernel expects them for [`Attributes::COMMAND`]; what they point to lives as long as
/// they are borrowed.
unsafe trait Attributes {
    const COMMAND: libc::c_int;
}
// SAFETY: as in include/uapi/linux/bpf.h, up to the last member that is needed; no pointers.
unsafe impl Attributes for MapCreate {
    const COMMAND: libc::c_int = command::MAP_CREATE;
}
// SAFETY: as above; key and value are those of `Program::attach`, which outlive the call.
unsafe impl Attributes for MapUpdate {
    const COMMAND: libc::c_int = command::MAP_UPDATE_ELEM;
}
// SAFETY: as above; code and license are those of `Program::attach`, which outlive the call.
unsafe impl Attributes for ProgLoad {
    const COMMAND: libc::c_int = command::PROG_LOAD;
}
// SAFETY: as above; no pointers.
unsafe impl Attributes for LinkCreate {
    const COMMAND: libc::c_int = command::LINK_CREATE;
}

fn bpf<A: Attributes>(attributes: &A) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are the command's (the promise of `Attributes`), as long as is said, and outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, A::COMMAND, std::ptr::from_ref(attributes), size_of::<A>()) };
    match libc::c_int::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same, for a command that answers with a descriptor.
fn make<A: Attributes>(attributes: &A) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is new, and nobody else has it.
    bpf(attributes).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Descriptors and numbers of interfaces are never negative.
fn unsigned(fd: &impl AsRawFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// An instruction: its code, two registers, an offset and a number.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, number: u32) -> u64 {
    let registers = to | from << 4;
    let [c, r] = [code as u64, registers as u64];
    c | r << 8 | (offset.cast_unsigned() as u64) << 16 | (number as u64) << 32
}

/// A program that gives what comes by the queues in `map` to their sockets, and all else to the kernel, as without it:
/// `return bpf_redirect_map(map, ctx->rx_queue_index, XDP_PASS)`.
const fn code(map: u32) -> [u64; 6] {
    /// Of `rx_queue_index` in `struct xdp_md`.
    const RX_QUEUE_INDEX: i16 = 16;
    const XDP_PASS: u32 = 2;
    const REDIRECT_MAP: u32 = 51;
    /// The number is a map's descriptor.
    const PSEUDO_MAP_FD: u8 = 1;
    [
        // r2 = *(u32 *)(r1 + 16)
        instruction(0x61, 2, 1, RX_QUEUE_INDEX, 0),
        // r1 = map, in two parts
        instruction(0x18, 1, PSEUDO_MAP_FD, 0, map),
        0,
        // r3 = XDP_PASS
        instruction(0xb7, 3, 0, 0, XDP_PASS),
        // r0 = bpf_redirect_map(r1, r2, r3)
        instruction(0x85, 0, 0, 0, REDIRECT_MAP),
        // return r0
        instruction(0x95, 0, 0, 0, 0),
    ]
}

/// The program at an interface: detached when this is dropped, or the process ends.
#[derive(Debug)]
pub struct Program {
    #[allow(dead_code, reason = "held")]
    link: OwnedFd,
    #[allow(dead_code, reason = "held")]
    map: OwnedFd,
    /// Who runs it.
    pub mode: Mode,
}

impl Program {
    /// Puts the program to the interface, for a socket that is bound to one of its queues: run by the driver if that can, else by the
    /// kernel.
    ///
    /// # Errors
    /// What the kernel says; EBUSY if there is another program.
    pub fn attach(interface: u32, queue: u32, socket: &impl AsRawFd) -> io::Result<Self> {
        let entries = queue.checked_add(1).ok_or(io::ErrorKind::InvalidInput)?;
        let map = make(&MapCreate { map_type: BPF_MAP_TYPE_XSKMAP, key_size: 4, value_size: 4, max_entries: entries })?;
        let code = code(unsigned(&map));
        let program = make(&ProgLoad {
            program_type: BPF_PROG_TYPE_XDP,
            instructions: code.len() as u32,
            code: code.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
        })?;
        let value = unsigned(socket);
        bpf(&MapUpdate {
            map: unsigned(&map),
            pad: 0,
            key: std::ptr::from_ref(&queue) as u64,
            value: std::ptr::from_ref(&value) as u64,
            flags: 0,
        })?;
        let link = |mode: Mode| {
            make(&LinkCreate { program: unsigned(&program), interface, attach_type: BPF_XDP, flags: mode as u32 })
        };
        let (link, mode) = match link(Mode::Native) {
            Ok(link) => (link, Mode::Native),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EPERM)) => return Err(error),
            // The driver cannot, or not with the interface's settings.
            Err(_) => (link(Mode::Generic)?, Mode::Generic),
        };
        Ok(Self { link, map, mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_as_rfc_9669_lays_them_out() {
        // Code, registers (destination in the low bits), offset, immediate, little-endian.
        assert_eq!(code(7)[0].to_le_bytes(), [0x61, 0x12, 16, 0, 0, 0, 0, 0]);
        assert_eq!(code(7)[1].to_le_bytes(), [0x18, 0x11, 0, 0, 7, 0, 0, 0]);
        assert_eq!(code(7)[5].to_le_bytes(), [0x95, 0, 0, 0, 0, 0, 0, 0]);
    }
}
