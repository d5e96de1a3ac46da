//! One access by the guest, and the comparison of its exit with what the table says.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use p2m::{Access, AddressSpace, FrameSource, Gfn, Mfn, P2mType, Translation};

use super::Trial;
use crate::guest::code::{self, Touch};
use crate::guest::{Exit, State, Violation, Walker};
use crate::host::TableFrames;
use crate::memory::FRAME;
use crate::scenario::ensure;

/// Bit 7 of an entry above the lowest level: a page, and not a table.
const LARGE: u64 = 1 << 7;
/// Where the tables' frames come from.
static FRAMES: TableFrames = TableFrames;

/// What is to become of an access.
enum Answer {
    /// Its bytes are at these machine addresses.
    Reaches(Vec<u64>),
    /// It is stopped, at this address, where there are these rights; the machine addresses of its bytes that have one.
    Stops { address: u64, granted: Access, behind: Vec<u64> },
}

/// What [`Touch::ReadByte`] and the like need.
fn needed(touch: Touch) -> Access {
    match touch {
        Touch::ReadByte | Touch::Read => Access::READ,
        Touch::WriteByte | Touch::Write => Access::WRITE,
        Touch::Execute => Access::EXECUTE,
    }
}

/// What a sentence calls it.
fn name(touch: Touch) -> &'static str {
    match touch {
        Touch::ReadByte => "a byte read",
        Touch::Read => "a word read",
        Touch::WriteByte => "a byte written",
        Touch::Write => "a word written",
        Touch::Execute => "a jump",
    }
}

/// What p2m types leave of an access: writes to read-only and logged RAM are for the hypervisor, and no format has writes without reads.
fn allowed(p2m_type: P2mType, access: Access) -> Access {
    match p2m_type {
        P2mType::Invalid | P2mType::MmioDm | P2mType::PopulateOnDemand => Access::empty(),
        P2mType::RamRo | P2mType::RamLogdirty => access - Access::WRITE,
        _ if access.contains(Access::READ) => access,
        _ => access - Access::WRITE,
    }
}

impl<W: Walker> Trial<'_, W> {
    /// Has the guest touch `address` in each of these ways.
    pub(super) fn probe(&mut self, address: u64, touches: &[Touch]) -> Result<(), String> {
        touches.iter().try_for_each(|touch| self.touch(address, *touch))
    }

    /// Has the guest touch `address`, and compares.
    pub(super) fn touch(&mut self, address: u64, touch: Touch) -> Result<(), String> {
        let answer = self.answer(address, touch)?;
        self.flush();
        let value = self.fresh();
        // Another in each of its bytes.
        let before = !value;
        let (Answer::Reaches(places) | Answer::Stops { behind: places, .. }) = &answer;
        match (&answer, needed(touch)) {
            // Also where it is not to be reached, so that a wrong run is a short one.
            (_, Access::EXECUTE) => self.put(places, &code::stub::<W>(value)),
            (Answer::Reaches(_), Access::READ) => self.put(places, &value.to_le_bytes()),
            _ => self.put(places, &before.to_le_bytes()),
        }
        let there = self.get(places);
        let given = if needed(touch) == Access::WRITE { value } else { before };
        let mut state = self.world.guest.state(touch, address, given);
        // The guest's window is another.
        self.world.walker.flush(self.table.root());
        let exit = self.run(&mut state)?;
        let told = |what: &dyn fmt::Display| {
            format!("{} at {address:#x}, where there is {:?}: {what}", name(touch), self.at(address))
        };
        match (answer, exit) {
            (Answer::Reaches(places), Exit::Call) => {
                let wanted = if touch.len() == 1 { value & 0xff } else { value };
                let found = if needed(touch) == Access::WRITE { self.get(&places) } else { state.rax as u32 };
                let place = places.first().copied().unwrap_or_default();
                ensure!(
                    found == wanted,
                    "{}",
                    told(&format_args!(
                        "{found:#x} instead of the {wanted:#x} of machine address {place:#x}"
                    ))
                );
                self.reached += 1;
            }
            (Answer::Stops { address: at, granted, behind }, Exit::Violation(violation)) => {
                let expected = Violation {
                    address: at,
                    tried: needed(touch),
                    present: !granted.is_empty(),
                    granted: violation.granted.map(|_| granted),
                    in_guest_walk: false,
                };
                ensure!(violation == expected, "{}", told(&format_args!("{violation}, and not: {expected}")));
                ensure!(self.get(&behind) == there, "{}", told(&"it was stopped, and memory changed"));
                self.stopped += 1;
            }
            (Answer::Reaches(_), exit) => {
                return Err(told(&format_args!("it was to go through, and {exit}")));
            }
            (Answer::Stops { .. }, exit) => {
                return Err(told(&format_args!("it was to be stopped, and {exit}")));
            }
        }
        Ok(())
    }

    /// What the table says of it.
    fn answer(&self, address: u64, touch: Touch) -> Result<Answer, String> {
        let (mut places, mut stop) = (Vec::new(), None);
        for at in address..address + touch.len() {
            let there = self.at(at);
            let granted = W::granted(self.table.format(), allowed(there.p2m_type(), there.access()));
            let place = there.mfn().and_then(Mfn::address).map(|frame| frame + at % FRAME);
            if stop.is_none() && (place.is_none() || !granted.contains(needed(touch))) {
                stop = Some((at, granted));
            }
            ensure!(
                place.is_none_or(|place| self.world.pool.range().contains(&place)),
                "{there:?} at {at:#x} leads to memory of which the steps know nothing"
            );
            places.extend(place);
        }
        Ok(match stop {
            None => Answer::Reaches(places),
            Some((address, granted)) => Answer::Stops { address, granted, behind: places },
        })
    }

    /// What is at this guest-physical address.
    pub(super) fn at(&self, address: u64) -> Translation<W::Format> {
        self.table.translate(Gfn::containing(address))
    }

    /// Has the processor forget what the table's updates made wrong.
    fn flush(&mut self) {
        if let Some(_everything) = self.table.take_flush() {
            self.world.walker.flush(self.table.root());
            self.table.confirm_flush();
        }
    }

    /// If the step is to fail: these bits of the entry for `gfn` are other ones whenever the processor walks.
    pub(super) fn spoil(&mut self, gfn: Gfn, bits: u64) {
        if self.spoilt {
            self.spoils.push((gfn, bits));
        }
    }

    /// Runs the guest, on spoilt entries where there are such.
    fn run(&mut self, state: &mut State) -> Result<Exit, String> {
        let root = self.table.root();
        let mut undo = Vec::new();
        for (gfn, bits) in &self.spoils {
            let (entry, level) = self.entry(*gfn)?;
            let value = entry.load(Ordering::Relaxed);
            // What was nothing is to be a page, whatever the level.
            let large = if value & 7 == 0 && level > 0 { LARGE } else { 0 };
            entry.store(value ^ bits ^ large, Ordering::Relaxed);
            undo.push((entry, bits ^ large));
            self.world.walker.flush(root);
        }
        let exit = self.world.walker.run(root, state);
        for (entry, bits) in undo.into_iter().rev() {
            entry.fetch_xor(bits, Ordering::Relaxed);
            self.world.walker.flush(root);
        }
        Ok(exit)
    }

    /// The lowest entry for `gfn` in the table, as hardware finds it, and its level from 0 up.
    fn entry(&self, gfn: Gfn) -> Result<(&'static AtomicU64, u32), String> {
        let root = self.table.root();
        let (mut frame, mut level) = (root.root, u32::from(root.levels));
        loop {
            level -= 1;
            let table = FRAMES.table(frame).ok_or_else(|| format!("{frame} is no frame of a table"))?;
            let index = gfn.raw() >> (9 * level) & 511;
            let entry = table.0.get(index as usize).ok_or("a table has 512 entries")?;
            let value = entry.load(Ordering::Relaxed);
            if level == 0 || value & 7 == 0 || value & LARGE != 0 {
                return Ok((entry, level));
            }
            frame = Mfn::containing(value & 0x000f_ffff_ffff_f000);
        }
    }

    /// What was seen, for the step's verdict.
    pub(super) fn seen(&self) -> String {
        format!("{} accesses reached their memory, {} were stopped", self.reached, self.stopped)
    }

    fn fresh(&mut self) -> u32 {
        self.world.fresh = self.world.fresh.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        self.world.fresh
    }

    /// Writes these bytes at these machine addresses of the pool.
    fn put(&self, places: &[u64], bytes: &[u8]) {
        for (place, byte) in places.iter().zip(bytes) {
            self.world.pool.write8(place - self.world.pool.start(), *byte);
        }
    }

    /// The bytes at these machine addresses of the pool, four at most, the first the lowest.
    fn get(&self, places: &[u64]) -> u32 {
        let bytes = places.iter().take(4).map(|place| self.world.pool.read8(place - self.world.pool.start()));
        bytes.rev().fold(0, |value, byte| value << 8 | u32::from(byte))
    }
}
