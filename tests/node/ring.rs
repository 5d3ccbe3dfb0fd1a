//! `keyloom ring` as people call it: what it prints, the picture, and what it refuses.

use std::process::{Command, Output, Stdio};

fn ring(args: &str) -> Output {
    let args = args.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_keyloom")).arg("ring").args(args).stdin(Stdio::null()).output().unwrap()
}

/// What a good call prints.
fn printed(args: &str) -> String {
    let output = ring(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{args}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a bad call says: exit code 1, nothing on stdout, one line on stderr, without the program's name.
fn refused(args: &str) -> String {
    let output = ring(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args}: {stderr}");
    assert!(output.stdout.is_empty(), "{args}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.trim_end().strip_prefix("keyloom: ").expect("names the program").to_string()
}

/// Share, copies and primaries of each node.
fn loads(text: &str) -> Vec<(f64, usize, usize)> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[3].parse().unwrap(), words[4].parse().unwrap(), words[5].parse().unwrap())
    };
    text.lines().skip(2).map(line).collect()
}

#[test]
fn a_placement_is_even() {
    let text = printed("--nodes 5");
    assert!(text.starts_with("5 nodes, 1024 partitions, 3 copies of each\n"), "{text}");
    let loads = loads(&text);
    assert_eq!(loads.len(), 5);
    assert!(loads.iter().all(|&(share, copies, _)| share == 614.4 && (614..=615).contains(&copies)), "{text}");
    assert_eq!(loads.iter().map(|load| load.1).sum::<usize>(), 3 * 1024);
    assert_eq!(loads.iter().map(|load| load.2).sum::<usize>(), 1024);
    assert!(loads.iter().all(|load| (204..=205).contains(&load.2)), "{text}");
    assert_eq!(printed("--nodes 5"), text, "it is the same each time");
}

#[test]
fn weights_and_racks_count() {
    let weighted = loads(&printed("--nodes 4 --weights 1,3 --replicas 1 --partitions 64"));
    assert_eq!(weighted.iter().map(|load| load.1).collect::<Vec<_>>(), [8, 24, 8, 24]);
    // The third rack has one node, which holds a copy of everything.
    let racks = loads(&printed("--nodes 5 --racks 3"));
    assert_eq!(racks.iter().map(|load| load.1).collect::<Vec<_>>(), [512, 512, 1024, 512, 512]);
    assert_eq!(loads(&printed("--nodes 2 --partitions 16")), [(16.0, 16, 8), (16.0, 16, 8)]);
}

#[test]
fn a_simulation_compares_and_draws() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ring-{}.svg", std::process::id()));
    let text = printed(&format!("--simulate --nodes 3,12 --partitions 256 --svg {}", path.display()));
    let figures = |nodes: &str, name: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{nodes}  {name} ")));
        let line = line.unwrap_or_else(|| panic!("no line for {nodes} {name} in\n{text}"));
        line.split(name).nth(1).unwrap().split_whitespace().map(Into::into).collect()
    };
    for name in ["modulo", "plain ring", "bounded ring", "sticky"] {
        assert_eq!(figures("3", name)[4], "-", "nothing to move when one of three leaves");
        assert_eq!(figures("12", name).len(), 7);
    }
    let sticky: Vec<f64> = figures("12", "sticky").iter().take(5).map(|word| word.parse().unwrap()).collect();
    assert!(sticky[0] <= 1.01 && sticky[3] <= 1.1 && sticky[4] <= 1.1, "{text}");
    assert!(figures("12", "modulo")[3].parse::<f64>().unwrap() > 5.0, "{text}");
    let picture = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    assert!(["modulo", "plain ring", "bounded ring", "sticky", "nodes"].iter().all(|word| picture.contains(word)));
}

#[test]
fn bad_options_are_one_line() {
    let cases = [
        ("", "--nodes is needed, or --simulate"),
        ("--nodes 3,5", "--nodes takes one number without --simulate"),
        ("--nodes 5 --svg x.svg", "--svg is the picture of a simulation: it needs --simulate"),
        ("--nodes 0", "--nodes must be between 1 and 1024"),
        ("--nodes 1025", "--nodes must be between 1 and 1024"),
        ("--nodes 1024 --simulate", "--nodes must be between 1 and 1023"),
        ("--simulate --nodes 1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", "--nodes takes at most 16 numbers"),
        ("--nodes 5 --partitions 1000", "--partitions must be a power of two up to 16384"),
        ("--nodes 5 --replicas 9", "--replicas must be between 1 and 8"),
        ("--nodes 5 --racks 0", "--racks must be between 1 and 1024"),
        ("--nodes 5 --weights 1,300", "--weights must be between 1 and 256"),
        ("--nodes 1000 --weights 256", "the weights add up to 256000, which is more than 16384"),
        ("--simulate --svg /nowhere/x.svg", "could not write /nowhere/x.svg: No such file or directory (os error 2)"),
    ];
    for (args, message) in cases {
        assert_eq!(refused(args), message, "{args}");
    }
    assert!(refused("--nodes many").starts_with("invalid value 'many' for '--nodes <N,..>'"));
}
