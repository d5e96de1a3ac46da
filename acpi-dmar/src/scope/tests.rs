use std::vec::Vec;

use super::*;

fn walk(bytes: &[u8]) -> Vec<Result<DeviceScope<'_>, ScopeError>> {
    Scopes::new(bytes, 64 + bytes.len() as u32).collect()
}

fn error(offset: u32, kind: ScopeErrorKind) -> Result<DeviceScope<'static>, ScopeError> {
    Err(ScopeError { offset, kind })
}

#[test]
fn fields_and_every_kind() {
    for raw in 0..=u8::MAX {
        let bytes = [raw, 10, 0x04, 0, 0x42, 0xf0, 0x1c, 3, 0x1f, 7];
        let [Ok(scope)] = walk(&bytes)[..] else { panic!() };
        let expected = match raw {
            1 => ScopeKind::PciEndpoint,
            2 => ScopeKind::PciBridge,
            3 => ScopeKind::IoApic,
            4 => ScopeKind::Hpet,
            5 => ScopeKind::AcpiNamespace,
            raw => ScopeKind::Unknown(raw),
        };
        assert_eq!((scope.kind(), scope.kind().raw()), (expected, raw));
        assert_eq!((scope.offset(), scope.length()), (64, 10));
        assert_eq!((scope.enumeration_id(), scope.start_bus()), (0x42, 0xf0));
        assert_eq!(scope.flags(), ScopeFlags::REQ_WO_PASID_PGSNP_NOT_ALLOWED);
        let hops = [Hop { device: 0x1c, function: 3 }, Hop { device: 0x1f, function: 7 }];
        assert!(scope.path().eq(hops));
        assert_eq!(scope.path().len(), 2);
    }
}

#[test]
fn a_scope_may_have_no_path() {
    let [Ok(scope)] = walk(&[5, 6, 0, 0, 1, 0])[..] else { panic!() };
    assert_eq!(scope.path().next(), None);
}

#[test]
fn hops_that_no_bus_can_have_are_told() {
    for (hop, valid) in [([31, 7], true), ([32, 0], false), ([0, 8], false), ([255, 255], false)] {
        let bytes = [1, 10, 0, 0, 0, 0, 1, 0, hop[0], hop[1]];
        let [Ok(scope)] = walk(&bytes)[..] else { panic!() };
        assert_eq!(scope.invalid_hop().is_none(), valid);
    }
}

#[test]
fn half_a_hop_costs_only_its_scope() {
    let bytes = [1, 7, 0, 0, 0, 0, 2, 3, 8, 0, 0, 9, 0, 0x1e, 7];
    let [odd, Ok(apic)] = walk(&bytes)[..] else { panic!() };
    assert_eq!(odd, error(64, ScopeErrorKind::OddPath { scope: ScopeKind::PciEndpoint, length: 7 }));
    assert!(!odd.unwrap_err().ends_walk());
    assert_eq!((apic.offset(), apic.enumeration_id()), (71, 9));
}

#[test]
fn a_length_that_hides_the_next_scope_ends_the_scopes() {
    let scope = ScopeKind::PciEndpoint;
    for length in 0..6 {
        let bytes = [1, length, 0, 0, 0, 0, 2, 0, 1, 8, 0, 0, 0, 0, 2, 0];
        assert_eq!(walk(&bytes), [error(64, ScopeErrorKind::LengthBelowHeader { scope, length })]);
    }
    let bytes = [1, 10, 0, 0, 0, 0, 2, 0];
    assert_eq!(walk(&bytes), [error(64, ScopeErrorKind::PastEnd { scope, length: 10, available: 8 })]);
    for count in 1..6 {
        let bytes = [1, 8, 0, 0, 0, 0, 2, 0, 1, 8, 0, 0, 0];
        let walked = walk(&bytes[..8 + count]);
        assert!(walked[0].is_ok());
        assert_eq!(walked[1..], [error(72, ScopeErrorKind::TrailingBytes { count })]);
        assert!(walked[1].unwrap_err().ends_walk());
    }
}
