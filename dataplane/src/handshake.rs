//! How two peers prove who they are and agree on fresh keys: Noise IK over X25519.
//!
//! Owns the two handshake messages and the directory of who has which key; performs no IO. Always
//! true: keys come out only if the other side's static key is the one the directory has for the
//! peer it claims to be, both sides spoke of the same cluster and version, and the keys are fresh.
//! Must not: keep time, send, or put anything secret into an error.
//!
//! The dialler knows the acceptor's key; the acceptor learns the dialler's from the first message
//! and looks it up. The acceptor's keys are *unconfirmed* until the first message under them
//! arrives: a recording of message 1 can be replayed by anyone, but its replayer cannot compute the
//! keys. Whoever keeps sessions must not let unconfirmed ones replace anything.

use std::fmt;

use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use crate::crypto::keys::{StaticPublic, StaticSecret};
use crate::crypto::mac::LinkKey;
use crate::header::VERSION;
use crate::types::{OpenError, PeerId};

/// The Noise protocol; part of what the transcript binds.
const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// Protocol version, two zero bytes, claimed identity.
const CLAIM_SIZE: usize = 8;
/// Message 1: ephemeral key, sealed static key, sealed claim.
pub const HELLO_SIZE: usize = 32 + (32 + 16) + (CLAIM_SIZE + 16);
/// Message 2: ephemeral key, sealed claim.
pub const REPLY_SIZE: usize = 32 + (CLAIM_SIZE + 16);

/// Who we are on every link.
pub struct Identity {
    /// Our name.
    pub peer: PeerId,
    /// Proves it.
    pub secret: StaticSecret,
}

/// Who may talk to us: a fixed set of names and keys, each name and each key once.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Sorted by name.
    entries: Vec<(PeerId, StaticPublic)>,
    /// How many of them are replicas.
    replicas: usize,
    /// Sorted by key; the position in `entries`.
    by_key: Vec<([u8; 32], u32)>,
}

impl Directory {
    /// A directory of these peers. May include ourselves.
    ///
    /// # Errors
    /// A name or a key that appears twice: then a key would not say who somebody is.
    pub fn new(peers: impl IntoIterator<Item = (PeerId, StaticPublic)>) -> Result<Self, OpenError> {
        let mut entries: Vec<_> = peers.into_iter().collect();
        entries.sort_by_key(|(peer, _)| *peer);
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(OpenError::BadValue {
                field: "peers".into(),
                value: pair[0].0.to_string(),
                problem: "listed twice".into(),
                remedy: "give every member and client its own number".into(),
            });
        }
        let mut by_key: Vec<_> =
            (0u32..).zip(&entries).map(|(index, (_, key))| (*key.as_bytes(), index)).collect();
        by_key.sort_unstable();
        if let Some(pair) = by_key.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let name = |of: &([u8; 32], u32)| entries[of.1 as usize].0;
            return Err(OpenError::BadValue {
                field: "peers".into(),
                value: format!("{} and {}", name(&pair[0]), name(&pair[1])),
                problem: "both have the same key".into(),
                remedy: "generate one key per member and client".into(),
            });
        }
        let replicas = entries.partition_point(|(peer, _)| !peer.is_client());
        Ok(Self { entries, replicas, by_key })
    }

    /// How many peers there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Is nobody allowed?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A dense number for `peer`, below [`Directory::len`].
    pub fn index_of(&self, peer: PeerId) -> Option<usize> {
        // Replicas are usually 0..n and sort before clients 0..m, so most look-ups end here.
        let guess = peer.index() as usize + if peer.is_client() { self.replicas } else { 0 };
        match self.entries.get(guess) {
            Some((found, _)) if *found == peer => Some(guess),
            _ => self.entries.binary_search_by_key(&peer, |(peer, _)| *peer).ok(),
        }
    }

    /// The peer with this dense number.
    pub fn peer_at(&self, index: usize) -> Option<PeerId> {
        self.entries.get(index).map(|(peer, _)| *peer)
    }

    /// The key `peer` must present.
    pub fn key_of(&self, peer: PeerId) -> Option<&StaticPublic> {
        self.entries.get(self.index_of(peer)?).map(|(_, key)| key)
    }

    /// Whose key this is.
    pub fn peer_of(&self, key: &[u8; 32]) -> Option<PeerId> {
        let place = self.by_key.binary_search_by_key(key, |(key, _)| *key).ok()?;
        self.peer_at(self.by_key[place].1 as usize)
    }
}

/// Fresh keys of one connection, one per direction. Sequences start at 1 under each.
pub struct SessionKeys {
    /// For what we send.
    pub tx: LinkKey,
    /// For what we receive.
    pub rx: LinkKey,
}

/// Why a handshake did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The bytes have the wrong size.
    Malformed,
    /// The message does not decrypt: it was made for another key or cluster, or altered.
    Undecryptable,
    /// The other side speaks another version.
    Version {
        /// Theirs.
        theirs: u16,
    },
    /// Nobody of this name is in the directory.
    UnknownPeer {
        /// The claimed name.
        claimed: PeerId,
    },
    /// The key is nobody's in the directory although the claimed name is there.
    UnknownKey {
        /// The claimed name.
        claimed: PeerId,
    },
    /// The key belongs to somebody else than the claimed name.
    WrongKey {
        /// The claimed name.
        claimed: PeerId,
        /// Whose key it is.
        owner: PeerId,
    },
    /// Somebody who claims to be us, or ourselves through a wrong address.
    Ourselves,
    /// Our own key or randomness was refused by the Noise library.
    Internal,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => write!(f, "malformed handshake message"),
            Self::Undecryptable => write!(
                f,
                "the handshake does not decrypt: the other side has another key for us in its \
                 configuration, or another cluster's; compare the public keys of both sides"
            ),
            Self::Version { theirs } => write!(
                f,
                "the other side speaks version {theirs}, we speak {VERSION}; run the same release"
            ),
            Self::UnknownPeer { claimed } => {
                write!(f, "{claimed} is not in the configuration; add it with its public key")
            }
            Self::UnknownKey { claimed } => write!(
                f,
                "{claimed} presents a key that is not in the configuration; did you mix two \
                 clusters' directories, or was its key generated again?"
            ),
            Self::WrongKey { claimed, owner } => write!(
                f,
                "a peer claims to be {claimed} with the key of {owner}; was a directory copied \
                 without changing its number?"
            ),
            Self::Ourselves => {
                write!(f, "a peer claims to be this very one; do two run the same directory?")
            }
            Self::Internal => write!(f, "no handshake can be made; is our key file valid?"),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// What both sides must agree on before a byte is exchanged: another cluster cannot even decrypt.
fn prologue(cluster: u64) -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(b"tetrarch");
    bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
    bytes[10..].copy_from_slice(&cluster.to_le_bytes());
    bytes
}

fn claim(peer: PeerId) -> [u8; CLAIM_SIZE] {
    let mut bytes = [0; CLAIM_SIZE];
    bytes[..2].copy_from_slice(&VERSION.to_le_bytes());
    bytes[4..].copy_from_slice(&peer.0.to_le_bytes());
    bytes
}

fn read_claim(bytes: &[u8; CLAIM_SIZE]) -> Result<PeerId, HandshakeError> {
    let theirs = u16::from_le_bytes([bytes[0], bytes[1]]);
    if theirs != VERSION {
        return Err(HandshakeError::Version { theirs });
    }
    Ok(PeerId(u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])))
}

fn builder<'a>(secret: &'a [u8; 32], prologue: &'a [u8]) -> Result<Builder<'a>, HandshakeError> {
    let params = PATTERN.parse().map_err(|_| HandshakeError::Internal)?;
    Builder::new(params)
        .local_private_key(secret)
        .and_then(|builder| builder.prologue(prologue))
        .map_err(|_| HandshakeError::Internal)
}

/// Link keys from the finished handshake: (dialler to acceptor, acceptor to dialler). The
/// transcript hash binds them to everything both sides said.
fn split(noise: &mut HandshakeState) -> (LinkKey, LinkKey) {
    let (first, second) = noise.dangerously_get_raw_split();
    let (first, second) = (Zeroizing::new(first), Zeroizing::new(second));
    let derive = |context: &str, secret: &[u8; 32]| {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(secret).update(noise.get_handshake_hash());
        LinkKey::new(&Zeroizing::new(*hasher.finalize().as_bytes()))
    };
    (
        derive("tetrarch 2026 link key, dialler to acceptor", &first),
        derive("tetrarch 2026 link key, acceptor to dialler", &second),
    )
}

/// The dialling side between the two messages.
pub struct Dialler {
    noise: Box<HandshakeState>,
    peer: PeerId,
}

impl Dialler {
    /// Begin a handshake with `peer`, whose key the directory has; message 1 is the second value.
    ///
    /// # Errors
    /// `peer` is not in the directory, or our own key is no key.
    pub fn start(
        identity: &Identity,
        directory: &Directory,
        cluster: u64,
        peer: PeerId,
    ) -> Result<(Self, [u8; HELLO_SIZE]), HandshakeError> {
        let key = directory.key_of(peer).ok_or(HandshakeError::UnknownPeer { claimed: peer })?;
        let prologue = prologue(cluster);
        let mut noise = builder(identity.secret.as_bytes(), &prologue)?
            .remote_public_key(key.as_bytes())
            .and_then(Builder::build_initiator)
            .map_err(|_| HandshakeError::Internal)?;
        let mut hello = [0; HELLO_SIZE];
        let size = noise
            .write_message(&claim(identity.peer), &mut hello)
            .map_err(|_| HandshakeError::Internal)?;
        debug_assert_eq!(size, HELLO_SIZE);
        Ok((Self { noise: Box::new(noise), peer }, hello))
    }

    /// Whom we dial.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Complete with message 2. The acceptor has proved who it is; what we send next proves us.
    ///
    /// # Errors
    /// The reply is not from the peer we dialled.
    pub fn finish(mut self, reply: &[u8]) -> Result<SessionKeys, HandshakeError> {
        if reply.len() != REPLY_SIZE {
            return Err(HandshakeError::Malformed);
        }
        let mut payload = [0; CLAIM_SIZE];
        match self.noise.read_message(reply, &mut payload) {
            Ok(CLAIM_SIZE) => {}
            Ok(_) => return Err(HandshakeError::Malformed),
            Err(_) => return Err(HandshakeError::Undecryptable),
        }
        let claimed = read_claim(&payload)?;
        if claimed != self.peer {
            // The key was right, so this is a peer whose own number is configured wrongly.
            return Err(HandshakeError::WrongKey { claimed, owner: self.peer });
        }
        let (tx, rx) = split(&mut self.noise);
        Ok(SessionKeys { tx, rx })
    }
}

/// What the accepting side has after message 1.
pub struct Accepted {
    /// Who dialled, by its static key. Unconfirmed: see the module text.
    pub peer: PeerId,
    /// Keys for both directions.
    pub keys: SessionKeys,
    /// Message 2.
    pub reply: [u8; REPLY_SIZE],
}

/// The accepting side: message 1 in, message 2 and unconfirmed keys out.
///
/// # Errors
/// Who dials is not in the directory under this key, speaks another version, or the bytes are no
/// handshake for us.
pub fn accept(
    identity: &Identity,
    directory: &Directory,
    cluster: u64,
    hello: &[u8],
) -> Result<Accepted, HandshakeError> {
    if hello.len() != HELLO_SIZE {
        return Err(HandshakeError::Malformed);
    }
    let prologue = prologue(cluster);
    let mut noise = builder(identity.secret.as_bytes(), &prologue)?
        .build_responder()
        .map_err(|_| HandshakeError::Internal)?;
    let mut payload = [0; CLAIM_SIZE];
    match noise.read_message(hello, &mut payload) {
        Ok(CLAIM_SIZE) => {}
        Ok(_) => return Err(HandshakeError::Malformed),
        Err(_) => return Err(HandshakeError::Undecryptable),
    }
    let claimed = read_claim(&payload)?;
    if claimed == identity.peer {
        return Err(HandshakeError::Ourselves);
    }
    let key = noise
        .get_remote_static()
        .and_then(|key| <[u8; 32]>::try_from(key).ok())
        .ok_or(HandshakeError::Malformed)?;
    if directory.index_of(claimed).is_none() {
        return Err(HandshakeError::UnknownPeer { claimed });
    }
    match directory.peer_of(&key) {
        None => return Err(HandshakeError::UnknownKey { claimed }),
        Some(owner) if owner != claimed => {
            return Err(HandshakeError::WrongKey { claimed, owner });
        }
        Some(_) => {}
    }
    let mut reply = [0; REPLY_SIZE];
    noise.write_message(&claim(identity.peer), &mut reply).map_err(|_| HandshakeError::Internal)?;
    let (rx, tx) = split(&mut noise);
    Ok(Accepted { peer: claimed, keys: SessionKeys { tx, rx }, reply })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(peer: u32, key: u8) -> Identity {
        Identity { peer: PeerId(peer), secret: StaticSecret::from_bytes(&[key; 32]) }
    }

    fn directory(peers: &[(u32, u8)]) -> Directory {
        let peers = peers
            .iter()
            .map(|(peer, key)| (PeerId(*peer), StaticSecret::from_bytes(&[*key; 32]).public()));
        Directory::new(peers).unwrap()
    }

    fn run(
        (dialler, dialler_directory, dialler_cluster): (Identity, &Directory, u64),
        (acceptor, acceptor_directory, acceptor_cluster): (Identity, &Directory, u64),
    ) -> Result<(SessionKeys, Accepted), HandshakeError> {
        let (state, hello) =
            Dialler::start(&dialler, dialler_directory, dialler_cluster, PeerId(0))?;
        let accepted = accept(&acceptor, acceptor_directory, acceptor_cluster, &hello)?;
        Ok((state.finish(&accepted.reply)?, accepted))
    }

    #[test]
    fn both_sides_have_the_same_fresh_keys() {
        let all = directory(&[(0, 10), (1, 11)]);
        let run = || run((identity(1, 11), &all, 7), (identity(0, 10), &all, 7)).unwrap();
        let (first, accepted) = run();
        assert_eq!(accepted.peer, PeerId(1));
        let tag = first.tx.tag(1, &[7; 80], b"to the acceptor");
        assert!(accepted.keys.rx.verify(1, &[7; 80], b"to the acceptor", &tag));
        assert!(
            !accepted.keys.tx.verify(1, &[7; 80], b"to the acceptor", &tag),
            "one key per direction"
        );
        let back = accepted.keys.tx.tag(1, &[7; 80], b"to the dialler");
        assert!(first.rx.verify(1, &[7; 80], b"to the dialler", &back));
        let (second, _) = run();
        assert!(
            !second.tx.verify(1, &[7; 80], b"to the acceptor", &tag),
            "fresh at every connection"
        );
    }

    #[test]
    fn each_mismatch_has_its_error() {
        let all = directory(&[(0, 10), (1, 11), (2, 12)]);
        let error = |dialler: (Identity, &Directory, u64),
                     acceptor: (Identity, &Directory, u64)| {
            run(dialler, acceptor).err().unwrap()
        };
        let acceptor = || (identity(0, 10), &all, 7);
        let undecryptable = HandshakeError::Undecryptable;
        assert_eq!(error((identity(1, 11), &all, 8), acceptor()), undecryptable);
        let other = directory(&[(0, 99), (1, 11)]);
        assert_eq!(error((identity(1, 11), &other, 7), acceptor()), undecryptable);
        let (one, two) = (PeerId(1), PeerId(2));
        let unknown_key = HandshakeError::UnknownKey { claimed: one };
        assert_eq!(error((identity(1, 50), &all, 7), acceptor()), unknown_key);
        let wrong = HandshakeError::WrongKey { claimed: two, owner: one };
        assert_eq!(error((identity(2, 11), &all, 7), acceptor()), wrong);
        let unknown = HandshakeError::UnknownPeer { claimed: PeerId(9) };
        assert_eq!(error((identity(9, 11), &all, 7), acceptor()), unknown);
        let ourselves = HandshakeError::Ourselves;
        assert_eq!(error((identity(0, 10), &all, 7), acceptor()), ourselves);
        // The acceptor has the right key and believes in another number.
        let misnamed = HandshakeError::WrongKey { claimed: two, owner: PeerId(0) };
        assert_eq!(error((identity(1, 11), &all, 7), (identity(2, 10), &all, 7)), misnamed);
    }

    #[test]
    fn no_altered_byte_completes_a_handshake() {
        let all = directory(&[(0, 10), (1, 11)]);
        let (dialler, acceptor) = (identity(1, 11), identity(0, 10));
        let (_, hello) = Dialler::start(&dialler, &all, 7, PeerId(0)).unwrap();
        for at in 0..HELLO_SIZE {
            // The top bit of an X25519 point is ignored by definition; the transcript has it.
            let mut altered = hello;
            altered[at] ^= 1;
            assert!(accept(&acceptor, &all, 7, &altered).is_err(), "byte {at} of message 1");
        }
        assert!(accept(&acceptor, &all, 7, &hello[1..]).is_err());
        for at in 0..REPLY_SIZE {
            let (state, hello) = Dialler::start(&dialler, &all, 7, PeerId(0)).unwrap();
            let mut reply = accept(&acceptor, &all, 7, &hello).unwrap().reply;
            reply[at] ^= 1;
            assert!(state.finish(&reply).is_err(), "byte {at} of message 2");
        }
    }

    #[test]
    fn a_directory_is_unambiguous() {
        let keys = [1, 2, 3].map(|key| StaticSecret::from_bytes(&[key; 32]).public());
        let twice = Directory::new([(PeerId(1), keys[0]), (PeerId(1), keys[1])]);
        assert!(twice.err().unwrap().to_string().contains("replica 1"));
        let same = Directory::new([(PeerId(1), keys[0]), (PeerId::client(1), keys[0])]);
        let text = same.err().unwrap().to_string();
        assert!(text.contains("replica 1 and client 1"), "{text}");
        let good = Directory::new([
            (PeerId::client(5), keys[2]),
            (PeerId(7), keys[1]),
            (PeerId(0), keys[0]),
        ])
        .unwrap();
        assert_eq!(good.len(), 3);
        for (index, peer) in [PeerId(0), PeerId(7), PeerId::client(5)].into_iter().enumerate() {
            assert_eq!(good.index_of(peer), Some(index));
            assert_eq!(good.peer_at(index), Some(peer));
            let key = good.key_of(peer).unwrap();
            assert_eq!(good.peer_of(key.as_bytes()), Some(peer));
        }
        assert_eq!(good.index_of(PeerId::client(0)), None);
        assert_eq!(good.peer_of(&[0; 32]), None);
    }
}
