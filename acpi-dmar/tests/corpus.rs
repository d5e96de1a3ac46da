//! Tables of real machines: all read without an error, and damage to a byte costs no more than what the byte
//! is about.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use acpi_dmar::builder::TableBuilder;
use acpi_dmar::resolve::static_address;
use acpi_dmar::{DeviceScope, Dmar, ScopeError, Structure, StructureError, TableError};

#[test]
fn every_real_table_reads_without_error() {
    let Some(corpus) = common::corpus() else { return };
    let (mut structures, mut scopes) = (0, 0);
    for (path, bytes) in &corpus {
        let name = path.display();
        let dmar = Dmar::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(dmar.length() as usize, bytes.len(), "{name}");
        assert!((36..=52).contains(&dmar.host_address_width()), "{name}");
        let mut end = 48;
        for structure in dmar.structures() {
            let structure = structure.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(structure.offset(), end, "{name}");
            end += u32::from(structure.length());
            structures += 1;
            for scope in structure.scopes() {
                let scope = scope.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(scope.invalid_hop(), None, "{name}: {scope}");
                assert_eq!(
                    static_address(structure.segment().unwrap(), &scope).is_some(),
                    scope.path().len() == 1,
                    "{name}: {scope}"
                );
                scopes += 1;
            }
            if let Structure::Andd(andd) = structure {
                assert!(
                    andd.is_terminated() && andd.name().is_some_and(|name| name.starts_with('\\')),
                    "{name}"
                );
            }
        }
        assert_eq!(end, dmar.length(), "{name}");
        assert_eq!(
            dmar.to_string().lines().count(),
            2 + dmar.structures().flatten().map(|structure| 1 + structure.scopes().count()).sum::<usize>(),
            "{name}: one line for each"
        );
    }
    eprintln!("{} tables, {structures} structures, {scopes} scopes", corpus.len());
}

#[test]
fn every_real_table_can_be_built_again() {
    for (path, bytes) in common::corpus().unwrap_or_default() {
        let dmar = Dmar::parse(&bytes).unwrap();
        assert_eq!(TableBuilder::from(&dmar).try_build().unwrap(), bytes, "{}", path.display());
    }
}

type Walked<'a> = Vec<Result<(Structure<'a>, Vec<Result<DeviceScope<'a>, ScopeError>>), StructureError>>;

fn walk<'a>(dmar: &Dmar<'a>) -> Walked<'a> {
    dmar.structures().map(|structure| structure.map(|found| (found, found.scopes().collect()))).collect()
}

/// Flips bits of each byte in turn. What the byte is about may change; what it is not about must not.
#[test]
fn a_flipped_byte_hides_nothing_else() {
    for (path, bytes) in common::corpus().unwrap_or_default() {
        let before = walk(&Dmar::parse(&bytes).unwrap());
        for at in 0..bytes.len() {
            for flip in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let context = || format!("{}: byte {at:#x} ^ {flip:#x}", path.display());
                check_damage(&before, &damaged, at, &context);
            }
        }
    }
}

fn check_damage(before: &Walked<'_>, damaged: &[u8], at: usize, context: &dyn Fn() -> String) {
    let strict = Dmar::parse(damaged);
    let mut errors = Vec::new();
    let lenient = Dmar::parse_lenient(damaged, |error| errors.push(error));
    assert_eq!(strict.err(), errors.first().copied(), "{}", context());
    let Some(dmar) = lenient else { return };
    let after = walk(&dmar);
    if at < 48 {
        return;
    }
    assert!(matches!(errors[..], [TableError::Checksum { .. }]), "{}", context());

    let hit = before.iter().flatten().position(|(structure, _)| at < end(structure)).unwrap();
    let (structure, scopes) = before[hit].as_ref().unwrap();
    let inside = at - structure.offset() as usize;
    let same = if matches!(inside, 2 | 3) { hit } else { before.len() };
    for (index, (before, after)) in before.iter().zip(&after).enumerate().take(same) {
        assert!(index == hit || before == after, "{}: structure {index}", context());
    }
    if same == hit {
        return;
    }
    assert_eq!(after.len(), before.len(), "{}", context());
    if inside < 2 {
        return;
    }
    let (_, damaged_scopes) = after[hit].as_ref().unwrap();
    let scope_hit = scopes.iter().flatten().position(|scope| {
        (scope.offset() as usize..scope.offset() as usize + usize::from(scope.length())).contains(&at)
    });
    for (index, (before, after)) in scopes.iter().zip(damaged_scopes).enumerate() {
        let after_length_hit =
            scope_hit.is_some_and(|hit| index > hit && at == scopes[hit].unwrap().offset() as usize + 1);
        assert!(
            Some(index) == scope_hit || after_length_hit || before == after,
            "{}: scope {index}",
            context()
        );
    }
}

fn end(structure: &Structure<'_>) -> usize {
    structure.offset() as usize + usize::from(structure.length())
}
