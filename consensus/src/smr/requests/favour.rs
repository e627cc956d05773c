//! What other members wait for.
//!
//! Owns what was ordered first for whom, and when. Always true: of each member one request at a time, and
//! one in half a timeout, goes before what has waited longer and is taken in beyond what its client
//! may have. Must not: believe a member about anything but that it waits.

use super::table::{Turn, is_signed};
use super::{Admission, Requests, Room};
use crate::message::Request;
use crate::payload::Payload;
use crate::smr::complaints::Complaints;
use crate::spec;
use crate::types::{ClientId, Instant, Sequence};

/// What was favoured last for one member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Favour {
    client: ClientId,
    sequence: Sequence,
    when: Option<Instant>,
}

impl Favour {
    pub(super) const NONE: Favour =
        Favour { client: ClientId(0), sequence: Sequence::NONE, when: None };
}

impl<P: Payload> Requests<P> {
    /// Takes in an authentic request that the member at `member` has waited for longest, and lets the
    /// next request of its session go before all others. As [`Requests::admit`], if the request is not
    /// signed, or if it is too soon after the last one.
    #[cold]
    pub fn admit_first(
        &mut self,
        now: Instant,
        member: usize,
        request: Request<P>,
        complaints: &Complaints,
        room: impl FnOnce(&Request<P>) -> Room,
    ) -> Admission {
        spec!("TIME.7");
        let (client, sequence) = (request.client, request.sequence);
        if !is_signed(&request) || !self.may_favour(now, member, client, sequence) {
            return self.admit(now, request, complaints, room);
        }
        let favoured = |request: &Request<P>| match room(request) {
            Room::Awaited => Room::Awaited,
            _ => Room::Favoured,
        };
        let admission = self.admit(now, request, complaints, favoured);
        // What is there instead of it may be of a later incarnation: then that is what is ordered.
        if let Some(at) = self.table.find(client)
            && let Some(head) = self.table.head(at)
        {
            let sequence = head.request().sequence;
            self.favours[member] = Favour { client, sequence, when: Some(now) };
            self.go_first(now, at);
        }
        admission
    }

    /// Is it time for another favour, and nothing else left of the last one?
    fn may_favour(
        &self,
        now: Instant,
        member: usize,
        client: ClientId,
        sequence: Sequence,
    ) -> bool {
        let last = self.favours[member];
        let is_pending = |at| self.table.position(at, last.sequence).is_some();
        let same = (last.client, last.sequence) == (client, sequence);
        last.when.is_none_or(|when| when + self.favour_period <= now)
            && (same || !self.table.find(last.client).is_some_and(is_pending))
    }

    /// Session `at`, which is ready, is proposed from before all others.
    fn go_first(&mut self, now: Instant, at: u32) {
        self.ready.move_to_front(at);
        if self.table.session(at).turn == Turn::Unsigned {
            self.oldest_unsigned = at;
        }
        if self.pipelined {
            self.fresh.move_to_front(at);
        }
        self.settle(now, false);
    }
}
