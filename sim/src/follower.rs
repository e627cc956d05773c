//! How a client knows who the members are, and hears of others.
//!
//! Always true: a later membership counts when it is signed by the View Manager and one-correct of its own
//! members vouch for it. Must not: go back to an earlier one.

use std::collections::BTreeMap;

use tetrarch_consensus::config::View;
use tetrarch_consensus::{ReplicaId, ViewRequest};

/// Later memberships that are remembered at most: what one member makes up pushes out nothing true.
const HEARD_MAX: usize = 8;

/// The view that a client is in.
#[derive(Clone, Debug)]
pub struct Follower {
    /// Everybody who may ever be a member.
    ids: Vec<ReplicaId>,
    view: View,
    /// By view: a later membership, and who vouches for it, by place in it.
    heard: BTreeMap<u32, (ViewRequest, u64)>,
}

impl Follower {
    /// In `view`, of a world of `ids`.
    pub fn new(ids: Vec<ReplicaId>, view: View) -> Self {
        Self { ids, view, heard: BTreeMap::new() }
    }

    /// The view.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Is `at`, a place in the world, a member?
    pub fn has(&self, at: usize) -> bool {
        self.ids.get(at).is_some_and(|id| self.view.index_of(*id).is_some())
    }

    /// Hears of a membership, whose signature was checked, from the one at place `from` in the world.
    /// True when it counts from now on.
    pub fn hear(&mut self, from: usize, news: &ViewRequest) -> bool {
        let id = news.next.id();
        let place = self.ids.get(from).and_then(|id| news.next.view().index_of(*id));
        let Some(place) = place.filter(|_| id > self.view.id()) else {
            return false;
        };
        if self.heard.len() >= HEARD_MAX && !self.heard.contains_key(&id.0) {
            return false;
        }
        let (first, vouchers) = self.heard.entry(id.0).or_insert_with(|| (news.clone(), 0));
        if first.next != news.next {
            return false;
        }
        *vouchers |= 1 << place;
        if (vouchers.count_ones() as usize) < news.next.view().quorums().one_correct() {
            return false;
        }
        self.view = news.next.view().clone();
        self.heard.retain(|view, _| *view > id.0);
        true
    }
}
