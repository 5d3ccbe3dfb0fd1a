//! LZF, the compression of strings in RDB files: decompression only.
//!
//! ```text
//! 000LLLLL                      L + 1 bytes follow as they are
//! LLLDDDDD DDDDDDDD             copy L + 2 bytes from D + 1 bytes back, L from 1 to 6
//! 111DDDDD LLLLLLLL DDDDDDDD    copy L + 9 bytes
//! ```
//!
//! After liblzf by Marc Lehmann (<http://oldhome.schmorp.de/marc/liblzf.html>). A pure function on bytes.

/// Appends what `packed` stands for, which must be `len` bytes, to the empty `text`. It grows as far as there is something
/// to put in, 264 bytes for 3 at the most.
pub(super) fn decompress(packed: &[u8], len: usize, text: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut input = packed;
    while let Some((&control, rest)) = input.split_first() {
        input = rest;
        if control < 0x20 {
            let (plain, rest) = input.split_at_checked(usize::from(control) + 1).ok_or("compressed data ends early")?;
            text.extend_from_slice(plain);
            input = rest;
        } else {
            let mut count = usize::from(control >> 5) + 2;
            if count == 9 {
                count += usize::from(next(&mut input)?);
            }
            let back = (usize::from(control & 0x1f) << 8 | usize::from(next(&mut input)?)) + 1;
            copy(text, back, count)?;
        }
        if text.len() > len {
            return Err("compressed data is longer than it says");
        }
    }
    if text.len() == len { Ok(()) } else { Err("compressed data is shorter than it says") }
}

fn next(input: &mut &[u8]) -> Result<u8, &'static str> {
    let (&byte, rest) = input.split_first().ok_or("compressed data ends early")?;
    *input = rest;
    Ok(byte)
}

/// Repeats `count` bytes from `back` bytes before the end; they may reach into what is being appended.
fn copy(text: &mut Vec<u8>, back: usize, count: usize) -> Result<(), &'static str> {
    let start = text.len().checked_sub(back).ok_or("compressed data points before its beginning")?;
    let mut left = count;
    while left > 0 {
        let here = left.min(text.len() - start);
        text.extend_from_within(start..start + here);
        left -= here;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(packed: &[u8], len: usize) -> Result<Vec<u8>, &'static str> {
        let mut text = Vec::new();
        decompress(packed, len, &mut text).map(|()| text)
    }

    #[test]
    fn literals_and_copies() {
        assert_eq!(unpacked(b"", 0), Ok(vec![]));
        assert_eq!(unpacked(b"\x02abc", 3), Ok(b"abc".to_vec()));
        // Three bytes, from three back.
        assert_eq!(unpacked(b"\x02abc\x20\x02", 6), Ok(b"abcabc".to_vec()));
        // A copy that reaches into itself.
        assert_eq!(unpacked(b"\x00a\xe0\x5b\x00", 101), Ok(vec![b'a'; 101]));
        assert_eq!(unpacked(b"\x01ab\xc0\x01", 10), Ok(b"ababababab".to_vec()));
    }

    #[test]
    fn damage_is_told() {
        for (packed, len) in [
            (&b"\x02ab"[..], 3),
            (b"\x02abc", 2),
            (b"\x02abc", 4),
            (b"\x20\x00", 3),
            (b"\x00a\x20\x01", 4),
            (b"\x00a\xe0\x01", 11),
            (b"\x00a\x20", 4),
            (b"\x00a\xe0", 4),
            (b"\x00a\xe0\xff\x00", 10),
        ] {
            assert!(unpacked(packed, len).is_err(), "{packed:?}");
        }
    }
}
