//! What hardware sees in a table, written from the specifications' entry layouts and from nothing of ours.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use p2m::{DeviceRoot, FrameSource, Mfn};

/// Whose walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Walker {
    /// VT-d second stage without snoop control, device TLBs and execute permission.
    Vtd,
    /// EPT without any of the controls that give bits 57 to 61 a meaning.
    Ept,
    /// Long mode with EFER.NXE.
    LongMode,
}

/// Where a walk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The machine frame.
    pub mfn: u64,
    /// Reads are allowed.
    pub read: bool,
    /// Writes are.
    pub write: bool,
    /// Instruction fetches are.
    pub execute: bool,
    /// The power of two of frames in the page.
    pub order: u32,
}

fn bit(entry: u64, number: u32) -> bool {
    entry >> number & 1 == 1
}

/// Walks to `gfn`; panics at an entry that hardware would call misconfigured or reserved.
pub fn walk(frames: &impl FrameSource, walker: Walker, root: DeviceRoot, gfn: u64) -> Option<Seen> {
    if gfn >> (9 * u32::from(root.levels)) != 0 {
        return None;
    }
    let mut frame = root.root.raw();
    let (mut read, mut write, mut execute) = (true, true, true);
    for level in (1..=u32::from(root.levels)).rev() {
        let table = frames.table(Mfn::new(frame)).expect("a walk leaves the tables");
        let index = gfn >> (9 * (level - 1)) & 0x1ff;
        let entry = table.0[index as usize].load(Ordering::Acquire);
        let present = match walker {
            Walker::Vtd => bit(entry, 0) || bit(entry, 1),
            Walker::Ept => entry & 7 != 0,
            Walker::LongMode => bit(entry, 0),
        };
        if !present {
            return None;
        }
        let leaf = level == 1 || bit(entry, 7);
        if leaf {
            assert!(level <= 3, "{entry:#x}: a leaf at level {level}");
        }
        match walker {
            Walker::Vtd => {
                assert!(!bit(entry, 11) && !bit(entry, 62), "{entry:#x}: SNP or TM without the capability");
                read &= bit(entry, 0);
                write &= bit(entry, 1);
                execute = false;
            }
            Walker::Ept => {
                assert!(bit(entry, 0) || !bit(entry, 1), "{entry:#x}: write without read");
                assert!(
                    bit(entry, 0) || !bit(entry, 2),
                    "{entry:#x}: execute without read and without the capability"
                );
                if leaf {
                    assert!(matches!(entry >> 3 & 7, 0 | 1 | 4 | 5 | 6), "{entry:#x}: no such memory type");
                } else {
                    assert_eq!(
                        entry & 0xf8,
                        0,
                        "{entry:#x}: reserved bits of an entry that leads to a table"
                    );
                }
                read &= bit(entry, 0);
                write &= bit(entry, 1);
                execute &= bit(entry, 2);
            }
            Walker::LongMode => {
                assert!(level < 4 || !bit(entry, 7), "{entry:#x}: PS at level {level}");
                assert!(level > 1 || !bit(entry, 7), "{entry:#x}: PAT is not in use");
                write &= bit(entry, 1);
                execute &= !bit(entry, 63);
            }
        }
        let address = entry & 0xf_ffff_ffff_f000;
        if leaf {
            let order = 9 * (level - 1);
            let offset = gfn & ((1 << order) - 1);
            assert_eq!(
                address >> 12 & ((1 << order) - 1),
                0,
                "{entry:#x}: a page of order {order} is not aligned"
            );
            return Some(Seen { mfn: (address >> 12) + offset, read, write, execute, order });
        }
        frame = address >> 12;
    }
    panic!("the lowest table leads on")
}

/// The tables that can be reached from a top table, itself among them: any walker's.
pub fn reachable(frames: &impl FrameSource, root: DeviceRoot) -> BTreeSet<Mfn> {
    fn below(frames: &impl FrameSource, frame: Mfn, level: u8, all: &mut BTreeSet<Mfn>) {
        all.insert(frame);
        if level == 1 {
            return;
        }
        for entry in &frames.table(frame).expect("a pointer leaves the tables").0 {
            let entry = entry.load(Ordering::Relaxed);
            if bit(entry, 0) && !bit(entry, 7) {
                below(frames, Mfn::containing(entry & 0xf_ffff_ffff_f000), level - 1, all);
            }
        }
    }
    let mut all = BTreeSet::new();
    below(frames, root.root, root.levels, &mut all);
    all
}
