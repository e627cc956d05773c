//! What happened: a line per event for people, a hash of all of them for the determinism check.
//!
//! Always true: the hash depends on the events only, never on the log level. Must not: keep more than
//! the last lines in memory.

use std::collections::VecDeque;

use tetrarch_consensus::message::{Message, Offer, Position};
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_consensus::{Digest, Instant};

use crate::rng::mix;

/// How much to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Log {
    /// Nothing.
    None,
    /// Decisions, changes of leader, faults.
    Short,
    /// Every event.
    Full,
}

/// Lines that are kept for the report of a violation.
const TAIL: usize = 40;

/// The record of one run.
#[derive(Debug)]
pub struct Trace {
    level: Log,
    start: Instant,
    hash: u64,
    events: u64,
    tail: VecDeque<String>,
    keep_tail: bool,
}

impl Trace {
    /// An empty record; times are printed relative to `start`.
    pub fn new(level: Log, start: Instant) -> Self {
        Self { level, start, hash: 0, events: 0, tail: VecDeque::new(), keep_tail: false }
    }

    /// Adds one event to the hash.
    pub fn event(&mut self, now: Instant, words: &[u64]) {
        self.events += 1;
        let mut hash = self.hash ^ now.0;
        for &word in words {
            hash = mix(hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        }
        self.hash = hash;
    }

    /// Prints one line, when `level` is wanted.
    pub fn line(&mut self, now: Instant, level: Log, text: impl FnOnce() -> String) {
        let wanted = match self.level {
            Log::None => false,
            Log::Short => level == Log::Short,
            Log::Full => true,
        };
        if !wanted && !self.keep_tail {
            return;
        }
        let at = now.since(self.start);
        let line = format!("{:>4}.{:06} {}", at.as_secs(), at.subsec_micros(), text());
        if wanted {
            println!("{line}");
        }
        if self.keep_tail {
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(line);
        }
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }
}

/// The first eight bytes of a digest as a number.
pub fn short(digest: &Digest) -> u64 {
    let bytes = &digest.0;
    u64::from_le_bytes([
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ])
}

fn place(at: &Position) -> u64 {
    at.cid.0 << 16 ^ u64::from(at.epoch.0) ^ u64::from(at.view.0) << 56
}

/// What makes one message different from another, in two words.
pub fn fingerprint(message: &Message<SharedBytes>) -> [u64; 3] {
    let kind = u64::from(message.kind());
    match message {
        Message::Forwarded(batch) => [kind, batch.len() as u64, short(&batch.digest)],
        Message::Propose(propose) => [kind, place(&propose.at), short(&propose.batch.digest)],
        Message::ProposeSparse(propose) => {
            let held = propose.batch.requests().count() as u64;
            [kind | held << 8, place(&propose.at), short(&propose.batch.digest)]
        }
        Message::Write(vote) | Message::Accept(vote) => {
            [kind, place(&vote.at), short(&vote.digest)]
        }
        Message::Refuse(refuse) => [kind, place(&refuse.at), short(&refuse.digest)],
        Message::Stop(stop) => [kind, u64::from(stop.regency.0), short(&stop.requests.digest)],
        Message::StopData(signed) => {
            [kind, u64::from(signed.state.regency.0), signed.state.decided.0]
        }
        Message::Sync(sync) => [kind, u64::from(sync.regency.0), sync.states.len() as u64],
        Message::Status(status) => [
            kind,
            status.decided.0 << 32 ^ u64::from(status.regency.0),
            u64::from(status.wanted.0) << 1 | u64::from(status.stopped),
        ],
        Message::Fetch(fetch) => [kind, fetch.from.0, fetch.to.0],
        Message::Decided(decided) => [kind, place(&decided.at), short(&decided.digest)],
        Message::FetchBatch(fetch) => [kind, fetch.cid.0, short(&fetch.digest)],
        Message::BatchBody(body) => [kind, body.cid.0, short(&body.batch.digest)],
        Message::FetchBodies(fetch) => {
            let bytes = fetch.which.to_bytes();
            let which = bytes.chunks(8).fold(0, |sum, word| {
                mix(sum ^ word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)))
            });
            [kind, place(&fetch.at), short(&fetch.digest) ^ which]
        }
        Message::Bodies(bodies) => {
            [kind, place(&bodies.at), short(&bodies.digest) ^ short(&bodies.requests.digest)]
        }
        Message::FetchState(fetch) => [kind, fetch.above.0, 0],
        Message::StateOffer(all) => {
            let offers = all.offers().iter();
            let sum =
                offers.fold(0, |sum, it| mix(sum ^ it.cid.0 ^ it.size << 32) ^ short(&it.root));
            [kind, all.offers().len() as u64, sum]
        }
        Message::FetchChunks(fetch) => {
            let which = u64::from(fetch.first) << 32 | u64::from(fetch.count);
            [kind, fetch.cid.0, mix(which) ^ short(&fetch.root)]
        }
        Message::Chunk(chunk) => {
            let bytes = Digest(*blake3::hash(chunk.bytes()).as_bytes());
            [kind, chunk.cid.0 ^ u64::from(chunk.index) << 32, short(&bytes)]
        }
    }
}

/// One message in a few words.
pub fn describe(message: &Message<SharedBytes>) -> String {
    let at = |at: &Position| format!("cid={} epoch={}", at.cid, at.epoch);
    match message {
        Message::Forwarded(batch) => format!("FORWARDED requests={}", batch.len()),
        Message::Propose(propose) => format!(
            "PROPOSE {} {:?} requests={} t={}",
            at(&propose.at),
            propose.batch.digest,
            propose.batch.len(),
            propose.batch.timestamp_ns,
        ),
        Message::ProposeSparse(propose) => format!(
            "PROPOSE {} {:?} requests={} without={:?}",
            at(&propose.at),
            propose.batch.digest,
            propose.batch.len(),
            propose.batch.omitted().collect::<Vec<_>>(),
        ),
        Message::Write(vote) => format!("WRITE {} {:?}", at(&vote.at), vote.digest),
        Message::Accept(vote) => format!("ACCEPT {} {:?}", at(&vote.at), vote.digest),
        Message::Refuse(refuse) => {
            format!("REFUSE {} {:?} {:?}", at(&refuse.at), refuse.digest, refuse.reason)
        }
        Message::Stop(stop) => {
            format!("STOP regency={} requests={}", stop.regency, stop.requests.len())
        }
        Message::StopData(signed) => format!("STOPDATA {}", describe_state(signed)),
        Message::Sync(sync) => {
            let states: Vec<_> = sync.states.iter().map(describe_state).collect();
            format!("SYNC regency={} [{}]", sync.regency, states.join("; "))
        }
        Message::Status(status) => format!(
            "STATUS regency={} wanted={} stopped={} decided={} log={} written={} accepted={} \
             proposed={:b} learned={:b}",
            status.regency,
            status.wanted,
            status.stopped,
            status.decided,
            status.log_start,
            status.written.count(),
            status.accepted.count(),
            status.proposed,
            status.learned,
        ),
        Message::Fetch(fetch) => {
            format!("FETCH {}..={} batches={}", fetch.from, fetch.to, fetch.with_batches)
        }
        Message::Decided(decided) => format!(
            "DECIDED {} {:?} batch={}",
            at(&decided.at),
            decided.digest,
            decided.batch.is_some()
        ),
        Message::FetchBatch(fetch) => format!("FETCH_BATCH cid={} {:?}", fetch.cid, fetch.digest),
        Message::FetchBodies(fetch) => format!("FETCH_BODIES {} {:?}", at(&fetch.at), fetch.digest),
        Message::Bodies(bodies) => {
            let count = bodies.requests.len();
            format!("BODIES {} {:?} requests={count}", at(&bodies.at), bodies.digest)
        }
        Message::BatchBody(body) => format!("BATCH_BODY cid={} {:?}", body.cid, body.batch.digest),
        Message::FetchState(fetch) => format!("FETCH_STATE above={}", fetch.above),
        Message::StateOffer(all) => {
            let offers: Vec<_> = all.offers().iter().map(describe_offer).collect();
            format!("STATE_OFFER [{}]", offers.join("; "))
        }
        Message::FetchChunks(fetch) => format!(
            "FETCH_CHUNKS cid={} {:?} from {}, {}",
            fetch.cid, fetch.root, fetch.first, fetch.count
        ),
        Message::Chunk(chunk) => format!(
            "CHUNK cid={} {:?} index={} size={}",
            chunk.cid,
            chunk.root,
            chunk.index,
            chunk.bytes().len()
        ),
    }
}

fn describe_offer(offer: &Offer) -> String {
    format!("cid={} size={} {:?}", offer.cid, offer.size, offer.root)
}

fn describe_state(signed: &tetrarch_consensus::message::SignedState) -> String {
    let state = &signed.state;
    let written = |w: &tetrarch_consensus::message::Written| format!("{}:{:?}", w.epoch, w.digest);
    let open = |open: &tetrarch_consensus::message::OpenState| {
        let set: Vec<_> = open.write_set.as_slice().iter().map(written).collect();
        let certified = open.certified.as_ref().map_or_else(|| "none".into(), written);
        format!(" certified={certified} written=[{}]", set.join(" "))
    };
    let open: String = state.open.iter().map(open).collect();
    format!(
        "{} regency={} decided={}:{:?}{open}",
        state.replica, state.regency, state.decided, state.decisions,
    )
}
