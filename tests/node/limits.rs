//! One core behind its sockets: broken input, limits, large values, slow readers, and the ways in which a connection
//! ends. Each test starts the program; what two cores do to each other is in `mesh_node.rs`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::common::{Client, Random, Server, bulk, ok, pong, seed, show, wait_until};
use keyloom::resp::read::{Value, encode_command};

const MIB: usize = 1024 * 1024;

fn one_core(args: &[&str]) -> Server {
    Server::keyloom(&[&["--cpus", "0"], args].concat())
}

fn error(text: &str) -> Value {
    Value::Error(text.as_bytes().to_vec())
}

fn pipeline(commands: &[&[&str]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    commands.iter().for_each(|command| encode_command(command, &mut bytes));
    bytes
}

/// A field of INFO.
fn info(client: &mut Client, field: &str) -> String {
    let text = match client.call(&["INFO", "everything"]) {
        Value::Bulk(text) | Value::Verbatim { text, .. } => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    };
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).to_string()
}

/// Resident memory of a server.
fn resident_bytes(server: &Server) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Makes the server hold no other client than this one.
fn wait_until_alone(client: &mut Client) {
    wait_until("the other clients are gone", || info(client, "connected_clients") == "1");
}

/// Closes a connection with a reset instead of an orderly end.
fn reset(mut client: Client) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option value outlives the call and has the length given; the socket is open.
    let result = unsafe {
        libc::setsockopt(
            client.stream().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as u32,
        )
    };
    assert_eq!(result, 0);
}

#[test]
fn http_is_cut_off_also_when_nothing_else_happens() {
    let server = one_core(&[]);
    for line in ["POST / HTTP/1.1\r\n", "Host: localhost\r\n", "post x\r\n"] {
        let mut client = server.client();
        client.send_bytes(line.as_bytes());
        assert_eq!(client.read_to_end(), b"", "{line}");
    }
    let mut client = server.client();
    client.send_bytes(b"PING\r\nPOST / HTTP/1.1\r\nPING\r\n");
    assert_eq!(client.read_to_end(), b"+PONG\r\n");
}

#[test]
fn what_was_sent_before_a_half_close_is_answered() {
    let server = one_core(&[]);
    let cases: [(&[&[&str]], &[u8]); 4] = [
        (&[&["PING"]], b"+PONG\r\n"),
        (&[&["SET", "a", "1"], &["INCR", "a"], &["GET", "a"]], b"+OK\r\n:2\r\n$1\r\n2\r\n"),
        // Each of these waits for the one before it.
        (
            &[&["SELECT", "1"], &["CLIENT", "GETNAME"], &["SELECT", "2"], &["CLIENT", "GETNAME"], &["PING"]],
            b"+OK\r\n$-1\r\n+OK\r\n$-1\r\n+PONG\r\n",
        ),
        (&[&["CLIENT", "LIST", "ID", "999"], &["SET", "b", "1"], &["EXISTS", "b"]], b"$0\r\n\r\n+OK\r\n:1\r\n"),
    ];
    for round in 0..20 {
        for (commands, replies) in cases {
            let mut client = server.client();
            client.send_bytes(&pipeline(commands));
            client.stream().shutdown(Shutdown::Write).unwrap();
            assert_eq!(show(&client.read_to_end()), show(replies), "round {round}");
        }
    }
    wait_until_alone(&mut server.client());
}

#[test]
fn a_new_client_never_gets_the_replies_of_one_that_was_reset() {
    let server = one_core(&["--enable-debug-command", "yes"]);
    let mut control = server.client();
    for round in 0..10 {
        let mut old: Vec<Client> = (0..20).map(|_| server.client()).collect();
        old.iter_mut().for_each(|client| assert_eq!(client.call(&["PING"]), pong()));
        // While the core sleeps, requests, resets and new clients gather, and are seen all at once.
        control.send(&["DEBUG", "SLEEP", "0.03"]);
        for (n, mut client) in old.into_iter().enumerate() {
            client.send(&["SET", &format!("reset:{round}:{n}"), "x"]);
            client.send(&["ECHO", "not yours"]);
            reset(client);
        }
        let mut new: Vec<Client> = (0..20).map(|_| server.client()).collect();
        for (n, client) in new.iter_mut().enumerate() {
            assert_eq!(client.call(&["ECHO", &n.to_string()]), bulk(n.to_string().as_bytes()), "round {round}");
        }
        assert_eq!(control.read(), ok());
    }
    wait_until_alone(&mut control);
}

#[test]
fn a_broken_request_gets_its_text_and_a_close() {
    let server = one_core(&["--proto-max-bulk-len", "512mb"]);
    let long_line = vec![b'a'; 64 * 1024 + 1];
    let long_count = [&b"*"[..], &vec![b'1'; 64 * 1024]].concat();
    let long_length = [&b"*1\r\n$"[..], &vec![b'1'; 64 * 1024 + 1]].concat();
    let cases: [(&[u8], &str); 16] = [
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*1 \r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$-5\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n!4\r\n", "expected '$', got '!'"),
        (b"*2\r\n$4\r\nPING\r\n+x\r\n", "expected '$', got '+'"),
        (b"SET \"a\r\n", "unbalanced quotes in request"),
        (b"SET 'a'b c\r\n", "unbalanced quotes in request"),
        (&long_line, "too big inline request"),
        (&long_count, "too big mbulk count string"),
        (&long_length, "too big bulk count string"),
    ];
    let mut bystander = server.client();
    for (request, text) in cases {
        let mut client = server.client();
        client.send_bytes(b"PING\r\n");
        client.send_bytes(request);
        let want = format!("+PONG\r\n-ERR Protocol error: {text}\r\n");
        assert_eq!(show(&client.read_to_end()), show(want.as_bytes()), "{}", show(&request[..request.len().min(40)]));
        assert_eq!(bystander.call(&["PING"]), pong());
    }
    wait_until_alone(&mut bystander);
}

#[test]
fn requests_without_arguments_are_skipped() {
    let server = one_core(&[]);
    let mut client = server.client();
    client.send_bytes(b"*-1\r\n*0\r\n\r\n\n  \r\n*-2147483648\r\n\0\r\nPING\r\n");
    // The NUL is the name of an unknown command.
    assert_eq!(client.read(), error("ERR unknown command '', with args beginning with: "));
    assert_eq!(client.read(), pong());
    client.send_bytes(&b"\r\n*0\r\n".repeat(50_000));
    assert_eq!(client.call(&["PING"]), pong());
}

#[test]
fn junk_harms_nobody_else() {
    let server = one_core(&[]);
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut bystander = server.client();
    let starts: [&[u8]; 6] = [b"", b"*", b"*3\r\n$3\r\n", b"*2\r\n$1000000\r\n", b"$", b"\"\\x"];
    for _ in 0..150 {
        let mut client = server.client();
        let mut junk = random.pick(&starts).to_vec();
        for _ in 0..random.below(3000) {
            junk.extend_from_slice(&random.next().to_le_bytes());
        }
        // The server may close while it is still being written to.
        let _ = client.stream().write_all(&junk);
        let _ = client.stream().shutdown(Shutdown::Write);
        client.read_to_end();
        assert_eq!(bystander.call(&["PING"]), pong());
    }
    wait_until_alone(&mut bystander);
}

#[test]
fn an_endless_array_costs_what_was_sent() {
    let server = one_core(&[]);
    let mut bystander = server.client();
    let before = resident_bytes(&server);
    let mut client = server.client();
    client.send_bytes(b"*1000000\r\n");
    assert_eq!(bystander.call(&["PING"]), pong());
    assert!(resident_bytes(&server) < before + 4 * MIB, "nothing is reserved for announced arguments");
    let args = b"$1\r\nx\r\n".repeat(10_000);
    for _ in 0..99 {
        client.send_bytes(&args);
        assert_eq!(bystander.call(&["PING"]), pong());
    }
    assert!(resident_bytes(&server) < before + 96 * MIB);
    client.send_bytes(&args);
    let reply = client.read();
    assert!(matches!(&reply, Value::Error(text) if text.starts_with(b"ERR unknown command 'x'")), "{reply:?}");
    // Billions of arguments, announced and never sent.
    let mut greedy: Vec<Client> = (0..50).map(|_| server.client()).collect();
    greedy.iter_mut().for_each(|client| client.send_bytes(b"*2147483647\r\n$536870912\r\nx"));
    assert_eq!(bystander.call(&["PING"]), pong());
    assert!(resident_bytes(&server) < before + 96 * MIB);
    drop((client, greedy));
    wait_until_alone(&mut bystander);
}

#[test]
fn a_request_over_the_query_buffer_limit_is_cut_off() {
    let server = one_core(&["--client-query-buffer-limit", "1mb"]);
    let mut bystander = server.client();
    for start in ["*1000000\r\n", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000000\r\n"] {
        let mut client = server.client();
        client.send_bytes(start.as_bytes());
        let rest = b"$1\r\nx\r\n".repeat(200_000);
        // Closed while it is being written to.
        let _ = client.stream().write_all(&rest);
        assert_eq!(client.read_to_end(), b"");
    }
    assert_eq!(info(&mut bystander, "client_query_buffer_limit_disconnections"), "2");
    assert_eq!(bystander.call(&["EXISTS", "k"]), Value::Int(0));
    wait_until_alone(&mut bystander);
}

#[test]
fn half_sent_commands_cost_little_and_stop_nobody() {
    let server = one_core(&[]);
    let mut bystander = server.client();
    let before = resident_bytes(&server);
    let mut waiting: Vec<Client> = (0..200).map(|_| server.client()).collect();
    for (n, client) in waiting.iter_mut().enumerate() {
        client.send_bytes(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$1000000\r\n");
        client.send_bytes(&[b'a' + (n % 26) as u8; 10]);
    }
    assert_eq!(bystander.call(&["SET", "half", "x"]), ok());
    assert_eq!(info(&mut bystander, "connected_clients"), "201");
    assert!(resident_bytes(&server) < before + 32 * MIB);
    let mut last = waiting.pop().unwrap();
    last.send_bytes(&vec![b'z'; 999_990]);
    last.send_bytes(b"\r\n");
    assert_eq!(last.read(), ok());
    drop((waiting, last));
    wait_until_alone(&mut bystander);
    // What the others had begun was never executed.
    assert_eq!(bystander.call(&["STRLEN", "half"]), Value::Int(1_000_000));
}

/// Commands of every way through the server, whose replies depend on nothing but each other.
fn mixed_pipeline() -> Vec<u8> {
    let mut bytes = b"FLUSHALL\r\nset  inline 'a b'\r\n".to_vec();
    let commands: [&[&str]; 18] = [
        &["SET", "a", "1"],
        &["INCR", "a"],
        &["GET", "inline"],
        &["MSET", "b", "2", "c", "3", "d", ""],
        &["SELECT", "3"],
        &["SET", "a", "in three"],
        &["GET", "a"],
        &["SELECT", "0"],
        &["HELLO", "3", "SETNAME", "me"],
        &["CLIENT", "GETNAME"],
        &["MGET", "a", "b", "none", "c", "d"],
        &["NOSUCH", "x"],
        &["GET"],
        &["CLIENT", "REPLY", "SKIP"],
        &["INCR", "a"],
        &["HELLO", "2"],
        &["RENAME", "b", "e"],
        &["DEL", "a", "b", "c", "d", "e"],
    ];
    commands.iter().for_each(|command| encode_command(command, &mut bytes));
    bytes.extend_from_slice(b"*0\r\n\r\nDBSIZE\r\nQUIT\r\n");
    bytes
}

/// The id of the client, which HELLO tells, is the one difference between two runs.
fn without_ids(replies: &[u8]) -> String {
    let text = String::from_utf8_lossy(replies).into_owned();
    let mut parts = text.split("$2\r\nid\r\n:");
    let mut all = parts.next().unwrap().to_string();
    for part in parts {
        all.push_str("ID");
        all.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    all
}

#[test]
fn a_pipeline_split_at_any_byte_gets_the_same_replies() {
    let server = one_core(&[]);
    let mut bystander = server.client();
    let bytes = mixed_pipeline();
    let mut whole = server.client();
    whole.send_bytes(&bytes);
    let want = without_ids(&whole.read_to_end());
    assert!(want.ends_with(":1\r\n+OK\r\n") && want.contains("in three"), "{want}");
    for at in 1..bytes.len() {
        let mut client = server.client();
        client.send_bytes(&bytes[..at]);
        // One core answers in the order of arrival: with this reply, the first part has been taken.
        assert_eq!(bystander.call(&["PING"]), pong());
        client.send_bytes(&bytes[at..]);
        assert_eq!(without_ids(&client.read_to_end()), want, "split at {at}");
    }
}

#[test]
fn a_client_that_does_not_read_is_held_and_then_served() {
    let server = one_core(&[]);
    let mut bystander = server.client();
    let (large, small) = (vec![b'l'; MIB], vec![b's'; 10_000]);
    assert_eq!(bystander.call(&[b"SET", &b"large"[..], &large]), ok());
    assert_eq!(bystander.call(&[b"SET", &b"small"[..], &small]), ok());
    let before = resident_bytes(&server);
    let mut silent: Vec<Client> = Vec::new();
    for key in ["large", "small", "small"] {
        let mut client = server.client();
        let requests = pipeline(&[&["GET", key]]).repeat(10_000);
        // All of it is taken in, though little of it is executed.
        client.send_bytes(&requests);
        silent.push(client);
    }
    for n in 0..200 {
        assert_eq!(bystander.call(&["INCR", "n"]), Value::Int(n + 1));
    }
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < 24 * MIB, "{} MiB for clients that do not read", grown / MIB);
    // The last one changes its mind and loses nothing.
    let mut client = silent.pop().unwrap();
    client.send(&["PING"]);
    let want = [&b"$10000\r\n"[..], &small, b"\r\n"].concat();
    for _ in 0..10_000 {
        assert!(client.read_raw() == want);
    }
    assert_eq!(client.read(), pong());
    drop((silent, client));
    wait_until_alone(&mut bystander);
}

#[test]
fn the_output_limit_disconnects() {
    let server = one_core(&[]);
    let mut bystander = server.client();
    assert_eq!(bystander.call(&[b"SET", &b"large"[..], &vec![b'l'; 4 * MIB]]), ok());
    assert_eq!(bystander.call(&["CONFIG", "SET", "client-output-buffer-limit", "normal 8mb 0 0"]), ok());
    let mut client = server.client();
    // Within the limit.
    client.send(&["GET", "large"]);
    assert_eq!(client.read_raw().len(), 4 * MIB + 12);
    client.send_bytes(&pipeline(&[&["GET", "large"]]).repeat(50));
    wait_until("it is disconnected", || info(&mut bystander, "client_output_buffer_limit_disconnections") == "1");
    client.read_to_end();
    wait_until_alone(&mut bystander);
    // The soft limit gives a client time.
    assert_eq!(bystander.call(&["CONFIG", "SET", "client-output-buffer-limit", "normal 0 1mb 1"]), ok());
    let mut client = server.client();
    client.send_bytes(&pipeline(&[&["GET", "large"]]).repeat(50));
    wait_until("it is disconnected", || info(&mut bystander, "client_output_buffer_limit_disconnections") == "2");
    wait_until_alone(&mut bystander);
}

#[test]
fn large_values_travel_while_others_are_served() {
    let server = one_core(&["--proto-max-bulk-len", "100mb"]);
    let mut bystander = server.client();
    let value: Vec<u8> = (0..100 * MIB).map(|n| (n / 7) as u8).collect();
    let transfer = |client: &mut Client| {
        client.send(&[b"SET", &b"big"[..], &value]);
        assert_eq!(client.read(), ok());
        let want_len = value.len() + format!("${}\r\n\r\n", value.len()).len();
        client.send(&["GET", "big"]);
        let got = client.read_raw();
        assert_eq!(got.len(), want_len);
        assert!(got.ends_with(b"\r\n") && got[got.len() - 2 - value.len()..got.len() - 2] == value[..]);
    };
    let mut served = 0;
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| transfer(&mut server.client()));
        while !transfer.is_finished() {
            assert_eq!(bystander.call(&["PING"]), pong());
            served += 1;
        }
        transfer.join().unwrap();
    });
    assert!(served > 10, "{served}");
    let mut client = server.client();
    client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$104857601\r\n");
    assert_eq!(client.read_to_end(), b"-ERR Protocol error: invalid bulk length\r\n");
    assert_eq!(
        bystander.call(&["APPEND", "big", "x"]),
        error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    );
    wait_until_alone(&mut bystander);
}

#[test]
fn a_reader_gets_the_whole_old_value_whatever_happens_to_it() {
    let server = one_core(&[]);
    let mut writer = server.client();
    let old: Vec<u8> = (0..16 * MIB).map(|n| (n / 3) as u8).collect();
    let changes: [&[&str]; 6] = [
        &["APPEND", "v", "tail"],
        &["SETRANGE", "v", "1000", "changed"],
        &["SETRANGE", "v", "16777000", "changed"],
        &["DEL", "v"],
        &["SET", "v", "other"],
        &["FLUSHALL"],
    ];
    for change in changes {
        assert_eq!(writer.call(&[b"SET", &b"v"[..], &old]), ok());
        let mut reader = server.client();
        reader.send(&["GET", "v"]);
        // The reply has begun, and does not fit into the socket.
        let mut start = [0; 11];
        reader.stream().read_exact(&mut start).unwrap();
        assert_eq!(&start, b"$16777216\r\n");
        writer.call(change);
        let mut rest = vec![0; old.len() + 2];
        reader.stream().read_exact(&mut rest).unwrap();
        assert!(rest[..old.len()] == old[..] && rest.ends_with(b"\r\n"), "{change:?}");
        assert_eq!(reader.call(&["PING"]), pong());
    }
}

#[test]
fn one_client_too_many_is_told_so() {
    let server = one_core(&["--maxclients", "5"]);
    let mut clients: Vec<Client> = Vec::new();
    // The probe that waited for the start may not be gone yet.
    wait_until("there is room for all", || {
        clients = (0..5).map(|_| server.client()).collect();
        clients.iter_mut().all(|client| {
            client.stream().write_all(b"PING\r\n").is_ok() && client.try_read_raw().as_deref() == Some(b"+PONG\r\n")
        })
    });
    let mut refused = server.client();
    assert_eq!(refused.read_to_end(), b"-ERR max number of clients reached\r\n");
    assert!(info(&mut clients[0], "rejected_connections").parse::<u64>().unwrap() >= 1);
    clients.pop();
    wait_until("there is room again", || {
        let mut client = server.client();
        client.stream().write_all(b"PING\r\n").is_ok() && client.try_read_raw().as_deref() == Some(b"+PONG\r\n")
    });
}

#[test]
fn idle_clients_are_closed_and_busy_ones_are_not() {
    let server = one_core(&[]);
    let mut busy = server.client();
    assert_eq!(busy.call(&["CONFIG", "SET", "timeout", "1"]), ok());
    let mut idle = server.client();
    let mut monitor = server.client();
    assert_eq!(monitor.call(&["MONITOR"]), ok());
    assert_eq!(idle.call(&["PING"]), pong());
    idle.set_timeout(Duration::from_millis(1));
    let mut end = [0; 1];
    wait_until("the idle client is closed", || {
        assert_eq!(busy.call(&["PING"]), pong());
        matches!(idle.stream().read(&mut end), Ok(0))
    });
    assert_eq!(info(&mut busy, "connected_clients"), "2");
    assert_eq!(busy.call(&["PING"]), pong());
}

#[test]
fn a_client_that_takes_a_long_reply_is_not_idle() {
    let server = one_core(&["--timeout", "1"]);
    let mut client = server.client();
    const BYTES: usize = 64 * MIB;
    assert_eq!(client.call(&[b"SET", &b"v"[..], &vec![b'v'; BYTES]]), ok());
    client.send(&["GET", "v"]);
    // Slower than the timeout as a whole, yet never silent for so long.
    let mut piece = vec![0; 2 * MIB];
    for _ in 0..BYTES / piece.len() {
        client.stream().read_exact(&mut piece).unwrap();
        std::thread::sleep(Duration::from_millis(80));
    }
    assert_eq!(client.read_to_end(), format!("{}\r\n", "v".repeat(b"$67108864\r\n".len())).as_bytes());
}

#[test]
fn before_auth_little_is_allowed() {
    let server = one_core(&["--requirepass", "secret"]);
    let no_auth = error("NOAUTH Authentication required.");
    let mut client = server.client();
    assert_eq!(client.call(&["GET", "a"]), no_auth);
    assert_eq!(client.call(&["CLIENT", "ID"]), no_auth);
    assert_eq!(client.call(&["AUTH", "no"]), error("WRONGPASS invalid username-password pair or user is disabled."));
    client.send_bytes(b"*11\r\n");
    assert_eq!(client.read_to_end(), b"-ERR Protocol error: unauthenticated multibulk length\r\n");
    let mut client = server.client();
    client.send_bytes(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n");
    assert_eq!(client.read_to_end(), b"-ERR Protocol error: unauthenticated bulk length\r\n");
    // The limits end with AUTH, in the middle of a pipeline too.
    let mut client = server.client();
    let value = "v".repeat(20_000);
    let mut mset = vec!["MSET"];
    mset.extend(["k", &value].repeat(10));
    client.send_bytes(&pipeline(&[&["GET", "k"], &["AUTH", "default", "secret"], &mset, &["STRLEN", "k"]]));
    assert_eq!(client.read(), no_auth);
    assert_eq!(client.read(), ok());
    assert_eq!(client.read(), ok());
    assert_eq!(client.read(), Value::Int(20_000));
    let mut client = server.client();
    client.send_bytes(&pipeline(&[&["HELLO", "3", "AUTH", "default", "secret"], &["GET", "none"]]));
    assert!(matches!(client.read(), Value::Map(_)));
    assert_eq!(client.read(), Value::Null);
}

#[test]
fn a_unix_socket_serves_like_any_other() {
    let server = one_core(&["--unixsocket", "keyloom.sock", "--unixsocketperm", "700"]);
    let path = server.dir().join("keyloom.sock");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"SET a 1\r\nINCR a\r\nCLIENT INFO\r\nQUIT\r\n").unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();
    assert!(replies.starts_with("+OK\r\n:2\r\n$") && replies.ends_with("+OK\r\n"), "{replies}");
    assert!(replies.contains("keyloom.sock:0") && replies.contains(" flags=U "), "{replies}");
    assert_eq!(server.client().call(&["GET", "a"]), bulk(b"2"));
}

#[test]
fn nothing_after_quit_is_executed() {
    let server = one_core(&[]);
    let mut client = server.client();
    client.send_bytes(&pipeline(&[&["SET", "a", "1"], &["QUIT"], &["SET", "a", "2"]]));
    assert_eq!(client.read_to_end(), b"+OK\r\n+OK\r\n");
    assert_eq!(server.client().call(&["GET", "a"]), bulk(b"1"));
}

#[test]
fn replies_can_be_switched_off() {
    let server = one_core(&[]);
    let mut client = server.client();
    client.send_bytes(&pipeline(&[
        &["CLIENT", "REPLY", "SKIP"],
        &["INCR", "n"],
        &["INCR", "n"],
        &["CLIENT", "REPLY", "OFF"],
        &["INCR", "n"],
        &["NOSUCH"],
        &["CLIENT", "REPLY", "SKIP"],
        &["INCR", "n"],
        &["CLIENT", "REPLY", "ON"],
        &["INCR", "n"],
    ]));
    assert_eq!(client.read(), Value::Int(2));
    assert_eq!(client.read(), ok());
    assert_eq!(client.read(), Value::Int(5));
}

#[test]
fn requests_under_way_are_answered_at_the_end() {
    let mut server = one_core(&["--enable-debug-command", "yes"]);
    let mut sleeper = server.client();
    let mut other = server.client();
    assert_eq!(other.call(&["PING"]), pong());
    sleeper.send_bytes(&pipeline(&[&["DEBUG", "SLEEP", "0.2"]]));
    // SAFETY: a signal to a process that this test has started and not yet waited for.
    assert_eq!(unsafe { libc::kill(server.pid() as i32, libc::SIGTERM) }, 0);
    assert_eq!(sleeper.read_to_end(), b"+OK\r\n");
    assert_eq!(other.read_to_end(), b"");
    assert_eq!(server.wait_for_exit(Duration::from_secs(10)), Some(0));
    assert!(TcpStream::connect(server.addr()).is_err());
}

#[test]
fn shutdown_ends_the_process_although_a_client_does_not_read() {
    let mut server = one_core(&[]);
    let mut stuck = server.client();
    assert_eq!(stuck.call(&[b"SET", &b"large"[..], &vec![b'l'; 8 * MIB]]), ok());
    stuck.send_bytes(&pipeline(&[&["GET", "large"]]).repeat(100));
    let mut client = server.client();
    client.send(&["SHUTDOWN"]);
    assert_eq!(client.read_to_end(), b"");
    assert_eq!(server.wait_for_exit(Duration::from_secs(10)), Some(0));
}
