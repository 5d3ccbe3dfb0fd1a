//! Tells the service manager what has become of the node: sd_notify(3), for systemd's `Type=notify`.
//!
//! Else a manager takes a node that still reads its files for one that serves, and starts what needs it too early. There is
//! nothing to tell, and nobody is missed, if no manager has asked (`NOTIFY_SOCKET`).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where the manager listens.
const SOCKET: &str = "NOTIFY_SOCKET";

/// The node serves.
pub fn ready() {
    tell("READY=1\n");
}

/// The node has been told to end.
pub fn stopping() {
    tell("STOPPING=1\n");
}

fn tell(what: &str) {
    let Some(socket) = std::env::var_os(SOCKET).filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, what) {
        tracing::warn!(%error, socket = %socket.display(), "the service manager cannot be told how the node is");
    }
}

fn send(socket: &OsStr, what: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        // A name without a file.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let from = UnixDatagram::unbound()?;
    // A manager that does not read must not hold up the node.
    from.set_nonblocking(true)?;
    from.send_to_addr(what.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_hears_it_under_both_kinds_of_names() {
        let name = format!("keyloom-notify-test-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let hidden = format!("@{name}");
        let bound = [
            (path.as_os_str(), SocketAddr::from_pathname(&path).unwrap()),
            (OsStr::new(&hidden), SocketAddr::from_abstract_name(&name).unwrap()),
        ];
        for (socket, address) in bound {
            let manager = UnixDatagram::bind_addr(&address).unwrap();
            send(socket, "READY=1\n").unwrap();
            let mut told = [0; 64];
            let length = manager.recv(&mut told).unwrap();
            assert_eq!(&told[..length], b"READY=1\n");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str(), "READY=1\n").is_err());
    }
}
