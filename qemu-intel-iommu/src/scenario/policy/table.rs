//! Whatever table the machine has: read, grouped, mapped, assigned and answered for.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use acpi_dmar::{ScopeKind, Structure};
use p2m::{AddressSpace, Gfn};
use xen_iommu::abi::Errno;
use xen_iommu::region::iommu_state::IommuState;
use xen_iommu::region::record::{Origin, Region};
use xen_iommu::{AssignError, DomId, Mode, Owner, Sbdf};

use super::call::{Entry, Query, ask};
use super::world::{GUEST, World};
use crate::check::{counted, ensure, text};
use crate::host::{HARDWARE_DOMAIN, new_space};
use crate::scenario::step::{Context, Outcome};

/// An RMRR of the table as a second reading sees it.
struct SecondLook {
    /// Where it is in the table.
    offset: u32,
    /// The first and the last frame.
    frames: (u64, u64),
    /// The devices on buses that need no walk.
    devices: Vec<Sbdf>,
}

/// The RMRRs of the table.
fn rmrrs(world: &World) -> Vec<SecondLook> {
    let structures = world.host.dmar.iter().flat_map(acpi_dmar::Dmar::structures).filter_map(Result::ok);
    let rmrrs = structures
        .filter_map(|structure| if let Structure::Rmrr(rmrr) = structure { Some(rmrr) } else { None });
    rmrrs
        .map(|rmrr| {
            let endpoints =
                rmrr.scopes().filter_map(Result::ok).filter(|scope| scope.kind() == ScopeKind::PciEndpoint);
            let devices = endpoints
                .filter_map(|scope| acpi_dmar::resolve::static_address(rmrr.segment(), &scope))
                .map(Sbdf::from);
            let frames = (rmrr.base() >> 12, rmrr.limit() >> 12);
            SecondLook { offset: rmrr.offset(), frames, devices: devices.collect() }
        })
        .collect()
}

/// Whether the region of an RMRR was accepted.
fn is_accepted(world: &World, rmrr: &SecondLook) -> bool {
    let origin = Origin::Dmar { offset: rmrr.offset };
    world.host.policy.registry().regions().any(|region| region.origin() == origin)
}

/// No entry is passed over, and every region is accepted or says why not.
pub fn read(world: &mut World) -> Outcome {
    let Some(dmar) = &world.host.dmar else {
        ensure!(!world.broken("table"), "there is no table to spoil");
        return Ok(String::from("no usable DMAR: no IOMMU, no assignment"));
    };
    let facts = world.host.facts.iter().filter(|fact| fact.origin.starts_with("DMAR"));
    let structures = dmar.structures().count();
    let bad: Vec<String> =
        facts.clone().filter(|fact| fact.is_bad).map(|fact| fact.verdict.clone()).collect();
    let is_of_table = |region: &&Region<'_>| matches!(region.origin(), Origin::Dmar { .. });
    let registry = world.host.policy.registry();
    let regions = registry.regions().filter(|region| is_of_table(region)).count();
    let rejected = registry.rejected().filter(is_of_table).count();
    let expected = rmrrs(world).len() + usize::from(world.broken("table"));
    ensure!(
        facts.clone().count() >= structures && regions + rejected == expected,
        "{} verdicts on {structures} entries; \
         {regions} regions accepted and {rejected} rejected of {expected}",
        facts.count()
    );
    let complaints = if bad.is_empty() { String::new() } else { format!("; {}", bad.join("; ")) };
    let regions = counted(regions, "region");
    Ok(format!("{structures} entries, {regions} accepted, {rejected} rejected{complaints}"))
}

/// Groups of more than one, with the reasons.
pub fn groups(world: &mut World) -> Outcome {
    let mut groups = all_groups(world);
    if world.broken("groups") {
        // Tears every group in two.
        let torn: Vec<Group> = groups
            .iter_mut()
            .filter(|group| group.len() > 1)
            .filter_map(|group| Some(Vec::from([group.pop()?])))
            .collect();
        groups.extend(torn);
    }
    let mut together = Vec::new();
    for group in groups.iter().filter(|group| group.len() > 1) {
        for (device, link) in group {
            let reason = link.as_ref().map_or(String::from("by way of others"), String::clone);
            log::info!(target: "policy", "{device}: {reason}");
        }
        together.push(group.iter().map(|(device, _)| device.to_string()).collect::<Vec<_>>().join(" + "));
    }
    // A second reading: the present devices of one RMRR must be in one group.
    for rmrr in rmrrs(world).into_iter().filter(|rmrr| is_accepted(world, rmrr)) {
        let is_its = |group: &&Group| group.iter().any(|(device, _)| rmrr.devices.contains(device));
        let apart = groups.iter().filter(is_its).count();
        let (first, last) = rmrr.frames;
        ensure!(apart <= 1, "the devices of frames {first:#x} to {last:#x} are in {apart} groups");
    }
    Ok(if together.is_empty() { String::from("every device stands alone") } else { together.join("; ") })
}

type Group = Vec<(Sbdf, Option<String>)>;

fn all_groups(world: &World) -> Vec<Group> {
    let policy = &world.host.policy;
    let mut groups: Vec<Group> = Vec::new();
    for device in world.devices() {
        if groups.iter().flatten().any(|(member, _)| *member == device) {
            continue;
        }
        let mut group = Vec::new();
        policy.for_each_in_group(device, |member, link| {
            group.push((member, link.map(|link| link.to_string())))
        });
        // A bridge is in none.
        if !group.is_empty() {
            groups.push(group);
        }
    }
    groups
}

/// The first frame of a region that a domain does not map 1:1.
fn missing(world: &World, domain: DomId, region: &Region<'_>) -> Result<Option<u64>, String> {
    let range = region.range();
    let mut at = range.start().raw();
    while at < range.end().raw() {
        let run = world.with_space(domain, |space| space.look_up(Gfn::new(at)))?;
        if run.entry.mfn.map(p2m::Mfn::raw) != Some(at) {
            return Ok(Some(at));
        }
        at = run.gfns.end().raw().max(at + 1);
    }
    Ok(None)
}

/// In the hardware domain, where a device is present; nowhere, where none is.
pub fn map(world: &mut World) -> Outcome {
    let policy = &world.host.policy;
    let (mut mapped, mut dormant) = (0, 0);
    for region in policy.registry().regions() {
        let lacks = missing(world, HARDWARE_DOMAIN, region)?;
        if policy.has_present_device(region) != world.broken("map") {
            ensure!(
                lacks.is_none(),
                "region {region} is not mapped at frame {:#x}",
                lacks.unwrap_or_default()
            );
            mapped += 1;
        } else {
            ensure!(lacks.is_some(), "region {region} is mapped, and no device of it is present");
            dormant += 1;
        }
    }
    ensure!(mapped + dormant > 0 || !world.broken("map"), "there is no region to spoil");
    let translation = if world.host.translates { "on" } else { "off" };
    Ok(format!(
        "{} mapped 1:1 in the hardware domain, {dormant} dormant, translation {translation}",
        counted(mapped, "region")
    ))
}

/// Every group with a region, there and back; without an IOMMU every device is refused.
pub fn assign(world: &mut World) -> Outcome {
    let space = new_space().ok_or("no frames for the guest's tables")?;
    world.host.policy.create_domain(GUEST, space).map_err(text)?;
    let policy = &world.host.policy;
    let (mut given, mut refused) = (0, Vec::new());
    for group in all_groups(world) {
        let devices: Vec<Sbdf> = group.into_iter().map(|(device, _)| device).collect();
        let regions: Vec<_> =
            devices.iter().flat_map(|device| policy.registry().regions_of(*device)).collect();
        if regions.is_empty() && world.host.translates {
            continue;
        }
        match world.assign(&devices, Mode::Strict) {
            Err(AssignError::NoIommu { .. }) if !world.host.translates => continue,
            Err(error @ AssignError::RejectedRegion { .. }) => {
                refused.push(error.to_string());
                continue;
            }
            Err(error) => return Err(error.to_string()),
            Ok(_) => {}
        }
        ensure!(world.host.translates, "{devices:?} were assigned without an IOMMU");
        if world.broken("assign") {
            let first = regions.iter().map(|region| region.range()).next();
            let unmapped = first.map(|range| world.with_space(GUEST, |space| space.unmap_identity(range)));
            unmapped.transpose()?.transpose().map_err(text)?;
        }
        for region in &regions {
            let lacks = missing(world, GUEST, region)?;
            ensure!(lacks.is_none(), "region {region} is not mapped in {GUEST} at frame {:x?}", lacks);
            let reached = world
                .with_space(HARDWARE_DOMAIN, |space| space.look_up(Gfn::new(region.range().start().raw())))?;
            ensure!(reached.entry.mfn.is_none(), "region {region} is still mapped in the hardware domain");
        }
        policy.deassign(&devices, GUEST, &mut |_| {}).map_err(text)?;
        let apart = devices.iter().find(|device| policy.owner(**device) != Some(Owner::Quarantine));
        ensure!(apart.is_none(), "{apart:?} is not in quarantine");
        given += 1;
    }
    if !world.host.translates {
        ensure!(!world.broken("assign"), "no device can be assigned anyway");
        return Ok(String::from("no IOMMU: no assignment, every device is refused"));
    }
    let refused =
        if refused.is_empty() { String::new() } else { format!("; refused: {}", refused.join("; ")) };
    Ok(format!(
        "{} of devices with regions given to a domain and taken back{refused}",
        counted(given, "group")
    ))
}

/// Ranges of frames, first and last, of which those that overlap are put together; lowest first.
fn unions(mut frames: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    frames.sort_unstable();
    let mut unions: Vec<(u64, u64)> = Vec::new();
    for (first, last) in frames {
        match unions.last_mut() {
            Some(union) if first <= union.1 => union.1 = union.1.max(last),
            _ => unions.push((first, last)),
        }
    }
    unions
}

/// All accepted regions, and for each device of the table its own: those that overlap as one.
pub fn query(world: &mut World) -> Outcome {
    let registry = world.host.policy.registry();
    // Nothing is reserved for an IOMMU that there is not.
    let is_active = registry.iommu() == IommuState::Active;
    let accepted = registry.regions().filter(|_| is_active);
    let unions = unions(
        accepted
            .map(|region| (region.range().start().raw(), region.range().end().raw().wrapping_sub(1)))
            .collect(),
    );
    let entry = |(first, last): (u64, u64)| (first, last - first + 1);
    let rejected = registry.rejected().count();
    let mut asked = 0;
    for rmrr in rmrrs(world).into_iter().filter(|rmrr| is_active && is_accepted(world, rmrr)) {
        let (first, _) = rmrr.frames;
        let union = unions.iter().find(|union| (union.0..=union.1).contains(&first));
        let (first, len) = entry(*union.ok_or("an accepted region is in no union")?);
        let wanted = (first, len + u64::from(world.broken("rdm-query")));
        for device in rmrr.devices {
            let (result, _, entries) = ask(world, Query::of(device));
            ensure!(
                result == 0 && entries.contains(&wanted),
                "{device}: {result}, {entries:x?} without {wanted:x?}"
            );
            asked += 1;
        }
    }
    let (result, count, entries) = ask(world, Query::ALL);
    let wanted: Vec<Entry> = unions.iter().copied().map(entry).collect();
    ensure!(result == 0 && entries == wanted, "all: {result}, {entries:x?} instead of {wanted:x?}");
    ensure!(asked > 0 || !world.broken("rdm-query"), "there is no device to spoil");
    let (short, needed, _) = ask(world, Query { room: 0, ..Query::ALL });
    let expected = if unions.is_empty() { 0 } else { Errno::ENOBUFS.result() };
    ensure!(short == expected && needed as usize == unions.len(), "no room: {short}, {needed} entries");
    Ok(format!(
        "{} for devices, {} in all, {rejected} rejected in no answer",
        counted(asked, "answer"),
        counted(count as usize, "region")
    ))
}
