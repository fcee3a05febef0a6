//! `cargo xtask test`: everything that has to hold, in order, the quick things first.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use ringlet_image::{Output, Way};

use crate::{fuzz, image, instructions, oracle, sh};

/// The flags of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these steps
    #[arg(value_enum)]
    steps: Vec<Step>,
    /// All steps but these
    #[arg(long, value_enum, value_delimiter = ',')]
    skip: Vec<Step>,
    /// Go on after a step that failed
    #[arg(long)]
    keep_going: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// What the other steps need is installed
    Tools,
    /// The code is formatted
    Fmt,
    /// No lint complains, of the workspace, of the image and of the fuzz targets
    Clippy,
    /// The documentation builds without a warning
    Doc,
    /// Unit, property and documentation tests
    Host,
    /// The packet path is no longer than it was, in instructions, counted by valgrind
    Instructions,
    /// The balancer does what Linux IPVS does, in a virtual machine
    Oracle,
    /// The image builds, with a core of its own where that can be had, and with the prebuilt one
    Image,
    /// End to end, in KVM
    E2e,
    /// Real clients and servers in network namespaces
    Netns,
    /// The same image in QEMU, on every machine
    Qemu,
    /// vhost-user, with DPDK, Open vSwitch and QEMU at the other end
    Vhost,
}

impl Step {
    fn heading(self) -> &'static str {
        match self {
            Self::Tools => "what is installed",
            Self::Fmt => "formatting",
            Self::Clippy => "lints",
            Self::Doc => "documentation",
            Self::Host => "tests on the host",
            Self::Instructions => "instructions of the packet path",
            Self::Oracle => "the balancer beside Linux IPVS",
            Self::Image => "the image",
            Self::E2e => "end to end in KVM",
            Self::Netns => "network namespaces",
            Self::Qemu => "QEMU",
            Self::Vhost => "vhost-user",
        }
    }

    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Tools => tools(),
            Self::Fmt => {
                sh::run(sh::cargo().args(["fmt", "--all", "--check"]))?;
                for package in fuzz::PACKAGES {
                    let manifest = format!("{package}/fuzz/Cargo.toml");
                    sh::run(sh::cargo().args(["fmt", "--check", "--manifest-path", &manifest]))?;
                }
                Ok(())
            }
            Self::Clippy => {
                let all = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"];
                sh::run(sh::cargo().args(all))?;
                lint_fuzz_targets()?;
                Ok(ringlet_image::clippy(&sh::workspace(), &sh::target_directory(), Output::Inherit)?)
            }
            Self::Doc => {
                let mut command = sh::cargo();
                command.args(["doc", "--quiet", "--workspace", "--no-deps"]);
                sh::run(command.env("RUSTDOCFLAGS", "--deny warnings"))
            }
            Self::Host => host(),
            Self::Instructions => instructions::run(),
            Self::Oracle => oracle::test(),
            Self::Image => images(),
            Self::E2e => programs("e2e_", false),
            Self::Netns => programs("netns_", false),
            Self::Qemu => programs("qemu_", true),
            Self::Vhost => programs("vhost_", false),
        }
    }
}

/// Runs the steps that were asked for.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let wanted = |step: &Step| (args.steps.is_empty() || args.steps.contains(step)) && !args.skip.contains(step);
    let steps: Vec<_> = Step::value_variants().iter().copied().filter(wanted).collect();
    let mut results = Vec::new();
    for (nth, step) in steps.iter().enumerate() {
        println!("\n==== {}/{}: {} ====", nth + 1, steps.len(), step.heading());
        let began = Instant::now();
        let result = step.run();
        if let Err(error) = &result {
            println!("FAILED: {error:#}");
        }
        let failed = result.is_err();
        results.push((step.heading(), failed, began.elapsed()));
        if failed && !args.keep_going {
            break;
        }
    }
    summary(&results, steps.len())
}

fn summary(results: &[(&str, bool, Duration)], steps: usize) -> anyhow::Result<()> {
    println!("\n==== summary ====");
    for (heading, failed, took) in results {
        println!("{} {heading} ({:.0} s)", if *failed { "FAILED" } else { "ok    " }, took.as_secs_f64());
    }
    if results.len() < steps {
        println!("{} steps did not run", steps - results.len());
    }
    match results.iter().filter(|(_, failed, _)| *failed).count() {
        0 => Ok(()),
        failed => Err(anyhow!("{failed} of {} steps failed", results.len())),
    }
}

/// A program that the tests start, and the packages of Debian and Fedora that have it.
const TOOLS: [(&str, &str, &str); 16] = [
    ("qemu-system-x86_64", "qemu-system-x86", "qemu-system-x86-core"),
    ("ip", "iproute2", "iproute"),
    ("ipvsadm", "ipvsadm", "ipvsadm"),
    ("curl", "curl", "curl"),
    ("iperf3", "iperf3", "iperf3"),
    ("python3", "python3-minimal", "python3"),
    ("dpdk-testpmd", "dpdk-dev", "dpdk"),
    ("ovs-vsctl", "openvswitch-switch-dpdk", "openvswitch-dpdk"),
    ("ovsdb-tool", "openvswitch-common", "openvswitch"),
    ("ovsdb-server", "openvswitch-common", "openvswitch"),
    ("busybox", "busybox-static", "busybox"),
    ("nft", "nftables", "nftables"),
    ("haproxy", "haproxy", "haproxy"),
    ("valgrind", "valgrind", "valgrind"),
    ("nginx", "nginx-light libnginx-mod-stream", "nginx-mod-stream"),
    ("vsftpd", "vsftpd", "vsftpd"),
];

/// Whether all is there that the other steps need. It is better to hear this now than after ten minutes.
fn tools() -> anyhow::Result<()> {
    let missing: Vec<_> = TOOLS.iter().filter(|(program, ..)| !sh::has(program)).collect();
    if !missing.is_empty() {
        let list = |part: fn(&(&'static str, &'static str, &'static str)) -> &'static str| {
            missing.iter().map(|tool| part(tool)).collect::<Vec<_>>().join(" ")
        };
        bail!(
            "not installed: {}. Debian: `apt-get install {}`; Fedora: `dnf install {}`",
            list(|tool| tool.0),
            list(|tool| tool.1),
            list(|tool| tool.2)
        );
    }
    if !switch_has_dpdk() {
        bail!(
            "the Open vSwitch that is installed has no DPDK. Debian: `apt-get install openvswitch-switch-dpdk`; Fedora: `dnf \
             install openvswitch-dpdk`"
        );
    }
    println!("found {}", TOOLS.map(|tool| tool.0).join(", "));
    if kvm_exists() {
        // Whether it can be used is for the tests to find out: they say exactly why not.
        println!("found /dev/kvm");
    } else {
        no_kvm();
    }
    Ok(())
}

/// Whether one of the switches of Open vSwitch was built with DPDK, which it says where it tells its version. Debian has the one that was
/// beside the other.
fn switch_has_dpdk() -> bool {
    ["/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk", "/usr/sbin/ovs-vswitchd", "ovs-vswitchd"].iter().any(
        |path| {
            let version = Command::new(path).arg("--version").output();
            version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("DPDK"))
        },
    )
}

/// There is a `/dev/kvm`. If it is there and cannot be used, that is a failure and no reason to skip anything.
fn kvm_exists() -> bool {
    Path::new("/dev/kvm").exists()
}

fn no_kvm() {
    println!(
        "================================================================\n\
         == There is no /dev/kvm here. What should run in KVM runs in  ==\n\
         == QEMU, BY TRANSLATION, and what is about KVM itself NOT AT  ==\n\
         == ALL: its tests say so.                                     ==\n\
         ================================================================"
    );
}

/// A `cargo test` or `cargo nextest run`, whichever is there.
fn tester() -> (Command, bool) {
    let mut command = sh::cargo();
    let nextest = sh::has("cargo-nextest");
    if nextest {
        command.args(["nextest", "run", "--no-fail-fast"]);
    } else {
        command.args(["test", "--no-fail-fast"]);
    }
    if !kvm_exists() {
        command.env("RINGLET_TEST_NO_KVM", "1");
    }
    (command, nextest)
}

/// Lints of the fuzz targets, which would rot unseen: only `cargo xtask fuzz` builds them, with a nightly toolchain.
fn lint_fuzz_targets() -> anyhow::Result<()> {
    for package in fuzz::PACKAGES {
        let manifest = format!("{package}/fuzz/Cargo.toml");
        let mut command = sh::cargo();
        command.args(["clippy", "--quiet", "--bins", "--manifest-path", &manifest, "--", "--deny", "warnings"]);
        // libFuzzer itself is linked by nobody here. Without this it would be compiled, which takes a C++ compiler and longer than all else.
        sh::run(command.env("CUSTOM_LIBFUZZER_PATH", "/nonexistent/libfuzzer.a"))?;
    }
    Ok(())
}

/// Everything that needs neither a machine nor a network.
fn host() -> anyhow::Result<()> {
    sh::run(tester().0.args(["--workspace", "--exclude", "ringlet"]))?;
    sh::run(tester().0.args(["--package", "ringlet", "--lib", "--bins"]))?;
    // Each benchmark once, that it works.
    sh::run(sh::cargo().args([
        "test",
        "--quiet",
        "--package",
        "ringlet-balancer",
        "--bench",
        "balancer",
        "--",
        "--test",
    ]))?;
    // nextest does not know documentation tests.
    sh::run(sh::cargo().args(["test", "--quiet", "--workspace", "--doc"]))
}

/// The image with its own core where that can be had, and with the prebuilt one.
fn images() -> anyhow::Result<()> {
    let mut own = None;
    for way in [Way::BuildStd, Way::Debian] {
        match ringlet_image::toolchain::select(&sh::workspace(), Some(way)) {
            Ok(_) => {
                own = Some(way);
                break;
            }
            Err(why) => println!("not possible here: {why}"),
        }
    }
    match own {
        Some(way) => drop(image::build(Some(way), false)?),
        None if std::env::var_os("CI").is_some() => {
            bail!("the image cannot be built with a core of its own here (see above)")
        }
        None => println!("so the image is built and tested with the prebuilt core only"),
    }
    image::build(Some(Way::Prebuilt), false).map(drop)
}

/// The test programs of the harness whose names begin with `prefix`. Where the image can be built in two ways, the ones
/// for which `both` is set run with both images.
fn programs(prefix: &str, both: bool) -> anyhow::Result<()> {
    let directory = sh::workspace().join("hypervisor-harness/tests");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".rs").filter(|name| name.starts_with(prefix)) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    if names.is_empty() {
        bail!("there are no test programs called {prefix}*");
    }
    if !kvm_exists() {
        no_kvm();
    }
    let run = |way: Option<Way>| {
        let (mut command, nextest) = tester();
        command.args(["--package", "ringlet"]);
        for name in &names {
            command.args(["--test", name]);
        }
        // Each of these tests boots machines and moves much data: one at a time.
        command.args(if nextest { ["--test-threads", "1"] } else { ["--", "--test-threads=1"] }.iter());
        if let Some(way) = way {
            println!("with the image of: {way}");
            command.env(ringlet_image::FORCE_VARIABLE, way.name());
        }
        sh::run(&mut command)
    };
    run(None)?;
    let workspace = sh::workspace();
    let best = ringlet_image::toolchain::select(&workspace, None).map_err(|why| anyhow!(why))?;
    if both && best.way != Way::Prebuilt {
        run(Some(Way::Prebuilt))?;
    }
    Ok(())
}
