//! How long a datagram takes to a server and back, through what is between: idle, and at half load.
//!
//! Each datagram has a time at which it is meant to be sent, and it is from then on that it is timed: whoever keeps the sender
//! waiting, or a queue in between, is charged for it (no "coordinated omission").

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use hdrhistogram::Histogram;

use crate::bench::case::Measured;
use crate::bench::net::{Namespace, Path, Way, traffic};
use crate::bench::{Args, stop};

/// Datagrams a second where the way is to be idle.
const IDLE: f64 = 2000.0;
/// Datagrams under way while the greatest rate is looked for.
const WINDOW: u64 = 64;
/// How long that takes.
const SEARCH: Duration = Duration::from_millis(400);
const WARM_UP: Duration = Duration::from_millis(200);
/// What has not come back by then is lost.
const LOST: Duration = Duration::from_millis(500);
/// Bytes in a datagram: its number, and when it was meant to be sent, in nanoseconds.
const LENGTH: usize = 64;
/// More than that much of a second is waited for by sleeping.
const SLEEP: Duration = Duration::from_micros(20);
/// The parts of all round trips that are told.
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

/// How much is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// A datagram now and then.
    Idle,
    /// Half of what goes through at most, which is found out first.
    Half,
}

/// Measures how long round trips take: the median, and what 99 and 99.9 % are within, in microseconds.
///
/// # Errors
/// [`Missing`](crate::bench::case::Missing) without root or the program; or if too little comes back.
pub fn latency(args: &Args, way: Way, busy: Busy) -> anyhow::Result<Measured> {
    let mut path = Path::open(args, way)?;
    // For the wait only, which is by TCP.
    let door = traffic::sink(&path.server, path.listen)?;
    let server = traffic::echo(&path.server, path.listen)?;
    path.wait()?;
    let socket = connect(&path.client, &path)?;
    let rate = match busy {
        Busy::Idle => IDLE,
        Busy::Half => greatest_rate(&path.client, &socket)? / 2.0,
    };
    let (trips, lost) = trips(&path.client, &socket, rate, args.time() + WARM_UP)?;
    let remark = path.remark();
    server.end()?;
    door.end()?;
    path.end()?;
    let count = trips.len();
    ensure!(count > lost, "{lost} datagrams were lost, and {count} came back");
    let values = QUANTILES.map(|quantile| trips.value_at_quantile(quantile) as f64 / 1e3).to_vec();
    let remark = format!("{rate:.0} a second, {lost} of {} lost; {remark}", count + lost);
    Ok(Measured { values, remark: remark.trim_end_matches("; ").to_owned() })
}

fn connect(client: &Namespace, path: &Path) -> anyhow::Result<UdpSocket> {
    let socket = client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(path.service)?;
        Ok(socket)
    })?;
    socket.set_read_timeout(Some(LOST))?;
    Ok(socket)
}

/// A datagram.
fn datagram(number: u64, meant: Duration) -> [u8; LENGTH] {
    let mut bytes = [0x5a; LENGTH];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..16].copy_from_slice(&(meant.as_nanos() as u64).to_be_bytes());
    bytes
}

/// When a datagram was meant to be sent.
fn meant(bytes: &[u8]) -> Option<Duration> {
    let nanoseconds = bytes.get(8..16)?.try_into().ok()?;
    Some(Duration::from_nanos(u64::from_be_bytes(nanoseconds)))
}

/// How many round trips a second there are with some datagrams always under way.
fn greatest_rate(client: &Namespace, socket: &UdpSocket) -> anyhow::Result<f64> {
    let (receiver, over) = (socket.try_clone()?, AtomicBool::new(false));
    let (sent, came) = (AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let mut bytes = [0; LENGTH];
            while !over.load(Ordering::Relaxed) {
                match receiver.recv(&mut bytes) {
                    Ok(_) => drop(came.fetch_add(1, Ordering::Release)),
                    // What is lost must not hold up the rest.
                    Err(_) => came.store(sent.load(Ordering::Acquire), Ordering::Release),
                }
            }
        });
        let sending = client.run(|| {
            while began.elapsed() < SEARCH {
                stop::check()?;
                if sent.load(Ordering::Relaxed).saturating_sub(came.load(Ordering::Acquire)) < WINDOW {
                    socket.send(&datagram(0, Duration::ZERO))?;
                    sent.fetch_add(1, Ordering::Release);
                } else {
                    thread::yield_now();
                }
            }
            Ok(())
        });
        let rate = came.load(Ordering::Acquire) as f64 / began.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        receiving.join().map_err(|_| anyhow!("a thread has panicked"))?;
        sending?;
        ensure!(rate > 1.0, "nothing comes back");
        Ok(rate)
    })
}

/// Sends at this rate for so long. Returns how long round trips took, in nanoseconds, and how many never ended.
fn trips(client: &Namespace, socket: &UdpSocket, rate: f64, time: Duration) -> anyhow::Result<(Histogram<u64>, u64)> {
    let mut trips = Histogram::new_with_bounds(1, 60_000_000_000, 3).context("a histogram")?;
    let receiver = socket.try_clone()?;
    let gap = Duration::from_secs_f64(1.0 / rate);
    let count = (time.as_secs_f64() * rate).max(1.0) as u64;
    let first = (WARM_UP.as_secs_f64() * rate) as u64;
    let began = Instant::now();
    thread::scope(|scope| {
        let trips = &mut trips;
        let receiving = scope.spawn(move || {
            let mut bytes = [0; LENGTH];
            let mut came = 0;
            while came < count {
                match receiver.recv(&mut bytes) {
                    Ok(length) => {
                        let now = began.elapsed();
                        let number = u64::from_be_bytes(bytes[..8].try_into().unwrap_or_default());
                        // What is left over from the search is none of these.
                        let Some(meant) = meant(&bytes[..length]).filter(|meant| !meant.is_zero()) else { continue };
                        came += 1;
                        if number >= first {
                            trips.saturating_record(now.saturating_sub(meant).as_nanos() as u64);
                        }
                    }
                    // Nothing comes any more, or the sender has not begun.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("cannot receive"),
                }
            }
            Ok(())
        });
        let sending = client.run(|| {
            wake_on_time();
            for number in 0..count {
                // One gap later than the beginning, so that none is meant for the time zero.
                let meant = gap.mul_f64((number + 1) as f64);
                loop {
                    let early = meant.saturating_sub(began.elapsed());
                    if early.is_zero() {
                        break;
                    }
                    if early > SLEEP {
                        stop::check()?;
                        thread::sleep(early - SLEEP / 2);
                    } else {
                        std::hint::spin_loop();
                    }
                }
                // An error is one that came back for an earlier datagram: it is one of the lost.
                let _ = socket.send(&datagram(number, meant));
            }
            Ok(())
        });
        receiving.join().unwrap_or_else(|_| Err(anyhow!("a thread has panicked")))?;
        sending
    })?;
    let lost = (count - first).saturating_sub(trips.len());
    Ok((trips, lost))
}

/// Has the kernel wake the calling thread as soon as its sleep is over; by default it may take 50 microseconds longer.
fn wake_on_time() {
    // SAFETY: this option takes an integer. If it is refused, sleeps are a little longer.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_say_when_they_were_meant_to_be_sent() {
        let bytes = datagram(7, Duration::from_micros(1500));
        assert_eq!(meant(&bytes), Some(Duration::from_micros(1500)));
        assert_eq!(bytes[..8], 7_u64.to_be_bytes());
        assert_eq!(meant(&bytes[..15]), None);
    }
}
