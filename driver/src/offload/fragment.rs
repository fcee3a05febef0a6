//! Cutting one UDP datagram into IP fragments (RFC 791, section 3.2; RFC 8200, section 4.5).

use super::check::FRAGMENT_UNIT;
use super::headers::IPV6_HEADER;
use super::segment::{finish_ipv4, get16, put16};
use super::{Headers, Network};

/// Length of IPv6's fragment header.
pub(super) const FRAGMENT_HEADER: usize = 8;
/// Its number.
const FRAGMENT: u8 = 44;

/// IPv4: fragmenting is forbidden.
const DONT_FRAGMENT: u16 = 0x4000;
/// IPv4: this is not the last fragment.
const MORE_FRAGMENTS: u16 = 0x2000;
/// Length of an IPv4 header without options.
pub(super) const IPV4_HEADER: usize = 20;
/// The option bit that says that the option is to be in every fragment.
const COPIED: u8 = 0x80;
/// The option that does nothing.
const NO_OPERATION: u8 = 1;

/// Turns the first bytes of `template`, the headers of the datagram, into what every fragment begins with. How long that is.
pub(super) fn prepare(headers: &Headers, head: &[u8], template: &mut [u8]) -> usize {
    if headers.network == Network::V4 {
        return headers.transport_start;
    }
    let (cut, next_header) = headers.fragmentable(head);
    template[cut..cut + FRAGMENT_HEADER].fill(0);
    template[cut] = head[next_header];
    template[next_header] = FRAGMENT;
    cut + FRAGMENT_HEADER
}

/// Gives a datagram that has no identification one, in what [`prepare`] has made.
pub(super) fn identify(headers: &Headers, prefix: &mut [u8], identification: u32) {
    let at = headers.network_start;
    if headers.network == Network::V6 {
        let end = prefix.len();
        prefix[end - 4..].copy_from_slice(&identification.to_be_bytes());
    } else if get16(prefix, at + 6) & DONT_FRAGMENT != 0 {
        // It was not meant to be cut on its way, so its identification means nothing (RFC 6864).
        put16(prefix, at + 4, identification as u16);
    }
}

/// Sets what differs between fragments in the headers of one, which is `length` bytes long with the Ethernet header, `done`
/// bytes having gone out before it.
pub(super) fn finish(headers: &Headers, prefix: &mut [u8], length: usize, done: usize, last: bool) {
    let at = headers.network_start;
    // `Segmenter::new` has made sure that these fit.
    let offset = (done / FRAGMENT_UNIT) as u16;
    match headers.network {
        Network::V4 => {
            put16(prefix, at + 2, (length - at) as u16);
            put16(prefix, at + 6, offset | if last { 0 } else { MORE_FRAGMENTS });
            if done > 0 {
                drop_options(&mut prefix[at + IPV4_HEADER..headers.transport_start]);
            }
            finish_ipv4(prefix, at, headers.transport_start);
        }
        Network::V6 => {
            put16(prefix, at + 4, (length - at - IPV6_HEADER) as u16);
            let fragment = prefix.len() - FRAGMENT_HEADER;
            put16(prefix, fragment + 2, offset << 3 | u16::from(!last));
        }
    }
}

/// Overwrites the options that only the first fragment has (RFC 791, section 3.1: the copied flag). The header stays as long
/// as it is. Options that make no sense end it.
fn drop_options(mut options: &mut [u8]) {
    while let [kind, rest @ ..] = options {
        let length = match *kind {
            0 => return,
            NO_OPERATION => 1,
            _ => rest.first().map_or(0, |&length| usize::from(length)),
        };
        if length == 0 || length > options.len() {
            return;
        }
        let (option, further) = options.split_at_mut(length);
        if option[0] & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        options = further;
    }
}
