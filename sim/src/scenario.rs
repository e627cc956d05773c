//! Words for tests by hand: a cluster of real nodes, a load, and one thing that goes wrong.
//!
//! Always true: a scenario that ends with [`Scenario::settle`] checked everything that a drawn run
//! checks. Must not: draw faults of its own.

use std::time::Duration;

use tetrarch_consensus::FaultModel;
use tetrarch_consensus::limits::{DECISION_LOG_MAX, PENDING_MAX};
use tetrarch_consensus::quorum::Quorums;
use tetrarch_dataplane::types::Instant;

use crate::nodes::Cluster;
use crate::swarm::{ClientPlan, Options};
use crate::trace::Log;

/// The load of a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Clients.
    pub clients: usize,
    /// Operations of each in flight.
    pub window: usize,
    /// Mean pause of each between operations.
    pub think: Duration,
    /// Requests in one batch at most.
    pub batch: usize,
}

/// A cluster of real nodes under a load that goes on until [`Scenario::settle`].
pub struct Scenario {
    cluster: Cluster,
}

impl Scenario {
    /// `n` Byzantine-tolerant members with this timeout, in a network with delays of about a
    /// millisecond, under `load`.
    pub fn new(n: usize, timeout: Duration, load: Load) -> Self {
        let mut options = Options::calm(n, timeout);
        options.batch_requests_max = load.batch;
        options.clients = vec![
            ClientPlan {
                operations: u32::MAX,
                window: load.window,
                reads: 100,
                think: load.think,
                restart_after: 0,
            };
            load.clients
        ];
        Self { cluster: Cluster::new(options, Log::None) }
    }

    /// Lets time pass, and stops at the first violation.
    ///
    /// # Panics
    /// With the violation.
    pub fn run(&mut self, time: Duration) {
        self.cluster.run_for(time, |_| false);
        self.cluster.assert_holds();
    }

    /// Lets time pass until `done`, at most for `time`; says whether it was.
    pub fn run_until(&mut self, time: Duration, done: impl Fn(&Cluster) -> bool) -> bool {
        let was = self.cluster.run_for(time, done);
        self.cluster.assert_holds();
        was
    }

    /// SIGSTOP.
    pub fn pause(&mut self, member: u16) {
        self.cluster.pause(member);
    }

    /// SIGCONT.
    pub fn resume(&mut self, member: u16) {
        self.cluster.resume(member);
    }

    /// From now on this member does a little work once in `period` only.
    pub fn slow(&mut self, member: u16, period: Duration) {
        self.cluster.slow(member, period);
    }

    /// Cuts a member off from all others.
    pub fn cut_off(&mut self, member: u16) {
        self.cluster.cut_off(member, true);
    }

    /// Lets a member back that was cut off.
    pub fn let_back(&mut self, member: u16) {
        self.cluster.cut_off(member, false);
    }

    /// SIGKILL.
    pub fn kill(&mut self, member: u16) {
        self.cluster.crash(usize::from(member));
    }

    /// Starts a killed member, without its memory.
    pub fn restart(&mut self, member: u16) {
        self.cluster.restart(usize::from(member));
    }

    /// The newest regency of a member in possession of its memory.
    pub fn regency(&self) -> u32 {
        self.cluster.regency()
    }

    /// Operations that clients got an answer to.
    pub fn returned(&self) -> u64 {
        self.cluster.returned()
    }

    /// Instances that a member executed.
    pub fn executed(&self, member: u16) -> u64 {
        self.cluster.executed(member)
    }

    /// Simulated time.
    pub fn now(&self) -> Instant {
        self.cluster.now
    }

    /// Ends the load: within `time` all operations must end and all members be equally far. Then
    /// compares what clients saw with what was executed, and counts frames.
    ///
    /// # Panics
    /// With the first thing that does not hold.
    pub fn settle(mut self, time: Duration) {
        self.cluster.stop_load();
        if !self.cluster.run_for(time, Cluster::is_level) {
            panic!("not settled in {time:?}: {}", self.cluster.what_is_missing());
        }
        self.cluster.finish();
        self.cluster.assert_holds();
    }
}

impl Options {
    /// No faults, no clients, delays of about a millisecond.
    pub fn calm(n: usize, timeout: Duration) -> Self {
        let model = FaultModel::Byzantine;
        let f = Quorums::faults_tolerated(n, model);
        let mut options = Self::draw(
            1,
            &crate::Wishes { n: Some(n), model: Some(model), ..crate::Wishes::default() },
        );
        options.f = f;
        options.timeout = timeout;
        options.delay = (Duration::from_micros(300), Duration::from_micros(500));
        (options.loss, options.duplicates, options.reorder) = (0, 0, 0);
        (options.villains, options.crashes) = (Vec::new(), Vec::new());
        (options.clients, options.mischief) = (Vec::new(), Vec::new());
        (options.skew, options.execution) = (Duration::ZERO, Duration::ZERO);
        options.abandoned = 0;
        (options.reset_every, options.partition_every) = (Duration::ZERO, Duration::ZERO);
        (options.pause_every, options.veto_every) = (Duration::ZERO, Duration::ZERO);
        (options.crash_every, options.starvation) = (Duration::ZERO, 0);
        (options.as_bytes, options.inline_body_max) = (false, 0);
        options.pending_max = PENDING_MAX;
        // Whatever the depth is made: checkpoints would have to be twice as far apart.
        (options.checkpoint_every, options.decision_log_max) = (0, DECISION_LOG_MAX);
        options
    }
}
