//! A caller's memory and a hypervisor around the made-up machine, for hypercalls as guests make them.

pub mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use p2m::GfnRange;
use xen_iommu::abi::{E820Entry, Layout};
use xen_iommu::hypercall::{
    Call, Described, GroupMove, GuestFault, GuestMemory, Hypervisor, MemoryMaps, NewDevices, NoMemory,
    NotPopulated, Populate,
};
use xen_iommu::pci::{Function, Role};
use xen_iommu::{DomId, Note, Sbdf};

use crate::frames::Frames;
use crate::world::devices::{ALL, function};
use crate::world::{GUEST, HARDWARE_DOMAIN, OTHER, Space, space};

/// Addresses from here on are the hypervisor's.
pub const HYPERVISOR_START: u64 = 1 << 47;

/// An access to a caller's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Where.
    pub address: u64,
    /// What was read or written.
    pub bytes: Vec<u8>,
}

/// A caller's memory: bytes from an address on, and nothing elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The first byte's address.
    pub base: u64,
    /// What is there.
    pub bytes: Vec<u8>,
    /// Accesses that still succeed; all where `None`. From then on all fail.
    pub left: Option<u64>,
    /// Addresses from here on cannot be written.
    pub read_only_from: Option<u64>,
    /// Each access adds this to each byte afterwards: another processor of the caller's writes all the time.
    pub changes: u8,
    /// What was read, in order.
    pub reads: Vec<Access>,
    /// What was written, in order.
    pub writes: Vec<Access>,
}

impl Memory {
    /// So many bytes of 0xcc at an address.
    #[must_use]
    pub fn new(base: u64, length: usize) -> Self {
        Self { base, bytes: vec![0xcc; length], ..Self::default() }
    }

    /// Puts bytes at an address.
    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        let start = self.offset(address, bytes.len()).unwrap();
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// The bytes at an address.
    #[must_use]
    pub fn get(&self, address: u64, length: usize) -> &[u8] {
        let start = self.offset(address, length).unwrap();
        &self.bytes[start..start + length]
    }

    /// The 32-bit number at an address.
    #[must_use]
    pub fn word(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.get(address, 4).try_into().unwrap())
    }

    /// A call of `caller`'s whose argument is at an address.
    pub fn call(&mut self, caller: DomId, layout: Layout, argument: u64) -> Call<'_, Self> {
        Call { caller, memory: self, layout, argument }
    }

    fn offset(&self, address: u64, length: usize) -> Result<usize, GuestFault> {
        let start = address.checked_sub(self.base).and_then(|start| usize::try_from(start).ok());
        let start = start.ok_or(GuestFault)?;
        let end = start.checked_add(length).ok_or(GuestFault)?;
        if end <= self.bytes.len() { Ok(start) } else { Err(GuestFault) }
    }

    /// Whether an access succeeds.
    fn access(&mut self) -> Result<(), GuestFault> {
        let Some(left) = &mut self.left else { return Ok(()) };
        *left = left.checked_sub(1).ok_or(GuestFault)?;
        Ok(())
    }

    fn change(&mut self) {
        let by = self.changes;
        self.bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(by));
    }
}

impl GuestMemory for Memory {
    fn is_guest_address(&self, address: u64) -> bool {
        address < HYPERVISOR_START
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), GuestFault> {
        self.access()?;
        let start = self.offset(address, bytes.len())?;
        bytes.copy_from_slice(&self.bytes[start..start + bytes.len()]);
        self.reads.push(Access { address, bytes: bytes.to_vec() });
        self.change();
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), GuestFault> {
        self.access()?;
        let start = self.offset(address, bytes.len())?;
        if self.read_only_from.is_some_and(|from| address.saturating_add(bytes.len() as u64) > from) {
            return Err(GuestFault);
        }
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.writes.push(Access { address, bytes: bytes.to_vec() });
        self.change();
        Ok(())
    }
}

/// A hypervisor with the domains 0, 1 and 2.
pub struct Host<'f> {
    frames: &'f Frames,
    /// The domains.
    pub domains: BTreeSet<DomId>,
    /// Those that are toolstacks', beside the hardware domain.
    pub toolstacks: BTreeSet<DomId>,
    /// Those that are being destroyed.
    pub dying: BTreeSet<DomId>,
    /// Those whose pages may move.
    pub movable: BTreeSet<DomId>,
    /// Those that may have no devices.
    pub without_iommu: BTreeSet<DomId>,
    /// What of a group moves.
    pub group_move: GroupMove,
    /// The domains' memory maps.
    pub maps: BTreeMap<DomId, Vec<E820Entry>>,
    /// A map that is being made.
    pub begun: Option<(DomId, Vec<E820Entry>)>,
    /// Entries that there is memory for.
    pub room_for_maps: u32,
    /// What was populated.
    pub populated: Vec<(DomId, GfnRange, u32)>,
    /// Extents that there still is memory for.
    pub extents_left: u64,
    /// What was said of devices that came.
    pub described: Vec<(Sbdf, Described)>,
    /// What is otherwise than one might think.
    pub notes: Vec<Note>,
    /// Why calls were refused.
    pub refused: Vec<String>,
}

impl<'f> Host<'f> {
    /// With memory for everything.
    #[must_use]
    pub fn new(frames: &'f Frames) -> Self {
        Self {
            frames,
            domains: [HARDWARE_DOMAIN, GUEST, OTHER].into(),
            toolstacks: BTreeSet::new(),
            dying: BTreeSet::new(),
            movable: BTreeSet::new(),
            without_iommu: BTreeSet::new(),
            group_move: GroupMove::Named,
            maps: BTreeMap::new(),
            begun: None,
            room_for_maps: u32::MAX,
            populated: Vec::new(),
            extents_left: u64::MAX,
            described: Vec::new(),
            notes: Vec::new(),
            refused: Vec::new(),
        }
    }
}

impl Hypervisor for Host<'_> {
    fn has_domain(&self, domain: DomId) -> bool {
        self.domains.contains(&domain)
    }

    fn is_toolstack(&self, domain: DomId, hardware_domain: DomId) -> bool {
        domain == hardware_domain || self.toolstacks.contains(&domain)
    }

    fn group_move(&self) -> GroupMove {
        self.group_move
    }

    fn has_iommu(&self, domain: DomId) -> bool {
        !self.without_iommu.contains(&domain)
    }

    fn is_dying(&self, domain: DomId) -> bool {
        self.dying.contains(&domain)
    }

    fn has_movable_pages(&self, domain: DomId) -> bool {
        self.movable.contains(&domain)
    }

    fn hear(&mut self, note: Note) {
        self.notes.push(note);
    }

    fn refused(&mut self, why: &dyn Display) {
        self.refused.push(why.to_string());
    }
}

impl<'f> NewDevices<Space<'f>> for Host<'f> {
    fn function(&mut self, device: Sbdf, described: &Described) -> Function {
        self.described.push((device, *described));
        if ALL.contains(&device) {
            return function(device);
        }
        let role = match described.physical {
            Some(physical) => Role::Virtual { physical },
            None => Role::Endpoint,
        };
        Function { role, ..Function::endpoint(device) }
    }

    fn new_space(&mut self) -> Option<Space<'f>> {
        space(self.frames)
    }
}

impl MemoryMaps for Host<'_> {
    fn count(&self, domain: DomId) -> u32 {
        self.maps.get(&domain).map_or(0, |map| u32::try_from(map.len()).unwrap())
    }

    fn entry(&self, domain: DomId, index: u32) -> Option<E820Entry> {
        self.maps.get(&domain)?.get(usize::try_from(index).ok()?).copied()
    }

    fn begin(&mut self, domain: DomId, count: u32) -> Result<(), NoMemory> {
        if count > self.room_for_maps {
            return Err(NoMemory);
        }
        self.begun = Some((domain, Vec::new()));
        Ok(())
    }

    fn add(&mut self, domain: DomId, entry: E820Entry) {
        let (begun, entries) = self.begun.as_mut().unwrap();
        assert_eq!(*begun, domain);
        entries.push(entry);
    }

    fn finish(&mut self, domain: DomId) {
        let (begun, entries) = self.begun.take().unwrap();
        assert_eq!(begun, domain);
        self.maps.insert(domain, entries);
    }
}

impl Populate for Host<'_> {
    fn max_order(&self, caller: DomId) -> u32 {
        if caller == HARDWARE_DOMAIN { 18 } else { 9 }
    }

    fn populate(&mut self, domain: DomId, gfns: GfnRange, mem_flags: u32) -> Result<(), NotPopulated> {
        self.extents_left = self.extents_left.checked_sub(1).ok_or(NotPopulated)?;
        self.populated.push((domain, gfns, mem_flags));
        Ok(())
    }
}
