//! What large collections are charged is what the allocator has given for them.

use keyloom::collection::sorted;
use tikv_jemalloc_ctl::thread;

/// Bytes that this thread has allocated and not freed.
fn live_bytes() -> i64 {
    let (allocated, freed) = (thread::allocatedp::read().unwrap(), thread::deallocatedp::read().unwrap());
    allocated.get() as i64 - freed.get() as i64
}

#[test]
fn sorted_sets() {
    let members: Vec<String> = (0..100_000u64).map(|n| format!("member:{}", n * 7919 % 100_003)).collect();
    let mut set = Box::new(sorted::Large::default());
    // Seeds and the like that are made once.
    set.insert(b"first", 1.0);
    set.remove(b"first");
    drop(set);

    let before = live_bytes();
    let check = |set: &sorted::Large, bytes: i64| {
        let each = bytes as f64 / set.len() as f64;
        println!("{} members, {each:.1} bytes each; {} charged, {bytes} taken", set.len(), set.bytes());
        assert!((set.bytes() as i64 - bytes).abs() * 1000 < bytes);
    };
    let mut set = Box::new(sorted::Large::default());
    for (n, member) in members.iter().enumerate() {
        set.insert(member.as_bytes(), (n % 1000) as f64);
    }
    check(&set, live_bytes() - before);
    for member in members.iter().step_by(3) {
        set.remove(member.as_bytes());
    }
    set.insert(&[b'x'; 5000], 1.0);
    check(&set, live_bytes() - before);
    let before = live_bytes();
    let clone = set.clone();
    check(&clone, live_bytes() - before);
}
