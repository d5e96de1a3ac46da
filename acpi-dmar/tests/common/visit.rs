//! Reading everything there is in any bytes, strictly counting.

use std::fmt::{self, Write};

use acpi_dmar::builder::TableBuilder;
use acpi_dmar::resolve::static_address;
use acpi_dmar::{Dmar, Structure, TableError};

/// Reads `bytes` as a table: each structure takes at least 4 of them and each scope at least 6, or ends its
/// walk; each comes where the one before it ended, and what is said of it has its place.
pub(crate) fn visit(bytes: &[u8]) {
    let strict = Dmar::parse(bytes);
    let mut errors = Vec::new();
    let lenient = Dmar::parse_lenient(bytes, |error| errors.push(error));
    assert_eq!(strict.err(), errors.first().copied(), "strict and lenient reading disagree");
    assert!(errors.len() <= 1);
    for error in &errors {
        assert!(text_length(error) < 200);
    }
    let Some(dmar) = lenient else { return };
    if let Ok(strict) = strict {
        assert!(strict == dmar);
        assert!(dmar.length() as usize <= bytes.len());
    }
    let readable = match errors[..] {
        [TableError::Truncated { available, .. }] => available,
        _ => dmar.length() as usize,
    };
    let mut end = 48;
    let mut walk = dmar.structures();
    for structure in walk.by_ref() {
        match structure {
            Ok(structure) => {
                assert_eq!(structure.offset(), end);
                assert!(structure.length() >= 4);
                end += u32::from(structure.length());
                visit_scopes(&structure, end);
                visit_fields(&dmar, &structure);
            }
            Err(error) => {
                assert_eq!(error.offset, end);
                assert!(text_length(&error) < 200);
                let length =
                    bytes[end as usize..].get(2..4).map_or(0, |at| u16::from_le_bytes([at[0], at[1]]));
                end += u32::from(length).max(1);
                if error.ends_walk() {
                    break;
                }
                assert!(length >= 4);
            }
        }
        assert!(end as usize <= readable, "a structure leaves the table");
    }
    assert!(walk.next().is_none());
    assert!(text_length(&dmar) < 400 + 200 * bytes.len());
    // What can be read, and that alone, is built again.
    let again = TableBuilder::from(&dmar).try_build().unwrap();
    let again = Dmar::parse(&again).unwrap();
    let kinds = |dmar: &Dmar<'_>| {
        let readable = dmar.structures().flatten();
        readable.map(|found| (found.kind(), found.scopes().flatten().count())).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&again), kinds(&dmar));
    assert!(again.structures().all(|structure| structure.is_ok()));
}

/// The scopes of a structure that ends at `end`.
fn visit_scopes(structure: &Structure<'_>, end: u32) {
    let mut scope_end = structure.offset();
    let mut walk = structure.scopes();
    for scope in walk.by_ref() {
        match scope {
            Ok(scope) => {
                assert!(scope.offset() >= scope_end && scope.length() >= 6);
                scope_end = scope.offset() + u32::from(scope.length());
                assert_eq!(scope.path().count() * 2 + 6, usize::from(scope.length()));
                assert_eq!(scope.path().len(), scope.path().count());
                assert_eq!(scope.invalid_hop().is_none(), scope.path().all(|hop| hop.is_valid()));
                let fixed = structure.segment().and_then(|segment| static_address(segment, &scope));
                assert!(fixed.is_none() || scope.path().len() == 1);
                assert!(scope_end <= end, "a scope leaves its structure");
            }
            Err(error) => {
                assert!(error.offset >= scope_end && error.offset < end);
                assert!(text_length(&error) < 200);
                if error.ends_walk() {
                    break;
                }
                scope_end = error.offset + 7;
            }
        }
    }
    assert!(walk.next().is_none());
}

fn visit_fields(dmar: &Dmar<'_>, structure: &Structure<'_>) {
    match structure {
        Structure::Drhd(drhd) => assert!((0x1000..=0x800_0000).contains(&drhd.register_bytes())),
        Structure::Andd(andd) => {
            assert!(andd.name_bytes().len() + usize::from(andd.is_terminated()) <= andd.name_field().len());
            assert!(andd.name().is_none_or(|name| name.as_bytes() == andd.name_bytes()));
            // Each look-up walks from the start: not for each of thousands.
            if andd.offset() < 0x400 {
                let first = dmar.namespace_device(andd.number()).unwrap();
                assert!(first.offset() <= andd.offset() && first.number() == andd.number());
            }
        }
        Structure::Unknown(unknown) => assert_eq!(unknown.bytes().len(), usize::from(unknown.length())),
        _ => {}
    }
}

/// How long a text is, without keeping it.
fn text_length(value: &impl fmt::Display) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut count = Count(0);
    write!(count, "{value}").unwrap();
    count.0
}
