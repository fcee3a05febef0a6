//! Generic-netlink messages to the kernel of the guest.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, bail};
use ringlet_balancer::wire::ipvs::controller;
use ringlet_balancer::wire::message::{self, DONE, ERROR, Generic, HEADER, Header, Message, flag};
use ringlet_balancer::wire::{FAMILY, FAMILY_ID};

/// The longest datagram that the kernel makes of a list.
const DATAGRAM: usize = 65536;

/// A socket, and the number of the "IPVS" family in this kernel.
pub(super) struct Netlink {
    socket: File,
    family: u16,
}

impl Netlink {
    pub fn open() -> anyhow::Result<Self> {
        // SAFETY: no memory is passed to socket(2).
        let number =
            unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_GENERIC) };
        if number < 0 {
            return Err(io::Error::last_os_error()).context("netlink socket");
        }
        // SAFETY: the descriptor was made just now and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        let mut netlink = Self { socket: File::from(socket), family: 0 };
        netlink.family = netlink.resolve()?;
        Ok(netlink)
    }

    fn resolve(&mut self) -> anyhow::Result<u16> {
        let mut request = Vec::new();
        let header =
            Header { kind: controller::ID, flags: flag::REQUEST | flag::ACK, sequence: 1, ..Header::default() };
        let generic = Generic { command: controller::GET_FAMILY, version: controller::VERSION };
        message::write_generic(&mut request, header, generic, |w| {
            w.string(controller::FAMILY_NAME, FAMILY);
        });
        for answer in self.exchange(&request[4..])? {
            let attributes = Message::read(&answer).and_then(|message| message.generic());
            for attribute in attributes.into_iter().flat_map(|(_, attributes)| attributes) {
                if attribute.kind == controller::FAMILY_ID
                    && let Ok(number) = attribute.u16()
                {
                    return Ok(number);
                }
            }
        }
        bail!("this kernel has no IPVS")
    }

    /// The messages that answer one for the family, which is called by our number for it in all of them.
    pub fn ask(&mut self, mut request: Vec<u8>) -> anyhow::Result<Vec<Vec<u8>>> {
        rename(&mut request, FAMILY_ID, self.family);
        let mut answers = self.exchange(&request)?;
        for answer in &mut answers {
            rename(answer, self.family, FAMILY_ID);
        }
        Ok(answers)
    }

    fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        self.socket.write_all(request).context("netlink request")?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let count = self.socket.read(&mut buffer).context("netlink answer")?;
            let mut rest = &buffer[..count];
            while let Some(header) = Header::read(rest) {
                let length = (header.length as usize).clamp(HEADER, rest.len());
                answers.push(rest[..length].to_vec());
                if matches!(header.kind, ERROR | DONE) {
                    return Ok(answers);
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Puts another number into a message whose type is this one.
fn rename(message: &mut [u8], from: u16, to: u16) {
    if let Some(kind) = message.get_mut(4..6)
        && *kind == from.to_le_bytes()
    {
        kind.copy_from_slice(&to.to_le_bytes());
    }
}
