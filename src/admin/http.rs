//! The admin endpoint: a small HTTP/1.1 server for scrapers and health probes, on the control core.
//!
//! It reads a request's head, answers and closes; a body is never read. Each connection is one task. It asks the data
//! cores for their numbers and, when they are busy, shows the last ones it has, so that it answers while they work.

use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::{sleep, timeout};

use super::logging;
use super::metrics::{self, NodeFacts};
use super::page;
use super::process::Process;
use crate::config::Config;
use crate::control::Control;
use crate::net::listener::{ListenError, patiently};

/// Connections served at once; further ones are refused.
pub const CONNECTIONS_MAX: usize = 64;
/// Refused connections that are told so at once; further ones are closed without a word.
const REFUSALS_MAX: usize = 16;
/// Longest request line with all headers, bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// How long a client may take to send its request, and then to take the reply.
const READ_TIME: Duration = Duration::from_secs(3);
const WRITE_TIME: Duration = Duration::from_secs(2);
/// Most that is read, and thrown away, of what a client sends after its request's head.
const DRAIN_BYTES_MAX: usize = 256 * 1024;
/// How long the metrics wait for a busy core.
const METRICS_PATIENCE: Duration = Duration::from_millis(250);
/// A core that takes longer than this to answer is not healthy. Less than the second that probes usually wait.
const HEALTH_PATIENCE: Duration = Duration::from_millis(900);
/// Pause after an error of accept, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

const INDEX: &str = "\
Keyloom

/metrics            metrics in Prometheus' text format
/healthz            whether every core answers
/cluster            a page that shows the cluster, live
/cluster.json       what it shows
/cluster/ring.json  where nodes and partitions stand on the ring
";
const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

/// Opens the socket of the admin endpoint, if the configuration wants one.
pub fn listen(config: &Config) -> Result<Option<std::net::TcpListener>, ListenError> {
    if config.admin_port == 0 {
        return Ok(None);
    }
    let host = match config.admin_bind.as_str() {
        "*" => "0.0.0.0",
        "::*" => "::",
        host => host,
    };
    let fail = |error| ListenError::Bind { address: format!("{host}:{} (admin-port)", config.admin_port), error };
    let bind = || std::net::TcpListener::bind((host, config.admin_port));
    patiently(bind).map(Some).map_err(fail)
}

/// Serves until the executor ends.
pub async fn serve(listener: std::net::TcpListener, control: Rc<Control>) {
    // SAFETY: a listening socket that is handed over.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    // Each connection holds a copy of one of these, so the count of copies is that of connections.
    let (open, refused) = (Rc::new(()), Rc::new(()));
    loop {
        match listener.accept().await {
            Ok(stream) if Rc::strong_count(&open) <= CONNECTIONS_MAX => {
                let (control, open) = (Rc::clone(&control), Rc::clone(&open));
                let connection = async move {
                    serve_connection(stream, &control).await;
                    drop(open);
                };
                glommio::spawn_local(connection).detach();
            }
            Ok(mut stream) if Rc::strong_count(&refused) <= REFUSALS_MAX => {
                let refused = Rc::clone(&refused);
                let refusal = async move {
                    let response = Response::new(Status::Unavailable, "too many connections\n");
                    let _ = within(WRITE_TIME, send(&mut stream, &response.head_and_body(true))).await;
                    drop(refused);
                };
                glommio::spawn_local(refusal).detach();
            }
            Ok(stream) => drop(stream),
            Err(error) => {
                tracing::warn!(%error, "the admin endpoint cannot accept a connection");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Bounds a step of a connection. The outer error says that the time is over.
async fn within<T>(time: Duration, step: impl Future<Output = T>) -> Result<T, glommio::GlommioError<()>> {
    timeout(time, async { Ok(step.await) }).await
}

/// One connection: one request, one reply. An error is a client that is gone or too slow; nobody is left to tell.
async fn serve_connection(mut stream: TcpStream, control: &Control) {
    let request = match within(READ_TIME, read_request(&mut stream)).await {
        Ok(Ok(request)) => request,
        Ok(Err(_)) => return,
        Err(_) => Err(Status::RequestTimeout),
    };
    let _ = within(WRITE_TIME, reply(&mut stream, control, request)).await;
}

async fn reply(stream: &mut TcpStream, control: &Control, request: Result<Request, Status>) -> io::Result<()> {
    let with_body = !matches!(&request, Ok(request) if request.head_only);
    let response = match request {
        Ok(request) => answer(control, &request.path).await,
        Err(status) => Response::new(status, ""),
    };
    send(stream, &response.head_and_body(with_body)).await
}

/// Sends the last bytes of a connection so that they arrive: a socket closed with unread bytes resets the connection,
/// and the client could lose the reply.
async fn send(stream: &mut TcpStream, reply: &str) -> io::Result<()> {
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown(Shutdown::Write).await.map_err(io::Error::from)?;
    let (mut buffer, mut drained) = ([0; 4096], 0);
    while drained < DRAIN_BYTES_MAX {
        match stream.read(&mut buffer).await? {
            0 => break,
            n => drained += n,
        }
    }
    Ok(())
}

async fn answer(control: &Control, path: &str) -> Response {
    match path {
        "/" => Response::new(Status::Ok, INDEX),
        "/metrics" => {
            control.ask(METRICS_PATIENCE).await;
            let page = metrics::render(&control.snapshots(), &facts(control));
            Response { content_type: metrics::CONTENT_TYPE, ..Response::new(Status::Ok, page) }
        }
        "/healthz" => {
            let late = control.ask(HEALTH_PATIENCE).await;
            if late.is_empty() {
                return Response::new(Status::Ok, "ok\n");
            }
            let lines = late.iter().map(|core| format!("core {core} does not answer\n"));
            Response::new(Status::Unavailable, lines.collect::<String>())
        }
        "/cluster" => Response { content_type: HTML, ..Response::new(Status::Ok, page::HTML) },
        "/cluster.json" => {
            control.ask(METRICS_PATIENCE).await;
            let uptime = control.node().state.started.elapsed();
            let numbers = page::numbers(&control.snapshots(), &facts(control), uptime, control.cluster_status());
            Response { content_type: JSON, ..Response::new(Status::Ok, numbers.to_string()) }
        }
        "/cluster/ring.json" => {
            let ring = page::ring(&control.cluster_status().unwrap_or_default());
            Response { content_type: JSON, ..Response::new(Status::Ok, ring.to_string()) }
        }
        _ => Response::new(Status::NotFound, ""),
    }
}

fn facts(control: &Control) -> NodeFacts {
    let state = &control.node().state;
    let (maxmemory_bytes, maxclients) = state.config.with(|config| (config.maxmemory_bytes, config.maxclients));
    NodeFacts {
        process: Process::read(),
        uptime_s: state.started.elapsed().as_secs(),
        maxmemory_bytes,
        maxclients: maxclients as u64,
        log_dropped_lines: logging::dropped_lines(),
        log: control.log_numbers(),
        snapshot_ages: control.ages(),
    }
}

#[derive(Debug, PartialEq)]
struct Request {
    /// Without the query.
    path: String,
    /// HEAD: the reply has no body.
    head_only: bool,
}

async fn read_request(stream: &mut TcpStream) -> io::Result<Result<Request, Status>> {
    let mut head = vec![0; HEAD_BYTES_MAX];
    let mut len = 0;
    loop {
        let n = stream.read(&mut head[len..]).await?;
        len += n;
        match parse(&head[..len]) {
            Ok(None) if n == 0 && len == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(None) if n == 0 => return Ok(Err(Status::BadRequest)),
            Ok(None) if len == HEAD_BYTES_MAX => return Ok(Err(Status::HeadTooLarge)),
            Ok(None) => {}
            Ok(Some(request)) => return Ok(Ok(request)),
            Err(status) => return Ok(Err(status)),
        }
    }
}

/// Reads a request's head; `None` if its end has not come yet.
fn parse(head: &[u8]) -> Result<Option<Request>, Status> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Status::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(Status::VersionNotSupported),
        Err(_) => return Err(Status::BadRequest),
    }
    let head_only = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Status::MethodNotAllowed),
    };
    let target = request.path.unwrap_or_default();
    let path = target.split_once('?').map_or(target, |(path, _)| path).to_string();
    Ok(Some(Request { path, head_only }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    HeadTooLarge,
    Unavailable,
    VersionNotSupported,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::RequestTimeout => "408 Request Timeout",
            Status::HeadTooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
            Status::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

struct Response {
    status: Status,
    content_type: &'static str,
    body: String,
}

impl Response {
    /// A reply in plain text; without a body of its own it says its status.
    fn new(status: Status, body: impl Into<String>) -> Response {
        let mut body = body.into();
        if body.is_empty() {
            body = format!("{}\n", status.line());
        }
        Response { status, content_type: PLAIN, body }
    }

    fn head_and_body(&self, with_body: bool) -> String {
        let mut text = String::with_capacity(self.body.len() + 256);
        let (status, content_type, length) = (self.status.line(), self.content_type, self.body.len());
        let _ = write!(text, "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n");
        if self.status == Status::MethodNotAllowed {
            text.push_str("Allow: GET, HEAD\r\n");
        }
        text.push_str("Cache-Control: no-store\r\nConnection: close\r\n\r\n");
        if with_body {
            text.push_str(&self.body);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(head: &str) -> Result<Option<String>, Status> {
        parse(head.as_bytes()).map(|request| request.map(|request| request.path))
    }

    #[test]
    fn requests_and_what_is_wrong_with_them() {
        assert_eq!(path("GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Some("/metrics".into())));
        assert_eq!(path("GET / HTTP/1.0\r\n\r\n"), Ok(Some("/".into())));
        assert!(parse(b"HEAD / HTTP/1.1\r\n\r\n").unwrap().unwrap().head_only);
        assert_eq!(path("POST / HTTP/1.1\r\n\r\n"), Err(Status::MethodNotAllowed));
        assert_eq!(path("GET / HTTP/2.0\r\n\r\n"), Err(Status::VersionNotSupported));
        for bad in ["*1\r\n$4\r\nPING\r\n", "GET /\r\n\r\n", "GET / HTTP/1.1\r\n:\r\n\r\n", "\0"] {
            assert_eq!(path(bad), Err(Status::BadRequest), "{bad:?}");
        }
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(path(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Err(Status::HeadTooLarge));
    }

    #[test]
    fn a_head_is_whole_at_its_last_byte() {
        let head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(path(&head[..end]), Ok(None), "{end}");
        }
        assert_eq!(path(head), Ok(Some("/healthz".into())));
    }

    #[test]
    fn replies_tell_their_length_and_close() {
        let response = Response::new(Status::MethodNotAllowed, "");
        let text = response.head_and_body(true);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        assert!(head.contains("\r\nAllow: GET, HEAD\r\n") && head.ends_with("\r\nConnection: close"), "{head}");
        assert!(response.head_and_body(false).ends_with("\r\n\r\n"));
    }
}
