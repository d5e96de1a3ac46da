//! The guest: 64-bit code, one piece for each way to touch memory, and page tables that map every guest-physical address at itself.

use p2m::{Gfn, Mfn};

use crate::guest::{State, Walker};
use crate::memory::{FRAME, Shared};

/// A way to touch memory at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Reads a byte.
    ReadByte,
    /// Reads four bytes.
    Read,
    /// Writes a byte.
    WriteByte,
    /// Writes four bytes.
    Write,
    /// Jumps there, where [`stub`] has to be.
    Execute,
}

impl Touch {
    /// How many bytes are touched.
    pub fn len(self) -> u64 {
        match self {
            Self::ReadByte | Self::WriteByte => 1,
            Self::Read | Self::Write => 4,
            Self::Execute => STUB as u64,
        }
    }

    /// The instructions that do it at rdi, but for the call that follows.
    fn code(self) -> &'static [u8] {
        match self {
            // movzx eax, byte ptr [rdi]
            Self::ReadByte => &[0x0f, 0xb6, 0x07],
            // mov eax, [rdi]
            Self::Read => &[0x8b, 0x07],
            // mov [rdi], al
            Self::WriteByte => &[0x88, 0x07],
            // mov [rdi], eax
            Self::Write => &[0x89, 0x07],
            // jmp rdi
            Self::Execute => &[0xff, 0xe7],
        }
    }

    fn offset(self) -> u64 {
        match self {
            Self::ReadByte => 0,
            Self::Read => 0x10,
            Self::WriteByte => 0x20,
            Self::Write => 0x30,
            Self::Execute => 0x40,
        }
    }

    const ALL: [Self; 5] = [Self::ReadByte, Self::Read, Self::WriteByte, Self::Write, Self::Execute];
}

const STUB: usize = 8;

/// Code that calls with `value` in eax.
pub fn stub<W: Walker>(value: u32) -> [u8; STUB] {
    let [a, b, c, d] = value.to_le_bytes();
    let [x, y, z] = W::CALL;
    // mov eax, value; then the call.
    [0xb8, a, b, c, d, x, y, z]
}

/// The guest's own memory: a frame of code, the top page table, and a table of 512 pages of 1 GiB for each entry in it.
pub struct Guest {
    memory: Shared,
}

/// Frames of the guest's own.
pub const FRAMES: u64 = 2 + LOWER_TABLES;
/// Each maps 512 GiB.
const LOWER_TABLES: u64 = 2;
/// The first guest-physical address that the guest does not reach.
pub const REACH: u64 = LOWER_TABLES << 39;

/// Present, writable, accessed: a table. The marks are set beforehand, so that the guest's walks write nothing.
const TABLE: u64 = 0x23;
/// The same, dirty and large: a page.
const PAGE: u64 = 0xe3;

impl Guest {
    /// Where the guest has its own memory.
    pub const HOME: Gfn = Gfn::new(0x7_0000);

    /// Writes code and page tables. `None` when no frames are left.
    pub fn new<W: Walker>() -> Option<Self> {
        let memory = Shared::alloc(FRAMES)?;
        for touch in Touch::ALL {
            memory.copy_in(touch.offset(), touch.code());
            memory.copy_in(touch.offset() + touch.code().len() as u64, &W::CALL);
        }
        let home = Self::home();
        for lower in 0..LOWER_TABLES {
            let table = (2 + lower) * FRAME;
            memory.write64(FRAME + lower * 8, (home + table) | TABLE);
            for page in 0..512 {
                memory.write64(table + page * 8, (lower * 512 + page) << 30 | PAGE);
            }
        }
        Some(Self { memory })
    }

    /// The first machine frame.
    pub fn first(&self) -> Mfn {
        Mfn::containing(self.memory.start())
    }

    /// The state in which it touches `address`.
    pub fn state(touch: Touch, address: u64, value: u32) -> State {
        let home = Self::home();
        State { rip: home + touch.offset(), cr3: home + FRAME, rax: value.into(), rdi: address }
    }

    fn home() -> u64 {
        Self::HOME.raw() * FRAME
    }
}
