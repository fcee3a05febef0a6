//! One connection of a client.

use alloc::vec::Vec;

use super::dump::Dump;
use super::frame::{FrameError, Framer};
use super::serve::serve;
use crate::Balancer;

/// How many bytes of replies a session makes before the peer must take some. One message may go beyond it.
pub const OUTPUT_LIMIT: usize = 16384;

/// The state of one connection: the request that is coming, the list that is being written, the replies not yet sent.
#[derive(Debug, Default)]
pub struct Session {
    input: Framer,
    dump: Option<Dump>,
    output: Vec<u8>,
    /// Bytes of `output` that are sent.
    sent: usize,
    requests: u64,
}

impl Session {
    /// A session at the start of a connection.
    pub const fn new() -> Self {
        Session { input: Framer::new(), dump: None, output: Vec::new(), sent: 0, requests: 0 }
    }

    /// Takes bytes that came, and tells how many: those of one request at most. What is left over is to be offered
    /// again after [`Session::run`]; leave it in the socket meanwhile.
    ///
    /// # Errors
    /// What came is no message: close the connection, and count it.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<usize, FrameError> {
        self.input.push(bytes)
    }

    /// Carries out the request that has come, if it is whole, and goes on with a list, if there is room for replies.
    /// Returns whether a request was taken off, so that [`Session::receive`] has room again.
    ///
    /// # Errors
    /// What came is no message: close the connection, and count it.
    pub fn run(&mut self, balancer: &mut Balancer) -> Result<bool, FrameError> {
        if self.output().len() >= OUTPUT_LIMIT {
            return Ok(false);
        }
        if let Some(dump) = &mut self.dump {
            self.output.drain(..core::mem::take(&mut self.sent));
            if dump.fill(balancer, &mut self.output, OUTPUT_LIMIT) {
                self.dump = None;
            }
            // The next request waits until this one is answered.
            return Ok(false);
        }
        let Some(request) = self.input.message() else { return Ok(false) };
        self.output.drain(..core::mem::take(&mut self.sent));
        self.dump = serve(request, balancer, &mut self.output)?;
        self.input.clear();
        self.requests += 1;
        if let Some(dump) = &mut self.dump
            && dump.fill(balancer, &mut self.output, OUTPUT_LIMIT)
        {
            self.dump = None;
        }
        Ok(true)
    }

    /// Replies that are to be sent, oldest first.
    pub fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// The first `count` bytes of [`Session::output`] were sent.
    pub fn sent(&mut self, count: usize) {
        self.sent = self.output.len().min(self.sent.saturating_add(count));
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
            if self.dump.is_none() {
                self.output.shrink_to(1024);
            }
        }
    }

    /// Whether nothing is left to be done or sent: a client that has closed its side can be closed now.
    pub fn is_idle(&self) -> bool {
        self.dump.is_none() && self.output().is_empty() && self.input.message().is_none()
    }

    /// How many requests were carried out, refused ones included.
    pub const fn requests(&self) -> u64 {
        self.requests
    }
}
