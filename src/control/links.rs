//! Connections between control cores: bytes in, bytes out, and how a replica gets in.
//!
//! A replica connects to the ordinary port of its primary, authenticates like any client and sends REPLICATE; the data core
//! that has accepted it hands the socket over ([`crate::net`]). From then on both sides speak in messages
//! ([`crate::replication::message`]). What is to be sent waits in an [`Outbox`], whose bound the machines watch.
//!
//! Owned by the control core.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use glommio::timer::timeout;

use crate::resp::{Output, Reply, Version};

/// How long it may take to connect, and to be let in.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Bytes that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// How long what is queued may take to be sent when a connection is closed.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// The longest answer of a primary before it speaks in messages.
const ANSWER_BYTES_MAX: usize = 4096;

/// What waits to be sent on one connection.
#[derive(Default)]
pub(super) struct Outbox(RefCell<Waiting>);

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(Vec<u8>, u64)>,
    /// Nothing comes any more; with `true`, what is here is not sent either.
    closed: Option<bool>,
    writer: Option<Waker>,
    closer: Option<Waker>,
}

impl Outbox {
    /// Queues a message; `cost` is what its sender counts it as.
    pub fn push(&self, bytes: Vec<u8>, cost: u64) {
        let mut waiting = self.0.borrow_mut();
        if waiting.closed.is_none() {
            waiting.messages.push_back((bytes, cost));
            waiting.writer.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Bytes that wait to be sent, and the memory that they have.
    pub fn waiting(&self) -> (usize, usize) {
        let waiting = self.0.borrow();
        let bytes = |of: fn(&Vec<u8>) -> usize| waiting.messages.iter().map(|(bytes, _)| of(bytes)).sum();
        (bytes(Vec::len), bytes(Vec::capacity))
    }

    /// Closes the connection: at once, or after what is queued was sent.
    pub fn close(&self, at_once: bool) {
        let mut waiting = self.0.borrow_mut();
        waiting.closed = Some(at_once || waiting.closed == Some(true));
        if at_once {
            waiting.messages.clear();
        }
        let Waiting { writer, closer, .. } = &mut *waiting;
        writer.take().into_iter().chain(closer.take()).for_each(Waker::wake);
    }

    /// Waits until the connection is to be closed, whatever is under way: whoever does not read must not hold it open.
    async fn over(&self) {
        let at_once = poll_fn(|context| {
            let mut waiting = self.0.borrow_mut();
            if let Some(at_once) = waiting.closed {
                return Poll::Ready(at_once);
            }
            waiting.closer = Some(context.waker().clone());
            Poll::Pending
        });
        if !at_once.await {
            glommio::timer::sleep(CLOSE_TIME).await;
        }
    }

    async fn next(&self) -> Option<(Vec<u8>, u64)> {
        poll_fn(|context| {
            let mut waiting = self.0.borrow_mut();
            if waiting.closed == Some(true) {
                return Poll::Ready(None);
            }
            if let Some(message) = waiting.messages.pop_front() {
                return Poll::Ready(Some(message));
            }
            if waiting.closed.is_some() {
                return Poll::Ready(None);
            }
            waiting.writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Two views of one connection: one reads, one writes.
pub(super) fn halves(socket: OwnedFd) -> io::Result<(TcpStream, TcpStream)> {
    let other = socket.try_clone()?;
    // SAFETY: each descriptor is open, owned by nobody else from here on, and a connected socket.
    let both = unsafe { (TcpStream::from_raw_fd(socket.into_raw_fd()), TcpStream::from_raw_fd(other.into_raw_fd())) };
    Ok(both)
}

/// Another descriptor of the same connection.
pub(super) fn duplicate(stream: &TcpStream) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call on an open descriptor; the copy is owned by nobody else.
    let copy = unsafe { libc::dup(stream.as_raw_fd()) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as said.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Sends what is queued until the outbox is closed or the connection broken, and then ends both directions. `sent` hears of
/// the cost of each message.
pub(super) async fn write_all(mut stream: TcpStream, outbox: Rc<Outbox>, mut sent: impl FnMut(u64)) {
    let fd = stream.as_raw_fd();
    let write = async {
        while let Some((bytes, cost)) = outbox.next().await {
            if stream.write_all(&bytes).await.is_err() {
                break;
            }
            sent(cost);
        }
    };
    futures_lite::future::or(write, outbox.over()).await;
    outbox.close(true);
    // SAFETY: a plain system call on a socket that is open as long as its stream: whoever reads from it sees the end.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    drop(stream);
}

/// Reads until the end; `take` returns false to stop.
pub(super) async fn read_all(mut stream: TcpStream, mut take: impl AsyncFnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if !take(&buffer[..count]).await {
            break;
        }
    }
    // SAFETY: as above.
    unsafe { libc::shutdown(stream.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Who a node says it is, to a primary.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub user: String,
    pub password: String,
}

/// Connects to a primary and is let in. The error is for the log.
pub(super) async fn connect(host: &str, port: u16, credentials: Credentials) -> Result<OwnedFd, String> {
    let connecting = async { Ok::<_, glommio::GlommioError<()>>(enter(host, port, credentials).await) };
    timeout(CONNECT_TIME, connecting).await.unwrap_or_else(|_| Err("no answer in time".into()))
}

async fn enter(host: &str, port: u16, credentials: Credentials) -> Result<OwnedFd, String> {
    let target = (host.to_string(), port);
    // Names are looked up where that may take its time.
    let found =
        glommio::executor().spawn_blocking(move || target.to_socket_addrs().map(|mut addrs| addrs.next())).await;
    let addr = found.map_err(|error| error.to_string())?.ok_or("the name has no address")?;
    let mut stream = TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    if !credentials.password.is_empty() {
        let mut auth: Vec<&[u8]> = vec![b"AUTH"];
        if !credentials.user.is_empty() {
            auth.push(credentials.user.as_bytes());
        }
        auth.push(credentials.password.as_bytes());
        ask(&mut stream, &auth).await?;
    }
    ask(&mut stream, &[b"REPLICATE"]).await?;
    duplicate(&stream).map_err(|error| error.to_string())
}

/// Sends a command and waits for `+OK`.
async fn ask(stream: &mut TcpStream, command: &[&[u8]]) -> Result<(), String> {
    let mut out = Output::new();
    let mut reply = Reply::new(&mut out, Version::V2);
    reply.array(command.len());
    command.iter().for_each(|word| reply.bulk(word));
    stream.write_all(&out.to_vec()).await.map_err(|error| error.to_string())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        // What comes behind the line is not for here.
        match stream.read(&mut byte).await {
            Ok(1) if line.len() < ANSWER_BYTES_MAX => line.push(byte[0]),
            Ok(_) => return Err("the connection was closed".into()),
            Err(error) => return Err(error.to_string()),
        }
    }
    match line.strip_prefix(b"+OK") {
        Some(_) => Ok(()),
        None => Err(String::from_utf8_lossy(&line).trim_end().trim_start_matches('-').to_string()),
    }
}
