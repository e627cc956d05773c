//! Which core checks a message.
//!
//! Owns the rings to the ingress workers. Always true: the messages of one member are checked on one
//! core, in the order in which they came; those of a client need no order, as its requests are
//! numbered. Must not: look into a message further than its header.

use tetrarch_consensus::message::proof;
use tetrarch_dataplane::endpoint::Waker;
use tetrarch_dataplane::limits::BURST_MAX;
use tetrarch_dataplane::links::Received;
use tetrarch_dataplane::ring::Producer;

use super::{Refused, ToWorker, UNCHECKED_MAX, wake};

/// Signatures that a worker may have waiting before the network stage checks any itself: a burst, so
/// that they are checked together.
const BACKLOG_MIN: usize = BURST_MAX;
/// How many more it may have for each that the network stage checked in this turn. Its core also
/// orders, executes and sends, which takes about as long as the checks that are left to it: then both
/// end at about the same time.
const SHARE: usize = 2;

/// Where ingress is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IngressPlan {
    /// On the network stage's core.
    pub inline: bool,
    /// And on so many others.
    pub workers: usize,
}

impl Default for IngressPlan {
    fn default() -> Self {
        Self { inline: true, workers: 0 }
    }
}

/// See the module.
pub struct Dispatch {
    inline: bool,
    workers: Vec<ToWorker>,
    /// Where to begin looking for the worker with the least to do.
    turn: usize,
    /// Signatures left to the network stage in this turn.
    here: usize,
}

impl Dispatch {
    /// Gives to `workers`, or to the network stage itself if it is to check `inline` too.
    ///
    /// # Panics
    /// If nobody would check anything.
    pub fn new(inline: bool, workers: Vec<ToWorker>) -> Self {
        assert!(inline || !workers.is_empty(), "somebody checks");
        Self { inline, workers, turn: 0, here: 0 }
    }

    /// A new turn of the network stage begins.
    pub fn begin_turn(&mut self) {
        self.here = 0;
    }

    /// Can a whole burst be given away, whatever it is?
    pub fn has_room(&self) -> bool {
        let room = |worker: &ToWorker| {
            worker.members.room() >= BURST_MAX && worker.clients.room() >= BURST_MAX
        };
        self.inline || self.workers.iter().all(room)
    }

    /// Is a client's message checked here, however much there is to do? What is cheap to check is, if
    /// anything is: to hand it over would cost as much.
    #[inline]
    pub fn keeps(&self, received: &Received) -> bool {
        self.workers.is_empty() || self.inline && received.auth != proof::SIGNATURE
    }

    /// Gives a client's message that is not kept to a worker, or back to be checked here.
    pub fn share(&mut self, received: Received) -> Option<Received> {
        let (at, waiting) = self.least();
        let full = self.workers[at].clients.room() == 0;
        if self.inline && (full || waiting >= BACKLOG_MIN + SHARE * self.here) {
            self.here += 1;
            return Some(received);
        }
        self.turn = at + 1;
        // Not full: without ingress here, nothing is received unless there is room for it.
        self.workers[at].clients.push(received).err()
    }

    /// Gives a message of the member with this index to its worker, or back to be checked here.
    pub fn member(&mut self, index: usize, received: Received) -> Option<Received> {
        if self.inline {
            return Some(received);
        }
        let count = self.workers.len();
        self.workers[index % count].members.push(received).err()
    }

    /// The worker with the fewest messages waiting, and how many those are. Equal ones take turns.
    fn least(&self) -> (usize, usize) {
        let count = self.workers.len();
        let places = (0..count).map(|step| (self.turn + step) % count);
        let waiting = |at: usize| (at, self.workers[at].clients.len());
        places.map(waiting).min_by_key(|(_, waiting)| *waiting).expect("there are workers")
    }

    /// The next request that a worker refused.
    pub fn refused(&mut self) -> Option<Refused> {
        self.workers.iter_mut().find_map(|worker| worker.refused.pop())
    }

    /// Wakes the workers that have something to do, each by its own waker.
    pub fn wake(&self, wakers: &[Option<Waker>]) {
        let waits = |ring: &Producer<Received>| !ring.is_empty();
        for (worker, waker) in self.workers.iter().zip(wakers) {
            wake(waker, || waits(&worker.members) || waits(&worker.clients));
        }
    }
}

const _: () = assert!(BACKLOG_MIN < UNCHECKED_MAX, "the backlog fits the ring");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::{WorkerRings, rings};
    use tetrarch_dataplane::arena::{Arena, ArenaSpec, SlotClass};
    use tetrarch_dataplane::types::PeerId;

    struct World {
        dispatch: Dispatch,
        workers: Vec<WorkerRings>,
        message: Received,
    }

    fn world(inline: bool, workers: usize) -> World {
        let classes = vec![SlotClass { slot_size: 64, count: 1 }];
        let arena = Arena::heap(&ArenaSpec { classes }).unwrap();
        let message = Received {
            peer: PeerId::client(0),
            kind: 1,
            auth: proof::SIGNATURE,
            proof_size: 0,
            session: 0,
            body_digest: [0; 32],
            frame: arena.pool().copy_from(&[]).unwrap(),
        };
        let rings = rings(workers);
        let dispatch = Dispatch::new(inline, rings.network.workers);
        World { dispatch, workers: rings.workers, message }
    }

    impl World {
        /// As the network stage does.
        fn client(&mut self, received: Received) -> Option<Received> {
            if self.dispatch.keeps(&received) {
                return Some(received);
            }
            self.dispatch.share(received)
        }

        fn waiting(&self) -> Vec<usize> {
            self.workers.iter().map(|worker| worker.clients.len()).collect()
        }
    }

    #[test]
    fn signatures_go_to_the_worker_with_least_to_do_and_stay_here_when_all_are_busy() {
        let mut world = world(true, 2);
        let message = world.message.clone();
        for _ in 0..10 {
            assert!(world.client(message.clone()).is_none());
        }
        assert_eq!(world.waiting(), [5, 5]);
        (0..4).for_each(|_| drop(world.workers[1].clients.pop()));
        (0..4).for_each(|_| drop(world.client(message.clone())));
        assert_eq!(world.waiting(), [5, 5], "the one that took is given more");
        while world.client(message.clone()).is_none() {}
        assert_eq!(world.waiting(), [BACKLOG_MIN, BACKLOG_MIN]);
        assert!(world.dispatch.has_room(), "the network stage can always check itself");
        world.workers[0].clients.pop();
        assert!(world.client(message.clone()).is_none(), "and shares again");
        // What is cheap, and all that members say, is checked here.
        let mut cheap = message.clone();
        cheap.auth = proof::MAC_VECTOR;
        world.workers[0].clients.pop();
        assert!(world.client(cheap).is_some());
        assert!(world.dispatch.member(2, message).is_some());
    }

    /// A turn's worth of signatures at once, and a worker that takes none: it is given two of three, and
    /// at most what its ring holds.
    #[test]
    fn the_network_stage_leaves_the_larger_share_to_the_worker() {
        let mut world = world(true, 1);
        let message = world.message.clone();
        for _ in 0..2 {
            world.dispatch.begin_turn();
            while world.workers[0].clients.pop().is_some() {}
            let here =
                (0..4 * BURST_MAX).filter(|_| world.client(message.clone()).is_some()).count();
            assert_eq!(here, BURST_MAX);
            assert_eq!(world.waiting(), [3 * BURST_MAX]);
        }
        let here = (0..100 * BURST_MAX).filter(|_| world.client(message.clone()).is_some()).count();
        assert_eq!(world.waiting(), [UNCHECKED_MAX]);
        assert_eq!(here, 100 * BURST_MAX - (UNCHECKED_MAX - 3 * BURST_MAX));
        world.dispatch.begin_turn();
        assert!(world.client(message).is_some(), "it has enough to do");
    }

    #[test]
    fn without_ingress_here_all_is_given_away_and_each_member_has_one_worker() {
        let mut world = world(false, 2);
        let mut message = world.message.clone();
        for index in [0, 1, 2, 3, 2] {
            assert!(world.dispatch.member(index, message.clone()).is_none());
        }
        let members: Vec<_> = world.workers.iter().map(|worker| worker.members.len()).collect();
        assert_eq!(members, [3, 2]);
        message.auth = proof::MAC_VECTOR;
        let mut given = 0;
        while world.dispatch.has_room() {
            assert!(world.client(message.clone()).is_none());
            given += 1;
        }
        assert_eq!(given, 2 * (UNCHECKED_MAX - BURST_MAX) + 1, "while there is room for a burst");
        let refused = Refused {
            client: tetrarch_consensus::ClientId::new(0, 0),
            sequence: tetrarch_consensus::Sequence::new(1, 1),
            read_only: false,
            status: tetrarch_consensus::message::reply::Status::Refused,
        };
        world.workers[1].refused.push(refused).unwrap();
        assert_eq!(world.dispatch.refused().map(|refused| refused.client), Some(refused.client));
        assert!(world.dispatch.refused().is_none());
    }
}
