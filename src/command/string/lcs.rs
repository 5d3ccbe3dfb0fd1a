//! LCS: the longest common subsequence of two strings.
//!
//! The lengths `L(i, j)` of the LCS of two prefixes form a matrix. A row is kept as bits, one for each column: bit `j`
//! is 0 where `L(i, j + 1) = L(i, j) + 1`. A whole word of columns follows from the row above in a few operations
//! (Crochemore et al., "A fast and practical bit-vector algorithm for the longest common subsequence problem", 2001;
//! Hyyrö, "Bit-parallel LCS-length computation revisited", 2004). These bits are also all that is needed to walk back
//! through the matrix, with the same choices among equally long subsequences as Redis.

use std::sync::Arc;

use super::read;
use crate::command::number::parse_i64;
use crate::command::{Args, Ctx};
use crate::resp::{Error, Reply};
use crate::shard::Str;

/// Largest matrix, cells: 16 MiB of bits and some ten milliseconds; 64 MiB and some hundred milliseconds if the second
/// string is so short that words stay empty. At the default proto-max-bulk-len it is also Redis' limit, which comes from
/// four bytes per cell.
const CELLS_MAX: u64 = 1 << 27;

/// Bytes of a cell in the limit that clients know.
const CELL_BYTES: u64 = 4;

#[derive(Default)]
struct Options {
    len: bool,
    idx: bool,
    with_match_len: bool,
    min_match_len: i64,
}

impl Options {
    fn parse(args: Args) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut rest = args.iter();
        while let Some(option) = rest.next() {
            if option.eq_ignore_ascii_case(b"idx") {
                options.idx = true;
            } else if option.eq_ignore_ascii_case(b"len") {
                options.len = true;
            } else if option.eq_ignore_ascii_case(b"withmatchlen") {
                options.with_match_len = true;
            } else if option.eq_ignore_ascii_case(b"minmatchlen") {
                options.min_match_len = parse_i64(rest.next().ok_or(Error::Syntax)?)?;
            } else {
                return Err(Error::Syntax);
            }
        }
        if options.idx && options.len {
            return Err(Error::LcsLenAndIdx);
        }
        Ok(options)
    }
}

pub fn lcs(ctx: &mut Ctx, args: Args, reply: &mut Reply) -> Result<(), Error> {
    // Both keys are looked up in any case.
    let (a, b) = (string_at(ctx, args[1]), string_at(ctx, args[2]));
    let (a, b) = (a?, b?);
    let options = Options::parse(&args[3..])?;
    let cells = (a.len() as u64 + 1).checked_mul(b.len() as u64 + 1);
    let cells_max = CELLS_MAX.min(ctx.string_bytes_max as u64 / CELL_BYTES);
    if cells.is_none_or(|cells| cells > cells_max) {
        return Err(Error::LcsTooLarge);
    }
    if options.len {
        reply.int(Rows::compute(&a, &b, false).last_len() as i64);
        return Ok(());
    }
    let rows = Rows::compute(&a, &b, true);
    if options.idx {
        reply_matches(reply, &rows.matches(&a, &b), &options, rows.last_len());
    } else {
        reply.bulk(&rows.subsequence(&a, &b));
    }
    Ok(())
}

/// The value, held beyond the next access to the shard; small ones are copied.
fn string_at(ctx: &mut Ctx, arg: &[u8]) -> Result<Arc<Vec<u8>>, Error> {
    let key = ctx.key(arg);
    Ok(match read(ctx, &key).map_err(|_| Error::LcsNotStrings)? {
        Some(Str::Inline(bytes)) => Arc::new(bytes.to_vec()),
        Some(Str::Large(value)) => Arc::clone(value),
        None => Arc::default(),
    })
}

fn reply_matches(reply: &mut Reply, matches: &[Match], options: &Options, len: usize) {
    let long_enough = |m: &&Match| m.len as i64 >= options.min_match_len;
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(matches.iter().filter(long_enough).count());
    for m in matches.iter().filter(long_enough) {
        reply.array(2 + options.with_match_len as usize);
        for start in [m.a, m.b] {
            reply.array(2);
            reply.int(start as i64);
            reply.int((start + m.len - 1) as i64);
        }
        if options.with_match_len {
            reply.int(m.len as i64);
        }
    }
    reply.bulk(b"len");
    reply.int(len as i64);
}

/// A run of equal bytes, by its first positions in both strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    a: usize,
    b: usize,
    len: usize,
}

/// Rows of the matrix; row `i` belongs to the prefix of `a` of `i + 1` bytes.
struct Rows {
    /// Bytes of one row. Bits past the last column are 1.
    width: usize,
    /// All rows, or only the last one.
    bits: Vec<u8>,
}

impl Rows {
    /// `keep`: keep all rows, for walking back.
    fn compute(a: &[u8], b: &[u8], keep: bool) -> Rows {
        let width = b.len().div_ceil(8);
        let masks = Masks::new(a, b);
        let mut row = vec![u64::MAX; b.len().div_ceil(64)];
        let mut bits = Vec::with_capacity(if keep { width * a.len() } else { width } + size_of::<u64>());
        for (i, &byte) in a.iter().enumerate() {
            let mut carry = false;
            for (word, &mask) in row.iter_mut().zip(masks.of(byte)) {
                let (sum, over) = word.overflowing_add(*word & mask);
                let (sum, over_carry) = sum.overflowing_add(carry as u64);
                carry = over | over_carry;
                *word = sum | (*word & !mask);
            }
            if keep || i + 1 == a.len() {
                let end = bits.len() + width;
                row.iter().for_each(|word| bits.extend_from_slice(&word.to_le_bytes()));
                bits.truncate(end);
            }
        }
        Rows { width, bits }
    }

    /// Length of the LCS: the zeros of the last row.
    fn last_len(&self) -> usize {
        let last = &self.bits[self.bits.len().saturating_sub(self.width)..];
        last.iter().map(|byte| byte.count_zeros() as usize).sum()
    }

    /// Whether `L(i, j) > L(i, j - 1)`, both counted in bytes of the prefixes.
    fn rises(&self, i: usize, j: usize) -> bool {
        self.bits[(i - 1) * self.width + (j - 1) / 8] >> ((j - 1) % 8) & 1 == 0
    }

    /// Calls `found` with the positions of all bytes of the subsequence, from the last to the first.
    fn walk_back(&self, a: &[u8], b: &[u8], mut found: impl FnMut(usize, usize)) {
        let (mut i, mut j) = (a.len(), b.len());
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                i -= 1;
                j -= 1;
                found(i, j);
            } else if self.rises(i, j) {
                // The last byte of `b`'s prefix adds to the length, so it is the one of `a` that can go.
                i -= 1;
            } else {
                j -= 1;
            }
        }
    }

    fn subsequence(&self, a: &[u8], b: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.last_len());
        self.walk_back(a, b, |i, _| text.push(a[i]));
        text.reverse();
        text
    }

    /// The runs of the subsequence, the last one first.
    fn matches(&self, a: &[u8], b: &[u8]) -> Vec<Match> {
        let mut matches: Vec<Match> = Vec::new();
        self.walk_back(a, b, |i, j| match matches.last_mut() {
            Some(m) if m.a == i + 1 && m.b == j + 1 => *m = Match { a: i, b: j, len: m.len + 1 },
            _ => matches.push(Match { a: i, b: j, len: 1 }),
        });
        matches
    }
}

/// For each byte that occurs in `a`, where it occurs in `b`. At most `min(256, |a|)` rows of `|b|` bits, so never more
/// than the matrix itself.
struct Masks {
    /// Words of one row.
    width: usize,
    /// Row of each byte value.
    row_of: [u16; 256],
    bits: Vec<u64>,
}

impl Masks {
    const NONE: u16 = u16::MAX;

    fn new(a: &[u8], b: &[u8]) -> Masks {
        let width = b.len().div_ceil(64);
        let mut row_of = [Self::NONE; 256];
        let mut rows = 0;
        for &byte in a {
            if row_of[byte as usize] == Self::NONE {
                row_of[byte as usize] = rows;
                rows += 1;
            }
        }
        let mut bits = vec![0u64; rows as usize * width];
        for (j, &byte) in b.iter().enumerate() {
            let row = row_of[byte as usize];
            if row != Self::NONE {
                bits[row as usize * width + j / 64] |= 1 << (j % 64);
            }
        }
        Masks { width, row_of, bits }
    }

    fn of(&self, byte: u8) -> &[u64] {
        let start = self.row_of[byte as usize] as usize * self.width;
        &self.bits[start..start + self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook: all lengths, then the walk back that Redis does.
    fn naive(a: &[u8], b: &[u8]) -> (usize, Vec<u8>) {
        let mut l = vec![vec![0usize; b.len() + 1]; a.len() + 1];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                l[i][j] = if a[i - 1] == b[j - 1] { l[i - 1][j - 1] + 1 } else { l[i - 1][j].max(l[i][j - 1]) };
            }
        }
        let (mut i, mut j, mut text) = (a.len(), b.len(), Vec::new());
        while i > 0 && j > 0 {
            if a[i - 1] == b[j - 1] {
                text.push(a[i - 1]);
                (i, j) = (i - 1, j - 1);
            } else if l[i - 1][j] > l[i][j - 1] {
                i -= 1;
            } else {
                j -= 1;
            }
        }
        text.reverse();
        (l[a.len()][b.len()], text)
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_textbook(a in "[a-d]{0,150}", b in "[a-e]{0,150}") {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            let (len, text) = naive(a, b);
            proptest::prop_assert_eq!(Rows::compute(a, b, false).last_len(), len);
            let rows = Rows::compute(a, b, true);
            proptest::prop_assert_eq!(rows.subsequence(a, b), text);
            let covered: usize = rows.matches(a, b).iter().map(|m| m.len).sum();
            proptest::prop_assert_eq!(covered, len);
            for m in rows.matches(a, b) {
                proptest::prop_assert_eq!(&a[m.a..m.a + m.len], &b[m.b..m.b + m.len]);
            }
        }
    }

    #[test]
    fn the_largest_matrix_is_no_work() {
        let a = vec![b'x'; 1 << 13];
        let b = vec![b'x'; (1 << 14) - 64];
        assert_eq!(Rows::compute(&a, &b, true).subsequence(&a, &b).len(), a.len());
    }
}
