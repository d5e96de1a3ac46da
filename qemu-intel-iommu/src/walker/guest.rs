//! The guest: 64-bit code, one piece for each way to touch memory, and page tables that map every
//! guest-physical address at itself.

use p2m::Mfn;

use super::hardware::HOME;
use super::touch::{STUB, Touch};
use crate::memory::{FRAME, Shared};

/// Code that calls, by this instruction, with `value` in eax.
pub fn stub(call: [u8; 3], value: u32) -> [u8; STUB] {
    let [a, b, c, d] = value.to_le_bytes();
    let [x, y, z] = call;
    // mov eax, value; then the call.
    [0xb8, a, b, c, d, x, y, z]
}

/// What of the guest's state changes from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The next instruction.
    pub rip: u64,
    /// The guest's own page tables.
    pub cr3: u64,
    /// What to write, and what was read.
    pub rax: u64,
    /// The address to touch.
    pub rdi: u64,
}

/// The guest's own memory: a frame of code, and two of page tables. They map the page of 1 GiB that all of it
/// lies in at itself, and a window onto any guest-physical address.
pub struct Guest {
    memory: Shared,
}

/// Frames of the guest's own: code, the top page table, and the table with pages of 1 GiB below it.
pub const FRAMES: u64 = 3;
/// Where they begin.
const BASE: u64 = HOME.raw() * FRAME;
const TOP: u64 = FRAME;
const PAGES: u64 = 2 * FRAME;

/// The size of the pages.
const PAGE_SIZE: u64 = 1 << 30;
/// Where the window begins, in pages; it has two, for what lies across the end of the first.
const WINDOW: u64 = 2;

/// Present, writable, accessed: a table. The marks are set beforehand, so that the guest's walks write
/// nothing.
const TABLE: u64 = 0x23;
/// The same, dirty and large: a page.
const PAGE: u64 = 0xe3;

impl Guest {
    /// Writes code, which calls by this instruction, and page tables. `None` when no frames are left.
    pub fn new(call: [u8; 3]) -> Option<Self> {
        let memory = Shared::alloc(FRAMES)?;
        for touch in TOUCHES {
            memory.copy_in(offset(touch), code(touch));
            memory.copy_in(offset(touch) + code(touch).len() as u64, &call);
        }
        let page = BASE / PAGE_SIZE;
        memory.write64(TOP, (BASE + PAGES) | TABLE);
        memory.write64(PAGES + page * 8, (page * PAGE_SIZE) | PAGE);
        Some(Self { memory })
    }

    /// The first machine frame.
    pub fn first(&self) -> Mfn {
        Mfn::containing(self.memory.start())
    }

    /// The state in which it touches the guest-physical `address`. The window is there then; what the
    /// processor knows of the guest's page tables is to be forgotten.
    pub fn state(&self, touch: Touch, address: u64, value: u32) -> State {
        let first = address / PAGE_SIZE;
        for page in [0, 1] {
            self.memory.write64(PAGES + (WINDOW + page) * 8, ((first + page) * PAGE_SIZE) | PAGE);
        }
        let seen = WINDOW * PAGE_SIZE + address % PAGE_SIZE;
        State { rip: BASE + offset(touch), cr3: BASE + TOP, rax: value.into(), rdi: seen }
    }
}

const TOUCHES: [Touch; 5] = [Touch::ReadByte, Touch::Read, Touch::WriteByte, Touch::Write, Touch::Execute];

/// The instructions that do it at rdi, but for the call that follows.
fn code(touch: Touch) -> &'static [u8] {
    match touch {
        // movzx eax, byte ptr [rdi]
        Touch::ReadByte => &[0x0f, 0xb6, 0x07],
        // mov eax, [rdi]
        Touch::Read => &[0x8b, 0x07],
        // mov [rdi], al
        Touch::WriteByte => &[0x88, 0x07],
        // mov [rdi], eax
        Touch::Write => &[0x89, 0x07],
        // jmp rdi
        Touch::Execute => &[0xff, 0xe7],
    }
}

/// Where they are in the guest's code.
fn offset(touch: Touch) -> u64 {
    match touch {
        Touch::ReadByte => 0,
        Touch::Read => 0x10,
        Touch::WriteByte => 0x20,
        Touch::Write => 0x30,
        Touch::Execute => 0x40,
    }
}

/// Bits of the physical addresses that the processor takes.
pub(super) fn processor_address_bits() -> u32 {
    x86::cpuid::CpuId::new()
        .get_processor_capacity_feature_info()
        .map_or(32, |capacity| u32::from(capacity.physical_address_bits()))
}
