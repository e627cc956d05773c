//! Scenario files: commands, a line `----`, and the lines that the cores are expected to produce.
//!
//! One command a line, `#` starts a comment. Words of the form `key=value` are arguments.
//!
//! | command | |
//! |---|---|
//! | `cluster n=4 f=1 ids=0,1,2,4 model=crash timeout=1000 batch=2 inline=0 pending=4` | must come first |
//! | `batch A 1.1:a 2.1:b!0,3 at=5` | names a batch; `!` lists replicas for which the proof is wrong, `*` signs; `at` in ms from now |
//! | `request 1.1:a to=0,1` | a client's request, to all or some |
//! | `deliver`, `deliver kind=WRITE from=0 to=1,2` | until nothing is left; or what is on its way now and matches |
//! | `drop kind=.. from=.. to=..` | loses what matches |
//! | `tick 500`, `run 500` | time passes (ms): messages wait; messages arrive |
//! | `crash 0`, `byzantine 0`, `restart 0`, `cut 0`, `heal 0`, `connect 0 1` | |
//! | `stall 0`, `unstall 0` | the application stops, goes on |
//! | `send from=0 to=1 PROPOSE cid=1 epoch=0 batch=A` | a byzantine replica says something; see `say` |
//! | `show` | where every replica is |
//! | `quiet`, `loud` | stops and goes on writing down actions |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use tetrarch_consensus::message::*;
use tetrarch_consensus::payload::HeapPool;
use tetrarch_consensus::*;

use super::{Bytes, Cluster, Envelope, request, signature};

/// Runs the commands of `text` and returns what happened.
pub fn run(text: &str) -> String {
    let mut script = Script { cluster: Cluster::four(), batches: BTreeMap::new(), loud: true };
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let words = Words::new(line, number + 1);
        script.cluster.log.clear();
        let shown = script.command(&words);
        writeln!(out, "> {line}").expect("a string");
        if script.loud {
            for entry in script.cluster.log.iter().filter(|entry| !entry.contains(": STATUS ")) {
                writeln!(out, "{entry}").expect("a string");
            }
        }
        out += &shown;
    }
    script.cluster.check_agreement();
    out
}

struct Words<'a> {
    line: &'a str,
    number: usize,
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str, number: usize) -> Self {
        let (mut plain, mut named) = (Vec::new(), BTreeMap::new());
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => {
                    named.insert(name, value);
                }
                None => plain.push(word),
            }
        }
        Self { line, number, plain, named }
    }

    fn fail(&self, why: &str) -> ! {
        panic!("line {}: {why}: {}", self.number, self.line)
    }

    fn plain(&self, at: usize) -> &'a str {
        self.plain.get(at).copied().unwrap_or_else(|| self.fail("a word is missing"))
    }

    fn parse<T: std::str::FromStr>(&self, text: &str) -> T {
        text.parse().unwrap_or_else(|_| self.fail("not a number"))
    }

    fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> T {
        self.named.get(name).map_or(default, |text| self.parse(text))
    }

    fn needed<T: std::str::FromStr>(&self, name: &str) -> T {
        let text = self.named.get(name).unwrap_or_else(|| self.fail("an argument is missing"));
        self.parse(text)
    }

    fn list(&self, name: &str) -> Option<Vec<u16>> {
        let text = self.named.get(name)?;
        Some(text.split(',').map(|word| self.parse(word)).collect())
    }
}

struct Script {
    cluster: Cluster,
    batches: BTreeMap<String, Batch<Bytes>>,
    loud: bool,
}

impl Script {
    fn command(&mut self, words: &Words<'_>) -> String {
        let id = || words.parse::<u16>(words.plain(1));
        let cluster = &mut self.cluster;
        match words.plain(0) {
            "cluster" => self.cluster = new_cluster(words),
            "batch" => self.define(words),
            "request" => self.request(words),
            "deliver" if words.named.is_empty() => cluster.deliver_all(),
            "deliver" => self.matching(words, true),
            "drop" => self.matching(words, false),
            "tick" => cluster.tick(Duration::from_millis(words.parse(words.plain(1)))),
            "run" => cluster.run(Duration::from_millis(words.parse(words.plain(1)))),
            "crash" | "byzantine" => cluster.crash(id()),
            "restart" => cluster.start(id(), true),
            "cut" => drop(cluster.cut.insert(id())),
            "heal" => drop(cluster.cut.remove(&id())),
            "connect" => cluster.connect(id(), words.parse(words.plain(2))),
            "stall" => drop(cluster.stalled.insert(id())),
            "unstall" => cluster.unstall(id()),
            "send" => self.send(words),
            "quiet" => self.loud = false,
            "loud" => self.loud = true,
            "show" => return self.show(),
            _ => words.fail("unknown command"),
        }
        String::new()
    }

    fn show(&self) -> String {
        let mut out = String::new();
        for (id, replica) in &self.cluster.replicas {
            write!(out, "{id}: decided={} regency={}", replica.decided(), replica.regency())
                .expect("a string");
            if replica.wanted() != replica.regency() {
                write!(out, " wanted={}", replica.wanted()).expect("a string");
            }
            let flags = [
                (replica.is_stopped(), " stopped"),
                (replica.is_mute(), " mute"),
                (replica.pending() > 0, " pending"),
            ];
            out.extend(flags.iter().filter(|(on, _)| *on).map(|(_, text)| *text));
            let executed = self.cluster.executed[id].iter().flat_map(|e| e.requests.clone());
            writeln!(out, " executed: {}", executed.collect::<Vec<_>>().join(" "))
                .expect("a string");
        }
        out
    }

    /// `1.2:body`, `1.2:body*` (signed), `1.2:body!0,3` (wrong for 0 and 3).
    fn parse_request(&self, words: &Words<'_>, text: &str) -> Request<Bytes> {
        let (number, body) =
            text.split_once(':').unwrap_or_else(|| words.fail("client.counter:body"));
        let (client, counter) =
            number.split_once('.').unwrap_or_else(|| words.fail("client.counter:body"));
        let (body, wrong) = body.split_once('!').unwrap_or((body, ""));
        let wrong_for: Vec<u16> =
            wrong.split(',').filter(|id| !id.is_empty()).map(|id| words.parse(id)).collect();
        let signed = body.ends_with('*');
        let body = body.trim_end_matches('*');
        request(words.parse(client), words.parse(counter), body, signed, &wrong_for)
    }

    fn define(&mut self, words: &Words<'_>) {
        let requests: Vec<_> =
            words.plain[2..].iter().map(|text| self.parse_request(words, text)).collect();
        let ahead: i64 = words.number("at", 0);
        let timestamp_ns = self.cluster.now.0.saturating_add_signed(ahead * 1_000_000);
        let batch = Batch::build(&mut HeapPool, timestamp_ns, &requests).expect("heap");
        self.cluster.names.define(words.plain(1), &batch);
        self.batches.insert(words.plain(1).to_string(), batch);
    }

    fn request(&mut self, words: &Words<'_>) {
        let request = self.parse_request(words, words.plain(1));
        let all = || self.cluster.replicas.keys().copied().collect();
        for to in words.list("to").unwrap_or_else(all) {
            self.cluster.request(to, &request);
        }
    }

    /// Takes out what is on its way now and matches, and delivers it if asked to.
    fn matching(&mut self, words: &Words<'_>, deliver: bool) {
        let (from, to) = (words.list("from"), words.list("to"));
        let kind = words.named.get("kind");
        let queue = std::mem::take(&mut self.cluster.queue);
        let mut rest = Vec::new();
        for envelope in queue {
            let name = self.cluster.names.message(&envelope.message);
            let matches = from.as_ref().is_none_or(|list| list.contains(&envelope.from))
                && to.as_ref().is_none_or(|list| list.contains(&envelope.to))
                && kind.is_none_or(|kind| name.split(' ').next() == Some(*kind));
            match (matches, deliver) {
                (true, true) => self.cluster.deliver(envelope),
                (true, false) => {}
                (false, _) => rest.push(envelope),
            }
        }
        for envelope in rest.into_iter().rev() {
            self.cluster.queue.push_front(envelope);
        }
    }

    /// A byzantine replica says something: the message arrives at once.
    fn send(&mut self, words: &Words<'_>) {
        let from = words.needed("from");
        let message = self.say(words, from);
        if let Message::StopData(signed) = &message {
            self.cluster.states.push((**signed).clone());
        }
        for to in words.list("to").unwrap_or_else(|| words.fail("to whom")) {
            self.cluster.deliver(Envelope { from, to, message: message.clone() });
        }
    }

    fn batch(&self, words: &Words<'_>) -> &Batch<Bytes> {
        let name = words.named.get("batch").unwrap_or_else(|| words.fail("which batch"));
        self.batches.get(*name).unwrap_or_else(|| words.fail("no such batch"))
    }

    /// The value called `name`: a batch defined here, or one that a replica proposed.
    fn digest(&self, words: &Words<'_>, name: &str) -> Digest {
        if let Some(batch) = self.batches.get(name) {
            return batch.digest;
        }
        let name = name.replace('_', " ");
        self.cluster.names.find(&name).unwrap_or_else(|| words.fail("no such value"))
    }

    fn say(&self, words: &Words<'_>, from: u16) -> Message<Bytes> {
        let at = Position {
            view: ViewId(words.number("view", 0)),
            cid: ConsensusId(words.number("cid", 0)),
            epoch: Epoch(words.number("epoch", 0)),
        };
        let value = || {
            let name = words.named.get("value").unwrap_or_else(|| words.fail("which value"));
            self.digest(words, name)
        };
        let vote = || Vote { at, digest: value() };
        match words.plain(1) {
            "PROPOSE" => match words.named.contains_key("omit") {
                true => {
                    let mut omitted = Selection::NONE;
                    let places = words.list("omit").unwrap_or_default();
                    places.iter().for_each(|place| omitted.insert(usize::from(*place)));
                    let batch = SparseBatch::of(self.batch(words), &omitted, &mut HeapPool);
                    Message::ProposeSparse(ProposeSparse { at, batch: batch.expect("heap") })
                }
                false => Message::Propose(Propose { at, batch: self.batch(words).clone() }),
            },
            "FETCH_BODIES" => {
                let mut which = Selection::NONE;
                let places = words.list("which").unwrap_or_default();
                places.iter().for_each(|place| which.insert(usize::from(*place)));
                Message::FetchBodies(FetchBodies { at, digest: value(), which })
            }
            "BODIES" => {
                let requests = self.batch(words).clone();
                Message::Bodies(Bodies { at, digest: value(), requests })
            }
            "WRITE" => Message::Write(vote()),
            "ACCEPT" => Message::Accept(vote()),
            "REFUSE" => {
                let reason = match words.named.get("client") {
                    Some(client) => RefuseReason::Proof(ClientId::new(words.parse(client), 0)),
                    None => RefuseReason::Clock,
                };
                Message::Refuse(Refuse { at, digest: value(), reason })
            }
            "STOP" => Message::Stop(Stop {
                view: at.view,
                regency: Regency(words.needed("regency")),
                requests: self.batch(words).clone(),
            }),
            "FORWARDED" => Message::Forwarded(self.batch(words).clone()),
            "STOPDATA" => Message::StopData(Box::new(self.state(words, from))),
            "SYNC" => Message::Sync(Sync {
                view: at.view,
                regency: Regency(words.needed("regency")),
                states: self.states(words),
            }),
            "DECIDED" => {
                let batch = words.named.contains_key("batch").then(|| self.batch(words).clone());
                Message::Decided(Decided { at, digest: value(), batch })
            }
            "BATCH_BODY" => {
                let batch = self.batch(words).clone();
                Message::BatchBody(BatchBody { view: at.view, cid: at.cid, batch })
            }
            "STATUS" => Message::Status(Status {
                view: at.view,
                regency: Regency(words.number("regency", 0)),
                wanted: Regency(words.number("wanted", 0)),
                stopped: false,
                decided: ConsensusId(words.number("decided", 0)),
                log_start: ConsensusId(words.number("log_start", 1)),
                written: ReplicaSet::EMPTY,
                accepted: ReplicaSet::EMPTY,
                proposed: u32::MAX,
                learned: 0,
            }),
            _ => words.fail("unknown message"),
        }
    }

    /// A state that `from` signs (or says another one does, `replica=`): `decided=`, `last=`,
    /// `before=`, `certified=value@epoch`, `written=value@epoch,..`, `forged=1`.
    fn state(&self, words: &Words<'_>, from: u16) -> SignedState {
        let value = |name: &str| {
            let text = words.named.get(name);
            text.map_or(Digest::ZERO, |text| self.digest(words, text))
        };
        let written = |text: &str| {
            let (name, epoch) = text.split_once('@').unwrap_or_else(|| words.fail("value@epoch"));
            Written { epoch: Epoch(words.parse(epoch)), digest: self.digest(words, name) }
        };
        let mut write_set = WriteSet::EMPTY;
        let entries = words.named.get("written").copied().unwrap_or("");
        for entry in entries.split(',').filter(|entry| !entry.is_empty()) {
            write_set.insert(written(entry));
        }
        let certified = words.named.get("certified").map(|text| written(text));
        let open = OpenState { certified, write_set };
        let decided: u64 = words.number("decided", 0);
        let told = decided.min(2) as usize;
        let state = ReplicaState {
            view: ViewId(words.number("view", 0)),
            regency: Regency(words.needed("regency")),
            replica: ReplicaId(words.number("replica", from)),
            decided: ConsensusId(decided),
            decisions: ["last", "before"].map(value)[..told].to_vec(),
            open: if open.is_blank() { vec![] } else { vec![open] },
        };
        let mut signed = SignedState { state, signature: [0; 64] };
        if !words.named.contains_key("forged") {
            signed.signature = signature(&signed);
        }
        signed
    }

    /// The states on their way to anybody, of the replicas in `of=`, in that order.
    fn states(&self, words: &Words<'_>) -> Vec<SignedState> {
        let regency = Regency(words.number("states_of_regency", words.needed("regency")));
        let of = words.list("of").unwrap_or_default();
        let find = |id: &u16| {
            let known = self.cluster.states.iter().rev();
            let mut known =
                known.filter(|s| s.state.replica.0 == *id && s.state.regency == regency);
            known.next().cloned().unwrap_or_else(|| words.fail("no such state was sent"))
        };
        let mut states: Vec<_> = of.iter().map(find).collect();
        if words.named.contains_key("forged") {
            states.iter_mut().for_each(|signed| signed.signature = [0; 64]);
        }
        states
    }
}

fn new_cluster(words: &Words<'_>) -> Cluster {
    let n: u16 = words.number("n", 4);
    let ids = words.list("ids").unwrap_or_else(|| (0..n).collect());
    let model = match words.named.get("model") {
        Some(&"crash") => FaultModel::Crash,
        _ => FaultModel::Byzantine,
    };
    let mut cluster = Cluster::new(&ids, words.number("f", 1), model);
    cluster.timeout = Duration::from_millis(words.number("timeout", 1000));
    cluster.batch_requests_max = words.number("batch", 1024);
    cluster.inline_body_max = words.number("inline", cluster.inline_body_max);
    cluster.pending_max = words.number("pending", cluster.pending_max);
    for id in ids {
        cluster.start(id, false);
    }
    cluster
}
