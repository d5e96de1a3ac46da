//! Intel's VMX with EPT: Software Developer's Manual volume 3, chapters 25 to 30 and appendix A.
#![allow(unsafe_code)]

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::asm;

use p2m::{Access, DeviceRoot, Ept, Flush, MemoryType, Mfn, PageSize};
use x86::bits64::vmx::{vmclear, vmptrld, vmread, vmwrite, vmxoff, vmxon};
use x86::controlregs::{Cr4, cr4, cr4_write};
use x86::msr::{self, rdmsr, wrmsr};
use x86::vmx::vmcs::{control, guest, host, ro};

use super::guest::{FRAMES, Guest, State, processor_address_bits, stub};
use super::hardware::Walker;
use super::touch::{Exit, STUB, Touch, Violation, tried};
use super::vmcs::{Controls, set_up};
use crate::inventory::Inventory;
use crate::memory::Shared;

/// IA32_FEATURE_CONTROL: locked, VMXON allowed outside SMX (table 2-2 of volume 4).
const LOCKED: u64 = 1 << 0;
const VMX_ALLOWED: u64 = 1 << 2;
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
        // SAFETY: a processor with VMX has these registers; whether there are secondary controls and EPT is
        // in them.
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
        // SAFETY: the processor has VMX and lets us use it; CR0 is as VMX needs it (PE, NE, PG set by the
        // entry code); both frames are the processor's alone for as long as `self` is there.
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
        // SAFETY: the processor has INVEPT for one context (type 1), and takes the pointer as VM entry did;
        // VMX is on while there is `self`. It drops translations only.
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
        // SAFETY: the VMCS is current and complete, and launched as `launched` says. The guest reaches what
        // its table maps, and whoever made that table answers for it; the host's state comes back with the
        // exit.
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
            let granted = Access::from_bits_truncate((said >> qualification::GRANTED_SHIFT) as u8 & 7);
            Exit::Violation(Violation {
                address,
                tried: tried(said & qualification::FETCH != 0, said & qualification::WRITE != 0),
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

/// Enters the guest with these registers and comes back with its exit, and what it left in them. False when
/// there was no entry.
///
/// # Safety
/// The current VMCS is complete, launched or not as `launched` says, and its guest reaches no memory that it
/// must not.
unsafe fn vmenter(launched: bool, rax: &mut u64, rdi: &mut u64) -> bool {
    let failed: u64;
    // SAFETY: an exit brings rsp and everything that the host fields hold back, with rflags clear but for bit
    // 1; every other register that a guest could change is saved or named. A failed entry goes on after the
    // instruction, with rsp as it was.
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
            inout("rcx") u64::from(launched) => failed, inout("rax") *rax, inout("rdi") *rdi,
            out("rdx") _, out("rsi") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            out("r13") _, out("r14") _, out("r15") _
        );
    }
    failed == 0
}
