//! The doctor: is this machine fit for a node, and if not, what is to be done.
//!
//! [`facts`] reads the machine, [`checks`] judges what was read. The same checks run when a node starts, so
//! that a machine without io_uring gets a sentence instead of a panic of the runtime.

pub mod checks;
pub mod facts;

pub use checks::{Check, Verdict};
pub use facts::Facts;

use crate::config::Config;

/// What stops a node from starting on this machine: one sentence with what was found and what to do.
#[derive(Debug, thiserror::Error)]
#[error("this machine cannot run a node: {name}: {found}. {advice}")]
pub struct Unfit {
    pub name: &'static str,
    pub found: String,
    pub advice: String,
}

/// All checks, for the start of a node: what stops it, or else the warnings. Call it before the first executor is made.
pub fn probe(config: &Config) -> Result<Vec<Check>, Unfit> {
    judge(examine(config))
}

fn judge(mut checks: Vec<Check>) -> Result<Vec<Check>, Unfit> {
    checks.retain(|check| check.verdict != Verdict::Ok);
    match checks.iter().find(|check| check.verdict == Verdict::Fail) {
        Some(Check { name, found, advice, .. }) => Err(Unfit { name, found: found.clone(), advice: advice.clone() }),
        None => Ok(checks),
    }
}

/// All checks of this machine.
pub fn examine(config: &Config) -> Vec<Check> {
    checks::all(&Facts::read(config), config)
}

/// The gravest verdict.
pub fn worst(checks: &[Check]) -> Verdict {
    checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
}

/// The checks for people: one line each, and what to do below it.
pub fn print_text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        text.push_str(&format!("{:<5} {:<width$}  {}\n", check.verdict.name(), check.name, check.found));
        if !check.advice.is_empty() {
            text.push_str(&format!("{:5} {:width$}  {}\n", "", "", check.advice));
        }
    }
    text
}

/// The checks for programs: `{"verdict": .., "checks": [{"name", "verdict", "found", "advice"}]}`.
pub fn print_json(checks: &[Check]) -> String {
    let list: Vec<_> = checks
        .iter()
        .map(|check| {
            serde_json::json!({
                "name": check.name,
                "verdict": check.verdict.name(),
                "found": check.found,
                "advice": check.advice,
            })
        })
        .collect();
    serde_json::json!({ "verdict": worst(checks).name(), "checks": list }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &'static str, verdict: Verdict) -> Check {
        Check { name, verdict, found: "this".into(), advice: "Do that.".into() }
    }

    #[test]
    fn the_first_failure_is_told_in_one_line() {
        let checks = vec![check("a", Verdict::Warn), check("b", Verdict::Fail), check("c", Verdict::Fail)];
        assert_eq!(worst(&checks), Verdict::Fail);
        let sentence = judge(checks).unwrap_err().to_string();
        assert_eq!(sentence, "this machine cannot run a node: b: this. Do that.");
        let warnings = judge(vec![check("a", Verdict::Ok), check("b", Verdict::Warn)]).unwrap();
        assert_eq!(warnings, [check("b", Verdict::Warn)]);
    }

    #[test]
    fn this_machine_is_examined() {
        let checks = examine(&Config::default());
        let json: serde_json::Value = serde_json::from_str(&print_json(&checks)).unwrap();
        assert_eq!(json["checks"].as_array().unwrap().len(), checks.len());
        assert_eq!(json["verdict"], worst(&checks).name());
        let text = print_text(&checks);
        assert!(checks.iter().all(|check| text.contains(check.name) && text.contains(&check.advice)));
    }
}
