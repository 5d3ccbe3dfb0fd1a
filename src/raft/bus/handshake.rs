//! How two nodes make sure of each other before anything else is read.
//!
//! ```text
//!     dialling                                          accepting
//!     Hello { version, node, target, stream, .. }     ->
//!                     <- Welcome { version, node, cluster, nonce, proof }    or Refused
//!     Proof                                           ->                     or Refused
//!                     <- Accepted                                            or Refused
//! ```
//!
//! A proof is an HMAC-SHA256 under the shared secret over everything that both have said, with a word for the direction,
//! so that none can be sent back or used twice. With an empty secret it proves nothing, and everybody is let in who knows
//! the cluster's name. What follows the handshake is neither encrypted nor authenticated: the network between the nodes
//! has to be one where nobody can change what others send.
//!
//! Whoever is refused is told why. The form of these messages never changes; `version` is that of the requests and answers behind
//! them (data streams have one of their own, [`crate::streams::message`]): the newest that both speak. Whoever dials tries its own newest one, is refused with that of the other if that is older, and
//! tries again with that. None is older than the version that the cluster uses ([`crate::raft::orders`]).
//!
//! Pure; nonces are arguments.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use hmac::{Hmac, Mac};
use rkyv::{Archive, Deserialize, Serialize};
use sha2::Sha256;

use super::frame::{HANDSHAKE_BYTES_MAX, HEADER_BYTES};
use crate::raft::command::{COUNT_MAX, NodeId};
use crate::raft::stored::{self, OLDEST, StoredError, VERSION};

/// The newest version of the messages behind the handshake.
pub const PROTOCOL_VERSION: u16 = VERSION as u16;

/// The handshake bears this version for ever.
const FORM: u8 = 2;

/// Longest name of a cluster.
pub const CLUSTER_BYTES_MAX: usize = 64;

/// Longest secret.
pub const SECRET_BYTES_MAX: usize = 1_024;

// Everything but the name is less than two hundred bytes.
const _: () = assert!(CLUSTER_BYTES_MAX + 200 + HEADER_BYTES < HANDSHAKE_BYTES_MAX);

pub type Nonce = [u8; 32];
pub type Proof = [u8; 32];

/// What all nodes of a cluster know. Its bytes are in no message and in no log.
#[derive(Clone, Default)]
pub struct Secret(Rc<[u8]>);

impl Secret {
    pub fn new(bytes: &[u8]) -> Secret {
        Secret(bytes.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "kept secret" })
    }
}

/// Which versions a node speaks.
#[derive(Clone, Debug)]
pub struct Versions {
    pub newest: u16,
    /// Rises with the version that the cluster uses; all that have a part of it know.
    oldest: Rc<Cell<u16>>,
}

impl Versions {
    pub fn up_to(newest: u16) -> Versions {
        Versions { newest, oldest: Rc::new(Cell::new(OLDEST.into())) }
    }

    /// Nothing older is spoken from now on.
    pub fn raise(&self, oldest: u16) {
        self.oldest.set(oldest.max(self.oldest.get()));
    }

    pub fn has(&self, version: u16) -> bool {
        (self.oldest.get()..=self.newest).contains(&version)
    }
}

/// Who a node is on the bus.
#[derive(Clone, Debug)]
pub struct Identity {
    pub versions: Versions,
    pub cluster: String,
    /// 0: it has not joined, and can only propose.
    pub node: NodeId,
    /// Empty: none.
    pub secret: Secret,
}

/// Why a node cannot be on the bus at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the name of a cluster has 1 to {CLUSTER_BYTES_MAX} bytes")]
    Cluster,
    #[error("a secret has at most {SECRET_BYTES_MAX} bytes")]
    Secret,
    #[error("node {0} cannot be")]
    Node(NodeId),
}

/// Why one node does not talk to another.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("one node speaks version {PROTOCOL_VERSION} of the bus protocol, the other version {0}")]
    Version(u16),
    #[error("the other node belongs to cluster '{0}'")]
    Cluster(String),
    #[error("the node at this address is node {0}")]
    Node(NodeId),
    #[error("the nodes do not have the same secret")]
    Secret,
    #[error("the other node has as many connections as it may have")]
    Full,
    #[error("a step of the handshake came out of turn")]
    Turn,
}

/// What the node says that dials.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub version: u16,
    pub node: NodeId,
    /// Whom it wants to talk to; 0: whoever is there.
    pub target: NodeId,
    /// What comes behind the handshake is a stream of a partition's data ([`crate::streams`]), not requests.
    pub stream: bool,
    pub cluster: String,
    pub nonce: Nonce,
}

/// What the node says that accepts.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    pub version: u16,
    pub node: NodeId,
    pub cluster: String,
    pub nonce: Nonce,
    pub proof: Proof,
}

/// A step.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Hello(Hello),
    Welcome(Welcome),
    Proof(Proof),
    Accepted,
    Refused(Refused),
}

impl Step {
    pub fn encode(&self) -> Result<Vec<u8>, StoredError> {
        stored::encode(FORM, self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Step, StoredError> {
        let step = stored::decode_as::<Step>(FORM, bytes)?;
        let (node, target, cluster) = match &step {
            Step::Hello(hello) => (hello.node, hello.target, hello.cluster.as_str()),
            Step::Welcome(welcome) => (welcome.node, 0, welcome.cluster.as_str()),
            Step::Refused(Refused::Cluster(cluster)) => (0, 0, cluster.as_str()),
            Step::Refused(Refused::Node(node)) => (*node, 0, ""),
            Step::Refused(_) | Step::Proof(_) | Step::Accepted => (0, 0, ""),
        };
        if node > COUNT_MAX || target > COUNT_MAX {
            return Err(StoredError::Senseless("a node that cannot be"));
        }
        if cluster.len() > CLUSTER_BYTES_MAX {
            return Err(StoredError::Senseless("the name of a cluster is too long"));
        }
        Ok(step)
    }
}

impl Identity {
    pub fn check(&self) -> Result<(), IdentityError> {
        if self.cluster.is_empty() || self.cluster.len() > CLUSTER_BYTES_MAX {
            return Err(IdentityError::Cluster);
        }
        if self.secret.0.len() > SECRET_BYTES_MAX {
            return Err(IdentityError::Secret);
        }
        if self.node > COUNT_MAX { Err(IdentityError::Node(self.node)) } else { Ok(()) }
    }

    pub fn hello(&self, version: u16, target: NodeId, stream: bool, nonce: Nonce) -> Hello {
        Hello { version, node: self.node, target, stream, cluster: self.cluster.clone(), nonce }
    }

    /// The answer to a hello.
    pub fn welcome(&self, hello: &Hello, nonce: Nonce) -> Result<Welcome, Refused> {
        // Each is told what the other has.
        if !self.versions.has(hello.version) {
            return Err(Refused::Version(self.versions.newest));
        }
        if hello.cluster != self.cluster {
            return Err(Refused::Cluster(self.cluster.clone()));
        }
        if hello.target != 0 && hello.target != self.node {
            return Err(Refused::Node(self.node));
        }
        let mut welcome = Welcome {
            version: hello.version,
            node: self.node,
            cluster: self.cluster.clone(),
            nonce,
            proof: Proof::default(),
        };
        welcome.proof = self.mac(b"accepting", hello, &welcome).finalize().into_bytes().into();
        Ok(welcome)
    }

    /// The answer to a welcome.
    pub fn prove(&self, hello: &Hello, welcome: &Welcome) -> Result<Proof, Refused> {
        if welcome.version != hello.version {
            return Err(Refused::Version(welcome.version));
        }
        if welcome.cluster != self.cluster {
            return Err(Refused::Cluster(welcome.cluster.clone()));
        }
        if hello.target != 0 && welcome.node != hello.target {
            return Err(Refused::Node(welcome.node));
        }
        self.mac(b"accepting", hello, welcome).verify_slice(&welcome.proof).map_err(|_| Refused::Secret)?;
        Ok(self.mac(b"dialling", hello, welcome).finalize().into_bytes().into())
    }

    /// Whether the node that dials is let in.
    pub fn accept(&self, hello: &Hello, welcome: &Welcome, proof: &Proof) -> Result<(), Refused> {
        self.mac(b"dialling", hello, welcome).verify_slice(proof).map_err(|_| Refused::Secret)
    }

    /// Over all that was said but the proof. Names are preceded by their lengths: nothing can be taken for anything else.
    /// It is compared in constant time.
    fn mac(&self, direction: &[u8], hello: &Hello, welcome: &Welcome) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret.0).expect("a key of any length will do");
        mac.update(b"keyloom bus ");
        mac.update(direction);
        mac.update(&hello.target.to_le_bytes());
        mac.update(&[u8::from(hello.stream)]);
        let sides = [
            (hello.version, hello.node, &hello.cluster, &hello.nonce),
            (welcome.version, welcome.node, &welcome.cluster, &welcome.nonce),
        ];
        for (version, node, cluster, nonce) in sides {
            mac.update(&version.to_le_bytes());
            mac.update(&node.to_le_bytes());
            mac.update(&(cluster.len() as u64).to_le_bytes());
            mac.update(cluster.as_bytes());
            mac.update(nonce);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: &str, node: NodeId, secret: &[u8]) -> Identity {
        let versions = Versions::up_to(PROTOCOL_VERSION);
        Identity { versions, cluster: cluster.into(), node, secret: Secret::new(secret) }
    }

    fn shake(dialling: &Identity, accepting: &Identity, target: NodeId) -> Result<(), Refused> {
        let hello = dialling.hello(PROTOCOL_VERSION, target, false, [1; 32]);
        let welcome = accepting.welcome(&hello, [2; 32])?;
        let proof = dialling.prove(&hello, &welcome)?;
        accepting.accept(&hello, &welcome, &proof)
    }

    #[test]
    fn nodes_of_one_cluster_with_one_secret_talk() {
        let (one, two) = (identity("c", 1, b"secret"), identity("c", 2, b"secret"));
        assert_eq!(shake(&one, &two, 2), Ok(()));
        assert_eq!(shake(&one, &two, 0), Ok(()));
        assert_eq!(shake(&identity("c", 1, b""), &identity("c", 2, b""), 2), Ok(()));
        assert_eq!(shake(&one, &two, 3), Err(Refused::Node(2)));
        assert_eq!(shake(&one, &identity("d", 2, b"secret"), 2), Err(Refused::Cluster("d".into())));
        for other in [&b""[..], b"Secret", b"secrets"] {
            assert_eq!(shake(&one, &identity("c", 2, other), 2), Err(Refused::Secret));
        }
        let hello = Hello { version: PROTOCOL_VERSION + 1, ..one.hello(PROTOCOL_VERSION, 2, false, [1; 32]) };
        assert_eq!(two.welcome(&hello, [2; 32]), Err(Refused::Version(PROTOCOL_VERSION)));
    }

    #[test]
    fn the_older_of_two_versions_is_spoken_until_the_cluster_uses_a_newer_one() {
        let (one, two) = (identity("c", 1, b"secret"), identity("c", 2, b"secret"));
        let hello = one.hello(OLDEST.into(), 2, false, [1; 32]);
        let welcome = two.welcome(&hello, [2; 32]).unwrap();
        assert_eq!(welcome.version, u16::from(OLDEST));
        assert!(one.prove(&hello, &welcome).is_ok());
        let other = Welcome { version: PROTOCOL_VERSION, ..welcome };
        assert_eq!(one.prove(&hello, &other), Err(Refused::Version(PROTOCOL_VERSION)));
        two.versions.raise(PROTOCOL_VERSION);
        assert_eq!(two.welcome(&hello, [2; 32]), Err(Refused::Version(PROTOCOL_VERSION)));
        two.versions.raise(OLDEST.into());
        assert!(!two.versions.has(OLDEST.into()), "it never goes back");
    }

    #[test]
    fn a_proof_is_good_once_and_in_one_direction() {
        let (one, two) = (identity("c", 1, b"secret"), identity("c", 2, b"secret"));
        let hello = one.hello(PROTOCOL_VERSION, 2, false, [1; 32]);
        let welcome = two.welcome(&hello, [2; 32]).unwrap();
        let proof = one.prove(&hello, &welcome).unwrap();
        assert_ne!(proof, welcome.proof);
        assert_eq!(two.accept(&hello, &welcome, &welcome.proof), Err(Refused::Secret));
        let later = two.welcome(&hello, [3; 32]).unwrap();
        assert_eq!(two.accept(&hello, &later, &proof), Err(Refused::Secret));
        for other in [Hello { node: 3, ..hello.clone() }, Hello { stream: true, ..hello.clone() }] {
            assert_eq!(two.accept(&other, &welcome, &proof), Err(Refused::Secret));
        }
        for at in 0..proof.len() {
            let mut bad = proof;
            bad[at] ^= 1;
            assert_eq!(two.accept(&hello, &welcome, &bad), Err(Refused::Secret));
        }
    }

    #[test]
    fn steps_are_short_and_what_is_senseless_is_refused() {
        let longest = identity(&"c".repeat(CLUSTER_BYTES_MAX), COUNT_MAX, b"s");
        assert_eq!(longest.check(), Ok(()));
        let hello = longest.hello(PROTOCOL_VERSION, COUNT_MAX, false, [1; 32]);
        let welcome = longest.welcome(&hello, [2; 32]).unwrap();
        for step in [Step::Hello(hello.clone()), Step::Welcome(welcome), Step::Accepted] {
            let bytes = step.encode().unwrap();
            assert!(bytes.len() <= HANDSHAKE_BYTES_MAX);
            assert_eq!(Step::decode(&bytes), Ok(step));
        }
        let bad = Step::Hello(Hello { node: COUNT_MAX + 1, ..hello.clone() });
        assert!(Step::decode(&bad.encode().unwrap()).is_err());
        let bad = Step::Hello(Hello { cluster: "c".repeat(CLUSTER_BYTES_MAX + 1), ..hello });
        assert!(Step::decode(&bad.encode().unwrap()).is_err());
        assert_eq!(identity("", 1, b"").check(), Err(IdentityError::Cluster));
        assert_eq!(identity("c", 1, &[0; SECRET_BYTES_MAX + 1]).check(), Err(IdentityError::Secret));
        assert_eq!(format!("{:?}", Secret::new(b"abc")), "kept secret");
    }
}
