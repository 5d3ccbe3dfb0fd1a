//! HELP of the commands that have subcommands, told by their rows.

use super::{Args, Command, Flags, Flow, Home, table};
use crate::resp::{Error, Reply};

/// The row of HELP, the same in every container; `category` is the flag of an ACL category or none.
pub const fn row(group: &'static str, category: Flags) -> Command {
    Command::session("help", 2, Flags::LOADING.or(Flags::STALE).or(category), help).doc(
        group,
        "5.0.0",
        "O(1)",
        "Prints this help.",
    )
}

fn help(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let container = table().lookup(args[0]).ok_or_else(|| Error::unknown_command(args))?;
    let subs = table().subs(container);
    reply.array(1 + 2 * subs.len());
    let name = container.command.name.to_ascii_uppercase();
    reply.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for sub in subs {
        reply.simple(&sub.command.name.to_ascii_uppercase());
        reply.simple(&format!("    {}", sub.command.summary));
    }
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::transcript::Client;

    #[test]
    fn every_container_explains_its_subcommands() {
        let mut client = Client::new();
        for row in table().top().filter(|row| !row.command.subcommands.is_empty()) {
            let help = client.run(&format!("{} help", row.command.name));
            let lines: Vec<&str> = help.split('|').collect();
            let name = row.command.name.to_ascii_uppercase();
            assert_eq!(lines[0], format!("*{}", lines.len() - 1), "{name}");
            assert_eq!(lines[1], format!("+{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
            for sub in table().subs(row) {
                let word = format!("+{}", sub.command.name.to_ascii_uppercase());
                assert!(lines.iter().any(|line| line.split(' ').next() == Some(&word)), "{}", sub.full_name);
            }
            let unknown = client.run(&format!("{} nosuch", row.command.name));
            assert_eq!(unknown, format!("-ERR unknown subcommand 'nosuch'. Try {name} HELP."));
        }
    }
}
