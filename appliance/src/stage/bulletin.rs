//! What the stages are told of views.
//!
//! Owns the newest notice, from the ordering stage to all others. Always true: whoever looks finds the newest
//! one, whatever it missed; looking when there is none costs one load. Must not: be on the way of a
//! message: what is sent in one view may be looked at in another, and names its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tetrarch_consensus::membership::{Member, Membership, ViewRequest};
use tetrarch_consensus::{ReplicaId, ViewId};

use crate::keyring::{BadView, Keyring, ViewKeys};

/// What is known of views.
#[derive(Clone)]
pub struct Notice {
    /// Of the view that this replica is in.
    pub keys: Arc<ViewKeys>,
    /// The same, as its View Manager described it.
    pub current: Arc<Membership>,
    /// What clients are told of it: the View Manager's request for it, encoded. `None` in the first view,
    /// which nobody asked for.
    pub told: Option<Arc<[u8]>>,
    /// What follows, if that is decided.
    pub next: Option<Arc<Membership>>,
    /// What was before: its members may have to learn how it ended.
    pub former: Option<Arc<Membership>>,
}

impl Notice {
    /// Replicas to have links with, each with its newest address and key. One whose id or key a newer
    /// membership gives to somebody else is left out.
    pub fn linked(&self) -> Vec<Member> {
        let newest_first = [self.next.as_ref(), Some(&self.current), self.former.as_ref()];
        let mut linked: Vec<Member> = Vec::new();
        for member in newest_first.into_iter().flatten().flat_map(|it| it.members()) {
            let taken =
                |other: &Member| other.id == member.id || other.static_key == member.static_key;
            if !linked.iter().any(taken) {
                linked.push(member.clone());
            }
        }
        linked
    }

    /// May this replica say anything?
    pub fn knows(&self, id: ReplicaId) -> bool {
        let is_in = |membership: &Arc<Membership>| membership.member(id).is_some();
        is_in(&self.current)
            || self.next.as_ref().is_some_and(is_in)
            || self.former.as_ref().is_some_and(is_in)
    }
}

/// See the module.
pub struct Bulletin {
    /// How many notices there were.
    version: AtomicU64,
    notice: Mutex<Notice>,
}

/// Nobody asked for the first view, and nobody is told of it.
fn encoded(asked: &ViewRequest) -> Option<Arc<[u8]>> {
    let mut bytes = Vec::new();
    asked.encode(&mut bytes);
    asked.signature.iter().any(|byte| *byte != 0).then(|| bytes.into())
}

impl Bulletin {
    /// The view that a node begins in.
    pub fn new(keys: Arc<ViewKeys>, current: Membership) -> Arc<Self> {
        let current = Arc::new(current);
        let notice = Notice { keys, current, told: None, next: None, former: None };
        Arc::new(Self { version: AtomicU64::new(1), notice: Mutex::new(notice) })
    }

    /// This replica goes on in the view that `membership` describes, after a restart; `asked`: the View Manager's request for
    /// it.
    pub fn begin(&self, keys: Arc<ViewKeys>, membership: Membership, asked: Option<&ViewRequest>) {
        let told = asked.and_then(encoded);
        self.change(|notice| {
            let current = Arc::new(membership);
            *notice = Notice { keys, current, told, next: None, former: None };
        });
    }

    /// The newest notice.
    pub fn notice(&self) -> Notice {
        self.lock().clone()
    }

    /// The membership of the present view.
    pub fn current(&self) -> Membership {
        Membership::clone(&self.lock().current)
    }

    /// All of the present view is decided, and `next` follows.
    pub fn ended(&self, next: Membership) {
        self.change(|notice| notice.next = Some(Arc::new(next)));
    }

    /// This replica is in another view, which was `asked` for and `keys` are for.
    pub fn entered(&self, keys: Arc<ViewKeys>, asked: ViewRequest) {
        let told = encoded(&asked);
        self.change(|notice| {
            let before = std::mem::replace(&mut notice.current, Arc::new(asked.next));
            (notice.keys, notice.told) = (keys, told);
            notice.former = Some(before);
            notice.next = None;
        });
    }

    /// Whoever was a member in the view before `view` has learned how it ended, or had its time.
    pub fn settled(&self, view: ViewId) {
        if self.lock().current.id() == view {
            self.change(|notice| notice.former = None);
        }
    }

    /// The keys of the present view.
    pub fn keys(&self) -> Arc<ViewKeys> {
        Arc::clone(&self.lock().keys)
    }

    fn change(&self, change: impl FnOnce(&mut Notice)) {
        let mut notice = self.lock();
        change(&mut notice);
        // Under the lock: whoever sees this number finds this notice or a newer one.
        self.version.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Notice> {
        // No call leaves the notice half changed: a panic elsewhere does not make it wrong.
        self.notice.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the stages of views, with the keys that each needs.
pub struct Herald {
    keyring: Keyring,
    bulletin: Arc<Bulletin>,
}

impl Herald {
    /// Of a node that begins in the view `current`, maybe to go on to a later one at once.
    ///
    /// # Errors
    /// A member's key cannot be used.
    pub fn new(keyring: Keyring, current: Membership) -> Result<Self, BadView> {
        let keys = Arc::new(keyring.of_past_view(&current)?);
        Ok(Self { keyring, bulletin: Bulletin::new(keys, current) })
    }

    /// After a restart this replica is in the view that `membership` describes.
    ///
    /// # Errors
    /// Its keys cannot be used.
    pub fn begin(
        &self,
        membership: Membership,
        asked: Option<&ViewRequest>,
    ) -> Result<(), BadView> {
        let keys = Arc::new(self.keyring.of_view(&membership)?);
        self.bulletin.begin(keys, membership, asked);
        Ok(())
    }

    /// All of the present view is decided, and `next` follows.
    pub fn ended(&self, next: Membership) {
        self.bulletin.ended(next);
    }

    /// This replica is in the view that was `asked` for.
    ///
    /// # Errors
    /// Its keys cannot be used: then nothing changes, and this replica is of no use in it.
    pub fn entered(&self, asked: ViewRequest) -> Result<(), BadView> {
        let keys = Arc::new(self.keyring.of_view(&asked.next)?);
        self.bulletin.entered(keys, asked);
        Ok(())
    }

    /// What it tells.
    pub fn bulletin(&self) -> &Arc<Bulletin> {
        &self.bulletin
    }
}

/// One stage's look at the notices.
pub struct Reader {
    bulletin: Arc<Bulletin>,
    seen: u64,
}

impl Reader {
    /// Has seen nothing yet.
    pub fn new(bulletin: &Arc<Bulletin>) -> Self {
        Self { bulletin: Arc::clone(bulletin), seen: 0 }
    }

    /// The newest notice, if it was not looked at before.
    #[inline]
    pub fn news(&mut self) -> Option<Notice> {
        let version = self.bulletin.version.load(Ordering::Acquire);
        if version == self.seen {
            return None;
        }
        self.seen = version;
        Some(self.bulletin.notice())
    }

    /// The bulletin.
    pub fn bulletin(&self) -> &Arc<Bulletin> {
        &self.bulletin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::Keyring;
    use crate::testing::TestCluster;

    fn membership(test: &TestCluster, view: u32, ids: &[u16], key: u8) -> Membership {
        let member = |id: &u16| Member {
            id: ReplicaId(*id),
            address: format!("h{id}:{key}"),
            static_key: [*id as u8 + key; 32],
            signing_key: test.replica_keys[0].signing_key.verifying_key().to_bytes(),
        };
        let members = ids.iter().map(member).collect();
        Membership::new(test.cluster.id, ViewId(view), 1, test.cluster.model, members).unwrap()
    }

    #[test]
    fn the_newest_notice_is_found_once() {
        let test = TestCluster::new(4, 1, 1);
        let ring = Keyring::new(&test.cluster, ReplicaId(9), &test.replica_keys[0], None).unwrap();
        let keys = |membership: &Membership| Arc::new(ring.of_view(membership).unwrap());
        let first = membership(&test, 0, &[0, 1, 2, 3], 10);
        let bulletin = Bulletin::new(keys(&first), first);
        let mut reader = Reader::new(&bulletin);
        assert_eq!(reader.news().unwrap().current.id(), ViewId(0));
        assert!(reader.news().is_none());
        let next = membership(&test, 1, &[1, 2, 3, 4], 50);
        bulletin.ended(next.clone());
        let notice = reader.news().unwrap();
        assert_eq!((notice.current.id(), notice.linked().len()), (ViewId(0), 5));
        assert!(notice.told.is_none());
        assert!(notice.knows(ReplicaId(0)) && notice.knows(ReplicaId(4)));
        // The newest of each.
        let addresses: Vec<_> = notice.linked().iter().map(|it| it.address.clone()).collect();
        assert_eq!(addresses, ["h1:50", "h2:50", "h3:50", "h4:50", "h0:10"]);
        let asked = ViewRequest { next, signature: [3; 64] };
        bulletin.entered(keys(&asked.next), asked.clone());
        bulletin.settled(ViewId(0));
        let notice = reader.news().unwrap();
        assert_eq!((notice.current.id(), notice.linked().len()), (ViewId(1), 5));
        let told = notice.told.expect("somebody asked for it");
        assert_eq!(ViewRequest::decode(&told), Ok(asked));
        bulletin.settled(ViewId(1));
        let notice = reader.news().unwrap();
        assert!(!notice.knows(ReplicaId(0)) && notice.linked().len() == 4);
        assert!(reader.news().is_none());
    }

    #[test]
    fn a_key_that_went_to_somebody_else_is_linked_once() {
        let test = TestCluster::new(4, 1, 1);
        let ring = Keyring::new(&test.cluster, ReplicaId(9), &test.replica_keys[0], None).unwrap();
        let first = membership(&test, 0, &[0, 1, 2, 3], 10);
        let bulletin = Bulletin::new(Arc::new(ring.of_view(&first).unwrap()), first);
        // Replica 4 has the key that replica 0 had: 4 + 6 is 0 + 10.
        bulletin.ended(membership(&test, 1, &[4, 5, 6, 7], 6));
        let linked = Reader::new(&bulletin).news().unwrap().linked();
        let ids: Vec<_> = linked.iter().map(|member| member.id.0).collect();
        assert_eq!(ids, [4, 5, 6, 7]);
    }
}
