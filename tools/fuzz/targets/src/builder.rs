//! Tables from descriptions.

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::described::{Part, Scope, Table};
use crate::visit::visit;

/// Takes the bytes for a description; what the builder composes from it must read as the same description.
pub fn builder(data: &[u8]) {
    if let Ok(table) = Table::arbitrary(&mut Unstructured::new(data)) {
        visit(&table.check());
    }
}

impl<'a> Arbitrary<'a> for Table {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            oem: u.arbitrary()?,
            creator: u.arbitrary()?,
            revision: u.arbitrary()?,
            width: u.int_in_range(1..=u8::MAX)?,
            flags: u.arbitrary()?,
            structures: u.arbitrary()?,
        })
    }
}

impl<'a> Arbitrary<'a> for Part {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let kind = u.int_in_range(0..=9)?;
        // A NUL would end a name.
        let name: Vec<u8> =
            u.arbitrary_iter::<u8>()?.take(1000).map(|byte| Ok(byte?.max(1))).collect::<Result<_>>()?;
        let mut scopes = Vec::new();
        if matches!(kind, 0 | 1 | 2 | 5 | 6) {
            // No more than a structure's length can say.
            scopes = u.arbitrary_iter()?.take(255).collect::<Result<_>>()?;
        }
        Ok(Self {
            kind,
            flags: u.arbitrary()?,
            size: u.arbitrary()?,
            segment: u.arbitrary()?,
            addresses: u.arbitrary()?,
            domain: u.arbitrary()?,
            name,
            scopes,
        })
    }
}

impl<'a> Arbitrary<'a> for Scope {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            kind: u.arbitrary()?,
            flags: u.arbitrary()?,
            id: u.arbitrary()?,
            bus: u.arbitrary()?,
            // The most that a scope's length can say.
            path: u.arbitrary_iter()?.take(124).collect::<Result<_>>()?,
        })
    }
}
