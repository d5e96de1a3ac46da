//! What a DRHD structure covers.

use std::mem::MaybeUninit;

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::{Dmar, DrhdFlags, Structure};
use testkit::bus::{Bus, Function};
use xen_iommu::Arena;
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::vtd::coverage;

use super::*;

#[test]
fn a_structure_covers_what_its_scopes_lead_to() {
    let bus = Bus::new()
        .with(Sbdf::new(0, 0, 2, 0), Function::endpoint())
        .with(Sbdf::new(0, 0, 0x1c, 0), Function::bridge(3, 5));
    let drhd = |flags, base| StructureBuilder::drhd(flags, 0, base);
    let table = TableBuilder::new()
        .structure(
            drhd(DrhdFlags::empty(), 0xfed9_0000)
                .scope(ScopeBuilder::endpoint(0, &[(2, 0)]))
                .scope(ScopeBuilder::io_apic(2, 0, &[(0x1e, 7)]))
                .scope(ScopeBuilder::hpet(0, 0, &[(0x1e, 6)]))
                .scope(ScopeBuilder::bridge(0, &[(0x1c, 0)]))
                // Below a bridge that is not there.
                .scope(ScopeBuilder::endpoint(0, &[(0x1d, 0), (0, 0)]))
                // Absent, and this unit's once it comes.
                .scope(ScopeBuilder::endpoint(0, &[(9, 1)])),
        )
        .structure(drhd(DrhdFlags::INCLUDE_PCI_ALL, 0xfed9_1000))
        .build();
    let dmar = Dmar::parse(&table).unwrap();
    let mut memory = vec![MaybeUninit::uninit(); 4096];
    let scopes = ResolvedScopes::read(&dmar, &bus, &mut Arena::new(&mut memory)).unwrap();
    let covered: Vec<(Vec<Coverage>, usize)> = dmar
        .structures()
        .filter_map(|structure| {
            let Ok(Structure::Drhd(drhd)) = structure else { return None };
            let (mut covered, mut unresolved) = (Vec::new(), 0);
            coverage(&drhd, &scopes, &mut |one| covered.push(one), &mut |_| unresolved += 1);
            Some((covered, unresolved))
        })
        .collect();
    let expected = vec![
        Coverage::Endpoint(Sbdf::new(0, 0, 2, 0)),
        Coverage::Endpoint(Sbdf::new(0, 0, 0x1c, 0)),
        Coverage::Buses { segment: 0, first: 3, last: 5 },
        Coverage::Endpoint(Sbdf::new(0, 0, 9, 1)),
    ];
    assert_eq!(covered, [(expected, 1), (vec![Coverage::All { segment: 0 }], 0)]);
}
