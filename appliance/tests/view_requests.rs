//! What the View Manager, or somebody who would like to be, asks for in vain: refused, counted, and nothing changes.

mod support;

use support::World;
use tetrarch_appliance::testing::request_bytes_in;
use tetrarch_client::cluster::PrivateKeys;
use tetrarch_consensus::membership::{
    Membership, RefusedView, VIEW_MANAGER, ViewAnswer, ViewRequest,
};
use tetrarch_consensus::message::reply::Status;
use tetrarch_consensus::message::{codec, proof};
use tetrarch_consensus::{ClientId, Digest, ViewId};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_dataplane::crypto::signature::SigningKey;
use tetrarch_dataplane::reject::Reject;

/// View `view` of `cluster` with these replicas of the first one.
fn membership(world: &World, cluster: u64, view: u32, ids: &[u16]) -> Membership {
    let first = world.test.cluster.membership();
    let members = first.members().iter().filter(|member| ids.contains(&member.id.0)).cloned();
    let (members, model) = (members.collect(), first.model());
    Membership::new(cluster, ViewId(view), 1, model, members).expect("possible")
}

fn operation(next: &Membership, key: &SigningKey) -> Vec<u8> {
    let signature = key.sign(&ViewRequest::signed_bytes(next));
    let mut operation = Vec::new();
    ViewRequest { next: next.clone(), signature }.encode(&mut operation);
    operation
}

/// The View Manager's link, and what is sent over it.
struct Asker<'a> {
    world: &'a mut World,
    counter: u32,
    view: u32,
}

impl Asker<'_> {
    /// Sends a request with this operation to everybody, signed with `key`.
    fn send(&mut self, operation: &[u8], key: &SigningKey) {
        let session = ClientId::new(VIEW_MANAGER, 0);
        let view = ViewId(self.view);
        let body = request_bytes_in(view, session, self.counter, operation, false);
        let digest = Digest(body_digest(&body));
        let signed = codec::request_to_sign(self.world.test.cluster.id, &digest);
        let signature = key.sign(&signed);
        let nodes = self.world.nodes.len() as u16;
        let manager = self.world.clients.last_mut().expect("the View Manager");
        for id in 0..nodes {
            manager.send_with_proof(&body, proof::SIGNATURE, &signature, id);
        }
    }

    /// It is dropped where it comes in, by everybody, for this reason.
    fn is_dropped(&mut self, operation: &[u8], key: &SigningKey, reason: Reject) {
        let before: Vec<u64> = self.counts(reason);
        let results = self.results();
        self.counter += 1;
        self.send(operation, key);
        (0..200).for_each(|_| self.world.tick());
        let after = self.counts(reason);
        assert!(
            after.iter().zip(&before).all(|(after, before)| after > before),
            "{reason:?}: {after:?}"
        );
        assert_eq!(self.results(), results, "it has no result");
        // As if it had never been.
        self.counter -= 1;
    }

    /// It is ordered, and all members answer the same.
    fn is_answered(&mut self, operation: &[u8], key: &SigningKey) -> ViewAnswer {
        self.counter += 1;
        self.send(operation, key);
        let (nodes, counter) = (self.world.nodes.iter().flatten().count(), self.counter);
        let all = |world: &World| answers(world, counter).len() >= nodes;
        assert!(self.world.run_until(2000, all), "all answer");
        let answers = answers(self.world, counter);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        ViewAnswer::decode(&answers[0]).expect("of this release")
    }

    fn counts(&self, reason: Reject) -> Vec<u64> {
        self.world.metrics.iter().map(|metrics| metrics.reject(reason)).collect()
    }

    fn results(&self) -> usize {
        let all = self.world.clients.iter().flat_map(|client| &client.replies);
        all.filter(|(_, header, _)| header.status == Status::Ok).count()
    }
}

/// The View Manager's results of its request `counter`.
fn answers(world: &World, counter: u32) -> Vec<Vec<u8>> {
    let manager = world.clients.last().expect("the View Manager");
    let results = manager.replies.iter().filter(|(_, header, _)| {
        header.status == Status::Ok && header.sequence.counter() == counter
    });
    results.map(|it| it.2.clone()).collect()
}

// rule: VIEW.1
// rule: VIEW.3
#[test]
fn view_requests_that_are_not_in_order_change_nothing() {
    let keys = PrivateKeys::generate().expect("random bytes");
    let mut world = World::managed(5, 1, &keys);
    world.connect();
    let (ours, stranger) =
        (keys.signing_key.clone(), SigningKey::generate().expect("random bytes"));
    let cluster = world.test.cluster.id;
    let rest = membership(&world, cluster, 1, &[1, 2, 3, 4]);
    let later = membership(&world, cluster, 2, &[1, 2, 3, 4]);
    let elsewhere = membership(&world, cluster + 1, 1, &[1, 2, 3, 4]);
    let back = membership(&world, cluster, 2, &[0, 1, 2, 3, 4]);
    let mut ask = Asker { world: &mut world, counter: 0, view: 0 };

    // Not signed by the View Manager, as a request or as a membership; or no membership at all.
    let asked = operation(&rest, &ours);
    ask.is_dropped(&asked, &stranger, Reject::BadProof);
    ask.is_dropped(&operation(&rest, &stranger), &ours, Reject::NotAllowed);
    ask.is_dropped(&asked[..asked.len() - 1], &ours, Reject::NotAllowed);
    ask.is_dropped(&[asked.clone(), vec![0]].concat(), &ours, Reject::NotAllowed);
    ask.is_dropped(b"", &ours, Reject::NotAllowed);
    let mut changed = asked.clone();
    *changed.last_mut().expect("some bytes") ^= 1;
    ask.is_dropped(&changed, &ours, Reject::NotAllowed);

    // Signed, and not what may follow.
    let refused = |answer| ViewAnswer::Refused(answer);
    let answer = ask.is_answered(&operation(&later, &ours), &ours);
    assert_eq!(answer, refused(RefusedView::NotNext(ViewId(0))));
    let answer = ask.is_answered(&operation(&elsewhere, &ours), &ours);
    assert_eq!(answer, refused(RefusedView::OtherCluster));
    assert!(ask.world.nodes.iter().flatten().all(|node| node.core().view().id() == ViewId(0)));

    // The same thing once more, when it has happened already; also word for word.
    let answer = ask.is_answered(&asked, &ours);
    assert!(matches!(answer, ViewAnswer::Accepted { view: ViewId(1), .. }), "{answer:?}");
    let there = |world: &World, view: u32| {
        let node = |id: usize| world.nodes[id].as_ref().expect("it runs");
        (1..5).all(|id| node(id).core().view().id() == ViewId(view))
    };
    assert!(ask.world.run_until(5000, |world| there(world, 1)));
    ask.send(&asked, &ours);
    (0..500).for_each(|_| ask.world.tick());
    assert!(there(ask.world, 1), "a replay is answered as before, if at all");
    ask.world.nodes[0] = None;
    ask.view = 1;
    let answer = ask.is_answered(&asked, &ours);
    assert_eq!(answer, refused(RefusedView::NotNext(ViewId(1))));
    assert!(there(ask.world, 1));
    // And what is in order still goes through.
    ask.counter += 1;
    ask.send(&operation(&back, &ours), &ours);
    assert!(ask.world.run_until(5000, |world| {
        let node = |id: usize| world.nodes[id].as_ref().expect("it runs");
        (1..5).all(|id| node(id).core().membership().is_some_and(|it| it.id() == ViewId(2)))
    }));
}
