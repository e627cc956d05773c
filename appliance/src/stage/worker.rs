//! An ingress worker: checks of messages on a core of its own.
//!
//! Owns one of the node's [`Ingress`]es. Always true: a message is taken only while there is room for
//! whatever can become of it; members' messages come before clients'. Must not: touch a link.

use std::sync::Arc;

use tetrarch_consensus::ReplicaId;
use tetrarch_dataplane::limits::BURST_MAX;
use tetrarch_dataplane::links::Received;
use tetrarch_dataplane::reject::{Reject, RejectCounts};
use tetrarch_dataplane::stage::{Progress, Stage};
use tetrarch_dataplane::types::Instant;

use super::bulletin::{Notice, Reader};
use super::ingress::{Ingress, Verdict};
use super::room::{Gauge, Room};
use super::{Wakers, WorkerRings, wake};
use crate::metrics::IngressCounts;

/// See the module.
pub struct Worker {
    views: Reader,
    notice: Option<Notice>,
    ingress: Ingress,
    rings: WorkerRings,
    gauge: Gauge,
    requests: u64,
    queries: u64,
    rejects: RejectCounts,
    /// Read by the network stage, which publishes the node's sums.
    counts: Arc<IngressCounts>,
    wakers: Wakers,
}

impl Worker {
    /// A worker of a replica in the view that `views` tells of. What it counts is left in `counts`.
    pub fn new(
        views: Reader,
        ingress: Ingress,
        rings: WorkerRings,
        gauge: Gauge,
        counts: Arc<IngressCounts>,
    ) -> Self {
        Self {
            views,
            notice: None,
            ingress,
            rings,
            gauge,
            requests: 0,
            queries: 0,
            rejects: RejectCounts::new(),
            counts,
            wakers: Wakers::default(),
        }
    }

    /// From now on wakes other cores for what is left in its rings.
    pub fn wake_others(&mut self, wakers: Wakers) {
        self.wakers = wakers;
    }

    fn members(&mut self) -> Progress {
        let count = self.rings.members.len().min(self.rings.peers.room()).min(BURST_MAX);
        if count == 0 {
            return Progress::Idle;
        }
        let room = self.gauge.look();
        for _ in 0..count {
            if let Some(received) = self.rings.members.pop() {
                self.member(received, room);
            }
        }
        Progress::Worked
    }

    fn member(&mut self, received: Received, room: Room) {
        let id = u16::try_from(received.peer.index()).unwrap_or(u16::MAX);
        let from = ReplicaId(id);
        if !self.notice.as_ref().is_some_and(|notice| notice.knows(from)) {
            return self.rejects.add(Reject::NotMember);
        }
        match self.ingress.check_member(from, received) {
            Err(reason) => self.rejects.add(reason),
            Ok(input) if room < Room::Early && self.gauge.is_early(&input) => {
                self.rejects.add(Reject::Overload);
            }
            Ok(input) => {
                let pushed = self.rings.peers.push(input);
                debug_assert!(pushed.is_ok(), "the room was checked");
            }
        }
    }

    fn clients(&mut self) -> Progress {
        let rings = &self.rings;
        let room = rings.requests.room().min(rings.queries.room()).min(rings.refused.room());
        let count = rings.clients.len().min(room).min(BURST_MAX);
        for _ in 0..count {
            if let Some(received) = self.rings.clients.pop() {
                self.client(received);
            }
        }
        let (requests, counted) = (&mut self.rings.requests, &mut self.requests);
        let bad = self.ingress.check_signed(|request| {
            *counted += 1;
            let pushed = requests.push(request);
            debug_assert!(pushed.is_ok(), "the room was checked");
        });
        self.rejects.add_many(Reject::BadProof, bad as u64);
        if count > 0 { Progress::Worked } else { Progress::Idle }
    }

    fn client(&mut self, received: Received) {
        let requests = &mut self.rings.requests;
        let take = |request| {
            let pushed = requests.push(request);
            debug_assert!(pushed.is_ok(), "the room was checked");
        };
        match self.ingress.check_client(received, take) {
            Err(reason) => self.rejects.add(reason),
            Ok(Verdict::Taken) => self.requests += 1,
            Ok(Verdict::Signed) => {}
            Ok(Verdict::Query(request)) => {
                self.queries += 1;
                let pushed = self.rings.queries.push(request);
                debug_assert!(pushed.is_ok(), "the room was checked");
            }
            Ok(Verdict::Refused(refused)) => {
                self.rejects.add(refused.reject());
                let pushed = self.rings.refused.push(refused);
                debug_assert!(pushed.is_ok(), "the room was checked");
            }
        }
    }

    fn wake(&self) {
        let (rings, wakers) = (&self.rings, &self.wakers);
        wake(&wakers.ordering, || !rings.requests.is_empty() || !rings.peers.is_empty());
        wake(&wakers.execution, || !rings.queries.is_empty());
        wake(&wakers.network, || !rings.refused.is_empty());
    }
}

impl Stage for Worker {
    fn name(&self) -> &'static str {
        "ingress"
    }

    fn poll(&mut self, _now: Instant) -> Progress {
        if let Some(notice) = self.views.news() {
            self.ingress.enter(&notice.keys);
            self.notice = Some(notice);
        }
        let progress = self.members();
        let progress = progress.or(self.clients());
        if progress == Progress::Worked {
            let signatures = self.ingress.signatures();
            self.counts.set(self.requests, self.queries, signatures, &self.rejects);
        }
        self.wake();
        progress
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn waits_for_room(&self) -> bool {
        !self.rings.members.is_empty() || !self.rings.clients.is_empty()
    }
}
