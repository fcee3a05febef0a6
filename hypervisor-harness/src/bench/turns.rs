//! The run itself: sides take turns, round after round, until all is done, the time is over, or the user has had enough.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Args;
use super::case::{Case, Missing, Side, When};
use super::report::Told;
use super::rest::Rest;
use super::stop::{self, Stopped};

/// One side of one case, as places in lists.
type Place = (usize, usize);

/// What is to be measured: cases with the sides that are wanted.
#[derive(Debug)]
pub struct Chosen {
    /// The case.
    pub case: &'static Case,
    /// Places of the wanted sides.
    pub sides: Vec<usize>,
}

/// What has been measured, and why that is not all of it.
#[derive(Debug)]
pub struct Outcome {
    /// The cases, in their order.
    pub cases: Vec<Told>,
    /// Why the run ended before its end.
    pub cut_short: Option<String>,
}

/// Measures everything, and shows how far it has got, if there is anybody to see it.
pub fn run(args: &Args, chosen: &[Chosen], until: Option<Instant>) -> Outcome {
    let mut cases: Vec<Told> = chosen.iter().map(|chosen| Told::new(chosen.case)).collect();
    let mut clock = Clock::new(args, chosen);
    let (mut cut_short, mut rest) = (None, Rest::new(args.quick));
    'rounds: for round in 0..args.rounds() {
        for (nth, Chosen { case, sides }) in chosen.iter().enumerate() {
            for &side in sides {
                if !due(case, &cases[nth].sides[side].missing, round) {
                    continue;
                }
                if stop::stopped() {
                    cut_short = Some("it was stopped".to_owned());
                    break 'rounds;
                }
                let place = (nth, side);
                if until.is_some_and(|until| clock.would_end(place) > until) {
                    cut_short = Some("its time was over".to_owned());
                    break 'rounds;
                }
                clock.begin(round, case, &case.sides[side]);
                if rest.wait().is_err() {
                    cut_short = Some("it was stopped".to_owned());
                    break 'rounds;
                }
                let told = &mut cases[nth].sides[side];
                let began = Instant::now();
                match (case.sides[side].measure)(args) {
                    Ok(measured) => told.add(round, measured),
                    Err(error) if error.is::<Stopped>() || stop::stopped() => {
                        cut_short = Some("it was stopped".to_owned());
                        break 'rounds;
                    }
                    Err(error) => match error.downcast::<Missing>() {
                        Ok(Missing(what)) => told.missing = Some(what),
                        Err(error) => told.failures.push(format!("{error:#}")),
                    },
                }
                let missing = told.missing.is_some();
                clock.done(place, began.elapsed(), missing.then(|| args.rounds() - round - 1));
            }
        }
    }
    clock.bar.finish_and_clear();
    Outcome { cases, cut_short }
}

/// Whether a side has its turn in this round.
fn due(case: &Case, missing: &Option<String>, round: u32) -> bool {
    missing.is_none() && (case.when != When::Once || round == 0)
}

/// How far the run has got, and how long the rest will take.
struct Clock {
    bar: ProgressBar,
    rounds: u32,
    /// How long each side takes, once that is known, and how many turns it still has.
    times: HashMap<Place, (Option<Duration>, u32)>,
}

impl Clock {
    fn new(args: &Args, chosen: &[Chosen]) -> Self {
        let rounds = args.rounds();
        let turns = |case: &Case| if case.when == When::Once { 1 } else { rounds };
        let places = chosen.iter().enumerate().flat_map(|(nth, chosen)| {
            let turns = turns(chosen.case);
            chosen.sides.iter().map(move |side| ((nth, *side), (None, turns)))
        });
        let times: HashMap<_, _> = places.collect();
        let all = times.values().map(|(_, turns)| u64::from(*turns)).sum();
        // On standard error, and only if that is a terminal.
        let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new(all) };
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Self { bar, rounds, times }
    }

    /// What a side takes that has not had its turn yet: what the others take, or nothing if nothing is known.
    fn guess(&self) -> Duration {
        let known: Vec<Duration> = self.times.values().filter_map(|(time, _)| *time).collect();
        known.iter().sum::<Duration>() / u32::try_from(known.len().max(1)).unwrap_or(u32::MAX)
    }

    fn left(&self) -> Duration {
        let guess = self.guess();
        self.times.values().map(|(time, turns)| time.unwrap_or(guess) * *turns).sum()
    }

    /// When a measurement that begins now will probably end.
    fn would_end(&self, place: Place) -> Instant {
        let takes = self.times.get(&place).and_then(|(time, _)| *time).unwrap_or_else(|| self.guess());
        Instant::now() + takes
    }

    fn begin(&self, round: u32, case: &Case, side: &Side) {
        let left = self.left().as_secs();
        let time =
            if self.guess().is_zero() { String::new() } else { format!("{}:{:02} left; ", left / 60, left % 60) };
        let round = format!("round {} of {}", round + 1, self.rounds);
        self.bar.set_message(format!("{time}{round}: {}, {}", case.name, side.name));
        self.bar.tick();
    }

    /// A turn is over. `given_up`: so many further turns will not be.
    fn done(&mut self, place: Place, took: Duration, given_up: Option<u32>) {
        if let Some((time, turns)) = self.times.get_mut(&place) {
            *time = Some(took);
            *turns = turns.saturating_sub(1 + given_up.unwrap_or(0));
        }
        self.bar.inc(u64::from(1 + given_up.unwrap_or(0)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use clap::Parser;

    use super::*;
    use crate::bench::case::Measured;

    static CALLS: AtomicU32 = AtomicU32::new(0);

    static CASES: [Case; 2] = [
        Case {
            name: "one",
            sides: &[
                Side {
                    name: "a",
                    about: "",
                    measure: |_| Ok(Measured::one(f64::from(CALLS.fetch_add(1, Ordering::SeqCst)), "")),
                },
                Side {
                    name: "b",
                    about: "",
                    measure: |_| Ok(Measured::one(f64::from(CALLS.fetch_add(1, Ordering::SeqCst)), "")),
                },
                Side { name: "c", about: "", measure: |_| Err(Missing("install it".into()).into()) },
                Side { name: "d", about: "", measure: |_| anyhow::bail!("broken") },
            ],
            ..Case::PLAIN
        },
        Case {
            name: "two",
            when: When::Once,
            sides: &[Side { name: "a", about: "", measure: |_| Ok(Measured::one(1.0, "")) }],
            ..Case::PLAIN
        },
    ];

    fn chosen() -> Vec<Chosen> {
        CASES.iter().map(|case| Chosen { case, sides: (0..case.sides.len()).collect() }).collect()
    }

    #[test]
    fn sides_take_turns() {
        let args = Args::parse_from(["bench", "--rounds", "3", "--json"]);
        let outcome = run(&args, &chosen(), None);
        assert_eq!(outcome.cut_short, None);
        let [a, b, c, d] = &outcome.cases[0].sides[..] else { panic!("four sides") };
        let series = |side: &crate::bench::report::Side| side.series(0).collect::<Vec<_>>();
        assert_eq!(series(a), [(0, 0.0), (1, 2.0), (2, 4.0)]);
        assert_eq!(series(b), [(0, 1.0), (1, 3.0), (2, 5.0)]);
        assert_eq!((c.missing.as_deref(), d.failures.len()), (Some("install it"), 3));
        assert_eq!(outcome.cases[1].sides[0].rounds.len(), 1);
        assert!(outcome.cases[0].failed() && !outcome.cases[1].failed());

        // No time at all.
        let outcome = run(&args, &chosen(), Some(Instant::now() - Duration::from_millis(1)));
        assert_eq!(outcome.cut_short.as_deref(), Some("its time was over"));
        assert!(outcome.cases.iter().all(|case| case.sides.iter().all(|side| side.rounds.is_empty())));
    }

    #[test]
    fn the_time_left_is_that_of_the_turns_left() {
        let args = Args::parse_from(["bench", "--rounds", "3", "--json"]);
        let mut clock = Clock::new(&args, &chosen());
        assert_eq!(clock.left(), Duration::ZERO);
        clock.done((0, 0), Duration::from_secs(2), None);
        // 2 turns of its own, 9 of the other sides, and 1.
        assert_eq!(clock.left(), Duration::from_secs(24));
        clock.done((0, 1), Duration::from_secs(4), Some(2));
        assert_eq!(clock.left(), Duration::from_secs(2 * 2 + 7 * 3));
    }
}
