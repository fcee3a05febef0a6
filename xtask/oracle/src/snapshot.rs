//! Services and destinations as a side lists them: the messages from which ipvsadm makes all its listings, each attribute of them.

use anyhow::{Context, anyhow};
use ringlet_balancer::ipvsadm::ServiceEntry;
use ringlet_balancer::wire::ipvs::{Command, command};
use ringlet_balancer::wire::message::{self, Message, flag};
use ringlet_balancer::wire::{Attribute, Destination, Service, Writer};
use ringlet_balancer::{Rates, Stats};

use crate::side::Side;

/// Everything a side lists, line by line: timeouts, services by their names with their destinations newest first, connections.
pub fn take(side: &mut dyn Side) -> anyhow::Result<Vec<String>> {
    everything(side, &counted)
}

/// The same without counters.
pub fn take_uncounted(side: &mut dyn Side) -> anyhow::Result<Vec<String>> {
    everything(side, &|_, _| String::new())
}

/// The rates of every service and destination.
pub fn rates(side: &mut dyn Side) -> anyhow::Result<Vec<String>> {
    services(side, &|_, rates| {
        let Rates { connections, in_packets, out_packets, in_bytes, out_bytes } = rates;
        format!(" rates {connections} {in_packets} {out_packets} {in_bytes} {out_bytes}")
    })
}

fn everything(side: &mut dyn Side, numbers: &Numbers) -> anyhow::Result<Vec<String>> {
    // Linux lets a moment pass for these, in which what is to end at once ends.
    let connections = side.connections()?;
    let mut lines = vec![timeouts(side)?];
    lines.extend(services(side, numbers)?);
    lines.extend(connections);
    Ok(lines)
}

/// Which numbers of a service or destination are told.
type Numbers = dyn Fn(&Stats, &Rates) -> String;

fn counted(stats: &Stats, _: &Rates) -> String {
    let Stats { connections, in_packets, out_packets, in_bytes, out_bytes } = stats;
    format!(" counted {connections} {in_packets} {out_packets} {in_bytes} {out_bytes}")
}

fn services(side: &mut dyn Side, numbers: &Numbers) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut services = Vec::new();
    for answer in ask(side, Command::GetService, flag::DUMP, |_| ())? {
        each(&answer, command::SERVICE, |attribute| {
            let service = Service::read(attribute)?;
            let (text, key) = show_service(&service, numbers)?;
            services.push((text, key));
            Ok(())
        })?;
    }
    services.sort_by_key(|(_, key)| *key);
    for (text, key) in services {
        lines.push(text);
        let name = |w: &mut Writer<'_>| {
            w.nest(command::SERVICE, |w| Service::of_key(&key).write(w));
        };
        for answer in ask(side, Command::GetDest, flag::DUMP, name)? {
            each(&answer, command::DEST, |attribute| {
                lines.push(show_destination(&Destination::read(attribute)?, key.family(), numbers)?);
                Ok(())
            })?;
        }
    }
    Ok(lines)
}

fn ask(
    side: &mut dyn Side,
    command: Command,
    flags: u16,
    attributes: impl FnOnce(&mut Writer<'_>),
) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut bytes = Vec::new();
    message::write_ipvs(&mut bytes, command, flag::REQUEST | flags, (1, 0), attributes);
    side.ask(&bytes.split_off(4))
}

/// Reads the attributes of one kind in an answer.
fn each(answer: &[u8], kind: u16, mut read: impl FnMut(&Attribute<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let message = Message::read(answer).context("an answer is no message")?;
    if message.error().is_some() {
        return Ok(());
    }
    let (_, attributes) = message.generic().context("an answer without a command")?;
    attributes.into_iter().filter(|attribute| attribute.kind == kind).try_for_each(|attribute| read(&attribute))
}

fn timeouts(side: &mut dyn Side) -> anyhow::Result<String> {
    let mut values = [0; 3];
    for answer in ask(side, Command::GetConfig, flag::ACK, |_| ())? {
        for (value, kind) in values.iter_mut().zip(command::TIMEOUT_TCP..) {
            each(&answer, kind, |attribute| {
                *value = attribute.u32()?;
                Ok(())
            })?;
        }
    }
    Ok(format!("timeouts {values:?}"))
}

fn show_service(service: &Service<'_>, numbers: &Numbers) -> anyhow::Result<(String, ringlet_balancer::ServiceKey)> {
    let wrong = |error| anyhow!("a service that cannot be read ({error}): {service:?}");
    let entry = ServiceEntry::read(service).map_err(wrong)?;
    let (flags, _) = service.flags.unwrap_or_default();
    let (stats, rates) = service.stats.context("a service without counters")?;
    Ok((format!("service {entry} flags {flags:#x}{}", numbers(&stats, &rates)), entry.key))
}

fn show_destination(
    destination: &Destination,
    family: ringlet_balancer::Family,
    numbers: &Numbers,
) -> anyhow::Result<String> {
    let wrong = |error| anyhow!("a destination that cannot be read ({error}): {destination:?}");
    let key = destination.key(family).map_err(wrong)?;
    let config = destination.config().map_err(wrong)?;
    let (stats, rates) = destination.stats.context("a destination without counters")?;
    Ok(format!(
        "  destination {} port {} {:?} weight {} thresholds {} {} tunnel {} {} {:#x} active {:?} inactive {:?} persistent {:?}{}",
        key.address,
        key.port,
        config.forward,
        config.weight,
        config.upper_threshold,
        config.lower_threshold,
        config.tunnel.kind,
        config.tunnel.port,
        config.tunnel.flags,
        destination.active,
        destination.inactive,
        destination.persistent,
        numbers(&stats, &rates)
    ))
}
