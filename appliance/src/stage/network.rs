//! The network stage: the links, with ingress and egress on either side of them.
//!
//! Owns the endpoint. Always true: a message is taken from the links only while every ring it may
//! go into has room, so pressure ends at the transport; when frames run short, clients wait before
//! members do. Must not: wait for anybody.

use std::sync::Arc;
use std::time::Duration;

use tetrarch_client::names::Addresses;
use tetrarch_consensus::batch::RequestHeader;
use tetrarch_consensus::message::kind;
use tetrarch_consensus::message::reply::Status;
use tetrarch_consensus::{ClientId, Input, ReplicaId, Sequence, Verified, View, spec};
use tetrarch_dataplane::burst::Burst;
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::frame::FramePool;
use tetrarch_dataplane::limits::{BURST_MAX, REPLICAS_MAX};
use tetrarch_dataplane::links::{LinkEvent, Links, Received};
use tetrarch_dataplane::reject::{Reject, RejectCounts};
use tetrarch_dataplane::stage::{Progress, Stage};
use tetrarch_dataplane::types::{Instant, PeerId};

use super::bulletin::{Notice, Reader};
use super::dispatch::Dispatch;
use super::egress::Egress;
use super::ingress::{Ingress, Verdict};
use super::linking::Linking;
use super::records::{Held, Watermark};
use super::room::{Gauge, Room};
use super::told::Told;
use super::{Event, NetworkRings, Refused, Wakers, wake};
use crate::metrics::{IngressCounts, Metrics};
use crate::payload::FramePayload;

/// Bursts received in one poll at most: enough that one flush pays for many messages.
const BURSTS_PER_POLL: usize = 8;

/// How often the bytes of all free frames are counted, for metrics: it takes microseconds.
const LOOK_AT_FRAMES: Duration = Duration::from_millis(100);

/// A session is not told that there is no memory more often than this.
const BUSY_PAUSE: Duration = Duration::from_millis(30);

/// A client is not told of another view more often than this: a membership may have kilobytes, and
/// whatever the client sends meanwhile needs the same answer.
const VIEW_PAUSE: Duration = Duration::from_millis(50);

/// See the module.
pub struct Network {
    own: ReplicaId,
    view: View,
    links: Links,
    linking: Linking,
    views: Reader,
    /// What the stage knows of views.
    notice: Option<Notice>,
    ingress: Ingress,
    dispatch: Dispatch,
    /// What each ingress worker counts.
    workers: Vec<Arc<IngressCounts>>,
    egress: Egress,
    held: Held,
    rings: NetworkRings,
    received: Burst<Received>,
    /// Addressed to this replica itself and not handed to ordering yet.
    loopback: Burst<Input<FramePayload>>,
    /// Links of members that came up and are not told to ordering yet.
    connected: Burst<ReplicaId>,
    pool: FramePool,
    gauge: Gauge,
    next_look: Instant,
    /// Sessions that were told that there is no memory.
    told_busy: Told,
    /// Clients that were told of the present view.
    told_view: Told,
    /// Time of this turn.
    now: Instant,
    counts: Counts,
    rejects: RejectCounts,
    metrics: Arc<Metrics>,
    wakers: Wakers,
    /// The reply to the sampled request was handed to the device in the turn before.
    sampled: bool,
}

#[derive(Default)]
struct Counts {
    rx_messages: u64,
    requests: u64,
    queries: u64,
    peers_up: u64,
    clients_up: u64,
}

impl Network {
    /// The stage of replica `own` in the view that `views` tells of, around links, whose messages arrive in frames of
    /// `pool`. Made while all of the pool is free. `inline`: it checks messages itself, with `ingress`,
    /// and shares signatures with the workers.
    #[expect(clippy::too_many_arguments, reason = "the one place that puts the parts together")]
    pub fn new(
        own: ReplicaId,
        views: Reader,
        (links, linking): (Links, Linking),
        ingress: Ingress,
        inline: bool,
        workers: Vec<Arc<IngressCounts>>,
        egress: Egress,
        mut rings: NetworkRings,
        gauge: Gauge,
        pool: FramePool,
        metrics: Arc<Metrics>,
    ) -> Self {
        let frames_size = pool.free_size();
        metrics.frames_size.set(frames_size as u64);
        let view = ingress.view().clone();
        Self {
            own,
            links,
            linking,
            views,
            notice: None,
            ingress,
            dispatch: Dispatch::new(inline, std::mem::take(&mut rings.workers)),
            workers,
            egress,
            held: Held::new(Watermark::volatile()),
            rings,
            received: Burst::with_capacity(BURST_MAX),
            loopback: Burst::with_capacity(view.n().max(4)),
            connected: Burst::with_capacity(REPLICAS_MAX),
            view,
            pool,
            gauge,
            next_look: Instant(0),
            told_busy: Told::new(BUSY_PAUSE),
            told_view: Told::new(VIEW_PAUSE),
            now: Instant(0),
            counts: Counts::default(),
            rejects: RejectCounts::new(),
            metrics,
            wakers: Wakers::default(),
            sampled: false,
        }
    }

    /// From now on what has to be durable waits for `watermark`.
    pub fn wait_for(&mut self, watermark: Watermark) {
        self.held = Held::new(watermark);
    }

    /// From now on addresses of members come from there.
    pub fn look_up(&mut self, addresses: Box<dyn Addresses>) {
        self.linking.look_up(addresses);
    }

    /// Wakes the stage from another thread.
    pub fn waker(&self) -> Waker {
        self.links.waker()
    }

    /// From now on wakes other cores for what is left in its rings.
    pub fn wake_others(&mut self, wakers: Wakers) {
        self.wakers = wakers;
    }

    /// The memory of messages.
    pub fn pool(&self) -> &FramePool {
        &self.pool
    }

    /// Is there a session with this peer?
    pub fn is_up(&self, peer: PeerId) -> bool {
        self.links.is_up(peer)
    }

    /// Everything the other stages left to send.
    fn transmit(&mut self) -> Progress {
        let mut progress = Progress::Idle;
        let durable = self.held.durable();
        while !self.loopback.is_full() {
            let Some(outbound) = self.held.next(&mut self.rings.sends, durable) else {
                break;
            };
            progress = Progress::Worked;
            if let Some(message) = self.egress.send(&mut self.links, outbound) {
                let input = Input::Peer { from: self.own, message: Verified::vouch(message) };
                let kept = self.loopback.push(input);
                debug_assert!(kept.is_ok(), "the room was checked");
            }
        }
        while self.egress.answer(&mut self.links, &mut self.rings.replies, durable) > 0 {
            progress = Progress::Worked;
        }
        while let Some(parcel) = self.rings.parcels.pop() {
            progress = Progress::Worked;
            self.egress.chunk(&mut self.links, parcel);
        }
        while let Some(Refused { client, sequence, read_only, status }) = self.dispatch.refused() {
            progress = Progress::Worked;
            self.refuse((client, sequence, read_only), status);
        }
        progress
    }

    /// What is for ordering and does not come from a link.
    fn tell_ordering(&mut self) {
        while let Some(input) = self.loopback.pop_front() {
            if let Err(input) = self.rings.peers.push(input) {
                let kept = self.loopback.push_front(input);
                debug_assert!(kept.is_ok(), "it was there");
                return;
            }
        }
        while let Some(member) = self.connected.pop_front() {
            if self.rings.peers.push(Input::Connected(member)).is_err() {
                let kept = self.connected.push_front(member);
                debug_assert!(kept.is_ok(), "it was there");
                return;
            }
        }
    }

    fn receive(&mut self, now: Instant) -> Progress {
        let mut progress = Progress::Idle;
        self.dispatch.begin_turn();
        for _ in 0..BURSTS_PER_POLL {
            if !self.room_ahead() {
                break;
            }
            let count = self.links.rx_burst(now, &mut self.received);
            if count == 0 {
                break;
            }
            progress = Progress::Worked;
            self.counts.rx_messages += count as u64;
            let room = self.gauge.look();
            while let Some(received) = self.received.pop_front() {
                match received.peer.is_client() {
                    true if room < Room::Clients => self.turn_away(now, received),
                    true => self.on_client(received),
                    false => self.on_member(now, received, room),
                }
            }
            self.take_signed();
            if count < BURST_MAX / 2 {
                break;
            }
        }
        progress
    }

    /// Can a whole burst go into any one ring?
    fn room_ahead(&self) -> bool {
        self.rings.requests.room() >= BURST_MAX
            && self.rings.peers.room() >= BURST_MAX
            && self.rings.queries.room() >= BURST_MAX
            && self.dispatch.has_room()
    }

    /// There is no memory for what clients want. Looks at nothing that costs anything.
    fn turn_away(&mut self, now: Instant, received: Received) {
        spec!("SMR.14");
        self.rejects.add(Reject::Overload);
        let Ok(header) = RequestHeader::parse(received.body()) else { return };
        let (client, sequence) = (header.client, header.sequence);
        if received.kind != kind::REQUEST || client.identity() != received.peer.index() {
            return;
        }
        if self.told_busy.is_due(now, client.0) {
            self.refuse((client, sequence, header.read_only), Status::Busy);
        }
    }

    /// Tells a client why its request was not taken.
    fn refuse(&mut self, request: (ClientId, Sequence, bool), status: Status) {
        if status != Status::Outdated {
            return self.egress.refuse(&mut self.links, request, status, &[]);
        }
        spec!("CLI.11");
        let identity = u64::from(request.0.identity());
        if let Some(told) = self.notice.as_ref().and_then(|notice| notice.told.as_ref())
            && self.told_view.is_due(self.now, identity)
        {
            self.egress.refuse(&mut self.links, request, status, told);
        }
    }

    #[inline]
    fn on_client(&mut self, received: Received) {
        if self.dispatch.keeps(&received) {
            self.check_client(received);
        } else {
            self.share_client(received);
        }
    }

    #[inline(never)]
    fn share_client(&mut self, received: Received) {
        if let Some(received) = self.dispatch.share(received) {
            self.check_client(received);
        }
    }

    #[inline(always)]
    fn check_client(&mut self, received: Received) {
        let requests = &mut self.rings.requests;
        let take = |request| {
            let pushed = requests.push(request);
            debug_assert!(pushed.is_ok(), "the room was checked");
        };
        match self.ingress.check_client(received, take) {
            Err(reason) => self.rejects.add(reason),
            Ok(Verdict::Taken) => self.counts.requests += 1,
            Ok(Verdict::Signed) => {}
            Ok(Verdict::Query(request)) => {
                self.counts.queries += 1;
                let pushed = self.rings.queries.push(request);
                debug_assert!(pushed.is_ok(), "the room was checked");
            }
            Ok(Verdict::Refused(refused)) => self.on_refused(refused),
        }
    }

    #[cold]
    fn on_refused(&mut self, refused: Refused) {
        self.rejects.add(refused.reject());
        let Refused { client, sequence, read_only, status } = refused;
        self.refuse((client, sequence, read_only), status);
    }

    /// The signed requests of a burst.
    fn take_signed(&mut self) {
        let (requests, counts) = (&mut self.rings.requests, &mut self.counts);
        let bad = self.ingress.check_signed(|request| {
            counts.requests += 1;
            let pushed = requests.push(request);
            debug_assert!(pushed.is_ok(), "the room was checked");
        });
        (0..bad).for_each(|_| self.rejects.add(Reject::BadProof));
    }

    fn on_member(&mut self, now: Instant, received: Received, room: Room) {
        let Some(from) = replica(received.peer) else {
            return self.rejects.add(Reject::NotMember);
        };
        if let Some(index) = self.view.index_of(from) {
            self.metrics.peer_heard_ns[index].set(now.0);
        } else if !self.notice.as_ref().is_some_and(|notice| notice.knows(from)) {
            return self.rejects.add(Reject::NotMember);
        }
        let Some(received) = self.dispatch.member(usize::from(from.0), received) else {
            return;
        };
        match self.ingress.check_member(from, received) {
            Err(reason) => self.rejects.add(reason),
            // Better fetched (again) when its time comes, if there is a place to receive it then.
            Ok(input) if room < Room::Early && self.gauge.is_early(&input) => {
                self.rejects.add(Reject::Overload);
            }
            Ok(input) => {
                let pushed = self.rings.peers.push(input);
                debug_assert!(pushed.is_ok(), "the room was checked");
            }
        }
    }

    /// A reply of the turn before is on its way now; one that waits leaves in this turn.
    fn note_sample(&mut self, now: Instant) {
        if self.sampled {
            self.metrics.trace.sent(now, self.metrics.trace_sums());
        }
        self.sampled = self.metrics.trace.replies();
    }

    fn look_at_frames(&mut self, now: Instant) {
        if now >= self.next_look {
            self.next_look = now + LOOK_AT_FRAMES;
            self.metrics.frames_free_size.set(self.pool.free_size() as u64);
            // Connections that never speak are no work, and should be seen all the same.
            self.publish();
        }
    }

    fn member_index(&self, peer: PeerId) -> Option<usize> {
        self.view.index_of(replica(peer)?)
    }

    /// Follows the newest notice of views, and does what is due to links.
    fn follow_views(&mut self, now: Instant) {
        if let Some(notice) = self.views.news() {
            if notice.current.id() != self.view.id() {
                self.enter(&notice);
            }
            self.linking.follow(now, notice.clone(), &mut self.links);
            self.notice = Some(notice);
        }
        if let Some(view) = self.linking.tend(now, &mut self.links) {
            self.views.bulletin().settled(view);
        }
    }

    /// Everything that goes by places in the view goes by those of another one.
    fn enter(&mut self, notice: &Notice) {
        self.view = notice.keys.view().clone();
        self.ingress.enter(&notice.keys);
        self.egress.enter(&notice.keys);
        self.tell_clients(notice);
        self.counts.peers_up = 0;
        self.metrics.peer_heard_ns.iter().for_each(|heard| heard.set(0));
        for (index, member) in self.view.members().iter().enumerate() {
            if self.links.is_up(PeerId::replica(member.0)) {
                self.counts.peers_up |= 1 << index;
            }
        }
    }

    /// What clients have in flight is forgotten with the view before, so they are told at once.
    #[cold]
    fn tell_clients(&mut self, notice: &Notice) {
        spec!("CLI.11");
        let Some(told) = &notice.told else { return };
        for client in self.linking.clients() {
            if !self.links.is_up(client) {
                continue;
            }
            self.told_view.is_due(self.now, u64::from(client.index()));
            let request = (ClientId::new(client.index(), 0), Sequence::NONE, true);
            self.egress.refuse(&mut self.links, request, Status::Outdated, told);
        }
    }

    fn take_events(&mut self) {
        while !self.connected.is_full() {
            let Some(event) = self.links.event() else {
                break;
            };
            let (peer, up) = match event {
                LinkEvent::Up(peer) => (peer, true),
                LinkEvent::Down(peer) => (peer, false),
            };
            self.note_link(peer, up);
            self.tell(if up { Event::LinkUp(peer) } else { Event::LinkDown(peer) });
        }
        while let Some(diagnosis) = self.links.diagnosis() {
            self.tell(Event::Link(diagnosis));
        }
    }

    fn note_link(&mut self, peer: PeerId, up: bool) {
        if peer.is_client() {
            let change = if up { 1 } else { u64::MAX };
            self.counts.clients_up = self.counts.clients_up.wrapping_add(change);
        } else if let Some(index) = self.member_index(peer) {
            if up {
                self.counts.peers_up |= 1 << index;
                let kept = self.connected.push(self.view.members()[index]);
                debug_assert!(kept.is_ok(), "the room was checked");
            } else {
                self.counts.peers_up &= !(1 << index);
            }
        }
    }

    fn tell(&mut self, event: Event) {
        if self.rings.events.push(event).is_err() {
            self.metrics.events_lost.add(1);
        }
    }

    fn wake(&self) {
        let (rings, wakers) = (&self.rings, &self.wakers);
        wake(&wakers.ordering, || !rings.requests.is_empty() || !rings.peers.is_empty());
        wake(&wakers.execution, || !rings.queries.is_empty());
        self.dispatch.wake(&wakers.workers);
    }

    fn publish(&self) {
        let (metrics, counts, sent) = (&self.metrics, &self.counts, self.egress.sent());
        metrics.rx_messages.set(counts.rx_messages);
        let mut checked = (counts.requests, counts.queries, self.ingress.signatures());
        let mut dropped = self.rejects.clone();
        for worker in &self.workers {
            let (requests, queries, signatures) = worker.get();
            checked = (checked.0 + requests, checked.1 + queries, checked.2 + signatures);
            worker.add_rejects(&mut dropped);
        }
        metrics.requests.set(checked.0);
        metrics.queries.set(checked.1);
        metrics.signatures.set(checked.2);
        metrics.peers_up.set(counts.peers_up);
        metrics.clients_up.set(counts.clients_up);
        metrics.tx_messages.set(sent.messages);
        metrics.tx_dropped.set(sent.dropped);
        let (device, bundles) = (self.links.counts(), self.links.bundles());
        metrics.rx_bundles.set(bundles.rx);
        metrics.tx_bundles.set(bundles.tx);
        metrics.rx_bytes.set(device.rx_bytes);
        metrics.tx_bytes.set(device.tx_bytes);
        metrics.connections_accepted.set(device.accepted);
        metrics.connections_refused.set(device.refused);
        metrics.connections_evicted.set(device.evicted);
        metrics.connections_malformed.set(device.malformed);
        metrics.dials_failed.set(device.dial_failed);
        metrics.frames_exhausted.set(device.pool_exhausted);
        metrics.set_rejects(&[&dropped, self.links.rejects(), self.egress.rejects()]);
    }
}

impl Stage for Network {
    fn name(&self) -> &'static str {
        "network"
    }

    fn poll(&mut self, now: Instant) -> Progress {
        self.now = now;
        self.note_sample(now);
        self.follow_views(now);
        let sent = self.transmit();
        self.links.flush(now);
        self.look_at_frames(now);
        let received = self.receive(now);
        self.take_events();
        self.tell_ordering();
        let progress = sent.or(received);
        self.metrics.now_ns.set(now.0);
        if progress == Progress::Worked {
            self.publish();
        }
        self.wake();
        progress
    }

    fn next_deadline(&self) -> Option<Instant> {
        let (links, linking) = (self.links.next_deadline(), self.linking.next_deadline());
        [links, linking].into_iter().flatten().min()
    }

    fn park(&mut self, limit: Duration) -> bool {
        if self.loopback.is_empty() && self.connected.is_empty() {
            self.links.park(limit);
        }
        true
    }

    fn waits_for_room(&self) -> bool {
        !self.room_ahead()
    }
}

/// The replica that a peer is.
fn replica(peer: PeerId) -> Option<ReplicaId> {
    u16::try_from(peer.index()).ok().map(ReplicaId)
}
