//! Which requests there is room for when much is pending.
//!
//! Owns the limits of rule SMR.14. Always true: the next two requests of a session have room while
//! their client has, and no client takes more of the rest than it leaves free for others. Must not:
//! know who leads, or what proposals and members wait for: whoever asks says so.

use super::table::Load;
use super::{RefusedRequest, Requests};
use crate::batch::{IDENTITY_SIZE, LAYOUT_SIZE, REQUEST_HEADER_SIZE, encoded_size};
use crate::config::Config;
use crate::limits::{PENDING_SIZE_PER_CLIENT_MAX, SESSION_WINDOW};
use crate::message::Request;
use crate::payload::Payload;
use crate::spec;
use crate::types::{ClientId, Instant, Sequence};
use core::time::Duration;

/// How much room a request has that is one too many for the configured limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// None: this replica proposes what it admits.
    Leader,
    /// As much again: what the leader admits must not be missing here.
    Follower,
    /// A proposal waits for it: the same as the next ones of a session.
    Awaited,
    /// A member waits for it more than for anything else: for the next of a session there is room even
    /// beyond what its client may have.
    Favoured,
}

/// What a request with room is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Nothing.
    Ample,
    /// It is one too many for the configured limits: the leader may not have taken it in.
    Spare,
}

/// The configured limits.
#[derive(Debug)]
pub(super) struct Limits {
    count: usize,
    bytes: usize,
}

impl Limits {
    pub(super) fn new(config: &Config) -> Self {
        Self { count: config.pending_max, bytes: config.pending_size_max }
    }

    /// Requests that can be pending beside the next one of each session: a follower has room for
    /// twice as many as the leader, and for those that proposals wait for.
    pub(super) fn count_max(config: &Config) -> usize {
        let by_size = config.pending_size_max / (IDENTITY_SIZE + LAYOUT_SIZE + REQUEST_HEADER_SIZE);
        let awaited = config.depth * config.batch_requests_max;
        config.pending_max.min(by_size).saturating_mul(2).saturating_add(awaited)
    }

    /// Is there room for `size` more bytes, with limits `times` as large, of a client that has `own`
    /// of `all` that is pending? A client may have as much as it leaves free: one alone takes half,
    /// and each of k that want all they can get a (k+1)th (dynamic thresholds: Choudhury, Hahne,
    /// 1998), so that there is room at once for one that comes later.
    fn allow(&self, times: usize, own: Load, all: Load, size: usize) -> bool {
        own.count + all.count < self.count.saturating_mul(times)
            && own.bytes + all.bytes + size <= self.bytes.saturating_mul(times)
    }
}

impl<P: Payload> Requests<P> {
    /// Is there room, whatever the request, for `size` more bytes of this client?
    #[inline]
    pub(super) fn is_ample(&self, identity: u32, size: usize) -> bool {
        spec!("SMR.14");
        let (own, all) = (self.table.client_load(identity), self.table.load());
        own.bytes + size <= PENDING_SIZE_PER_CLIENT_MAX / 2 && self.limits.allow(1, own, all, size)
    }

    /// Is there room for a request of session `at`? The next two of a session have room while
    /// their client has; what comes after them has less, so that it never keeps another session waiting.
    /// `known`: an unsigned version of it is pending. `room` is asked only when there is little.
    pub(super) fn place(
        &self,
        at: u32,
        request: &Request<P>,
        known: bool,
        room: impl FnOnce(&Request<P>) -> Room,
    ) -> Result<Place, RefusedRequest> {
        spec!("SMR.14");
        let (identity, size) = (request.client.identity(), encoded_size(request));
        if self.is_ample(identity, size) {
            return Ok(Place::Ample);
        }
        let (own, all) = (self.table.client_load(identity), self.table.load());
        let in_half = own.bytes + size <= PENDING_SIZE_PER_CLIENT_MAX / 2;
        if own.bytes + size > PENDING_SIZE_PER_CLIENT_MAX {
            let next = request.sequence.follows(self.table.session(at).executed);
            let favoured = next && room(request) == Room::Favoured;
            return if favoured { Ok(Place::Ample) } else { Err(RefusedRequest::TooManyBytes) };
        }
        if self.is_near(at, request.sequence) {
            return Ok(Place::Ample);
        }
        match room(request) {
            Room::Awaited => Ok(Place::Ample),
            _ if !in_half => Err(RefusedRequest::TooManyBytes),
            _ if known => Ok(Place::Ample),
            Room::Follower if self.limits.allow(2, own, all, size) => Ok(Place::Spare),
            Room::Follower | Room::Leader | Room::Favoured => Err(RefusedRequest::Overload),
        }
    }

    /// Is this the next request of session `at`, or the one after that, which is here? Two, because the
    /// others may have decided the first one before this replica: then the second is the client's next.
    fn is_near(&self, at: u32, number: Sequence) -> bool {
        let reached = self.reached(at);
        let next = self.table.after(at, reached).map(|slot| self.table.slot(slot));
        number.follows(reached) || next.is_some_and(|next| number.follows(next.request().sequence))
    }

    /// May its client be told, now, that there is no room for its request? Not more often in `pause`
    /// than a session has requests in flight: then a correct client hears of each.
    pub fn may_tell_busy(&mut self, now: Instant, client: ClientId, pause: Duration) -> bool {
        spec!("SMR.14");
        let Some(at) = self.table.find(client) else { return false };
        let (since, told) = &mut self.table.sessions[at as usize].told_busy;
        if *since + pause <= now {
            (*since, *told) = (now, 0);
        }
        *told += 1;
        *told as usize <= SESSION_WINDOW
    }
}
