//! A cluster of made-up replicas for this crate's tests: they check every proof, and answer with
//! the operation they were asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tetrarch_consensus::batch::RequestHeader;
use tetrarch_consensus::membership::{self, Membership, ViewRequest};
use tetrarch_consensus::message::codec::{decode_request, request_to_sign};
use tetrarch_consensus::message::reply::{REPLY_HEADER_SIZE, ReplyHeader, Status};
use tetrarch_consensus::message::{kind, proof};
use tetrarch_consensus::{ClientId, FaultModel, ReplicaId, Sequence, ViewId};
use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::crypto::authenticator::PairKey;
use tetrarch_dataplane::crypto::signature::VerifyingKey;
use tetrarch_dataplane::endpoint::Endpoint;
use tetrarch_dataplane::frame::FramePool;
use tetrarch_dataplane::handshake::{Directory, Identity};
use tetrarch_dataplane::links::{LinkConfig, Links, Outgoing, Received};
use tetrarch_dataplane::types::{Instant, PeerId};

use crate::cluster::{ClientEntry, Cluster, Member, PrivateKeys, ViewManager};
use crate::config::ClientConfig;
use crate::payload::Bytes;

/// A cluster of `n` replicas and one client, with all private keys.
pub(crate) struct TestCluster {
    pub(crate) cluster: Cluster,
    pub(crate) replica_keys: Vec<PrivateKeys>,
    pub(crate) client_keys: PrivateKeys,
    pub(crate) manager_keys: PrivateKeys,
}

impl TestCluster {
    pub(crate) fn new(n: u16) -> Self {
        let addresses: Vec<_> = (0..n).map(|id| ([127, 0, 0, 1], 7000 + id).into()).collect();
        Self::at(&addresses)
    }

    pub(crate) fn at(addresses: &[SocketAddr]) -> Self {
        let generate = || PrivateKeys::generate().unwrap();
        let replica_keys: Vec<_> = addresses.iter().map(|_| generate()).collect();
        let (client_keys, manager_keys) = (generate(), generate());
        let members = addresses.iter().zip(&replica_keys).zip(0..).map(|((at, keys), id)| Member {
            id: ReplicaId(id),
            address: at.to_string(),
            static_key: keys.static_secret.public(),
            signing_key: keys.signing_key.verifying_key(),
        });
        let cluster = Cluster {
            id: 0x7e57,
            model: FaultModel::Byzantine,
            f: (addresses.len() - 1) / 3,
            depth: 1,
            checkpoint_every: 0,
            reply_cache_mib: 1,
            view_id: ViewId(0),
            first: None,
            view_manager: Some(ViewManager {
                static_key: manager_keys.static_secret.public(),
                signing_key: manager_keys.signing_key.verifying_key(),
            }),
            members: members.collect(),
            clients: vec![ClientEntry {
                index: 0,
                static_key: client_keys.static_secret.public(),
                signing_key: client_keys.signing_key.verifying_key(),
            }],
        };
        cluster.check("test".as_ref()).unwrap();
        Self { cluster, replica_keys, client_keys, manager_keys }
    }

    /// View `view` of these members, by their places in this cluster, signed.
    pub(crate) fn next(&self, view: u32, members: &[usize]) -> ViewRequest {
        let members = members.iter().map(|at| self.cluster.membership().members()[*at].clone());
        self.sign(view, members.collect())
    }

    /// View `view` of any members, signed.
    pub(crate) fn sign(&self, view: u32, members: Vec<membership::Member>) -> ViewRequest {
        let (id, model) = (self.cluster.id, self.cluster.model);
        let next = Membership::new(id, ViewId(view), (members.len() - 1) / 3, model, members);
        let next = next.expect("possible");
        let signature = self.manager_keys.signing_key.sign(&ViewRequest::signed_bytes(&next));
        ViewRequest { next, signature }
    }

    /// The same cluster as its file says when only these are members.
    pub(crate) fn of(&self, members: &[usize]) -> Cluster {
        let members: Vec<_> = members.iter().map(|at| self.cluster.members[*at].clone()).collect();
        let cluster = Cluster { f: (members.len() - 1) / 3, members, ..self.cluster.clone() };
        cluster.check("test".as_ref()).unwrap();
        cluster
    }

    pub(crate) fn into_config(self) -> ClientConfig {
        let mib = 1024 * 1024;
        ClientConfig {
            request_memory: mib,
            reply_memory: mib,
            incarnation: Some(5),
            ..ClientConfig::new(self.cluster, 0, self.client_keys)
        }
    }
}

/// How a made-up replica behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// Answers with the operation.
    Honest,
    /// Answers with something else.
    Lying,
    /// Checks, and does not answer.
    Silent,
    /// Answers with bytes that are no reply.
    Garbled,
    /// Refuses what begins with `!`, answers the rest.
    Strict,
    /// Has no room for ordered requests of session 0, answers the rest.
    Crowded,
}

/// One made-up replica.
pub(crate) struct FakeReplica {
    links: Links,
    pool: FramePool,
    /// Its place in the view that it is in.
    place: usize,
    /// The View Manager's request for that view, unless it is the first.
    view: Option<ViewRequest>,
    pair: PairKey,
    client: VerifyingKey,
    cluster: u64,
    /// How often each ordered request was executed: members that have it answer again.
    pub(crate) executed: BTreeMap<(ClientId, Sequence), usize>,
    pub(crate) manner: Manner,
    pub(crate) signed: usize,
    pub(crate) seen: usize,
    /// Times that it told of its view.
    pub(crate) told: usize,
}

pub(crate) fn small_arena() -> Arena {
    let classes = vec![
        SlotClass { slot_size: 512, count: 2048 },
        SlotClass { slot_size: 512 * 1024, count: 8 },
    ];
    Arena::heap(&ArenaSpec { classes }).unwrap()
}

impl FakeReplica {
    pub(crate) fn new(test: &TestCluster, index: usize, endpoint: Box<dyn Endpoint>) -> Self {
        Self::named(test, index as u16, index, endpoint)
    }

    /// Replica `id` with the keys of the one at place `index`.
    pub(crate) fn named(
        test: &TestCluster,
        id: u16,
        index: usize,
        endpoint: Box<dyn Endpoint>,
    ) -> Self {
        let keys = &test.replica_keys[index];
        let peer = PeerId::replica(id);
        let identity = Identity { peer, secret: keys.static_secret.clone() };
        let pool = small_arena().pool();
        // It knows clients only: replicas are not its business.
        let clients = test.cluster.clients.iter();
        let clients = clients.map(|it| (PeerId::client(it.index), it.static_key));
        let directory = Directory::new(clients).unwrap();
        let config = LinkConfig { message_size_max_client: 512 * 1024, ..LinkConfig::default() };
        let cluster = test.cluster.id;
        let client = &test.cluster.clients[0];
        let links =
            Links::new(endpoint, identity, directory, cluster, config, pool.clone()).unwrap();
        Self {
            links,
            pool,
            place: index,
            view: None,
            pair: PairKey::for_replica(&keys.static_secret, &client.static_key, cluster).unwrap(),
            client: client.signing_key,
            cluster,
            executed: BTreeMap::new(),
            manner: Manner::Honest,
            signed: 0,
            seen: 0,
            told: 0,
        }
    }

    /// Is in another view from now on.
    pub(crate) fn enter(&mut self, id: u16, view: &ViewRequest) {
        self.place = view.next.view().index_of(ReplicaId(id)).expect("a member");
        self.view = Some(view.clone());
    }

    pub(crate) fn turn(&mut self, now: Instant) -> usize {
        let mut received = Burst::with_capacity(64);
        let count = self.links.rx_burst(now, &mut received);
        for message in received.drain() {
            self.take(message);
        }
        while self.links.event().is_some() {}
        self.links.flush(now);
        count
    }

    pub(crate) fn park(&mut self, limit: std::time::Duration) {
        self.links.park(limit);
    }

    fn take(&mut self, message: Received) {
        assert_eq!(message.kind, kind::REQUEST);
        assert!(message.peer.is_client());
        let digest = tetrarch_consensus::Digest(message.body_digest);
        let (size, auth) = (message.body_size(), message.auth);
        let header = RequestHeader::parse(message.body()).unwrap();
        let view = self.view.as_ref().map_or(ViewId(0), |view| view.next.id());
        if header.view != view.0 {
            if header.view < view.0 && self.manner != Manner::Silent {
                self.tell(message.peer, &header);
            }
            return;
        }
        if header.sequence == Sequence::NONE {
            return;
        }
        self.seen += 1;
        match auth {
            proof::MAC_VECTOR => {
                assert!(self.pair.verify_entry(&digest.0, message.proof(), self.place));
            }
            proof::SIGNATURE => {
                self.signed += 1;
                let signed = request_to_sign(self.cluster, &digest);
                let signature = message.proof().try_into().unwrap();
                assert!(self.client.verify(&signed, signature));
            }
            other => panic!("no such proof: {other}"),
        }
        assert_eq!(message.session >> 32, 0, "the session of client 0");
        let peer = message.peer;
        let request = decode_request(Bytes(message.frame), size, digest, auth).unwrap();
        let operation = request.view().operation;
        if self.manner == Manner::Silent {
            return;
        }
        let busy = self.manner == Manner::Crowded && !request.read_only;
        let busy = busy && request.client.session() == 0;
        if !request.read_only && !busy {
            *self.executed.entry((request.client, request.sequence)).or_default() += 1;
        }
        let refused = self.manner == Manner::Strict && operation.starts_with(b"!");
        let (status, result) = match self.manner {
            _ if refused => (Status::Refused, Vec::new()),
            _ if busy => (Status::Busy, Vec::new()),
            Manner::Lying => (Status::Ok, vec![0xee; 5]),
            _ => (Status::Ok, operation.to_vec()),
        };
        let header = ReplyHeader {
            client: request.client,
            sequence: request.sequence,
            view,
            read_only: request.read_only,
            digest: false,
            status,
            result_size: result.len() as u32,
        };
        self.reply(peer, &header, &result);
    }

    /// Tells of the view that it is in.
    fn tell(&mut self, peer: PeerId, request: &RequestHeader) {
        let view = self.view.as_ref().expect("a later view");
        let mut result = Vec::new();
        view.encode(&mut result);
        let header = ReplyHeader {
            client: request.client,
            sequence: request.sequence,
            view: view.next.id(),
            read_only: request.read_only,
            digest: false,
            status: Status::Outdated,
            result_size: result.len() as u32,
        };
        self.told += 1;
        self.reply(peer, &header, &result);
    }

    fn reply(&mut self, peer: PeerId, header: &ReplyHeader, result: &[u8]) {
        let mut frame = self.pool.alloc(REPLY_HEADER_SIZE + result.len()).unwrap();
        let body = &mut frame.bytes_mut()[..REPLY_HEADER_SIZE + result.len()];
        header.write(body);
        body[REPLY_HEADER_SIZE..].copy_from_slice(result);
        if self.manner == Manner::Garbled {
            body[23..].fill(0xff);
        }
        let size = body.len() as u32;
        self.links.tx(Outgoing {
            to: peer,
            kind: kind::REPLY,
            auth: proof::NONE,
            session: header.client.0,
            proof_size: 0,
            body_digest: None,
            frame: Some(frame.freeze(size)),
        });
    }
}
