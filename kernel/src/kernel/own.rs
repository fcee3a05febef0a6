//! The way out for frames of the stack.

use ringlet_balancer::{Balancer, Instant};
use ringlet_driver::buffer::Frame;
use ringlet_driver::ring::Virtqueue;
use ringlet_driver::wire::NetHdr;

use super::burst::packet_of;
use crate::dataplane::Egress;
use crate::stack::Outlet;

/// Takes frames of the stack, some of which are replies of a service's destination that is this machine: they go through the
/// balancer.
pub(super) struct Own<'a, 'b, R> {
    pub egress: &'a mut Egress<'b, R>,
    pub balancer: &'a mut Balancer,
    /// When it is, in nanoseconds.
    pub now: u64,
}

impl<R: Virtqueue<Frame>> Outlet for Own<'_, '_, R> {
    fn is_ready(&mut self) -> bool {
        self.egress.is_ready()
    }

    fn send(&mut self, frame: &[u8], header: NetHdr) {
        if !self.balancer.serves_itself() {
            return self.egress.send_copy(frame, header);
        }
        let (balancer, now) = (&mut *self.balancer, Instant(self.now));
        self.egress.send_changed(frame, header, |frame| balancer.process_own(&mut packet_of(frame), now));
    }
}
