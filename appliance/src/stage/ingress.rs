//! Ingress: from an authentic message of a link to a verified input of the core.
//!
//! Owns what a sender may send, and the checks of everything inside. Always true: what leaves here
//! was decoded whole, every digest inside it was compared with its bytes, every signature inside it
//! holds, and requests are marked authentic only by [`Proofs`]; whatever fails is dropped and
//! counted once. Must not: keep anything of a message, or answer.

use std::sync::Arc;

use tetrarch_consensus::batch::{REQUEST_HEADER_SIZE, RequestHeader};
use tetrarch_consensus::membership::is_view_manager;
use tetrarch_consensus::message::codec::{decode_hashed, trailer_size, visit_states};
use tetrarch_consensus::message::reply::Status;
use tetrarch_consensus::message::{Chunk, Malformed, kind, proof};
use tetrarch_consensus::{
    Batch, ClientId, Digest, Input, Message, ReplicaId, Request, RequestValidator, RequestView,
    Selection, Sequence, Verified, View, spec,
};
use tetrarch_dataplane::crypto::hash::digest_burst;
use tetrarch_dataplane::crypto::merkle;
use tetrarch_dataplane::links::Received;
use tetrarch_dataplane::reject::Reject;

use super::Refused;
use crate::checkpoint::CHUNK_SIZE;
use crate::keyring::ViewKeys;
use crate::payload::FramePayload;
use crate::proofs::{Memory, Proofs, SIGNATURES_AT_ONCE, Sight};

/// What became of a client's message.
#[derive(Debug)]
pub enum Verdict {
    /// An ordered request, for the core: it was handed on.
    Taken,
    /// A signed one: kept until [`Ingress::check_signed`] is asked, at the end of the burst.
    Signed,
    /// A read-only request, for the application.
    Query(Verified<Request<FramePayload>>),
    /// Not a command of the service, a session that may not exist, or made for an earlier view: the client is
    /// told so.
    Refused(Refused),
}

/// Checks messages.
pub struct Ingress {
    view: View,
    proofs: Proofs,
    validator: Arc<dyn RequestValidator>,
    sessions_per_client_max: u32,
    /// Requests of the burst in hand whose signatures are not checked yet, at most
    /// [`SIGNATURES_AT_ONCE`].
    signed: Vec<Request<FramePayload>>,
}

const NOTHING: RequestView<'_> = RequestView {
    client: ClientId(0),
    sequence: Sequence::NONE,
    digest: Digest::ZERO,
    operation: &[],
    body: &[],
    auth: 0,
    proof: &[],
};

impl Ingress {
    /// Ingress of a member of `view`.
    pub fn new(
        view: View,
        proofs: Proofs,
        validator: Box<dyn RequestValidator>,
        sessions_per_client_max: u32,
    ) -> Self {
        let signed = Vec::with_capacity(SIGNATURES_AT_ONCE);
        let validator = Arc::from(validator);
        Self { view, proofs, validator, sessions_per_client_max, signed }
    }

    /// `count` of them in the place of this one, for as many cores. A request that one has proved
    /// need not be proved again when another meets it in a proposal.
    pub fn split(self, count: usize) -> Vec<Self> {
        let another = |proofs| Self {
            view: self.view.clone(),
            proofs,
            validator: Arc::clone(&self.validator),
            sessions_per_client_max: self.sessions_per_client_max,
            signed: Vec::with_capacity(SIGNATURES_AT_ONCE),
        };
        self.proofs.split(count).into_iter().map(another).collect()
    }

    /// By whose thresholds it checks.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Checks by the keys and thresholds of another view from now on.
    pub fn enter(&mut self, keys: &Arc<ViewKeys>) {
        self.view = keys.view().clone();
        self.proofs.enter(Arc::clone(keys));
    }

    /// Signatures checked so far.
    pub fn signatures(&self) -> u64 {
        self.proofs.signatures()
    }

    /// Checks one message of a client. Calls `take` with an ordered request that is proved. The caller
    /// takes at most a burst before it asks for those that were signed.
    ///
    /// Always inlined, and looks at everything before it makes a request: what becomes one is copied
    /// once on its way into a ring, not once for each call.
    ///
    /// # Errors
    /// Why it is dropped.
    #[inline(always)]
    pub fn check_client(
        &mut self,
        received: Received,
        take: impl FnOnce(Verified<Request<FramePayload>>),
    ) -> Result<Verdict, Reject> {
        if received.kind != kind::REQUEST {
            return Err(Reject::NotAllowed);
        }
        let client = ClientId(received.session);
        if client.identity() != received.peer.index() {
            return Err(Reject::NotAllowed);
        }
        let (body, proof) = received.frame.bytes().split_at(received.body_size());
        let header = RequestHeader::parse(body).map_err(|_| Reject::Malformed)?;
        if header.client != client {
            return Err(Reject::Malformed);
        }
        let RequestHeader { sequence, read_only, .. } = header;
        if header.view != self.view.id().0 {
            return self.other_view(&header);
        }
        let operation = &body[REQUEST_HEADER_SIZE..];
        let (digest, auth) = (Digest(received.body_digest), received.auth);
        let view = RequestView { client, sequence, digest, operation, body, auth, proof };
        if client.session() >= self.sessions_per_client_max || !self.valid(&view, read_only) {
            let status = Status::Refused;
            return Ok(Verdict::Refused(Refused { client, sequence, read_only, status }));
        }
        // Its link proves a read-only one: nobody else will ever see it.
        let sight = if read_only { Sight::Proved } else { self.proofs.check(&view) };
        if sight == Sight::Disproved {
            return Err(Reject::BadProof);
        }
        let body_size = body.len() as u32;
        let payload = FramePayload(received.frame);
        let request = Request { client, sequence, digest, read_only, auth, body_size, payload };
        match sight {
            Sight::Signed => {
                assert!(self.signed.len() < SIGNATURES_AT_ONCE, "asked once a burst");
                self.signed.push(request);
                Ok(Verdict::Signed)
            }
            _ if read_only => Ok(Verdict::Query(Verified::vouch(request))),
            _ => {
                take(Verified::vouch(request));
                Ok(Verdict::Taken)
            }
        }
    }

    /// What becomes of a request that was made for another view.
    #[cold]
    fn other_view(&self, header: &RequestHeader) -> Result<Verdict, Reject> {
        spec!("CLI.11");
        let RequestHeader { client, sequence, read_only, .. } = *header;
        if header.view > self.view.id().0 {
            return Err(Reject::LaterView);
        }
        let status = Status::Outdated;
        Ok(Verdict::Refused(Refused { client, sequence, read_only, status }))
    }

    /// Checks the signatures of this burst, all at once: together they cost a fraction of what they
    /// cost one by one. Calls `take` with each request that is proved; returns how many are not.
    pub fn check_signed(&mut self, mut take: impl FnMut(Verified<Request<FramePayload>>)) -> usize {
        if self.signed.is_empty() {
            return 0;
        }
        let mut views = [NOTHING; SIGNATURES_AT_ONCE];
        for (view, request) in views.iter_mut().zip(&self.signed) {
            *view = request.view();
        }
        let holds = self.proofs.check_signed(&views[..self.signed.len()]);
        let mut bad = 0;
        for (at, request) in self.signed.drain(..).enumerate() {
            if holds & (1 << at) != 0 {
                take(Verified::vouch(request));
            } else {
                bad += 1;
            }
        }
        bad
    }

    /// Checks one message of the member `from`, as its link says.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn check_member(
        &mut self,
        from: ReplicaId,
        received: Received,
    ) -> Result<Input<FramePayload>, Reject> {
        if matches!(received.kind, kind::REQUEST | kind::REPLY) {
            return Err(Reject::NotAllowed);
        }
        let trailer_size = trailer_size(received.kind);
        if received.auth != proof::NONE
            || usize::from(received.proof_size) != trailer_size
            || received.session != 0
        {
            return Err(Reject::Malformed);
        }
        let (frame, digest) = (FramePayload(received.frame), Digest(received.body_digest));
        let mut message = decode_hashed(received.kind, frame, digest).map_err(reject)?;
        match &mut message {
            Message::Forwarded(batch) => self.check_batch(batch, Some(Memory::MacVectors))?,
            Message::Stop(stop) => {
                self.check_batch(&mut stop.requests, Some(Memory::MacVectors))?
            }
            Message::Propose(propose) => self.check_batch(&mut propose.batch, Some(Memory::All))?,
            // What is left out was authenticated when its client sent it.
            Message::ProposeSparse(propose) => {
                let batch = &mut propose.batch;
                batch.authentic = self.check_requests(batch.requests(), Some(Memory::All))?;
            }
            Message::Bodies(bodies) => {
                self.check_batch(&mut bodies.requests, Some(Memory::All))?;
            }
            Message::BatchBody(body) => self.check_batch(&mut body.batch, Some(Memory::All))?,
            // A decision is proved by its claims; whose requests they are no longer matters.
            Message::Decided(decided) => {
                if let Some(batch) = &mut decided.batch {
                    self.check_batch(batch, None)?;
                }
            }
            Message::StopData(_) | Message::Sync(_) => self.check_states(from, &message)?,
            Message::Chunk(chunk) => {
                chunk.leaf = digest;
                chunk.root = implied_root(chunk);
            }
            Message::Write(_)
            | Message::Accept(_)
            | Message::Refuse(_)
            | Message::Status(_)
            | Message::Fetch(_)
            | Message::FetchBatch(_)
            | Message::FetchBodies(_)
            | Message::FetchState(_)
            | Message::StateOffer(_)
            | Message::FetchChunks(_) => {}
        }
        Ok(Input::Peer { from, message: Verified::vouch(message) })
    }

    /// Compares every request's digest with its body and, with a `memory`, marks those that this
    /// replica can authenticate.
    fn check_batch(
        &mut self,
        batch: &mut Batch<FramePayload>,
        memory: Option<Memory>,
    ) -> Result<(), Reject> {
        batch.authentic = self.check_requests(batch.requests().enumerate(), memory)?;
        Ok(())
    }

    /// Does what [`Ingress::check_batch`] does to requests at these places. Which of them this replica
    /// can authenticate.
    fn check_requests<'a>(
        &mut self,
        mut requests: impl Iterator<Item = (usize, RequestView<'a>)>,
        memory: Option<Memory>,
    ) -> Result<Selection, Reject> {
        let mut authentic = Selection::NONE;
        let mut views = [NOTHING; SIGNATURES_AT_ONCE];
        let mut places = [0; SIGNATURES_AT_ONCE];
        loop {
            let mut count = 0;
            for (place, view) in requests.by_ref().take(SIGNATURES_AT_ONCE) {
                (places[count], views[count]) = (place, view);
                count += 1;
            }
            if count == 0 {
                return Ok(authentic);
            }
            let views = &views[..count];
            self.check_bodies(views)?;
            if let Some(memory) = memory {
                let bits = self.proofs.check_nested(views, memory);
                (0..count).filter(|at| bits & (1 << at) != 0).for_each(|at| {
                    authentic.insert(places[at]);
                });
            }
        }
    }

    /// Digests in lanes, and the service's own opinion.
    fn check_bodies(&mut self, views: &[RequestView<'_>]) -> Result<(), Reject> {
        let mut bodies: [&[u8]; SIGNATURES_AT_ONCE] = [&[]; SIGNATURES_AT_ONCE];
        let mut digests = [[0; 32]; SIGNATURES_AT_ONCE];
        for (body, view) in bodies.iter_mut().zip(views) {
            *body = view.body;
        }
        digest_burst(&bodies[..views.len()], &mut digests[..views.len()]);
        for (view, digest) in views.iter().zip(&digests) {
            if view.digest.0 != *digest {
                return Err(Reject::BadDigest);
            }
            if !self.valid(view, false) {
                return Err(Reject::Malformed);
            }
        }
        Ok(())
    }

    /// Is this a command of the service, or a membership of the View Manager's?
    #[inline]
    fn valid(&mut self, request: &RequestView<'_>, read_only: bool) -> bool {
        if is_view_manager(request.client) {
            // It asks the members, not the application; and so that all of them judge alike, signed.
            let signed = request.auth == proof::SIGNATURE && !read_only;
            return signed && self.proofs.view_request_holds(request);
        }
        self.validator.valid(request.operation)
    }

    /// Signatures of STOPDATA and SYNC, after whatever is cheaper than a signature.
    fn check_states(
        &mut self,
        from: ReplicaId,
        message: &Message<FramePayload>,
    ) -> Result<(), Reject> {
        spec!("SYNC.7", "SYNC.10");
        match message {
            Message::StopData(signed) if signed.state.replica != from => {
                return Err(Reject::NotAllowed);
            }
            Message::Sync(sync) if self.view.leader(sync.regency) != from => {
                return Err(Reject::NotAllowed);
            }
            Message::Sync(sync) if sync.states.len() > self.view.n() => {
                return Err(Reject::Malformed);
            }
            _ => {}
        }
        let mut holds = true;
        visit_states(message, |signed| {
            holds = holds && self.proofs.states_hold(std::iter::once(signed));
        });
        if holds { Ok(()) } else { Err(Reject::BadProof) }
    }
}

/// The root that the leaf of a chunk with its path implies: it belongs to the image that has this root, at its place.
/// [`Digest::ZERO`], which no image has, when its length or its path is impossible.
fn implied_root(chunk: &Chunk<FramePayload>) -> Digest {
    let (leaf, index) = ((&chunk.leaf.0, chunk.bytes().len()), u64::from(chunk.index));
    let root = merkle::implied_root(leaf, index, chunk.size, CHUNK_SIZE as u64, chunk.path());
    root.map_or(Digest::ZERO, Digest)
}

fn reject(malformed: Malformed) -> Reject {
    match malformed {
        Malformed::Unknown => Reject::UnknownKind,
        _ => Reject::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestCluster, request_bytes};
    use tetrarch_client::cluster::{PrivateKeys, ViewManager};
    use tetrarch_consensus::batch::SparseBatch;
    use tetrarch_consensus::membership::{Membership, VIEW_MANAGER, ViewRequest};
    use tetrarch_consensus::message::codec::decode_request;
    use tetrarch_consensus::message::{Position, Propose, ProposeSparse, Vote, codec};
    use tetrarch_consensus::payload::{HeapPool, SharedBytes};
    use tetrarch_consensus::{ConsensusId, Epoch, ViewId};
    use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
    use tetrarch_dataplane::crypto::hash::body_digest;
    use tetrarch_dataplane::crypto::signature::SigningKey;
    use tetrarch_dataplane::types::PeerId;
    use tetrarch_services::null::NullValidator;

    const AT: Position = Position { view: ViewId(0), cid: ConsensusId(1), epoch: Epoch(0) };

    struct World {
        ingress: Ingress,
        arena: Arena,
    }

    fn world() -> World {
        world_of(&TestCluster::new(4, 1, 1))
    }

    fn world_of(cluster: &TestCluster) -> World {
        let own = ReplicaId(1);
        let proofs = Proofs::new(&cluster.cluster, own, &cluster.replica_keys[1]);
        let proofs = proofs.expect("keys that give secrecy");
        let ingress = Ingress::new(cluster.cluster.view(), proofs, Box::new(NullValidator), 1);
        let classes = vec![SlotClass { slot_size: 2048, count: 4 }];
        World { ingress, arena: Arena::heap(&ArenaSpec { classes }).expect("8 KiB") }
    }

    impl World {
        /// As from the links: with the digest of everything but `trailer_size` bytes.
        fn check(
            &mut self,
            message: &Message<SharedBytes>,
            trailer_size: usize,
        ) -> Result<Message<FramePayload>, Reject> {
            let mut bytes = vec![0; codec::encoded_size(message)];
            codec::encode(message, &mut bytes);
            let body = &bytes[..bytes.len() - trailer_size];
            let received = Received {
                peer: PeerId::replica(0),
                kind: message.kind(),
                auth: proof::NONE,
                proof_size: trailer_size as u16,
                session: 0,
                body_digest: body_digest(body),
                frame: self.arena.pool().copy_from(&bytes).expect("a slot"),
            };
            match self.ingress.check_member(ReplicaId(0), received)? {
                Input::Peer { message, .. } => Ok(message.into_inner()),
                _ => panic!("a message of a member"),
            }
        }
    }

    fn batch() -> Batch<SharedBytes> {
        let body = request_bytes(ClientId::new(0, 0), 1, b"", false);
        let (size, digest) = (body.len(), Digest(body_digest(&body)));
        let request = decode_request(SharedBytes::from(&body[..]), size, digest, proof::NONE);
        Batch::build(&mut HeapPool, 7, &[request.expect("well formed")]).expect("heap")
    }

    #[test]
    fn a_proposal_without_bodies_has_the_digest_that_its_link_computed() {
        let mut world = world();
        let batch = batch();
        let bare = SparseBatch::of(&batch, &Selection::ALL, &mut HeapPool).expect("heap");
        let message = Message::ProposeSparse(ProposeSparse { at: AT, batch: bare });
        match world.check(&message, trailer_size(kind::PROPOSE)) {
            Ok(Message::ProposeSparse(propose)) => {
                assert_eq!((propose.at, propose.batch.digest), (AT, batch.digest));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_a_body_is_as_long_as_its_kind_says() {
        let mut world = world();
        let batch = batch();
        let vote = Message::Write(Vote { at: AT, digest: batch.digest });
        let propose = Message::Propose(Propose { at: AT, batch });
        for (message, right) in [(&vote, 0), (&propose, 16)] {
            for trailer_size in [0, 8, 16, 24] {
                let checked = world.check(message, trailer_size);
                let expected = (trailer_size != right).then_some(Reject::Malformed);
                assert_eq!(checked.err(), expected, "{trailer_size} bytes");
            }
        }
    }

    /// A proposal of one request of the View Manager's, for a membership that `signer` signed.
    fn asking(cluster: &TestCluster, signer: &SigningKey, auth: u8) -> Message<SharedBytes> {
        let first = cluster.cluster.membership();
        let members = first.members().to_vec();
        let next = Membership::new(first.cluster(), ViewId(1), 1, first.model(), members);
        let next = next.expect("possible");
        let signature = signer.sign(&ViewRequest::signed_bytes(&next));
        let mut operation = Vec::new();
        ViewRequest { next, signature }.encode(&mut operation);
        let mut body = request_bytes(ClientId::new(VIEW_MANAGER, 0), 1, &operation, false);
        let (size, digest) = (body.len(), Digest(body_digest(&body)));
        // As long as a signature, and as entries for four members.
        body.resize(size + 64, 0);
        let request = decode_request(SharedBytes::from(&body[..]), size, digest, auth);
        let batch = Batch::build(&mut HeapPool, 7, &[request.expect("well formed")]);
        Message::Propose(Propose { at: AT, batch: batch.expect("heap") })
    }

    #[test]
    fn the_view_manager_asks_with_signatures_only() {
        // rule: VIEW.1
        let mut cluster = TestCluster::new(4, 1, 1);
        let manager = PrivateKeys::generate().expect("random bytes");
        cluster.cluster.view_manager = Some(ViewManager {
            static_key: manager.static_secret.public(),
            signing_key: manager.signing_key.verifying_key(),
        });
        let mut world = world_of(&cluster);
        let stranger = &cluster.client_keys[0].signing_key;
        for (signer, auth, expected) in [
            (&manager.signing_key, proof::SIGNATURE, None),
            (&manager.signing_key, proof::MAC_VECTOR, Some(Reject::Malformed)),
            (stranger, proof::SIGNATURE, Some(Reject::Malformed)),
        ] {
            let message = asking(&cluster, signer, auth);
            let checked = world.check(&message, trailer_size(kind::PROPOSE));
            assert_eq!(checked.err(), expected, "auth {auth}");
        }
    }
}
