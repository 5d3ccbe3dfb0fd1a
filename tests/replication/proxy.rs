//! A way between two nodes that can be cut, or stand still.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const POLL: Duration = Duration::from_millis(2);

#[derive(Default)]
struct State {
    ends: AtomicBool,
    /// New connections are closed at once.
    cut: AtomicBool,
    /// Bytes that were passed to whoever has connected, and where that stands still.
    bytes: AtomicU64,
    still_at: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// A way to `target`.
    pub fn to(target: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { still_at: AtomicU64::new(u64::MAX), ..State::default() });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            while !shared.ends.load(Ordering::Relaxed) {
                let Ok((near, _)) = listener.accept() else {
                    std::thread::sleep(POLL);
                    continue;
                };
                let far = TcpStream::connect((Ipv4Addr::LOCALHOST, target));
                let (false, Ok(far)) = (shared.cut.load(Ordering::Relaxed), far) else { continue };
                near.set_nonblocking(false).unwrap();
                let mut open = shared.open.lock().unwrap();
                open.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                pass(near.try_clone().unwrap(), far.try_clone().unwrap(), Arc::clone(&shared), false);
                pass(far, near, Arc::clone(&shared), true);
            }
        });
        Proxy { port, state }
    }

    /// Closes all connections, and lets no new ones through.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::Relaxed);
        self.close_all();
    }

    fn close_all(&self) {
        for socket in self.state.open.lock().unwrap().drain(..) {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.state.still_at.store(u64::MAX, Ordering::Relaxed);
        self.state.cut.store(false, Ordering::Relaxed);
    }

    /// New connections are let through, and nothing is passed on any more when so many more bytes were.
    pub fn mend_for(&self, bytes: u64) {
        self.hold_after(bytes);
        self.state.cut.store(false, Ordering::Relaxed);
    }

    /// Nothing is passed on any more when so many more bytes were.
    pub fn hold_after(&self, bytes: u64) {
        self.state.still_at.store(self.bytes() + bytes, Ordering::Relaxed);
    }

    /// Bytes that were passed on to whoever has connected.
    pub fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::Relaxed)
    }

    pub fn is_still(&self) -> bool {
        self.bytes() >= self.state.still_at.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ends.store(true, Ordering::Relaxed);
        self.cut();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: Arc<State>, counts: bool) {
    std::thread::spawn(move || {
        let mut chunk = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            let stands = || counts && state.bytes.load(Ordering::Relaxed) >= state.still_at.load(Ordering::Relaxed);
            while stands() && !state.ends.load(Ordering::Relaxed) {
                std::thread::sleep(POLL);
            }
            if counts {
                state.bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
            if to.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        for socket in [&from, &to] {
            let _ = socket.shutdown(Shutdown::Both);
        }
    });
}
