//! A caller's memory: the argument, and a buffer as long as what is written to it.

use xen_iommu::hypercall::{GuestFault, GuestMemory};

/// Where the argument is.
pub(super) const ARGUMENT: u64 = 0x1000;
/// Where the buffer begins; nothing follows it.
pub(super) const BUFFER: u64 = 0x2000;

/// See the module.
pub(super) struct Memory {
    pub(super) argument: Vec<u8>,
    /// As far as it was written.
    pub(super) buffer: Vec<u8>,
}

impl Memory {
    pub(super) fn new(argument: Vec<u8>) -> Self {
        Self { argument, buffer: Vec::new() }
    }

    /// The part of the argument at an address.
    fn part(&mut self, address: u64, length: usize) -> Result<&mut [u8], GuestFault> {
        let start = address.checked_sub(ARGUMENT).and_then(|start| usize::try_from(start).ok());
        let start = start.ok_or(GuestFault)?;
        self.argument.get_mut(start..).and_then(|rest| rest.get_mut(..length)).ok_or(GuestFault)
    }
}

impl GuestMemory for Memory {
    fn is_guest_address(&self, address: u64) -> bool {
        address >> 47 == 0
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), GuestFault> {
        bytes.copy_from_slice(self.part(address, bytes.len())?);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), GuestFault> {
        if address == BUFFER + self.buffer.len() as u64 {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.part(address, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
}
