//! What clients are told while a node reads its data: `-LOADING`.
//!
//! The cores do not serve before all of them are ready. If that takes long, a plain thread accepts on their sockets: it
//! answers whatever a client sends with one error and ends the connection, so that the client tries again. A client that
//! comes shortly before the end waits in the kernel's queue, as all do in the first [`PATIENCE`].
//!
//! The thread has ended before a core touches the sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::listener::Listener;

/// Clients wait for so long before they are told anything.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often sockets are looked at.
const INTERVAL: Duration = Duration::from_millis(10);
/// Connections at a time; further ones wait.
const CLIENTS_MAX: usize = 256;
/// A client that has sent nothing for so long is disconnected.
const SILENT_MAX: Duration = Duration::from_secs(10);

const ERROR: &[u8] = b"-LOADING Redis is loading the dataset in memory\r\n";

/// The thread. It ends when this is dropped.
pub struct Loading {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Loading {
    /// Answers clients of these sockets from now on. Without a thread they wait.
    pub fn start(listeners: &[Listener]) -> Loading {
        Loading::after(PATIENCE, listeners)
    }

    fn after(patience: Duration, listeners: &[Listener]) -> Loading {
        let sockets: Vec<Socket> = listeners.iter().filter_map(|listener| Socket::of(listener).ok()).collect();
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let thread = std::thread::Builder::new().name("keyloom-loading".into());
        let thread = thread.spawn(move || {
            if stopped.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                run(&sockets, &stopped);
            }
        });
        Loading { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic; and if it did, clients would be served all the same.
            let _ = thread.join();
        }
    }
}

/// A listening socket of its own descriptor.
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A client that is to be told.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

struct Client {
    stream: Stream,
    since: Instant,
    told: bool,
}

impl Socket {
    fn of(listener: &Listener) -> std::io::Result<Socket> {
        let fd = listener.duplicate()?;
        Ok(if listener.unix { Socket::Unix(fd.into()) } else { Socket::Tcp(fd.into()) })
    }

    /// The flag belongs to the socket, not to the descriptor: the cores wait in the kernel.
    fn set_nonblocking(&self, on: bool) {
        let _ = match self {
            Socket::Tcp(socket) => socket.set_nonblocking(on),
            Socket::Unix(socket) => socket.set_nonblocking(on),
        };
    }

    fn accept(&self) -> Option<Stream> {
        let stream = match self {
            Socket::Tcp(socket) => Stream::Tcp(socket.accept().ok()?.0),
            Socket::Unix(socket) => Stream::Unix(socket.accept().ok()?.0),
        };
        let set = match &stream {
            Stream::Tcp(stream) => stream.set_nonblocking(true),
            Stream::Unix(stream) => stream.set_nonblocking(true),
        };
        set.ok().map(|()| stream)
    }
}

impl Client {
    /// Reads, and answers once. False: it is to be closed.
    fn serve(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let read = match &mut self.stream {
            Stream::Tcp(stream) => stream.read(&mut bytes),
            Stream::Unix(stream) => stream.read(&mut bytes),
        };
        match read {
            Ok(0) => return false,
            Ok(_) if !self.told => self.tell(),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return false,
        }
        self.since.elapsed() < SILENT_MAX
    }

    /// The connection stays until the client closes it: closed with bytes unread it would be reset, and the error lost.
    fn tell(&mut self) {
        self.told = true;
        let _ = match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(ERROR).and_then(|()| stream.shutdown(Shutdown::Write)),
            Stream::Unix(stream) => stream.write_all(ERROR).and_then(|()| stream.shutdown(Shutdown::Write)),
        };
    }
}

fn run(sockets: &[Socket], stopped: &Receiver<()>) {
    sockets.iter().for_each(|socket| socket.set_nonblocking(true));
    let mut clients: Vec<Client> = Vec::new();
    while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        for socket in sockets {
            while clients.len() < CLIENTS_MAX
                && let Some(stream) = socket.accept()
            {
                clients.push(Client { stream, since: Instant::now(), told: false });
            }
        }
        clients.retain_mut(Client::serve);
    }
    // Who has asked nothing yet learns that it must come again.
    clients.iter_mut().filter(|client| !client.told).for_each(Client::tell);
    sockets.iter().for_each(|socket| socket.set_nonblocking(false));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::net::listener;

    #[test]
    fn clients_are_told_and_the_sockets_are_as_before() {
        let config = Config { port: 0, ..Config::default() };
        let listeners = listener::open(&config).unwrap();
        let port = listeners[0].port().unwrap();
        let connect = || {
            let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        };
        let loading = Loading::after(Duration::ZERO, &listeners);
        for request in [&b"PING\r\n"[..], &[b'x'; 100_000]] {
            let mut client = connect();
            client.write_all(request).unwrap();
            let mut reply = Vec::new();
            client.read_to_end(&mut reply).unwrap();
            assert_eq!(reply, ERROR);
        }
        drop(loading);
        // A blocking accept gets the next one.
        let Socket::Tcp(socket) = Socket::of(&listeners[0]).unwrap() else { unreachable!("no Unix socket") };
        let waiting = std::thread::spawn(move || socket.accept().is_ok());
        let _client = connect();
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn a_short_load_tells_nobody() {
        let config = Config { port: 0, ..Config::default() };
        let listeners = listener::open(&config).unwrap();
        let port = listeners[0].port().unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(b"PING\r\n").unwrap();
        drop(Loading::start(&listeners));
        let Socket::Tcp(socket) = Socket::of(&listeners[0]).unwrap() else { unreachable!("no Unix socket") };
        let mut served = socket.accept().unwrap().0;
        let mut request = [0; 6];
        served.read_exact(&mut request).unwrap();
        assert_eq!(&request, b"PING\r\n");
    }
}
