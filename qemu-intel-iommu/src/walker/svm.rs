//! AMD's SVM with nested paging: AMD64 Architecture Programmer's Manual volume 2, chapter 15 and appendix B.
#![allow(unsafe_code)]

use alloc::string::String;
use alloc::vec::Vec;
use core::arch::asm;

use p2m::{Access, DeviceRoot, Flush, LongMode, Mfn, PageSize};
use x86::msr::{IA32_EFER, rdmsr, wrmsr};

use super::five_levels::deepen;
use super::guest::{FRAMES, Guest, State, processor_address_bits, stub};
use super::hardware::Walker;
use super::touch::{Exit, STUB, Touch, Violation, tried};
use crate::inventory::Inventory;
use crate::memory::Shared;

/// VM_HSAVE_PA, where the processor keeps the host's state (15.30.4).
const VM_HSAVE_PA: u32 = 0xc001_0117;
/// VM_CR (15.30.1), and its bit that forbids SVM.
const VM_CR: u32 = 0xc001_0114;
const SVM_DISABLED: u64 = 1 << 4;
/// EFER's bits.
const LONG_MODE_ACTIVE: u64 = 1 << 10;
const LONG_MODE_ENABLE: u64 = 1 << 8;
const SVM_ENABLE: u64 = 1 << 12;

/// Offsets in the VMCB (appendix B).
mod vmcb {
    pub const EXCEPTIONS: u64 = 0x008;
    pub const INTERCEPTS: u64 = 0x00c;
    pub const MORE_INTERCEPTS: u64 = 0x010;
    pub const ASID: u64 = 0x058;
    pub const TLB_CONTROL: u64 = 0x05c;
    pub const EXIT_CODE: u64 = 0x070;
    pub const EXIT_INFO_1: u64 = 0x078;
    pub const EXIT_INFO_2: u64 = 0x080;
    pub const NESTED_CONTROL: u64 = 0x090;
    pub const NESTED_CR3: u64 = 0x0b0;
    pub const CLEAN: u64 = 0x0c0;
    pub const ES: u64 = 0x400;
    pub const CS: u64 = 0x410;
    pub const SS: u64 = 0x420;
    pub const DS: u64 = 0x430;
    pub const EFER: u64 = 0x4d0;
    pub const CR4: u64 = 0x548;
    pub const CR3: u64 = 0x550;
    pub const CR0: u64 = 0x558;
    pub const DR7: u64 = 0x560;
    pub const DR6: u64 = 0x568;
    pub const RFLAGS: u64 = 0x570;
    pub const RIP: u64 = 0x578;
    pub const RAX: u64 = 0x5f8;
    pub const PAT: u64 = 0x668;
}

/// Intercepts (table B-1): HLT and SHUTDOWN in one word; VMRUN, which must be set, and VMMCALL in the next.
const INTERCEPTS: u32 = 1 << 24 | 1 << 31;
const MORE_INTERCEPTS: u32 = 1 << 0 | 1 << 1;
/// VMMCALL, with which the guest calls.
const CALL: [u8; 3] = [0x0f, 0x01, 0xd9];
/// Exit codes (appendix C).
const VMMCALL: u64 = 0x81;
const NESTED_PAGE_FAULT: u64 = 0x400;

/// EXITINFO1 of a nested page fault (15.25.6).
mod page_fault {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const RESERVED: u64 = 1 << 3;
    pub const FETCH: u64 = 1 << 4;
    pub const FINAL: u64 = 1 << 32;
    pub const GUEST_WALK: u64 = 1 << 33;
}

/// The processor's SVM, with one guest processor.
pub struct Svm {
    guest: Guest,
    vmcb: Shared,
    /// Where the processor keeps the host's state while the guest runs.
    _host_state: Shared,
    largest: PageSize,
    levels: u8,
}

impl Walker for Svm {
    const NAME: &'static str = "SVM";
    type Format = LongMode;
    const DEVICE: bool = false;
    const EXECUTE: u64 = 1 << 63;
    const FORMATS: bool = true;
    const FIVE_LEVELS: bool = true;

    fn start(_: &'static Inventory) -> Result<Self, String> {
        let features = x86::cpuid::CpuId::new();
        let extended = features.get_extended_processor_and_feature_identifiers();
        if !extended.as_ref().is_some_and(|extended| extended.has_svm()) {
            return Err("the processor has no SVM".into());
        }
        if !features.get_svm_info().is_some_and(|svm| svm.has_nested_paging()) {
            return Err("the processor's SVM has no nested paging".into());
        }
        // SAFETY: a processor with SVM has the register.
        if unsafe { rdmsr(VM_CR) } & SVM_DISABLED != 0 {
            return Err("the firmware forbids SVM".into());
        }
        let [vmcb, host_state] = [(); 2].map(|()| Shared::alloc(1));
        let (Some(vmcb), Some(host_state), Some(guest)) = (vmcb, host_state, Guest::new(CALL)) else {
            return Err("no frame is left".into());
        };
        // SAFETY: the processor has SVM; the frame is the processor's alone for as long as `self` is there.
        unsafe {
            wrmsr(IA32_EFER, rdmsr(IA32_EFER) | SVM_ENABLE);
            wrmsr(VM_HSAVE_PA, host_state.start());
        }
        // Bit 26 of EDX in leaf 0x8000_0001, which the crate names and does not give as a whole.
        let huge = extended.is_some_and(|extended| extended.has_1gib_pages());
        set_up(&vmcb);
        Ok(Self {
            guest,
            vmcb,
            _host_state: host_state,
            largest: LongMode::largest_page(u32::from(huge) << 26),
            levels: 4,
        })
    }

    fn format(&self) -> LongMode {
        LongMode::NESTED
    }

    fn formats(&self) -> Vec<LongMode> {
        let nested = LongMode::NESTED;
        [
            LongMode { no_execute: false, ..nested },
            LongMode { global: true, ..nested },
            LongMode { uncached_direct: true, ..nested },
        ]
        .into()
    }

    fn levels(&self) -> u8 {
        self.levels
    }

    fn deepen(&mut self) -> Result<(), String> {
        // The nested walk has as many levels as the host's own (15.25.3).
        deepen()?;
        self.levels = 5;
        Ok(())
    }

    fn largest_page(&self) -> PageSize {
        self.largest
    }

    fn granted(format: &LongMode, allowed: Access) -> Access {
        // There is no bit for reads: what is present can be read (5.4.1).
        match allowed.contains(Access::READ) {
            true if format.no_execute => allowed,
            true => allowed | Access::EXECUTE,
            false => Access::empty(),
        }
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

    fn enter(&mut self, _: DeviceRoot) -> Result<(), String> {
        self.forget();
        Ok(())
    }

    fn flush(&mut self, _: DeviceRoot, _: &Flush) -> Result<(), String> {
        self.forget();
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
        self.forget();
        let exit = self.run(root, &mut state);
        Ok((exit, state.rax as u32))
    }
}

impl Svm {
    /// Forgets everything at the next VMRUN (15.16.1).
    fn forget(&mut self) {
        self.vmcb.write32(vmcb::TLB_CONTROL, 1);
    }

    /// Runs the guest on the table below `root` until it exits.
    fn run(&mut self, root: DeviceRoot, state: &mut State) -> Exit {
        let vmcb = &self.vmcb;
        vmcb.write64(vmcb::NESTED_CR3, root.root.address().unwrap_or_default());
        vmcb.write64(vmcb::RIP, state.rip);
        vmcb.write64(vmcb::CR3, state.cr3);
        vmcb.write64(vmcb::RAX, state.rax);
        // SAFETY: SVM is on; the VMCB is complete. The guest reaches what its table maps, and whoever made
        // that table answers for it; the host's state comes back with the exit.
        state.rdi = unsafe { vmrun(vmcb.start(), state.rdi) };
        state.rip = vmcb.read64(vmcb::RIP);
        state.rax = vmcb.read64(vmcb::RAX);
        vmcb.write32(vmcb::TLB_CONTROL, 0);
        let info = [vmcb.read64(vmcb::EXIT_INFO_1), vmcb.read64(vmcb::EXIT_INFO_2)];
        exit(vmcb.read64(vmcb::EXIT_CODE), info)
    }
}

impl Drop for Svm {
    fn drop(&mut self) {
        // SAFETY: no guest is left; the processor forgets the frames before they are given back.
        unsafe {
            wrmsr(VM_HSAVE_PA, 0);
            wrmsr(IA32_EFER, rdmsr(IA32_EFER) & !SVM_ENABLE);
        }
    }
}

/// What is the same at every entry: 64-bit mode with paging at privilege level 0, interrupts off, every
/// exception an exit.
fn set_up(vmcb: &Shared) {
    vmcb.write32(vmcb::EXCEPTIONS, u32::MAX);
    vmcb.write32(vmcb::INTERCEPTS, INTERCEPTS);
    vmcb.write32(vmcb::MORE_INTERCEPTS, MORE_INTERCEPTS);
    vmcb.write32(vmcb::ASID, 1);
    vmcb.write32(vmcb::TLB_CONTROL, 1);
    vmcb.write64(vmcb::NESTED_CONTROL, 1);
    vmcb.write32(vmcb::CLEAN, 0);
    // Selector, then the attributes (15.5.1: a descriptor's bits 55:52 and 47:40 in one), then the limit; the
    // base is 0.
    vmcb.write32(vmcb::CS, 0x0a9b_0008);
    vmcb.write32(vmcb::CS + 4, u32::MAX);
    for data in [vmcb::ES, vmcb::SS, vmcb::DS] {
        vmcb.write32(data, 0x0c93_0010);
        vmcb.write32(data + 4, u32::MAX);
    }
    vmcb.write64(vmcb::EFER, LONG_MODE_ENABLE | LONG_MODE_ACTIVE | SVM_ENABLE);
    // PG, WP, NE, ET, MP, PE; PAE.
    vmcb.write64(vmcb::CR0, 0x8001_0033);
    vmcb.write64(vmcb::CR4, 1 << 5);
    vmcb.write64(vmcb::DR6, 0xffff_0ff0);
    vmcb.write64(vmcb::DR7, 0x400);
    vmcb.write64(vmcb::RFLAGS, 2);
    // As after a reset.
    vmcb.write64(vmcb::PAT, 0x0007_0406_0007_0406);
}

fn exit(code: u64, info: [u64; 2]) -> Exit {
    let [reason, address] = info;
    match code {
        VMMCALL => Exit::Call,
        NESTED_PAGE_FAULT if reason & page_fault::RESERVED == 0 => Exit::Violation(Violation {
            address,
            tried: tried(reason & page_fault::FETCH != 0, reason & page_fault::WRITE != 0),
            present: Some(reason & page_fault::PRESENT != 0),
            granted: None,
            in_guest_walk: reason & page_fault::GUEST_WALK != 0 || reason & page_fault::FINAL == 0,
        }),
        _ => Exit::Other { code, info },
    }
}

/// Runs the guest with this rdi, and returns what it leaves there.
///
/// # Safety
/// SVM is on, and `vmcb` is the physical address of a complete VMCB whose guest reaches no memory that it
/// must not.
unsafe fn vmrun(vmcb: u64, mut rdi: u64) -> u64 {
    // SAFETY: VMRUN and the exit keep rsp, rflags, the segments and the control registers; every other
    // register that a guest could change is saved or named. FS, GS, TR and LDTR stay the host's. Interrupts
    // are off here, and held off by GIF until STGI.
    unsafe {
        asm!("push rbx", "push rbp", "vmrun rax", "pop rbp", "pop rbx", "stgi",
            inout("rax") vmcb => _, inout("rdi") rdi, out("rcx") _, out("rdx") _, out("rsi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _,
            out("r14") _, out("r15") _);
    }
    rdi
}
