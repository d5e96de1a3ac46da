//! Intel's VMX with EPT: Software Developer's Manual volume 3, chapters 25 to 30 and appendix A.
#![allow(unsafe_code)]

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::asm;

use p2m::{Access, DeviceRoot, Ept, Flush, MemoryType, Mfn, PageSize};
use x86::bits64::vmx::{vmclear, vmptrld, vmread, vmwrite, vmxoff, vmxon};
use x86::controlregs::{Cr4, cr0, cr3, cr4, cr4_write};
use x86::dtables::{DescriptorTablePointer, sgdt, sidt};
use x86::msr::{self, rdmsr, wrmsr};
use x86::vmx::vmcs::{control, guest, host, ro};

use super::guest::{FRAMES, Guest, State, processor_address_bits, stub};
use super::hardware::Walker;
use super::touch::{Exit, STUB, Touch, Violation};
use crate::inventory::Inventory;
use crate::memory::Shared;
use crate::processor::traps;

/// IA32_FEATURE_CONTROL: locked, VMXON allowed outside SMX (table 2-2 of volume 4).
const LOCKED: u64 = 1 << 0;
const VMX_ALLOWED: u64 = 1 << 2;
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

/// IA32_VMX_EPT_VPID_CAP (A.10).
mod capability {
    pub const EXECUTE_ONLY: u64 = 1 << 0;
    pub const WRITE_BACK: u64 = 1 << 14;
    pub const INVEPT: u64 = 1 << 20;
    pub const MARKS: u64 = 1 << 21;
    pub const INVEPT_SINGLE: u64 = 1 << 25;
}

/// EPTP (table 26-9): write-back tables, one level less than there are, accessed and dirty marks.
const EPTP_WRITE_BACK: u64 = 6;
const EPTP_LEVELS_SHIFT: u32 = 3;
const EPTP_MARKS: u64 = 1 << 6;

/// VMCALL, with which the guest calls.
const CALL: [u8; 3] = [0x0f, 0x01, 0xc1];
/// Basic exit reasons (appendix C).
const VMCALL: u64 = 18;
const EPT_VIOLATION: u64 = 48;

/// The exit qualification of an EPT violation (table 29-7).
mod qualification {
    pub const WRITE: u64 = 1 << 1;
    pub const FETCH: u64 = 1 << 2;
    pub const GRANTED_SHIFT: u32 = 3;
    /// The linear address is known, and the access was to what it leads to.
    pub const FINAL: u64 = 1 << 7 | 1 << 8;
}

/// The processor's VMX, with one guest processor.
pub struct Vmx {
    guest: Guest,
    _operation: Shared,
    _vmcs: Shared,
    capability: u64,
    launched: bool,
}

impl Walker for Vmx {
    const NAME: &'static str = "VMX";
    type Format = Ept;
    const DEVICE: bool = false;
    const EXECUTE: u64 = 1 << 2;
    const FORMATS: bool = true;
    // Bochs has none.
    const FIVE_LEVELS: bool = false;

    fn start(_: &'static Inventory) -> Result<Self, String> {
        if !x86::cpuid::CpuId::new().get_feature_info().is_some_and(|features| features.has_vmx()) {
            return Err("the processor has no VMX".into());
        }
        // SAFETY: a processor with VMX has these registers; whether there are secondary controls and EPT is in them.
        let basic = unsafe {
            let feature = rdmsr(msr::IA32_FEATURE_CONTROL);
            if feature & LOCKED == 0 {
                wrmsr(msr::IA32_FEATURE_CONTROL, feature | LOCKED | VMX_ALLOWED);
            } else if feature & VMX_ALLOWED == 0 {
                return Err("the firmware forbids VMX".into());
            }
            rdmsr(msr::IA32_VMX_BASIC)
        };
        let wanted = Controls::find(basic)?;
        // SAFETY: with EPT (`Controls::find`) the processor has the register.
        let capability = unsafe { rdmsr(msr::IA32_VMX_EPT_VPID_CAP) };
        let needed =
            capability::WRITE_BACK | capability::MARKS | capability::INVEPT | capability::INVEPT_SINGLE;
        if capability & needed != needed || !Ept::walks_levels(capability, 4) {
            return Err(format!(
                "the processor's EPT lacks what the steps need: capabilities {capability:#x}"
            ));
        }
        let [operation, vmcs] = [(); 2].map(|()| Shared::alloc(1));
        let (Some(operation), Some(vmcs), Some(guest)) = (operation, vmcs, Guest::new(CALL)) else {
            return Err("no frame is left".into());
        };
        for region in [&operation, &vmcs] {
            // The revision (26.2, 26.11.5).
            region.write32(0, basic as u32 & 0x7fff_ffff);
        }
        // SAFETY: the processor has VMX and lets us use it; CR0 is as VMX needs it (PE, NE, PG set by the entry code); both frames are the
        // processor's alone for as long as `self` is there.
        let entered = unsafe {
            cr4_write(cr4() | Cr4::CR4_ENABLE_VMX);
            vmxon(operation.start())
                .and_then(|()| vmclear(vmcs.start()))
                .and_then(|()| vmptrld(vmcs.start()))
                .and_then(|()| set_up(&wanted))
        };
        entered.map_err(|error| format!("VMX cannot be turned on: {error:?}"))?;
        Ok(Self { guest, _operation: operation, _vmcs: vmcs, capability, launched: false })
    }

    fn format(&self) -> Ept {
        Ept { execute_only: self.capability & capability::EXECUTE_ONLY != 0, ..Ept::default() }
    }

    fn formats(&self) -> Vec<Ept> {
        let ept = self.format();
        [
            Ept { execute_only: false, ..ept },
            // Bits that are for VT-d and for #VE, which is off.
            Ept { snoop: true, suppress_ve: true, ..ept },
            Ept { ram: MemoryType::WriteThrough, direct: MemoryType::WriteCombining, ..ept },
            Ept { ram: MemoryType::WriteProtected, direct: MemoryType::WriteBack, ..ept },
        ]
        .into()
    }

    fn levels(&self) -> u8 {
        4
    }

    fn largest_page(&self) -> PageSize {
        Ept::largest_page(self.capability)
    }

    fn granted(format: &Ept, allowed: Access) -> Access {
        if allowed.contains(Access::READ) || format.execute_only { allowed } else { Access::empty() }
    }

    fn address_bits(&self) -> u32 {
        processor_address_bits()
    }

    fn home(&self) -> (Mfn, u64) {
        (self.guest.first(), FRAMES)
    }

    fn code(value: u32) -> [u8; STUB] {
        stub(CALL, value)
    }

    fn enter(&mut self, root: DeviceRoot) -> Result<(), String> {
        self.forget(root);
        Ok(())
    }

    fn flush(&mut self, root: DeviceRoot, _: &Flush) -> Result<(), String> {
        self.forget(root);
        Ok(())
    }

    fn touch(
        &mut self,
        root: DeviceRoot,
        touch: Touch,
        address: u64,
        value: u32,
    ) -> Result<(Exit, u32), String> {
        let mut state = self.guest.state(touch, address, value);
        // The guest's window is another.
        self.forget(root);
        // A VMX instruction that failed: no reason has these bits.
        let exit = self
            .run(root, &mut state)
            .unwrap_or_else(|error| Exit::Other { code: u64::MAX, info: [error, 0] });
        Ok((exit, state.rax as u32))
    }
}

impl Vmx {
    /// Has the processor forget every translation that it knows from the table below `root`.
    fn forget(&self, root: DeviceRoot) {
        let descriptor = [eptp(root), 0];
        // SAFETY: the processor has INVEPT for one context (type 1), and takes the pointer as VM entry did; VMX is on while there is `self`. It drops translations only.
        unsafe {
            asm!("invept {kind}, [{descriptor}]", kind = in(reg) 1_u64, descriptor = in(reg) &descriptor)
        };
    }

    /// One entry and exit; the VM-instruction error if there was no entry (31.4).
    fn run(&mut self, root: DeviceRoot, state: &mut State) -> Result<Exit, u64> {
        // SAFETY: our VMCS is the current one.
        let written = unsafe {
            vmwrite(control::EPTP_FULL, eptp(root))
                .and_then(|()| vmwrite(guest::RIP, state.rip))
                .and_then(|()| vmwrite(guest::CR3, state.cr3))
        };
        if written.is_err() {
            return Err(read(ro::VM_INSTRUCTION_ERROR));
        }
        let (mut rax, mut rdi) = (state.rax, state.rdi);
        // SAFETY: the VMCS is current and complete, and launched as `launched` says. The guest reaches what its table maps, and whoever made
        // that table answers for it; the host's state comes back with the exit.
        let entered = unsafe { vmenter(self.launched, &mut rax, &mut rdi) };
        if !entered {
            return Err(read(ro::VM_INSTRUCTION_ERROR));
        }
        self.launched = true;
        (state.rax, state.rdi, state.rip) = (rax, rdi, read(guest::RIP));
        Ok(exit())
    }
}

impl Drop for Vmx {
    fn drop(&mut self) {
        // SAFETY: no guest is left; the processor forgets both frames before they are given back.
        unsafe {
            let _cleared = vmclear(self._vmcs.start());
            let _off = vmxoff();
        }
    }
}

/// The controls as this processor takes them.
struct Controls {
    pin: u32,
    primary: u32,
    secondary: u32,
    exit: u32,
    entry: u32,
}

impl Controls {
    /// The controls that we want, and those that must be on (A.2 to A.5).
    fn find(basic: u64) -> Result<Self, String> {
        let has_true = basic & TRUE_CONTROLS != 0;
        let adjusted = |plain: u32, true_one: u32, wanted: u32| {
            // SAFETY: the register is there: the plain ones with VMX, the others with bit 55 of IA32_VMX_BASIC, the one for secondary
            // controls after the primary ones were found to allow them.
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

/// Writes what is the same at every entry: a guest in 64-bit mode with paging at privilege level 0, interrupts off, every exception an exit.
///
/// # Safety
/// A cleared VMCS is current.
unsafe fn set_up(wanted: &Controls) -> x86::vmx::Result<()> {
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
    // Selector, access rights (26.4.1), limit; the base is 0. FS, GS and LDTR are unusable, the task is a busy one.
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

fn eptp(root: DeviceRoot) -> u64 {
    let levels = u64::from(root.levels) - 1;
    root.root.address().unwrap_or_default() | EPTP_WRITE_BACK | levels << EPTP_LEVELS_SHIFT | EPTP_MARKS
}

/// What the exit says.
fn exit() -> Exit {
    let (reason, said) = (read(ro::EXIT_REASON), read(ro::EXIT_QUALIFICATION));
    let address = read(ro::GUEST_PHYSICAL_ADDR_FULL);
    match reason {
        VMCALL => Exit::Call,
        EPT_VIOLATION => {
            let tried = match said {
                _ if said & qualification::FETCH != 0 => Access::EXECUTE,
                _ if said & qualification::WRITE != 0 => Access::WRITE,
                _ => Access::READ,
            };
            let granted = Access::from_bits_truncate((said >> qualification::GRANTED_SHIFT) as u8 & 7);
            Exit::Violation(Violation {
                address,
                tried,
                present: Some(!granted.is_empty()),
                granted: Some(granted),
                in_guest_walk: said & qualification::FINAL != qualification::FINAL,
            })
        }
        _ => Exit::Other { code: reason, info: [said, address] },
    }
}

/// A field of the current VMCS; 0 where there is none.
fn read(field: u32) -> u64 {
    // SAFETY: VMX is on: only called while a `Vmx` is there. A read changes nothing.
    unsafe { vmread(field) }.unwrap_or_default()
}

/// Enters the guest with these registers and comes back with its exit, and what it left in them. False when there was no entry.
///
/// # Safety
/// The current VMCS is complete, launched or not as `launched` says, and its guest reaches no memory that it must not.
unsafe fn vmenter(launched: bool, rax: &mut u64, rdi: &mut u64) -> bool {
    let failed: u64;
    // SAFETY: an exit brings rsp and everything that the host fields hold back, with rflags clear but for bit 1; every other register that a
    // guest could change is saved or named. A failed entry goes on behind the instruction, with rsp as it was.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov edx, {host_rsp}",
            "vmwrite rdx, rsp",
            "lea rbx, [rip + 3f]",
            "mov edx, {host_rip}",
            "vmwrite rdx, rbx",
            "test ecx, ecx",
            "jnz 2f",
            "vmlaunch",
            "jmp 4f",
            "2:",
            "vmresume",
            "4:",
            "mov ecx, 1",
            "jmp 5f",
            "3:",
            "xor ecx, ecx",
            "5:",
            "pop rbp",
            "pop rbx",
            host_rsp = const host::RSP, host_rip = const host::RIP,
            inout("rcx") u64::from(launched) => failed, inout("rax") *rax, inout("rdi") *rdi, out("rdx") _, out("rsi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _
        );
    }
    failed == 0
}
