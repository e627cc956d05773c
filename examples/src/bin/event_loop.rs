//! Many requests in flight, and a callback for each answer: for programs with an event loop of their own.
//!
//! Shows `Session::submit_with` (the thesis' asynchronous proxy and its listener). The callback runs on the
//! client's thread and must not block: here it puts the answer into a channel that the loop reads.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tetrarch_appliance::service::ServiceKind;
use tetrarch_client::{Client, ClientError, Mode};
use tetrarch_examples::tcp_replicas;
use tetrarch_services::maplist::{Answer, Operation};

const KEYS: u32 = 500;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let (replicas, config) = tcp_replicas(ServiceKind::MapList)?;
    let client = Client::connect(config)?;
    let session = client.session()?;
    let (answers, events) = channel();
    let mut waiting: BTreeMap<u32, Vec<u8>> = (0..KEYS).map(|at| (at, put(at))).collect();
    let mut in_flight = 0;
    while !waiting.is_empty() || in_flight > 0 {
        // As many as the session's window takes; then the loop sleeps until something happens.
        while let Some((number, operation)) = waiting.pop_first() {
            let answers = answers.clone();
            // The loop is gone when nobody receives: then nobody wants the answer either.
            let listener = move |result| drop(answers.send((number, result)));
            match session.submit_with(&operation, Mode::Ordered, listener) {
                Ok(()) => in_flight += 1,
                Err(ClientError::Busy(_)) => {
                    waiting.insert(number, operation);
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let (number, result) = events.recv_timeout(PATIENCE).context("no answer came")?;
        let result = result?;
        ensure!(Answer::parse(&result) == Ok(Answer::Flag(false)), "key {number} was there before");
        in_flight -= 1;
    }
    let mut size = Vec::new();
    Operation::Size.write(&mut size);
    ensure!(Answer::parse(&session.query(&size)?) == Ok(Answer::Number(u64::from(KEYS))));
    println!("{KEYS} keys put, each answer told to its listener");
    drop(client);
    for replica in replicas {
        replica.stop()?;
    }
    Ok(())
}

fn put(number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let key = number.to_le_bytes();
    Operation::Put { key: &key, entries: tetrarch_services::kv::command::Args::Words(&[b"entry"]) }
        .write(&mut out);
    out
}
