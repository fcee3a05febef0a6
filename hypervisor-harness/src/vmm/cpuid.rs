//! What the guest sees of the processor.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

const LEAF_1_ECX_MONITOR: u32 = 1 << 3;
const LEAF_1_ECX_VMX: u32 = 1 << 5;
const LEAF_1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF_1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF_1_EDX_MULTITHREADED: u32 = 1 << 28;
const LEAF_EXT_1_ECX_SVM: u32 = 1 << 2;
/// The leaf in which hypervisors tell the frequency of the time-stamp counter, in kHz (EAX), and of the bus (EBX).
const LEAF_TIMING: u32 = 0x4000_0010;
const LEAF_HYPERVISOR: u32 = 0x4000_0000;

/// Makes the CPUID table of vCPU `apic_id`: what KVM supports, less what makes no sense in a guest (virtualization,
/// MONITOR, performance counters), with the topology of one package of one-thread cores.
///
/// `tsc_khz` is the frequency of the vCPU's time-stamp counter, where it is known.
///
/// # Errors
/// If KVM does not tell what it supports.
pub fn table(kvm: &Kvm, apic_id: u8, tsc_khz: Option<u32>) -> Result<CpuId, kvm_ioctls::Error> {
    let mut table = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let mut entries = table.as_slice().to_vec();
    filter(&mut entries, apic_id, deadline, tsc_khz);
    table = CpuId::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    Ok(table)
}

fn filter(entries: &mut Vec<kvm_cpuid_entry2>, apic_id: u8, deadline: bool, tsc_khz: Option<u32>) {
    for entry in entries.iter_mut() {
        match entry.function {
            1 => {
                // APIC id, one logical processor, CLFLUSH size as the host has it, brand index none.
                entry.ebx = (entry.ebx & 0xff00) | u32::from(apic_id) << 24 | 1 << 16;
                entry.ecx = entry.ecx & !(LEAF_1_ECX_MONITOR | LEAF_1_ECX_VMX) | LEAF_1_ECX_HYPERVISOR;
                if deadline {
                    entry.ecx |= LEAF_1_ECX_TSC_DEADLINE;
                }
                entry.edx &= !LEAF_1_EDX_MULTITHREADED;
            }
            // Performance monitoring.
            0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
            // Topology: no levels but the processor itself.
            0xb | 0x1f => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, entry.index & 0xff, u32::from(apic_id));
            }
            0x8000_0001 => entry.ecx &= !LEAF_EXT_1_ECX_SVM,
            _ => {}
        }
    }
    if let Some(khz) = tsc_khz
        && let Some(hypervisor) = entries.iter_mut().find(|entry| entry.function == LEAF_HYPERVISOR)
    {
        hypervisor.eax = hypervisor.eax.max(LEAF_TIMING);
        entries.retain(|entry| entry.function != LEAF_TIMING);
        // KVM's local APIC counts at 1 GHz.
        entries.push(kvm_cpuid_entry2 { function: LEAF_TIMING, eax: khz, ebx: 1_000_000, ..Default::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_and_shows() {
        let entry = |function, ecx| kvm_cpuid_entry2 { function, ecx, ebx: 0x0510_0800, edx: !0, ..Default::default() };
        let mut entries =
            vec![entry(1, LEAF_1_ECX_VMX | 1), entry(0xa, !0), entry(LEAF_HYPERVISOR, 0), entry(0x8000_0001, !0)];
        filter(&mut entries, 3, true, Some(2_000_000));
        assert_eq!(entries[0].ecx, 1 | LEAF_1_ECX_TSC_DEADLINE | LEAF_1_ECX_HYPERVISOR);
        assert_eq!(entries[0].ebx, 0x0301_0800);
        assert_eq!((entries[1].ecx, entries[1].edx), (0, 0));
        assert_eq!(entries[2].eax, LEAF_TIMING);
        assert_eq!(entries[3].ecx & LEAF_EXT_1_ECX_SVM, 0);
        assert_eq!((entries[4].function, entries[4].eax), (LEAF_TIMING, 2_000_000));
    }
}
