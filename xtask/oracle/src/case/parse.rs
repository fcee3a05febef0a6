//! Cases from text. docs/oracle.md has the language.

use std::time::Duration;

use anyhow::{Context, bail};
use ringlet_balancer::ipvsadm::{self, Command};

use super::{Action, Case, Step};
use crate::packet;

/// The cases of a file.
pub fn parse(file: &str, text: &str) -> anyhow::Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    let mut choice = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            let name = name.trim().to_owned();
            cases.push(Case { name, file: file.to_owned(), rules: Vec::new(), steps: Vec::new() });
            continue;
        }
        let case = cases.last_mut().with_context(|| format!("{file}:{number}: no `== NAME` before this"))?;
        if let Some(name) = line.strip_prefix("! ") {
            choice = Some(name.trim().to_owned());
            continue;
        }
        for text in expand(line).with_context(|| format!("{file}:{number}"))? {
            let action = action(&text).with_context(|| format!("{file}:{number}"))?;
            match action {
                Action::Control(rule) if case.steps.is_empty() && choice.is_none() && is_rule(&rule) => {
                    case.rules.push(rule);
                }
                action => case.steps.push(Step { line: number, text, choice: choice.clone(), action }),
            }
        }
        choice = None;
    }
    Ok(cases)
}

/// Whether a command may stand in a file of rules.
fn is_rule(command: &str) -> bool {
    command.starts_with("-A ") || command.starts_with("-a ")
}

fn action(line: &str) -> anyhow::Result<Action> {
    if line.starts_with('-') {
        return Ok(Action::Control(line.to_owned()));
    }
    let words: Vec<_> = line.split_whitespace().collect();
    Ok(match &words[..] {
        ["try", rest @ ..] => Action::Control(rest.join(" ")),
        ["mark", ..] => match ipvsadm::parse(&words) {
            Ok(Command::AddMark(rule)) => Action::Mark(rule),
            Ok(_) => bail!("only `mark add`"),
            Err(error) => bail!("{error}"),
        },
        ["list"] => Action::List,
        ["list", "now"] => Action::ListNow,
        ["counters"] => Action::Counters,
        ["rates"] => Action::Rates,
        ["reply", rest @ ..] => Action::Reply(rest.iter().map(|&word| word.to_owned()).collect()),
        ["wait", seconds] => Action::Wait(Duration::try_from_secs_f64(seconds.parse()?)?),
        ["sysctl", setting] => {
            let (variable, value) = setting.split_once('=').context("should be `sysctl VARIABLE=VALUE`")?;
            Action::Set(variable.to_owned(), value.to_owned())
        }
        _ => Action::Packet(packet::parse(line)?),
    })
}

/// A line with `{1..3}` in it is three lines; with several such, one for each combination, the last counting fastest.
fn expand(line: &str) -> anyhow::Result<Vec<String>> {
    let Some((before, rest)) = line.split_once('{') else { return Ok(vec![line.to_owned()]) };
    let (range, after) = rest.split_once('}').context("`{` without `}`")?;
    let Some((first, last)) = range.split_once("..") else { bail!("`{{{range}}}` should be `{{FIRST..LAST}}`") };
    let (first, last): (u32, u32) = (first.parse()?, last.parse()?);
    let tails = expand(after)?;
    Ok((first..=last).flat_map(|n| tails.iter().map(move |tail| format!("{before}{n}{tail}"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_count_and_combine() {
        assert_eq!(expand("a{9..10}b{1..2}").unwrap(), ["a9b1", "a9b2", "a10b1", "a10b2"]);
        assert_eq!(expand("plain").unwrap(), ["plain"]);
        assert!(expand("{1,2}").is_err() && expand("{1..").is_err());
    }

    #[test]
    fn rules_come_before_the_first_step() {
        let text = "# remark\n== one\n-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.1{1..2}:80 -m\n\
                    tcp 10.9.0.1:1 > 10.0.0.100:80 S\n! why\nwait 1.5\n-A -t 10.0.0.100:81\n== two\nlist\n";
        let cases = parse("file", text).unwrap();
        assert_eq!((cases.len(), cases[0].rules.len(), cases[0].steps.len()), (2, 3, 3));
        assert_eq!(cases[0].steps[1].choice.as_deref(), Some("why"));
        assert_eq!((cases[0].steps[1].line, &cases[0].steps[2].choice), (7, &None));
        assert_eq!(cases[1].name, "two");
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place() {
        for text in ["list", "== a\nbogus", "== a\ntcp 10.9.0.1 > 10.0.0.100:80 S", "== a\nwait", "== a\nsysctl a"] {
            let error = format!("{:#}", parse("file", text).unwrap_err());
            assert!(error.starts_with("file:"), "{error}");
        }
    }
}
