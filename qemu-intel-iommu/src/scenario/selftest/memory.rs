//! Frames, the page tables at a few places, and the memory that the firmware keeps.

use alloc::format;
use alloc::string::String;

use crate::check::{ensure, text};
use crate::inventory::Inventory;
use crate::memory::{self, FRAME, FrameError, Mmio, PageUse, Shared, paging};
use crate::scenario::layout::OWN_REGION;
use crate::scenario::step::{Context, Outcome};

pub fn frames(inventory: &mut Inventory) -> Outcome {
    let frames = memory::frames();
    let before = frames.counts();
    let one = frames.alloc().ok_or("no frame is left")?;
    let run = frames.alloc_contiguous(16, 16 * FRAME).ok_or("no 16 frames in a row are left")?;
    ensure!(run.is_multiple_of(16 * FRAME), "a run at {run:#x} when asked for one aligned to 64 KiB");
    let taken = frames.counts();
    ensure!(taken.free + 17 == before.free, "{taken} after taking 17 frames of {before}");
    ensure!(
        frames.take(one..one + FRAME) == Err(FrameError::InUse(one)),
        "the frame at {one:#x} was taken twice"
    );

    ensure!(frames.is_taken(one), "the frame at {one:#x} is not known to be taken");
    // What was written must not be seen by the next owner.
    frames.free(one).map_err(text)?;
    ensure!(frames.free(one) == Err(FrameError::AlreadyFree(one)), "the frame at {one:#x} was freed twice");
    ensure!(!frames.is_taken(one), "the frame at {one:#x} is not known to be free");
    frames.take(one..one + FRAME).map_err(text)?;
    frames.free(one).map_err(text)?;
    frames.free_range(run..run + 16 * FRAME).map_err(text)?;
    let dirty = Shared::alloc(1).ok_or("no frame is left")?;
    let place = dirty.start();
    dirty.fill(0, FRAME, 0xa5);
    drop(dirty);
    let taken = Shared::take(place..place + FRAME).map_err(text)?;
    ensure!(taken.is_filled(0, FRAME, 0xa5), "the frame at {place:#x} was touched while it was free");
    drop(taken);
    let again = Shared::alloc(1).ok_or("no frame is left")?;
    ensure!(
        again.start() == place,
        "a frame at {:#x} when the lowest free one is at {place:#x}",
        again.start()
    );
    ensure!(again.is_filled(0, FRAME, 0), "the frame at {place:#x} was handed out with somebody else's data");
    drop(again);

    let image = memory::image();
    for kept in [0, image.all.start, image.all.end - FRAME, 0xfed9_0000, 1 << 46] {
        ensure!(
            frames.take(kept..kept + FRAME) == Err(FrameError::NotManaged(kept)),
            "the frame at {kept:#x} could be taken"
        );
    }
    ensure!(frames.free(one + 8) == Err(FrameError::Unaligned(one + 8)), "half a frame could be freed");
    let _spoilt = inventory.broken("frames").then(|| Shared::alloc(1));
    let after = frames.counts();
    ensure!(after == before, "{after} instead of {before}");
    Ok(format!("{after}"))
}

pub fn mappings(inventory: &mut Inventory) -> Outcome {
    let image = memory::image();
    let null = if inventory.broken("mappings") { FRAME } else { 0 };
    let usable = memory::start_info().map.usable_pages().last().ok_or("no usable RAM")?;
    let expected = [
        ("page 0", null, None),
        ("the first instruction", image.code.start, Some(PageUse::Code)),
        ("the last page of code", image.code.end - 1, Some(PageUse::Code)),
        ("the first constant", image.constants.start, Some(PageUse::ReadOnly)),
        ("the first datum", image.constants.end, Some(PageUse::Memory)),
        ("the page below the stack", image.guard.start, None),
        ("the stack", image.guard.end, Some(PageUse::Memory)),
        ("what follows the image", image.all.end, Some(PageUse::Memory)),
        ("the last usable byte", usable.end - 1, Some(PageUse::Memory)),
        ("the local APIC", 0xfee0_0000, Some(PageUse::Registers)),
        ("an address beyond all memory", 1 << 46, None),
    ];
    for (what, place, wanted) in expected {
        let found = paging::page_use(place);
        ensure!(found == wanted, "{what} at {place:#x} is mapped as {found:?} instead of {wanted:?}");
    }
    ensure!(Mmio::map(usable.end - FRAME..usable.end).is_err(), "RAM could be mapped as registers");
    Ok(format!("{} places", expected.len()))
}

/// The middle of the memory that the firmware keeps at the top of low RAM: payload of the tables that pad it.
fn pad() -> Result<Shared, String> {
    Shared::kept_by_firmware(OWN_REGION..OWN_REGION + 0x2000).map_err(text)
}

pub fn reserved(inventory: &mut Inventory) -> Outcome {
    let pad = pad()?;
    pad.fill(0, FRAME, 0x5a);
    if inventory.broken("reserved-memory") {
        pad.write8(FRAME - 1, 0);
    }
    ensure!(pad.is_filled(0, FRAME, 0x5a), "{:#x} does not keep what is written to it", pad.start());
    pad.copy_in(9, b"kept");
    let mut word = [0; 6];
    pad.copy_out(8, &mut word);
    ensure!(&word == b"ZkeptZ", "{} came back", word.escape_ascii());
    pad.fill(0, FRAME, 0);
    let usable = memory::start_info().map.usable_pages().last().ok_or("no usable RAM")?;
    ensure!(
        Shared::kept_by_firmware(usable.end - FRAME..usable.end).is_err(),
        "usable RAM was taken for the firmware's"
    );
    ensure!(
        Shared::kept_by_firmware(0xb000_0000..0xb000_1000).is_err(),
        "device registers were taken for memory"
    );
    Shared::kept_by_firmware(0xe_8000..0xf_0000).map_err(text)?;
    Ok(format!("[{:#x},{:#x}) holds what is written to it", pad.start(), pad.start() + pad.size()))
}
