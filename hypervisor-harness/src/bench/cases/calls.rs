//! Connections a second that the guest balances, when opening and closing them costs Linux nothing.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::forward::{rules, with_room};
use crate::backend::generator::Load;
use crate::backend::generator::calls::Calls;
use crate::backend::options::Protocol;
use crate::bench::case::Measured;
use crate::bench::guest::{Guest, Plan};
use crate::bench::{Args, stop};

/// Connections that are open at the same time.
const CONVERSATIONS: u32 = 256;
/// Clients: three quarters of a table of 262144 entries are connections that are over. For a look, a tenth of it.
const CLIENTS: u32 = 768 * CONVERSATIONS;
const FEW_CLIENTS: u32 = 64 * CONVERSATIONS;
/// A measurement that is shorter is a look.
const LOOK: Duration = Duration::from_millis(500);
const WARM_UP: Duration = Duration::from_millis(300);
/// A guest that balances nothing by then will not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures connections a second. Each client has had its turn before, and comes back: its connection is in the table, and over.
///
/// # Errors
/// If the guest does not boot or balances nothing, or a frame comes back wrong.
pub fn calls(args: &Args) -> anyhow::Result<Measured> {
    let clients = if args.time() < LOOK { FEW_CLIENTS } else { CLIENTS };
    let load = Load { protocol: Protocol::Tcp, flows: clients, ..Load::default() };
    let plan = Plan { rules: rules(&load), ..with_room(args, clients) };
    let (network, meter) = Calls::new(load, CONVERSATIONS)?;
    let guest = Guest::boot(args, network, plan)?;
    meter.start();
    let began = Instant::now();
    while meter.tally().done < u64::from(clients) {
        if began.elapsed() > PATIENCE {
            bail!("the guest balances too little: {:?}", meter.tally());
        }
        stop::pause(Duration::from_millis(1))?;
    }
    stop::pause(WARM_UP)?;
    let (before, from) = (meter.tally(), Instant::now());
    stop::pause(args.time())?;
    let (after, time) = (meter.tally(), from.elapsed().as_secs_f64());
    let negotiated = guest.device().negotiated();
    meter.stop();
    guest.end()?;
    ensure!(after.wrong == 0, "{} frames came back wrong", after.wrong);
    let (done, lost) = (after.done - before.done, after.lost - before.lost);
    ensure!(done > 0 && after.verified > before.verified, "nothing is balanced any more: {after:?}");
    let remark = format!(
        "{CONVERSATIONS} at a time of {clients}, {lost} lost, {:.2} Mpps; {negotiated}",
        done as f64 * 7.0 / time / 1e6
    );
    Ok(Measured::one(done as f64 / time, remark))
}
