//! Any bytes as a call: what must hold whatever a caller asks, and whatever its memory does meanwhile.

use std::ops::Range;

use xen_iommu::abi::memory::{
    XENMEM_MEMORY_MAP, XENMEM_POPULATE_PHYSMAP, XENMEM_RESERVED_DEVICE_MEMORY_MAP, XENMEM_SET_MEMORY_MAP,
    split_command,
};
use xen_iommu::abi::{
    AssignDevice, DOMID_INVALID, DOMID_IO, DOMID_SELF, Domctl, E820Entry, Errno, ForeignMemoryMap,
    GetDeviceGroup, HYPERVISOR_DOMCTL, HYPERVISOR_MEMORY_OP, HYPERVISOR_MULTICALL, HYPERVISOR_PHYSDEV_OP,
    Layout, MemoryMap, MemoryReservation, MulticallEntry, Operation, ReservedDeviceMemory,
    ReservedDeviceMemoryMap,
};
use xen_iommu::hypercall::{Call, domctl, memory_op, multicall, physdev_op};
use xen_iommu::{DomId, Sbdf};

use super::{Access, HYPERVISOR_START, Host, Memory};
use crate::world::devices::{ALL, machine};
use crate::world::{World, with_world};

/// A call with any arguments.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The hypercall's number.
    pub number: u64,
    /// Its command or, of a multicall, how many calls there are.
    pub command: u64,
    /// Who calls.
    pub caller: DomId,
    /// In which layout.
    pub layout: Layout,
    /// Where the argument is.
    pub argument: u64,
    /// The caller's memory.
    pub memory: Memory,
}

/// Makes the call of one number. Returns what the hypercall returns.
pub fn serve<'f>(
    world: &World<'f>,
    host: &mut Host<'f>,
    call: Call<'_, Memory>,
    (number, command): (u64, u64),
) -> i64 {
    let result = match number {
        HYPERVISOR_DOMCTL => domctl(&world.policy, host, call).map(|()| 0),
        HYPERVISOR_PHYSDEV_OP => physdev_op(&world.policy, host, call, command).map(|()| 0),
        HYPERVISOR_MEMORY_OP => memory_op(&world.policy, host, call, command),
        HYPERVISOR_MULTICALL => {
            let (caller, layout) = (call.caller, call.layout);
            let served = |memory: &mut Memory, number, args: [u64; 6]| match number {
                HYPERVISOR_MULTICALL => Errno::EINVAL.result(),
                HYPERVISOR_DOMCTL => {
                    serve(world, host, memory.call(caller, layout, args[0]), (number, args[0]))
                }
                _ => serve(world, host, memory.call(caller, layout, args[1]), (number, args[0])),
            };
            multicall(call, command, served).map(|()| 0)
        }
        _ => Err(Errno::ENOSYS),
    };
    result.map_or_else(Errno::result, |done| i64::try_from(done).unwrap_or(i64::MAX))
}

impl Trial {
    /// Makes the call, and checks that its error is one of the table, that nothing was read twice, and that
    /// nothing was written but what it may return.
    ///
    /// # Panics
    /// When that does not hold.
    pub fn run<'f>(mut self, world: &World<'f>, host: &mut Host<'f>) -> i64 {
        let before = self.memory.clone();
        let call = Call {
            caller: self.caller,
            memory: &mut self.memory,
            layout: self.layout,
            argument: self.argument,
        };
        let result = serve(world, host, call, (self.number, self.command));
        if result < 0 {
            let errno = Errno::from_result(result).unwrap_or_else(|| panic!("{result}: {self:?}"));
            assert!(self.errors().contains(&errno), "{errno}: {before:?} {:#x}", self.number);
        }
        if self.number == HYPERVISOR_MULTICALL {
            self.check_multicall();
            return result;
        }
        self.check_read_once();
        let may_write = self.may_write();
        for Access { address, bytes } in &self.memory.writes {
            let end = address + bytes.len() as u64;
            let is_inside = |range: &Range<u64>| range.start <= *address && end <= range.end;
            assert!(
                may_write.iter().any(is_inside),
                "{} bytes written to {address:#x}, not within {may_write:x?}",
                bytes.len()
            );
        }
        if result < 0 && before.changes == 0 && before.left.is_none() && may_write.is_empty() {
            assert_eq!(before.bytes, self.memory.bytes);
        }
        result
    }

    /// The errors that the call may return, of the table in `docs/xen.md`.
    fn errors(&self) -> &'static [Errno] {
        use Errno::*;
        match self.number {
            HYPERVISOR_DOMCTL => &[
                EFAULT, EACCES, ESRCH, EPERM, EOPNOTSUPP, ENOSYS, ENODEV, EINVAL, EBUSY, EXDEV, ENOMEM,
                ERANGE, ENOSPC, ETIMEDOUT, EIO,
            ],
            HYPERVISOR_PHYSDEV_OP => {
                &[EFAULT, EINVAL, EPERM, ENODEV, ENOMEM, ENOSYS, EBUSY, ERANGE, ENOSPC, ETIMEDOUT, EIO]
            }
            HYPERVISOR_MULTICALL => &[EFAULT],
            _ => match self.memory_op().0 {
                XENMEM_RESERVED_DEVICE_MEMORY_MAP => &[EINVAL, EFAULT, ENOBUFS, ERANGE],
                XENMEM_MEMORY_MAP => &[EFAULT, ENOSYS],
                XENMEM_SET_MEMORY_MAP => &[EFAULT, EINVAL, ESRCH, EPERM, ENOMEM, ENOSYS],
                XENMEM_POPULATE_PHYSMAP => &[],
                _ => &[ENOSYS],
            },
        }
    }

    fn memory_op(&self) -> (u64, u64) {
        let bits = if self.layout == Layout::Compat { self.command & 0xffff_ffff } else { self.command };
        split_command(bits)
    }

    /// Arguments are copied in once, so that they cannot change after they were looked at.
    fn check_read_once(&self) {
        let mut reads: Vec<_> = self
            .memory
            .reads
            .iter()
            .map(|read| (read.address, read.address + read.bytes.len() as u64))
            .collect();
        // The argument, and entries of a list; a caller may have one lie over the other.
        if let Some(argument) = reads.first().copied() {
            reads.retain(|read| *read == argument || read.0 >= argument.1 || read.1 <= argument.0);
        }
        reads.sort_unstable();
        assert!(reads.windows(2).all(|two| two[0].1 <= two[1].0), "read twice: {reads:x?}");
    }

    /// Where the call may write, by the argument as it was read.
    fn may_write(&self) -> Vec<Range<u64>> {
        let Some(Access { bytes, .. }) = self.memory.reads.first() else { return Vec::new() };
        let array = |start: u64, count: u32, size: usize| {
            start..start.saturating_add(u64::from(count).saturating_mul(size as u64))
        };
        let at = |offset: usize| {
            let start = self.argument + offset as u64;
            start..start + 4
        };
        match (self.number, self.memory_op().0) {
            (HYPERVISOR_DOMCTL, _) => match Domctl::from_bytes(bytes).unwrap().operation {
                Operation::GetDeviceGroup(of) => {
                    vec![at(Domctl::U_OFFSET + 8), array(of.sdev_array, of.max_sdevs, 4)]
                }
                _ => Vec::new(),
            },
            (HYPERVISOR_MEMORY_OP, XENMEM_RESERVED_DEVICE_MEMORY_MAP) => {
                let map = ReservedDeviceMemoryMap::from_bytes(bytes, self.layout).unwrap();
                let entry = ReservedDeviceMemory::size(self.layout);
                vec![at(4), array(map.buffer, map.nr_entries, entry)]
            }
            (HYPERVISOR_MEMORY_OP, XENMEM_MEMORY_MAP) => {
                let map = MemoryMap::from_bytes(bytes, self.layout).unwrap();
                vec![at(0), array(map.buffer, map.nr_entries, E820Entry::SIZE)]
            }
            _ => Vec::new(),
        }
    }

    /// Each entry is read before its call, and its result is written after it.
    fn check_multicall(&self) {
        let size = MulticallEntry::size(self.layout) as u64;
        let list = self.argument..self.argument.saturating_add(size.saturating_mul(self.command));
        let first = self.memory.reads.first();
        assert!(first.is_none_or(|read| read.address == list.start && read.bytes.len() as u64 == size));
    }
}

/// Where a trial's memory begins.
const BASE: u64 = 0x1000;

impl Trial {
    /// A trial of bytes that choose, and bytes that are the caller's memory. Half of the time the start of
    /// the argument is made such that the call gets further than its first check.
    #[must_use]
    pub fn of(choices: &[u8; 12], memory: &[u8]) -> Self {
        let [what, command, caller, shape, left, changes, read_only, kind, device, domain, room, target] =
            *choices;
        let numbers =
            [HYPERVISOR_DOMCTL, HYPERVISOR_MEMORY_OP, HYPERVISOR_PHYSDEV_OP, HYPERVISOR_MULTICALL, 99];
        let number = numbers[usize::from(what) % numbers.len()];
        let commands: &[u64] = match number {
            HYPERVISOR_MEMORY_OP => &[6, 9, 13, 27, 27 | 1 << 6, 6 | 3 << 6, 10, 27 | 1 << 40],
            HYPERVISOR_PHYSDEV_OP => &[15, 16, 20, 25, 26, 0],
            _ => &[0, 1, 2, 5, u32::MAX as u64],
        };
        let layout = if shape & 1 == 0 { Layout::Native } else { Layout::Compat };
        let mut image = Memory { base: BASE, bytes: memory.to_vec(), ..Memory::default() };
        if shape & 2 != 0 {
            let start = start(number, layout, [kind, device, domain, room, target]);
            image.bytes.splice(..start.len().min(memory.len()), start);
        }
        image.left = (left & 1 != 0).then_some(u64::from(left >> 1) % 16);
        image.changes = if changes & 1 == 0 { 0 } else { changes };
        image.read_only_from = (read_only & 3 == 0).then_some(BASE + u64::from(read_only) * 2);
        let argument = match shape >> 2 & 7 {
            0 => BASE + u64::from(shape >> 5),
            1 if shape & 0x80 != 0 => HYPERVISOR_START - u64::from(shape & 0x3f),
            2 if shape & 0x80 != 0 => u64::MAX - u64::from(shape & 0x3f),
            _ => BASE,
        };
        let command = commands[usize::from(command) % commands.len()];
        let caller = DomId([0, 0, 0, 1, 2][usize::from(caller) % 5]);
        Self { number, command, caller, layout, argument, memory: image }
    }
}

/// The start of an argument that means something.
fn start(number: u64, layout: Layout, [kind, device, domain, room, target]: [u8; 5]) -> Vec<u8> {
    let sbdf = ALL.get(usize::from(device) % (ALL.len() + 1)).map_or(0x0909, |device| device.raw());
    let domain = [0, 1, 2, DOMID_IO, DOMID_INVALID, DOMID_SELF, 77][usize::from(domain) % 7];
    let address =
        [BASE + 0x80, BASE + 0x80, BASE, BASE + 0x200, HYPERVISOR_START - 8, 0][usize::from(target) % 6];
    let room = [0, 1, 2, 4, 8, u32::MAX, 1 << 31, 1024][usize::from(room) % 8];
    match number {
        HYPERVISOR_DOMCTL => {
            let of = AssignDevice { dev: 0, flags: u32::from(kind >> 3 & 1), machine_sbdf: sbdf };
            let group =
                GetDeviceGroup { machine_sbdf: sbdf, max_sdevs: room, num_sdevs: 0, sdev_array: address };
            let operation = match kind & 7 {
                0..=2 => Operation::AssignDevice(of),
                3 => Operation::TestAssignDevice(AssignDevice { flags: 0, ..of }),
                4 | 5 => Operation::DeassignDevice(AssignDevice { flags: 0, ..of }),
                _ => Operation::GetDeviceGroup(group),
            };
            Domctl { interface_version: 0x15 + u32::from(kind >> 6), domain, operation }.to_bytes().to_vec()
        }
        HYPERVISOR_MEMORY_OP => {
            let bytes = match kind & 3 {
                0 => MemoryMap { nr_entries: room, buffer: address }
                    .to_bytes(layout)
                    .map(|bytes| bytes.to_vec()),
                1 => {
                    let map = MemoryMap { nr_entries: room, buffer: address };
                    ForeignMemoryMap { domid: domain, map }.to_bytes(layout).map(|bytes| bytes.to_vec())
                }
                2 => {
                    let pci = Sbdf::from_raw(sbdf).into();
                    let flags = u32::from(kind >> 2 & 1);
                    let map = ReservedDeviceMemoryMap { flags, nr_entries: room, buffer: address, pci };
                    map.to_bytes(layout).map(|bytes| bytes.to_vec())
                }
                _ => {
                    let asked = MemoryReservation {
                        extent_start: address,
                        nr_extents: room.into(),
                        extent_order: u32::from(kind >> 2 & 15),
                        mem_flags: 0,
                        domid: domain,
                    };
                    asked.to_bytes(layout).map(|bytes| bytes.to_vec())
                }
            };
            bytes.unwrap_or_default()
        }
        HYPERVISOR_PHYSDEV_OP => {
            let [devfn, bus, ..] = sbdf.to_le_bytes();
            if kind & 1 == 0 { vec![bus, devfn] } else { vec![0, 0, bus, devfn, kind >> 1 & 7, 0, 0, 0] }
        }
        _ => {
            let numbers =
                [HYPERVISOR_MEMORY_OP, HYPERVISOR_DOMCTL, HYPERVISOR_PHYSDEV_OP, HYPERVISOR_MULTICALL];
            let op = numbers[usize::from(kind) % 4];
            let args = [27, BASE + 0x80, 0, 0, 0, 0];
            MulticallEntry { op, result: 0, args }
                .to_bytes(layout)
                .map(|bytes| bytes.to_vec())
                .unwrap_or_default()
        }
    }
}

/// Makes calls, one after the other, on one machine, and checks each of them, and the machine after all.
///
/// # Panics
/// When something does not hold.
pub fn run_all(trials: impl IntoIterator<Item = Trial>) {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        for trial in trials {
            trial.run(world, &mut host);
        }
    });
}
