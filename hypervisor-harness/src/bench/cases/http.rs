//! HTTP connections a second, and one HTTP request, through the balancer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::backend::{self, options::Net};
use crate::bench::case::Measured;
use crate::bench::guest::{Guest, Plan};
use crate::bench::{Args, stop};
use crate::run::guest::{DEMO_SERVERS, DEMO_SERVICE};

/// Clients that connect at the same time.
const CLIENTS: usize = 16;
/// An answer that takes longer is counted as none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gets `/` over a connection of its own. Returns the bytes of the answer.
///
/// # Errors
/// If there is no connection, no answer in time, or one that is not HTTP's "200".
pub fn get(address: SocketAddr, patience: Duration) -> io::Result<usize> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: ringlet\r\nConnection: close\r\n\r\n")?;
    let (mut buffer, mut length) = ([0; 4096], 0);
    let mut start = [0; 12];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            count => {
                let room = start.len().saturating_sub(length).min(count);
                start[length.min(12)..][..room].copy_from_slice(&buffer[..room]);
                length += count;
            }
        }
    }
    let good = start.starts_with(b"HTTP/1.") && start.ends_with(b" 200");
    if good { Ok(length) } else { Err(io::Error::other("the answer is not HTTP's 200")) }
}

/// Measures connections a second.
///
/// # Errors
/// If the guest does not boot, or nothing answers.
pub fn http(args: &Args) -> anyhow::Result<Measured> {
    let publish = format!("0:{DEMO_SERVICE}").parse()?;
    let options = backend::Options { net: Net::Lan, publish: vec![publish], ..backend::Options::default() };
    let network = backend::open(&options)?;
    let address = network
        .lan
        .as_ref()
        .and_then(|lan| lan.published().first().map(|publish| publish.host))
        .context("the network lan has published nothing")?;
    let mut rules = format!("-A -t {DEMO_SERVICE} -s wlc\n");
    DEMO_SERVERS.iter().for_each(|server| rules += &format!("-a -t {DEMO_SERVICE} -r {server}:80 -m -w 1\n"));
    let guest = Guest::boot(args, network.backend, Plan { rules, ..Plan::new(args) })?;
    let measured = connections(address, args.time());
    let negotiated = guest.device().negotiated();
    guest.end()?;
    let (done, failed, time) = measured?;
    let value = done as f64 / time.as_secs_f64();
    Ok(Measured::one(value, format!("{CLIENTS} clients, {failed} failed; {negotiated}")))
}

/// Connects as often as it goes. Returns how often it went well, how often not, and the time taken.
fn connections(address: SocketAddr, time: Duration) -> anyhow::Result<(u64, u64, Duration)> {
    get(address, PATIENCE).with_context(|| format!("no answer from the service at {address}"))?;
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let (done, failed, waited) = thread::scope(|scope| {
        let client = || {
            let (mut done, mut failed) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                match get(address, PATIENCE) {
                    Ok(_) => done += 1,
                    Err(_) => failed += 1,
                }
            }
            (done, failed)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let waited = stop::pause(time);
        over.store(true, Ordering::Relaxed);
        let (done, failed) = clients
            .into_iter()
            .filter_map(|client| client.join().ok())
            .fold((0, 0), |sum: (u64, u64), one: (u64, u64)| (sum.0 + one.0, sum.1 + one.1));
        (done, failed, waited)
    });
    waited?;
    ensure!(done > failed, "{failed} of {} connections failed", done + failed);
    Ok((done, failed, began.elapsed()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_a_200_is_an_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answers: [&[u8]; 4] =
            [b"HTTP/1.1 200 OK\r\n\r\nhello", b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 503 No\r\n\r\n", b""];
        let server = thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                stream.write_all(answer).unwrap();
            }
        });
        let got: Vec<_> = answers.iter().map(|_| get(address, PATIENCE).ok()).collect();
        server.join().unwrap();
        assert_eq!(got, [Some(24), Some(19), None, None]);
    }
}
