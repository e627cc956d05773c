//! Answers that differ from replica to replica: each has a sensor of its own, and the client takes the median.
//!
//! Shows `Comparator` and `Extractor`, with read-only requests, which replicas answer without ordering them.
//! One sensor is broken; f + 1 answers that are near each other outvote it.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tetrarch_appliance::service::Service;
use tetrarch_client::{
    Bytes, ClientDriver, Clock, Comparator, Extractor, Matching, Mode, Outcome, SystemClock,
};
use tetrarch_consensus::payload::PayloadPool;
use tetrarch_consensus::{
    BadSnapshot, Context, Digest, ReplicaId, Replies, RequestValidator, RequestView, StateMachine,
};
use tetrarch_dataplane::transport::memory::{Switch, SwitchConfig};
use tetrarch_examples::{client_transport, memory_nodes};

/// What the sensors show, in thousandths of a degree. The third is broken.
const SENSORS: [i64; 4] = [20_110, 20_140, 99_999, 20_120];
/// Readings that are as near as this are the same answer.
const TOLERANCE: i64 = 500;
const PATIENCE: Duration = Duration::from_secs(30);

fn reading(bytes: &[u8]) -> Option<i64> {
    bytes.try_into().ok().map(i64::from_le_bytes)
}

/// Sorts readings into intervals of the tolerance: an equivalence, which "differ by less than" is not.
struct SameInterval;

impl Comparator for SameInterval {
    fn equal(&self, a: &[u8], b: &[u8]) -> bool {
        let interval = |bytes| reading(bytes).map(|value| value.div_euclid(TOLERANCE));
        interval(a).is_some() && interval(a) == interval(b)
    }
}

/// The median of the readings that are the same answer.
struct Median;

impl Extractor<Bytes> for Median {
    fn extract(
        &mut self,
        replies: &[(ReplicaId, &[u8])],
        _newest: usize,
        pool: &mut dyn PayloadPool<Bytes>,
    ) -> Option<Bytes> {
        let mut readings: Vec<i64> = replies.iter().filter_map(|(_, it)| reading(it)).collect();
        readings.sort_unstable();
        let median = readings[readings.len() / 2];
        pool.build(8, &mut |out| out.copy_from_slice(&median.to_le_bytes()))
    }
}

/// A replica's sensor. Nothing is ordered, so there is no state.
struct Sensor(i64);

struct NoOperation;

impl RequestValidator for NoOperation {
    fn valid(&self, operation: &[u8]) -> bool {
        operation.is_empty()
    }
}

impl StateMachine for Sensor {
    fn execute(&mut self, _: &Context, request: &RequestView<'_>, replies: &mut dyn Replies) {
        // Ordered requests must be answered alike everywhere, so they get nothing from a sensor.
        replies.reply(request.client, 0);
    }

    fn query(&self, request: &RequestView<'_>, replies: &mut dyn Replies) {
        replies.reply(request.client, 8).copy_from_slice(&self.0.to_le_bytes());
    }

    fn digest(&self) -> Digest {
        Digest::ZERO
    }

    fn snapshot(&self, _out: &mut dyn FnMut(&[u8])) {}

    fn restore(&mut self, read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot> {
        if read(&mut [0]) == 0 { Ok(()) } else { Err(BadSnapshot) }
    }
}

fn main() -> Result<()> {
    let (clock, switch) = (SystemClock::new(), Switch::new(SwitchConfig::default()));
    let sensors = std::cell::RefCell::new(SENSORS.into_iter());
    let service = || -> Service {
        let sensor = sensors.borrow_mut().next().expect("one for each replica");
        (Box::new(Sensor(sensor)), Box::new(NoOperation))
    };
    let (mut nodes, config) = memory_nodes(&switch, clock.now(), service)?;
    let matching =
        Matching::Custom { comparator: Box::new(SameInterval), extractor: Box::new(Median) };
    let mut client = ClientDriver::over(&config, &mut client_transport(&switch), matching)?;
    let (started, mut asked, mut done) = (clock.now(), false, Vec::new());
    loop {
        let now = clock.now();
        ensure!(now.since(started) < PATIENCE, "no answer after {PATIENCE:?}");
        for (node, _) in &mut nodes {
            node.turn(now);
        }
        client.poll(now, &mut done);
        if client.connected() == 4 && !asked {
            client.submit(now, 0, Mode::ReadOnly, b"")?;
            asked = true;
        }
        let Some(completion) = done.pop() else { continue };
        let Outcome::Done(result) = completion.outcome else {
            bail!("no answer: {completion:?}");
        };
        let Some(median) = reading(&result) else { bail!("no reading: {result:?}") };
        println!("sensors {SENSORS:?}: the median of those that agree is {median}");
        ensure!((20_110..=20_140).contains(&median), "the broken sensor has no say");
        return Ok(());
    }
}
