//! The execution stage: the application between its rings.
//!
//! Owns the state machine and the reply cache. Always true: batches run in the order they come, a
//! batch only when all its replies fit the ring ahead; each executed request has exactly one reply,
//! which is kept. Must not: decide what runs (the core's selection does), or send.

use std::io::Read;
use std::sync::Arc;

use tetrarch_consensus::limits::{FULL_RESULT_SIZE_MAX, RESULT_SIZE_MAX};
use tetrarch_consensus::message::reply::{REPLY_HEADER_SIZE, ReplyHeader, Status, set_view};
use tetrarch_consensus::{
    BadSnapshot, ClientId, ConsensusId, Context, Digest, Lsn, Ordered, Replies, RequestView,
    Sequence, StateMachine, ViewId, spec,
};
use tetrarch_dataplane::frame::FramePool;
use tetrarch_dataplane::limits::BURST_MAX;
use tetrarch_dataplane::reject::{Reject, RejectCounts};
use tetrarch_dataplane::ring::Producer;
use tetrarch_dataplane::stage::{Progress, Stage};
use tetrarch_dataplane::types::Instant;

use super::notices::Notices;
use super::reply_page::ReplyPage;
use super::{Answer, Decided, ExecutionRings, Wakers, Work, wake};
use crate::checkpoint::chunks::Chunks;
use crate::checkpoint::image::{self, ImageError};
use crate::checkpoint::transfer::{Install, State};
use crate::checkpoint::{CheckpointSink, Position};
use crate::metrics::Metrics;
use crate::reply_cache::ReplyCache;

/// Bytes of a checkpoint that are copied in one poll: some tens of microseconds.
const COPIED_PER_POLL: usize = 64 * 1024;

/// See the module.
pub struct Execution {
    service: Box<dyn StateMachine>,
    cache: ReplyCache,
    rings: ExecutionRings,
    pool: FramePool,
    view: ViewId,
    /// This replica's place in the view.
    own: usize,
    /// Time of this turn.
    now: Instant,
    /// What has to be durable before anybody hears of the state.
    after: Lsn,
    /// Is this what was executed before a restart?
    replays: bool,
    /// What the core said last: not while this replica may have forgotten what it helped to decide.
    answers_reads: bool,
    /// Where the replies of a batch are written.
    page: ReplyPage,
    notices: Notices,
    /// Where a result is written when no frame is free: the reply is kept, and the client asks again.
    scratch: Vec<u8>,
    rejects: RejectCounts,
    metrics: Arc<Metrics>,
    /// Where checkpoints go, if they are kept.
    checkpoints: Option<Box<dyn CheckpointSink>>,
    /// Where the core's share of each is written.
    part: Vec<u8>,
    /// The one that is being copied, and the part of its image that is.
    copying: Option<(Position, Chunks)>,
    /// The state is away, to be replaced; were read-only requests answered before?
    away: Option<bool>,
    wakers: Wakers,
}

impl Execution {
    /// The stage around `service`, which answers as the member at a place of a view, into frames of
    /// `pool`.
    pub fn new(
        service: Box<dyn StateMachine>,
        cache: ReplyCache,
        rings: ExecutionRings,
        pool: FramePool,
        (view, own): (ViewId, usize),
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            service,
            cache,
            rings,
            pool,
            view,
            own,
            now: Instant(0),
            after: Lsn(0),
            replays: false,
            answers_reads: false,
            page: ReplyPage::new(),
            notices: Notices::default(),
            scratch: vec![0; REPLY_HEADER_SIZE + RESULT_SIZE_MAX],
            rejects: RejectCounts::new(),
            metrics,
            checkpoints: None,
            part: Vec::new(),
            copying: None,
            away: None,
            wakers: Wakers::default(),
        }
    }

    /// From now on wakes other cores for what is left in its rings.
    pub fn wake_others(&mut self, wakers: Wakers) {
        self.wakers = wakers;
    }

    /// From here on it answers as the member with this place in `view`. Who is no member answers those who
    /// ask everybody.
    pub fn enter(&mut self, view: ViewId, own: Option<usize>) {
        (self.view, self.own) = (view, own.unwrap_or(usize::MAX));
    }

    /// Executes again what was executed before a restart: nobody is told, and replies are kept.
    pub fn replay(&mut self, decided: &Decided) {
        spec!("DUR.4");
        self.replays = true;
        self.execute(decided);
        self.replays = false;
    }

    /// From now on hands checkpoints to `sink`.
    pub fn keep_checkpoints(&mut self, sink: Box<dyn CheckpointSink>) {
        self.checkpoints = Some(sink);
    }

    /// Goes on with the state in an image whose first part was read.
    ///
    /// # Errors
    /// It cannot be read. The stage must not be used then.
    pub fn install<R: Read>(
        &mut self,
        ordered: &Ordered,
        image: image::Reader<R>,
    ) -> Result<(), ImageError> {
        spec!("CKP.4");
        image.state(ordered, &mut self.cache, &mut *self.service)
    }

    /// A checkpoint is due: begins to copy what there is, or copies it as a whole.
    fn checkpoint(&mut self, base: Lsn, ordered: &Ordered) {
        spec!("CKP.1");
        let Self { service, cache, checkpoints: Some(sink), copying, part, .. } = self else {
            return;
        };
        if copying.is_some() {
            return sink.leave_out();
        }
        let Some(mut image) = sink.begin() else { return };
        let position = Position { cid: ordered.cid, base };
        let mut whole = false;
        sink.copy(&mut || {
            image::begin(ordered, cache, part, &mut image);
            whole = !service.begin_snapshot();
            if whole {
                service.snapshot(&mut |bytes| image.push(bytes));
            }
        });
        match whole {
            true => sink.take(position, image),
            false => *copying = Some((position, image)),
        }
    }

    /// Copies one more piece of the state as it was when a checkpoint was due.
    fn copy(&mut self) -> Progress {
        let Self { service, checkpoints: Some(sink), copying, .. } = self else {
            return Progress::Idle;
        };
        let Some((position, mut image)) = copying.take() else {
            return Progress::Idle;
        };
        let mut done = false;
        sink.copy(&mut || {
            done = service.continue_snapshot(COPIED_PER_POLL, &mut |bytes| image.push(bytes));
        });
        match done {
            true => sink.take(position, image),
            false => *copying = Some((position, image)),
        }
        Progress::Worked
    }

    /// Gives the state away, to come back as that of the image that was fetched. Until then this stage has nothing to
    /// work with, and the others go on.
    fn begin_install(&mut self, base: Lsn, cid: ConsensusId) {
        spec!("ST.5");
        let Self { service, cache, checkpoints: Some(sink), copying, .. } = self else {
            debug_assert!(false, "who has no checkpoints is offered none");
            return;
        };
        if let Some((_, image)) = copying.take() {
            sink.abandon(image);
        }
        let state = State {
            service: std::mem::replace(service, Box::new(Away)),
            cache: std::mem::replace(cache, ReplyCache::new(0, 0)),
        };
        sink.install(Install { base, cid, state });
        self.away = Some(std::mem::replace(&mut self.answers_reads, false));
    }

    /// Takes the state back, if it is here.
    fn end_install(&mut self) -> Progress {
        spec!("ST.5");
        let Self { checkpoints: Some(sink), rings, .. } = self else { return Progress::Idle };
        if rings.executed.room() == 0 {
            return Progress::Idle;
        }
        let Some((cid, State { service, cache })) = sink.installed() else {
            return Progress::Idle;
        };
        (self.service, self.cache) = (service, cache);
        self.answers_reads = self.away.take().unwrap_or(false);
        let told = self.rings.executed.push(cid);
        debug_assert!(told.is_ok(), "the room was checked");
        self.metrics.executed.set(cid.0);
        self.metrics.reply_cache_size.set(self.cache.size() as u64);
        Progress::Worked
    }

    /// The application, for checkers and tests.
    pub fn service(&self) -> &dyn StateMachine {
        &*self.service
    }

    /// One piece of work, if there is any and its replies fit.
    fn work(&mut self) -> Progress {
        let room = self.rings.replies.room();
        let needed = match self.rings.work.front() {
            None => return Progress::Idle,
            Some(Work::Execute { decided, .. }) => decided.batch.len(),
            Some(Work::Resend { .. } | Work::Busy { .. }) => 1,
            Some(
                Work::Reads(_)
                | Work::Enter { .. }
                | Work::Checkpoint { .. }
                | Work::Install { .. },
            ) => 0,
        };
        if room < needed || self.rings.executed.room() == 0 {
            return Progress::Idle;
        }
        match self.rings.work.pop() {
            Some(Work::Execute { decided, after }) => {
                self.after = self.after.max(after);
                self.execute(&decided);
            }
            Some(Work::Enter { view, own }) => self.enter(view, own),
            Some(Work::Resend { client, sequence }) => self.resend(client, sequence),
            Some(Work::Busy { client, sequence }) => self.say(client, sequence, Status::Busy),
            Some(Work::Checkpoint { base, ordered }) => self.checkpoint(base, &ordered),
            Some(Work::Install { base, cid, after }) => {
                self.after = self.after.max(after);
                self.begin_install(base, cid);
            }
            Some(Work::Reads(answer)) => self.answers_reads = answer,
            None => return Progress::Idle,
        }
        Progress::Worked
    }

    fn execute(&mut self, decided: &Decided) {
        spec!("SMR.8", "SMR.9", "VIEW.3");
        let Decided { context, batch, selection: run, view_answer } = decided;
        let mut executed = 0;
        let sample = self.metrics.trace.wanted();
        let mut found = false;
        self.page.start(self.after, !self.replays);
        let all = run.contains_first(batch.len());
        let Self { service, cache, rings, pool, page, notices, scratch, .. } = self;
        let replies = &mut rings.replies;
        // Of the instance, not of this replica: what is kept is part of a checkpoint.
        let mut writer = Writer::new(pool, page, replies, scratch, (context.view, false));
        if !self.replays {
            writer.notices = Some((context.cid, notices));
        }
        let selected = || batch.requests().enumerate().filter(|(at, _)| all || run.contains(*at));
        service.begin_batch(context, &mut selected().map(|(_, request)| request));
        for (at, request) in selected() {
            executed += 1;
            found |= sample.is_some_and(|sample| sample.is(request.client, request.sequence));
            writer.begin(&request, batch.len() - at);
            match view_answer {
                None => service.execute(context, &request, &mut writer),
                Some(answer) => {
                    let bytes = answer.to_bytes();
                    writer.reply(request.client, bytes.len()).copy_from_slice(&bytes);
                }
            }
            let body = writer.finish();
            let size = body.len();
            cache.insert(request.client, request.sequence, request.oldest_unanswered(), body);
            if writer.in_page {
                writer.page.keep(request.client, is_whole(&request, size, self.own));
            } else if !self.replays {
                self.rejects.add(Reject::PoolExhausted);
            }
        }
        self.page.send(&mut self.rings.replies);
        self.service.end_batch(context);
        if !self.notices.is_empty() {
            let lost = self.notices.send(&mut self.page, &self.pool, &mut self.rings.replies);
            self.metrics.notices_withheld.add(lost as u64);
        }
        // Only now are all replies in their ring.
        if let Some(sample) = sample.filter(|_| found) {
            self.metrics.trace.executed(sample, context.timestamp_ns, self.now);
        }
        if !self.replays {
            let told = self.rings.executed.push(context.cid);
            debug_assert!(told.is_ok(), "the room was checked");
        }
        self.metrics.executed.set(context.cid.0);
        self.metrics.requests_executed.add(executed);
        self.metrics.add_batch(batch.len());
        self.metrics.reply_cache_size.set(self.cache.size() as u64);
    }

    /// The kept reply, or word that it is no longer kept.
    fn resend(&mut self, client: ClientId, sequence: Sequence) {
        spec!("SMR.10");
        let Some((head, tail)) = self.cache.get(client, sequence) else {
            return self.say(client, sequence, Status::TooOld);
        };
        let size = head.len() + tail.len();
        let Some(mut frame) = self.pool.alloc(size) else {
            self.rejects.add(Reject::PoolExhausted);
            return;
        };
        frame.bytes_mut()[..head.len()].copy_from_slice(head);
        frame.bytes_mut()[head.len()..size].copy_from_slice(tail);
        // Its client counts it in the view that it is in by now.
        set_view(frame.bytes_mut(), self.view);
        // Who asks again may have asked one that is silent: everybody answers in full.
        spec!("CLI.8");
        let answer =
            Answer { client, body: frame.freeze(size as u32), whole: true, after: self.after };
        let pushed = self.rings.replies.push(answer);
        debug_assert!(pushed.is_ok(), "the room was checked");
        self.metrics.replies_resent.add(1);
    }

    /// An answer without a result.
    fn say(&mut self, client: ClientId, sequence: Sequence, status: Status) {
        let Some(mut frame) = self.pool.alloc(REPLY_HEADER_SIZE) else {
            self.rejects.add(Reject::PoolExhausted);
            return;
        };
        let (view, read_only, digest, result_size) = (self.view, false, false, 0);
        ReplyHeader { client, sequence, view, read_only, digest, status, result_size }
            .write(frame.bytes_mut());
        let body = frame.freeze(REPLY_HEADER_SIZE as u32);
        let pushed =
            self.rings.replies.push(Answer { client, body, whole: true, after: self.after });
        debug_assert!(pushed.is_ok(), "the room was checked");
    }

    /// A burst of read-only requests against the state as it is now.
    fn queries(&mut self) -> Progress {
        spec!("CLI.3", "LAG.5");
        let mut progress = Progress::Idle;
        self.page.start(self.after, true);
        for _ in 0..BURST_MAX {
            if self.rings.replies.room() <= self.page.len() {
                break;
            }
            let Some(request) = self.rings.queries.pop() else {
                break;
            };
            progress = Progress::Worked;
            if !self.answers_reads {
                // Silence: the others answer, or the client orders the request.
                self.rejects.add(Reject::NotAllowed);
                continue;
            }
            let request = request.into_inner();
            let view = request.view();
            let Self { service, rings, pool, page, scratch, .. } = self;
            let replies = &mut rings.replies;
            let mut writer = Writer::new(pool, page, replies, scratch, (self.view, true));
            writer.begin(&view, 1 + rings.queries.len());
            service.query(&view, &mut writer);
            let size = writer.finish().len();
            if writer.in_page {
                writer.page.keep(request.client, is_whole(&view, size, self.own));
            } else {
                // There is no answer: the client falls back to an ordered request.
                self.rejects.add(Reject::PoolExhausted);
            }
        }
        self.page.send(&mut self.rings.replies);
        progress
    }
}

impl Stage for Execution {
    fn name(&self) -> &'static str {
        "execution"
    }

    fn poll(&mut self, now: Instant) -> Progress {
        self.now = now;
        // Writes before reads: a client that saw its write acknowledged reads it.
        let mut progress = Progress::Idle;
        if self.away.is_some() {
            progress = self.end_install();
        }
        for _ in 0..BURST_MAX {
            if self.away.is_some() || self.work() == Progress::Idle {
                break;
            }
            progress = Progress::Worked;
        }
        let progress = progress.or(self.queries()).or(self.copy());
        self.metrics.replies_withheld.set(self.rejects.total());
        wake(&self.wakers.network, || !self.rings.replies.is_empty());
        wake(&self.wakers.ordering, || !self.rings.executed.is_empty());
        progress
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn waits_for_room(&self) -> bool {
        // A state that is away comes back with a call.
        self.away.is_none() && !self.rings.work.is_empty() || !self.rings.queries.is_empty()
    }
}

/// In the place of an application that is away.
struct Away;

impl StateMachine for Away {
    fn execute(&mut self, _: &Context, _: &RequestView<'_>, _: &mut dyn Replies) {
        unreachable!("nothing is executed while the state is away");
    }

    fn query(&self, _: &RequestView<'_>, _: &mut dyn Replies) {
        unreachable!("nothing is answered while the state is away");
    }

    fn digest(&self) -> Digest {
        Digest::ZERO
    }

    fn snapshot(&self, _: &mut dyn FnMut(&[u8])) {}

    fn restore(&mut self, _: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot> {
        Err(BadSnapshot)
    }
}

/// Does the member at place `own` send the whole reply to `request`, of `size` bytes?
fn is_whole(request: &RequestView<'_>, size: usize, own: usize) -> bool {
    spec!("CLI.7");
    size <= REPLY_HEADER_SIZE + FULL_RESULT_SIZE_MAX || request.replier().includes(own)
}

/// Where the application writes its answers: the page, or the scratch when there is no memory for a
/// page, or when an answer is larger than a reply may be (then the client is told so).
struct Writer<'a> {
    pool: &'a FramePool,
    page: &'a mut ReplyPage,
    replies: &'a mut Producer<Answer>,
    scratch: &'a mut Vec<u8>,
    /// Of the answer in the making.
    header: ReplyHeader,
    replied: bool,
    in_page: bool,
    /// Answers that may come yet, this one included.
    left: usize,
    /// Where notices of the batch of an instance go, if anybody is told.
    notices: Option<(ConsensusId, &'a mut Notices)>,
}

impl<'a> Writer<'a> {
    fn new(
        pool: &'a FramePool,
        page: &'a mut ReplyPage,
        replies: &'a mut Producer<Answer>,
        scratch: &'a mut Vec<u8>,
        (view, read_only): (ViewId, bool),
    ) -> Self {
        let header = ReplyHeader {
            client: ClientId(0),
            sequence: Sequence::NONE,
            view,
            read_only,
            digest: false,
            status: Status::Ok,
            result_size: 0,
        };
        let (replied, in_page, left, notices) = (false, false, 0, None);
        Self { pool, page, replies, scratch, header, replied, in_page, left, notices }
    }

    /// The next answer is to `request`.
    #[inline]
    fn begin(&mut self, request: &RequestView<'_>, left: usize) {
        self.header.client = request.client;
        self.header.sequence = request.sequence;
        self.header.status = Status::Ok;
        self.replied = false;
        self.left = left;
    }

    /// Room for an answer of `size` bytes in the page, or in another one when this is full.
    #[inline]
    fn reserve(&mut self, size: usize) {
        self.in_page = self.page.fits(size) || self.next_page(size);
        if self.in_page {
            self.page.reserve(size);
        }
    }

    #[cold]
    fn next_page(&mut self, size: usize) -> bool {
        self.page.send(self.replies);
        self.page.begin(self.pool, size, self.left)
    }

    /// Writes the header: the whole body. `in_page` says whether it is in the page, else it is in the
    /// scratch.
    #[inline(always)]
    fn finish(&mut self) -> &[u8] {
        assert!(self.replied, "a service answers every request exactly once");
        let size = REPLY_HEADER_SIZE + self.header.result_size as usize;
        let body = if self.in_page { self.page.bytes_mut() } else { &mut self.scratch[..size] };
        self.header.write(body);
        body
    }
}

impl Replies for Writer<'_> {
    fn reply(&mut self, to: ClientId, size: usize) -> &mut [u8] {
        assert!(!self.replied, "a service answers every request exactly once");
        assert!(to == self.header.client, "a service answers the client that asked");
        self.replied = true;
        if size > RESULT_SIZE_MAX {
            // Every replica does the same: the answer is none, and the memory is bounded by the
            // service's own answer.
            self.header.status = Status::TooLarge;
            self.header.result_size = 0;
            self.reserve(REPLY_HEADER_SIZE);
            self.scratch.resize(REPLY_HEADER_SIZE + size, 0);
            return &mut self.scratch[REPLY_HEADER_SIZE..];
        }
        self.header.result_size = size as u32;
        self.reserve(REPLY_HEADER_SIZE + size);
        let body = match self.in_page {
            true => self.page.bytes_mut(),
            false => &mut self.scratch[..REPLY_HEADER_SIZE + size],
        };
        &mut body[REPLY_HEADER_SIZE..]
    }

    fn notify(&mut self, to: ClientId, size: usize) -> Option<&mut [u8]> {
        let (cid, notices) = self.notices.as_mut()?;
        notices.add((*cid, self.header.view), to, size)
    }
}
