//! Does a client's own proof convince this replica?
//!
//! Owns the keys shared with clients, the verifying keys of clients and members, and a memory of
//! requests that were proved already. Always true: `proved` is said only of a body digest for which
//! a MAC entry or a signature of its own client was checked here; nothing is believed because a
//! replica said so (rule VAL.8). Must not: look at what is requested.

use std::sync::Arc;

use tetrarch_client::cluster::{Cluster, PrivateKeys};
use tetrarch_consensus::message::codec::{self, REQUEST_TO_SIGN_SIZE};
use tetrarch_consensus::message::{ReplicaState, SignedState, proof};
use tetrarch_consensus::{ClientId, ReplicaId, RequestView, View, spec};
use tetrarch_dataplane::crypto::authenticator::{PairKey, vector_size};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::crypto::keys::KeyError;
use tetrarch_dataplane::crypto::signature::{
    Signature, SignedItem, SigningKey, VerifyingKey, verify_batch,
};
use tetrarch_dataplane::digest_memory::DigestMemory;

/// Requests that one ingress remembers as proved, a power of two: several times what a cluster orders
/// in the time between a client's request and the proposal that holds it. Three quarters of a MiB.
///
/// A digest covers client, number and operation, so nothing else has to be kept.
const PROVED_MAX: usize = 32 * 1024;

/// Bytes of that memory.
pub const PROVED_SIZE: usize = DigestMemory::table_size(PROVED_MAX);

/// Signatures checked together at most. Their messages are on the stack.
pub const SIGNATURES_AT_ONCE: usize = 64;

struct ClientKeys {
    pair: PairKey,
    verifying: VerifyingKey,
}

/// Checks proofs for one replica, on one core. Several of them can share keys and memory.
pub struct Proofs {
    keys: Arc<Keys>,
    proved: DigestMemory,
    signatures: u64,
}

/// What never changes.
struct Keys {
    cluster: u64,
    view: View,
    /// This replica's entry in a MAC vector.
    own_entry: usize,
    /// By client index.
    clients: Vec<ClientKeys>,
    /// By member index.
    members: Vec<VerifyingKey>,
}

/// What a client's proof says at first sight, before an expensive check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    /// It holds.
    Proved,
    /// It does not.
    Disproved,
    /// It is a signature: ask [`Proofs::check_signed`], many at once.
    Signed,
}

/// For which proofs will it do that the request was proved here before, whatever this copy says?
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Memory {
    /// For none: its client sent it, and its proof will be shown to others.
    None,
    /// For MAC vectors: what comes in a list of requests is kept, and a signature means that
    /// everybody can check it (rule VAL.7).
    MacVectors,
    /// For all: a proposal is judged as a whole, and its proofs go no further (rule VAL.2).
    All,
}

impl Proofs {
    /// The keys of `cluster` from the point of view of its member `own`, whose private keys are
    /// `keys`. Computes one key agreement for each client.
    ///
    /// # Errors
    /// A client's public key gives no secrecy; its index is the first value.
    pub fn new(
        cluster: &Cluster,
        own: ReplicaId,
        keys: &PrivateKeys,
    ) -> Result<Self, (u32, KeyError)> {
        let view = cluster.view();
        let own_entry = view.index_of(own).expect("the caller runs a member of the cluster");
        let mut clients = Vec::with_capacity(cluster.clients.len());
        for client in &cluster.clients {
            let pair = PairKey::for_replica(&keys.static_secret, &client.static_key, cluster.id)
                .map_err(|error| (client.index, error))?;
            clients.push(ClientKeys { pair, verifying: client.signing_key });
        }
        let members = cluster.members.iter().map(|member| member.signing_key).collect();
        let keys = Keys { cluster: cluster.id, view, own_entry, clients, members };
        Ok(Self::sharing(Arc::new(keys), 1).remove(0))
    }

    fn sharing(keys: Arc<Keys>, count: usize) -> Vec<Self> {
        let memories = DigestMemory::shared(count, PROVED_MAX).into_iter();
        memories.map(|proved| Self { keys: Arc::clone(&keys), proved, signatures: 0 }).collect()
    }

    /// `count` of them in the place of this one, for as many cores: what one has proved, all know.
    pub fn split(self, count: usize) -> Vec<Self> {
        Self::sharing(self.keys, count)
    }

    /// How many client identities there are.
    pub fn clients(&self) -> usize {
        self.keys.clients.len()
    }

    /// Signatures checked so far.
    pub fn signatures(&self) -> u64 {
        self.signatures
    }

    /// Does the proof of a request that its own client sent hold? What is proved is remembered. The
    /// proof itself is always checked, because it will be shown to others.
    #[inline(always)]
    pub fn check(&mut self, request: &RequestView<'_>) -> Sight {
        let sight = self.first_sight(request, Memory::None);
        if sight == Sight::Proved {
            self.proved.insert(&request.digest.0);
        }
        sight
    }

    /// As [`Proofs::check`], and the signature at once.
    pub fn holds(&mut self, request: &RequestView<'_>) -> bool {
        match self.check(request) {
            Sight::Proved => true,
            Sight::Disproved => false,
            Sight::Signed => self.check_signed(&[*request]) == 1,
        }
    }

    /// Which of `requests`, sent by their own clients, have a signature that holds? Bit i of the
    /// answer is request i; at most [`SIGNATURES_AT_ONCE`]. They are remembered. A signature that was
    /// checked inside a proposal, which can come first, is not checked again.
    pub fn check_signed(&mut self, requests: &[RequestView<'_>]) -> u64 {
        self.check_many(requests, Memory::None)
    }

    /// Which of `requests`, met inside another replica's message, can this replica authenticate? Bit
    /// i of the answer is request i; at most [`SIGNATURES_AT_ONCE`]. Their digests were compared.
    pub fn check_nested(&mut self, requests: &[RequestView<'_>], memory: Memory) -> u64 {
        spec!("VAL.2", "VAL.8");
        self.check_many(requests, memory)
    }

    fn check_many(&mut self, requests: &[RequestView<'_>], memory: Memory) -> u64 {
        assert!(requests.len() <= SIGNATURES_AT_ONCE, "one bit each");
        let mut authentic = 0u64;
        let mut signed = 0u64;
        for (at, request) in requests.iter().enumerate() {
            match self.first_sight(request, memory) {
                Sight::Proved => authentic |= 1 << at,
                Sight::Disproved => {}
                Sight::Signed if self.knows_signature(request) => authentic |= 1 << at,
                Sight::Signed => signed |= 1 << at,
            }
        }
        if signed != 0 {
            signed &= self.signatures_hold(requests, signed);
            authentic |= signed;
        }
        if memory != Memory::None {
            // Their clients' own copies are on their way.
            for (_, request) in requests.iter().enumerate().filter(|(at, _)| signed & 1 << at != 0)
            {
                self.proved.insert(&signature_digest(request));
            }
        }
        for (at, request) in requests.iter().enumerate() {
            if authentic & (1 << at) != 0 {
                self.proved.insert(&request.digest.0);
            }
        }
        authentic
    }

    /// Was this very signature of this request checked?
    fn knows_signature(&self, request: &RequestView<'_>) -> bool {
        // The first question is nearly always answered with no, and costs less.
        self.proved.contains(&request.digest.0) && self.proved.contains(&signature_digest(request))
    }

    /// Is every signature of `states` its member's? Stops at the first that is not.
    pub fn states_hold<'a>(&mut self, states: impl Iterator<Item = &'a SignedState>) -> bool {
        spec!("SYNC.7");
        for signed in states {
            let Some(index) = self.keys.view.index_of(signed.state.replica) else {
                return false;
            };
            self.signatures += 1;
            let bytes = state_to_sign(self.keys.cluster, &signed.state);
            if !self.keys.members[index].verify(&bytes, &signed.signature) {
                return false;
            }
        }
        true
    }

    /// Everything but signatures.
    #[inline]
    fn first_sight(&self, request: &RequestView<'_>, memory: Memory) -> Sight {
        let Some(keys) = self.client_keys(request.client) else {
            return Sight::Disproved;
        };
        if memory == Memory::All && self.proved.contains(&request.digest.0) {
            return Sight::Proved;
        }
        match request.auth {
            proof::MAC_VECTOR => {
                if memory == Memory::MacVectors && self.proved.contains(&request.digest.0) {
                    return Sight::Proved;
                }
                let whole = request.proof.len() == vector_size(self.keys.members.len());
                let digest = &request.digest.0;
                if whole && keys.pair.verify_entry(digest, request.proof, self.keys.own_entry) {
                    Sight::Proved
                } else {
                    Sight::Disproved
                }
            }
            proof::SIGNATURE if request.proof.len() == size_of::<Signature>() => Sight::Signed,
            _ => Sight::Disproved,
        }
    }

    fn client_keys(&self, client: ClientId) -> Option<&ClientKeys> {
        self.keys.clients.get(client.identity() as usize)
    }

    /// Bit i: the signature of request i holds. Only those with a bit in `which` are looked at.
    fn signatures_hold(&mut self, requests: &[RequestView<'_>], which: u64) -> u64 {
        let mut messages = [[0; REQUEST_TO_SIGN_SIZE]; SIGNATURES_AT_ONCE];
        let chosen = |at: &usize| which & (1 << at) != 0;
        for at in (0..requests.len()).filter(chosen) {
            messages[at] = codec::request_to_sign(self.keys.cluster, &requests[at].digest);
        }
        let mut items = Vec::with_capacity(requests.len());
        let mut places = Vec::with_capacity(requests.len());
        for at in (0..requests.len()).filter(chosen) {
            let keys = self.client_keys(requests[at].client);
            if let (Some(keys), Ok(signature)) = (keys, requests[at].proof.try_into()) {
                items.push(SignedItem { key: &keys.verifying, message: &messages[at], signature });
                places.push(at);
            }
        }
        let count = items.len();
        let bad = verify_batch(&items);
        self.signatures += count as u64;
        let all = places.iter().fold(0, |bits, at| bits | 1u64 << at);
        bad.iter().fold(all, |bits, item| bits & !(1 << places[*item]))
    }
}

/// Names a request together with its signature. Never equal to the digest of a request that is proved:
/// as a request, these bytes would begin with a client number that no cluster has.
fn signature_digest(request: &RequestView<'_>) -> [u8; 32] {
    const MARK: &[u8; 32] = b"tetrarch checked this signature ";
    let mut bytes = [0; 32 + 32 + size_of::<Signature>()];
    bytes[..32].copy_from_slice(MARK);
    bytes[32..64].copy_from_slice(&request.digest.0);
    let proof = request.proof;
    bytes[64..64 + proof.len()].copy_from_slice(proof);
    body_digest(&bytes)
}

/// Signs this replica's states for `cluster` on their way out (rule SYNC.5).
pub fn sign_state(cluster: u64, signed: &mut SignedState, key: &SigningKey) {
    spec!("SYNC.5");
    signed.signature = key.sign(&state_to_sign(cluster, &signed.state));
}

/// Allocates: states are signed and checked at a change of leader only.
fn state_to_sign(cluster: u64, state: &ReplicaState) -> Vec<u8> {
    let mut bytes = vec![0; codec::state_to_sign_size(state)];
    codec::encode_state(cluster, state, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestCluster, request_bytes};
    use tetrarch_consensus::Digest;
    use tetrarch_consensus::batch::REQUEST_HEADER_SIZE;
    use tetrarch_dataplane::crypto::authenticator::write_vector;

    struct Made {
        body: Vec<u8>,
        proof: Vec<u8>,
        auth: u8,
    }

    impl Made {
        fn view(&self) -> RequestView<'_> {
            RequestView {
                client: ClientId::new(1, 0),
                sequence: tetrarch_consensus::Sequence::new(1, 1),
                digest: Digest(body_digest(&self.body)),
                operation: &self.body[REQUEST_HEADER_SIZE..],
                body: &self.body,
                auth: self.auth,
                proof: &self.proof,
            }
        }
    }

    fn made(test: &TestCluster, auth: u8, operation: &[u8]) -> Made {
        let body = request_bytes(ClientId::new(1, 0), 1, operation, false);
        let digest = body_digest(&body);
        let proof = if auth == proof::MAC_VECTOR {
            let keys = test.pair_keys(1);
            let mut vector = vec![0; vector_size(keys.len())];
            write_vector(&keys, &digest, &mut vector);
            vector
        } else {
            let message = codec::request_to_sign(test.cluster.id, &Digest(digest));
            test.client_keys[1].signing_key.sign(&message).to_vec()
        };
        Made { body, proof, auth }
    }

    fn proofs(test: &TestCluster, replica: u16) -> Proofs {
        Proofs::new(&test.cluster, ReplicaId(replica), &test.replica_keys[usize::from(replica)])
            .expect("generated keys")
    }

    #[test]
    fn each_member_accepts_its_own_entry_and_any_signature() {
        spec!("VAL.8");
        let test = TestCluster::new(4, 1, 2);
        for replica in 0..4 {
            let mut proofs = proofs(&test, replica);
            for auth in [proof::MAC_VECTOR, proof::SIGNATURE] {
                let good = made(&test, auth, b"op");
                assert!(proofs.holds(&good.view()));
                let mut other = made(&test, auth, b"another");
                other.proof = good.proof.clone();
                assert!(!proofs.holds(&other.view()), "a proof of something else");
                let mut short = made(&test, auth, b"short");
                short.proof.pop();
                assert!(!proofs.holds(&short.view()));
            }
            let mut none = made(&test, proof::MAC_VECTOR, b"none");
            none.auth = proof::NONE;
            assert!(!proofs.holds(&none.view()));
        }
    }

    #[test]
    fn a_half_valid_vector_convinces_some_members_only() {
        let test = TestCluster::new(4, 1, 2);
        let mut request = made(&test, proof::MAC_VECTOR, b"op");
        request.proof[2 * 16] ^= 1;
        let convinced: Vec<_> =
            (0..4).map(|replica| proofs(&test, replica).holds(&request.view())).collect();
        assert_eq!(convinced, [true, true, false, true]);
        // A member that has proved the same request before is convinced whatever the copy says.
        let mut third = proofs(&test, 2);
        assert_eq!(third.check_nested(&[request.view()], Memory::All), 0);
        assert!(third.holds(&made(&test, proof::SIGNATURE, b"op").view()));
        assert_eq!(third.check_nested(&[request.view()], Memory::MacVectors), 1);
    }

    #[test]
    fn a_wrong_signature_is_forgiven_in_a_proposal_and_never_in_a_list() {
        // rule: VAL.2, VAL.7, VAL.8
        let test = TestCluster::new(4, 1, 2);
        let mut proofs = proofs(&test, 0);
        let mut request = made(&test, proof::SIGNATURE, b"op");
        request.proof[7] ^= 1;
        assert_eq!(proofs.check_nested(&[request.view()], Memory::All), 0);
        assert!(proofs.holds(&made(&test, proof::MAC_VECTOR, b"op").view()));
        let before = proofs.signatures();
        assert_eq!(proofs.check_nested(&[request.view()], Memory::All), 1, "it was proved");
        assert_eq!(proofs.signatures(), before);
        assert_eq!(proofs.check_nested(&[request.view()], Memory::MacVectors), 0);
        assert!(!proofs.holds(&request.view()));
    }

    #[test]
    fn nested_signatures_are_checked_each() {
        let test = TestCluster::new(4, 1, 2);
        let mut proofs = proofs(&test, 0);
        let mut many: Vec<Made> = (0..9u8).map(|i| made(&test, proof::SIGNATURE, &[i])).collect();
        many[3].proof[7] ^= 1;
        many[8].auth = 77;
        let views: Vec<_> = many.iter().map(Made::view).collect();
        assert_eq!(proofs.check_nested(&views, Memory::All), 0b0_1111_0111);
        assert!(proofs.signatures() >= 8);
    }

    #[test]
    fn what_one_core_proved_another_knows() {
        let test = TestCluster::new(4, 1, 2);
        let mut proofs = proofs(&test, 0).split(2);
        let request = made(&test, proof::SIGNATURE, b"op");
        assert!(proofs[1].holds(&request.view()));
        assert_eq!(proofs[0].check_nested(&[request.view()], Memory::All), 1);
        assert_eq!((proofs[0].signatures(), proofs[1].signatures()), (0, 1));
    }

    #[test]
    fn a_signature_met_in_a_proposal_first_is_checked_once_and_another_one_again() {
        let test = TestCluster::new(4, 1, 2);
        let mut proofs = proofs(&test, 0);
        let request = made(&test, proof::SIGNATURE, b"op");
        assert_eq!(proofs.check_nested(&[request.view()], Memory::All), 1);
        assert_eq!(proofs.check_signed(&[request.view()]), 1);
        assert_eq!(proofs.signatures(), 1);
        let mut forged = made(&test, proof::SIGNATURE, b"op");
        forged.proof[3] ^= 1;
        assert_eq!(proofs.check_signed(&[forged.view()]), 0, "it would be shown to others");
        assert_eq!(proofs.signatures(), 2);
    }
}
