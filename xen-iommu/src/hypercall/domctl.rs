//! The domctls by which toolstacks give devices to domains and take them back (`xen/common/domctl.c` and
//! `xen/drivers/passthrough/pci.c`, whose order of checks this keeps).

use p2m::AddressSpace;
use xen_abi::domctl::{XEN_DOMCTL_DEV_PCI, XEN_DOMCTL_DEV_RDM_RELAXED};
use xen_abi::{AssignDevice, DOMID_INVALID, DOMID_IO, Domctl, Errno, GetDeviceGroup, Layout, Operation};

use super::hypervisor::{Call, GroupMove, Hypervisor, element, known_domain};
use super::{GuestFault, GuestMemory};
use crate::control::DeviceControl;
use crate::error::AssignError;
use crate::owner::Owner;
use crate::ownership::{Mode, Policy};
use crate::platform::{DomId, RemappingHardware, Sbdf};
use crate::region::iommu_state::IommuState;

/// Members of a group that are looked up at once, so that guest memory is written with nothing locked.
const MEMBERS: usize = 32;

/// Serves `HYPERVISOR_domctl`; both layouts are alike. Of the argument, only what a command returns is
/// written back: [`GetDeviceGroup::num_sdevs`].
///
/// # Errors
/// Those of the table in `docs/xen.md`, in its order: `EFAULT`, `EACCES` (version), `ESRCH` (domain),
/// `EPERM` (caller), `EOPNOTSUPP` (no IOMMU), then the command's.
pub fn domctl<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    hypervisor: &mut impl Hypervisor,
    mut call: Call<'_, impl GuestMemory>,
) -> Result<(), Errno> {
    let mut bytes = [0; Domctl::SIZE];
    call.read(call.argument, &mut bytes)?;
    let domctl = Domctl::from_bytes(&bytes).map_err(|_| Errno::EFAULT)?;
    if !hypervisor.domctl_versions().contains(&domctl.interface_version) {
        return Err(Errno::EACCES);
    }
    let domain = domain(hypervisor, &domctl)?;
    if !hypervisor.is_toolstack(call.caller, policy.hardware_domain()) {
        return Err(Errno::EPERM);
    }
    if matches!(domctl.operation, Operation::Other { .. }) {
        return hypervisor.other_domctl(&domctl);
    }
    let may_have_devices = domain.is_none_or(|id| id == DomId::IO || hypervisor.has_iommu(id));
    if policy.registry().iommu() != IommuState::Active || !may_have_devices {
        return Err(Errno::EOPNOTSUPP);
    }
    // A domain is named here but for test_assign_device, which takes any.
    let named = domain.ok_or(Errno::ESRCH);
    match domctl.operation {
        Operation::TestAssignDevice(of) => {
            let device = device(&of, domain, call.caller)?;
            // "Dying" is no matter here, as in Xen.
            if of.flags != 0 {
                return Err(Errno::EINVAL);
            }
            policy.test_assign(device).map_err(|error| refuse(hypervisor, &error, Errno::EINVAL))
        }
        Operation::AssignDevice(of) => {
            let target = named?;
            let device = device(&of, domain, call.caller)?;
            let is_dying = target != DomId::IO && hypervisor.is_dying(target);
            if is_dying || of.flags & !XEN_DOMCTL_DEV_RDM_RELAXED != 0 {
                return Err(Errno::EINVAL);
            }
            let mode = if of.flags == 0 { Mode::Strict } else { Mode::Relaxed };
            assign(policy, hypervisor, device, target, mode)
        }
        Operation::DeassignDevice(of) => {
            let from = named?;
            let device = device(&of, domain, call.caller)?;
            if of.flags != 0 {
                return Err(Errno::EINVAL);
            }
            let done = policy.deassign(&[device], from, &mut |note| hypervisor.hear(note));
            done.map_err(|error| refuse(hypervisor, &error, Errno::from(&error)))
        }
        Operation::GetDeviceGroup(of) => group(policy, &mut call, of),
        Operation::Other { .. } => Err(Errno::ENOSYS),
    }
}

/// The domain that the domctl is about; `None` is any, for test_assign_device.
fn domain(hypervisor: &impl Hypervisor, domctl: &Domctl) -> Result<Option<DomId>, Errno> {
    match (domctl.operation, domctl.domain) {
        (Operation::AssignDevice(_) | Operation::DeassignDevice(_), DOMID_IO) => Ok(Some(DomId::IO)),
        (Operation::TestAssignDevice(_), DOMID_INVALID) => Ok(None),
        (_, id) => known_domain(hypervisor, id).map(Some).ok_or(Errno::ESRCH),
    }
}

/// The device that is named, to be given by `caller` to a domain other than itself.
fn device(of: &AssignDevice, domain: Option<DomId>, caller: DomId) -> Result<Sbdf, Errno> {
    if domain == Some(caller) {
        return Err(Errno::EINVAL);
    }
    if of.dev != XEN_DOMCTL_DEV_PCI {
        return Err(Errno::ENODEV);
    }
    Ok(Sbdf::from_raw(of.machine_sbdf))
}

fn refuse(hypervisor: &mut impl Hypervisor, error: &AssignError, errno: Errno) -> Errno {
    hypervisor.refused(error);
    errno
}

fn assign<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    hypervisor: &mut impl Hypervisor,
    device: Sbdf,
    target: DomId,
    mode: Mode,
) -> Result<(), Errno> {
    let is_whole = target != DomId::IO && hypervisor.group_move() == GroupMove::Whole;
    match policy.test_assign(device) {
        Err(AssignError::Elsewhere { owner: Owner::Domain(id), .. }) if is_whole && id == target => {
            return Ok(());
        }
        Err(error) => return Err(refuse(hypervisor, &error, Errno::from(&error))),
        Ok(()) => {}
    }
    if target != DomId::IO && hypervisor.has_movable_pages(target) {
        return Err(Errno::EXDEV);
    }
    let mut hear = |note| hypervisor.hear(note);
    let done = if is_whole {
        policy.assign_group(device, target, mode, &mut hear)
    } else {
        policy.assign(&[device], target, mode, &mut hear)
    };
    done.map_err(|error| refuse(hypervisor, &error, Errno::from(&error)))
}

/// Lists who must stay together with a device, whoever has them, itself left out. An entry has no segment, so
/// that members in other segments cannot be listed. What does not fit is left out, without an error.
fn group<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    call: &mut Call<'_, impl GuestMemory>,
    of: GetDeviceGroup,
) -> Result<(), Errno> {
    let listed = list(policy, call, of);
    let count = listed.unwrap_or(0);
    let offset = Domctl::U_OFFSET.wrapping_add(GetDeviceGroup::offsets(Layout::Native).num_sdevs);
    let address = element(call.argument, 1, offset)?;
    call.write(address, &count.to_le_bytes())?;
    listed.map(drop).map_err(Errno::from)
}

fn list<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    call: &mut Call<'_, impl GuestMemory>,
    of: GetDeviceGroup,
) -> Result<u32, GuestFault> {
    let device = Sbdf::from_raw(of.machine_sbdf);
    // Xen counts with a sign: 2^31 and more leave no room.
    let room = i32::try_from(of.max_sdevs).unwrap_or(0).unsigned_abs();
    let (mut seen, mut written) = (0_usize, 0_u32);
    loop {
        let mut members = [None; MEMBERS];
        let mut count = 0_usize;
        let mut places = members.iter_mut();
        policy.for_each_in_group(device, |member, _| {
            if count >= seen
                && let Some(place) = places.next()
            {
                *place = Some(member);
            }
            count = count.saturating_add(1);
        });
        let is_sibling = |member: &Sbdf| *member != device && member.segment() == device.segment();
        for member in members.into_iter().flatten().filter(is_sibling) {
            if written >= room {
                return Ok(written);
            }
            let entry = GetDeviceGroup::entry(member.bus(), member.devfn());
            let address = element(of.sdev_array, written.into(), size_of::<u32>())?;
            call.write(address, &entry.to_le_bytes())?;
            written = written.saturating_add(1);
        }
        seen = seen.saturating_add(MEMBERS);
        if seen >= count {
            return Ok(written);
        }
    }
}
