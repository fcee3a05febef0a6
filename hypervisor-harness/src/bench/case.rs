//! What a case is: one question, asked of several sides in turn.

use super::Args;

/// One question, with the sides that answer it. The first side is the one that the others are compared with.
#[derive(Debug)]
pub struct Case {
    /// How it is called.
    pub name: &'static str,
    /// What it is, in a sentence without a full stop.
    pub about: &'static str,
    /// The unit of its values.
    pub unit: &'static str,
    /// Which values are the better ones.
    pub better: Better,
    /// What each of its values is: one empty name where there is only one.
    pub values: &'static [&'static str],
    /// What is to be reached; empty where nothing is promised.
    pub target: &'static str,
    /// When it is measured.
    pub when: When,
    /// Who is measured.
    pub sides: &'static [Side],
}

impl Case {
    /// One value, of which more is better, with no target; measured always.
    pub const PLAIN: Self = Self {
        name: "",
        about: "",
        unit: "",
        better: Better::More,
        values: &[""],
        target: "",
        when: When::Always,
        sides: &[],
    };
}

/// Which values are the better ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// The greater ones: rates.
    More,
    /// The smaller ones: times and sizes.
    Less,
}

/// When a case is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// In every run.
    Always,
    /// Not with `--quick`, unless it is named: it takes long, or asks what another case asks of something else.
    Full,
    /// As [`When::Full`], and in the first round only: what it measures is always the same.
    Once,
}

/// One who is measured.
#[derive(Debug)]
pub struct Side {
    /// How it is called.
    pub name: &'static str,
    /// What it is, where the name does not say it.
    pub about: &'static str,
    /// Measures it once, after a warm-up of its own.
    pub measure: fn(&Args) -> anyhow::Result<Measured>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The values that the case names, in its order and unit.
    pub values: Vec<f64>,
    /// What there is to say about them: losses, what was negotiated.
    pub remark: String,
}

impl Measured {
    /// A measurement of one value.
    #[must_use]
    pub fn one(value: f64, remark: impl Into<String>) -> Self {
        Self { values: vec![value], remark: remark.into() }
    }
}

/// Something that a side needs is not here, such as a program that is not installed: it cannot be measured, which is no
/// failure. Says what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Missing(pub String);
