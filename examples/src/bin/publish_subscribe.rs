//! Topics that sessions subscribe to: what one publishes, the replicas tell the others.
//!
//! Shows `Replies::notify` (the thesis' custom `Replier`) and `Session::on_notice`. One replica tells its clients
//! something else; f + 1 that say the same outvote it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tetrarch_client::Client;
use tetrarch_consensus::{
    BadSnapshot, ClientId, Context, Digest, Replies, RequestValidator, RequestView, StateMachine,
};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_examples::tcp_replicas_of;

const PATIENCE: Duration = Duration::from_secs(30);
const SUBSCRIBERS: usize = 3;
const NEWS: [&str; 4] = ["rain at noon", "sun at one", "snow at two", "hail at three"];

const SUBSCRIBE: u8 = b'+';
const PUBLISH: u8 = b'!';

/// An operation: what to do, the topic's size, the topic, and what is published.
fn operation(kind: u8, topic: &str, text: &str) -> Vec<u8> {
    [&[kind, topic.len() as u8], topic.as_bytes(), text.as_bytes()].concat()
}

fn parse(operation: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [kind @ (SUBSCRIBE | PUBLISH), size, rest @ ..] = operation else { return None };
    let (topic, text) = rest.split_at_checked(usize::from(*size))?;
    Some((*kind, topic, text))
}

struct WellFormed;

impl RequestValidator for WellFormed {
    fn valid(&self, operation: &[u8]) -> bool {
        parse(operation).is_some()
    }
}

/// Who is subscribed to what.
#[derive(Default)]
struct Topics {
    subscribers: BTreeMap<Vec<u8>, BTreeSet<u64>>,
    /// This replica lies.
    lies: bool,
}

impl StateMachine for Topics {
    fn execute(&mut self, _: &Context, request: &RequestView<'_>, replies: &mut dyn Replies) {
        let (kind, topic, text) = parse(request.operation).expect("it was validated");
        let told = match kind {
            SUBSCRIBE => {
                self.subscribers.entry(topic.to_vec()).or_default().insert(request.client.0);
                0
            }
            _ => {
                let subscribers = self.subscribers.get(topic).into_iter().flatten();
                let mut count = 0u64;
                for &subscriber in subscribers {
                    count += 1;
                    // Without room it is not told; a real service numbers what it publishes, and keeps it for who asks.
                    if let Some(out) = replies.notify(ClientId(subscriber), text.len()) {
                        out.copy_from_slice(text);
                        if self.lies {
                            out.reverse();
                        }
                    }
                }
                count
            }
        };
        replies.reply(request.client, 8).copy_from_slice(&told.to_le_bytes());
    }

    fn query(&self, request: &RequestView<'_>, replies: &mut dyn Replies) {
        let topics = self.subscribers.len() as u64;
        replies.reply(request.client, 8).copy_from_slice(&topics.to_le_bytes());
    }

    fn digest(&self) -> Digest {
        let mut bytes = Vec::new();
        self.snapshot(&mut |part| bytes.extend_from_slice(part));
        Digest(body_digest(&bytes))
    }

    fn snapshot(&self, out: &mut dyn FnMut(&[u8])) {
        for (topic, subscribers) in &self.subscribers {
            for subscriber in subscribers {
                out(&[topic.len() as u8]);
                out(topic);
                out(&subscriber.to_le_bytes());
            }
        }
    }

    fn restore(&mut self, read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot> {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        while let size @ 1.. = read(&mut piece) {
            bytes.extend_from_slice(&piece[..size]);
        }
        let mut subscribers: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let mut rest = &bytes[..];
        while let [size, after @ ..] = rest {
            let (topic, after) = after.split_at_checked(usize::from(*size)).ok_or(BadSnapshot)?;
            let (subscriber, after) = after.split_first_chunk().ok_or(BadSnapshot)?;
            subscribers.entry(topic.to_vec()).or_default().insert(u64::from_le_bytes(*subscriber));
            rest = after;
        }
        self.subscribers = subscribers;
        Ok(())
    }
}

fn main() -> Result<()> {
    let is_first = AtomicBool::new(true);
    let (replicas, config) = tcp_replicas_of(|| {
        let lies = is_first.swap(false, Ordering::Relaxed);
        (Box::new(Topics { lies, ..Topics::default() }), Box::new(WellFormed))
    })?;
    let client = Client::connect(config)?;
    let (events, news) = channel();
    let mut sessions = Vec::new();
    for subscriber in 0..SUBSCRIBERS {
        let session = client.session()?;
        let events = events.clone();
        // The loop below is gone when nobody receives.
        session.on_notice(move |notice| drop(events.send((subscriber, notice))));
        session.invoke(&operation(SUBSCRIBE, "weather", ""))?;
        sessions.push(session);
    }
    let publisher = client.session()?;
    for text in NEWS {
        let told = publisher.invoke(&operation(PUBLISH, "weather", text))?;
        ensure!(told == (SUBSCRIBERS as u64).to_le_bytes(), "all are told");
    }
    publisher.invoke(&operation(PUBLISH, "sports", "nobody is subscribed to this"))?;
    let mut heard = vec![BTreeMap::new(); SUBSCRIBERS];
    while heard.iter().any(|numbers| numbers.len() < NEWS.len()) {
        let (subscriber, notice) = news.recv_timeout(PATIENCE).context("news that did not come")?;
        if heard[subscriber].insert(notice.number, notice.content).is_some() {
            bail!("subscriber {subscriber} was told twice");
        }
    }
    for numbers in &heard {
        let texts: Vec<&[u8]> = numbers.values().map(Vec::as_slice).collect();
        ensure!(texts == NEWS.map(str::as_bytes), "in the order of their numbers");
    }
    println!("{SUBSCRIBERS} subscribers were told {} news each, and no lies", NEWS.len());
    drop((sessions, publisher, client));
    for replica in replicas {
        replica.stop()?;
    }
    Ok(())
}
