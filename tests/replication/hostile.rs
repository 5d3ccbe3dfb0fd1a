//! Bytes that make no sense, from a replica and from a primary.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keyloom::replication::history::History;
use keyloom::replication::message::{Control, Frame, Hello, ToPrimary, ToReplica, Wants, Wire};
use keyloom::resp::read::Value;

use crate::common::{Random, Server, ok, seed, wait_until};
use crate::nodes::{equal_at_rest, primary, replica, text, wait_connected};

fn encoded(message: &impl Wire) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn hello(node: u128, received: u64) -> ToPrimary {
    let chain = vec![History { id: 77, parent: 0, cut: 0 }];
    ToPrimary::Hello(Hello { version: 1, node, port: 1, attempt: 1, wants: Wants::Log, chain, received })
}

fn random_bytes(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.next() as u8).collect()
}

/// Sense with an error in it, or none at all.
fn nonsense(random: &mut Random, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = messages[random.below(messages.len())].clone();
    match random.below(5) {
        0 => {
            let len = 1 + random.below(5000);
            random_bytes(random, len)
        }
        // Lengths without end.
        1 => {
            let at = random.below(bytes.len().min(16));
            for byte in bytes.iter_mut().skip(at).take(4) {
                *byte = 0xFF;
            }
            bytes
        }
        2 => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
            bytes
        }
        3 => {
            bytes.truncate(random.below(bytes.len()));
            let len = 100 + random.below(100);
            bytes.extend(random_bytes(random, len));
            bytes
        }
        // In order, and in the wrong place.
        _ => messages.iter().rev().flatten().copied().collect(),
    }
}

#[test]
fn a_primary_does_not_mind_nonsense() {
    let mut random = Random::new(seed() + 11);
    let first = primary(&[]);
    let second = replica(first.port, "0", &[]);
    wait_connected(&second);
    let mut client = first.client();
    let messages = [
        encoded(&hello(5, 0)),
        encoded(&hello(5, u64::MAX)),
        encoded(&ToPrimary::Ack { received: 9, applied: 8, durable: 7 }),
        encoded(&ToPrimary::TakeOver { history: 3, cut: 4 }),
        encoded(&ToPrimary::Declined),
    ];
    for n in 0..80 {
        let mut hostile = first.client();
        assert_eq!(hostile.call(&["REPLICATE"]), ok());
        if random.one_in(2) {
            hostile.send_bytes(&encoded(&hello(100 + n, random.below(50) as u64)));
        }
        let bytes = nonsense(&mut random, &messages);
        // It may be closed before all of it is written.
        let _ = hostile.stream().write_all(&bytes);
        if random.one_in(3) {
            let _ = hostile.stream().shutdown(std::net::Shutdown::Write);
        }
        assert_eq!(client.call(&["SET", &format!("key:{n}"), "1"]), ok());
    }
    // Those that never say anything else are closed in the end, or when their client leaves.
    equal_at_rest(&[&first, &second]);
    let said = first.log();
    assert!(said.contains("says what makes no sense") && !said.contains("panicked"), "{said}");
    let mut hostile = first.client();
    assert_eq!(hostile.call(&["REPLICATE"]), ok());
    hostile.send_bytes(&random_bytes(&mut random, 100_000));
    hostile.read_to_end();
}

/// Accepts replicas, and tells them nonsense.
fn fake_primary(stop: Arc<AtomicBool>, served: Arc<AtomicU64>, seed: u64) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut random = Random::new(seed);
        while let Ok((mut socket, _)) = listener.accept() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            // It may be gone at any moment.
            let _ = serve(&mut socket, &mut random);
            served.fetch_add(1, Ordering::Relaxed);
        }
    });
    port
}

fn serve(socket: &mut TcpStream, random: &mut Random) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    socket.set_read_timeout(Some(std::time::Duration::from_millis(500)))?;
    let _ = socket.read(&mut buffer)?;
    if random.one_in(6) {
        let len = random.below(9000);
        return socket.write_all(&random_bytes(random, len));
    }
    socket.write_all(b"+OK\r\n")?;
    let _ = socket.read(&mut buffer)?;
    let chain = || vec![History { id: 5, parent: 0, cut: 0 }];
    let frame = |first, bytes: &[u8]| Frame { history: 5, first, count: 1, bytes: std::rc::Rc::from(bytes) };
    let junk = random_bytes(random, 300);
    let messages = [
        encoded(&ToReplica::from(Control::Continue { from: 1, chain: chain() })),
        encoded(&ToReplica::from(Control::Diverged { cut: u64::MAX })),
        encoded(&ToReplica::from(Control::Handover { end: 0 })),
        encoded(&ToReplica::from(Control::FullSyncEnd { run: 1, end: 7 })),
        encoded(&ToReplica::Frames { commit: u64::MAX, frames: vec![frame(1, &junk)] }),
        encoded(&ToReplica::Stream { run: 1, bytes: std::rc::Rc::from(&junk[..]) }),
    ];
    // A copy that is none, now and then: it costs the replica its data, and nothing more.
    if random.one_in(2) {
        socket.write_all(&encoded(&ToReplica::from(Control::FullSync { run: 1, start: 0, chain: chain() })))?;
        socket.write_all(&messages[5])?;
    }
    let bytes = nonsense(random, &messages);
    socket.write_all(&bytes)?;
    let _ = socket.read(&mut buffer)?;
    Ok(())
}

#[test]
fn a_replica_does_not_mind_nonsense() {
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let fake = fake_primary(Arc::clone(&stop), Arc::clone(&served), seed() + 12);
    let honest = primary(&[]);
    honest.client().call(&["SET", "honest", "1"]);
    let node = Server::keyloom(&["--cpus", "0,1", "--appendonly", "yes"]);
    let mut client = node.client();
    for n in 1..=12 {
        // REPLICAOF connects at once, while a replica that fails pauses.
        assert_eq!(client.call(&["REPLICAOF", "127.0.0.1", &fake.to_string()]), ok());
        wait_until("it was told something", || served.load(Ordering::Relaxed) >= n);
        let reply = client.call(&["GET", "a"]);
        assert!(reply == Value::Null || text(&reply).starts_with("LOADING"), "{reply:?}");
        let gone = crate::common::free_port().to_string();
        assert_eq!(client.call(&["REPLICAOF", "127.0.0.1", &gone]), ok());
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(client.call(&["REPLICAOF", "127.0.0.1", &honest.port.to_string()]), ok());
    equal_at_rest(&[&honest, &node]);
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
