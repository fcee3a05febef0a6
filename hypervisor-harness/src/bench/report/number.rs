//! Numbers for people.

use std::fmt;

/// A number with about four digits.
#[derive(Debug, Clone, Copy)]
pub struct Short(pub f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            value if value >= 1000.0 || value == 0.0 => 0,
            value if value >= 100.0 => 1,
            value if value >= 10.0 => 2,
            _ => 3,
        };
        f.pad(&format!("{:.digits$}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_digits_are_enough() {
        let short = [0.0, 0.12345, 9.87654, 98.7654, 987.654, 98_765.4].map(|value| Short(value).to_string());
        assert_eq!(short, ["0", "0.123", "9.877", "98.77", "987.7", "98765"]);
        assert_eq!(format!("{:>8}|{:<7}|", Short(1.5), Short(20.0)), "   1.500|20.00  |");
    }
}
