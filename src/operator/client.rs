//! A connection to one node: one command at a time, each with its answer.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::resp::read::{Value, encode_command, parse_value};

/// How long a connection or an answer may take. Joining waits for an election at most.
const PATIENCE: Duration = Duration::from_secs(15);

/// The longest answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why a node cannot be asked, or does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("'{0}' is no address: HOST:PORT is wanted")]
    Address(String),
    #[error("{node}: {source}")]
    Io { node: String, source: io::Error },
    #[error("{node}: {said}")]
    Refused { node: String, said: String },
    #[error("{node}: the answer to {command} is not what it should be")]
    Answer { node: String, command: String },
}

pub(super) struct Client {
    address: String,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(address: &str, password: &str) -> Result<Client, ClientError> {
        Client::connect_within(address, password, PATIENCE)
    }

    /// A connection that, and each of whose answers, takes no longer than this.
    pub fn connect_within(address: &str, password: &str, patience: Duration) -> Result<Client, ClientError> {
        let io = |source| ClientError::Io { node: address.into(), source };
        let mut found = address.to_socket_addrs().map_err(|_| ClientError::Address(address.into()))?;
        let socket = found.next().ok_or_else(|| ClientError::Address(address.into()))?;
        let stream = TcpStream::connect_timeout(&socket, patience).map_err(io)?;
        stream.set_read_timeout(Some(patience)).map_err(io)?;
        stream.set_write_timeout(Some(patience)).map_err(io)?;
        let mut client = Client { address: address.into(), stream, buffer: Vec::new() };
        if !password.is_empty() {
            client.ask(&["AUTH", password])?;
        }
        Ok(client)
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// The answer to a command; one that is an error, is one here.
    pub fn ask(&mut self, command: &[&str]) -> Result<Value, ClientError> {
        let mut request = Vec::new();
        encode_command(command, &mut request);
        self.send(&request)?;
        match self.receive()? {
            Some(Value::Error(said)) => {
                let said = String::from_utf8_lossy(&said).into_owned();
                Err(ClientError::Refused { node: self.address.clone(), said })
            }
            Some(value) => Ok(value),
            None => Err(self.unexpected(command)),
        }
    }

    /// Sends commands whose answers are received later.
    pub fn send(&mut self, requests: &[u8]) -> Result<(), ClientError> {
        let sent = self.stream.write_all(requests);
        sent.map_err(|source| ClientError::Io { node: self.address.clone(), source })
    }

    /// The next answer, which may be an error; None: it makes no sense. After an error of the connection it is not to be used any
    /// more.
    pub fn receive(&mut self) -> Result<Option<Value>, ClientError> {
        let io = |node: &str, source| ClientError::Io { node: node.into(), source };
        loop {
            match parse_value(&self.buffer) {
                Ok(Some((value, used))) => {
                    self.buffer.drain(..used);
                    return Ok(Some(value));
                }
                Ok(None) if self.buffer.len() < ANSWER_BYTES_MAX => {}
                _ => return Ok(None),
            }
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io(&self.address, io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error) => return Err(io(&self.address, error)),
            }
        }
    }

    pub fn text(&mut self, command: &[&str]) -> Result<String, ClientError> {
        match self.ask(command)? {
            Value::Bulk(text) | Value::Simple(text) | Value::Verbatim { text, .. } => {
                String::from_utf8(text).map_err(|_| self.unexpected(command))
            }
            _ => Err(self.unexpected(command)),
        }
    }

    pub fn number(&mut self, command: &[&str]) -> Result<i64, ClientError> {
        match self.ask(command)? {
            Value::Int(number) => Ok(number),
            _ => Err(self.unexpected(command)),
        }
    }

    pub fn unexpected(&self, command: &[&str]) -> ClientError {
        ClientError::Answer { node: self.address.clone(), command: command.join(" ") }
    }
}
