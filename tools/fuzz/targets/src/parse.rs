//! Any bytes as a table.

use crate::visit::visit;

/// Reads the bytes as they are, and once more after a right signature, length and checksum, which no fuzzer
/// would find.
pub fn parse(data: &[u8]) {
    visit(data);
    if let Some(table) = corrected(data) {
        visit(&table);
    }
}

/// The bytes with what a reader asks of a header; `None` if they are too few for one.
pub(crate) fn corrected(data: &[u8]) -> Option<Vec<u8>> {
    let mut table = data.to_vec();
    let length = u32::try_from(data.len()).ok()?;
    table.first_chunk_mut::<48>()?[..8].copy_from_slice(&[*b"DMAR", length.to_le_bytes()].concat());
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = table[9].wrapping_sub(sum);
    Some(table)
}
