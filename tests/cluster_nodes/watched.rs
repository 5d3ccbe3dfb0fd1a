//! What members say of themselves, in INFO, on the metrics endpoint and in CLUSTER LINKS: true, the same everywhere, and
//! changed by what happens to them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyloom::resp::read::Value;

use crate::common::{ok, wait_until};
use crate::nodes::{Cluster, OWN_ADMIN_PORT};

/// How long a page may take.
const PAGE_MAX: Duration = Duration::from_secs(10);

/// The fields of some sections of INFO.
fn info(cluster: &Cluster, node: usize) -> BTreeMap<String, String> {
    let said = cluster.ask(node, &["INFO", "cluster", "replication"]);
    let Some(Value::Bulk(text) | Value::Verbatim { text, .. }) = said else { panic!("node {node} says {said:?}") };
    let text = String::from_utf8(text).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn number(cluster: &Cluster, node: usize, name: &str) -> u64 {
    let fields = info(cluster, node);
    let value = fields.get(name).unwrap_or_else(|| panic!("node {node} has no {name}: {fields:?}"));
    value.parse().unwrap_or_else(|_| panic!("{name}:{value}"))
}

fn numbers(cluster: &Cluster, nodes: &[usize], name: &str) -> Vec<u64> {
    nodes.iter().map(|&node| number(cluster, node, name)).collect()
}

fn sum(cluster: &Cluster, nodes: &[usize], name: &str) -> u64 {
    numbers(cluster, nodes, name).iter().sum()
}

/// The lines `follower0`, `follower1`, ... or `upstream0`, ..., by the node that they are about.
fn lines(fields: &BTreeMap<String, String>, what: &str) -> BTreeMap<u64, BTreeMap<String, f64>> {
    let lines = fields.iter().filter(|(name, _)| {
        name.strip_prefix(what).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    });
    let parse = |line: &String| {
        let pairs = line.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_string(), value.parse().unwrap())).collect::<BTreeMap<String, f64>>()
    };
    lines.map(|(_, line)| parse(line)).map(|line| (line["node"] as u64, line)).collect()
}

/// The samples of the metrics endpoint.
fn metrics(cluster: &Cluster, node: usize) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", cluster.admins[node])).unwrap();
    stream.set_read_timeout(Some(PAGE_MAX)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, page) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let samples = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    samples.map(|(series, value)| (series.to_string(), value.parse().unwrap())).collect()
}

/// All nodes name one leader of raft, and that one says that it is.
fn agree(cluster: &Cluster, nodes: &[usize]) -> bool {
    let leaders = numbers(cluster, nodes, "cluster_raft_leader");
    let terms = numbers(cluster, nodes, "cluster_raft_term");
    let leads = |&&node: &&usize| info(cluster, node)["cluster_raft_role"] == "leader";
    let said: Vec<u64> = nodes.iter().filter(leads).map(|&node| number(cluster, node, "cluster_node")).collect();
    leaders[0] != 0 && said == [leaders[0]] && [leaders, terms].iter().all(|all| all.iter().all(|one| *one == all[0]))
}

/// What only grows is on the page between what it is in INFO before and after.
fn assert_page_grows(cluster: &Cluster, node: usize) {
    let (before, page, after) = (info(cluster, node), metrics(cluster, node), info(cluster, node));
    let mut counters = 0;
    for (series, value) in page.iter().filter(|(series, _)| series.starts_with("keyloom_cluster_")) {
        let Some(name) = series.strip_prefix("keyloom_").and_then(|name| name.strip_suffix("_total")) else { continue };
        let [least, most] = [&before, &after].map(|fields| fields[name].parse::<f64>().unwrap());
        assert!((least..=most).contains(value), "{series} {value}, and {least} to {most} in INFO");
        counters += 1;
    }
    assert!(counters > 10, "{page:?}");
}

/// What rests is on the page as it is in INFO.
fn page_is_as_info(cluster: &Cluster, node: usize) -> bool {
    let (fields, page) = (info(cluster, node), metrics(cluster, node));
    let names = ["node", "raft_leader", "raft_term", "partitions", "partitions_led", "partitions_in_sync"];
    let same = |name: &&str| page[&format!("keyloom_cluster_{name}")].to_string() == fields[&format!("cluster_{name}")];
    let streams = ["follower", "upstream"].iter().all(|what| {
        let series = |node: &u64| format!("keyloom_{what}_following_partitions{{node=\"{node}\"}}");
        let said = lines(&fields, what);
        let shown = page.keys().filter(|name| name.starts_with(&format!("keyloom_{what}_following_partitions{{")));
        shown.count() == said.len()
            && said.iter().all(|(node, line)| page.get(&series(node)) == Some(&line["following"]))
    });
    names.iter().all(same) && streams && page["keyloom_cluster_lease_left_seconds"] > 0.0
}

fn assert_page_is_true(cluster: &Cluster, node: usize) {
    assert_page_grows(cluster, node);
    wait_until("the page says what INFO says", || page_is_as_info(cluster, node));
}

/// CLUSTER STATUS: the lag of whoever follows the node that says it, and what the leader of raft does.
fn assert_status_is_true(cluster: &Cluster, node: usize) {
    let Some(Value::Bulk(text)) = cluster.ask(node, &["CLUSTER", "STATUS"]) else { panic!("no status") };
    let status: serde_json::Value = serde_json::from_slice(&text).unwrap();
    for other in status["nodes"].as_array().unwrap() {
        let follows = other["node"] != status["me"];
        assert_eq!((other["lag_ms"].is_u64(), other["lag_bytes"].is_u64()), (follows, follows), "{status}");
    }
    assert_eq!(status["governor"].is_object(), status["raft_leader"] == status["me"], "{status}");
    assert_eq!(status["handing_over"], 0, "{status}");
}

/// What monitors of Redis look at names all other nodes, by their addresses for clients.
fn replicas_are_named(cluster: &Cluster, node: usize) -> bool {
    let fields = info(cluster, node);
    let others: Vec<String> = (0..cluster.nodes.len())
        .filter(|other| *other != node)
        .map(|other| format!("ip=127.0.0.1,port={},state=online,", cluster.nodes[other].port))
        .collect();
    let named = |line: &String| others.iter().any(|other| line.starts_with(other)) && line.contains(",in_sync=1,");
    let lines = ["slave0", "slave1"].map(|name| fields.get(name));
    let [replicas, in_sync] = ["connected_slaves", "repl_replicas_in_sync"].map(|name| fields[name].as_str());
    let Some(Value::Array(role)) = cluster.ask(node, &["ROLE"]) else { panic!("ROLE is answered by an array") };
    let Value::Array(online) = &role[2] else { panic!("{role:?}") };
    (replicas, in_sync, online.len()) == ("2", "2", 2)
        && lines[0] != lines[1]
        && lines.iter().all(|line| line.is_some_and(named))
}

/// Connections of requests and of data, to each other node and from it, with the fields of Redis.
fn links_are_there(cluster: &Cluster, node: usize) -> bool {
    let text = |value: Option<Value>| match value {
        Some(Value::Bulk(text)) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?} is no text"),
    };
    let ids: Vec<String> = (0..cluster.nodes.len()).map(|n| text(cluster.ask(n, &["CLUSTER", "MYID"]))).collect();
    let Some(Value::Array(links)) = cluster.ask(node, &["CLUSTER", "LINKS"]) else { panic!("an array") };
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let mut found = BTreeMap::new();
    for link in links {
        let Value::Array(fields) = link else { panic!("{link:?} is no link") };
        let [_, direction, _, id, _, Value::Int(since_ms), _, events, _, Value::Int(allocated), _, Value::Int(used)] =
            &fields[..]
        else {
            panic!("{fields:?}")
        };
        assert!((now_ms - 600_000..=now_ms).contains(since_ms) && *allocated >= 0 && *used >= 0, "{fields:?}");
        assert!(["r", "rw"].contains(&&*text(Some(events.clone()))));
        let id = text(Some(id.clone()));
        let other = ids.iter().position(|known| *known == id).expect("it is of a node");
        assert_ne!(other, node);
        *found.entry((text(Some(direction.clone())), other)).or_insert(0) += 1;
    }
    let others = (0..cluster.nodes.len()).filter(|other| *other != node);
    // Data goes both ways.
    others
        .flat_map(|other| [("to", other), ("from", other)])
        .all(|(way, other)| found.contains_key(&(way.into(), other)))
}

#[test]
fn members_say_what_they_do_and_what_has_happened_to_them() {
    let mut cluster = Cluster::local(3, &["--cluster-copies", "3", "--admin-port", OWN_ADMIN_PORT]);
    let all = [0, 1, 2];
    let partitions = cluster.status_of(0).unwrap().partitions;
    wait_until("all nodes agree who leads raft", || agree(&cluster, &all));
    wait_until("all have a lease", || numbers(&cluster, &all, "cluster_lease_left_ms").iter().all(|&ms| ms > 0));
    assert_eq!(sum(&cluster, &all, "cluster_partitions_led"), partitions);
    assert_eq!(sum(&cluster, &all, "cluster_partitions_in_sync"), 3 * partitions);
    assert_eq!(numbers(&cluster, &all, "cluster_partitions"), [partitions; 3]);
    assert!(sum(&cluster, &all, "cluster_raft_elections_won") > 0);
    assert!(sum(&cluster, &all, "cluster_leases_granted") > 0);
    for name in ["cluster_messages_sent", "cluster_messages_received"] {
        assert!(numbers(&cluster, &all, name).iter().all(|&count| count > 0), "{name}");
    }

    // Whoever follows shows, and that it has what was written.
    for node in all {
        let ends =
            || -> Vec<f64> { lines(&info(&cluster, node), "follower").values().map(|f| f["received"]).collect() };
        let before = ends();
        let key = cluster.key_led_by(node, "watched");
        assert_eq!(cluster.nodes[node].client().call(&["SET", &key, "value"]), ok());
        wait_until("followers have it", || {
            let fields = info(&cluster, node);
            let (followers, led) =
                (lines(&fields, "follower"), fields["cluster_partitions_led"].parse::<f64>().unwrap());
            let has = |follower: &BTreeMap<String, f64>| {
                follower["following"] == led && follower["lag_bytes"] == 0.0 && follower["lag_ms"] == 0.0
            };
            let further = ends().iter().zip(&before).all(|(now, then)| now > then);
            followers.len() == 2 && followers.values().all(has) && further && replicas_are_named(&cluster, node)
        });
        let upstreams = lines(&info(&cluster, node), "upstream");
        assert!(upstreams.len() == 2 && upstreams.values().all(|leader| leader["connected"] == 1.0), "{upstreams:?}");
        assert_page_is_true(&cluster, node);
        assert_status_is_true(&cluster, node);
        wait_until("all links are there", || links_are_there(&cluster, node));
    }
    roles_move(&cluster, partitions);
    a_node_is_lost_and_comes_back(&mut cluster, partitions);
    a_node_stands_still(&cluster);
}

/// An operator wants node 0 to lead everything: both sides count that.
fn roles_move(cluster: &Cluster, partitions: u64) {
    let all = [0, 1, 2];
    let names = ["handovers_begun", "handovers_completed", "handovers_given_up", "handovers_received", "promotions"];
    let [begun, completed, given_up, received, promotions] = names.map(|name| format!("cluster_{name}"));
    let gave = numbers(cluster, &all, &completed);
    let (had, promoted) = (number(cluster, 0, &received), sum(cluster, &all, &promotions));
    let led = number(cluster, 0, "cluster_partitions_led");
    crate::handovers::take_over(cluster, 0);
    // Some of them may have gone to and fro meanwhile.
    wait_until("both sides have counted the roles", || {
        number(cluster, 0, &received) >= had + partitions - led
            && sum(cluster, &all, &received) == sum(cluster, &all, &completed)
            && sum(cluster, &all, "cluster_handovers_in_progress") == 0
    });
    let gives: Vec<u64> = numbers(cluster, &all, &completed).iter().zip(&gave).map(|(now, then)| now - then).collect();
    assert!(gives[1] > 0 && gives[2] > 0, "{gives:?}");
    for node in all {
        let over = number(cluster, node, &completed) + number(cluster, node, &given_up);
        assert_eq!(number(cluster, node, &begun), over, "node {node}");
        assert_page_is_true(cluster, node);
    }
    // A node that is held up for too long may lose what it leads.
    let promoted = sum(cluster, &all, &promotions) - promoted;
    assert!(promoted < partitions - led, "what is handed over counts as no promotion: {promoted}");
}

/// Node 0, which leads everything, is killed: others are promoted. It comes back without data, and gets copies.
fn a_node_is_lost_and_comes_back(cluster: &mut Cluster, partitions: u64) {
    let others = [1, 2];
    let promoted = sum(cluster, &others, "cluster_promotions");
    let led = number(cluster, 0, "cluster_partitions_led");
    let sent = sum(cluster, &others, "cluster_copies_sent");
    cluster.kill(0);
    wait_until("others are promoted", || {
        sum(cluster, &others, "cluster_promotions") >= promoted + led
            && sum(cluster, &others, "cluster_partitions_led") == partitions
    });
    wait_until("all have a primary", || sum(cluster, &others, "cluster_partitions_without_primary") == 0);
    wait_until("both agree who leads raft", || agree(cluster, &others));
    // Whoever leads raft says whom it misses.
    let leader = others.into_iter().find(|&node| info(cluster, node)["cluster_raft_role"] == "leader").unwrap();
    let dead = |node: usize| {
        let fields = info(cluster, node);
        fields.iter().filter(|(name, value)| name.starts_with("cluster_node") && value.starts_with("alive=0")).count()
    };
    wait_until("one of three is dead", || dead(leader) == 1);
    cluster.restart(0);
    cluster.wait_healthy();
    wait_until("copies are counted on both sides", || {
        number(cluster, 0, "cluster_copies_received") > 0
            && number(cluster, 0, "cluster_copies_received_bytes") > 0
            && sum(cluster, &others, "cluster_copies_sent") > sent
    });
    assert!(sum(cluster, &others, "cluster_in_sync_changes_accepted") > 0);
    assert_page_is_true(cluster, 0);
}

/// It fences itself when it goes on, and says so.
fn a_node_stands_still(cluster: &Cluster) {
    let lapsed = number(cluster, 1, "cluster_leases_lapsed");
    cluster.stop(1);
    wait_until("others lead everything", || cluster.slots_of(0).is_some_and(|slots| !slots.contains(&Some(1))));
    cluster.go_on(1);
    wait_until("it says so", || number(cluster, 1, "cluster_leases_lapsed") > lapsed);
    cluster.wait_healthy();
}
