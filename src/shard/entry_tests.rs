//! Entries of every form: what is written reads back, and what is shared is not copied.

use super::*;
use crate::shard::Clock;

fn wall(ms: i64) -> Deadline {
    Deadline::new(Clock::Wall, ms)
}

fn meta(expire_at: Option<Deadline>) -> Meta {
    Meta { kind: Kind::String, raw: false, boxed: false, expire_at, usage: 7 }
}

#[test]
fn every_mix_of_lengths_and_expiries_reads_back() {
    let lengths = [0, 1, 15, 64, 4040, 4047, 4048, 4049, 4056, 4063, 4064, 4065, 4080, 4081, 4096, 70_000];
    let mut entries = Entries::new(1 << 26).unwrap();
    let mut made = Vec::new();
    for key_len in lengths {
        for value_len in lengths {
            for expire_at in [None, Some(wall(5)), Some(Deadline::new(Clock::Steady, i64::MAX))] {
                let (key, value) = (vec![b'k'; key_len], vec![b'v'; value_len]);
                let handle = entries.create(&key, NewValue::Bytes(&value), meta(expire_at)).unwrap();
                made.push((handle, key, value, expire_at));
            }
        }
    }
    for (i, (handle, key, value, expire_at)) in made.iter_mut().enumerate() {
        assert_eq!((entries.key(*handle), entries.value(*handle).bytes()), (&key[..], &value[..]));
        assert_eq!(entries.meta(*handle), meta(*expire_at));
        *expire_at = [None, Some(wall(9))][i % 2];
        *handle = entries.set_expire_at(*handle, key, *expire_at).unwrap();
        *value = vec![b'w'; lengths[i % lengths.len()]];
        let (moved, ()) = entries.modify(*handle, key, meta(*expire_at), |v| v.clone_from(value)).unwrap();
        *handle = moved;
    }
    entries.validate();
    for (handle, key, value, expire_at) in made {
        assert_eq!((entries.key(handle), entries.value(handle).bytes()), (&key[..], &value[..]));
        assert_eq!(entries.expire_at(handle), expire_at);
        assert!(matches!(entries.take(handle), Stored::Bytes(bytes) if *bytes == value));
    }
    assert!(entries.validate().is_empty());
    assert_eq!(entries.outside_bytes, 0);
}

#[test]
fn large_values_are_kept_and_given_back_without_a_copy() {
    let mut entries = Entries::new(1 << 26).unwrap();
    let shared = Arc::new(vec![1; 10_000]);
    let handle = entries.create(b"a", NewValue::Shared(Arc::clone(&shared)), meta(None)).unwrap();
    let Str::Large(value) = entries.value(handle) else { panic!("10,000 bytes are large") };
    assert!(Arc::ptr_eq(value, &shared));
    // A change copies what others still see.
    let (handle, ()) = entries.modify(handle, b"a", meta(None), |value| value[0] = 2).unwrap();
    assert_eq!((shared[0], entries.value(handle).bytes()[0]), (1, 2));
    let address = entries.value(handle).bytes().as_ptr();
    // The same length again goes into the same buffer.
    let handle = entries.replace(handle, b"a", NewValue::Bytes(&[3; 10_000]), meta(None)).unwrap();
    assert_eq!(entries.value(handle).bytes().as_ptr(), address);
    let Stored::Bytes(value) = entries.take(handle) else { panic!("a string is bytes") };
    assert_eq!(value.as_ptr(), address);
    assert_eq!(Arc::strong_count(&shared), 1);
}
