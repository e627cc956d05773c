//! Pipelines over a cluster that is late, busy, broken or small.

use std::collections::VecDeque;

use super::*;
use crate::gateway::cluster::{Completion, Facts};
use crate::gateway::local::Local;
use crate::kv::KvConfig;
use crate::kv::text::parse;
use proptest::prelude::*;

/// A store that answers when it is told to.
struct Slow {
    store: Local,
    submitted: VecDeque<(u64, Mode, Vec<u8>)>,
    refusal: Option<Refusal>,
    room: usize,
}

impl Slow {
    fn new(room: usize) -> Self {
        let store = Local::new(KvConfig::default(), 1);
        Self { store, submitted: VecDeque::new(), refusal: None, room }
    }

    /// Executes the oldest operation and says how it ended.
    fn answer(&mut self) -> Option<Completion> {
        let (tag, mode, operation) = self.submitted.pop_front()?;
        self.store.submit(0, mode, tag, &operation).expect("small enough");
        let mut done = Vec::new();
        self.store.poll(&mut done);
        done.pop()
    }
}

impl Cluster for Slow {
    fn sessions(&self) -> u32 {
        1
    }

    fn submit(&mut self, _: u32, mode: Mode, tag: u64, operation: &[u8]) -> Result<(), Refusal> {
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        if self.submitted.len() >= self.room {
            return Err(Refusal::Busy);
        }
        let mixed = self.submitted.iter().any(|(_, other, _)| *other != mode);
        assert!(!mixed, "reads from the current state never overtake, nor are overtaken");
        let parsed = Operation::parse(operation).expect("well-formed");
        assert!(mode == Mode::Ordered || parsed.is_read_only());
        self.submitted.push_back((tag, mode, operation.to_vec()));
        Ok(())
    }

    fn poll(&mut self, _: &mut Vec<Completion>) {}

    fn facts(&self) -> Facts {
        Facts::default()
    }
}

fn command(pipeline: &mut Pipeline, words: &[&str], reads_unordered: bool) {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let command = parse(&words).expect("well-formed");
    pipeline.command(&command, reads_unordered && command.is_read_only(), Protocol::Resp2);
}

fn submit(pipeline: &mut Pipeline, cluster: &mut Slow) -> bool {
    pipeline.submit(cluster, 0, u64::from)
}

fn drain(pipeline: &mut Pipeline) -> String {
    let mut out = Vec::new();
    pipeline.drain(&mut out, usize::MAX);
    String::from_utf8(out).expect("text")
}

/// Everything is answered: nothing is held any more.
fn check_empty(pipeline: &Pipeline) {
    assert!(pipeline.is_idle() && pipeline.groups.is_empty());
    assert_eq!((pipeline.held_size, pipeline.owed_count, pipeline.in_flight()), (0, 0, 0));
}

#[test]
fn a_busy_cluster_is_asked_again() {
    let (mut pipeline, mut cluster) = (Pipeline::default(), Slow::new(0));
    command(&mut pipeline, &["SET", "a", "1"], false);
    assert!(submit(&mut pipeline, &mut cluster));
    assert_eq!(drain(&mut pipeline), "");
    cluster.room = 1;
    assert!(!submit(&mut pipeline, &mut cluster));
    let done = cluster.answer().expect("submitted");
    pipeline.complete(done.tag as u32, done.outcome);
    assert_eq!(drain(&mut pipeline), "+OK\r\n");
    check_empty(&pipeline);
}

#[test]
fn an_overloaded_cluster_is_told_to_clients_and_asked_again() {
    let (mut pipeline, mut cluster) = (Pipeline::default(), Slow::new(8));
    cluster.refusal = Some(Refusal::Overloaded);
    command(&mut pipeline, &["INCR", "a"], false);
    command(&mut pipeline, &["INCR", "a"], false);
    assert!(!submit(&mut pipeline, &mut cluster));
    assert_eq!(drain(&mut pipeline).matches("-TRYAGAIN the cluster is overloaded").count(), 2);
    cluster.refusal = None;
    command(&mut pipeline, &["INCR", "a"], false);
    submit(&mut pipeline, &mut cluster);
    let done = cluster.answer().expect("submitted");
    pipeline.complete(done.tag as u32, done.outcome);
    assert_eq!(drain(&mut pipeline), ":1\r\n", "nothing had been executed");
    check_empty(&pipeline);
}

#[test]
fn failures_answer_every_command_once() {
    let (mut pipeline, mut cluster) = (Pipeline::default(), Slow::new(8));
    for _ in 0..3 {
        command(&mut pipeline, &["INCR", "a"], false);
    }
    submit(&mut pipeline, &mut cluster);
    pipeline.local(&mut Vec::new(), |out| out.extend_from_slice(b"+PONG\r\n"));
    let mut operation = OperationWriter::new();
    operation.push(&parse(&[b"INCR", b"a"]).expect("well-formed"));
    operation.push(&parse(&[b"INCR", b"a"]).expect("well-formed"));
    pipeline.transaction(&mut operation, Protocol::Resp2);
    submit(&mut pipeline, &mut cluster);
    let tags: Vec<_> = cluster.submitted.iter().map(|(tag, ..)| *tag as u32).collect();
    pipeline.complete(tags[1], Err(Failure::Unavailable));
    assert_eq!(drain(&mut pipeline), "", "in order");
    pipeline.complete(tags[0], Err(Failure::Timeout));
    pipeline.complete(tags[0], Err(Failure::Timeout));
    let text = drain(&mut pipeline);
    assert_eq!(text.matches("-TRYAGAIN").count(), 3);
    assert_eq!(text.matches("-CLUSTERDOWN").count(), 1, "a transaction has one answer");
    assert!(text.find("PONG") > text.rfind("-TRYAGAIN"));
    check_empty(&pipeline);
}

#[test]
fn replies_that_make_no_sense_are_errors() {
    for reply in [&b""[..], &[0xff], &[1], &[1, 1, 1], &[9, 200], &[6, 5, b'x']] {
        let (mut pipeline, mut cluster) = (Pipeline::default(), Slow::new(8));
        command(&mut pipeline, &["GET", "a"], false);
        command(&mut pipeline, &["GET", "b"], false);
        submit(&mut pipeline, &mut cluster);
        let tag = cluster.submitted[0].0 as u32;
        pipeline.complete(tag, Ok(reply.to_vec()));
        assert_eq!(drain(&mut pipeline).matches("-ERR the cluster's reply").count(), 2);
        check_empty(&pipeline);
    }
}

#[test]
fn what_is_refused_for_good_is_answered_at_once() {
    let (mut pipeline, mut cluster) = (Pipeline::default(), Slow::new(8));
    cluster.refusal = Some(Refusal::Unavailable);
    command(&mut pipeline, &["SET", "a", "1"], false);
    submit(&mut pipeline, &mut cluster);
    assert!(drain(&mut pipeline).starts_with("-CLUSTERDOWN"));
    cluster.refusal = None;
    command(&mut pipeline, &["EXISTS", "a"], false);
    submit(&mut pipeline, &mut cluster);
    let done = cluster.answer().expect("submitted");
    pipeline.complete(done.tag as u32, done.outcome);
    assert_eq!(drain(&mut pipeline), ":0\r\n");
    check_empty(&pipeline);
}

#[derive(Clone, Debug)]
enum Step {
    /// Appends to one of two keys.
    Write(u8),
    Read(u8),
    /// Reads much more than fits with others.
    Large,
    /// Makes a key expire, much later: its reads must be ordered.
    Volatile(u8),
    Submit,
    Answer,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..2u8).prop_map(Step::Write),
        4 => (0..2u8).prop_map(Step::Read),
        1 => Just(Step::Large),
        1 => (0..2u8).prop_map(Step::Volatile),
        2 => Just(Step::Submit),
        2 => Just(Step::Answer),
    ]
}

proptest! {
    #[test]
    fn every_command_sees_those_before_it(
        steps in proptest::collection::vec(step(), 1..120),
        reads_unordered in any::<bool>(),
        room in 1..4usize,
    ) {
        let (mut pipeline, mut cluster) = (Pipeline::default(), Slow::new(room));
        let large = "x".repeat(120_000);
        command(&mut pipeline, &["SET", "large", &large], false);
        let mut expected = "+OK\r\n".to_owned();
        let mut values = [String::new(), String::new()];
        let mut found = String::new();
        for step in steps {
            match step {
                Step::Write(key) => {
                    let value = &mut values[usize::from(key)];
                    value.push('v');
                    command(&mut pipeline, &["APPEND", &key.to_string(), "v"], reads_unordered);
                    expected.push_str(&format!(":{}\r\n", value.len()));
                }
                Step::Read(key) => {
                    let value = &values[usize::from(key)];
                    command(&mut pipeline, &["GET", &key.to_string()], reads_unordered);
                    expected.push_str(&match value.len() {
                        0 => "$-1\r\n".to_owned(),
                        size => format!("${size}\r\n{value}\r\n"),
                    });
                }
                Step::Large => {
                    command(&mut pipeline, &["GET", "large"], reads_unordered);
                    expected.push_str(&format!("$120000\r\n{large}\r\n"));
                }
                Step::Volatile(key) => {
                    let live = !values[usize::from(key)].is_empty();
                    let words = ["EXPIRE", &key.to_string(), "100000"];
                    command(&mut pipeline, &words, reads_unordered);
                    expected.push_str(if live { ":1\r\n" } else { ":0\r\n" });
                }
                Step::Submit => {
                    submit(&mut pipeline, &mut cluster);
                }
                Step::Answer => {
                    if let Some(done) = cluster.answer() {
                        pipeline.complete(done.tag as u32, done.outcome);
                    }
                    found.push_str(&drain(&mut pipeline));
                }
            }
        }
        for _ in 0..1000 {
            submit(&mut pipeline, &mut cluster);
            let Some(done) = cluster.answer() else { break };
            pipeline.complete(done.tag as u32, done.outcome);
        }
        found.push_str(&drain(&mut pipeline));
        prop_assert!(found == expected, "\n{}\n{}", short(&found), short(&expected));
        check_empty(&pipeline);
    }
}

fn short(text: &str) -> String {
    text.replace(&"x".repeat(120_000), "LARGE").replace("\r\n", " ")
}
