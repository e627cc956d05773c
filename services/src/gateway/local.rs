//! A cluster of nobody: one store in this process. For tests and for looking at the gateway alone.

use std::time::{SystemTime, UNIX_EPOCH};

use tetrarch_consensus::limits::OPERATION_SIZE_MAX;
use tetrarch_consensus::{
    ClientId, ConsensusId, Context, Digest, Replies, RequestView, Sequence, StateMachine, ViewId,
};

use super::cluster::{Cluster, Completion, Facts, Mode, Refusal};
use crate::kv::{KvConfig, KvService};

/// Executes every operation at once, and answers at the next poll.
#[derive(Debug)]
pub struct Local {
    service: KvService,
    sessions: u32,
    batch: u64,
    last_ns: u64,
    done: Vec<Completion>,
}

struct Reply(Vec<u8>);

impl Replies for Reply {
    fn reply(&mut self, _to: ClientId, size: usize) -> &mut [u8] {
        self.0.resize(size, 0);
        &mut self.0
    }
}

impl Local {
    /// An empty store with this many sessions.
    pub fn new(config: KvConfig, sessions: u32) -> Self {
        Self { service: KvService::new(config), sessions, batch: 0, last_ns: 0, done: Vec::new() }
    }

    /// The store.
    pub fn service(&self) -> &KvService {
        &self.service
    }
}

impl Cluster for Local {
    fn sessions(&self) -> u32 {
        self.sessions
    }

    fn submit(
        &mut self,
        session: u32,
        mode: Mode,
        tag: u64,
        operation: &[u8],
    ) -> Result<(), Refusal> {
        if operation.len() > OPERATION_SIZE_MAX {
            return Err(Refusal::TooLarge);
        }
        self.batch += 1;
        let request = RequestView {
            client: ClientId::new(0, session),
            sequence: Sequence(self.batch),
            digest: Digest([0; 32]),
            operation,
            body: operation,
            auth: 0,
            proof: &[],
        };
        let mut reply = Reply(Vec::new());
        match mode {
            Mode::ReadOnly => self.service.query(&request, &mut reply),
            Mode::Ordered => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
                // As in a cluster, time only grows.
                self.last_ns = now_ns.max(self.last_ns.saturating_add(1));
                let cid = ConsensusId(self.batch);
                let (timestamp_ns, seed) = (self.last_ns, self.batch);
                let context = Context { cid, view: ViewId(0), timestamp_ns, seed };
                self.service.execute(&context, &request, &mut reply);
                self.service.end_batch(&context);
            }
        }
        self.done.push(Completion { tag, outcome: Ok(reply.0) });
        Ok(())
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.done);
    }

    fn facts(&self) -> Facts {
        Facts {
            description: "one store in this process, not replicated".into(),
            replicas: 1,
            replicas_connected: 1,
            ..Facts::default()
        }
    }
}
