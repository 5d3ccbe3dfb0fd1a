//! MONITOR, and which arguments are nobody else's business.

use super::{Args, table::Row};

/// Shown in place of a secret argument.
pub const REDACTED: &[u8] = b"(redacted)";

/// Whether argument `index` is a password, not to be shown in MONITOR or the slow log.
pub fn is_secret(row: &Row, args: Args, index: usize) -> bool {
    match row.full_name.as_str() {
        "auth" => index >= 1,
        // HELLO protover AUTH user password
        "hello" => {
            let auth = args.iter().skip(2).position(|arg| arg.eq_ignore_ascii_case(b"auth")).map(|at| at + 2);
            auth.is_some_and(|at| index == at + 1 || index == at + 2)
        }
        "config|set" => index >= 3 && index % 2 == 1 && args[index - 1].eq_ignore_ascii_case(b"requirepass"),
        _ => false,
    }
}

/// The line that a monitor receives for one executed command, protocol framing included:
/// `+1700000000.123456 [0 127.0.0.1:1234] "set" "k" "v"`. `addr` is the client's, `unix:path` for a Unix socket.
pub fn line(unix_us: i64, db: usize, addr: &str, row: &Row, args: Args) -> Vec<u8> {
    let mut line = format!("+{}.{:06} [{db} {addr}]", unix_us / 1_000_000, unix_us % 1_000_000).into_bytes();
    for (index, arg) in args.iter().enumerate() {
        line.extend_from_slice(b" \"");
        if is_secret(row, args, index) {
            line.extend_from_slice(REDACTED);
        } else {
            escape(arg, &mut line);
        }
        line.push(b'"');
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// Bytes as they may stand between quotes on one line.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x07 => out.extend_from_slice(b"\\a"),
            0x08 => out.extend_from_slice(b"\\b"),
            b' '..=b'~' => out.push(byte),
            _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::table;

    fn shown(args: &[&[u8]]) -> String {
        let row = table().resolve(args).unwrap();
        String::from_utf8(line(1_700_000_000_000_042, 3, "127.0.0.1:1234", row, args)).unwrap()
    }

    #[test]
    fn lines_look_like_those_of_redis() {
        assert_eq!(shown(&[b"set", b"k", b"v"]), "+1700000000.000042 [3 127.0.0.1:1234] \"set\" \"k\" \"v\"\r\n");
        assert_eq!(
            shown(&[b"ECHO", b"a \"q\" \\ \r\n\t\x07\x08\0\xff\x7f~"]),
            "+1700000000.000042 [3 127.0.0.1:1234] \"ECHO\" \"a \\\"q\\\" \\\\ \\r\\n\\t\\a\\b\\x00\\xff\\x7f~\"\r\n"
        );
    }

    #[test]
    fn passwords_are_not_shown() {
        let hides = |args: &[&[u8]], secrets: &[&str]| {
            let line = shown(args);
            assert!(secrets.iter().all(|secret| !line.contains(secret)), "{line}");
            line.matches("(redacted)").count()
        };
        assert_eq!(hides(&[b"AUTH", b"hunter2"], &["hunter2"]), 1);
        assert_eq!(hides(&[b"auth", b"joe", b"hunter2"], &["joe", "hunter2"]), 2);
        assert_eq!(hides(&[b"hello", b"3", b"AUTH", b"joe", b"hunter2", b"SETNAME", b"x"], &["hunter2"]), 2);
        assert_eq!(hides(&[b"config", b"set", b"port", b"1", b"RequirePass", b"hunter2"], &["hunter2"]), 1);
        assert_eq!(hides(&[b"set", b"auth", b"requirepass"], &[]), 0);
    }
}
