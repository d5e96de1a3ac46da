use std::format;
use std::vec;
use std::vec::Vec;

use super::*;

/// The structures of a table whose bytes after the header are `body`.
fn walk(body: &[u8]) -> Vec<Result<Structure<'_>, StructureError>> {
    Structures::new(body).collect()
}

fn error(offset: u32, kind: StructureErrorKind) -> Result<Structure<'static>, StructureError> {
    Err(StructureError { offset, kind })
}

#[test]
fn a_length_that_hides_the_next_structure_ends_the_walk() {
    let unit = StructureKind::Drhd;
    for length in 0..4 {
        let mut body = [0; 32];
        body[2] = length;
        let length = length.into();
        assert_eq!(
            walk(&body),
            [error(48, StructureErrorKind::LengthBelowHeader { structure: unit, length })],
            "one error, then the end"
        );
    }
    let mut body = [0; 16];
    body[2] = 17;
    let past_end = StructureErrorKind::PastEnd { structure: unit, length: 17, available: 16 };
    assert_eq!(walk(&body), [error(48, past_end)]);
    for count in 1..4 {
        let mut body = vec![9, 0, 4, 0];
        body.resize(4 + count, 0);
        assert_eq!(walk(&body)[1..], [error(52, StructureErrorKind::TrailingBytes { count })]);
    }
    assert!(walk(&body)[0].unwrap_err().ends_walk());
}

#[test]
fn a_structure_too_short_for_its_fields_costs_only_itself() {
    for (raw_type, minimum) in [(0u8, 16u16), (1, 24), (2, 8), (3, 20), (4, 8), (5, 8), (6, 8)] {
        for length in 4..=minimum {
            let mut body = vec![raw_type, 0, length as u8, 0];
            body.resize(length.into(), 0);
            body.extend_from_slice(&[3, 0, 20, 0]);
            body.resize(usize::from(length) + 20, 0);
            let walked = walk(&body);
            let structure = StructureKind::from(u16::from(raw_type));
            if length < minimum {
                let too_short = StructureErrorKind::TooShort { structure, length, minimum };
                assert_eq!(walked[0], error(48, too_short));
                assert!(!walked[0].unwrap_err().ends_walk());
            } else {
                assert_eq!(walked[0].unwrap().kind(), structure);
            }
            assert_eq!(walked[1].unwrap().kind(), StructureKind::Rhsa);
            assert_eq!(walked.len(), 2);
        }
    }
}

#[test]
fn errors_say_place_value_and_rule() {
    let body = [1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let [Err(first), Err(second)] = walk(&body)[..] else { panic!() };
    assert_eq!(format!("{first}"), "at offset 0x30: RMRR has a length of 8, less than its fields' 24");
    assert_eq!(
        format!("{second}"),
        "at offset 0x38: DRHD has a length of 0, less than its type and length fields' 4"
    );
}
