//! Nodes that do not belong to the cluster, and bytes that make no sense where nodes talk to one another.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use keyloom::raft::bus::frame::{Kind, frame};
use keyloom::raft::bus::handshake::{Hello, PROTOCOL_VERSION, Step};
use keyloom::resp::read::Value;

use crate::client::{Answer, Router};
use crate::common::{Random, Server, free_port, show, wait_until};
use crate::nodes::{Cluster, HEALTHY_MAX};
use crate::rounds::{rounds, under_load};

const SECRET: [&str; 2] = ["--cluster-secret", "a secret"];
/// Directives that make a stranger.
const STRANGE: [[&str; 2]; 3] =
    [["--cluster-secret", "another secret"], ["--cluster-secret", ""], ["--cluster-name", "another-name"]];

/// What a node says when it is to join.
fn joins(cluster: &Cluster, stranger: &Server) -> Value {
    stranger.client().call(&["CLUSTER", "JOIN", "127.0.0.1", &cluster.buses[0].to_string()])
}

#[test]
fn strangers_do_not_get_in() {
    let mut cluster = Cluster::local(3, &SECRET);
    under_load("strangers", &mut cluster, "quorum", 1, |cluster, _| {
        for strange in STRANGE {
            let bus = free_port().to_string();
            // The last of a directive counts.
            let own = ["--cluster-enabled", "yes", "--cpus", "0", "--cluster-port", &bus];
            let stranger = Server::keyloom(&[&own[..], &SECRET, &strange].concat());
            let Value::Error(why) = joins(cluster, &stranger) else { panic!("{strange:?} has joined") };
            println!("{strange:?}: {}", show(&why));
            assert!(!show(&why).contains(SECRET[1]), "a secret is no news");
            assert_eq!(stranger.client().call(&["SET", "alone", "1"]), crate::common::ok());
        }
    });
    assert_eq!(cluster.status_of(0).unwrap().nodes.len(), 3);
    // One that has nothing strange but keys.
    let bus = free_port().to_string();
    let own = ["--cluster-enabled", "yes", "--cpus", "0", "--cluster-port", &bus];
    let stranger = Server::keyloom(&[&own[..], &SECRET].concat());
    stranger.client().call(&["SET", "mine", "1"]);
    assert!(matches!(joins(&cluster, &stranger), Value::Error(_)));
    assert_eq!(stranger.client().call(&["GET", "mine"]), Value::Bulk(b"1".to_vec()));
}

/// A member that comes back with what nobody accepts serves nothing, and harms nobody.
#[test]
fn a_member_that_has_become_strange() {
    let mut cluster = Cluster::local(3, &SECRET);
    under_load("a strange member", &mut cluster, "quorum", 1, |cluster, load| {
        for (node, strange) in STRANGE.iter().enumerate() {
            let key = cluster.key_led_by(node, "strange");
            cluster.kill(node);
            cluster.restart_with(node, strange);
            let mut others = cluster.addresses();
            others.remove(node);
            let written = Router::new(&others, "memory").call(&key, &["SET", &key, "1"], HEALTHY_MAX);
            assert!(matches!(written, Answer::Done(_)), "{written:?}");
            let reply = cluster.nodes[node].client().call(&["GET", &key]);
            assert!(matches!(&reply, Value::Error(why) if why.starts_with(b"CLUSTERDOWN")), "{reply:?}");
            cluster.kill(node);
            cluster.restart(node);
            cluster.wait_healthy();
            load.wait_progress(cluster);
        }
    });
}

fn hello(node: u64, stream: bool) -> Vec<u8> {
    let cluster = String::from("keyloom");
    let hello = Hello { version: PROTOCOL_VERSION, node, target: 0, stream, cluster, nonce: [7; 32] };
    Step::Hello(hello).encode().unwrap()
}

/// Sense with an error in it, or none at all.
fn nonsense(random: &mut Random) -> Vec<u8> {
    let bytes = |random: &mut Random, length: usize| (0..length).map(|_| random.next() as u8).collect::<Vec<_>>();
    let mut good = frame(Kind::Handshake, 0, &hello(1 + random.below(4) as u64, random.one_in(2))).unwrap();
    match random.below(6) {
        0 => {
            let length = 1 + random.below(5000);
            bytes(random, length)
        }
        // A length that may be, and a checksum that is wrong.
        1 => {
            good[4] ^= 1;
            good
        }
        2 => {
            let at = random.below(good.len());
            good[at] ^= 1 << random.below(8);
            good
        }
        // A length without end.
        3 => {
            good[..4].fill(0xFF);
            good
        }
        // In order, and then out of turn.
        4 => {
            let request = frame(Kind::Request, 1, &bytes(random, 100)).unwrap();
            [good, request].concat()
        }
        // A proof that proves nothing.
        _ => {
            let proof = Step::Proof([9; 32]).encode().unwrap();
            [good, frame(Kind::Handshake, 0, &proof).unwrap()].concat()
        }
    }
}

#[test]
fn nonsense_on_the_bus() {
    rounds(1, |seed, mut random| {
        let mut cluster = Cluster::local(3, &SECRET);
        under_load("nonsense", &mut cluster, "quorum", seed, |cluster, load| {
            let buses = cluster.buses.clone();
            let (stop, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
            let hostile = {
                let (stop, said) = (Arc::clone(&stop), Arc::clone(&said));
                std::thread::spawn(move || speak(&buses, &stop, &said, &mut random))
            };
            load.wait_progress(cluster);
            wait_until("much has been said", || said.load(Ordering::Relaxed) > 300);
            load.wait_progress(cluster);
            stop.store(true, Ordering::Relaxed);
            hostile.join().unwrap();
        });
    });
}

/// Says nonsense to all nodes. Some connections begin a handshake, and say nothing more, nor do they end.
fn speak(buses: &[u16], stop: &AtomicBool, said: &AtomicU64, random: &mut Random) {
    const HELD_MAX: usize = 100;
    let mut held: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, buses[random.below(buses.len())]).into();
        // It may be refused when there are many.
        let Ok(mut socket) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { continue };
        if random.one_in(2) {
            // It may be closed before all of it is written.
            let _ = socket.write_all(&nonsense(random));
        } else {
            let good = frame(Kind::Handshake, 0, &hello(1, false)).unwrap();
            let _ = socket.write_all(&good[..random.below(good.len() + 1)]);
        }
        if random.one_in(2) {
            held.push(socket);
        }
        if held.len() > HELD_MAX {
            held.swap_remove(random.below(HELD_MAX));
        }
        said.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
    }
}
