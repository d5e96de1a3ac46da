//! Structures to bytes and back, and bytes that nobody wrote on purpose.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use proptest::collection::vec;
use proptest::prelude::*;
use xen_abi::domctl::{DomctlHeader, XEN_DOMCTL_GET_DEVICE_GROUP};
use xen_abi::memory::{MEMOP_CMD_MASK, MEMOP_EXTENT_SHIFT, split_command, xenmemf_node};
use xen_abi::*;

const LAYOUTS: [Layout; 2] = [Layout::Native, Layout::Compat];

/// For each structure: what bytes say is written back as the same bytes but for padding, and says the same
/// again; too few bytes are refused; and each byte that was not padding counts.
macro_rules! round_trips {
    ($($name:ident $test:ident)*) => {
        proptest! {$(
            #[test]
            fn $test(bytes in vec(any::<u8>(), 0..=2 * $name::SIZE)) {
                for layout in LAYOUTS {
                    let size = $name::size(layout);
                    prop_assert!(size <= $name::SIZE);
                    let read = $name::from_bytes(&bytes, layout);
                    if bytes.len() < size {
                        prop_assert_eq!(read, Err(TooShort { size, available: bytes.len() }));
                        continue;
                    }
                    let value = read.unwrap();
                    let written = value.to_bytes(layout).unwrap();
                    prop_assert_eq!(written.len(), size);
                    for (at, (written, read)) in written.iter().zip(&bytes).enumerate() {
                        prop_assert!(written == read || *written == 0, "byte {}", at);
                    }
                    prop_assert_eq!($name::from_bytes(&written, layout), Ok(value));
                    let mut other = bytes.clone();
                    for at in 0..size {
                        other[at] ^= 0x80;
                        let counts = $name::from_bytes(&other, layout) != Ok(value);
                        prop_assert!(counts || written[at] == 0, "byte {}", at);
                        other[at] ^= 0x80;
                    }
                }
            }
        )*}
    };
}

round_trips! {
    ReservedDeviceMemoryMap reserved_device_memory_maps
    ReservedDeviceMemory reserved_device_memory
    MemoryMap memory_maps
    ForeignMemoryMap foreign_memory_maps
    E820Entry e820_entries
    MemoryReservation memory_reservations
    MulticallEntry multicall_entries
    DomctlHeader domctl_headers
    AssignDevice assign_device
    GetDeviceGroup get_device_group
    PciDevice pci_devices
    PciDeviceAdd pci_device_add
    ManagePci manage_pci
    ManagePciExt manage_pci_ext
}

fn commands() -> impl Strategy<Value = u32> {
    prop_oneof![Just(37), Just(45), Just(47), Just(50), any::<u32>()]
}

proptest! {
    #[test]
    fn domctls(mut bytes in vec(any::<u8>(), 0..=200), cmd in commands()) {
        if let Some(to) = bytes.first_chunk_mut() {
            *to = cmd.to_le_bytes();
        }
        let read = Domctl::from_bytes(&bytes);
        if bytes.len() < Domctl::SIZE {
            prop_assert_eq!(read, Err(TooShort { size: Domctl::SIZE, available: bytes.len() }));
            return Ok(());
        }
        let value = read.unwrap();
        prop_assert_eq!(value.operation.cmd(), cmd);
        let written = value.to_bytes();
        prop_assert_eq!(Domctl::from_bytes(&written), Ok(value));
        for (written, read) in written.iter().zip(&bytes) {
            prop_assert!(written == read || *written == 0);
        }
    }

    /// The very fields, where Xen's headers have them.
    #[test]
    fn a_field_lies_where_it_is_said_to(value: u32, buffer: u32) {
        for layout in LAYOUTS {
            let map = MemoryMap { nr_entries: value, buffer: buffer.into() };
            let foreign = ForeignMemoryMap { domid: 7, map };
            let bytes = foreign.to_bytes(layout).unwrap();
            let at = ForeignMemoryMap::offsets(layout).map + MemoryMap::offsets(layout).buffer;
            prop_assert_eq!(bytes[at..at + 4].to_vec(), buffer.to_le_bytes().to_vec());
        }
    }

    #[test]
    fn compat_takes_what_fits(start_pfn: u64, nr_pages: u64, result: i64) {
        let region = ReservedDeviceMemory { start_pfn, nr_pages };
        let fits = |value| u32::try_from(value).is_ok();
        let expected = match (fits(start_pfn), fits(nr_pages)) {
            (false, _) => Some(TooWide { field: "start_pfn" }),
            (true, false) => Some(TooWide { field: "nr_pages" }),
            (true, true) => None,
        };
        prop_assert_eq!(region.to_bytes(Layout::Compat).err(), expected);
        prop_assert!(region.to_bytes(Layout::Native).is_ok());
        let entry = MulticallEntry { result, ..MulticallEntry::default() };
        prop_assert_eq!(entry.to_bytes(Layout::Compat).is_ok(), i32::try_from(result).is_ok());
    }

    #[test]
    fn a_function_has_one_number(sbdf: u32) {
        prop_assert_eq!(PciDevice::from_machine_sbdf(sbdf).machine_sbdf(), sbdf);
    }

    #[test]
    fn results_are_errors_or_not(result: i64) {
        let small = i64::from(result as u8);
        for result in [result, small, small.wrapping_neg()] {
            if let Some(error) = Errno::from_result(result) {
                prop_assert_eq!(error.result(), result);
            } else {
                prop_assert!((1..=4096).filter_map(Errno::from_raw).all(|error| error.result() != result));
            }
        }
    }

    #[test]
    fn a_command_and_its_extent(command in 0..=MEMOP_CMD_MASK, extent in 0..1u64 << 58) {
        prop_assert_eq!(split_command(command | extent << MEMOP_EXTENT_SHIFT), (command, extent));
    }
}

#[test]
fn a_value_that_does_not_fit_is_named_inside_another() {
    let map = MemoryMap { nr_entries: 1, buffer: 1 << 32 };
    assert_eq!(
        ForeignMemoryMap { domid: 0, map }.to_bytes(Layout::Compat).err(),
        Some(TooWide { field: "buffer" })
    );
    let args = [0, 0, 0, 0, 0, u64::MAX];
    let entry = MulticallEntry { args, ..MulticallEntry::default() };
    assert_eq!(entry.to_bytes(Layout::Compat).err(), Some(TooWide { field: "args" }));
}

#[test]
fn a_compat_result_keeps_its_sign() {
    let entry = MulticallEntry { op: 12, result: Errno::ENOBUFS.result(), args: [1, 2, 3, 4, 5, 6] };
    let bytes = entry.to_bytes(Layout::Compat).unwrap();
    assert_eq!(bytes[4..8], (-105i32).to_le_bytes());
    assert_eq!(MulticallEntry::from_bytes(&bytes, Layout::Compat), Ok(entry));
}

#[test]
fn a_group_is_asked_for() {
    let group = GetDeviceGroup { machine_sbdf: 0x1_02_18, max_sdevs: 8, num_sdevs: 0, sdev_array: 0x1000 };
    let call = Domctl { interface_version: 0x18, domain: 3, operation: Operation::GetDeviceGroup(group) };
    let bytes = call.to_bytes();
    assert_eq!(bytes[..4], XEN_DOMCTL_GET_DEVICE_GROUP.to_le_bytes());
    assert_eq!(bytes[4..8], 0x18u32.to_le_bytes());
    assert_eq!(bytes[8..10], 3u16.to_le_bytes());
    assert_eq!(bytes[16..20], 0x1_02_18u32.to_le_bytes());
    assert_eq!(bytes[32..40], 0x1000u64.to_le_bytes());
}

#[test]
fn nodes_are_counted_from_one() {
    assert_eq!(xenmemf_node(0), 0x100);
    assert_eq!(xenmemf_node(254), 0xff00);
    assert_eq!(xenmemf_node(255), 0);
}

#[test]
fn a_compat_structure_is_shown_without_the_room_that_the_native_one_takes() {
    let region = ReservedDeviceMemory { start_pfn: 0x10, nr_pages: 2 };
    let bytes = region.to_bytes(Layout::Compat).unwrap();
    assert_eq!(format!("{bytes:?}"), "[16, 0, 0, 0, 2, 0, 0, 0]");
    assert_eq!(*bytes.as_ref(), [16, 0, 0, 0, 2, 0, 0, 0]);
}

#[test]
fn a_group_names_its_members_by_bus_and_function_alone() {
    assert_eq!(xen_abi::GetDeviceGroup::entry(0x12, 0xfd), 0x0012_fd00);
}
