//! Actions and messages as short, stable text.

use std::collections::BTreeMap;

use tetrarch_consensus::message::{OpenState, ReplicaState, Vote, Written};
use tetrarch_consensus::*;

use super::Bytes;

/// Names of batches: the operations in them, with a mark for each further batch of the same ones.
#[derive(Default)]
pub struct Names {
    by_digest: BTreeMap<[u8; 32], String>,
    uses: BTreeMap<String, usize>,
    operations: BTreeMap<[u8; 32], String>,
}

impl Names {
    pub fn batch(&mut self, batch: &Batch<Bytes>) -> String {
        let operations: Vec<_> =
            batch.requests().map(|view| String::from_utf8_lossy(view.operation)).collect();
        self.named(batch.digest, format!("[{}]", operations.join(" ")))
    }

    /// Remembers what a client's request asks for, so that a digest of it has a name.
    pub fn learn(&mut self, request: &Request<Bytes>) {
        let operation = String::from_utf8_lossy(request.view().operation).into_owned();
        self.operations.insert(request.digest.0, operation);
    }

    /// The same name as of the whole batch; what is left out is in brackets.
    fn sparse(&mut self, batch: &SparseBatch<Bytes>) -> String {
        let operation = |place: usize| {
            let known = self.operations.get(&batch.identity(place).digest.0);
            known.cloned().unwrap_or_else(|| "?".into())
        };
        let operations: Vec<_> = (0..batch.len()).map(operation).collect();
        let omitted: Vec<_> = batch.omitted().map(operation).collect();
        let name = self.named(batch.digest, format!("[{}]", operations.join(" ")));
        format!("{name} without {}", omitted.join(" "))
    }

    fn named(&mut self, digest: Digest, plain: String) -> String {
        let uses = &mut self.uses;
        let name = self.by_digest.entry(digest.0).or_insert_with(|| {
            let count = uses.entry(plain.clone()).or_default();
            *count += 1;
            format!("{plain}{}", "'".repeat(*count - 1))
        });
        name.clone()
    }

    /// Gives `batch` a name of the test's choice.
    pub fn define(&mut self, name: &str, batch: &Batch<Bytes>) {
        self.by_digest.insert(batch.digest.0, name.to_string());
    }

    pub fn digest(&self, digest: &Digest) -> String {
        let unknown = || format!("{:02x}{:02x}", digest.0[0], digest.0[1]);
        self.by_digest.get(&digest.0).cloned().unwrap_or_else(unknown)
    }

    /// The digest with this name.
    pub fn find(&self, name: &str) -> Option<Digest> {
        let found = self.by_digest.iter().find(|(_, known)| *known == name);
        found.map(|(digest, _)| Digest(*digest))
    }

    fn list(&self, batch: &Batch<Bytes>) -> String {
        let operations: Vec<_> =
            batch.requests().map(|view| String::from_utf8_lossy(view.operation)).collect();
        format!("({})", operations.join(" "))
    }

    fn vote(&self, vote: &Vote) -> String {
        format!("cid={} epoch={} {}", vote.at.cid, vote.at.epoch, self.digest(&vote.digest))
    }

    fn written(&self, written: &Written) -> String {
        format!("{}@{}", self.digest(&written.digest), written.epoch)
    }

    fn state(&self, state: &ReplicaState) -> String {
        let mut text = format!("{}: decided={}", state.replica, state.decided);
        let lowest = state.open.is_empty().then_some(OpenState::BLANK);
        for open in state.open.iter().chain(&lowest) {
            let certified = open.certified.map_or("-".into(), |written| self.written(&written));
            let entries: Vec<_> =
                open.write_set.as_slice().iter().map(|written| self.written(written)).collect();
            text += &format!(" certified={certified} written={{{}}}", entries.join(" "));
        }
        text
    }

    pub fn message(&mut self, message: &Message<Bytes>) -> String {
        match message {
            Message::Forwarded(list) => format!("FORWARDED {}", self.list(list)),
            Message::Propose(propose) => {
                let name = self.batch(&propose.batch);
                format!("PROPOSE cid={} epoch={} {name}", propose.at.cid, propose.at.epoch)
            }
            Message::ProposeSparse(propose) => {
                let name = self.sparse(&propose.batch);
                format!("PROPOSE cid={} epoch={} {name}", propose.at.cid, propose.at.epoch)
            }
            Message::FetchBodies(fetch) => {
                let places = (0..limits::BATCH_REQUESTS_MAX).filter(|at| fetch.which.contains(*at));
                let places: Vec<_> = places.map(|place| place.to_string()).collect();
                let (at, digest) = (fetch.at, self.digest(&fetch.digest));
                format!("FETCH_BODIES cid={} {digest}: {}", at.cid, places.join(" "))
            }
            Message::Bodies(bodies) => {
                let (at, list) = (bodies.at, self.list(&bodies.requests));
                format!("BODIES cid={} {}: {list}", at.cid, self.digest(&bodies.digest))
            }
            Message::Write(vote) => format!("WRITE {}", self.vote(vote)),
            Message::Accept(vote) => format!("ACCEPT {}", self.vote(vote)),
            Message::Refuse(refuse) => {
                let (at, digest) = (refuse.at, self.digest(&refuse.digest));
                let reason = match refuse.reason {
                    message::RefuseReason::Proof(client) => format!("proof of {client}"),
                    message::RefuseReason::Clock => "clock".into(),
                };
                format!("REFUSE cid={} epoch={} {digest}: {reason}", at.cid, at.epoch)
            }
            Message::Stop(stop) => {
                format!("STOP regency={} {}", stop.regency, self.list(&stop.requests))
            }
            Message::StopData(signed) => {
                format!("STOPDATA regency={} {}", signed.state.regency, self.state(&signed.state))
            }
            Message::Sync(sync) => {
                let states: Vec<_> =
                    sync.states.iter().map(|signed| signed.state.replica.to_string()).collect();
                format!("SYNC regency={} states of {}", sync.regency, states.join(","))
            }
            Message::Status(status) => format!(
                "STATUS regency={} wanted={}{} decided={}",
                status.regency,
                status.wanted,
                if status.stopped { " stopped" } else { "" },
                status.decided
            ),
            Message::Fetch(fetch) => {
                let what = if fetch.with_batches { "batches" } else { "claims" };
                format!("FETCH {}..{} {what}", fetch.from, fetch.to)
            }
            Message::Decided(decided) => {
                let name = match &decided.batch {
                    Some(batch) => format!("{} with batch", self.batch(batch)),
                    None => self.digest(&decided.digest),
                };
                format!("DECIDED cid={} {name}", decided.at.cid)
            }
            Message::FetchBatch(fetch) => {
                format!("FETCH_BATCH cid={} {}", fetch.cid, self.digest(&fetch.digest))
            }
            Message::FetchState(fetch) => format!("FETCH_STATE above={}", fetch.above),
            Message::StateOffer(all) => {
                let offers: Vec<_> = all.offers().iter().map(|it| it.cid.to_string()).collect();
                format!("STATE_OFFER {}", offers.join(","))
            }
            Message::FetchChunks(fetch) => {
                format!("FETCH_CHUNKS cid={} {} from {}", fetch.cid, fetch.count, fetch.first)
            }
            Message::Chunk(chunk) => format!("CHUNK cid={} {}", chunk.cid, chunk.index),
            Message::BatchBody(body) => {
                format!("BATCH_BODY cid={} {}", body.cid, self.batch(&body.batch))
            }
        }
    }

    pub fn action(&mut self, action: &Action<Bytes>) -> String {
        match action {
            Action::Send { to, message, .. } => {
                let to = match to {
                    Recipients::Others => String::new(),
                    Recipients::One(member) => format!(" -> {member}"),
                };
                format!("{}{to}", self.message(message))
            }
            Action::Persist { lsn, .. } => format!("record {lsn}"),
            Action::ViewEnded { next } => format!("view {} follows", next.next.id()),
            Action::ViewEntered { entered, .. } => format!("in view {}", entered.next.id()),
            Action::Retired { view } => format!("retired by view {view}"),
            Action::Execute { context, batch, selection, .. } => {
                let chosen = batch.requests().enumerate();
                let operations: Vec<_> = chosen
                    .filter(|(index, _)| selection.contains(*index))
                    .map(|(_, view)| String::from_utf8_lossy(view.operation).into_owned())
                    .collect();
                let (cid, name) = (context.cid, self.batch(batch));
                format!("execute cid={cid} {name}: {}", operations.join(" "))
            }
            Action::Checkpoint { base, ordered } => {
                format!("checkpoint cid={} base {base}", ordered.cid)
            }
            Action::SendChunk { to, cid, index, .. } => format!("chunk {index} of {cid} -> {to}"),
            Action::BeginTransfer { cid, size, .. } => {
                format!("transfer of cid={cid} begins, {size} bytes")
            }
            Action::StoreChunk { cid, index, .. } => format!("store chunk {index} of {cid}"),
            Action::EndTransfer { cid } => format!("transfer of cid={cid} ends"),
            Action::Install { base, cid } => format!("install cid={cid} base {base}"),
            Action::Transfer(note) => format!("transfer: {note:?}"),
            Action::ResendReply { client, sequence } => {
                format!("answer {client} {sequence} again")
            }
            Action::AnswerBusy { client, sequence } => format!("busy {client} {sequence}"),
            Action::Installed { regency, leader } => {
                format!("installed regency={regency} leader={leader}")
            }
            Action::Behind { decided, available } => {
                format!("behind decided={decided} available={available}")
            }
            Action::Report(evidence) => format!("evidence {}", self.evidence(evidence)),
        }
    }

    fn evidence(&self, evidence: &Evidence) -> String {
        match evidence {
            Evidence::Equivocation { member, at, first, second } => format!(
                "{member} equivocates at cid={} epoch={}: {} and {}",
                at.cid,
                at.epoch,
                self.digest(first),
                self.digest(second)
            ),
            Evidence::InvalidProposal { member, at } => {
                format!("{member} proposes the impossible at cid={} epoch={}", at.cid, at.epoch)
            }
            Evidence::HalfValidProof { client, at } => {
                format!("{client} has a half-valid proof at cid={} epoch={}", at.cid, at.epoch)
            }
            Evidence::FalseChunk { member, cid, index } => {
                format!("{member} sends a false chunk {index} of {cid}")
            }
            Evidence::FalseOffer { member, cid, .. } => {
                format!("{member} offers a false checkpoint {cid}")
            }
            Evidence::IncompleteProposal { member, client, at } => format!(
                "{member} proposes a request of {client} that nobody has at cid={} epoch={}",
                at.cid, at.epoch
            ),
            Evidence::InvalidSynchronization { member, regency } => {
                format!("{member} synchronises regency={regency} wrongly")
            }
        }
    }
}
