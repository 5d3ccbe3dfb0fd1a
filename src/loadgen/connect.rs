//! Reaching the server: addresses, sockets, and what is said before the measurement begins.

use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use super::reply::{Outcome, ReplyError, ReplyReader};
use super::request;
use crate::resp::read::{ReadError, Value, parse_value};

/// Longest time to connect, and to wait for the reply to a greeting, ms.
pub const CONNECT_MS_MAX: u64 = 5_000;
/// Longest answer to a question.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Target::Tcp { host, port } => write!(f, "{host}:{port}"),
            Target::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// No connection could be made ready.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("could not connect to {target}: {source}")]
    Connect { target: Target, source: io::Error },
    #[error("{target} does not answer to {command}: {source}")]
    Silent { target: Target, command: &'static str, source: io::Error },
    #[error("{target} refuses {command}: {text}")]
    Refused { target: Target, command: &'static str, text: String },
    #[error("{target} does not speak RESP: {source}")]
    Foreign { target: Target, source: ReplyError },
    #[error("{target} answers {command} with what is not understood: {source}")]
    Answer { target: Target, command: &'static str, source: ReadError },
    #[error("{target} answers {command} with more than {ANSWER_BYTES_MAX} bytes")]
    Long { target: Target, command: &'static str },
}

/// What is sent on every new connection.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    pub user: Option<String>,
    pub password: Option<String>,
    pub resp3: bool,
    pub db: u32,
}

impl Greeting {
    /// Commands with their names, each to be answered before the next.
    pub fn commands(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut commands = Vec::new();
        let user = self.user.as_deref().unwrap_or("default").as_bytes();
        match (&self.password, self.resp3) {
            (Some(password), true) => {
                commands.push(("HELLO", request::frame(&[b"HELLO", b"3", b"AUTH", user, password.as_bytes()])));
            }
            (None, true) => commands.push(("HELLO", request::frame(&[b"HELLO", b"3"]))),
            (Some(password), false) if self.user.is_some() => {
                commands.push(("AUTH", request::frame(&[b"AUTH", user, password.as_bytes()])));
            }
            (Some(password), false) => commands.push(("AUTH", request::frame(&[b"AUTH", password.as_bytes()]))),
            (None, false) => {}
        }
        if self.db > 0 {
            commands.push(("SELECT", request::frame(&[b"SELECT", self.db.to_string().as_bytes()])));
        }
        commands
    }
}

/// A connected, non-blocking socket.
#[derive(Debug)]
pub enum Socket {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Socket {
    pub fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Socket::Tcp(socket) => socket,
            Socket::Unix(socket) => socket,
        }
    }

    /// Whether a connection that was begun has been made; an error if it cannot be.
    pub fn is_connected(&self) -> io::Result<bool> {
        let Socket::Tcp(socket) = self else { return Ok(true) };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            peer => peer.map(|_| true),
        }
    }

    #[inline]
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.read(into),
            Socket::Unix(socket) => socket.read(into),
        }
    }

    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.write(bytes),
            Socket::Unix(socket) => socket.write(bytes),
        }
    }
}

/// A connection that has been greeted and is ready for requests.
pub fn connect(target: &Target, greeting: &Greeting) -> Result<Socket, ConnectError> {
    open(target, greeting.commands())
}

/// Asks once, on a connection of its own, whether the server is there and lets this user in.
pub fn probe(target: &Target, greeting: &Greeting) -> Result<(), ConnectError> {
    let mut commands = greeting.commands();
    commands.push(("PING", request::frame(&[b"PING"])));
    match open(target, commands) {
        // A user may be kept from PING and still be allowed what the run sends.
        Err(ConnectError::Refused { command: "PING", text, .. }) if text.starts_with("NOPERM") => Ok(()),
        asked => asked.map(drop),
    }
}

fn open(target: &Target, commands: Vec<(&'static str, Vec<u8>)>) -> Result<Socket, ConnectError> {
    let failed = |source| ConnectError::Connect { target: target.clone(), source };
    match target {
        Target::Tcp { host, port } => {
            let mut socket = connect_tcp(host, *port, CONNECT_MS_MAX).map_err(failed)?;
            greet(&mut socket, target, commands)?;
            socket.set_nonblocking(true).map_err(failed)?;
            Ok(Socket::Tcp(mio::net::TcpStream::from_std(socket)))
        }
        Target::Unix(path) => {
            let mut socket = std::os::unix::net::UnixStream::connect(path).map_err(failed)?;
            socket.set_read_timeout(Some(Duration::from_millis(CONNECT_MS_MAX))).map_err(failed)?;
            greet(&mut socket, target, commands)?;
            socket.set_nonblocking(true).map_err(failed)?;
            Ok(Socket::Unix(mio::net::UnixStream::from_std(socket)))
        }
    }
}

/// Asks a server one thing, on a connection of its own; no step of it takes longer than `patience_ms`. An error reply is
/// an error here.
pub fn ask(
    target: &Target,
    greeting: &Greeting,
    command: &'static str,
    patience_ms: u64,
) -> Result<Value, ConnectError> {
    let Target::Tcp { host, port } = target else { unreachable!("nodes of a cluster have addresses") };
    let failed = |source| ConnectError::Connect { target: target.clone(), source };
    let silent = |source| ConnectError::Silent { target: target.clone(), command, source };
    let mut socket = connect_tcp(host, *port, patience_ms).map_err(failed)?;
    greet(&mut socket, target, greeting.commands())?;
    let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    socket.write_all(&request::frame(&words)).map_err(silent)?;
    let (mut answer, mut buf) = (Vec::new(), [0; 64 << 10]);
    loop {
        match parse_value(&answer) {
            Ok(Some((Value::Error(text), _))) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                return Err(ConnectError::Refused { target: target.clone(), command, text });
            }
            Ok(Some((value, _))) => return Ok(value),
            Ok(None) if answer.len() < ANSWER_BYTES_MAX => {}
            Ok(None) => return Err(ConnectError::Long { target: target.clone(), command }),
            Err(source) => return Err(ConnectError::Answer { target: target.clone(), command, source }),
        }
        match socket.read(&mut buf).map_err(silent)? {
            0 => return Err(silent(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed"))),
            n => answer.extend_from_slice(&buf[..n]),
        }
    }
}

/// The first address of the name that accepts; reads from it wait for as long as connecting may take.
fn connect_tcp(host: &str, port: u16, patience_ms: u64) -> io::Result<std::net::TcpStream> {
    let patience = Duration::from_millis(patience_ms);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match std::net::TcpStream::connect_timeout(&address, patience) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(patience))?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn greet(
    socket: &mut (impl Read + Write),
    target: &Target,
    commands: Vec<(&'static str, Vec<u8>)>,
) -> Result<(), ConnectError> {
    let mut reader = ReplyReader::default();
    let mut buf = [0; 4096];
    for (command, bytes) in commands {
        let silent = |source| ConnectError::Silent { target: target.clone(), command, source };
        socket.write_all(&bytes).map_err(silent)?;
        let outcome = loop {
            let n = match socket.read(&mut buf).map_err(silent)? {
                0 => return Err(silent(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed"))),
                n => n,
            };
            let read = reader.next(&buf[..n], &mut 0);
            match read.map_err(|source| ConnectError::Foreign { target: target.clone(), source })? {
                Some(outcome) => break outcome,
                None => continue,
            }
        };
        if outcome == Outcome::Error {
            let text = String::from_utf8_lossy(reader.error_text()).into_owned();
            return Err(ConnectError::Refused { target: target.clone(), command, text });
        }
    }
    Ok(())
}
