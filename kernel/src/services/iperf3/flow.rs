//! What is counted of one stream, and how fast it may send: as iperf3 counts and paces (`iperf_udp_recv`,
//! `iperf_reset_stats`, `iperf_check_throttle` in its source).

use super::datagram::Stamp;

/// One stream of a test.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Flow {
    /// iperf3's number of it.
    pub id: u32,
    /// We send.
    pub sends: bool,
    /// Bytes sent or received since the test began.
    total: u64,
    /// Those of them that do not count.
    omitted: u64,
    /// The highest number of a datagram: sent, or received.
    packets: u64,
    omitted_packets: u64,
    /// Datagrams missing.
    lost: u64,
    omitted_lost: u64,
    /// Datagrams that came after one with a higher number, or twice.
    disordered: u64,
    /// Seconds (RFC 3550, section 6.4.1).
    jitter: f64,
    /// How long the last datagram was under way, in seconds; the clocks of both sides may differ by anything.
    transit: Option<f64>,
}

impl Flow {
    /// The `nth` stream of a test, counted from 0.
    pub fn new(nth: usize, sends: bool) -> Self {
        // 1, 3, 4, 5 ...: a slip of iperf3's that it keeps, since clients would not find their streams otherwise.
        let id = if nth == 0 { 1 } else { u32::try_from(nth).unwrap_or(u32::MAX - 2) + 2 };
        Self {
            id,
            sends,
            total: 0,
            omitted: 0,
            packets: 0,
            omitted_packets: 0,
            lost: 0,
            omitted_lost: 0,
            disordered: 0,
            jitter: 0.0,
            transit: None,
        }
    }

    /// Bytes have been sent or received.
    pub fn moved(&mut self, bytes: usize) {
        self.total += bytes as u64;
    }

    /// Bytes since the test began, omitted ones too.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that count.
    pub fn counted(&self) -> u64 {
        self.total - self.omitted
    }

    /// The number of the next datagram to be sent.
    pub fn next_number(&mut self) -> u64 {
        self.packets += 1;
        self.packets
    }

    /// A datagram has come, at `now` in seconds by our clock.
    pub fn arrived(&mut self, stamp: &Stamp, now: f64) {
        if stamp.number > self.packets {
            self.lost = self.lost.saturating_add(stamp.number - 1 - self.packets);
            self.packets = stamp.number;
        } else {
            self.disordered += 1;
            self.lost = self.lost.saturating_sub(1);
        }
        let transit = now - stamp.sent_at();
        let change = (transit - self.transit.unwrap_or(transit)).abs();
        self.transit = Some(transit);
        self.jitter += (change - self.jitter) / 16.0;
    }

    /// What was so far does not count (`--omit`).
    pub fn omit(&mut self) {
        self.omitted = self.total;
        self.omitted_packets = self.packets;
        self.omitted_lost = self.lost;
        self.jitter = 0.0;
        self.transit = None;
    }

    /// Datagrams in all, those not counted included.
    pub fn packets(&self) -> (u64, u64) {
        (self.packets, self.omitted_packets)
    }

    /// Datagrams lost in all, those not counted included.
    pub fn lost(&self) -> (u64, u64) {
        (self.lost, self.omitted_lost)
    }

    /// Seconds.
    pub fn jitter(&self) -> f64 {
        self.jitter
    }
}

/// How often a stream that is slowed down sends, in nanoseconds: iperf3's default `--pacing-timer`.
const PACE: u64 = 1_000_000;

/// How much may be sent by a time, at a rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pacer {
    /// Bits a second; 0 for no limit.
    rate: u64,
    started: u64,
}

impl Pacer {
    /// From `now` on, in nanoseconds.
    pub fn new(rate: u64, now: u64) -> Self {
        Self { rate, started: now }
    }

    /// Bytes that may be sent now, when `sent` have been since the start.
    pub fn allowance(&self, now: u64, sent: u64) -> usize {
        if self.rate == 0 {
            return usize::MAX;
        }
        let elapsed = u128::from(now.saturating_sub(self.started));
        let due = elapsed * u128::from(self.rate) / 8_000_000_000;
        usize::try_from(due.saturating_sub(u128::from(sent))).unwrap_or(usize::MAX)
    }

    /// When to look again after less than `wanted` bytes were allowed.
    pub fn next(&self, now: u64, sent: u64, wanted: usize) -> u64 {
        if self.rate == 0 {
            return u64::MAX;
        }
        let at = (u128::from(sent.saturating_add(wanted as u64)) * 8_000_000_000).div_ceil(u128::from(self.rate));
        let at = u64::try_from(at).unwrap_or(u64::MAX).saturating_add(self.started);
        at.max(now.saturating_add(PACE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(number: u64, sent_at: f64) -> Stamp {
        Stamp { seconds: sent_at as u32, micros: (sent_at.fract() * 1e6).round() as u32, number }
    }

    #[test]
    fn streams_have_iperf3s_numbers() {
        assert_eq!([0, 1, 2, 3].map(|nth| Flow::new(nth, false).id), [1, 3, 4, 5]);
    }

    #[test]
    fn losses_and_disorder_are_counted_as_iperf3_does() {
        let mut flow = Flow::new(0, false);
        for number in [1, 2, 5, 3, 6, 6] {
            flow.arrived(&stamp(number, 1.0), 1.0);
        }
        // 3 and 4 were missing; 3 came late, and the second 6 passes for the other.
        assert_eq!((flow.packets(), flow.lost(), flow.disordered), ((6, 0), (0, 0), 2));
        flow.moved(600);
        flow.omit();
        flow.arrived(&stamp(9, 1.0), 1.0);
        flow.moved(100);
        assert_eq!((flow.packets(), flow.lost()), ((9, 6), (2, 0)));
        assert_eq!((flow.total(), flow.counted()), (700, 100));
    }

    #[test]
    fn jitter_is_that_of_rfc_3550_whatever_the_clocks() {
        for offset in [0.0, 1e6, -0.5] {
            let mut flow = Flow::new(0, false);
            let mut expected = 0.0;
            let delays = [0.001, 0.002, 0.0005, 0.0005];
            for (nth, delay) in delays.iter().enumerate() {
                let sent = 10.0 + nth as f64;
                flow.arrived(&stamp(nth as u64 + 1, sent), sent + delay + offset);
                let before = nth.checked_sub(1).map_or(*delay, |before| delays[before]);
                expected += ((delay - before).abs() - expected) / 16.0;
            }
            assert!((flow.jitter() - expected).abs() < 1e-6, "{} {expected}", flow.jitter());
        }
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(stamps in proptest::collection::vec((any::<u64>(), any::<u32>(), any::<u32>()), 0..50)) {
            let mut flow = Flow::new(0, false);
            for (number, seconds, micros) in stamps {
                flow.arrived(&Stamp { seconds, micros, number }, 1.0);
                prop_assert!(flow.jitter().is_finite());
            }
        }

        #[test]
        fn the_pace_is_kept(rate in 1..u64::MAX, sent in 0..u64::MAX / 2, now: u64, started: u64, wanted in 1..100_000usize) {
            let pacer = Pacer::new(rate, started);
            let next = pacer.next(now, sent, wanted);
            prop_assert!(next >= now);
            if next < u64::MAX && pacer.allowance(now, sent) < wanted {
                prop_assert!(pacer.allowance(next, sent) >= wanted);
            }
            prop_assert_eq!(pacer.allowance(started, 0), 0);
        }
    }

    #[test]
    fn a_megabit_is_a_megabit() {
        let pacer = Pacer::new(1_000_000, 5);
        assert_eq!(pacer.allowance(1_000_000_005, 0), 125_000);
        assert_eq!(pacer.allowance(1_000_000_005, 124_000), 1000);
        assert_eq!(Pacer::new(0, 0).allowance(0, 1 << 60), usize::MAX);
    }
}
