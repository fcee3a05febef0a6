//! `--pcap FILE`: a network that also writes down each frame, in the format of libpcap with nanoseconds
//! (draft-ietf-opsawg-pcap).

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ringlet_driver::features::Features;
use ringlet_driver::wire::NetHdr;

use super::{Backend, Counters, Received, Scatter, Sent};

/// Timestamps in nanoseconds, written in this machine's byte order.
const MAGIC: u32 = 0xa1b2_3c4d;
/// LINKTYPE_ETHERNET.
const ETHERNET: u32 = 1;
/// No frame is longer: 64 KiB of IP packet and its Ethernet header fit.
const SNAP_LENGTH: u32 = 256 << 10;

/// The capture file cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the capture file {}: {source}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

/// Any network, with each frame that passes written to a file as well.
///
/// Frames that are to be segmented are written as they pass, up to 64 KiB, and a checksum that is still to be finished is
/// written unfinished. If the file cannot be written any more (a full disk), one warning says so and the network goes on
/// without it. The file is flushed before the device's thread sleeps, and when this is dropped.
pub struct Capture<B> {
    inner: B,
    /// In a cell, since the device's question before it sleeps ([`Backend::wait_on`]) is the time to flush.
    file: RefCell<Output>,
    /// Reused for each frame.
    frame: Vec<u8>,
}

impl<B: Backend> Capture<B> {
    /// Creates (or empties) the file, writes its header, and wraps `inner`.
    ///
    /// # Errors
    /// If the file cannot be created or written.
    pub fn create(path: &Path, inner: B) -> Result<Self, Error> {
        let fail = |source| Error { path: path.to_owned(), source };
        let mut file = BufWriter::with_capacity(1 << 18, File::create(path).map_err(fail)?);
        let mut header = Vec::with_capacity(24);
        header.extend(MAGIC.to_ne_bytes());
        // Version 2.4.
        header.extend(2_u16.to_ne_bytes());
        header.extend(4_u16.to_ne_bytes());
        // Two fields that are always zero.
        header.extend([0; 8]);
        header.extend(SNAP_LENGTH.to_ne_bytes());
        header.extend(ETHERNET.to_ne_bytes());
        file.write_all(&header).and_then(|()| file.flush()).map_err(fail)?;
        let file = RefCell::new(Output { file: Some(file), path: path.to_owned(), unflushed: false });
        Ok(Self { inner, file, frame: Vec::new() })
    }

    /// Writes down a frame that lies, after its virtio header, in `scatter`; `length` counts the header too.
    fn record(&mut self, scatter: &Scatter<'_>, length: usize) {
        let output = self.file.get_mut();
        if output.file.is_none() {
            return;
        }
        let whole = length.saturating_sub(NetHdr::LEN);
        self.frame.resize(whole.min(SNAP_LENGTH as usize), 0);
        let kept = scatter.read(NetHdr::LEN, &mut self.frame);
        output.write(&self.frame[..kept], whole);
    }
}

/// The file, until it cannot be written.
struct Output {
    file: Option<BufWriter<File>>,
    path: PathBuf,
    unflushed: bool,
}

impl Output {
    /// Writes one record: what was kept of a frame that had `whole` bytes.
    fn write(&mut self, kept: &[u8], whole: usize) {
        let Some(file) = &mut self.file else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
        // The seconds have 32 bits and wrap in 2106.
        let words = [now.as_secs() as u32, now.subsec_nanos(), length(kept.len()), length(whole)];
        let mut header = [0; 16];
        for (bytes, word) in header.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        let written = file.write_all(&header).and_then(|()| file.write_all(kept));
        self.unflushed = true;
        self.judge(written);
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.unflushed)
            && let Some(file) = &mut self.file
        {
            let flushed = file.flush();
            self.judge(flushed);
        }
    }

    /// Gives the file up at its first error.
    fn judge(&mut self, written: io::Result<()>) {
        if let Err(error) = written
            && let Some(file) = self.file.take()
        {
            eprintln!("ringlet: the capture {} ends here: {error}", self.path.display());
            // What is still buffered is not tried again: it would fail again.
            let _ = file.into_parts();
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.flush();
    }
}

impl<B: Backend> Backend for Capture<B> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn offloads(&self) -> Features {
        self.inner.offloads()
    }

    fn mtu(&self) -> u16 {
        self.inner.mtu()
    }

    fn negotiated(&mut self, features: Features) -> io::Result<()> {
        self.inner.negotiated(features)
    }

    fn rest(&mut self) {
        self.inner.rest();
    }

    fn send(&mut self, frame: &Scatter<'_>) -> io::Result<Sent> {
        let sent = self.inner.send(frame)?;
        // What is offered again later is written down then, once.
        if sent == Sent::Done {
            self.record(frame, frame.len());
        }
        Ok(sent)
    }

    fn receive(&mut self, room: &mut Scatter<'_>) -> io::Result<Received> {
        let received = self.inner.receive(room)?;
        if let Received::Frame(length) = received {
            self.record(room, length);
        }
        Ok(received)
    }

    fn discard(&mut self) {
        self.inner.discard();
    }

    fn turn(&mut self, now: Instant) -> Option<Instant> {
        self.inner.turn(now)
    }

    fn wait_on(&self, fds: &mut Vec<RawFd>) {
        self.file.borrow_mut().flush();
        self.inner.wait_on(fds);
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::mirror::Mirror;

    fn with<T>(bytes: &mut [u8], use_it: impl FnOnce(&mut Scatter<'_>) -> T) -> T {
        let pieces = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
        // SAFETY: the piece is `bytes`, touched only through the scatter while it lives.
        use_it(&mut unsafe { Scatter::new(&pieces) })
    }

    /// The captured frames, after checks of the headers around them.
    fn frames(file: &[u8]) -> Vec<Vec<u8>> {
        let word = |at: usize| u32::from_ne_bytes(*file[at..].first_chunk().expect("four bytes"));
        assert_eq!((word(0), word(16), word(20)), (MAGIC, SNAP_LENGTH, ETHERNET));
        assert_eq!(u16::from_ne_bytes([file[4], file[5]]), 2);
        let (mut at, mut frames) = (24, Vec::new());
        while at < file.len() {
            assert!(word(at + 4) < 1_000_000_000, "nanoseconds");
            let length = word(at + 8) as usize;
            assert_eq!(length, word(at + 12) as usize);
            frames.push(file[at + 16..at + 16 + length].to_vec());
            at += 16 + length;
        }
        frames
    }

    #[test]
    fn both_directions_are_written_down_before_the_thread_sleeps() {
        let path = std::env::temp_dir().join(format!("ringlet-{}.pcap", std::process::id()));
        let mut capture = Capture::create(&path, Mirror::default()).expect("created");
        let mut large: Vec<u8> = (0..65_000_u32).map(|number| number as u8).collect();
        with(&mut large, |frame| capture.send(frame)).expect("sent");
        with(&mut [0; 12], |frame| capture.send(frame)).expect("not yet");
        let mut room = vec![0; 70_000];
        let received = with(&mut room, |room| capture.receive(room)).expect("alive");
        assert_eq!(received, Received::Frame(65_000));
        capture.wait_on(&mut Vec::new());
        let read = std::fs::read(&path).expect("written");
        assert_eq!(frames(&read), [&large[12..], &large[12..]]);
        with(&mut large[..60], |frame| capture.send(frame)).expect("sent");
        drop(capture);
        let read = std::fs::read(&path).expect("written");
        assert_eq!(frames(&read).last().map(Vec::len), Some(48));
        std::fs::remove_file(&path).expect("removed");
    }

    #[test]
    fn a_full_disk_ends_the_capture_and_nothing_else() {
        assert!(Capture::create(Path::new("/dev/full"), Mirror::default()).is_err());
        let full = File::options().write(true).open("/dev/full").expect("the device that is always full");
        let output = Output { file: Some(BufWriter::new(full)), path: "/dev/full".into(), unflushed: false };
        let mut capture = Capture { inner: Mirror::default(), file: RefCell::new(output), frame: Vec::new() };
        for _ in 0..100 {
            assert_eq!(with(&mut [1; 1000], |frame| capture.send(frame)).expect("sent"), Sent::Done);
        }
        capture.wait_on(&mut Vec::new());
        assert!(capture.file.get_mut().file.is_none());
        assert_eq!(with(&mut [1; 1000], |frame| capture.send(frame)).expect("sent"), Sent::Done);
    }
}
