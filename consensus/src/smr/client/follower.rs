//! How a client knows who the members are, and hears of others (rule CLI.12).
//!
//! Owns the view that a client is in, and what it was told of later ones. Always true: a later membership
//! counts when the View Manager signed it and one-correct of its own members say that they are in it; what
//! one member makes up pushes out nothing that another said. Must not: verify signatures, or go back to an
//! earlier view.

use alloc::vec::Vec;

use crate::config::View;
use crate::limits::REPLICAS_MAX;
use crate::membership::ViewRequest;
use crate::spec;
use crate::types::ReplicaId;
use crate::verified::Verified;

/// See the module.
#[derive(Clone, Debug)]
pub struct Follower {
    view: View,
    /// The latest membership that each of its own members told.
    heard: Vec<(ReplicaId, ViewRequest)>,
}

impl Follower {
    /// In `view`, which the client's configuration says.
    pub fn new(view: View) -> Self {
        Self { view, heard: Vec::new() }
    }

    /// The view that the client is in.
    #[inline]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// `from` says, over its own link, that it is in the view of `news`, whose signature was checked. True
    /// when the client is in it from now on.
    pub fn hear(&mut self, from: ReplicaId, news: &Verified<ViewRequest>) -> bool {
        spec!("CLI.12");
        let news = news.get();
        let id = news.next.id();
        if id <= self.view.id() || news.next.member(from).is_none() {
            return false;
        }
        match self.heard.iter().position(|(other, _)| *other == from) {
            Some(at) if self.heard[at].1.next.id() > id => return false,
            Some(at) => self.heard[at].1 = news.clone(),
            None if self.heard.len() < REPLICAS_MAX => self.heard.push((from, news.clone())),
            None => return false,
        }
        // (Two signatures of one membership are as good as one.)
        let same = self.heard.iter().filter(|(_, other)| other.next == news.next).count();
        if same < news.next.view().quorums().one_correct() {
            return false;
        }
        self.view = news.next.view().clone();
        self.heard.retain(|(_, other)| other.next.id() > id);
        true
    }
}
