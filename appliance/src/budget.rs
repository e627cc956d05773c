//! The memory of a node as a sum that can be read.
//!
//! Owns the sizes of the arena's classes and the other reservations. Always true: what is printed at
//! start is what the node reserves; each line says why it is as large as it is. Must not: allocate.
//!
//! Frames hold what is in flight: messages on their way in and out, pending requests (their window
//! bounds them), batches that came early. Small messages use small slots and fall back to larger
//! ones, so as long as the largest slots last, everything can be received. Ingress keeps half of
//! them from clients, and a quarter from batches whose time has not come.

use std::fmt;

use tetrarch_consensus::Config;
use tetrarch_consensus::limits::{BATCH_SIZE_MAX, DECISION_LOG_SIZE_MAX, RESULT_SIZE_MAX};
use tetrarch_consensus::smr::Replica;
use tetrarch_dataplane::arena::{ArenaSpec, SlotClass};
use tetrarch_dataplane::limits::BODY_SIZE_MAX;
use tetrarch_dataplane::storage::LogConfig;
use tetrarch_dataplane::storage::file::memory_size;

use crate::checkpoint::transfer::transfer_size;
use crate::payload::FramePayload;
use crate::proofs::PROVED_SIZE;
use crate::stage::rings_size;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What the memory of one node is sized by. The rest are limits of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Bytes of frames for messages in flight.
    pub frames_size: usize,
    /// Encoded bytes of decisions that are kept to help others.
    pub decision_log_size: usize,
    /// Bytes of kept replies.
    pub reply_cache_size: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            frames_size: 128 * MIB,
            decision_log_size: DECISION_LOG_SIZE_MAX,
            reply_cache_size: 64 * MIB,
        }
    }
}

/// One line of the sum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Bytes.
    pub size: usize,
    /// What for.
    pub what: String,
}

/// The sum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Budget {
    /// The arena of the node.
    pub arena: ArenaSpec,
    /// Every reservation.
    pub lines: Vec<Line>,
}

impl Budget {
    /// The sum for these sizes, with ingress as part of the network stage.
    pub fn new(sizes: Sizes) -> Self {
        Self::with_workers(sizes, 0)
    }

    /// The sum for these sizes and so many ingress workers.
    pub fn with_workers(sizes: Sizes, workers: usize) -> Self {
        let arena = arena(sizes.frames_size);
        let lines = vec![
            Line { size: arena.size(), what: "frames for messages in flight".into() },
            Line { size: sizes.decision_log_size, what: "decisions kept to help others".into() },
            Line {
                size: sizes.reply_cache_size,
                what: "replies kept for repeated requests".into(),
            },
            Line { size: rings_size(workers), what: "rings between stages".into() },
            Line {
                size: RESULT_SIZE_MAX + MIB + (1 + workers) * PROVED_SIZE,
                what: "scratch, proved requests".into(),
            },
        ];
        Self { arena, lines }
    }

    /// And the tables of the protocol's core.
    #[must_use]
    pub fn with_core(mut self, config: &Config) -> Self {
        let size = Replica::<FramePayload>::tables_size(config);
        self.lines
            .push(Line { size, what: "pending requests, early votes, index of decisions".into() });
        if config.checkpoint_every > 0 {
            let (size, gib) = (transfer_size(config.state_size_max), config.state_size_max >> 30);
            let what = format!("digests while checkpoints of up to {gib} GiB are transferred");
            self.lines.push(Line { size, what });
        }
        self
    }

    /// With what the log of the replica takes, if it keeps one.
    #[must_use]
    pub fn with_log(mut self, log: Option<&LogConfig>) -> Self {
        self.lines.extend(log.map(|config| Line {
            size: memory_size(config),
            what: "groups of records on their way to the log".into(),
        }));
        self
    }

    /// Bytes in all.
    pub fn size(&self) -> usize {
        self.lines.iter().map(|line| line.size).sum()
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory {} MiB =", self.size().div_ceil(MIB))?;
        for (at, line) in self.lines.iter().enumerate() {
            let plus = if at == 0 { "" } else { " +" };
            write!(f, "{plus} {:.1} ({})", line.size as f64 / MIB as f64, line.what)?;
        }
        Ok(())
    }
}

/// Bytes of the largest slots: a full batch, or the largest result, with what is around it.
pub const LARGEST_SLOT: usize = BATCH_SIZE_MAX + 16 * KIB;

/// Slots for messages in flight. Slot sizes about double, so that a frame wastes half of its slot at
/// most. A class that is used up borrows from larger ones.
fn arena(frames_size: usize) -> ArenaSpec {
    /// Slot size, share of the memory in 64ths.
    const SHARES: [(usize, usize); 12] = [
        // WRITE, ACCEPT, STATUS, requests and replies of up to 100 bytes.
        (256, 7),
        (512, 5),
        // Requests and replies of 1 KiB, and so on: room for headers and proofs beside round sizes.
        (KIB + 256, 5),
        (2 * KIB + 512, 4),
        (5 * KIB, 5),
        (10 * KIB, 3),
        (20 * KIB, 3),
        (40 * KIB, 3),
        (80 * KIB, 3),
        (160 * KIB, 3),
        (320 * KIB, 3),
        (LARGEST_SLOT, 20),
    ];
    let class = |(size, share): (usize, usize)| SlotClass {
        slot_size: size as u32,
        count: (frames_size / 64 * share / size).max(4) as u32,
    };
    ArenaSpec { classes: SHARES.map(class).to_vec() }
}

const _: () = assert!(LARGEST_SLOT <= BODY_SIZE_MAX);
const _: () = assert!(RESULT_SIZE_MAX + KIB <= LARGEST_SLOT);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCluster;
    use tetrarch_consensus::ReplicaId;

    #[test]
    fn the_sum_is_what_is_reserved_and_reads_well() {
        let budget = Budget::with_workers(Sizes::default(), 2);
        assert_eq!(budget.lines[0].size, budget.arena.size());
        let text = budget.to_string();
        assert!(
            text.starts_with("memory ") && text.contains("(frames for messages in flight)"),
            "{text}"
        );
        let Sizes { frames_size, decision_log_size, reply_cache_size } = Sizes::default();
        let most = frames_size + decision_log_size + reply_cache_size + 16 * MIB;
        assert!(budget.size() < most, "{} MiB", budget.size() / MIB);
        let test = TestCluster::new(4, 1, 1);
        let few = Config::new(ReplicaId(0), test.cluster.view());
        let mut many = few.clone();
        many.pending_max *= 2;
        let [few, many] = [few, many].map(|core| budget.clone().with_core(&core).size());
        assert!(budget.size() < few && few + MIB < many, "pending requests count");
        let mut taking = Config::new(ReplicaId(0), test.cluster.view());
        (taking.checkpoint_every, taking.state_size_max) = (64, 4 << 30);
        let text = budget.clone().with_core(&taking).to_string();
        assert!(text.contains("3.8 (digests while checkpoints of up to 4 GiB are"), "{text}");
        let config = LogConfig::default();
        let durable = budget.clone().with_log(Some(&config));
        assert!(durable.size() >= budget.size() + 3 * config.group_size_max);
        assert!(durable.to_string().contains("on their way to the log"), "{durable}");
        assert_eq!(budget.clone().with_log(None), budget);
    }

    #[test]
    fn every_message_fits_and_the_largest_have_several_slots() {
        for frames_size in [16 * MIB, 128 * MIB, 1024 * MIB] {
            let arena = arena(frames_size);
            let largest = arena.classes.last().expect("not empty");
            assert!(largest.slot_size as usize >= RESULT_SIZE_MAX + KIB);
            assert!(largest.count >= 4);
            assert!(arena.size() <= frames_size + 4 * 2 * MIB);
        }
    }
}
