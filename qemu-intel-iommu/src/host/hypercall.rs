//! The edge to the guests: Xen's hypercalls by number, on a domain's memory as its p2m maps it.

use p2m::{Access, AddressSpace, Gfn, P2mType};
use xen_iommu::DomId;
use xen_iommu::abi::{self, Errno, Layout};
use xen_iommu::hypercall::{self, GuestFault, GuestMemory};

use super::setup::Policy;
use crate::memory::Shared;

/// A domain that calls. Its RAM is `ram`, wherever its p2m maps it.
pub struct Caller<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The domain.
    pub domain: DomId,
    /// Its RAM.
    pub ram: &'a Shared,
}

impl Caller<'_> {
    /// A hypercall with Xen's number and arguments, of a 64-bit caller. Returns what Xen returns: 0 or more,
    /// or a negative error number.
    pub fn hypercall(&mut self, number: u64, command: u64, argument: u64) -> i64 {
        let result = match number {
            abi::HYPERVISOR_MEMORY_OP => self.memory_op(command, argument),
            _ => Err(Errno::ENOSYS),
        };
        result.map_or_else(Errno::result, |()| 0)
    }

    fn memory_op(&mut self, command: u64, argument: u64) -> Result<(), Errno> {
        let (command, start_extent) = abi::memory::split_command(command);
        match command {
            abi::memory::XENMEM_RESERVED_DEVICE_MEMORY_MAP => {
                let caller = if self.domain == self.policy.hardware_domain() {
                    hypercall::Caller::Privileged
                } else {
                    hypercall::Caller::Guest(self.domain)
                };
                let policy = self.policy;
                hypercall::reserved_device_memory_map(
                    policy.registry(),
                    self,
                    caller,
                    Layout::Native,
                    start_extent,
                    argument,
                    |device| policy.inseparable(device),
                )
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    /// The offset in the domain's RAM of what it sees at `address`, where it may do `access`.
    fn offset(&self, address: u64, access: Access) -> Result<u64, GuestFault> {
        let run = self.policy.with_space(self.domain, |space| space.look_up(Gfn::containing(address)));
        let entry = run.ok_or(GuestFault)?.entry;
        let frame = entry.mfn.filter(|_| entry.p2m_type == P2mType::RamRw && entry.access.contains(access));
        let start = frame.and_then(p2m::Mfn::address).ok_or(GuestFault)?;
        let offset = start.checked_sub(self.ram.start()).ok_or(GuestFault)? + address % 4096;
        if offset < self.ram.size() { Ok(offset) } else { Err(GuestFault) }
    }
}

impl GuestMemory for Caller<'_> {
    fn is_guest_address(&self, address: u64) -> bool {
        // Guests are numbered physically here, within the 48 bits of their tables; above is the hypervisor's.
        address >> 48 == 0
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), GuestFault> {
        for (at, byte) in (address..).zip(bytes) {
            *byte = self.ram.read8(self.offset(at, Access::READ)?);
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), GuestFault> {
        for (at, byte) in (address..).zip(bytes) {
            self.ram.write8(self.offset(at, Access::WRITE)?, *byte);
        }
        Ok(())
    }
}
