//! Commands about the server as a whole: TIME, MONITOR, SHUTDOWN and LOLWUT.

use std::time::{SystemTime, UNIX_EPOCH};

use super::log::{LogAnswer, LogAsk};
use super::{Args, Ask, Command, Flags, Flow, Home};
use crate::config::ShutdownOn;
use crate::resp::{Error, Reply, number};
use crate::state::KEYLOOM_VERSION;

const ADMIN: Flags = Flags::ADMIN.or(Flags::NOSCRIPT).or(Flags::LOADING).or(Flags::STALE);

pub static COMMANDS: &[Command] = &[
    Command::session("time", 1, Flags::LOADING.or(Flags::STALE).or(Flags::FAST), time).doc(
        "server",
        "2.6.0",
        "O(1)",
        "Returns the server's clock: Unix seconds, and microseconds.",
    ),
    Command::session("monitor", 1, ADMIN, monitor).doc(
        "server",
        "1.0.0",
        "O(1)",
        "Sends every command that the server executes to this connection.",
    ),
    Command::session("shutdown", -1, ADMIN.or(Flags::NO_MULTI), shutdown).doc(
        "server",
        "1.0.0",
        "O(1)",
        "Stops the server.",
    ),
    Command::session("lolwut", -1, Flags::READONLY.or(Flags::FAST), lolwut).doc(
        "server",
        "5.0.0",
        "O(N) in rows",
        "Weaves a cloth and tells the version.",
    ),
];

fn time(_home: &mut Home, _args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    reply.array(2);
    reply.bulk_int(now.as_secs() as i64);
    reply.bulk_int(now.subsec_micros() as i64);
    Ok(Flow::Done)
}

fn monitor(home: &mut Home, _args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    // As in Redis, a monitor that asks again gets no answer.
    if home.engine.in_transaction() {
        return Err(Error::MonitorDenied);
    }
    if home.session.monitor {
        return Ok(Flow::Done);
    }
    // The reply waits until every core knows: what is executed after it will be shown.
    let core = home.engine.router.me();
    Ok(home.ask_all(Ask::Monitor { core, on: true }, |_, _, reply| {
        reply.ok();
        Ok(Flow::Monitor)
    }))
}

/// SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]. There is an answer only if the node goes on.
fn shutdown(home: &mut Home, args: Args, _reply: &mut Reply) -> Result<Flow, Error> {
    let (mut how, mut nosave, mut abort) = (ShutdownOn::default(), false, false);
    for arg in &args[1..] {
        match () {
            () if arg.eq_ignore_ascii_case(b"nosave") => nosave = true,
            () if arg.eq_ignore_ascii_case(b"save") => how.save = Some(true),
            () if arg.eq_ignore_ascii_case(b"now") => how.now = true,
            () if arg.eq_ignore_ascii_case(b"force") => how.force = true,
            () if arg.eq_ignore_ascii_case(b"abort") => abort = true,
            () => return Err(Error::Syntax),
        }
    }
    if (how.save.is_some() && nosave) || (abort && (nosave || how != ShutdownOn::default())) {
        return Err(Error::Syntax);
    }
    if abort {
        return Ok(home.ask_control(LogAsk::AbortShutDown, |answer, reply| match answer {
            LogAnswer::Busy => Err(Error::NoShutDown),
            _ => {
                reply.ok();
                Ok(())
            }
        }));
    }
    if nosave {
        how.save = Some(false);
    }
    Ok(home.ask_control_and_go_on(LogAsk::ShutDown(how), |_, answer, _| match answer {
        LogAnswer::Done => Ok(Flow::Close),
        _ => Err(Error::ShutDownFailed),
    }))
}

/// Size of the cloth that LOLWUT weaves.
const CLOTH_COLUMNS_DEFAULT: i64 = 40;
const CLOTH_COLUMNS_MAX: i64 = 160;
const CLOTH_ROWS_DEFAULT: i64 = 8;
const CLOTH_ROWS_MAX: i64 = 64;

/// LOLWUT [VERSION v] [columns] [rows]: a twill, whose threads cross one column further in each row.
fn lolwut(_home: &mut Home, args: Args, reply: &mut Reply) -> Result<Flow, Error> {
    let integer = |arg: &[u8]| number::parse_i64(arg).ok_or(Error::NotInteger);
    let sizes = match &args[1..] {
        [word, version, sizes @ ..] if word.eq_ignore_ascii_case(b"version") => {
            integer(version)?;
            sizes
        }
        sizes => sizes,
    };
    let numbers: Vec<i64> = sizes.iter().map(|arg| integer(arg)).collect::<Result<_, _>>()?;
    let columns = numbers.first().copied().unwrap_or(CLOTH_COLUMNS_DEFAULT).clamp(1, CLOTH_COLUMNS_MAX);
    let rows = numbers.get(1).copied().unwrap_or(CLOTH_ROWS_DEFAULT).clamp(1, CLOTH_ROWS_MAX);
    let mut text = String::new();
    for row in 0..rows {
        text.extend((0..columns).map(|column| if (column + row) % 4 < 2 { '\u{2571}' } else { '\u{2572}' }));
        text.push('\n');
    }
    text.push_str(&format!("\nKeyloom ver. {KEYLOOM_VERSION}\n"));
    reply.verbatim(b"txt", text.as_bytes());
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::transcript::Client;

    #[test]
    fn replies_of_redis() {
        let mut client = Client::new();
        for (line, reply) in [
            ("time x", "-ERR wrong number of arguments for 'time' command"),
            ("cluster info", "-ERR This instance has cluster support disabled"),
            ("shutdown foo", "-ERR syntax error"),
            ("shutdown save nosave", "-ERR syntax error"),
            ("shutdown abort now", "-ERR syntax error"),
            ("lolwut version x", "-ERR value is not an integer or out of range"),
        ] {
            client.expect(line, reply);
        }
        let time = client.run("time");
        assert!(time.starts_with("*2|$10|"), "{time}");
        client.expect("monitor", "+OK");
        assert!(matches!(client.flow, Flow::Monitor));
        client.session.monitor = true;
        client.expect("reset", "+RESET");
        assert!(matches!(client.flow, Flow::Unmonitor));
        assert!(!client.session.monitor);
        let how = |save, now, force| ShutdownOn { save, now, force };
        for (line, expected) in [
            ("shutdown", how(None, false, false)),
            ("SHUTDOWN nosave now force", how(Some(false), true, true)),
            ("shutdown SAVE", how(Some(true), false, false)),
        ] {
            client.run(line);
            let asked = client.asked.pop();
            assert!(matches!(asked, Some(Ask::Log(LogAsk::ShutDown(how))) if how == expected), "{line}: {asked:?}");
        }
        assert!(client.run("lolwut version 5 3 1").contains("|\u{2571}\u{2571}\u{2572}\n\nKeyloom ver. "));
        assert!(client.run("lolwut 99999999 99999999").len() < 64 * 1024);
    }
}
