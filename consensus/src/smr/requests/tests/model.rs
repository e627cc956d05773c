//! The request table against a model that is a sorted map and sequential searches.

use alloc::collections::BTreeMap;
use alloc::vec;
use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::batch::Selection;
use crate::smr::complaints::Complaint;

/// What is pending, in the plainest form; turns are the order in which sessions became ready.
#[derive(Default)]
struct Model {
    /// Configured limits: requests, and their bytes.
    limits: (usize, usize),
    executed: BTreeMap<ClientId, Sequence>,
    pending: BTreeMap<(ClientId, Sequence), Request<SharedBytes>>,
    turns: Vec<ClientId>,
    /// What was ordered first for each member, and when.
    favours: [Option<(ClientId, Sequence, Instant)>; 4],
}

/// Timeout of the model's configuration.
const TIMEOUT: Duration = Duration::from_nanos(80);

impl Model {
    fn executed(&self, client: ClientId) -> Sequence {
        self.executed.get(&client).copied().unwrap_or(Sequence::NONE)
    }

    fn first(&self, client: ClientId) -> Option<Sequence> {
        self.pending.keys().find(|key| key.0 == client).map(|key| key.1)
    }

    fn is_ready(&self, client: ClientId) -> bool {
        self.first(client).is_some_and(|first| first.follows(self.executed(client)))
    }

    fn settle_turns(&mut self) {
        let ready: Vec<_> = self.turns.iter().copied().filter(|&at| self.is_ready(at)).collect();
        self.turns = ready;
        let mut clients: Vec<_> = self.pending.keys().map(|key| key.0).collect();
        clients.dedup();
        for client in clients {
            if self.is_ready(client) && !self.turns.contains(&client) {
                self.turns.push(client);
            }
        }
    }

    /// What one client may add without leaving less to others than it has, with limits `times` as
    /// large.
    fn has_room(&self, request: &Request<SharedBytes>, times: usize) -> bool {
        let identity = request.client.identity();
        let (mut count, mut bytes) = (0, encoded_size(request));
        for (key, pending) in &self.pending {
            let weight = if key.0.identity() == identity { 2 } else { 1 };
            count += weight;
            bytes += weight * encoded_size(pending);
        }
        count < times * self.limits.0 && bytes <= times * self.limits.1
    }

    fn admit(&mut self, request: Request<SharedBytes>, demoted: bool, room: Room) -> Admission {
        let (client, sequence) = (request.client, request.sequence);
        let executed = self.executed(client);
        let refused = |why| Admission::Refused(why);
        if client.identity() >= 3 || client.session() >= 3 {
            return refused(RefusedRequest::UnknownSession);
        }
        if sequence.counter() == 0 || sequence.incarnation() < executed.incarnation() {
            return refused(RefusedRequest::Stale);
        }
        if sequence <= executed {
            return Admission::Executed;
        }
        let same = sequence.incarnation() == executed.incarnation();
        let base = if same { executed.counter() } else { 0 };
        if sequence.counter() > base + ADMISSION_WINDOW as u32 {
            return refused(RefusedRequest::BeyondWindow);
        }
        if size_in_batch(&request) + BATCH_HEADER_SIZE > 2000 {
            return refused(RefusedRequest::TooLarge);
        }
        if demoted && !is_signed(&request) {
            return refused(RefusedRequest::Demoted);
        }
        let head = self.first(client).filter(|first| first.follows(executed));
        let mut supersedes = false;
        if let Some(first) = self.first(client) {
            let next = sequence.follows(executed);
            if first.incarnation() > sequence.incarnation() {
                if head.is_some() || !next {
                    return refused(RefusedRequest::Stale);
                }
                supersedes = true;
            }
            if first.incarnation() < sequence.incarnation() {
                let weaker = !is_signed(&request) && is_signed(&self.pending[&(client, first)]);
                if head.is_some() && (!next || weaker) {
                    return refused(RefusedRequest::NotYet);
                }
                supersedes = true;
            }
        }
        let known = self.pending.get(&(client, sequence));
        if known.is_some_and(|known| is_signed(known) || !is_signed(&request)) {
            return Admission::Duplicate;
        }
        let next = self.first(client).filter(|first| first.follows(executed));
        let near = sequence.follows(executed) || next.is_some_and(|next| sequence.follows(next));
        let keeps = known.is_some() || near || room == Room::Awaited;
        let admission = match room {
            _ if keeps || self.has_room(&request, 1) => Admission::Accepted,
            Room::Follower if self.has_room(&request, 2) => Admission::Spare,
            _ => return refused(RefusedRequest::Overload),
        };
        if supersedes {
            self.pending.retain(|key, _| key.0 != client);
        }
        self.pending.insert((client, sequence), request);
        self.settle_turns();
        admission
    }

    /// As `admit`, of a request that `member` has waited for longest.
    fn admit_first(
        &mut self,
        member: usize,
        now: Instant,
        request: Request<SharedBytes>,
        demoted: bool,
        room: Room,
    ) -> Admission {
        let name = (request.client, request.sequence);
        let may = match self.favours[member] {
            None => true,
            Some((client, sequence, when)) => {
                let last = (client, sequence);
                when + TIMEOUT / 2 <= now && (last == name || !self.pending.contains_key(&last))
            }
        };
        if !may || !is_signed(&request) {
            return self.admit(request, demoted, room);
        }
        let room = if room == Room::Awaited { room } else { Room::Favoured };
        let admission = self.admit(request, demoted, room);
        if self.is_ready(name.0) {
            let head = self.first(name.0).expect("it is ready");
            self.favours[member] = Some((name.0, head, now));
            self.turns.retain(|&turn| turn != name.0);
            self.turns.insert(0, name.0);
        }
        admission
    }

    /// Rounds over the sessions in order of their turns; the first that finds no room ends it.
    fn select(&self, complaints: &Complaints) -> Vec<(ClientId, Sequence)> {
        let mut chosen: Vec<(ClientId, Sequence)> = vec![];
        let mut sessions: Vec<_> =
            self.turns.iter().map(|&client| (client, self.executed(client))).collect();
        let mut bytes = BATCH_HEADER_SIZE;
        let mut complainants = crate::types::ReplicaSet::EMPTY;
        while !sessions.is_empty() {
            let mut again = vec![];
            for (client, last) in sessions {
                let next = self.pending.iter().find(|(key, _)| key.0 == client && key.1 > last);
                let Some((&(_, sequence), request)) = next else { continue };
                if !sequence.follows(last) {
                    continue;
                }
                if !is_signed(request) {
                    let union = complainants.union(complaints.about(client.identity()));
                    if union.count() > 1 {
                        continue;
                    }
                }
                bytes += size_in_batch(request);
                if chosen.len() == 6 || bytes > 2000 {
                    return chosen;
                }
                if !is_signed(request) {
                    complainants = complainants.union(complaints.about(client.identity()));
                }
                chosen.push((client, sequence));
                again.push((client, sequence));
            }
            sessions = again;
        }
        chosen
    }

    fn execute(&mut self, batch: &Batch<SharedBytes>) -> Vec<bool> {
        let mut runs = vec![];
        for request in batch.requests() {
            let follows = request.sequence.follows(self.executed(request.client));
            if follows {
                self.executed.insert(request.client, request.sequence);
                self.pending.retain(|key, _| key.0 != request.client || key.1 > request.sequence);
                self.turns.retain(|&turn| turn != request.client);
                if self.is_ready(request.client) {
                    self.turns.push(request.client);
                }
            }
            runs.push(follows);
        }
        runs
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit {
        client: ClientId,
        ahead: u32,
        later: bool,
        signed: bool,
        content: u8,
        size: usize,
        room: Room,
        first_of: Option<usize>,
    },
    Complain {
        member: usize,
        client: ClientId,
    },
    /// Decide what would be selected, or requests that nobody asked for.
    Decide {
        foreign: Option<(ClientId, u32)>,
        repeat: bool,
    },
    Strike,
    Overdue,
}

fn client() -> impl Strategy<Value = ClientId> {
    // Identity 3 and session 3 do not exist.
    (0u32..14).prop_map(|at| match at {
        0 => ClientId::new(3, 0),
        1 => ClientId::new(0, 3),
        at => ClientId::new(at % 3, at / 3 % 3),
    })
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![Just(8usize), Just(8), Just(900), Just(1900)];
    let room = prop_oneof![Just(Room::Leader), Just(Room::Follower), Just(Room::Awaited)];
    prop_oneof![
        8 => (
            (client(), 0u32..6, 0u8..12, any::<bool>(), 0u8..2, size, room),
            proptest::option::weighted(0.3, 0usize..4),
        ).prop_map(
            |((client, ahead, later, signed, content, size, room), first_of)| Step::Admit {
                client,
                // Mostly the next ones; sometimes at the edge of the window.
                ahead: if later == 1 { 63 + ahead } else { ahead },
                later: later == 0,
                signed,
                content,
                size,
                room,
                first_of,
            }
        ),
        1 => (0usize..4, client())
            .prop_map(|(member, client)| Step::Complain { member, client }),
        3 => (proptest::option::weighted(0.3, (client(), 0u32..3)), proptest::bool::weighted(0.1))
            .prop_map(|(foreign, repeat)| Step::Decide { foreign, repeat }),
        1 => Just(Step::Strike),
        1 => Just(Step::Overdue),
    ]
}

struct Pair {
    requests: Requests<SharedBytes>,
    complaints: Complaints,
    model: Model,
    now: Instant,
    out: Vec<Request<SharedBytes>>,
    last_timestamp_ns: u64,
}

impl Pair {
    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        self.now = Instant(self.now.0 + 10);
        match step {
            Step::Admit { client, ahead, later, signed, content, size, room, first_of } => {
                let last = self.model.executed(client);
                let incarnation = last.incarnation().max(1) + u32::from(later);
                let base = if incarnation == last.incarnation() { last.counter() } else { 0 };
                let sequence = Sequence::new(incarnation, base + ahead);
                let request = request(client, sequence, signed, content, size);
                let demoted = self.complaints.is_demoted(client.identity());
                let Self { requests, complaints, model, now, .. } = self;
                let (expected, got) = match first_of {
                    None => (
                        model.admit(request.clone(), demoted, room),
                        requests.admit(*now, request, complaints, |_| room),
                    ),
                    Some(member) => (
                        model.admit_first(member, *now, request.clone(), demoted, room),
                        requests.admit_first(*now, member, request, complaints, |_| room),
                    ),
                };
                prop_assert_eq!(got, expected);
            }
            Step::Complain { member, client } => {
                if self.complaints.complain(member, client) == Complaint::Demoted {
                    let identity = client.identity();
                    self.requests.demote(self.now, identity);
                    self.model
                        .pending
                        .retain(|key, request| key.0.identity() != identity || is_signed(request));
                    self.model.settle_turns();
                }
            }
            Step::Decide { foreign, repeat } => self.decide(foreign, repeat)?,
            Step::Strike => self.strike()?,
            Step::Overdue => {
                let max = 3;
                let timeout = Duration::from_nanos(50);
                self.requests.overdue(self.now, timeout, max, &mut self.out);
                prop_assert!(self.out.len() <= max);
                for name in names(&self.out) {
                    prop_assert!(self.model.pending.contains_key(&name));
                }
            }
        }
        self.requests.select(&self.complaints);
        prop_assert_eq!(names(self.requests.selected()), self.model.select(&self.complaints));
        prop_assert_eq!(self.requests.has_orderable(), self.requests.selected().len() > 0);
        prop_assert_eq!(self.requests.pending_count(), self.model.pending.len());
        self.requests.check_invariants();
        Ok(())
    }

    fn decide(
        &mut self,
        foreign: Option<(ClientId, u32)>,
        repeat: bool,
    ) -> Result<(), TestCaseError> {
        self.requests.select(&self.complaints);
        let mut list: Vec<_> = self.requests.selected().cloned().collect();
        let first = list.first().cloned();
        if let Some((client, ahead)) = foreign {
            let last = self.model.executed(client);
            let sequence = Sequence::new(last.incarnation().max(1), last.counter() + ahead);
            list.insert(0, request(client, sequence, false, 7, 8));
        }
        if repeat {
            list.extend(first);
        }
        let mut batch = batch(self.last_timestamp_ns + 1, &list);
        batch.authentic = Selection::NONE;
        let mut last = self.model.executed.clone();
        let in_order = list.iter().all(|request| {
            let known = request.client.identity() < 3 && request.client.session() < 3;
            let before = last.insert(request.client, request.sequence).unwrap_or(Sequence::NONE);
            known && request.sequence.follows(before)
        });
        let fits = !list.is_empty()
            && list.len() <= 6
            && list.iter().map(size_in_batch).sum::<usize>() + BATCH_HEADER_SIZE <= 2000;
        let check = self.requests.check_batch(&batch, self.last_timestamp_ns, false);
        prop_assert_eq!(check.is_ok(), in_order && fits);
        if let Ok(doubtful) = check {
            let is_doubtful = |request: &&Request<SharedBytes>| {
                let known = self.model.pending.get(&(request.client, request.sequence));
                known.is_none_or(|known| known.digest != request.digest)
            };
            let first = list.iter().find(is_doubtful).map(|request| request.client);
            prop_assert_eq!(doubtful, first);
        }
        if list.iter().any(|request| !self.requests.table.allows(request.client)) {
            return Ok(());
        }
        let runs = self.model.execute(&batch);
        let selection = self.requests.execute(self.now, &batch, true);
        for (index, runs) in runs.iter().enumerate() {
            prop_assert_eq!(selection.contains(index), *runs);
        }
        for client in list.iter().map(|request| request.client) {
            prop_assert_eq!(self.requests.executed(client), self.model.executed(client));
        }
        self.last_timestamp_ns += 1;
        Ok(())
    }

    fn strike(&mut self) -> Result<(), TestCaseError> {
        let before = self.requests.oldest();
        self.requests.strike(self.now);
        let after = self.requests.oldest();
        match before {
            None => prop_assert_eq!(after, None),
            Some(work) if work.signed => {
                let struck = Work { since: self.now, strikes: work.strikes + 1, signed: true };
                prop_assert_eq!(after, Some(struck));
            }
            Some(_) => {
                let next = Work { since: self.now, strikes: 0, signed: false };
                prop_assert!(after.is_none_or(|after| after == next));
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    // rule: SMR.4, SMR.6, SMR.9, SMR.10, SMR.14, VAL.1, VAL.2, VAL.5, VAL.6, TIME.1, TIME.7
    #[test]
    fn the_table_does_what_the_naive_model_does(
        steps in proptest::collection::vec(step(), 0..150),
        limits in (prop_oneof![Just(1usize), 2usize..20, Just(1000)], 1000usize..30_000),
    ) {
        let (pending_max, pending_size_max) = limits;
        let config =
            Config { pending_max, pending_size_max, request_timeout: TIMEOUT, ..config() };
        let mut pair = Pair {
            requests: Requests::new(&config),
            complaints: Complaints::new(&config),
            model: Model { limits, ..Model::default() },
            now: Instant(0),
            out: vec![],
            last_timestamp_ns: 0,
        };
        for step in steps {
            pair.run(step)?;
        }
    }
}
