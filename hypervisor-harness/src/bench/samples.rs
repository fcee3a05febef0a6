//! The rounds of a case, and what is told of them.

use std::fmt;

use serde_json::{Value, json};

use super::cases::Case;
use super::facts::Facts;
use super::{Args, Measured};

/// What the rounds of one case gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    /// From the least to the greatest.
    rounds: Vec<Measured>,
    errors: Vec<String>,
    /// Why it cannot be measured here.
    missing: Option<String>,
}

impl Samples {
    /// Takes one measurement.
    pub fn add(&mut self, measured: Measured) {
        let at = self.rounds.partition_point(|round| round.value.total_cmp(&measured.value).is_lt());
        self.rounds.insert(at, measured);
    }

    /// A round failed.
    pub fn fail(&mut self, why: String) {
        self.errors.push(why);
    }

    /// It cannot be measured here.
    pub fn skip(&mut self, why: String) {
        self.missing = Some(why);
    }

    /// Whether any round failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    /// The middle value, or the mean of the two in the middle.
    #[must_use]
    pub fn median(&self) -> Option<f64> {
        let (rounds, half) = (&self.rounds, self.rounds.len() / 2);
        let upper = rounds.get(half)?.value;
        Some(if rounds.len() % 2 == 1 { upper } else { (rounds[half - 1].value + upper) / 2.0 })
    }

    /// What there is to say about the middle one, or the greater of the two in the middle.
    fn remark(&self) -> &str {
        self.rounds.get(self.rounds.len() / 2).map_or("", |round| &round.remark)
    }

    /// The least and the greatest value.
    #[must_use]
    pub fn range(&self) -> Option<(f64, f64)> {
        Some((self.rounds.first()?.value, self.rounds.last()?.value))
    }
}

/// A number with about four digits.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            value if value >= 1000.0 => 0,
            value if value >= 100.0 => 1,
            value if value >= 10.0 => 2,
            _ => 3,
        };
        f.pad(&format!("{:.digits$}", self.0))
    }
}

/// The results, for people.
pub struct Table<'a>(pub &'a [(&'a Case, Samples)]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:26} {:>10} {:>21}  {:8}", "case", "median", "least .. greatest", "unit")?;
        for (case, samples) in self.0 {
            if let (Some(median), Some((least, greatest))) = (samples.median(), samples.range()) {
                let range = format!("{} .. {}", Short(least), Short(greatest));
                writeln!(f, "{:26} {:>10} {range:>21}  {:8}{}", case.name, Short(median), case.unit, samples.remark())?;
            }
            if let Some(missing) = &samples.missing {
                writeln!(f, "{:26} not measured: {missing}", case.name)?;
            }
            if let Some(error) = samples.errors.last() {
                writeln!(f, "{:26} FAILED in {} rounds: {error}", case.name, samples.errors.len())?;
            }
        }
        Ok(())
    }
}

/// The results, for programs.
pub fn json(facts: &Facts, args: &Args, results: &[(&Case, Samples)]) -> Value {
    let cases: Vec<_> = results
        .iter()
        .map(|(case, samples)| {
            json!({
                "name": case.name,
                "unit": case.unit,
                "median": samples.median(),
                "values": samples.rounds.iter().map(|round| round.value).collect::<Vec<_>>(),
                "remark": samples.remark(),
                "errors": samples.errors,
                "missing": samples.missing,
            })
        })
        .collect();
    json!({ "facts": facts, "transport": args.transport.to_string(), "rounds": args.rounds(), "seconds": args.time().as_secs_f64(), "cases": cases })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::bench::cases::CASES;

    fn samples(values: &[f64]) -> Samples {
        let mut samples = Samples::default();
        for &value in values {
            samples.add(Measured { value, remark: format!("  was {value}") });
        }
        samples
    }

    #[test]
    fn medians_and_ranges() {
        assert_eq!(samples(&[]).median(), None);
        assert_eq!(samples(&[3.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(samples(&[4.0, 1.0, 3.0, 2.0]).median(), Some(2.5));
        assert_eq!(samples(&[4.0, 1.0, 3.0]).range(), Some((1.0, 4.0)));
    }

    #[test]
    fn results_are_told_to_people_and_programs() {
        let mut failed = samples(&[]);
        failed.fail("no guest".into());
        let mut skipped = samples(&[]);
        skipped.skip("no peer".into());
        assert!(!skipped.failed());
        let results = [(&CASES[0], samples(&[1.25, 0.5])), (&CASES[1], failed), (&CASES[2], skipped)];
        assert_eq!(
            Table(&results).to_string(),
            "case                           median     least .. greatest  unit    \n\
             forward-1-flow                  0.875        0.500 .. 1.250  Mpps      was 1.25\n\
             forward-split              FAILED in 1 rounds: no guest\n\
             forward-packed             not measured: no peer\n"
        );
        let args = Args::parse_from(["bench", "--quick"]);
        let json = json(&Facts::gather(), &args, &results);
        assert_eq!(json["cases"][0]["values"], json!([0.5, 1.25]));
        assert_eq!((&json["cases"][1]["median"], &json["rounds"]), (&Value::Null, &json!(3)));
        assert!(json["facts"]["cores"].as_u64().is_some_and(|cores| cores > 0));
    }
}
