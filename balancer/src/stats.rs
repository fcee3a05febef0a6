//! Counters and rates of a service, a destination, or the whole.

/// What was counted since the start or since the last zeroing. Packets are frames as they pass (a super-frame counts
/// once), bytes are those of the IP packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets to clients (NAT only: others do not come by).
    pub out_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Bytes to clients.
    pub out_bytes: u64,
}

/// Smoothed rates per second, as [`Stats`] grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Connections a second.
    pub connections: u64,
    /// Packets from clients a second.
    pub in_packets: u64,
    /// Packets to clients a second.
    pub out_packets: u64,
    /// Bytes from clients a second.
    pub in_bytes: u64,
    /// Bytes to clients a second.
    pub out_bytes: u64,
}

/// Counters, what of them was there at the last zeroing, and the estimator of their rates.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    /// Counted since creation; never reset.
    pub total: Stats,
    baseline: Stats,
    last: Stats,
    /// Rates in fixed point: connections and packets with 10 fractional bits, bytes with 5.
    average: Rates,
}

/// Seconds between two looks of the estimator.
pub(crate) const ESTIMATOR_PERIOD_SECS: u64 = 2;

/// Moves `average` a quarter of the way towards what was counted in one period, which is `delta << shift`.
fn smooth(average: &mut u64, delta: u64, shift: u32) {
    let rate = (delta << shift) as i64;
    *average = (*average as i64).wrapping_add(rate.wrapping_sub(*average as i64) >> 2) as u64;
}

impl Meter {
    /// Counters since the last zeroing.
    pub fn stats(&self) -> Stats {
        let (t, b) = (&self.total, &self.baseline);
        Stats {
            connections: t.connections.wrapping_sub(b.connections),
            in_packets: t.in_packets.wrapping_sub(b.in_packets),
            out_packets: t.out_packets.wrapping_sub(b.out_packets),
            in_bytes: t.in_bytes.wrapping_sub(b.in_bytes),
            out_bytes: t.out_bytes.wrapping_sub(b.out_bytes),
        }
    }

    /// Rates, rounded as Linux shows them.
    pub fn rates(&self) -> Rates {
        let a = &self.average;
        Rates {
            connections: (a.connections + 0x1ff) >> 10,
            in_packets: (a.in_packets + 0x1ff) >> 10,
            out_packets: (a.out_packets + 0x1ff) >> 10,
            in_bytes: (a.in_bytes + 0xf) >> 5,
            out_bytes: (a.out_bytes + 0xf) >> 5,
        }
    }

    /// Shows zero from now on: what was counted becomes the baseline, and rates start over.
    pub fn zero(&mut self) {
        self.baseline = self.total;
        self.last = self.total;
        self.average = Rates::default();
    }

    /// One look of the estimator, every [`ESTIMATOR_PERIOD_SECS`]. A delta over two seconds shifted by one bit less
    /// than the fixed point is a rate per second.
    pub fn estimate(&mut self) {
        let (t, l) = (self.total, self.last);
        smooth(&mut self.average.connections, t.connections.wrapping_sub(l.connections), 9);
        smooth(&mut self.average.in_packets, t.in_packets.wrapping_sub(l.in_packets), 9);
        smooth(&mut self.average.out_packets, t.out_packets.wrapping_sub(l.out_packets), 9);
        smooth(&mut self.average.in_bytes, t.in_bytes.wrapping_sub(l.in_bytes), 4);
        smooth(&mut self.average.out_bytes, t.out_bytes.wrapping_sub(l.out_bytes), 4);
        self.last = t;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_approach_a_steady_flow_by_quarters() {
        let mut meter = Meter::default();
        let mut seen = [0; 3];
        for slot in &mut seen {
            meter.total.in_packets += 2000;
            meter.total.in_bytes += 2000 * 100;
            meter.estimate();
            *slot = meter.rates().in_packets;
        }
        assert_eq!(seen, [250, 437, 578], "a quarter of what is missing each time; 437.5 rounds down");
        for _ in 0..60 {
            meter.total.in_packets += 2000;
            meter.total.in_bytes += 2000 * 100;
            meter.estimate();
        }
        assert_eq!((meter.rates().in_packets, meter.rates().in_bytes), (1000, 100_000));
    }

    #[test]
    fn rates_of_a_silent_flow_fade_to_zero() {
        let mut meter = Meter::default();
        meter.total.connections = 5000;
        meter.estimate();
        assert_eq!(meter.rates().connections, 625);
        for _ in 0..80 {
            meter.estimate();
        }
        assert_eq!(meter.rates(), Rates::default());
    }

    #[test]
    fn zeroing_stores_a_baseline_and_zeroes_rates() {
        let mut meter = Meter::default();
        meter.total.out_bytes = 1 << 40;
        meter.estimate();
        meter.zero();
        assert_eq!((meter.stats(), meter.rates()), (Stats::default(), Rates::default()));
        meter.total.out_bytes += 7;
        assert_eq!(meter.stats().out_bytes, 7);
        assert_eq!(meter.total.out_bytes, (1 << 40) + 7, "the counter itself goes on");
    }
}
