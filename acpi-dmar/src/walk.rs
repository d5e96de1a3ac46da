//! The walk over a table's structures.

use core::iter::FusedIterator;

use crate::scope::offset;
use crate::{
    Andd, Atsr, Drhd, HEADER_LENGTH, Rhsa, Rmrr, Satc, Sidp, Structure, StructureError, StructureErrorKind,
    StructureKind, Unknown,
};

/// The structures of a table, in order.
#[derive(Clone, Debug)]
pub struct Structures<'a> {
    rest: &'a [u8],
    /// Where `rest` ends, in bytes from the table's start: a place that does not move while walking.
    end: u32,
}

impl<'a> Structures<'a> {
    #[inline]
    pub(crate) const fn new(body: &'a [u8]) -> Self {
        // The table's length is a 32-bit field.
        Self { rest: body, end: (HEADER_LENGTH as u32).wrapping_add(body.len() as u32) }
    }

    /// No structure begins in what is left, or not a whole one: the end, or an error and then the end.
    #[inline]
    fn end(&mut self) -> Option<Result<Structure<'a>, StructureError>> {
        let rest = core::mem::take(&mut self.rest);
        Self::last_error(rest, self.end).map(Err)
    }

    /// Inlined, or else the walk puts its state and what it gives into memory for the call: half as slow
    /// again.
    #[inline(always)]
    fn last_error(rest: &[u8], end: u32) -> Option<StructureError> {
        let available = rest.len();
        let kind = match *rest {
            [] => return None,
            [_, _, low, high, ..] => {
                let (structure, length) = (kind(rest), u16::from_le_bytes([low, high]));
                if usize::from(length) > available {
                    StructureErrorKind::PastEnd { structure, length, available }
                } else {
                    StructureErrorKind::LengthBelowHeader { structure, length }
                }
            }
            _ => StructureErrorKind::TrailingBytes { count: available },
        };
        Some(StructureError { offset: offset(end, available), kind })
    }

    /// The structure `bytes` is too short for the fields of its type, which costs it alone.
    #[inline(always)]
    fn too_short(bytes: &[u8], end: u32) -> StructureError {
        let length = bytes.len() as u16;
        let structure = kind(bytes);
        let minimum = match structure {
            StructureKind::Drhd => Drhd::FIELDS,
            StructureKind::Rmrr => Rmrr::FIELDS,
            StructureKind::Atsr => Atsr::FIELDS,
            StructureKind::Rhsa => Rhsa::FIELDS,
            StructureKind::Andd => Andd::FIELDS,
            StructureKind::Satc => Satc::FIELDS,
            StructureKind::Sidp => Sidp::FIELDS,
            StructureKind::Unknown(_) => 4,
        };
        StructureError {
            offset: offset(end, bytes.len()),
            kind: StructureErrorKind::TooShort { structure, length, minimum },
        }
    }
}

/// The type of the structure at the start of `bytes`.
fn kind(bytes: &[u8]) -> StructureKind {
    let [low, high] = bytes.first_chunk().copied().unwrap_or_default();
    u16::from_le_bytes([low, high]).into()
}

impl<'a> Iterator for Structures<'a> {
    type Item = Result<Structure<'a>, StructureError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Some(head) = self.rest.first_chunk::<4>() else {
            return self.end();
        };
        let (raw_type, length) = (le!(head, u16, 0), le!(head, u16, 2));
        let Some((bytes, rest)) = self.rest.split_at_checked(length.into()) else {
            return self.end();
        };
        let end = offset(self.end, rest.len());
        // Each type is given from its own arm, or else the compiler puts every structure into memory on the
        // way.
        macro_rules! give {
            ($name:ident) => {
                if let Some(structure) = $name::read(bytes, end) {
                    self.rest = rest;
                    return Some(Ok(Structure::$name(structure)));
                }
            };
        }
        match raw_type {
            0 => give!(Drhd),
            1 => give!(Rmrr),
            2 => give!(Atsr),
            3 => give!(Rhsa),
            4 => give!(Andd),
            5 => give!(Satc),
            6 => give!(Sidp),
            _ if length >= 4 => {
                self.rest = rest;
                return Some(Ok(Structure::Unknown(Unknown::new(bytes, raw_type, end))));
            }
            _ => {}
        }
        if length < 4 {
            return self.end();
        }
        self.rest = rest;
        Some(Err(Self::too_short(bytes, end)))
    }
}

impl FusedIterator for Structures<'_> {}

#[cfg(test)]
mod tests;
