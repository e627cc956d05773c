//! Views that follow each other in a run: who is a member when, drawn from the seed.
//!
//! Always true: each step is one that is allowed (rule VIEW.2), and the faulty members are at most f in
//! every view. Must not: draw anything that a run without changes is drawn from.

use std::time::Duration;

use tetrarch_consensus::quorum::Quorums;
use tetrarch_consensus::{FaultModel, ReplicaId};

use crate::rng::Rng;
use crate::swarm::Options;

/// One view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Its members, as places among all that there are, ascending.
    pub members: Vec<usize>,
    /// How many of them may be faulty.
    pub f: usize,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The views, the first one included.
    pub views: Vec<Step>,
    /// Mean pause between the end of one change and the next.
    pub pause: Duration,
    /// Per mille of the View Manager's requests that must be refused.
    pub refused: u32,
}

/// Members that there are in all: MAC vectors with an entry for each fit into any view's limit.
const PLACES: usize = 8;

impl Options {
    /// Replaces the members that were drawn by views of them.
    pub(crate) fn change_views(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x7669_6577_7300);
        let model = self.model;
        let mut id = 0;
        self.ids.clear();
        for _ in 0..PLACES {
            id += 1 + rng.below(3) as u16;
            self.ids.push(ReplicaId(id));
        }
        let (least, most) = match model {
            FaultModel::Byzantine => (4, 7),
            FaultModel::Crash => (3, 6),
        };
        let mut places: Vec<usize> = (0..PLACES).collect();
        rng.shuffle(&mut places);
        let first = rng.pick(&[least, least, least + 1, most]);
        let mut members = places[..first].to_vec();
        members.sort_unstable();
        self.f = 1;
        let villains = (model == FaultModel::Byzantine && rng.chance(700)).then(|| members[0]);
        self.keep_villain(villains);
        let f = Quorums::faults_tolerated(first, model).min(1 + rng.index(2)).max(1);
        let mut views = vec![Step { members, f }];
        for _ in 0..rng.range(1, 6) {
            let next = draw_step(&mut rng, views.last().expect("the first"), model, (least, most));
            views.push(next);
        }
        let pause = rng.duration(Duration::ZERO, self.safety / views.len() as u32);
        self.changes = Some(Changes { views, pause, refused: rng.pick(&[0, 0, 300]) });
        (self.crashes, self.bad_disks, self.abandoned) = (Vec::new(), Vec::new(), 0);
        // Who joins learns everything from the others' records.
        self.truncate = false;
    }

    /// Of those that were drawn, one villain at most, at this place.
    fn keep_villain(&mut self, place: Option<usize>) {
        self.villains.truncate(1);
        match (place, self.villains.first_mut()) {
            (Some(place), Some(villain)) => villain.member = place,
            _ => self.villains.clear(),
        }
    }
}

fn draw_step(rng: &mut Rng, now: &Step, model: FaultModel, (least, most): (usize, usize)) -> Step {
    loop {
        let mut members = now.members.clone();
        let mut outside: Vec<usize> =
            (0..PLACES).filter(|place| !members.contains(place)).collect();
        rng.shuffle(&mut outside);
        rng.shuffle(&mut members);
        let (leave, join) =
            rng.pick(&[(0, 1), (0, 1), (1, 0), (1, 0), (1, 1), (0, 0), (0, 3), (3, 0)]);
        members.truncate(members.len().saturating_sub(leave));
        members.extend(outside.into_iter().take(join));
        members.sort_unstable();
        let n = members.len();
        let f = 1 + rng.index(2);
        if !(least..=most).contains(&n) || f > Quorums::faults_tolerated(n, model) {
            continue;
        }
        let quorums = |n, f| Quorums::new(n, f, model).expect("enough members");
        let stay = now.members.iter().filter(|place| members.contains(place)).count();
        if stay >= quorums(now.members.len(), now.f).stay(quorums(n, f)) {
            return Step { members, f };
        }
    }
}
