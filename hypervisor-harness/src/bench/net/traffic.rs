//! Servers and clients of our own, in namespaces, over Linux's sockets.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::Namespace;

/// How soon a thread notices that it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes that one call carries in bulk.
const BLOCK: usize = 256 << 10;
/// Who does not answer by then never will.
const PATIENCE: Duration = Duration::from_secs(10);
/// The length of a request and of its answer, in bytes.
const MESSAGE: usize = 64;

/// Threads that work until they are told to end.
#[derive(Debug, Default)]
pub struct Crew {
    over: Arc<AtomicBool>,
    /// What they have done: bytes, connections.
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

/// What a thread of a crew shares with the others.
#[derive(Debug, Clone)]
struct Shared {
    over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl Shared {
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

impl Crew {
    fn shared(&self) -> Shared {
        Shared { over: self.over.clone(), done: self.done.clone(), failed: self.failed.clone() }
    }

    /// What they have done so far.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// What has failed so far.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Ends them.
    ///
    /// # Errors
    /// If one of them had failed.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let joined = self
            .threads
            .drain(..)
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a thread has panicked"))));
        // All are waited for, whatever becomes of one.
        joined.collect::<Vec<_>>().into_iter().collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Where something else has failed already.
            let _ = thread.join();
        }
    }
}

/// Has `accept` end with an error after a while in which nobody came, which std offers for streams only.
fn accept_at_most(listener: &TcpListener, time: Duration) -> io::Result<()> {
    let time = libc::timeval { tv_sec: 0, tv_usec: time.subsec_micros().into() };
    // SAFETY: the option is a `timeval`, of that size, that lives longer than the call.
    let set = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const time).cast(),
            size_of_val(&time) as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a call has only waited in vain.
fn in_vain(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn listen(namespace: &Namespace, address: SocketAddrV4) -> anyhow::Result<TcpListener> {
    let listener =
        namespace.run(|| TcpListener::bind(address).with_context(|| format!("cannot listen at {address}")))?;
    accept_at_most(&listener, LOOK)?;
    Ok(listener)
}

/// Servers that take bytes and count them: each connection has a thread of its own.
///
/// # Errors
/// If nobody can listen there.
pub fn sink(namespace: &Namespace, address: SocketAddrV4) -> anyhow::Result<Crew> {
    let mut crew = Crew::default();
    let (listener, shared) = (listen(namespace, address)?, crew.shared());
    crew.threads.push(std::thread::spawn(move || {
        let mut takers = Vec::new();
        while !shared.over() {
            match listener.accept() {
                Ok((stream, _)) => {
                    let shared = shared.clone();
                    takers.push(std::thread::spawn(move || take(stream, &shared)));
                }
                Err(error) if in_vain(&error) => {}
                Err(error) => return Err(error).context("cannot accept"),
            }
        }
        takers.into_iter().for_each(|taker| drop(taker.join()));
        Ok(())
    }));
    Ok(crew)
}

/// Reads a connection to its end.
fn take(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(LOOK))?;
    let mut block = vec![0; BLOCK];
    while !shared.over() {
        match stream.read(&mut block) {
            Ok(0) => break,
            Ok(count) => drop(shared.done.fetch_add(count as u64, Ordering::Relaxed)),
            Err(error) if in_vain(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Clients that send as fast as it goes, each over one connection.
///
/// # Errors
/// Never; what fails is told by [`Crew::end`].
pub fn pour(namespace: &Namespace, service: SocketAddrV4, connections: usize) -> anyhow::Result<Crew> {
    let mut crew = Crew::default();
    for _ in 0..connections {
        let shared = crew.shared();
        crew.threads.push(namespace.spawn(move || {
            let mut stream = TcpStream::connect_timeout(&service.into(), PATIENCE)
                .with_context(|| format!("no connection to {service}"))?;
            stream.set_write_timeout(Some(LOOK))?;
            let block = vec![0x5a; BLOCK];
            while !shared.over() {
                match stream.write(&block) {
                    Ok(0) => bail!("{service} takes no more"),
                    Ok(_) => {}
                    Err(error) if in_vain(&error) => {}
                    Err(error) => return Err(error).with_context(|| format!("{service} has broken off")),
                }
            }
            Ok(())
        }));
    }
    Ok(crew)
}

/// What a client asks, and what it is told.
fn message(fill: u8) -> [u8; MESSAGE] {
    [fill; MESSAGE]
}

/// Servers that answer one request on each connection, and close it: so it is the server that remembers it for a while, and
/// the client's port is free at once.
///
/// # Errors
/// If nobody can listen there.
pub fn answer(namespace: &Namespace, address: SocketAddrV4, threads: usize) -> anyhow::Result<Crew> {
    let mut crew = Crew::default();
    let listener = listen(namespace, address)?;
    for _ in 0..threads {
        let (listener, shared) = (listener.try_clone()?, crew.shared());
        crew.threads.push(std::thread::spawn(move || {
            while !shared.over() {
                match listener.accept() {
                    // A client that goes away without a word, as one that only looks whether somebody listens, is no fault.
                    Ok((stream, _)) => drop(respond(stream)),
                    Err(error) if in_vain(&error) => {}
                    Err(error) => return Err(error).context("cannot accept"),
                }
            }
            Ok(())
        }));
    }
    Ok(crew)
}

fn respond(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0; MESSAGE];
    stream.read_exact(&mut request)?;
    stream.write_all(&message(request[0].wrapping_add(1)))
}

/// Clients that open a connection, ask, read the answer to its end and close it, again and again.
///
/// # Errors
/// Never; what fails is counted.
pub fn ask(namespace: &Namespace, service: SocketAddrV4, clients: usize) -> anyhow::Result<Crew> {
    let mut crew = Crew::default();
    for client in 0..clients {
        let shared = crew.shared();
        crew.threads.push(namespace.spawn(move || {
            let fill = client as u8;
            while !shared.over() {
                let counter = if ask_once(service, fill).is_ok() { &shared.done } else { &shared.failed };
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }));
    }
    Ok(crew)
}

fn ask_once(service: SocketAddrV4, fill: u8) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&service.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&message(fill))?;
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer)?;
    let right = answer == message(fill.wrapping_add(1)) && stream.read(&mut [0])? == 0;
    if right { Ok(()) } else { Err(io::Error::other("a wrong answer")) }
}

/// A server that sends each datagram back.
///
/// # Errors
/// If nobody can listen there.
pub fn echo(namespace: &Namespace, address: SocketAddrV4) -> anyhow::Result<Crew> {
    let mut crew = Crew::default();
    let shared = crew.shared();
    let socket = namespace.run(|| UdpSocket::bind(address).with_context(|| format!("cannot listen at {address}")))?;
    socket.set_read_timeout(Some(LOOK))?;
    crew.threads.push(std::thread::spawn(move || {
        let mut datagram = [0; 2048];
        while !shared.over() {
            match socket.recv_from(&mut datagram) {
                // What cannot be sent is a lost datagram, as the client will see.
                Ok((length, from)) => drop(socket.send_to(&datagram[..length], from)),
                Err(error) if in_vain(&error) => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
        Ok(())
    }));
    Ok(crew)
}
