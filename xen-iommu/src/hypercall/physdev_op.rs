//! The physdev_op commands by which the hardware domain says which PCI devices come and go
//! (`xen/drivers/pci/physdev.c`, `xen/arch/x86/physdev.c` and `xen/drivers/passthrough/pci.c`).

use p2m::AddressSpace;
use xen_abi::physdev::{
    PHYSDEVOP_MANAGE_PCI_ADD, PHYSDEVOP_MANAGE_PCI_ADD_EXT, PHYSDEVOP_MANAGE_PCI_REMOVE,
    PHYSDEVOP_PCI_DEVICE_ADD, PHYSDEVOP_PCI_DEVICE_REMOVE, XEN_PCI_DEV_EXTFN, XEN_PCI_DEV_PXM,
    XEN_PCI_DEV_VIRTFN,
};
use xen_abi::{Errno, Layout, ManagePci, ManagePciExt, PciDevice, PciDeviceAdd};

use super::GuestMemory;
use super::hypervisor::{Call, Hypervisor, element};
use crate::control::DeviceControl;
use crate::error::AddError;
use crate::ownership::Policy;
use crate::pci::Function;
use crate::platform::{RemappingHardware, Sbdf};

/// What the hardware domain says of a device that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// An extended function (ARI): its device and function number are one number of 8 bits.
    pub is_extended: bool,
    /// Of a virtual function: its physical function.
    pub physical: Option<Sbdf>,
    /// The proximity domain (ACPI's `_PXM`) that it is near to.
    pub proximity: Option<u32>,
}

/// What a new device needs of the hypervisor. `S` is an address space.
pub trait NewDevices<S> {
    /// What the function is, by its configuration space and the bridges above it
    /// ([`Topology::function`](crate::pci::Topology::function)) rather than by what the hardware domain
    /// says; Xen records it even if it does not answer.
    fn function(&mut self, device: Sbdf, described: &Described) -> Function;

    /// The address space of its quarantine, if there is memory.
    fn new_space(&mut self) -> Option<S>;
}

/// Serves `HYPERVISOR_physdev_op`, as far as it is about devices that come and go; both layouts are alike.
/// Of `command` 32 bits count. Nothing is written back.
///
/// # Errors
/// - `EFAULT`: the argument cannot be read.
/// - `EINVAL`: manage_pci_add_ext with a flag that is neither 0 nor 1.
/// - `EPERM`: the caller is not a toolstack's domain.
/// - `ENODEV`: a device that goes was not there. (One that comes and is there already is no error.)
/// - `ENOMEM` and others, of a device that could not be added or removed: as for [`AddError`] and
///   [`AssignError`](crate::AssignError).
/// - `ENOSYS`: another command.
pub fn physdev_op<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    hypervisor: &mut (impl Hypervisor + NewDevices<S>),
    mut call: Call<'_, impl GuestMemory>,
    command: u64,
) -> Result<(), Errno> {
    // An `int` in Xen.
    #[allow(clippy::cast_possible_truncation, reason = "the upper half of the register is not looked at")]
    let (device, described) = match command as u32 {
        PHYSDEVOP_PCI_DEVICE_ADD => described(&mut call)?,
        PHYSDEVOP_MANAGE_PCI_ADD => (in_segment_0(managed(&mut call)?), Described::default()),
        PHYSDEVOP_MANAGE_PCI_ADD_EXT => described_ext(&mut call)?,
        PHYSDEVOP_MANAGE_PCI_REMOVE => {
            let device = in_segment_0(managed(&mut call)?);
            return remove(policy, hypervisor, &call, device);
        }
        PHYSDEVOP_PCI_DEVICE_REMOVE => {
            let mut bytes = [0; PciDevice::SIZE];
            call.read(call.argument, &mut bytes)?;
            let device = PciDevice::from_bytes(&bytes, Layout::Native).map_err(|_| Errno::EFAULT)?;
            return remove(policy, hypervisor, &call, device.into());
        }
        _ => return Err(Errno::ENOSYS),
    };
    if !hypervisor.is_toolstack(call.caller, policy.hardware_domain()) {
        return Err(Errno::EPERM);
    }
    if let Some(physical) = described.physical
        && policy.owner(physical).is_none()
    {
        // As in Xen, whose virtual function it is comes first, and need not succeed.
        let _ = add(policy, hypervisor, physical, &Described::default());
    }
    add(policy, hypervisor, device, &described)
}

fn add<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    hypervisor: &mut (impl Hypervisor + NewDevices<S>),
    device: Sbdf,
    described: &Described,
) -> Result<(), Errno> {
    if policy.owner(device).is_some() {
        return Ok(());
    }
    let function = hypervisor.function(device, described);
    // Made beforehand: it and the notes are heard at the same time.
    let mut space = hypervisor.new_space();
    match policy.add_device(&function, || space.take(), &mut |note| hypervisor.hear(note)) {
        // Another processor was as quick.
        Ok(_) | Err(AddError::Present(_)) => Ok(()),
        Err(error) => {
            hypervisor.refused(&error);
            Err(Errno::from(&error))
        }
    }
}

fn remove<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    hypervisor: &mut impl Hypervisor,
    call: &Call<'_, impl GuestMemory>,
    device: Sbdf,
) -> Result<(), Errno> {
    if !hypervisor.is_toolstack(call.caller, policy.hardware_domain()) {
        return Err(Errno::EPERM);
    }
    policy.remove_device(device, &mut |note| hypervisor.hear(note)).map_err(|error| {
        hypervisor.refused(&error);
        Errno::from(&error)
    })
}

fn described(call: &mut Call<'_, impl GuestMemory>) -> Result<(Sbdf, Described), Errno> {
    let mut bytes = [0; PciDeviceAdd::SIZE];
    call.read(call.argument, &mut bytes)?;
    let add = PciDeviceAdd::from_bytes(&bytes, Layout::Native).map_err(|_| Errno::EFAULT)?;
    let in_segment = |bus, devfn| Sbdf::from(PciDevice { seg: add.seg, bus, devfn });
    let mut proximity = None;
    if add.flags & XEN_PCI_DEV_PXM != 0 {
        let mut bytes = [0; 4];
        let address = element(call.argument, 1, PciDeviceAdd::OPTARR_OFFSET)?;
        call.read(address, &mut bytes)?;
        proximity = Some(u32::from_le_bytes(bytes));
    }
    let is_virtual = add.flags & XEN_PCI_DEV_VIRTFN != 0;
    let described = Described {
        is_extended: add.flags & XEN_PCI_DEV_EXTFN != 0,
        physical: is_virtual.then(|| in_segment(add.physfn_bus, add.physfn_devfn)),
        proximity,
    };
    Ok((in_segment(add.bus, add.devfn), described))
}

fn described_ext(call: &mut Call<'_, impl GuestMemory>) -> Result<(Sbdf, Described), Errno> {
    let mut bytes = [0; ManagePciExt::SIZE];
    call.read(call.argument, &mut bytes)?;
    let add = ManagePciExt::from_bytes(&bytes, Layout::Native).map_err(|_| Errno::EFAULT)?;
    if add.is_extfn > 1 || add.is_virtfn > 1 {
        return Err(Errno::EINVAL);
    }
    let physical = ManagePci { bus: add.physfn_bus, devfn: add.physfn_devfn };
    let described = Described {
        is_extended: add.is_extfn == 1,
        physical: (add.is_virtfn == 1).then(|| in_segment_0(physical)),
        proximity: None,
    };
    Ok((in_segment_0(ManagePci { bus: add.bus, devfn: add.devfn }), described))
}

fn managed(call: &mut Call<'_, impl GuestMemory>) -> Result<ManagePci, Errno> {
    let mut bytes = [0; ManagePci::SIZE];
    call.read(call.argument, &mut bytes)?;
    ManagePci::from_bytes(&bytes, Layout::Native).map_err(|_| Errno::EFAULT)
}

fn in_segment_0(ManagePci { bus, devfn }: ManagePci) -> Sbdf {
    PciDevice { seg: 0, bus, devfn }.into()
}
