//! What hardware sees in a table, written from the specifications' entry layouts and from nothing of ours.

use std::sync::atomic::Ordering;

use p2m::{DeviceRoot, FrameSource, Mfn};

use crate::source::Frames;

/// Whose walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walker {
    /// VT-d second stage without snoop control, device TLBs and execute permission.
    Vtd,
    /// EPT without any of the controls that give bits 57 to 61 a meaning.
    Ept,
    /// Long mode with EFER.NXE.
    LongMode,
}

/// Where a walk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mfn: u64,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) execute: bool,
    pub(crate) order: u32,
}

fn bit(entry: u64, number: u32) -> bool {
    entry >> number & 1 == 1
}

/// Walks to `gfn`; panics at an entry that hardware would call misconfigured or reserved.
pub(crate) fn walk(frames: &Frames, walker: Walker, root: DeviceRoot, gfn: u64) -> Option<Seen> {
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
