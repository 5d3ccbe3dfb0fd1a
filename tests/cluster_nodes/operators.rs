//! What an operator sees of a cluster: `keyloom cluster status` and `watch`, and the page of the admin endpoint in a real
//! browser, if there is one (`chromium` or `google-chrome`; `scripts/install-peers.sh` installs it on Debian).

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyloom::resp::read::Value;

use crate::common::{Server, free_port, ok, wait_until};
use crate::nodes::{Cluster, OWN_ADMIN_PORT};

/// Longest run of a browser.
const BROWSER_MAX: Duration = Duration::from_secs(90);
/// How long the page lives, ms, by a clock that stands still while a request is under way.
const PAGE_LIVES_MS: u32 = 12_000;

fn keyloom(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyloom"));
    command.args(args).stdin(Stdio::null());
    command
}

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A path of its own at each call.
fn scratch(name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{count}", std::process::id()))
}

#[test]
fn status_shows_nodes_roles_and_epochs() {
    let cluster = Cluster::local(3, &[]);
    let address = cluster.addresses()[1].to_string();
    let output = keyloom(&["cluster", "status", &address, "--partitions"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (nodes, roles) = text.split_once("\n\n").unwrap_or_else(|| panic!("no two tables: {text}"));
    assert!(nodes.starts_with("1024 partitions, 1024 served, 0 with fewer than 3 copies in sync; node "), "{text}");
    assert!(cluster.addresses().iter().all(|address| nodes.contains(&address.to_string())), "{text}");
    let column = |line: &str, at: usize| line.split_whitespace().nth(at).and_then(|word| word.parse::<u64>().ok());
    let led: u64 = nodes.lines().skip(2).filter_map(|line| column(line, 3)).sum();
    let told: u64 = roles.lines().skip(1).filter_map(|line| column(line, 4)).sum();
    assert_eq!((led, told), (1024, 1024), "{text}");
}

/// Whoever types the commands of the README at once makes a cluster of nodes that do not listen yet.
#[test]
fn a_cluster_is_made_of_nodes_that_are_just_starting() {
    let port = free_port().to_string();
    let address = format!("127.0.0.1:{port}");
    let create =
        keyloom(&["cluster", "create", &address]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (bus, dir) = (free_port().to_string(), scratch("late"));
    std::fs::create_dir_all(&dir).unwrap();
    let mut command = keyloom(&["--port", &port, "--cluster-port", &bus, "--cluster-enabled", "yes", "--cpus", "0"]);
    let late = Process(command.args(["--dir", dir.to_str().unwrap()]).stdout(Stdio::null()).spawn().unwrap());
    let output = create.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a cluster of 1 node\n", "{output:?}");
    drop(late);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Nothing is begun that would have to be undone.
#[test]
fn a_node_that_is_named_twice_founds_nothing() {
    let cluster = Cluster::not_yet(2, &[]);
    let [first, second] = &cluster.addresses()[..] else { panic!("two nodes") };
    let again = format!("localhost:{}", first.port());
    let said = cluster.tries_to_operate(&["create", &first.to_string(), &second.to_string(), &again]).unwrap_err();
    assert_eq!(said, format!("keyloom: nodes {first} and {again} are the same one\n"));
    cluster.operate(&["create", &first.to_string(), &second.to_string()]);
    cluster.wait_healthy();
}

#[test]
fn what_is_missing_is_named() {
    let said = |args: &[&str]| String::from_utf8(keyloom(args).output().unwrap().stderr).unwrap();
    let missing = "keyloom: the following required arguments were not provided:";
    let backup = format!("{missing} --to <DIR>; see keyloom cluster backup --help\n");
    assert_eq!(said(&["cluster", "backup", "127.0.0.1:1"]), backup);
    let promote = format!("{missing} --lost <NUMBER> <HOST:PORT>; see keyloom cluster force-promote --help\n");
    assert_eq!(said(&["cluster", "force-promote"]), promote);
    let import = format!("{missing} <FILE>; see keyloom import --help\n");
    assert_eq!(said(&["import"]), import);
}

/// Other nodes reach a node at each address at which clients do: here they are told another one than the first.
#[test]
fn nodes_reach_each_other_at_all_their_addresses() {
    let ports = [free_port().to_string(), free_port().to_string()];
    let nodes = ports.each_ref().map(|port| {
        let (bus, dir) = (free_port().to_string(), scratch("addresses"));
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = keyloom(&["--port", port, "--bind", "127.0.0.1", "127.0.0.2", "-::1"]);
        command.args(["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-announce-ip", "127.0.0.2"]);
        command.args(["--cpus", "0", "--dir", dir.to_str().unwrap()]).stdout(Stdio::null());
        (Process(command.spawn().unwrap()), dir)
    });
    let [first, second] = ports.each_ref().map(|port| format!("127.0.0.1:{port}"));
    let output = keyloom(&["cluster", "create", &first, &second]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a cluster of 2 nodes\n", "{output:?}");
    for (process, dir) in nodes {
        drop(process);
        std::fs::remove_dir_all(dir).unwrap();
    }
}

/// One of the nodes cannot join: what was begun is gone on with when another one is named in its place.
#[test]
fn a_cluster_that_was_begun_is_made_by_the_same_command_again() {
    let mut cluster = Cluster::not_yet(2, &["--cluster-secret", "one", "--cluster-copies", "3"]);
    cluster.run_one_more(&["--cluster-secret", "another"]);
    let create = |named: &[SocketAddr]| {
        let named: Vec<String> = named.iter().map(SocketAddr::to_string).collect();
        let args: Vec<&str> = ["cluster", "create"].into_iter().chain(named.iter().map(String::as_str)).collect();
        let output = keyloom(&args).output().unwrap();
        let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), said(output.stdout), said(output.stderr))
    };
    let (code, out, error) = create(&cluster.addresses());
    let last = cluster.addresses()[2].to_string();
    assert!((code, &out[..]) == (Some(1), "") && error.contains(&last), "{code:?} {out} {error}");
    drop(cluster.forget(2));
    // The second one has joined: to leave it out is not what was begun.
    let (code, _, error) = create(&cluster.addresses()[..1]);
    assert!(code == Some(1) && error.contains("nodes that are not named"), "{error}");
    cluster.run_one_more(&[]);
    let (code, out, error) = create(&cluster.addresses());
    assert_eq!((code, &out[..]), (Some(0), "a cluster of 3 nodes\n"), "{error}");
    cluster.wait_healthy();
    // One that serves is not made again.
    let (code, _, error) = create(&cluster.addresses());
    assert!(code == Some(1) && error.contains("a member of a cluster already"), "{error}");
}

/// The node that is watched is killed: the watch goes on with another one, and says what has happened.
#[test]
fn a_watch_survives_the_node_that_it_asks() {
    let mut cluster = Cluster::local(3, &[]);
    let (path, addresses) = (scratch("watch"), cluster.addresses());
    let watched = addresses[0].to_string();
    let status: serde_json::Value =
        serde_json::from_slice(&keyloom(&["cluster", "status", &watched, "--json"]).output().unwrap().stdout).unwrap();
    let me = status["me"].as_u64().unwrap();
    let mut command = keyloom(&["cluster", "watch", &watched, "--interval", "0.1"]);
    let _watch = Process(command.stdout(File::create(&path).unwrap()).spawn().unwrap());
    let said = || std::fs::read_to_string(&path).unwrap();
    wait_until("it has shown two tables", || said().matches(&format!("as {watched} sees it")).count() >= 2);
    cluster.kill(0);
    let others = [1, 2].map(|node| format!("as {} sees it", addresses[node]));
    wait_until("another node tells what has become of it", || {
        let said = said();
        others.iter().any(|other| said.contains(other))
            && said.contains(&format!("\n  node {me} is dead\n"))
            && said.contains(&format!(" moved from node {me} to node "))
    });
    cluster.restart(0);
    wait_until("it is back", || said().contains(&format!("\n  node {me} has started again\n")));
    cluster.wait_healthy();
    std::fs::remove_file(&path).unwrap();
}

/// The first browser that there is, and that says its version.
fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let works = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|said| said.status.success());
    let found = names.into_iter().find(works);
    if found.is_none() {
        println!("skipped: no browser ({}) is there: scripts/install-peers.sh installs one", names.join(", "));
    }
    found
}

/// Runs a browser without a window on the page at this port, to its end; what it wrote to stdout.
fn browse(browser: &str, admin: u16, args: &[&str]) -> String {
    let (profile, stdout) = (scratch("browser"), scratch("browser-stdout"));
    let child = Command::new(browser)
        .args(["--headless", "--disable-gpu", "--hide-scrollbars", "--window-size=1240,1200"])
        // Root has no sandbox; nothing is loaded but our own page.
        .args(["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--virtual-time-budget={PAGE_LIVES_MS}"))
        .args(args)
        .arg(format!("http://127.0.0.1:{admin}/cluster"))
        .stdin(Stdio::null())
        .stdout(File::create(&stdout).unwrap())
        .stderr(Stdio::null())
        .spawn();
    let mut child = Process(child.unwrap());
    let end = Instant::now() + BROWSER_MAX;
    while child.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "the browser does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = std::fs::read_to_string(&stdout).unwrap();
    let _ = std::fs::remove_dir_all(&profile);
    let _ = std::fs::remove_file(&stdout);
    said
}

/// What somebody reads on a page: its text without elements that are hidden, each run of blanks one.
fn visible(page: &str) -> String {
    let mut rest = page.to_string();
    for element in ["script", "style", "noscript", "title"] {
        while let Some((from, to)) = span(&rest, &format!("<{element}"), &format!("</{element}>")) {
            rest.replace_range(from..to, "");
        }
    }
    let hidden = |tag: &str| tag.contains(" hidden=\"\"");
    let (mut text, mut skipped) = (String::new(), None);
    for piece in rest.split('<').skip(1) {
        let (tag, words) = piece.split_once('>').unwrap_or((piece, ""));
        let name = tag.split_whitespace().next().unwrap_or_default();
        // An element that is hidden holds others of its kind, so depth counts.
        skipped = match skipped {
            None if hidden(tag) => Some((name.to_string(), 1)),
            Some((kind, depth)) if name == kind => Some((kind, depth + 1)),
            Some((kind, depth)) if name.strip_prefix('/') == Some(&kind) => {
                Some((kind, depth - 1)).filter(|_| depth > 1)
            }
            other => other,
        };
        if skipped.is_none() {
            text.push(' ');
            text.push_str(words);
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn span(text: &str, begin: &str, end: &str) -> Option<(usize, usize)> {
    let from = text.find(begin)?;
    Some((from, from + text[from..].find(end)? + end.len()))
}

/// The page as it is read after some seconds.
fn read_page(browser: &str, admin: u16) -> String {
    visible(&browse(browser, admin, &["--dump-dom"]))
}

#[test]
fn a_browser_shows_the_cluster() {
    let Some(browser) = browser() else { return };
    let cluster = Cluster::local(3, &["--admin-port", OWN_ADMIN_PORT, "--cluster-rack", "cellar <2>"]);
    let status = cluster.status_of(0).unwrap();
    let key = cluster.key_led_by(0, "shown");
    assert_eq!(cluster.nodes[0].client().call(&["SET", &key, "value"]), ok());
    let port = cluster.addresses()[0].port().to_string();
    let mut load = keyloom(&["bench", "--cluster", "-p", &port, "--rate", "500", "--test-time", "600"]);
    let load = Process(load.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_until("the load has begun", || cluster.nodes[0].client().call(&["DBSIZE"]) != Value::Int(1));
    // To the page seconds pass at once, so on a busy machine it may live between two commands.
    let mut page = String::new();
    wait_until("a page has seen commands of the load", || {
        page = read_page(browser, cluster.admins[0]);
        page.contains(" µs 99 % (curve): ") && page.contains("% of the commands")
    });
    for address in cluster.addresses() {
        assert!(page.contains(&format!("{address} · rack cellar &lt;2&gt;")), "no {address}: {page}");
    }
    let shown = [
        "all 1,024 partitions are served".to_string(),
        " leads raft, in term ".into(),
        "3 nodes 1,024 3,072 3,072".into(),
        ": 1,024 partitions in all".into(),
        "3 / 3 nodes alive".into(),
        "128 of node 1, 128 of node 2, 128 of node 3".into(),
        " live ".into(),
        "time of a command, median".into(),
    ];
    for words in shown {
        assert!(page.contains(&words), "no '{words}': {page}");
    }
    // Each node's row: what it leads, and its copies.
    for [leads, holds, in_sync] in status.nodes.values() {
        let row = format!(" {leads} {},{:03} {},{:03} ", holds / 1000, holds % 1000, in_sync / 1000, in_sync % 1000);
        assert!(page.contains(&row), "no '{row}': {page}");
    }
    assert!(!page.contains("No cluster to show") && !page.contains("no answer"), "{page}");
    let screenshot = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("cluster-page.png");
    browse(browser, cluster.admins[0], &[&format!("--screenshot={}", screenshot.display())]);
    let png = std::fs::read(&screenshot).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 20_000, "{} bytes", png.len());
    println!("a picture of the page is {}", screenshot.display());
    drop(load);
}

#[test]
fn a_browser_says_that_a_node_is_in_no_cluster() {
    let Some(browser) = browser() else { return };
    let admin = free_port();
    let _node = Server::keyloom(&["--admin-port", &admin.to_string(), "--cpus", "0"]);
    let page = read_page(browser, admin);
    for words in ["No cluster to show", "this node is in no cluster of several nodes", "This node: 1 core", "live"] {
        assert!(page.contains(words), "no '{words}': {page}");
    }
    assert!(!page.contains("Partitions by owner"), "{page}");
}

/// Passes so many requests on to a port, and then none any more, as if the node had ended. The port at which it listens.
fn passes(requests: usize, to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let passed = Arc::new(AtomicUsize::new(0));
    // It waits for others until the process ends.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let passed = Arc::clone(&passed);
            std::thread::spawn(move || pass(stream, to, || passed.fetch_add(1, Ordering::Relaxed) < requests));
        }
    });
    port
}

/// Passes one request on, if it may. A browser also makes connections on which nothing comes.
fn pass(mut stream: TcpStream, to: u16, may: impl Fn() -> bool) -> Option<()> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    if may() {
        let mut node = TcpStream::connect(("127.0.0.1", to)).ok()?;
        node.write_all(&head).ok()?;
        let mut answer = Vec::new();
        node.read_to_end(&mut answer).ok()?;
        stream.write_all(&answer).ok()?;
    }
    Some(())
}

#[test]
fn a_browser_says_that_the_node_is_gone() {
    let Some(browser) = browser() else { return };
    let cluster = Cluster::local(3, &["--admin-port", OWN_ADMIN_PORT]);
    // The page, the ring and some looks.
    let page = read_page(browser, passes(5, cluster.admins[1]));
    for words in ["no answer for ", "trying again", "the node that this page asks does not answer", "3 / 3 nodes alive"]
    {
        assert!(page.contains(words), "no '{words}': {page}");
    }
}
