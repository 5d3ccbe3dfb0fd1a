//! The files of `deploy/` are what they say: the sample configuration is accepted, and shows the defaults.

use std::path::Path;

use keyloom::config::{Config, table};

fn sample() -> String {
    std::fs::read_to_string(path()).expect("the sample configuration")
}

fn path() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/keyloom.conf").to_str().expect("a UTF-8 path").into()
}

fn load(args: &[&str]) -> Config {
    let args: Vec<_> = args.iter().map(Into::into).collect();
    Config::load(&args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

#[test]
fn sample_configuration_shows_the_defaults() {
    let sample = load(&["--config", &path()]);
    let defaults = load(&[]);
    for directive in table::DIRECTIVES {
        assert_eq!(directive.get(&sample), directive.get(&defaults), "{}", directive.name);
    }
}

/// Uncommenting an example must give something that is accepted, too.
#[test]
fn commented_directives_of_the_sample_are_accepted() {
    let text = sample();
    let examples: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|words| words.len() == 2 && table::find(words[0].as_bytes()).is_some())
        .collect();
    let names: Vec<&str> = examples.iter().map(|words| words[0]).collect();
    assert_eq!(names, ["unixsocket", "unixsocketperm", "requirepass", "dir"]);
    for words in examples {
        let config = load(&["--config", &path(), &format!("--{}", words[0]), words[1]]);
        assert_eq!(config.get(words[0].as_bytes()).as_deref(), Some(words[1]));
    }
}
