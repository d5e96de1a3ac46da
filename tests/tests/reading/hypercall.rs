//! `XENMEM_reserved_device_memory_map` over the regions that were read.

use std::iter;
use std::mem::MaybeUninit;

use xen_iommu::abi::{Errno, Layout};
use xen_iommu::hypercall::{Caller, GuestFault, GuestMemory, reserved_device_memory_map};
use xen_iommu::region::intake::Host;
use xen_iommu::region::iommu_state::{IommuState, Unusable};
use xen_iommu::region::memory::KeepRam;
use xen_iommu::region::registry::{Registry, RegistryBuilder};
use xen_iommu::{Arena, DomId, Sbdf};

use crate::kit::{IGD, USB, bus, frames, host, read, rmrr, table};

/// A guest's memory from address 0, with a hole behind it; addresses from 2^47 on are the hypervisor's.
struct Guest {
    bytes: Vec<u8>,
    /// Writes from here on fault.
    read_only_from: usize,
}

impl GuestMemory for Guest {
    fn is_guest_address(&self, address: u64) -> bool {
        address >> 47 == 0
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), GuestFault> {
        let start = usize::try_from(address).unwrap();
        bytes.copy_from_slice(self.bytes.get(start..start + bytes.len()).ok_or(GuestFault)?);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), GuestFault> {
        let start = usize::try_from(address).unwrap();
        if start + bytes.len() > self.read_only_from {
            return Err(GuestFault);
        }
        self.bytes.get_mut(start..start + bytes.len()).ok_or(GuestFault)?.copy_from_slice(bytes);
        Ok(())
    }
}

const BUFFER: u64 = 0x40;

/// Calls with the argument at 0 and the buffer at [`BUFFER`], of 16-byte or 8-byte entries; returns the
/// result, `nr_entries`, and the memory.
fn call(
    registry: &Registry<'_>,
    abi: Layout,
    flags: u32,
    room: u32,
    device: Sbdf,
    size: usize,
) -> (Result<(), Errno>, u32, Vec<u8>) {
    let mut guest = Guest { bytes: vec![0xcc; size], read_only_from: usize::MAX };
    guest.bytes[0..4].copy_from_slice(&flags.to_le_bytes());
    guest.bytes[4..8].copy_from_slice(&room.to_le_bytes());
    guest.bytes[8..16].copy_from_slice(&BUFFER.to_le_bytes());
    let place = if abi == Layout::Native { 16 } else { 12 };
    guest.bytes[place..place + 2].copy_from_slice(&device.segment().to_le_bytes());
    guest.bytes[place + 2] = device.bus();
    guest.bytes[place + 3] = device.devfn();
    let caller = Caller::Privileged;
    let result = reserved_device_memory_map(registry, &mut guest, caller, abi, 0, 0, |_| iter::empty());
    let count = u32::from_le_bytes(guest.bytes[4..8].try_into().unwrap());
    (result, count, guest.bytes.split_off(BUFFER as usize))
}

fn three_regions(test: impl FnOnce(&Registry<'_>)) {
    let structures = [
        rmrr(0x3000_0000, 0x3000_0fff, 2),
        rmrr(0x3000_2000, 0x3000_3fff, 0x14),
        rmrr(0x3001_0000, 0x3001_0fff, 2),
    ];
    read(&table(structures), "", |registry, _| test(registry));
}

#[test]
fn the_hypercall_answers_as_xen_does() {
    three_regions(|registry| {
        let nobody = Sbdf::new(0, 0, 1, 0);
        let entries = |bytes: &[u8], count: usize| -> Vec<(u64, u64)> {
            let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            (0..count).map(|index| (word(index * 16), word(index * 16 + 8))).collect()
        };
        // All, exact and with room to spare: the rest of the buffer is left alone.
        for room in [3, 4, u32::MAX] {
            let (result, count, bytes) = call(registry, Layout::Native, 1, room, nobody, 0x100);
            assert_eq!((result, count), (Ok(()), 3));
            assert_eq!(entries(&bytes, 3), [(0x30000, 1), (0x30002, 2), (0x30010, 1)]);
            assert!(bytes[48..].iter().all(|byte| *byte == 0xcc));
        }
        // Too small: what fits is written.
        for room in 0..3 {
            let (result, count, bytes) = call(registry, Layout::Native, 1, room, nobody, 0x100);
            assert_eq!((result, count), (Err(Errno::ENOBUFS), 3));
            assert!(bytes[16 * room as usize..].iter().all(|byte| *byte == 0xcc));
        }
        // By device.
        let (result, count, bytes) = call(registry, Layout::Native, 0, 8, IGD, 0x100);
        assert_eq!((result, count, entries(&bytes, 2)), (Ok(()), 2, vec![(0x30000, 1), (0x30010, 1)]));
        for device in [nobody, Sbdf::new(7, 0, 2, 0)] {
            for room in [0, 8] {
                let (result, count, _) = call(registry, Layout::Native, 0, room, device, 0x100);
                assert_eq!((result, count), (Ok(()), 0));
            }
        }
        // Unknown flags, alone or beside the known one: the argument is untouched.
        for flags in [2, 3, 1 << 31] {
            let (result, count, _) = call(registry, Layout::Native, flags, 8, IGD, 0x100);
            assert_eq!((result, count), (Err(Errno::EINVAL), 8));
        }
        // A buffer that ends within the second entry.
        let (result, count, bytes) = call(registry, Layout::Native, 1, 8, IGD, 0x58);
        assert_eq!((result, count, entries(&bytes, 1)), (Err(Errno::EFAULT), 8, vec![(0x30000, 1)]));
    });
}

#[test]
fn the_hypercall_refuses_what_cannot_be_read_or_written() {
    three_regions(|registry| {
        let mut guest = Guest { bytes: vec![0; 0x100], read_only_from: usize::MAX };
        let call = |guest: &mut Guest, start, argument| {
            let (caller, others) = (Caller::Privileged, |_| iter::empty());
            reserved_device_memory_map(registry, guest, caller, Layout::Native, start, argument, others)
        };
        // A start extent is refused before the argument is looked at.
        assert_eq!(call(&mut guest, 1, u64::MAX >> 20), Err(Errno::EINVAL));
        assert_eq!(call(&mut guest, 0, 0x1000), Err(Errno::EFAULT));
        // The hypervisor's own address as the buffer: looked at before the flags, and with nothing to write.
        guest.bytes[0] = 2;
        guest.bytes[8..16].copy_from_slice(&(1_u64 << 47).to_le_bytes());
        assert_eq!(call(&mut guest, 0, 0), Err(Errno::EFAULT));
        // A faulting buffer and nothing to write.
        guest.bytes[0] = 0;
        guest.bytes[8..16].copy_from_slice(&0x1000_u64.to_le_bytes());
        assert_eq!(call(&mut guest, 0, 0), Ok(()));
        // An argument that cannot be written back.
        guest.bytes[0] = 1;
        guest.read_only_from = 0;
        assert_eq!(call(&mut guest, 0, 0), Err(Errno::EFAULT));
    });
}

#[test]
fn a_32_bit_caller_gets_32_bit_entries_or_erange() {
    three_regions(|registry| {
        let (result, count, bytes) = call(registry, Layout::Compat, 1, 3, IGD, 0x100);
        assert_eq!((result, count), (Ok(()), 3));
        let words: Vec<u32> =
            bytes[..24].chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [0x30000, 1, 0x30002, 2, 0x30010, 1]);
        assert!(bytes[24..].iter().all(|byte| *byte == 0xcc));
    });
}

#[test]
fn a_start_frame_beyond_32_bits_is_erange_for_32_bit_callers() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let mut keep = KeepRam;
    let bus = bus();
    let mut host = Host { address_width: 52, ..host(&bus, &mut keep) };
    let option = "30000=0:14.0;ffffffff=0:14.0;100000000=0:14.0";
    host.read_option(option, &mut builder, &mut arena, &mut |_| {}).unwrap();
    let registry = builder.freeze(&mut arena).unwrap();
    let (result, count, _) = call(&registry, Layout::Compat, 1, 8, USB, 0x100);
    assert_eq!((result, count), (Err(Errno::ERANGE), 2), "the two before it are written");
    let (result, count, _) = call(&registry, Layout::Compat, 1, 2, USB, 0x100);
    assert_eq!((result, count), (Err(Errno::ENOBUFS), 3), "without room for it, it only counts");
    let (result, count, _) = call(&registry, Layout::Native, 1, 8, USB, 0x100);
    assert_eq!((result, count), (Ok(()), 3));
}

#[test]
fn a_guest_is_told_what_is_its_own() {
    three_regions(|registry| {
        let mut guest = Guest { bytes: vec![0; 0x100], read_only_from: usize::MAX };
        guest.bytes[0] = 1;
        guest.bytes[4] = 8;
        guest.bytes[8] = BUFFER as u8;
        let caller = Caller::Guest(DomId(1));
        let none = |_| iter::empty();
        let result = reserved_device_memory_map(registry, &mut guest, caller, Layout::Native, 0, 0, none);
        assert_eq!((result, guest.bytes[4]), (Ok(()), 0), "it has no device, so it has no region");
    });
}

#[test]
fn without_an_iommu_the_answer_is_empty_and_errors_are_errors() {
    for state in [IommuState::Absent, IommuState::Off, IommuState::Unusable(Unusable::NoUnit)] {
        let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
        let mut arena = Arena::new(&mut memory);
        let mut builder = RegistryBuilder::default();
        let option = "30000=0:2.0";
        host(&bus(), &mut KeepRam).read_option(option, &mut builder, &mut arena, &mut |_| {}).unwrap();
        builder.set_iommu(state);
        let registry = builder.freeze(&mut arena).unwrap();
        for (flags, room) in [(0, 0), (0, 8), (1, 0), (1, 8)] {
            let (result, count, _) = call(&registry, Layout::Native, flags, room, IGD, 0x100);
            assert_eq!((result, count), (Ok(()), 0), "{state}");
        }
        let (result, count, _) = call(&registry, Layout::Native, 2, 8, IGD, 0x100);
        assert_eq!((result, count), (Err(Errno::EINVAL), 8));
        let mut guest = Guest { bytes: vec![0; 0x100], read_only_from: usize::MAX };
        guest.bytes[8..16].copy_from_slice(&(1_u64 << 47).to_le_bytes());
        let mut call = |start, argument| {
            let (caller, none) = (Caller::Privileged, |_| iter::empty());
            reserved_device_memory_map(&registry, &mut guest, caller, Layout::Native, start, argument, none)
        };
        assert_eq!(
            (call(0, 0), call(0, 0x1000), call(1, 0)),
            (Err(Errno::EFAULT), Err(Errno::EFAULT), Err(Errno::EINVAL))
        );
    }
}

#[test]
fn regions_that_overlap_are_answered_as_one() {
    // One device's overlaps the other's, which has another within it; a third only touches.
    let structures = [
        rmrr(0x3000_4000, 0x3000_7fff, 0x14),
        rmrr(0x3000_0000, 0x3000_4fff, 2),
        rmrr(0x3000_5000, 0x3000_5fff, 2),
        rmrr(0x3000_8000, 0x3000_8fff, 2),
        rmrr(0x2000_0000, 0x2000_0fff, 0x14),
    ];
    read(&table(structures), "", |registry, _| {
        let entries = |flags, device| {
            let (result, count, bytes) = call(registry, Layout::Native, flags, 8, device, 0x100);
            assert_eq!(result, Ok(()));
            let words = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            let words: Vec<_> = words.take(2 * count as usize).collect();
            words.chunks(2).map(|entry| (entry[0], entry[1])).collect::<Vec<_>>()
        };
        assert_eq!(entries(0, IGD), [(0x30000, 8), (0x30008, 1)]);
        assert_eq!(entries(0, USB), [(0x20000, 1), (0x30000, 8)], "lowest first, in either's whole");
        assert_eq!(entries(1, IGD), [(0x20000, 1), (0x30000, 8), (0x30008, 1)]);
        assert_eq!(frames(registry, IGD), [(0x30000, 5), (0x30005, 1), (0x30008, 1)], "mapped are its own");

        // With the functions that share its requester id.
        let mut guest = Guest { bytes: vec![0; 0x100], read_only_from: usize::MAX };
        guest.bytes[4] = 8;
        guest.bytes[8] = BUFFER as u8;
        guest.bytes[19] = USB.devfn();
        let others = |device| {
            assert_eq!(device, USB);
            [IGD, USB].into_iter()
        };
        let caller = Caller::Privileged;
        let result = reserved_device_memory_map(registry, &mut guest, caller, Layout::Native, 0, 0, others);
        assert_eq!((result, guest.bytes[4]), (Ok(()), 3));
    });
}
