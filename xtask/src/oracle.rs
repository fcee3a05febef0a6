//! `cargo xtask oracle`: the balancer beside Linux IPVS.

use crate::sh;

/// Plays the cases that `arguments` choose.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let mut command = sh::cargo();
    command.args(["run", "--quiet", "--package", "ringlet-oracle", "--"]).args(arguments);
    sh::run(&mut command)
}

/// Plays all cases. Where there is no Linux for it, this is said and passed over, unless it is CI that asks.
pub fn test() -> anyhow::Result<()> {
    if ringlet_linux::Linux::find().is_none() && std::env::var_os("CI").is_none() {
        println!("==== NOT RUN, for want of a kernel: not installed (Debian): {} ====", ringlet_linux::PACKAGE);
        return Ok(());
    }
    run(&[])
}
