//! A table as one JSON object a line, for programs. Every value is as in the table. What follows from it, by
//! names of segment, bus and path:
//!
//! - `groups`: every device, each in one; those of several devices must stay together.
//! - `required`: the groups of several devices that come to be where isolation is required (VFIO's way), as
//!   far as they are others. It is left out where access control cannot be seen.
//! - `unplaced`: those of the devices that the table cannot place without its machine: bridges, which stand
//!   for what is below them, and what is named by way of bridges. Each is in a group of its own, which it may
//!   not have on its machine. It is left out where there are none.

use acpi_dmar::{DeviceScope, Path, Structure, StructureKind};
use serde::Serialize;

use super::Report;
use super::groups::Group;
use crate::device::Device;

/// The object of a file. Numbers are null where the header cannot be read.
#[derive(Serialize)]
struct File<'r> {
    file: &'r str,
    length: Option<u32>,
    width: Option<u8>,
    flags: Option<u8>,
    errors: &'r [String],
    structures: Vec<Item>,
    groups: Vec<Vec<Name>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<Vec<Vec<Name>>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unplaced: Vec<Name>,
}

/// A structure: the fields that its kind has.
#[derive(Serialize, Default)]
struct Item {
    kind: String,
    at: u32,
    length: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    scopes: Vec<Scope>,
}

#[derive(Serialize)]
struct Scope {
    kind: String,
    id: u8,
    bus: u8,
    path: Vec<(u8, u8)>,
    /// Nearly always 0, and then left out.
    #[serde(skip_serializing_if = "is_zero")]
    flags: u8,
}

/// A device: segment, bus and path.
type Name = (u16, u8, Vec<(u8, u8)>);

/// Writes the object of `report`, of `file`, without a line's end.
///
/// # Errors
/// Those of `out`.
pub fn write(report: &Report<'_>, file: &str, out: impl std::io::Write) -> serde_json::Result<()> {
    let dmar = report.dmar.as_ref();
    let structures = dmar.map(|dmar| dmar.structures().flatten().map(|structure| item(&structure)).collect());
    let devices = |numbers: &[usize]| numbers.iter().map(|&number| name(&report.devices[number])).collect();
    let groups = |groups: &[Group]| groups.iter().map(|group| devices(&group.devices)).collect();
    let unplaced = |&number: &usize| report.machine.is_none() && report.function(number).is_none();
    let unplaced: Vec<_> = (0..report.devices.len()).filter(unplaced).collect();
    let object = File {
        file,
        length: dmar.map(|dmar| dmar.length()),
        width: dmar.map(|dmar| dmar.host_address_width()),
        flags: dmar.map(|dmar| dmar.flags().bits()),
        errors: &report.errors,
        structures: structures.unwrap_or_default(),
        groups: groups(&report.groups),
        required: report.required.as_deref().map(groups),
        unplaced: devices(&unplaced),
    };
    serde_json::to_writer(out, &object)
}

fn item(structure: &Structure<'_>) -> Item {
    let common = Item {
        kind: match structure.kind() {
            StructureKind::Unknown(raw) => format!("unknown({raw})"),
            kind => kind.to_string().to_lowercase(),
        },
        at: structure.offset(),
        length: structure.length(),
        segment: structure.segment(),
        scopes: structure.scopes().flatten().map(|scope| self::scope(&scope)).collect(),
        ..Item::default()
    };
    match structure {
        Structure::Drhd(drhd) => Item {
            address: Some(drhd.register_base()),
            flags: Some(drhd.flags().bits()),
            size: Some(drhd.size()),
            ..common
        },
        Structure::Rmrr(rmrr) => Item { base: Some(rmrr.base()), limit: Some(rmrr.limit()), ..common },
        Structure::Atsr(atsr) => Item { flags: Some(atsr.flags().bits()), ..common },
        Structure::Rhsa(rhsa) => {
            Item { address: Some(rhsa.register_base()), domain: Some(rhsa.proximity_domain()), ..common }
        }
        Structure::Andd(andd) => Item {
            number: Some(andd.number()),
            name: Some(String::from_utf8_lossy(andd.name_bytes()).into_owned()),
            ..common
        },
        Structure::Satc(satc) => Item { flags: Some(satc.flags().bits()), ..common },
        Structure::Sidp(_) | Structure::Unknown(_) => common,
    }
}

fn scope(scope: &DeviceScope<'_>) -> Scope {
    Scope {
        kind: scope.kind().to_string(),
        id: scope.enumeration_id(),
        bus: scope.start_bus(),
        path: path(scope.path()),
        flags: scope.flags().bits(),
    }
}

fn path(path: Path<'_>) -> Vec<(u8, u8)> {
    path.map(|hop| (hop.device, hop.function)).collect()
}

fn name(device: &Device) -> Name {
    (device.segment, device.bus, device.path.iter().map(|hop| (hop.device, hop.function)).collect())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(flags: &u8) -> bool {
    *flags == 0
}
