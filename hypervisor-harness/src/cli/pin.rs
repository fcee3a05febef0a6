//! Where threads run: `--pin-vcpu` and `--pin-device`.

use clap::Args;

use crate::affinity;

/// Where the guest's and the device's threads run. Anywhere, if nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
pub struct Pin {
    /// Keep the guest's processor on this processor of the host
    #[arg(long = "pin-vcpu", value_name = "CPU")]
    pub vcpu: Option<usize>,
    /// Keep the thread of the network device on this processor of the host
    #[arg(long = "pin-device", value_name = "CPU")]
    pub device: Option<usize>,
}

impl Pin {
    /// Whether that is possible.
    ///
    /// # Errors
    /// If a processor is not one that this process may use.
    pub fn check(&self) -> anyhow::Result<()> {
        let wanted = [("--pin-vcpu", self.vcpu), ("--pin-device", self.device)];
        if wanted == [("--pin-vcpu", None), ("--pin-device", None)] {
            return Ok(());
        }
        let allowed = affinity::allowed()?;
        for (flag, cpu) in wanted {
            if let Some(cpu) = cpu.filter(|cpu| !allowed.contains(cpu)) {
                let list = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                anyhow::bail!(
                    "{flag} {cpu}: this process may only use the processors {list} (taskset and cgroups limit it)"
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processors_that_may_be_used_are_taken() {
        assert!(Pin::default().check().is_ok());
        let first = affinity::allowed().unwrap()[0];
        assert!(Pin { vcpu: Some(first), device: Some(first) }.check().is_ok());
        let error = Pin { vcpu: None, device: Some(9999) }.check().unwrap_err().to_string();
        assert!(error.starts_with("--pin-device 9999: this process may only use"), "{error}");
    }
}
