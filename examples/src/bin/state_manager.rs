//! A replica that comes late and gets the state from the member that is nearest to it.
//!
//! Shows `StateManager` (the thesis' plug-in of that name): who is asked for how much of a checkpoint. Whatever it says,
//! only a state that f + 1 members vouch for is taken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tetrarch_appliance::recovery::{CheckpointPlan, Memory};
use tetrarch_appliance::running::Running;
use tetrarch_client::Client;
use tetrarch_consensus::limits::CHUNKS_PER_SOURCE_MAX;
use tetrarch_consensus::smr::{StateManager, StateSource};
use tetrarch_consensus::{
    BadSnapshot, Context, Digest, ReplicaId, Replies, RequestValidator, RequestView, StateMachine,
};
use tetrarch_dataplane::crypto::hash::body_digest;
use tetrarch_examples::tcp_starts_of;

/// Whom the late replica prefers.
const NEAREST: ReplicaId = ReplicaId(2);
const NOTES: usize = 60;
const NOTE_SIZE: usize = 200_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a share was asked for, of whom.
type Shares = Arc<Mutex<BTreeMap<ReplicaId, usize>>>;

/// Asks the nearest member only, while it serves.
struct Nearest {
    shares: Shares,
}

impl StateManager for Nearest {
    fn share(&mut self, source: &StateSource) -> usize {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        *shares.entry(source.member).or_default() += 1;
        if source.member == NEAREST { CHUNKS_PER_SOURCE_MAX } else { 0 }
    }
}

/// Keeps every note.
#[derive(Default)]
struct Notebook {
    notes: Vec<u8>,
    shares: Shares,
}

struct AnyNote;

impl RequestValidator for AnyNote {
    fn valid(&self, operation: &[u8]) -> bool {
        operation.len() == NOTE_SIZE
    }
}

impl StateMachine for Notebook {
    fn execute(&mut self, _: &Context, request: &RequestView<'_>, replies: &mut dyn Replies) {
        self.notes.extend_from_slice(request.operation);
        replies.reply(request.client, 0);
    }

    fn query(&self, request: &RequestView<'_>, replies: &mut dyn Replies) {
        replies.reply(request.client, 0);
    }

    fn digest(&self) -> Digest {
        Digest(body_digest(&self.notes))
    }

    fn snapshot(&self, out: &mut dyn FnMut(&[u8])) {
        out(&self.notes);
    }

    fn state_manager(&self) -> Box<dyn StateManager> {
        Box::new(Nearest { shares: Arc::clone(&self.shares) })
    }

    fn restore(&mut self, read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<(), BadSnapshot> {
        let (mut notes, mut piece) = (Vec::new(), vec![0; 1 << 16]);
        while let size @ 1.. = read(&mut piece) {
            notes.extend_from_slice(&piece[..size]);
        }
        if notes.len() % NOTE_SIZE != 0 {
            return Err(BadSnapshot);
        }
        self.notes = notes;
        Ok(())
    }
}

fn main() -> Result<()> {
    let directory = std::env::temp_dir().join(format!("tetrarch-notebook-{}", std::process::id()));
    let outcome = run(&directory);
    std::fs::remove_dir_all(&directory)?;
    outcome
}

fn run(directory: &std::path::Path) -> Result<()> {
    let shares = Shares::default();
    let service = || -> tetrarch_appliance::service::Service {
        (
            Box::new(Notebook { shares: Arc::clone(&shares), ..Notebook::default() }),
            Box::new(AnyNote),
        )
    };
    let (mut starts, config) = tcp_starts_of(service)?;
    let memory = |id: u16| Memory::Volatile {
        restarted: false,
        checkpoints: Some(CheckpointPlan::new(directory.join(id.to_string()))),
    };
    for start in &mut starts {
        // Fewer decisions are kept than are made: who comes late needs a checkpoint.
        (start.core.checkpoint_every, start.core.decision_log_size) = (8, 4 << 20);
    }
    let late = starts.pop();
    let mut replicas = Vec::new();
    for start in starts {
        let memory = memory(start.id.0);
        replicas.push(Running::start_with(start, &memory)?);
    }
    let client = Client::connect(config)?;
    let session = client.session()?;
    for number in 0..NOTES {
        session.invoke(&vec![number as u8; NOTE_SIZE])?;
    }
    if let Some(start) = late {
        let memory = memory(start.id.0);
        replicas.push(Running::start_with(start, &memory)?);
    }
    let began = Instant::now();
    let executed = |replica: &Running| replica.subject().metrics.executed.get();
    // Now and then a note: what it lacks behind the checkpoint may come with the next one only.
    while executed(&replicas[3]) + 4 < executed(&replicas[0]) {
        ensure!(began.elapsed() < PATIENCE, "the late replica is not level");
        if let Some(failure) = replicas[3].failure() {
            bail!("the late replica: {failure}");
        }
        session.invoke(&vec![b'x'; NOTE_SIZE])?;
        sleep(Duration::from_millis(100));
    }
    let asked = shares.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(!asked.is_empty(), "the late replica got the state without a checkpoint");
    if asked.contains_key(&NEAREST) {
        println!(
            "the late replica got the state, as much of it as possible from replica {NEAREST}"
        );
    } else {
        // It had left that checkpoint out because it was still writing one, or offered it when two others had.
        println!("the late replica got the state from others, before replica {NEAREST} offered it");
    }
    drop((session, client));
    for replica in replicas {
        replica.stop()?;
    }
    Ok(())
}
