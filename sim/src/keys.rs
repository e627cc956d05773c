//! Signatures and MACs as symbols: a keyed checksum that only the world computes.
//!
//! Always true: a proof is valid only if someone who holds the key made it over exactly these bytes; an
//! adversary gets a [`Keyring`] of its own identities and can copy what it saw, never make more. Must
//! not: be mistaken for cryptography.

use tetrarch_appliance::proofs::sign_state;
use tetrarch_consensus::membership::VIEW_MANAGER;
use tetrarch_consensus::message::{ReplicaState, Request, SignedState, proof};
use tetrarch_consensus::{Digest, Membership, Payload, ReplicaId, RequestView, ViewRequest};

use tetrarch_dataplane::crypto::signature::SigningKey;

use crate::rng::mix;

/// Bytes of one entry of a MAC vector, and of a client's signature.
const TAG_SIZE: usize = 8;
/// In place of a member index: the client's signing key.
const SIGNING: u64 = u64::MAX;

/// All keys of the simulated world.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    secret: u64,
    members: usize,
}

impl Keys {
    /// Keys for a world of `members` members.
    pub fn new(seed: u64, members: usize) -> Self {
        Self { secret: mix(seed ^ 0x006b_6579_7300), members }
    }

    fn tag(&self, identity: u32, key: u64, digest: &Digest) -> [u8; TAG_SIZE] {
        let mut sum = mix(self.secret ^ mix(u64::from(identity)) ^ mix(key).rotate_left(17));
        for word in digest.0.chunks_exact(8) {
            sum = mix(sum ^ word.iter().fold(0, |acc, &byte| acc << 8 | u64::from(byte)));
        }
        sum.to_le_bytes()
    }

    /// A MAC vector of the client `identity` that convinces the members in `mask` only.
    pub fn mac_vector(&self, identity: u32, digest: &Digest, mask: u64) -> Vec<u8> {
        let mut vector = Vec::with_capacity(self.members * TAG_SIZE);
        for member in 0..self.members {
            let mut tag = self.tag(identity, member as u64, digest);
            if mask & (1 << member) == 0 {
                tag = [0; TAG_SIZE];
            }
            vector.extend_from_slice(&tag);
        }
        vector
    }

    /// A signature of the client `identity`.
    pub fn signature(&self, identity: u32, digest: &Digest) -> Vec<u8> {
        self.tag(identity, SIGNING, digest).to_vec()
    }

    /// Does the client's own proof in `view` convince `member`? (Ingress also compares the digest with
    /// the body: see `ingress`.)
    pub fn convinces(&self, view: &RequestView<'_>, member: usize) -> bool {
        let identity = view.client.identity();
        match view.auth {
            proof::MAC_VECTOR => {
                view.proof.len() == self.members * TAG_SIZE
                    && view.proof[member * TAG_SIZE..][..TAG_SIZE]
                        == self.tag(identity, member as u64, &view.digest)
            }
            proof::SIGNATURE => view.proof == self.tag(identity, SIGNING, &view.digest),
            _ => false,
        }
    }

    /// Does `request`'s own proof convince `member`?
    pub fn convinces_request<P: Payload>(&self, request: &Request<P>, member: usize) -> bool {
        self.convinces(&request.view(), member)
    }

    /// The View Manager's signature of `next`.
    pub fn sign_view(&self, next: &Membership) -> [u8; 64] {
        let digest = Digest(*blake3::hash(&ViewRequest::signed_bytes(next)).as_bytes());
        let mut signature = [0; 64];
        signature[..TAG_SIZE].copy_from_slice(&self.tag(VIEW_MANAGER, SIGNING, &digest));
        signature[TAG_SIZE] = 1;
        signature
    }

    /// Did the View Manager sign exactly this?
    pub fn view_is_signed(&self, request: &ViewRequest) -> bool {
        request.signature == self.sign_view(&request.next)
    }

    /// Signs `state` as its own replica: what egress does.
    pub fn sign_state(&self, state: &ReplicaState) -> [u8; 64] {
        let mut signature = [0; 64];
        signature[..8].copy_from_slice(&self.state_tag(state).to_le_bytes());
        signature[8] = 1;
        signature
    }

    /// Did `state.replica` sign exactly this?
    pub fn state_is_signed(&self, signed: &SignedState) -> bool {
        signed.signature == self.sign_state(&signed.state)
    }

    fn state_tag(&self, state: &ReplicaState) -> u64 {
        let mut sum = mix(self.secret ^ 0x7374_6174_6500 ^ u64::from(state.replica.0));
        let mut add = |word: u64| sum = mix(sum ^ word).wrapping_add(0x9e37_79b9);
        let short = |digest: &Digest| {
            u64::from_le_bytes([
                digest.0[0],
                digest.0[1],
                digest.0[2],
                digest.0[3],
                digest.0[4],
                digest.0[5],
                digest.0[6],
                digest.0[7],
            ])
        };
        add(u64::from(state.view.0) << 32 | u64::from(state.regency.0));
        add(state.decided.0);
        state.decisions.iter().for_each(|digest| add(short(digest)));
        for open in &state.open {
            let written = open.write_set.as_slice();
            add(written.len() as u64 * 2 + u64::from(open.certified.is_some()));
            for written in open.certified.iter().chain(written) {
                add(u64::from(written.epoch.0));
                add(short(&written.digest));
            }
        }
        sum
    }
}

/// The keys of the adversary: those of all faulty members together.
#[derive(Clone, Debug)]
pub struct Keyring {
    signer: Signer,
    members: Vec<ReplicaId>,
}

#[derive(Clone)]
enum Signer {
    Symbolic(Keys),
    Real { cluster: u64, keys: Vec<SigningKey> },
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Keyring {
    /// Keys of `members`.
    pub fn new(keys: Keys, members: Vec<ReplicaId>) -> Self {
        Self { signer: Signer::Symbolic(keys), members }
    }

    /// Real keys of `members` of `cluster`, in the same order.
    pub fn real(cluster: u64, members: Vec<ReplicaId>, keys: Vec<SigningKey>) -> Self {
        assert_eq!(members.len(), keys.len(), "one key a member");
        Self { signer: Signer::Real { cluster, keys }, members }
    }

    /// The faulty members.
    pub fn members(&self) -> &[ReplicaId] {
        &self.members
    }

    /// Signs a state of a faulty member; `None` for anybody else's.
    pub fn sign_state(&self, state: ReplicaState) -> Option<SignedState> {
        let own = self.members.iter().position(|member| *member == state.replica)?;
        let mut signed = SignedState { state, signature: [0; 64] };
        match &self.signer {
            Signer::Symbolic(keys) => signed.signature = keys.sign_state(&signed.state),
            Signer::Real { cluster, keys } => sign_state(*cluster, &mut signed, &keys[own]),
        }
        Some(signed)
    }

    /// A proof for a request of a client whose key the adversary does not have. Convinces nobody.
    pub fn forge(&self, signed: bool) -> (u8, Vec<u8>) {
        match signed {
            true => (proof::SIGNATURE, vec![0xee; TAG_SIZE]),
            false => (proof::MAC_VECTOR, vec![0xee; TAG_SIZE * self.members.len()]),
        }
    }

    /// Breaks `member`'s entry in a copied MAC vector. It never becomes right by that.
    pub fn spoil(proof: &mut [u8], member: usize) {
        if let Some(tag) = proof.get_mut(member * TAG_SIZE..(member + 1) * TAG_SIZE) {
            tag.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrarch_consensus::ClientId;

    fn view<'a>(auth: u8, bytes: &'a [u8], digest: Digest) -> RequestView<'a> {
        let client = ClientId::new(3, 0);
        let sequence = tetrarch_consensus::Sequence::new(1, 1);
        RequestView { client, sequence, digest, operation: &[], body: &[], auth, proof: bytes }
    }

    #[test]
    fn a_vector_convinces_exactly_its_members_and_covers_the_digest() {
        let keys = Keys::new(1, 4);
        let digest = Digest([7; 32]);
        let vector = keys.mac_vector(3, &digest, 0b0101);
        let seen: Vec<_> = (0..4)
            .map(|at| keys.convinces(&view(proof::MAC_VECTOR, &vector, digest), at))
            .collect();
        assert_eq!(seen, [true, false, true, false]);
        assert!(!keys.convinces(&view(proof::MAC_VECTOR, &vector, Digest([8; 32])), 0));
    }

    #[test]
    fn an_adversary_cannot_prove_a_correct_clients_request() {
        let keys = Keys::new(1, 4);
        let ring = Keyring::new(keys, vec![ReplicaId(2)]);
        let digest = Digest([7; 32]);
        for signed in [false, true] {
            let (auth, bytes) = ring.forge(signed);
            assert!((0..4).all(|at| !keys.convinces(&view(auth, &bytes, digest), at)));
        }
        let mut vector = keys.mac_vector(3, &digest, u64::MAX);
        Keyring::spoil(&mut vector, 1);
        assert!(!keys.convinces(&view(proof::MAC_VECTOR, &vector, digest), 1));
        assert!(keys.convinces(&view(proof::MAC_VECTOR, &vector, digest), 2));
    }

    #[test]
    fn an_adversary_signs_its_own_states_only() {
        let keys = Keys::new(1, 4);
        let ring = Keyring::new(keys, vec![ReplicaId(2)]);
        let mut state = ReplicaState {
            view: tetrarch_consensus::ViewId(0),
            regency: tetrarch_consensus::Regency(1),
            replica: ReplicaId(2),
            decided: tetrarch_consensus::ConsensusId(0),
            decisions: Vec::new(),
            open: Vec::new(),
        };
        let mut signed = ring.sign_state(state.clone()).expect("its own");
        assert!(keys.state_is_signed(&signed));
        signed.state.decided.0 += 1;
        assert!(!keys.state_is_signed(&signed));
        state.replica = ReplicaId(1);
        assert!(ring.sign_state(state).is_none());
    }
}
