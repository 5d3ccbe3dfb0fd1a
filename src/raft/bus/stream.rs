//! Frames over a socket, and both sides of a handshake.
//!
//! On the control core. A connection has a deadline until it is let in; who holds it has to bound what comes later.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use openraft_rt::AsyncRuntime;

use super::error::BusError;
use super::frame::{Decoder, Kind, Received, frame};
use super::handshake::{Identity, Nonce, Refused, Step};
use crate::raft::command::NodeId;
use crate::raft::runtime::Glommio;
use crate::raft::types::Peer;

/// How long it may take to connect and to be let in.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;

/// The next frame; None: the connection has ended where it may.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    decoder: &mut Decoder,
    kind: Kind,
) -> Result<Option<Received>, BusError> {
    loop {
        if let Some(received) = decoder.take(kind)? {
            return Ok(Some(received));
        }
        let mut buffer = [0; READ_BYTES];
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            decoder.end()?;
            return Ok(None);
        }
        decoder.push(&buffer[..count]);
    }
}

async fn say(stream: &mut TcpStream, step: &Step) -> Result<(), BusError> {
    stream.write_all(&frame(Kind::Handshake, 0, &step.encode()?)?).await?;
    Ok(())
}

/// The next step of the other side.
async fn hear(stream: &mut TcpStream, decoder: &mut Decoder) -> Result<Step, BusError> {
    let received = read(stream, decoder, Kind::Handshake).await?.ok_or(BusError::Closed)?;
    match Step::decode(&received.payload)? {
        Step::Refused(why) => Err(why.into()),
        step => Ok(step),
    }
}

/// Tells the other side why, if there is a reason that concerns it.
async fn refuse<T>(stream: &mut TcpStream, result: Result<T, Refused>) -> Result<T, BusError> {
    if let Err(why) = &result {
        // It may be gone.
        let _ = say(stream, &Step::Refused(why.clone())).await;
    }
    Ok(result?)
}

fn nonce() -> Result<Nonce, BusError> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|_| BusError::Io(io::ErrorKind::Other))?;
    Ok(nonce)
}

async fn look_up(peer: &Peer) -> Result<SocketAddr, BusError> {
    if let Ok(address) = peer.host.parse::<IpAddr>() {
        return Ok((address, peer.bus_port).into());
    }
    // Names are looked up where that may take its time.
    let name = (peer.host.clone(), peer.bus_port);
    let found = glommio::executor().spawn_blocking(move || name.to_socket_addrs().map(|mut found| found.next()));
    found.await.ok().flatten().ok_or_else(|| BusError::Name(peer.host.clone()))
}

/// Connects to a node and is let in: the version that both speak, and the decoder with the bytes behind the handshake.
pub async fn dial(
    identity: &Identity,
    target: NodeId,
    peer: &Peer,
    data: bool,
) -> Result<(TcpStream, u16, Decoder), BusError> {
    let newest = identity.versions.newest;
    match dial_in(newest, identity, target, peer, data).await {
        // It is of an older build: what it speaks will do, if this node does, too.
        Err(BusError::Refused(Refused::Version(older))) if older < newest && identity.versions.has(older) => {
            dial_in(older, identity, target, peer, data).await
        }
        dialled => dialled,
    }
}

async fn dial_in(
    version: u16,
    identity: &Identity,
    target: NodeId,
    peer: &Peer,
    data: bool,
) -> Result<(TcpStream, u16, Decoder), BusError> {
    let dialling = async {
        let address = look_up(peer).await?;
        let mut stream = TcpStream::connect(address).await.map_err(io::Error::from)?;
        let _ = stream.set_nodelay(true);
        let mut decoder = Decoder::default();
        let hello = identity.hello(version, target, data, nonce()?);
        say(&mut stream, &Step::Hello(hello.clone())).await?;
        let Step::Welcome(welcome) = hear(&mut stream, &mut decoder).await? else {
            return Err(Refused::Turn.into());
        };
        let proof = refuse(&mut stream, identity.prove(&hello, &welcome)).await?;
        say(&mut stream, &Step::Proof(proof)).await?;
        let Step::Accepted = hear(&mut stream, &mut decoder).await? else { return Err(Refused::Turn.into()) };
        Ok((stream, version, decoder))
    };
    Glommio::timeout(CONNECT_PATIENCE, dialling).await.unwrap_or(Err(BusError::Connect))
}

/// A node that was let in.
pub struct Accepted<T> {
    pub node: NodeId,
    /// The newest one that it speaks, and this node, too.
    pub version: u16,
    /// See [`super::handshake::Hello::stream`].
    pub stream: bool,
    pub admitted: T,
}

/// Lets a node in, and says who it is. `admit` is asked last.
pub async fn accept<T>(
    identity: &Identity,
    stream: &mut TcpStream,
    decoder: &mut Decoder,
    admit: impl FnOnce(NodeId) -> Option<T>,
) -> Result<Accepted<T>, BusError> {
    let accepting = async {
        let Step::Hello(hello) = hear(stream, decoder).await? else { return Err(Refused::Turn.into()) };
        let answer = identity.welcome(&hello, nonce()?);
        let welcome = refuse(stream, answer).await?;
        say(stream, &Step::Welcome(welcome.clone())).await?;
        let Step::Proof(proof) = hear(stream, decoder).await? else { return Err(Refused::Turn.into()) };
        refuse(stream, identity.accept(&hello, &welcome, &proof)).await?;
        let admitted = refuse(stream, admit(hello.node).ok_or(Refused::Full)).await?;
        say(stream, &Step::Accepted).await?;
        Ok(Accepted { node: hello.node, version: hello.version, stream: hello.stream, admitted })
    };
    Glommio::timeout(CONNECT_PATIENCE, accepting).await.unwrap_or(Err(BusError::Connect))
}
