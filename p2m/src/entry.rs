//! What is at a guest frame.

use core::fmt;

use crate::frame::{GfnRange, Mfn, MfnRange};

/// What a guest frame is (Xen's `p2m_type_t`, `xen/arch/x86/include/asm/p2m.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum P2mType {
    /// Nothing.
    #[default]
    Invalid,
    /// Emulated by the device model: nothing is mapped.
    MmioDm,
    /// The machine's own memory or registers, mapped directly.
    MmioDirect,
    /// RAM of the guest.
    RamRw,
    /// RAM that the guest may only read.
    RamRo,
    /// RAM whose writes are being logged.
    RamLogdirty,
    /// RAM that is populated when it is first touched.
    PopulateOnDemand,
    /// A frame of another domain.
    Foreign,
    /// A granted frame of another domain.
    Grant,
}

impl P2mType {
    /// Whether a 1:1 mapping may take this place: nothing is mapped here and nothing is promised (Xen:
    /// `p2m_invalid` or `p2m_mmio_dm`).
    #[must_use]
    pub const fn is_vacant(self) -> bool {
        matches!(self, Self::Invalid | Self::MmioDm)
    }

    /// Whether there is a machine frame behind guest frames of this type.
    #[must_use]
    pub const fn has_frame(self) -> bool {
        !matches!(self, Self::Invalid | Self::MmioDm | Self::PopulateOnDemand)
    }

    /// Xen's name of the type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "p2m_invalid",
            Self::MmioDm => "p2m_mmio_dm",
            Self::MmioDirect => "p2m_mmio_direct",
            Self::RamRw => "p2m_ram_rw",
            Self::RamRo => "p2m_ram_ro",
            Self::RamLogdirty => "p2m_ram_logdirty",
            Self::PopulateOnDemand => "p2m_populate_on_demand",
            Self::Foreign => "p2m_map_foreign",
            Self::Grant => "p2m_grant_map",
        }
    }
}

impl fmt::Display for P2mType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

bitflags::bitflags! {
    /// What may be done at a guest frame (Xen's `p2m_access_t`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Access: u8 {
        /// Reads.
        const READ = 1;
        /// Writes.
        const WRITE = 2;
        /// Instruction fetches.
        const EXECUTE = 4;
    }
}

impl Access {
    /// Reads and writes: what a reserved region is mapped with (Xen: `p2m_access_rw`).
    pub const READ_WRITE: Self = Self::READ.union(Self::WRITE);
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::EXECUTE, "x")] {
            f.write_str(if self.contains(flag) { letter } else { "-" })?;
        }
        Ok(())
    }
}

/// What is at one guest frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub p2m_type: P2mType,
    /// The machine frame behind it, where there is one.
    pub mfn: Option<Mfn>,
    /// What may be done there.
    pub access: Access,
}

impl Entry {
    /// Nothing.
    pub const NOTHING: Self = Self { p2m_type: P2mType::Invalid, mfn: None, access: Access::empty() };

    /// The entry `frames` further on in a run that begins with this one.
    #[must_use]
    pub fn after(self, frames: u64) -> Self {
        Self { mfn: self.mfn.and_then(|mfn| mfn.checked_add(frames)), ..self }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mfn {
            Some(mfn) => write!(f, "{} at mfn {mfn} ({})", self.p2m_type, self.access),
            None => write!(f, "{}", self.p2m_type),
        }
    }
}

/// Guest frames that are alike: one type, one access, machine frames that count up with the guest frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The guest frames.
    pub gfns: GfnRange,
    /// What is at the first of them.
    pub entry: Entry,
}

impl Run {
    /// The part of it that leads to machine frames of `range`.
    #[must_use]
    pub fn leading_to(&self, range: MfnRange) -> Option<Self> {
        let first = self.entry.mfn?;
        let both = MfnRange::with_len(first, self.gfns.len())?.intersection(&range)?;
        let before = both.start().raw().saturating_sub(first.raw());
        let gfns = GfnRange::with_len(self.gfns.start().checked_add(before)?, both.len())?;
        Some(Self { gfns, entry: self.entry.after(before) })
    }
}
