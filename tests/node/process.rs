//! The program as people start it: its command line, its files, its exit codes. No node is started here.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn keyloom(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyloom")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a refused start says: exit code 1, nothing on stdout, one line on stderr, without the program's name.
fn refused(args: &[&str]) -> String {
    refusal(&keyloom(args))
}

fn refusal(output: &Output) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stdout(output), "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.trim_end().strip_prefix("keyloom: ").expect("names the program").to_string()
}

/// Files of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("process-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn bad_directives() {
    assert_eq!(
        refused(&["--maxclient", "5"]),
        "command line: 'maxclient 5': Bad directive or wrong number of arguments; did you mean 'maxclients'?"
    );
    assert_eq!(
        refused(&["serve", "--nonsense", "yes"]),
        "command line: 'nonsense yes': Bad directive or wrong number of arguments"
    );
    assert_eq!(
        refused(&["--port=7000"]),
        "command line: 'port=7000': Bad directive or wrong number of arguments; did you mean 'port'?"
    );
    assert_eq!(refused(&["--port"]), "command line: 'port': wrong number of arguments");
}

#[test]
fn bad_values() {
    assert_eq!(
        refused(&["serve", "--port", "65536"]),
        "command line: 'port 65536': argument must be between 0 and 65535 inclusive"
    );
    assert_eq!(
        refused(&["--loglevel", "loud"]),
        "command line: 'loglevel loud': argument(s) must be one of the following: debug, verbose, notice, warning"
    );
    assert_eq!(refused(&["--maxmemory", "lots"]), "command line: 'maxmemory lots': argument must be a memory value");
    assert_eq!(
        refused(&["--write-durability", "disk"]),
        "'write-durability disk': it needs 'appendonly yes': without the log nothing is on disk"
    );
    assert!(refused(&["--cpus", "4095"]).starts_with("'cpus 4095': CPU 4095 is not among those"));
    assert!(refused(&["--dir", "/nonexistent/folder"]).starts_with("'dir /nonexistent/folder': "));
    assert!(refused(&["--logfile", "/nonexistent/log"]).starts_with("can't open the log file '/nonexistent/log': "));
}

#[test]
fn commands_and_files_that_do_not_exist() {
    assert_eq!(
        refused(&["servr"]),
        "'servr' is neither a command (serve, cluster, bench, doctor, check, dump, import, export, ring, help) nor a configuration file; did you mean 'serve'?"
    );
    assert!(refused(&["nowhere/redis.conf"]).starts_with("can't read the configuration file 'nowhere/redis.conf': "));
    assert!(refused(&["--config", "nowhere.conf"]).starts_with("can't read the configuration file 'nowhere.conf': "));
}

#[test]
fn bad_lines_are_told_with_file_and_number() {
    let folder = Folder::new("lines");
    let file = folder.file("redis.conf", "# a comment\nport 7000\n\nmaxclients many\n");
    assert_eq!(refused(&[&file]), format!("{file}:4: 'maxclients many': argument couldn't be parsed into an integer"));
    let inner = folder.file("inner.conf", "\nnonsense 1 2\n");
    let outer = folder.file("outer.conf", "include inner.conf\n");
    assert_eq!(
        refused(&["--config", &outer]),
        format!("{inner}:2: 'nonsense 1 2': Bad directive or wrong number of arguments")
    );
}

#[test]
fn the_standard_input_is_a_file() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyloom"))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\ntimeout x\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(refusal(&output), "-:2: 'timeout x': argument couldn't be parsed into an integer");
}

#[test]
fn help_and_version() {
    for args in [&["--help"][..], &["-h"], &["help"], &["serve", "--help"]] {
        let output = keyloom(args);
        assert!(output.status.success(), "{args:?}");
        for word in ["--port 6379", "--cpus all", "--requirepass", "keyloom redis.conf --port 7000"] {
            assert!(stdout(&output).contains(word), "{args:?} {word}");
        }
    }
    assert!(stdout(&keyloom(&["--help"])).contains("doctor"));
    for arg in ["--version", "-v", "-V"] {
        let output = keyloom(&[arg]);
        assert!(output.status.success(), "{arg}");
        assert_eq!(stdout(&output).trim_end(), format!("keyloom {}", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn the_doctor_has_a_verdict_for_each_check() {
    let output = keyloom(&["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let checks = json["checks"].as_array().unwrap();
    let rank = |verdict: &serde_json::Value| ["ok", "warn", "fail"].iter().position(|v| verdict == v).unwrap();
    let worst = checks.iter().map(|check| rank(&check["verdict"])).max().unwrap();
    assert_eq!(rank(&json["verdict"]), worst);
    assert_eq!(output.status.code(), Some((worst == 2) as i32));
    for name in ["kernel", "io_uring", "memlock", "open files", "somaxconn", "seccomp", "clock source"] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(check["verdict"] == "ok", check["advice"] == "", "{check}");
    }
    let text = stdout(&keyloom(&["doctor"]));
    assert!(checks.iter().all(|check| text.contains(check["name"].as_str().unwrap())), "{text}");
}

/// Finds a check of `keyloom doctor` with these arguments; which values are in force can be seen from its judgement.
fn backlog_check(args: &[&str]) -> String {
    let output = keyloom(&[&["doctor", "--json"], args].concat());
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let checks = json["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == "somaxconn").unwrap()["found"].as_str().unwrap().to_string()
}

#[test]
fn the_command_line_comes_after_the_file_and_its_includes() {
    let folder = Folder::new("precedence");
    folder.file("inner.conf", "tcp-backlog 2000000002\n");
    let file = folder.file("redis.conf", "tcp-backlog 2000000001\n");
    let including = folder.file("including.conf", "tcp-backlog 2000000001\ninclude inner.conf\n");
    assert!(backlog_check(&[&file]).contains("tcp-backlog 2000000001"));
    assert!(backlog_check(&[&including]).contains("tcp-backlog 2000000002"));
    assert!(backlog_check(&["--tcp-backlog", "2000000003", "--config", &including]).contains("2000000003"));
    assert!(backlog_check(&[&including, "--tcp-backlog", "2000000003"]).contains("2000000003"));
}

#[test]
fn the_doctor_refuses_bad_arguments_too() {
    assert_eq!(
        refused(&["doctor", "--prot", "1"]),
        "command line: 'prot 1': Bad directive or wrong number of arguments; did you mean 'port'?"
    );
}

#[test]
fn an_unfit_machine_gets_a_sentence() {
    let start = r#"ulimit -l 64 && exec "$0" --port 0"#;
    let output = Command::new("sh").args(["-c", start, env!("CARGO_BIN_EXE_keyloom")]).output().unwrap();
    let sentence = refusal(&output);
    assert!(sentence.starts_with("this machine cannot run a node: memlock: 64 KiB, "), "{sentence}");
    assert!(sentence.contains("Raise the limit: ulimit -l "), "{sentence}");
}
