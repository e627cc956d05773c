//! Does a client's own proof convince this replica?
//!
//! Owns a memory of requests that were proved already. Always true: `proved` is said only of a body digest for which
//! a MAC entry or a signature of its own client was checked here; nothing is believed because a
//! replica said so (rule VAL.8). Must not: look at what is requested.

use std::sync::Arc;

use tetrarch_client::cluster::{Cluster, PrivateKeys};
use tetrarch_consensus::membership::ViewRequest;
use tetrarch_consensus::message::codec::{self, REQUEST_TO_SIGN_SIZE};
use tetrarch_consensus::message::{ReplicaState, SignedState, proof};
use tetrarch_consensus::{ReplicaId, RequestView, spec};
use tetrarch_dataplane::crypto::authenticator::vector_size;
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::crypto::keys::KeyError;
use tetrarch_dataplane::crypto::signature::{Signature, SignedItem, SigningKey, verify_batch};
use tetrarch_dataplane::digest_memory::DigestMemory;

use crate::keyring::{Keyring, ViewKeys};

/// Requests that one ingress remembers as proved, a power of two: several times what a cluster orders
/// in the time between a client's request and the proposal that holds it. Three quarters of a MiB.
///
/// A digest covers client, number and operation, so nothing else has to be kept.
const PROVED_MAX: usize = 32 * 1024;

/// Bytes of that memory.
pub const PROVED_SIZE: usize = DigestMemory::table_size(PROVED_MAX);

/// Signatures checked together at most. Their messages are on the stack.
pub const SIGNATURES_AT_ONCE: usize = 64;

/// Checks proofs for one replica, on one core. Several of them can share keys and memory.
pub struct Proofs {
    keys: Arc<ViewKeys>,
    proved: DigestMemory,
    signatures: u64,
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
    /// Checks with the keys of the first view of `cluster`, from the point of view of its member `own`,
    /// whose private keys are `keys`.
    ///
    /// # Errors
    /// A client's public key gives no secrecy; its index is the first value.
    pub fn new(
        cluster: &Cluster,
        own: ReplicaId,
        keys: &PrivateKeys,
    ) -> Result<Self, (u32, KeyError)> {
        let ring = Keyring::new(cluster, own, keys, None)?;
        let keys = ring.of_view(&cluster.membership()).expect("a loaded cluster was checked");
        Ok(Self::with(Arc::new(keys)))
    }

    /// Checks with `keys`.
    pub fn with(keys: Arc<ViewKeys>) -> Self {
        Self::sharing(keys, 1).remove(0)
    }

    /// Checks with `keys` from now on: another view is entered. What was proved is proved in any view.
    pub fn enter(&mut self, keys: Arc<ViewKeys>) {
        self.keys = keys;
    }

    fn sharing(keys: Arc<ViewKeys>, count: usize) -> Vec<Self> {
        let memories = DigestMemory::shared(count, PROVED_MAX).into_iter();
        memories.map(|proved| Self { keys: Arc::clone(&keys), proved, signatures: 0 }).collect()
    }

    /// `count` of them in the place of this one, for as many cores: what one has proved, all know.
    pub fn split(self, count: usize) -> Vec<Self> {
        Self::sharing(self.keys, count)
    }

    /// How many client identities there are.
    pub fn clients(&self) -> usize {
        self.keys.clients()
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
            let Some(index) = self.keys.view().index_of(signed.state.replica) else {
                return false;
            };
            self.signatures += 1;
            let bytes = state_to_sign(self.keys.cluster(), &signed.state);
            if !self.keys.member(index).verify(&bytes, &signed.signature) {
                return false;
            }
        }
        true
    }

    /// Is the operation of a request of the View Manager a membership that it signed? What is good is
    /// remembered: the same comes from its client, in lists and in proposals.
    pub fn view_request_holds(&mut self, request: &RequestView<'_>) -> bool {
        spec!("VIEW.1");
        let mark = view_request_digest(request);
        if self.proved.contains(&mark) {
            return true;
        }
        let Some(key) = self.keys.view_manager() else {
            return false;
        };
        let Ok(asked) = ViewRequest::decode(request.operation) else {
            return false;
        };
        self.signatures += 1;
        let holds = key.verify(&ViewRequest::signed_bytes(&asked.next), &asked.signature);
        if holds {
            self.proved.insert(&mark);
        }
        holds
    }

    /// Everything but signatures.
    #[inline]
    fn first_sight(&self, request: &RequestView<'_>, memory: Memory) -> Sight {
        let Some(keys) = self.keys.client(request.client) else {
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
                let whole = request.proof.len() == vector_size(self.keys.members());
                let digest = &request.digest.0;
                let holds = |own| keys.pair.verify_entry(digest, request.proof, own);
                if whole && self.keys.own_entry().is_some_and(holds) {
                    Sight::Proved
                } else {
                    Sight::Disproved
                }
            }
            proof::SIGNATURE if request.proof.len() == size_of::<Signature>() => Sight::Signed,
            _ => Sight::Disproved,
        }
    }

    /// Bit i: the signature of request i holds. Only those with a bit in `which` are looked at.
    fn signatures_hold(&mut self, requests: &[RequestView<'_>], which: u64) -> u64 {
        let mut messages = [[0; REQUEST_TO_SIGN_SIZE]; SIGNATURES_AT_ONCE];
        let chosen = |at: &usize| which & (1 << at) != 0;
        for at in (0..requests.len()).filter(chosen) {
            messages[at] = codec::request_to_sign(self.keys.cluster(), &requests[at].digest);
        }
        let mut items = Vec::with_capacity(requests.len());
        let mut places = Vec::with_capacity(requests.len());
        for at in (0..requests.len()).filter(chosen) {
            let keys = self.keys.client(requests[at].client);
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

/// Names a membership that was checked. Never equal to the digest of a request, for the same reason.
fn view_request_digest(request: &RequestView<'_>) -> [u8; 32] {
    const MARK: &[u8; 32] = b"tetrarch checked this membership";
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(MARK);
    bytes[32..].copy_from_slice(&request.digest.0);
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
    use tetrarch_consensus::batch::REQUEST_HEADER_SIZE;
    use tetrarch_consensus::membership::{Membership, VIEW_MANAGER};
    use tetrarch_consensus::{ClientId, Digest, ViewId};
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

    /// A request of the View Manager for `next`, signed with `signer`.
    fn asked(test: &TestCluster, next: &Membership, signer: &SigningKey) -> Vec<u8> {
        let signature = signer.sign(&ViewRequest::signed_bytes(next));
        let mut operation = Vec::new();
        ViewRequest { next: next.clone(), signature }.encode(&mut operation);
        assert_eq!(test.cluster.id, next.cluster());
        request_bytes(ClientId::new(VIEW_MANAGER, 0), 1, &operation, false)
    }

    fn view_of(body: &[u8]) -> RequestView<'_> {
        RequestView {
            client: ClientId::new(VIEW_MANAGER, 0),
            sequence: tetrarch_consensus::Sequence::new(1, 1),
            digest: Digest(body_digest(body)),
            operation: &body[REQUEST_HEADER_SIZE..],
            body,
            auth: proof::NONE,
            proof: &[],
        }
    }

    #[test]
    fn a_membership_counts_with_the_view_managers_signature_only() {
        // rule: VIEW.1
        let mut test = TestCluster::new(4, 1, 1);
        let manager = PrivateKeys::generate().expect("random bytes");
        let next = Membership::new(
            test.cluster.id,
            ViewId(1),
            1,
            test.cluster.model,
            test.cluster.membership().members().to_vec(),
        );
        let next = next.expect("possible");
        let good = asked(&test, &next, &manager.signing_key);
        assert!(!proofs(&test, 0).view_request_holds(&view_of(&good)), "there is no View Manager");
        test.cluster.view_manager = Some(tetrarch_client::cluster::ViewManager {
            static_key: manager.static_secret.public(),
            signing_key: manager.signing_key.verifying_key(),
        });
        let mut proofs = proofs(&test, 0);
        assert!(proofs.view_request_holds(&view_of(&good)));
        assert_eq!(proofs.signatures(), 1);
        assert!(proofs.view_request_holds(&view_of(&good)));
        assert_eq!(proofs.signatures(), 1, "checked once");
        let forged = asked(&test, &next, &test.client_keys[0].signing_key);
        assert!(!proofs.view_request_holds(&view_of(&forged)));
        for at in REQUEST_HEADER_SIZE..good.len() {
            let mut altered = good.clone();
            altered[at] ^= 1;
            assert!(!proofs.view_request_holds(&view_of(&altered)), "byte {at}");
        }
        assert!(!proofs.view_request_holds(&view_of(&good[..good.len() - 1])));
    }
}
