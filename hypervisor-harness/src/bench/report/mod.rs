//! What a run has given: data first, then the forms in which it is told. A report can be read back from its JSON form, so
//! that a page can be made later, and from several runs.

pub mod html;
pub mod json;
pub mod markdown;
mod number;
mod plot;
pub mod text;

use serde::{Deserialize, Serialize};

use super::case::{Better, Case, Measured};
use super::facts::Facts;
use super::statistics::{self, Summary};

pub use number::Short;

/// All that a run has given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured on.
    pub facts: Facts,
    /// How it was measured.
    pub settings: Settings,
    /// The cases, in the order in which they took turns.
    pub cases: Vec<Told>,
    /// Why the run ended before its end.
    pub cut_short: Option<String>,
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How guests reached their device.
    pub transport: String,
    /// Rounds that were asked for.
    pub rounds: u32,
    /// How long a rate was measured each time, in seconds.
    pub seconds: f64,
    /// The guests' memory, in MiB, where the case does not say otherwise.
    pub memory_mib: u32,
    /// The processors of the vCPU's and of the device's thread, where they had one of their own.
    pub pinned: [Option<usize>; 2],
}

impl Settings {
    /// Whether what was measured so can stand in one report, but for rounds and times.
    #[must_use]
    pub fn agree(&self, other: &Self) -> bool {
        *self == Self { rounds: self.rounds, seconds: self.seconds, ..other.clone() }
    }
}

/// What is told of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Its name.
    pub name: String,
    /// What it is.
    pub about: String,
    /// The unit of its values.
    pub unit: String,
    /// Which values are the better ones.
    pub better: Better,
    /// What each of its values is.
    pub values: Vec<String>,
    /// What is to be reached.
    pub target: String,
    /// The sides. The first one is what the others are compared with.
    pub sides: Vec<Side>,
}

/// What is told of a side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Its name.
    pub name: String,
    /// What it is.
    pub about: String,
    /// What was measured, in order.
    pub rounds: Vec<Round>,
    /// Why rounds have failed.
    pub failures: Vec<String>,
    /// Why it cannot be measured here.
    pub missing: Option<String>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// In which round.
    pub round: u32,
    /// The values that the case names.
    pub values: Vec<f64>,
    /// What there is to say about them.
    pub remark: String,
}

impl Told {
    /// A case of which nothing is known yet.
    #[must_use]
    pub fn new(case: &Case) -> Self {
        let side = |side: &super::case::Side| Side {
            name: side.name.to_owned(),
            about: side.about.to_owned(),
            ..Side::default()
        };
        Self {
            name: case.name.to_owned(),
            about: case.about.to_owned(),
            unit: case.unit.to_owned(),
            better: case.better,
            values: case.values.iter().map(|value| (*value).to_owned()).collect(),
            target: case.target.to_owned(),
            sides: case.sides.iter().map(side).collect(),
        }
    }

    /// How the first side compares with another, in one of the values.
    #[must_use]
    pub fn ratio(&self, side: usize, value: usize) -> Option<Summary> {
        let (own, other) = (self.sides.first()?, self.sides.get(side).filter(|_| side > 0)?);
        statistics::ratio(own.series(value), &other.series(value).collect::<Vec<_>>())
    }

    /// Whether a round of any side has failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.sides.iter().any(|side| !side.failures.is_empty())
    }

    /// What is to be said for honesty's sake.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (nth, side) in self.sides.iter().enumerate() {
            for (value, label) in self.values.iter().enumerate() {
                let of = if label.is_empty() { side.name.clone() } else { format!("{} {label}", side.name) };
                if let Some(summary) = side.summary(value).filter(Summary::is_wide) {
                    let spread = summary.spread() * 100.0;
                    warnings
                        .push(format!("{of}: wide spread, {spread:.0} % of the median: noise, or a matter of luck"));
                }
                let ratio = self.ratio(nth, value);
                if ratio.is_some_and(|ratio| ratio.count > 1 && ratio.least < 1.0 && ratio.greatest > 1.0) {
                    warnings.push(format!("{of}: the rounds do not agree on which side is ahead"));
                }
            }
        }
        warnings
    }
}

impl Side {
    /// Takes one measurement.
    pub fn add(&mut self, round: u32, measured: Measured) {
        self.rounds.push(Round { round, values: measured.values, remark: measured.remark });
    }

    /// One of the values, by round.
    pub fn series(&self, value: usize) -> impl Iterator<Item = (u32, f64)> + '_ {
        self.rounds.iter().filter_map(move |round| Some((round.round, *round.values.get(value)?)))
    }

    /// What is told of one of the values.
    #[must_use]
    pub fn summary(&self, value: usize) -> Option<Summary> {
        Summary::of(self.series(value).map(|(_, value)| value))
    }

    /// What there is to say about the round whose first value is nearest to the median.
    #[must_use]
    pub fn remark(&self) -> &str {
        let Some(summary) = self.summary(0) else { return "" };
        let distance = |round: &Round| round.values.first().map_or(f64::MAX, |value| (value - summary.median).abs());
        let nearest = self.rounds.iter().min_by(|one, other| distance(one).total_cmp(&distance(other)));
        nearest.map_or("", |round| &round.remark)
    }
}

#[cfg(test)]
pub(super) mod tests;
