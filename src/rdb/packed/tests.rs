//! Tests of packed forms: what is damaged is told. That whole ones are read, `tests/rdb` shows.

use super::*;

fn items(bytes: &[u8], listpack: bool) -> Result<Vec<Vec<u8>>, Damage> {
    let mut items = if listpack { Items::of_listpack(bytes)? } else { Items::of_ziplist(bytes)? };
    let mut texts = Vec::new();
    while let Some([item]) = items.group()? {
        texts.push(item.text(&mut itoa::Buffer::new()).to_vec());
    }
    Ok(texts)
}

fn fields(bytes: &[u8]) -> Result<usize, Damage> {
    let mut pairs = Zipmap::new(bytes)?;
    let mut fields = 0;
    while pairs.pair()?.is_some() {
        fields += 1;
    }
    Ok(fields)
}

#[test]
fn integers_of_every_width_have_their_sign() {
    assert_eq!(integer(&[0xff]), -1);
    assert_eq!(integer(&[0x7f]), 127);
    assert_eq!(integer(&[0x00, 0x00, 0x80]), -8_388_608);
    assert_eq!(integer(&i32::MIN.to_le_bytes()), i64::from(i32::MIN));
    assert_eq!(integer(&i64::MIN.to_le_bytes()), i64::MIN);
}

#[test]
fn damaged_listpacks() {
    let whole = [11, 0, 0, 0, 2, 0, 5, 1, 0x80, 1, 0xff];
    assert_eq!(items(&whole, true), Ok(vec![b"5".to_vec(), vec![]]));
    for len in 0..whole.len() {
        assert!(items(&whole[..len], true).is_err());
    }
    // What is changed, and where.
    for (at, byte) in [(0, 12), (0, 10), (4, 1), (4, 3), (6, 0x81), (7, 2), (8, 0xff), (8, 0xf5), (9, 2), (10, 0)] {
        let mut damaged = whole;
        damaged[at] = byte;
        assert!(items(&damaged, true).is_err(), "byte {at} is {byte}");
    }
    // Without a count.
    let mut uncounted = whole;
    uncounted[4..6].fill(0xff);
    assert_eq!(items(&uncounted, true).map(|items| items.len()), Ok(2));
    assert_eq!(items(&[7, 0, 0, 0, 0, 0, 0xff], true), Ok(vec![]));
    // A length of its own that reaches over the end, and one of 4 GiB.
    assert!(items(&[9, 0, 0, 0, 1, 0, 0xbf, 1, 0xff], true).is_err());
    assert!(items(&[13, 0, 0, 0, 1, 0, 0xf0, 0xff, 0xff, 0xff, 0xff, 5, 0xff], true).is_err());
}

#[test]
fn damaged_ziplists() {
    let whole = [16, 0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 1, b'a', 3, 0xf6, 0xff];
    assert_eq!(items(&whole, false), Ok(vec![b"a".to_vec(), b"5".to_vec()]));
    for len in 0..whole.len() {
        assert!(items(&whole[..len], false).is_err());
    }
    for (at, byte) in [
        (0, 15),
        (4, 10),
        (4, 14),
        (8, 1),
        (8, 3),
        (10, 1),
        (11, 2),
        (11, 0x3f),
        (13, 2),
        (14, 0xd1),
        (14, 0xff),
        (15, 0),
    ] {
        let mut damaged = whole;
        damaged[at] = byte;
        assert!(items(&damaged, false).is_err(), "byte {at} is {byte}");
    }
    let mut uncounted = whole;
    uncounted[8..10].fill(0xff);
    assert_eq!(items(&uncounted, false).map(|items| items.len()), Ok(2));
    assert_eq!(items(&[11, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0xff], false), Ok(vec![]));
    // The length of the element before may stand in five bytes though it is short.
    let wide = [20, 0, 0, 0, 13, 0, 0, 0, 2, 0, 0, 1, b'a', 0xfe, 3, 0, 0, 0, 0xf6, 0xff];
    assert_eq!(items(&wide, false).map(|items| items.len()), Ok(2));
}

#[test]
fn damaged_zipmaps() {
    let whole = b"\x02\x01a\x01\x02x..\x01b\x00\x00\xff";
    assert_eq!(fields(whole), Ok(2));
    for len in 0..whole.len() {
        assert!(fields(&whole[..len]).is_err());
    }
    for (at, byte) in [(0, 1), (0, 3), (1, 2), (3, 0xff), (3, 0xfe), (4, 3), (4, 0xff), (12, 0)] {
        let mut damaged = *whole;
        damaged[at] = byte;
        assert!(fields(&damaged).is_err(), "byte {at} is {byte}");
    }
    assert_eq!(fields(b"\xfe\x01a\x01\x02x..\x01b\x00\x00\xff"), Ok(2), "not counted");
}

#[test]
fn damaged_intsets() {
    let of = |bytes: &[u8]| integers(bytes).map(|all| all.collect::<Vec<_>>());
    let whole = [2, 0, 0, 0, 2, 0, 0, 0, 0xff, 0xff, 1, 0];
    assert_eq!(of(&whole), Ok(vec![-1, 1]));
    for len in 0..whole.len() {
        assert!(of(&whole[..len]).is_err());
    }
    for (at, byte) in [(0, 4), (0, 0), (0, 3), (4, 1), (4, 3), (7, 0xff), (9, 0x00), (10, 0xff)] {
        let mut damaged = whole;
        damaged[at] = byte;
        let wrong = of(&damaged);
        assert!(wrong.is_err() || at == 10, "byte {at} is {byte}: {wrong:?}");
    }
    assert!(of(&[2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 1, 0]).is_err(), "twice the same");
}
