//! DMA of the edu devices as the steps use it: a pattern brought into the device while it reaches the
//! hardware domain's RAM, and written out later.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use xen_iommu::Sbdf;
use xen_iommu::vtd::{Fault, Operation, Reason};

use super::world::World;
use crate::check::{ensure, text};
use crate::devices::edu::Direction;
use crate::memory::Shared;

/// Bytes of a transfer.
pub const LEN: u64 = 256;

impl World {
    /// Fills a device's buffer with `byte`, by a DMA from the hardware domain's RAM; the device must be the
    /// hardware domain's.
    pub fn load(&mut self, device: Sbdf, byte: u8) -> Result<(), String> {
        self.host.ram.fill(0, LEN, byte);
        let from = self.host.ram.start();
        self.edu(device)?.transfer(Direction::FromMemory, from, LEN).map_err(text)
    }

    /// Lets a device write its buffer to `bus`. The device cannot tell whether that arrived: look at memory.
    pub fn write(&mut self, device: Sbdf, bus: u64) -> Result<(), String> {
        self.edu(device)?.transfer(Direction::ToMemory, bus, LEN).map_err(text)
    }

    /// As [`write`](Self::write), of a device that may not master the bus, so that it cannot tell when it is
    /// done.
    pub fn write_silently(&mut self, device: Sbdf, bus: u64) -> Result<(), String> {
        self.edu(device)?.transfer_silently(Direction::ToMemory, bus, LEN).map_err(text)
    }

    /// Lets a device that waits with its DMA off write to a region at `bus`, and looks that nothing arrives.
    pub fn write_is_off(&mut self, device: Sbdf, bus: u64) -> Result<(), String> {
        let region = Shared::kept_by_firmware(bus..bus + LEN).map_err(text)?;
        region.fill(0, LEN, 0xee);
        self.write_silently(device, bus)?;
        let same = region.is_filled(0, LEN, 0xee);
        region.fill(0, LEN, 0);
        ensure!(same, "the DMA of {device} to {bus:#x} arrived, though it waits in quarantine");
        Ok(())
    }

    /// Lets a device write its buffer, loaded with `byte`, into a region at `bus`, and looks whether it
    /// arrives without a fault.
    pub fn write_arrives(&mut self, device: Sbdf, bus: u64, byte: u8) -> Result<(), String> {
        let region = Shared::kept_by_firmware(bus..bus + LEN).map_err(text)?;
        region.fill(0, LEN, 0);
        self.write(device, bus)?;
        let faults = self.faults();
        ensure!(faults.is_empty(), "the DMA of {device} to {bus:#x} faults: {}", sentences(&faults));
        ensure!(region.is_filled(0, LEN, byte), "the DMA of {device} to {bus:#x} did not arrive");
        region.fill(0, LEN, 0);
        Ok(())
    }
}

/// Faults, in words.
pub fn sentences(faults: &[Fault]) -> String {
    let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
    all.join("; ")
}

/// The one fault that there must be: of a write by `device` to `address`, where it may not write.
pub fn one_blocked_write(faults: &[Fault], device: Sbdf, address: u64) -> Result<Fault, String> {
    let [fault] = *faults else {
        return Err(format!("one fault is expected: {}", sentences(faults)));
    };
    ensure!(
        fault.source == device
            && fault.address == address
            && fault.operation == Operation::Write
            && fault.reason == Reason::NO_WRITE,
        "another fault than the one expected: {fault}"
    );
    Ok(fault)
}
