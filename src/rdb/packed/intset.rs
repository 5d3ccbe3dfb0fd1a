//! Intsets.
//!
//! ```text
//! intset    bytes of an integer u32: 2, 4 or 8 | integers u32 | integer ...      ascending, each once
//! ```

use super::{Damage, integer, take};

/// The integers, all checked.
pub(in crate::rdb) fn integers(bytes: &[u8]) -> Result<impl Iterator<Item = i64> + Clone, Damage> {
    let mut rest = bytes;
    let width = u32::from_le_bytes(take(&mut rest)?) as usize;
    let count = u32::from_le_bytes(take(&mut rest)?) as usize;
    if !matches!(width, 2 | 4 | 8) || count.checked_mul(width) != Some(rest.len()) {
        return Err("an intset has another length than it says");
    }
    let integers = rest.chunks_exact(width).map(integer);
    if !integers.clone().is_sorted_by(|a, b| a < b) {
        return Err("an intset is not in order");
    }
    Ok(integers)
}
