//! Backups of a node that is a cluster by itself: what it keeps, what it refuses, and files that are damaged.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use keyloom::resp::read::Value;

use super::{Scratch, key, manifest, refused, run};
use crate::common::{Server, free_port, ok, wait_until};

/// A node that is a cluster by itself.
struct Single {
    node: Server,
    address: String,
    bus: u16,
    args: Vec<String>,
}

impl Single {
    fn start(prefix: &[&str]) -> Single {
        let bus = free_port();
        let port = bus.to_string();
        let args = ["--cluster-enabled", "yes", "--cluster-port", &port, "--save", "", "--cpus", "0"];
        let prefix = prefix.iter().map(|word| word.to_string()).collect();
        let node = Server::keyloom_at(Ipv4Addr::LOCALHOST, prefix, &args);
        let address = node.addr().to_string();
        assert_eq!(run(&["create", &address]), "a cluster of 1 node\n");
        Single { node, address, bus, args: args.map(String::from).to_vec() }
    }

    fn backup(&self, words: &str) -> Value {
        let command: Vec<&str> = ["CLUSTER", "BACKUP"].into_iter().chain(words.split(' ')).collect();
        self.node.client().call(&command)
    }

    #[track_caller]
    fn fails(&self, words: &str, why: &str) {
        let Value::Error(said) = self.backup(words) else { panic!("{words} does not fail") };
        assert_eq!(String::from_utf8(said).unwrap(), format!("ERR {why}"), "{words}");
    }

    fn state(&self, name: &str) -> serde_json::Value {
        let Value::Bulk(text) = self.backup(&format!("STATUS {name}")) else { panic!("no state") };
        serde_json::from_slice(&text).unwrap()
    }

    fn wait(&self, name: &str) -> serde_json::Value {
        wait_until("a backup ends", || self.state(name)["state"] != "running");
        self.state(name)
    }
}

#[test]
fn a_node_keeps_one_backup_and_lets_it_be_read() {
    let mut single = Single::start(&[]);
    let mut client = single.node.client();
    for n in 0..40 {
        assert_eq!(client.call(&["SET", &key(n), &"v".repeat(100_000)]), ok());
    }
    assert_eq!(client.call(&["SELECT", "0"]), ok());
    let wrong = "a backup has a name of up to 64 letters, digits, '_' and '-'";
    for name in ["..", "../a", "/tmp/a", "a/b", "a.b", &"a".repeat(65)] {
        single.fails(&format!("START {name}"), wrong);
        single.fails(&format!("READ {name} 0 10"), wrong);
        single.fails(&format!("DROP {name}"), wrong);
    }
    for words in ["STATUS one", "READ one 0 10", "DROP one"] {
        single.fails(words, "there is no backup 'one'");
    }
    for words in ["START one 0 1", "READ one 0", "STOP one", "STATUS one 1"] {
        single.fails(words, "syntax error");
    }
    single.fails("START one 1024", "partitions below 1024 are wanted, as in 0-3,7");
    single.fails("READ one -1 10", "value is not an integer or out of range");
    assert_eq!(single.backup("START one"), ok());
    let state = single.wait("one");
    assert_eq!((&state["state"], &state["partitions"][0]["partitions"]), (&"done".into(), &"0-1023".into()));
    single.fails("START two", "the backup 'one' is still being read; drop it first");
    let (bytes, mut read) = (state["bytes"].as_u64().unwrap() as usize, Vec::new());
    assert!(bytes > 4_000_000);
    while read.len() < bytes {
        let Value::Bulk(piece) = single.backup(&format!("READ one {} 10000000", read.len())) else { panic!() };
        assert!(piece.len() == 1 << 20 || read.len() + piece.len() == bytes, "{} bytes", piece.len());
        read.extend(piece);
    }
    let file = single.node.dir().join("cluster/backup/one").join(state["file"].as_str().unwrap());
    assert!(fs::read(&file).unwrap() == read);
    assert_eq!(single.backup(&format!("READ one {bytes} 10")), Value::Bulk(Vec::new()));
    assert_eq!(single.backup("DROP one"), ok());
    assert!(!file.parent().unwrap().exists());
    single.fails("DROP one", "there is no backup 'one'");
    // Of some partitions only, and in place of one of the same name.
    for partitions in ["0-3,7", "9"] {
        assert_eq!(single.backup(&format!("START two {partitions}")), ok());
        assert_eq!(single.wait("two")["partitions"][0]["partitions"], partitions);
    }
    // A process that has ended has left it, and one that was not complete.
    let backups = single.node.dir().join("cluster/backup");
    fs::create_dir(backups.join("half")).unwrap();
    fs::write(backups.join("half/snapshot-00000000000000000009.kl.tmp"), "half").unwrap();
    single.node.kill();
    assert_eq!(fs::read_dir(&backups).unwrap().count(), 2);
    // The kernel gives it up a little after the process.
    wait_until("the port of the bus is free", || TcpListener::bind((Ipv4Addr::LOCALHOST, single.bus)).is_ok());
    single.node.restart(&single.args.iter().map(String::as_str).collect::<Vec<_>>());
    wait_until("nothing of it is left", || fs::read_dir(&backups).unwrap().count() == 0);
    single.fails("STATUS two", "there is no backup 'two'");
}

/// A file that cannot grow stands for a disk that is full.
#[test]
fn a_backup_that_cannot_be_written_leaves_nothing() {
    let single = Single::start(&["sh", "-c", "trap '' XFSZ; ulimit -f 4000; exec \"$@\"", "sh"]);
    let mut client = single.node.client();
    for n in 0..60 {
        assert_eq!(client.call(&["SET", &key(n), &"v".repeat(100_000)]), ok());
    }
    assert_eq!(single.backup("START one"), ok());
    let state = single.wait("one");
    let error = state["error"].as_str().unwrap_or_else(|| panic!("{state}"));
    assert!(error.starts_with("cannot write '") && error.contains("File too large"), "{error}");
    assert_eq!(fs::read_dir(single.node.dir().join("cluster/backup")).unwrap().count(), 0);
    let scratch = Scratch::new();
    let to = scratch.path("none");
    let said = refused(&["backup", &single.address, "--to", &to]);
    assert!(said.contains("were given by nobody") && said.contains("File too large"), "{said}");
    assert!(!Path::new(&to).exists());
    // A smaller one fits.
    for n in 10..60 {
        assert_eq!(client.call(&["DEL", &key(n)]), Value::Int(1));
    }
    assert_eq!(single.backup("START two"), ok());
    assert_eq!(single.wait("two")["state"], "done");
}

#[test]
fn what_is_wrong_is_refused_before_anything_is_written() {
    let scratch = Scratch::new();
    let single = Single::start(&[]);
    let mut client = single.node.client();
    for n in 0..100 {
        assert_eq!(client.call(&["RPUSH", &key(n), "a", &n.to_string()]), Value::Int(2));
    }
    // It expires while others are compared, or so soon after that that it is not.
    assert_eq!(client.call(&["SET", "soon", "x", "EX", "50"]), ok());
    let to = scratch.path("one");
    run(&["backup", &single.address, "--to", &to]);
    assert!(run(&["verify", &to]).contains(", 1024 partitions, 101 keys\n"));
    let before = fs::read(manifest(&to)).unwrap();
    assert!(refused(&["backup", &single.address, "--to", &to]).contains("is not an empty directory"));
    assert_eq!(fs::read(manifest(&to)).unwrap(), before);
    let said = refused(&["restore", &to, &single.address]);
    assert!(said.ends_with(" has 101 keys: a backup is restored into a cluster without any\n"), "{said}");
    let nobody = format!("127.0.0.1:{}", free_port());
    assert!(refused(&["backup", &nobody, "--to", &scratch.path("none")]).contains("no node of the cluster answers"));
    assert!(!Path::new(&scratch.path("none")).exists());
    // From here on the target would take it.
    let target = Server::keyloom(&["--cluster-enabled", "yes", "--cpus", "0", "--save", "", "--partitions", "64"]);
    let address = target.addr().to_string();
    let json: serde_json::Value = serde_json::from_slice(&before).unwrap();
    let file = &json["files"][0];
    let path = Path::new(&to).join(file["dir"].as_str().unwrap()).join(file["name"].as_str().unwrap());
    let whole = fs::read(&path).unwrap();
    let fails = |why: &str| {
        for said in [refused(&["verify", &to]), refused(&["restore", &to, &address])] {
            assert!(said.contains(why), "{said}");
        }
        assert_eq!(target.client().call(&["DBSIZE"]), Value::Int(0));
    };
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, damaged).unwrap();
        refused(&["verify", &to]);
    }
    fails("at byte ");
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    fails(" bytes, and should have ");
    fs::remove_file(&path).unwrap();
    fails(" is missing");
    fs::write(&path, &whole).unwrap();
    let change = |from: &str, to: &str| {
        let text = String::from_utf8(before.clone()).unwrap();
        assert!(text.contains(from), "{text}");
        text.replacen(from, to, 1)
    };
    for (from, to, why) in [
        ("\"version\": 1", "\"version\": 2", "is of version 2; this program knows versions up to 1"),
        ("\"keys\": 1", "\"keys\": 2", "is not what the manifest says"),
        ("\"partition\": 5\n", "\"partition\": 6\n", "makes no sense"),
        ("{", "", "it is no JSON"),
    ] {
        fs::write(manifest(&to_of(&path)), change(from, to)).unwrap();
        fails(why);
    }
    fs::remove_file(manifest(&to)).unwrap();
    fails("has no manifest.json");
    fs::write(manifest(&to), &before).unwrap();
    // Another number of partitions: what all of them have is compared.
    let said = run(&["restore", &to, &address]);
    assert!(said.starts_with("OK: 101 keys sent; the digest of all is that of the backup, over 100 keys"), "{said}");
    assert_eq!(target.client().call(&["LRANGE", &key(7), "0", "-1"]), client.call(&["LRANGE", &key(7), "0", "-1"]));
}

/// The backup that a file is in.
fn to_of(file: &Path) -> String {
    file.parent().and_then(Path::parent).unwrap().to_str().unwrap().into()
}
