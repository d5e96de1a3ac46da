//! What of a VMCS is the same at every entry: controls that the processor takes, and the host's and the
//! guest's state.
#![allow(unsafe_code)]

use alloc::format;
use alloc::string::String;

use x86::bits64::vmx::vmwrite;
use x86::controlregs::{Cr4, cr0, cr3, cr4};
use x86::dtables::{DescriptorTablePointer, sgdt, sidt};
use x86::msr::{self, rdmsr};
use x86::vmx::vmcs::{control, guest, host};

use crate::processor::traps;

/// IA32_VMX_BASIC, bit 55: there are the TRUE registers (A.1).
const TRUE_CONTROLS: u64 = 1 << 55;

/// VM-execution, exit and entry controls (26.6, 26.7, 26.8).
mod controls {
    /// Primary: exit on HLT; the secondary ones count.
    pub const PRIMARY: u32 = 1 << 7 | 1 << 31;
    /// Secondary: EPT.
    pub const SECONDARY: u32 = 1 << 1;
    /// Exit: to 64-bit mode; IA32_EFER is kept and loaded.
    pub const EXIT: u32 = 1 << 9 | 1 << 20 | 1 << 21;
    /// Entry: to IA-32e mode; IA32_EFER is loaded.
    pub const ENTRY: u32 = 1 << 9 | 1 << 15;
}

/// The controls as this processor takes them.
pub(super) struct Controls {
    pin: u32,
    primary: u32,
    secondary: u32,
    exit: u32,
    entry: u32,
}

impl Controls {
    /// The controls that we want, and those that must be on (A.2 to A.5).
    pub(super) fn find(basic: u64) -> Result<Self, String> {
        let has_true = basic & TRUE_CONTROLS != 0;
        let adjusted = |plain: u32, true_one: u32, wanted: u32| {
            // SAFETY: the register is there: the plain ones with VMX, the others with bit 55 of
            // IA32_VMX_BASIC, the one for secondary controls after the primary ones were found to allow them.
            let allowed = unsafe { rdmsr(if has_true { true_one } else { plain }) };
            let (must, may) = (allowed as u32, (allowed >> 32) as u32);
            if wanted & !may == 0 {
                Ok(wanted | must)
            } else {
                Err(format!("the processor has no such controls: {:#x} of {plain:#x}", wanted & !may))
            }
        };
        Ok(Self {
            pin: adjusted(msr::IA32_VMX_PINBASED_CTLS, msr::IA32_VMX_TRUE_PINBASED_CTLS, 0)?,
            primary: adjusted(
                msr::IA32_VMX_PROCBASED_CTLS,
                msr::IA32_VMX_TRUE_PROCBASED_CTLS,
                controls::PRIMARY,
            )?,
            secondary: adjusted(
                msr::IA32_VMX_PROCBASED_CTLS2,
                msr::IA32_VMX_PROCBASED_CTLS2,
                controls::SECONDARY,
            )?,
            exit: adjusted(msr::IA32_VMX_EXIT_CTLS, msr::IA32_VMX_TRUE_EXIT_CTLS, controls::EXIT)?,
            entry: adjusted(msr::IA32_VMX_ENTRY_CTLS, msr::IA32_VMX_TRUE_ENTRY_CTLS, controls::ENTRY)?,
        })
    }
}

/// Writes what is the same at every entry: a guest in 64-bit mode with paging at privilege level 0,
/// interrupts off, every exception an exit.
///
/// # Safety
/// A cleared VMCS is current.
pub(super) unsafe fn set_up(wanted: &Controls) -> x86::vmx::Result<()> {
    const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;
    let (mut gdt, mut idt) =
        (DescriptorTablePointer::<u64>::default(), DescriptorTablePointer::<u64>::default());
    // SAFETY: reads registers of this processor at privilege level 0.
    let (host_cr0, host_cr3, host_cr4, efer) = unsafe {
        sgdt(&mut gdt);
        sidt(&mut idt);
        (cr0().bits() as u64, cr3(), cr4().bits() as u64, rdmsr(msr::IA32_EFER))
    };
    let (gdt, idt) = (gdt.base.addr() as u64, idt.base.addr() as u64);
    let (task_selector, task) = traps::task();
    let all = [
        (control::PINBASED_EXEC_CONTROLS, wanted.pin.into()),
        (control::PRIMARY_PROCBASED_EXEC_CONTROLS, wanted.primary.into()),
        (control::SECONDARY_PROCBASED_EXEC_CONTROLS, wanted.secondary.into()),
        (control::VMEXIT_CONTROLS, wanted.exit.into()),
        (control::VMENTRY_CONTROLS, wanted.entry.into()),
        (control::EXCEPTION_BITMAP, u32::MAX.into()),
        (control::PAGE_FAULT_ERR_CODE_MASK, 0),
        (control::PAGE_FAULT_ERR_CODE_MATCH, 0),
        (control::CR3_TARGET_COUNT, 0),
        (control::VMEXIT_MSR_STORE_COUNT, 0),
        (control::VMEXIT_MSR_LOAD_COUNT, 0),
        (control::VMENTRY_MSR_LOAD_COUNT, 0),
        (control::VMENTRY_INTERRUPTION_INFO_FIELD, 0),
        (control::CR0_GUEST_HOST_MASK, 0),
        (control::CR4_GUEST_HOST_MASK, 0),
        (host::CR0, host_cr0),
        (host::CR3, host_cr3),
        (host::CR4, host_cr4),
        (host::IA32_EFER_FULL, efer),
        (host::CS_SELECTOR, 0x08),
        (host::SS_SELECTOR, 0x10),
        (host::DS_SELECTOR, 0x10),
        (host::ES_SELECTOR, 0x10),
        (host::FS_SELECTOR, 0),
        (host::GS_SELECTOR, 0),
        (host::TR_SELECTOR, task_selector.into()),
        (host::FS_BASE, 0),
        (host::GS_BASE, 0),
        (host::TR_BASE, task),
        (host::GDTR_BASE, gdt),
        (host::IDTR_BASE, idt),
        (host::IA32_SYSENTER_CS, 0),
        (host::IA32_SYSENTER_ESP, 0),
        (host::IA32_SYSENTER_EIP, 0),
        (guest::LINK_PTR_FULL, u64::MAX),
        // PG, WP, NE, ET, MP, PE; PAE and what VMX needs.
        (guest::CR0, 0x8001_0033),
        (guest::CR4, (Cr4::CR4_ENABLE_PAE | Cr4::CR4_ENABLE_VMX).bits() as u64),
        (guest::IA32_EFER_FULL, EFER_LONG_MODE),
        (guest::IA32_DEBUGCTL_FULL, 0),
        (guest::DR7, 0x400),
        (guest::RFLAGS, 2),
        (guest::RSP, 0),
        (guest::PENDING_DBG_EXCEPTIONS, 0),
        (guest::INTERRUPTIBILITY_STATE, 0),
        (guest::ACTIVITY_STATE, 0),
        (guest::IA32_SYSENTER_CS, 0),
        (guest::IA32_SYSENTER_ESP, 0),
        (guest::IA32_SYSENTER_EIP, 0),
        (guest::GDTR_BASE, 0),
        (guest::GDTR_LIMIT, 0),
        (guest::IDTR_BASE, 0),
        (guest::IDTR_LIMIT, 0),
    ];
    // Selector, access rights (26.4.1), limit; the base is 0. FS, GS and LDTR are unusable, the task is a
    // busy one.
    let segments = [
        (guest::CS_SELECTOR, 0x08, 0xa09b, u32::MAX),
        (guest::SS_SELECTOR, 0x10, 0xc093, u32::MAX),
        (guest::DS_SELECTOR, 0x10, 0xc093, u32::MAX),
        (guest::ES_SELECTOR, 0x10, 0xc093, u32::MAX),
        (guest::FS_SELECTOR, 0, 1 << 16, 0),
        (guest::GS_SELECTOR, 0, 1 << 16, 0),
        (guest::LDTR_SELECTOR, 0, 1 << 16, 0),
        (guest::TR_SELECTOR, 0x18, 0x8b, 0x67),
    ];
    // SAFETY: the caller's contract; the fields only count at the next entry.
    unsafe {
        for (field, value) in all {
            vmwrite(field, value)?;
        }
        for (selector, value, rights, limit) in segments {
            // The fields of a segment are as far apart for each (appendix B).
            let of = |field: u32| field + (selector - guest::ES_SELECTOR);
            vmwrite(selector, value)?;
            vmwrite(of(guest::ES_ACCESS_RIGHTS), rights)?;
            vmwrite(of(guest::ES_LIMIT), limit.into())?;
            vmwrite(of(guest::ES_BASE), 0)?;
        }
    }
    Ok(())
}
