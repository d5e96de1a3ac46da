//! One touch, and the comparison of what became of it with what the table says.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use p2m::{Access, AddressSpace, FrameSource, Gfn, Mfn, P2mType, Translation};

use super::trial::{Trial, everything};
use crate::check::ensure;
use crate::host::TableFrames;
use crate::memory::FRAME;
use crate::walker::{Exit, STUB, Touch, Violation, Walker};

/// Bits 0 and 1 of a leaf are reads, or present, and writes in every format.
pub const READ_BIT: u64 = 1 << 0;
pub const WRITE_BIT: u64 = 1 << 1;
/// Bits 2:0 make an entry that holds nothing one that grants everything, at machine address 0.
pub const ALL_BITS: u64 = 7;
/// A touch of each kind.
pub const EACH: &[Touch] = &[Touch::Read, Touch::Write, Touch::Execute];

/// Bit 7 of an entry above the lowest level: a page, and not a table.
const LARGE: u64 = 1 << 7;
/// Where the tables' frames come from.
static FRAMES: TableFrames = TableFrames;

/// What is to become of a touch.
struct Answer {
    bytes: Vec<Byte>,
    /// Where it is stopped first, if at all, and what rights there are.
    stop: Option<(u64, Access)>,
}

/// One byte of a touch.
#[derive(Clone, Copy)]
struct Byte {
    /// Its machine address.
    place: Option<u64>,
    /// Whether the touch gets this far.
    reached: bool,
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

/// What p2m types leave of an access: writes to read-only and logged RAM are for the hypervisor, and no
/// format has writes without reads.
fn allowed(p2m_type: P2mType, access: Access) -> Access {
    match p2m_type {
        P2mType::Invalid | P2mType::MmioDm | P2mType::PopulateOnDemand => Access::empty(),
        P2mType::RamRo | P2mType::RamLogdirty => access - Access::WRITE,
        _ if access.contains(Access::READ) => access,
        _ => access - Access::WRITE,
    }
}

impl<W: Walker> Trial<'_, W> {
    /// Has `address` touched in each of these ways that there are.
    pub fn probe(&mut self, address: u64, touches: &[Touch]) -> Result<(), String> {
        touches
            .iter()
            .filter(|touch| !W::DEVICE || **touch != Touch::Execute)
            .try_for_each(|touch| self.touch(address, *touch))
    }

    /// Has `address` touched, and compares.
    fn touch(&mut self, address: u64, touch: Touch) -> Result<(), String> {
        let answer = self.answer(address, touch)?;
        self.flush()?;
        let value = self.fresh();
        // Another in each of its bytes.
        let before = !value;
        let there = match (answer.stop, needed(touch)) {
            // Also where it is not to be reached, so that a wrong run is a short one.
            (_, Access::EXECUTE) => W::code(value),
            (None, Access::READ) => wide(value),
            _ => wide(before),
        };
        self.put(&answer.bytes, &there);
        let writes = needed(touch) == Access::WRITE;
        let given = if writes { value } else { before };
        let (mut exit, mut read) = self.run(touch, address, given)?;
        let sentence = |trial: &Self, what: &dyn fmt::Display| {
            format!("{} at {address:#x}, where there is {:?}: {what}", name(touch), trial.at(address))
        };
        // What memory and a reader have to have in the end.
        let after = |byte: &Byte, there: u8, given: u8| if writes && byte.reached { given } else { there };
        let memory = self.all(&answer.bytes, &there, &wide(given), after);
        let page = answer.stop.map(|(at, _)| at / FRAME * FRAME);
        if W::DEVICE && writes && page.is_some() && exit.page() != page {
            // QEMU's unit records no fault where it knows the page from reads; then that of the next page is
            // the first.
            ensure!(memory, "{}", sentence(self, &"it was to be stopped, and memory changed"));
            self.world.walker.flush(self.table.root(), &everything(self.table.limit()))?;
            (exit, read) = self.run(touch, address, given)?;
        }
        let memory = self.all(&answer.bytes, &there, &wide(given), after);
        match (answer.stop, exit) {
            (None, Exit::Call) => {
                let place = answer.bytes.first().and_then(|byte| byte.place).unwrap_or_default();
                let wanted = if touch.len() == 1 { value & 0xff } else { value };
                ensure!(
                    writes || read == wanted,
                    "{}",
                    sentence(
                        self,
                        &format_args!("{read:#x} instead of the {wanted:#x} of machine address {place:#x}")
                    )
                );
                ensure!(
                    memory,
                    "{}",
                    sentence(self, &format_args!("machine address {place:#x} does not hold what it must"))
                );
                self.reached += 1;
            }
            (Some((at, granted)), Exit::Violation(violation)) => {
                let expected = Violation {
                    address: if W::DEVICE { at / FRAME * FRAME } else { at },
                    tried: needed(touch),
                    present: violation.present.map(|_| !granted.is_empty()),
                    granted: violation.granted.map(|_| granted),
                    in_guest_walk: false,
                };
                ensure!(
                    violation == expected,
                    "{}",
                    sentence(self, &format_args!("{violation}, and not: {expected}"))
                );
                ensure!(memory, "{}", sentence(self, &"it was stopped, and memory changed"));
                if W::DEVICE && !writes {
                    let bytes = answer.bytes.iter().zip(there).zip(wide(read));
                    let right = |((byte, there), read): ((&Byte, u8), u8)| {
                        read == if byte.reached { there } else { 0 }
                    };
                    ensure!(
                        bytes.into_iter().all(right),
                        "{}",
                        sentence(self, &format_args!("it was stopped, and {read:#x} was read"))
                    );
                }
                self.stopped += 1;
            }
            (None, exit) => {
                return Err(sentence(self, &format_args!("it was to go through, and {exit}")));
            }
            (Some(_), exit) => {
                return Err(sentence(self, &format_args!("it was to be stopped, and {exit}")));
            }
        }
        Ok(())
    }

    /// A read at `address` finds what is at the machine address `place`, whatever the table says by now.
    pub fn still_reads(&mut self, address: u64, place: u64) -> Result<(), String> {
        let value = self.fresh();
        let bytes = [0, 1, 2, 3].map(|offset| Byte { place: Some(place + offset), reached: true });
        self.put(&bytes, &wide(value));
        let (exit, read) = self.world.walker.touch(self.table.root(), Touch::Read, address, 0)?;
        ensure!(
            exit == Exit::Call && read == value,
            "a read at {address:#x} of what is cached finds {read:#x} and not {value:#x}: {exit}"
        );
        Ok(())
    }

    /// What the table says of it.
    fn answer(&self, address: u64, touch: Touch) -> Result<Answer, String> {
        let (mut bytes, mut stop) = (Vec::new(), None);
        for at in address..address + touch.len() {
            let there = self.at(at);
            let granted = W::granted(self.table.format(), allowed(there.p2m_type(), there.access()));
            let place = there.mfn().and_then(Mfn::address).map(|frame| frame + at % FRAME);
            let reached = place.is_some() && granted.contains(needed(touch));
            if stop.is_none() && !reached {
                stop = Some((at, granted));
            }
            ensure!(
                place.is_none_or(|place| self.world.pool.range().contains(&place)),
                "{there:?} at {at:#x} leads to memory of which the steps know nothing"
            );
            bytes.push(Byte { place, reached });
        }
        if stop.is_some() && !W::DEVICE {
            bytes.iter_mut().for_each(|byte| byte.reached = false);
        }
        Ok(Answer { bytes, stop })
    }

    /// What is at this guest-physical address.
    pub fn at(&self, address: u64) -> Translation<W::Format> {
        self.table.translate(Gfn::containing(address))
    }

    /// The entry at `gfn` covers `1 << order` frames.
    pub fn of_order(&self, gfn: Gfn, order: u32) -> Result<(), String> {
        let found = self.at(gfn.raw() * FRAME);
        ensure!(found.order() == order, "{found:?} at {gfn} where order {order} was to be");
        Ok(())
    }

    /// Has the hardware forget what the table's updates made wrong.
    pub fn flush(&mut self) -> Result<(), String> {
        if let Some(owed) = self.table.take_flush() {
            self.world.walker.flush(self.table.root(), &owed)?;
            self.table.confirm_flush(owed);
        }
        Ok(())
    }

    /// If the step is to fail: these bits of the entry for `gfn` are other ones whenever the hardware walks.
    pub fn spoil(&mut self, gfn: Gfn, bits: u64) {
        if self.spoilt {
            self.spoils.push((gfn, bits));
        }
    }

    /// Has the hardware do it, on spoilt entries where there are such.
    fn run(&mut self, touch: Touch, address: u64, value: u32) -> Result<(Exit, u32), String> {
        let (root, all) = (self.table.root(), everything(self.table.limit()));
        let mut undo = Vec::new();
        for (gfn, bits) in &self.spoils {
            let (entry, level) = self.entry(*gfn)?;
            let value = entry.load(Ordering::Relaxed);
            // What was nothing is to be a page, whatever the level.
            let large = if value & 7 == 0 && level > 0 { LARGE } else { 0 };
            entry.store(value ^ bits ^ large, Ordering::Relaxed);
            undo.push((entry, bits ^ large));
            self.world.walker.flush(root, &all)?;
        }
        let exit = self.world.walker.touch(root, touch, address, value);
        for (entry, bits) in undo.into_iter().rev() {
            entry.fetch_xor(bits, Ordering::Relaxed);
            self.world.walker.flush(root, &all)?;
        }
        exit
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

    /// What was seen, for the step's outcome.
    pub fn seen(&self) -> String {
        format!("{} accesses reached their memory, {} were stopped", self.reached, self.stopped)
    }

    fn fresh(&mut self) -> u32 {
        self.world.fresh = self.world.fresh.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
        self.world.fresh
    }

    /// Writes these bytes where there are machine addresses for them.
    fn put(&self, bytes: &[Byte], values: &[u8]) {
        for (byte, value) in bytes.iter().zip(values) {
            if let Some(place) = byte.place {
                self.world.pool.write8(place - self.world.pool.start(), *value);
            }
        }
    }

    /// Whether in each place there is what `wanted` makes of what was there and what was given.
    fn all(&self, bytes: &[Byte], there: &[u8], given: &[u8], wanted: impl Fn(&Byte, u8, u8) -> u8) -> bool {
        bytes.iter().zip(there.iter().zip(given)).all(|(byte, (there, given))| {
            byte.place.is_none_or(|place| {
                self.world.pool.read8(place - self.world.pool.start()) == wanted(byte, *there, *given)
            })
        })
    }
}

/// The bytes of a word, and more.
fn wide(value: u32) -> [u8; STUB] {
    u64::from(value).to_le_bytes()
}
