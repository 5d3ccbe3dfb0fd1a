//! The sockets that accept clients.
//!
//! Each address has one listening socket, shared by all cores: the kernel wakes one core per connection, and that core
//! gives the connection to the core with the fewest clients. Beside it, if `core-endpoints` says so, each core has one of its
//! own, for clients who know which core has their keys. (A socket per core with SO_REUSEPORT would let a second
//! server start on the same port without an error, and would deal connections by hash, unevenly.)

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Bind, Config};
use crate::route::CoreId;

/// One listening socket; every core holds it.
#[derive(Clone, Debug)]
pub struct Listener {
    socket: Arc<OwnedFd>,
    pub unix: bool,
    /// The core that alone serves who connects here; None: any.
    pub core: Option<CoreId>,
    /// Where it listens, for the log and for clients' `laddr`.
    pub address: String,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot resolve bind address '{0}'")]
    Resolve(String),
    #[error("cannot listen on {address}: {error}")]
    Bind { address: String, error: io::Error },
}

/// How long to ask again for an address that is taken.
///
/// The kernel takes down the rings of a process that was killed after the process itself is gone, and with them the accept
/// that holds its listening socket. Whoever is started in its place meanwhile finds the address taken by nobody.
pub struct Patience(Instant);

impl Patience {
    /// Many times what the kernel needs.
    const TOTAL: Duration = Duration::from_secs(1);
    /// Between two attempts.
    pub const PAUSE: Duration = Duration::from_millis(10);

    pub fn begin() -> Patience {
        Patience(Instant::now())
    }

    /// Whether another attempt may end better than with this error.
    pub fn covers(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::AddrInUse && self.0.elapsed() < Patience::TOTAL
    }
}

/// Opens a listening socket; blocks for a second at most while its address is taken.
pub fn patiently<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let patience = Patience::begin();
    loop {
        match open() {
            Err(error) if patience.covers(&error) => std::thread::sleep(Patience::PAUSE),
            opened => return opened,
        }
    }
}

impl Listener {
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Another descriptor of the same socket.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// The port that a listener on port 0 was given.
    pub fn port(&self) -> Option<u16> {
        self.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
    }
}

/// Opens all sockets that the configuration names. A `bind` address that starts with `-` may fail.
pub fn open(config: &Config) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    if config.port != 0 || config.unixsocket.is_none() {
        for Bind { host, optional } in config.binds() {
            let cores = config.first_core_port().map_or(0..0, |_| 0..config.cpus.len() as CoreId);
            for core in std::iter::once(None).chain(cores.map(Some)) {
                match open_tcp(host, core, config) {
                    Ok(listener) => listeners.push(listener),
                    // What clients are told of has to be there.
                    Err(_) if optional && core.is_none() => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }
    if let Some(path) = &config.unixsocket {
        listeners.push(open_unix(path, config)?);
    }
    Ok(listeners)
}

fn open_tcp(host: &str, core: Option<CoreId>, config: &Config) -> Result<Listener, ListenError> {
    let port = core.zip(config.first_core_port()).map_or(config.port, |(core, first)| first + core);
    let resolved = (host, port).to_socket_addrs().ok().and_then(|mut all| all.next());
    let to = resolved.ok_or_else(|| ListenError::Resolve(host.to_string()))?;
    let fail = |error| ListenError::Bind { address: to.to_string(), error };
    let socket = socket(if to.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET }).map_err(fail)?;
    let on = 1;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, on).map_err(fail)?;
    if to.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, on).map_err(fail)?;
    }
    patiently(|| bind_tcp(&socket, &to)).map_err(fail)?;
    listen(&socket, config.tcp_backlog).map_err(fail)?;
    let address = local_address(&socket).map_or_else(|| to.to_string(), |a| a.to_string());
    Ok(Listener { socket: Arc::new(socket), unix: false, core, address })
}

fn open_unix(path: &str, config: &Config) -> Result<Listener, ListenError> {
    let fail = |error| ListenError::Bind { address: path.to_string(), error };
    // A socket file that a crashed server left behind accepts nobody; a live one must not be taken away.
    if Path::new(path).exists() && std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(fail(io::ErrorKind::AddrInUse.into()));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let socket = OwnedFd::from(std::os::unix::net::UnixListener::bind(path).map_err(fail)?);
    if config.unixsocketperm != 0 {
        let permissions = std::fs::Permissions::from_mode(config.unixsocketperm);
        std::fs::set_permissions(path, permissions).map_err(fail)?;
    }
    listen(&socket, config.tcp_backlog).map_err(fail)?;
    Ok(Listener { socket: Arc::new(socket), unix: true, core: None, address: path.to_string() })
}

fn socket(family: i32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the descriptor it returns is owned by nobody else.
    unsafe {
        let fd = libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Sets an integer socket option.
pub fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value outlives the call and has the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind_tcp(socket: &OwnedFd, to: &SocketAddr) -> io::Result<()> {
    // SAFETY: all-zero is a valid socket address of any family.
    let (mut v4, mut v6): (libc::sockaddr_in, libc::sockaddr_in6) = unsafe { std::mem::zeroed() };
    let (address, len): (*const libc::sockaddr, usize) = match to {
        SocketAddr::V4(to) => {
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = to.port().to_be();
            v4.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
            ((&raw const v4).cast(), size_of_val(&v4))
        }
        SocketAddr::V6(to) => {
            v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6.sin6_port = to.port().to_be();
            v6.sin6_addr.s6_addr = to.ip().octets();
            v6.sin6_scope_id = to.scope_id();
            ((&raw const v6).cast(), size_of_val(&v6))
        }
    };
    // SAFETY: the address outlives the call and has the length given.
    let result = unsafe { libc::bind(socket.as_raw_fd(), address, len as libc::socklen_t) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn listen(socket: &OwnedFd, backlog: i32) -> io::Result<()> {
    // SAFETY: a plain system call on an open socket.
    let result = unsafe { libc::listen(socket.as_raw_fd(), backlog) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The address of this side of a TCP socket.
pub fn local_address(socket: &impl AsRawFd) -> Option<SocketAddr> {
    address_with(socket, libc::getsockname)
}

/// The address of the other side of a TCP socket.
pub fn peer_address(socket: &impl AsRawFd) -> Option<SocketAddr> {
    address_with(socket, libc::getpeername)
}

type GetName = unsafe extern "C" fn(i32, *mut libc::sockaddr, *mut libc::socklen_t) -> i32;

fn address_with(socket: &impl AsRawFd, get: GetName) -> Option<SocketAddr> {
    // SAFETY: all-zero is a valid socket address of any family.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&storage) as libc::socklen_t;
    // SAFETY: the buffer is as long as `len` says.
    if unsafe { get(socket.as_raw_fd(), (&raw mut storage).cast(), &mut len) } < 0 {
        return None;
    }
    match storage.ss_family as i32 {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel has written this type, which is smaller than the storage.
            let v4: libc::sockaddr_in = unsafe { *(&raw const storage).cast() };
            Some(SocketAddr::from((v4.sin_addr.s_addr.to_ne_bytes(), u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6: libc::sockaddr_in6 = unsafe { *(&raw const storage).cast() };
            Some(SocketAddr::from((v6.sin6_addr.s6_addr, u16::from_be(v6.sin6_port))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_asked_for_again_and_nothing_else_is() {
        let mut errors = vec![io::ErrorKind::AddrInUse; 3];
        assert_eq!(patiently(|| errors.pop().map_or(Ok("bound"), |kind| Err(kind.into()))).unwrap(), "bound");
        let mut attempts = 0;
        let refused = patiently(|| {
            attempts += 1;
            Err::<(), _>(io::ErrorKind::PermissionDenied.into())
        });
        assert_eq!((refused.unwrap_err().kind(), attempts), (io::ErrorKind::PermissionDenied, 1));
    }
}
