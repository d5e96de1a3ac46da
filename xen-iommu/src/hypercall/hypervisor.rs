//! What the calls need of the hypervisor beside the policy: its domains, and who may do what.

use core::fmt::Display;
use core::ops::RangeInclusive;

use xen_abi::domctl::XEN_DOMCTL_INTERFACE_VERSIONS;
use xen_abi::{DOMID_FIRST_RESERVED, Domctl, Errno, Layout};

use super::{GuestFault, GuestMemory};
use crate::note::Note;
use crate::platform::DomId;

/// A hypercall: who calls, and where its argument is.
pub struct Call<'c, M> {
    /// The calling domain.
    pub caller: DomId,
    /// Its memory.
    pub memory: &'c mut M,
    /// How it lays out structures.
    pub layout: Layout,
    /// The guest address of the command's structure.
    pub argument: u64,
}

impl<M: GuestMemory> Call<'_, M> {
    /// Fills `bytes` from guest address `address` on.
    pub(super) fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), GuestFault> {
        self.check(address, bytes.len())?;
        self.memory.read(address, bytes)
    }

    /// Writes `bytes` to guest address `address` and on.
    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), GuestFault> {
        self.check(address, bytes.len())?;
        self.memory.write(address, bytes)
    }

    /// The first byte and the last are to be the guest's; what lies between is for the copy to find out.
    fn check(&self, address: u64, length: usize) -> Result<(), GuestFault> {
        let Some(more) = (length as u64).checked_sub(1) else { return Ok(()) };
        let last = address.checked_add(more).ok_or(GuestFault)?;
        let is_ours = self.memory.is_guest_address(address) && self.memory.is_guest_address(last);
        if is_ours { Ok(()) } else { Err(GuestFault) }
    }
}

impl From<GuestFault> for Errno {
    fn from(_: GuestFault) -> Self {
        Self::EFAULT
    }
}

/// The address of element `index` of an array of elements of `size` bytes at `start`.
pub(super) fn element(start: u64, index: u64, size: usize) -> Result<u64, GuestFault> {
    index.checked_mul(size as u64).and_then(|offset| start.checked_add(offset)).ok_or(GuestFault)
}

/// What of a group a toolstack's assignment of one device moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupMove {
    /// The device that is named.
    #[default]
    Named,
    /// Its group, as far as that is the hardware domain's or waits in quarantine. A device that the target
    /// has already is no error then, since toolstacks go on to name the others. Quarantine is still given
    /// the named device alone: the others may be in use.
    Whole,
}

/// The hypervisor: its domains, who may do what, and where words go. Methods may be called at any point of
/// a call; [`hear`](Self::hear) with locks of the policy held, so that it may call nothing of that.
pub trait Hypervisor {
    /// Whether there is such a domain. Reserved ids are not asked about.
    fn has_domain(&self, domain: DomId) -> bool;

    /// Whether a domain is a toolstack's: it may give devices and memory away, and see all regions.
    /// `hardware_domain` is the policy's. (Xen: `is_control_domain`, or what an XSM policy says.)
    fn is_toolstack(&self, domain: DomId, hardware_domain: DomId) -> bool {
        domain == hardware_domain
    }

    /// Whether `caller` may change the memory of `domain`: its own, a toolstack any; beyond Xen's
    /// `XSM_TARGET` a device model that of its guest.
    fn may_change_memory(&self, caller: DomId, domain: DomId, hardware_domain: DomId) -> bool {
        caller == domain || self.is_toolstack(caller, hardware_domain)
    }

    /// The domctl versions that are served.
    fn domctl_versions(&self) -> RangeInclusive<u32> {
        XEN_DOMCTL_INTERFACE_VERSIONS
    }

    /// What of a group an assignment moves.
    fn group_move(&self) -> GroupMove {
        GroupMove::Named
    }

    /// Whether a domain may have devices at all (Xen: the `passthrough=` of its configuration).
    fn has_iommu(&self, _domain: DomId) -> bool {
        true
    }

    /// Whether a domain is being destroyed.
    fn is_dying(&self, _domain: DomId) -> bool {
        false
    }

    /// Whether a domain's pages may be elsewhere than its tables say, so that no device may use them: memory
    /// is shared, paged out, or watched for writes.
    fn has_movable_pages(&self, _domain: DomId) -> bool {
        false
    }

    /// Serves a domctl that is none of those here. The caller is a toolstack's, and `domain` is there.
    ///
    /// # Errors
    /// `ENOSYS` for those that the hypervisor does not know either.
    fn other_domctl(&mut self, _domctl: &Domctl) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// What was done otherwise than one might think.
    fn hear(&mut self, note: Note);

    /// Why a call was refused, for a log: one line. What it returns is a number.
    fn refused(&mut self, why: &dyn Display);
}

/// The domain that a command names, where [`DOMID_SELF`](xen_abi::DOMID_SELF) is the caller.
pub(super) fn any_domain(hypervisor: &impl Hypervisor, id: u16, caller: DomId) -> Option<DomId> {
    if id == xen_abi::DOMID_SELF { Some(caller) } else { known_domain(hypervisor, id) }
}

/// The domain of this id; reserved ones are nobody's.
pub(super) fn known_domain(hypervisor: &impl Hypervisor, id: u16) -> Option<DomId> {
    Some(DomId(id)).filter(|domain| id < DOMID_FIRST_RESERVED && hypervisor.has_domain(*domain))
}
