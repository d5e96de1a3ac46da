//! Descriptor tables and exceptions: every vector has a stub, and every stub a stack of its own kind.
//!
//! The precompiled `core` keeps data in the red zone below the stack pointer, so that no handler may run on
//! the interrupted stack.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;
use x86::Ring;
use x86::bits64::segmentation::Descriptor64;
use x86::bits64::task::TaskStateSegment;
use x86::dtables::{DescriptorTablePointer, lgdt, lidt};
use x86::irq;
use x86::segmentation::{
    BuildDescriptor, CodeSegmentType, DataSegmentType, Descriptor, DescriptorBuilder, GateDescriptorBuilder,
    SegmentDescriptorBuilder, SegmentSelector,
};

use super::interrupts;
use crate::boot::exit::{Exit, exit};
use crate::boot::serial;

global_asm!(include_str!("traps.s"));

unsafe extern "C" {
    /// 256 stubs of 16 bytes each (traps.s).
    static trap_stubs: [[u8; 16]; 256];
}

/// The first vector that is not an exception.
pub const FIRST_INTERRUPT: u8 = 32;

const CODE: SegmentSelector = SegmentSelector::new(1, Ring::Ring0);
const DATA: SegmentSelector = SegmentSelector::new(2, Ring::Ring0);
const TASK: SegmentSelector = SegmentSelector::new(3, Ring::Ring0);

/// Stacks named in the task state segment. An exception inside an interrupt handler, and an NMI, double fault
/// or machine check inside anything, must not land on the stack that is in use.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Stack {
    Exception = 0,
    Interrupt = 1,
    NonMaskable = 2,
    DoubleFault = 3,
    MachineCheck = 4,
}

const STACK_SIZE: usize = 16 * 1024;

#[repr(C, align(16))]
struct StackMemory(UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: Rust code never touches the bytes; only the one processor does, through the task state segment.
unsafe impl Sync for StackMemory {}

static STACKS: [StackMemory; 5] = [const { StackMemory(UnsafeCell::new([0; STACK_SIZE])) }; 5];

struct Tables {
    segments: [u64; 5],
    gates: [Descriptor64; 256],
}

static TASK_STATE: Once<TaskStateSegment> = Once::new();
static TABLES: Once<Tables> = Once::new();
static BREAKPOINTS: AtomicU64 = AtomicU64::new(0);

/// What the stubs leave on the stack, lowest address first.
#[repr(C)]
struct TrapFrame {
    /// r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax.
    registers: [u64; 15],
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Loads a GDT, a TSS with the stacks, and an IDT in which every vector is present.
pub fn init() {
    let task = TASK_STATE.call_once(build_task);
    let tables = TABLES.call_once(|| build_tables(task));
    let segments = DescriptorTablePointer::new_from_slice(&tables.segments);
    let gates = DescriptorTablePointer::new_from_slice(&tables.gates);
    // SAFETY: the tables are statics, written only by the processor from here on (the TSS's busy bit; the
    // memory of a `Once` is writable). Selectors 1 and 2 are a 64-bit code and a flat data segment like those
    // in use, selector 3 is a TSS that is not busy.
    unsafe {
        lgdt(&segments);
        asm!("push {selector}", "lea {target}, [rip + 2f]", "push {target}", "retfq", "2:",
            selector = in(reg) u64::from(CODE.bits()), target = out(reg) _);
        x86::segmentation::load_ss(DATA);
        x86::segmentation::load_ds(DATA);
        x86::segmentation::load_es(DATA);
        x86::task::load_tr(TASK);
        lidt(&gates);
    }
}

/// The selector of the task state segment and its address: what a VM exit has to load.
pub fn task() -> (u16, u64) {
    (TASK.bits(), TASK_STATE.get().map_or(0, |task| (&raw const *task).addr() as u64))
}

/// How many breakpoint exceptions were taken and returned from.
pub fn breakpoints() -> u64 {
    BREAKPOINTS.load(Ordering::Relaxed)
}

/// Raises a breakpoint exception.
pub fn breakpoint() {
    // SAFETY: the handler of vector 3 counts and returns; it saves every register.
    unsafe { asm!("int3") };
}

fn build_task() -> TaskStateSegment {
    let mut task = TaskStateSegment::new();
    for (index, stack) in STACKS.iter().enumerate() {
        task.set_ist(index, stack.0.get().addr() as u64 + STACK_SIZE as u64);
    }
    // Past the segment's limit: there is no I/O permission map.
    task.iomap_base = size_of::<TaskStateSegment>() as u16;
    task
}

fn build_tables(task: &'static TaskStateSegment) -> Tables {
    let stubs = (&raw const trap_stubs).addr() as u64;
    let mut gates = [Descriptor64::NULL; 256];
    for (vector, gate) in (0u8..=255).zip(gates.iter_mut()) {
        let stub = stubs + u64::from(vector) * 16;
        let gate_builder =
            <DescriptorBuilder as GateDescriptorBuilder<u64>>::interrupt_descriptor(CODE, stub);
        *gate = gate_builder.ist(stack_of(vector) as u8 + 1).dpl(Ring::Ring0).present().finish();
    }

    let code: Descriptor = <DescriptorBuilder as SegmentDescriptorBuilder<u32>>::code_descriptor(
        0,
        0,
        CodeSegmentType::ExecuteRead,
    )
    .present()
    .dpl(Ring::Ring0)
    .l()
    .finish();
    let data: Descriptor = <DescriptorBuilder as SegmentDescriptorBuilder<u32>>::data_descriptor(
        0,
        0,
        DataSegmentType::ReadWrite,
    )
    .present()
    .dpl(Ring::Ring0)
    .finish();
    let base = (&raw const *task).addr() as u64;
    let limit = size_of::<TaskStateSegment>() as u64 - 1;
    // A TSS descriptor takes two entries. Its second half, which Descriptor64 keeps to itself, is the upper
    // half of the base.
    let task_low: Descriptor =
        <DescriptorBuilder as GateDescriptorBuilder<u32>>::tss_descriptor(base & 0xffff_ffff, limit, true)
            .present()
            .dpl(Ring::Ring0)
            .finish();
    Tables { segments: [0, code.as_u64(), data.as_u64(), task_low.as_u64(), base >> 32], gates }
}

fn stack_of(vector: u8) -> Stack {
    match vector {
        irq::NONMASKABLE_INTERRUPT_VECTOR => Stack::NonMaskable,
        irq::DOUBLE_FAULT_VECTOR => Stack::DoubleFault,
        irq::MACHINE_CHECK_VECTOR => Stack::MachineCheck,
        0..FIRST_INTERRUPT => Stack::Exception,
        FIRST_INTERRUPT.. => Stack::Interrupt,
    }
}

/// Called by the stubs with interrupts off, on the stack of the vector.
#[unsafe(no_mangle)]
extern "C" fn trap_entry(frame: &TrapFrame) {
    // The stubs push their own number.
    let vector = frame.vector as u8;
    match vector {
        irq::BREAKPOINT_VECTOR => {
            BREAKPOINTS.fetch_add(1, Ordering::Relaxed);
        }
        0..FIRST_INTERRUPT => fatal(vector, frame),
        FIRST_INTERRUPT.. => interrupts::arrived(vector),
    }
}

fn fatal(vector: u8, frame: &TrapFrame) -> ! {
    let (mnemonic, description) = match irq::EXCEPTIONS.get(usize::from(vector)) {
        Some(exception) => (exception.mnemonic, exception.description),
        None => ("", "exception"),
    };
    // SAFETY: reading CR2 at privilege level 0 changes nothing.
    let cr2 = unsafe { x86::controlregs::cr2() };
    serial::last_words(
        "TRAP",
        format_args!(
            "{mnemonic} {description}: vector {vector}, error code {:#x}, rip {:#x}, cr2 {cr2:#x}, \
             rsp {:#x}, rflags {:#x}, cs {:#x}, ss {:#x}, rax {:#x}",
            frame.error_code,
            frame.rip,
            frame.rsp,
            frame.rflags,
            frame.cs,
            frame.ss,
            frame.registers.last().copied().unwrap_or_default(),
        ),
    );
    exit(Exit::Crashed)
}
