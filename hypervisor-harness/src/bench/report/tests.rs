use std::collections::BTreeMap;

use clap::Parser;

use super::html;
use super::markdown::Markdown;
use super::text::Text;
use super::*;
use crate::bench::Args;

/// A report with everything that there can be in one.
pub(crate) fn report() -> Report {
    let side = |name: &str, rounds: &[&[f64]]| Side {
        name: name.to_owned(),
        rounds: (0..)
            .zip(rounds)
            .map(|(round, values)| Round { round, values: values.to_vec(), remark: format!("round {round} <&>") })
            .collect(),
        ..Side::default()
    };
    let told = |name: &str, better, values: &[&str], sides: Vec<Side>| Told {
        name: name.to_owned(),
        about: "so & so".to_owned(),
        unit: "Mpps".to_owned(),
        better,
        values: values.iter().map(|value| (*value).to_owned()).collect(),
        target: ">= 10 x nftables".to_owned(),
        sides,
    };
    let facts = Facts {
        version: "0.1.0".into(),
        processor: "a | b".into(),
        cores: 2,
        kernel: "6.18".into(),
        congestion_control: "cubic".into(),
        kvm: "VMX".into(),
        build: "release".into(),
        image: "prebuilt".into(),
        device: "one queue pair".into(),
        peers: BTreeMap::from([("nft".to_owned(), "1.0.6".to_owned())]),
    };
    let settings =
        Settings { transport: "mmio".into(), rounds: 2, seconds: 1.0, memory_mib: 128, pinned: [Some(0), None] };
    let missing = Side { missing: Some("apt-get install it".into()), ..side("absent", &[]) };
    let failed = Side { failures: vec!["no guest\n\u{1}".into()], ..side("failed", &[]) };
    Report {
        facts,
        settings,
        cases: vec![
            told(
                "nat",
                Better::More,
                &[""],
                vec![side("ringlet", &[&[8.0], &[10.0]]), side("nftables", &[&[1.0], &[1.0]]), missing, failed],
            ),
            told(
                "latency",
                Better::Less,
                &["p50", "p99"],
                vec![side("ringlet", &[&[20.0, 30.0], &[21.0, 90.0]]), side("direct", &[&[10.0, 40.0], &[10.5, 45.0]])],
            ),
        ],
        cut_short: Some("it was stopped".into()),
    }
}

#[test]
fn sides_are_compared_and_doubts_are_told() {
    let report = report();
    let [nat, latency] = &report.cases[..] else { panic!("two cases") };
    assert_eq!(nat.ratio(0, 0), None);
    assert_eq!(nat.ratio(1, 0).map(|ratio| (ratio.median, ratio.least, ratio.greatest)), Some((9.0, 8.0, 10.0)));
    assert_eq!(nat.ratio(2, 0), None);
    assert!(nat.failed() && !latency.failed());
    let warnings = nat.warnings();
    assert!(warnings.len() == 1 && warnings[0].starts_with("ringlet: wide spread, 22 %"), "{warnings:?}");
    let warnings = latency.warnings();
    // 30 to 90 is wide, and 0.75 to 2 times the other is undecided.
    assert!(warnings.iter().any(|text| text.starts_with("ringlet p99: wide")), "{warnings:?}");
    assert!(warnings.iter().any(|text| text.starts_with("direct p99: the rounds do not agree")), "{warnings:?}");
}

#[test]
fn the_terminal_is_told_everything() {
    let text = Text(&report()).to_string();
    for part in [
        "nat: so & so",
        "in Mpps, more is better; target: >= 10 x nftables",
        "ringlet is 9.000 x of it (8.000 .. 10.00)",
        "not measured: apt-get install it",
        "FAILED 1 times: no guest",
        "ringlet p99",
        "! ringlet: wide spread",
        "This is not all: it was stopped.",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
}

#[test]
fn the_page_is_whole_and_needs_nothing_else() {
    let report = report();
    let page = html::write(&report).unwrap();
    let tree = roxmltree::Document::parse(&page).unwrap_or_else(|error| panic!("{error}:\n{page}"));
    let headings: Vec<_> =
        tree.descendants().filter(|node| node.has_tag_name("h2") || node.tag_name().name() == "h2").collect();
    assert_eq!(headings.iter().map(|node| node.attribute("id").unwrap()).collect::<Vec<_>>(), ["nat", "latency"]);
    let pictures = tree.descendants().filter(|node| node.tag_name().name() == "svg").count();
    assert_eq!(pictures, 3, "one for each value");
    let dots = tree.descendants().filter(|node| node.tag_name().name() == "circle").count();
    assert_eq!(dots, 4 + 4 + 4, "one for each round");
    let refers = |node: roxmltree::Node<'_, '_>| {
        node.attributes()
            .any(|attribute| matches!(attribute.name(), "src" | "href") && !attribute.value().starts_with('#'))
    };
    assert!(!tree.descendants().any(refers) && !page.contains("url(") && !page.contains("@import"));
    for part in [
        "congestion control cubic",
        "apt-get install it",
        "failed 1 times: no guest ?",
        "it was stopped",
        "a | b",
        "nft",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn tables_in_markdown_keep_their_columns() {
    let text = Markdown(&report()).to_string();
    assert!(text.contains("| machine | a \\| b, 2 cores |"), "{text}");
    assert!(text.contains("| tcp | congestion control cubic |"), "{text}");
    assert!(text.contains("| `nat` | ringlet | 9.000 | 8.000 .. 10.00 | Mpps |  |"), "{text}");
    assert!(text.contains("|  | nftables | 1.000 | 1.000 .. 1.000 | Mpps | 9.000 (8.000 .. 10.00) |"), "{text}");
    assert!(text.contains("|  | absent | not measured | apt-get install it | | |"), "{text}");
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let columns = line.replace("\\|", "").matches('|').count();
        assert!(columns == 3 || columns == 7, "{line}");
    }
}

#[test]
fn tables_go_where_a_page_wants_them() {
    use super::markdown::embed;
    let page = "# Title\n<!-- bench -->\nold\n<!-- /bench -->\nrest\n";
    let new = embed(page, "new\n");
    assert_eq!(new, "# Title\n<!-- bench -->\nnew\n<!-- /bench -->\nrest\n");
    assert_eq!(embed(&new, "newer\n"), page.replace("old", "newer"));
    assert_eq!(embed("no place", "new\n"), "new\n");
}

#[test]
fn json_can_be_read_back() {
    let report = report();
    let text = json::write(&report).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["cases"][0]["sides"][1]["ratio"][0]["median"], 9.0);
    assert_eq!(value["cases"][0]["sides"][0]["summary"][0]["least"], 8.0);
    assert_eq!(value["cases"][0]["sides"][2]["summary"][0], serde_json::Value::Null);
    assert_eq!(json::read(&text).unwrap(), report);
    assert!(json::read("{}").is_err());
    assert_eq!(value["facts"]["congestion_control"], "cubic");
    // A report of a version that did not ask for it.
    let old = text.replacen("congestion_control", "another_fact", 1);
    let lines = json::read(&old).unwrap().facts.lines(&report.settings);
    assert!(lines.contains(&("tcp".to_owned(), "congestion control unknown".to_owned())), "{lines:?}");
}

#[test]
fn reports_of_several_runs_are_put_together() {
    let directory = std::env::temp_dir().join(format!("ringlet-report-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, report: &Report| {
        let path = directory.join(name);
        std::fs::write(&path, json::write(report).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (mut one, mut other) = (report(), report());
    one.cases.truncate(1);
    one.cut_short = None;
    other.cases.remove(0);
    other.settings.rounds = 7;
    let mut strange = other.clone();
    strange.facts.kernel = "2.6".into();
    let files = [write("one", &one), write("other", &other), write("strange", &strange), write("nothing", &one)];
    let read = |files: &[&String]| {
        let args =
            Args::parse_from(["bench"].into_iter().chain(files.iter().flat_map(|file| ["--from", file.as_str()])));
        crate::bench::read(&args.from)
    };
    let both = read(&[&files[0], &files[1]]).unwrap();
    assert_eq!(both.cases, report().cases);
    assert_eq!(both.cut_short, report().cut_short);
    assert!(read(&[&files[0], &files[2]]).unwrap_err().to_string().contains("another host"));
    assert!(read(&[&files[0], &files[3]]).unwrap_err().to_string().contains("once more"));
    std::fs::remove_dir_all(&directory).unwrap();
}
