//! A cluster of real processes grows and shrinks under load, and its leaders die meanwhile. Clients are started once.

#[path = "support/processes.rs"]
mod processes;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use processes::{Processes, command, get, wait};
use tetrarch_client::Session;
use tetrarch_services::kv::reply::Reply;
use tetrarch_services::wire::Reader;

/// Sessions that count, each on its own key: the answer to each request says whether one was lost or
/// executed twice.
const SESSIONS: usize = 4;

struct Load {
    counts: Vec<AtomicU64>,
    stop: AtomicBool,
}

impl Load {
    fn count(&self, session: &Session, at: usize) {
        let key = format!("counter-{at}");
        for expected in 1.. {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let answer = session.invoke(&command(&["INCR", &key])).expect("ordered in the end");
            let reply = Reply::read(&mut Reader::new(&answer)).expect("a reply");
            assert!(
                matches!(reply, Reply::Integer(count) if count == expected),
                "{expected}: {reply:?}"
            );
            self.counts[at].store(expected as u64, Ordering::Release);
        }
    }

    /// Until each session has been answered often.
    fn goes_on(&self, after: &str) {
        let counts = || self.counts.iter().map(|count| count.load(Ordering::Acquire));
        let before: Vec<u64> = counts().collect();
        wait(&format!("requests are answered {after}"), || {
            counts().zip(&before).all(|(now, before)| now >= before + 20)
        });
    }
}

/// The newest view, and who leads there, as most of those in it say.
fn leader(cluster: &Processes) -> usize {
    let status = cluster.status().0;
    let replicas = status["replicas"].as_array().expect("a list");
    let there =
        replicas.iter().filter(|it| it["view"] == status["view"] && it["wanted"] == it["regency"]);
    let newest = there.max_by_key(|it| it["regency"].as_u64()).expect("somebody is in it");
    newest["leader"].as_u64().expect("an id") as usize
}

/// Grows a cluster from its first members by three or two with one fault more to tolerate, shrinks it again, and kills
/// leaders before, between and after.
struct Story<'a> {
    cluster: &'a mut Processes,
    load: &'a Load,
}

impl Story<'_> {
    fn kill_leader(&mut self) -> usize {
        let leader = leader(self.cluster);
        self.cluster.kill(leader);
        leader
    }

    fn restart(&mut self, id: usize) {
        self.cluster.replicas[id] = Some(self.cluster.spawn(id));
    }

    /// All of these are in `view`, and executed about what the others did.
    fn are_level(&self, ids: &[usize], view: u64) {
        ids.iter().for_each(|id| self.cluster.wait_for_view(*id, view));
        let executed = |status: &serde_json::Value, id: usize| {
            let replicas = status["replicas"].as_array().into_iter().flatten();
            let found = replicas.clone().find(|it| it["id"] == id);
            found.and_then(|it| it["executed"].as_u64()).unwrap_or(0)
        };
        let status = self.cluster.status().0;
        let goal = ids.iter().map(|id| executed(&status, *id)).max().unwrap_or(0);
        wait("all have executed what was decided", || {
            let status = self.cluster.status().0;
            ids.iter().all(|id| executed(&status, *id) >= goal)
        });
    }

    fn view(&self, what: &str, more: &[&str]) {
        let (well, said) = self.cluster.view(what, more);
        assert!(well, "{said}");
    }

    /// From members 0.. to so many more, and back to those that came and the last of the first.
    fn run(&mut self, first: usize, more: usize, f: (usize, usize)) {
        self.load.goes_on("at first");
        let keys: Vec<String> =
            (first..first + more).map(|id| self.cluster.make_keys(id)).collect();
        for id in first..first + more {
            let joiner = self.cluster.spawn_joiner(id);
            self.cluster.replicas.push(Some(joiner));
        }
        // The leader dies with the change: the next view begins with it as its leader.
        let dead = self.kill_leader();
        let grown = f.1.to_string();
        let mut ask: Vec<&str> = keys.iter().flat_map(|keys| ["--keys", keys]).collect();
        ask.extend(["--f", &grown]);
        self.view("add", &ask);
        self.load.goes_on("in a larger view without its leader");
        self.restart(dead);
        let all: Vec<usize> = (0..first + more).collect();
        self.are_level(&all, 1);

        let dead = self.kill_leader();
        self.load.goes_on("with one more to tolerate");
        self.restart(dead);
        self.are_level(&all, 1);

        let gone: Vec<String> = (0..more).map(|id| id.to_string()).collect();
        let shrunk = f.0.to_string();
        let mut ask: Vec<&str> = gone.iter().map(String::as_str).collect();
        ask.extend(["--f", &shrunk]);
        self.view("remove", &ask);
        for id in 0..more {
            let mut child = self.cluster.replicas[id].take().expect("it ran");
            let mut status = None;
            wait("it is not needed", || {
                status = child.try_wait().expect("our child");
                status.is_some()
            });
            assert_eq!(status.and_then(|it| it.code()), Some(0), "{}", self.cluster.log(id));
        }
        self.load.goes_on("in a smaller view");
        let rest: Vec<usize> = (more..first + more).collect();
        self.are_level(&rest, 2);
        let dead = self.kill_leader();
        self.load.goes_on("without the leader of the smaller view");
        self.restart(dead);
        self.are_level(&rest, 2);
        for id in rest {
            assert!(!self.cluster.log(id).contains("misbehaviour"), "{}", self.cluster.log(id));
        }
    }
}

fn grow_and_shrink(name: &str, init: &[&str], first: usize, more: usize, f: (usize, usize)) {
    let mut cluster = Processes::init_with(name, "kv", init);
    cluster.edit("cluster.toml", "checkpoint_every = 8192", "checkpoint_every = 256");
    cluster.replicas = (0..first).map(|id| Some(cluster.spawn(id))).collect();
    let client = cluster.client();
    let load = Load {
        counts: (0..SESSIONS).map(|_| AtomicU64::new(0)).collect(),
        stop: AtomicBool::new(false),
    };
    let sessions: Vec<Session> =
        (0..SESSIONS).map(|_| client.session().expect("one of a few")).collect();
    std::thread::scope(|scope| {
        let load = &load;
        for (at, session) in sessions.iter().enumerate() {
            scope.spawn(move || load.count(session, at));
        }
        // Whatever happens to the story, the sessions end.
        let _stop = Stop(&load.stop);
        Story { cluster: &mut cluster, load }.run(first, more, f);
    });
    for (at, count) in load.counts.iter().enumerate() {
        let count = count.load(Ordering::Acquire).to_string();
        assert_eq!(get(&sessions[at], &format!("counter-{at}")), Some(count));
    }
}

/// Raises a flag when it goes.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

// rule: VIEW.4
// rule: VIEW.6
#[test]
fn four_become_seven_and_four_again_while_leaders_die() {
    grow_and_shrink("grow", &["--durable"], 4, 3, (1, 2));
}

// rule: VIEW.4
#[test]
fn three_become_five_and_three_again_where_replicas_only_crash() {
    let init = ["--durable", "--model", "crash", "--replicas", "3", "--depth", "4"];
    grow_and_shrink("grow-crash", &init, 3, 2, (1, 2));
}
