//! The memory of a node as a sum that can be read.
//!
//! Owns the sizes of the arena's classes and the other reservations. Always true: what is printed at
//! start is what the node reserves; each line says why it is as large as it is. Must not: allocate.
//!
//! Frames hold what is in flight: messages on their way in and out, pending requests (their window
//! bounds them), the batches of the last decisions. Small messages use small slots and fall back to
//! larger ones; when less than a quarter of the bytes is free, ingress drops clients' requests, so
//! members are always heard.

use std::fmt;

use tetrarch_consensus::limits::{BATCH_SIZE_MAX, DECISION_LOG_SIZE_MAX, RESULT_SIZE_MAX};
use tetrarch_dataplane::arena::{ArenaSpec, SlotClass};
use tetrarch_dataplane::limits::BODY_SIZE_MAX;

use crate::stage::rings_size;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// What the memory of one node is sized by. The rest are limits of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Bytes of frames for messages in flight, besides the decision log.
    pub frames_size: usize,
    /// Encoded bytes of decisions that are kept to help others.
    pub decision_log_size: usize,
    /// Bytes of kept replies.
    pub reply_cache_size: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            frames_size: 64 * MIB,
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
    /// The sum for these sizes.
    pub fn new(sizes: Sizes) -> Self {
        let arena = arena(sizes);
        let lines = vec![
            Line {
                size: arena.size(),
                what: format!(
                    "frames: {} MiB in flight, twice {} MiB for the last decisions",
                    sizes.frames_size / MIB,
                    sizes.decision_log_size / MIB,
                ),
            },
            Line {
                size: sizes.reply_cache_size,
                what: "replies kept for repeated requests".into(),
            },
            Line { size: rings_size(), what: "rings between stages".into() },
            Line { size: RESULT_SIZE_MAX + 2 * MIB, what: "scratch, proved requests".into() },
        ];
        Self { arena, lines }
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

/// Slots for messages in flight and the decision log. Slot sizes about double, so that a frame wastes
/// half of its slot at most: hence twice the log. A class that is used up borrows from larger ones.
fn arena(sizes: Sizes) -> ArenaSpec {
    /// Slot size, share of the memory in 64ths.
    const SHARES: [(usize, usize); 12] = [
        // WRITE, ACCEPT, STATUS, requests and replies of up to 100 bytes.
        (256, 6),
        (512, 4),
        // Requests and replies of 1 KiB, and so on: room for headers and proofs beside round sizes.
        (KIB + 256, 6),
        (2 * KIB + 512, 4),
        (5 * KIB, 5),
        (10 * KIB, 4),
        (20 * KIB, 4),
        (40 * KIB, 4),
        (80 * KIB, 4),
        (160 * KIB, 4),
        (320 * KIB, 4),
        // Full batches, the largest results.
        (BATCH_SIZE_MAX + 16 * KIB, 15),
    ];
    let memory = sizes.frames_size + 2 * sizes.decision_log_size;
    let class = |(size, share): (usize, usize)| SlotClass {
        slot_size: size as u32,
        count: (memory / 64 * share / size).max(4) as u32,
    };
    ArenaSpec { classes: SHARES.map(class).to_vec() }
}

const _: () = assert!(BATCH_SIZE_MAX + 16 * KIB <= BODY_SIZE_MAX);
const _: () = assert!(RESULT_SIZE_MAX + KIB <= BATCH_SIZE_MAX + 16 * KIB);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_what_is_reserved_and_reads_well() {
        let budget = Budget::new(Sizes::default());
        assert_eq!(budget.lines[0].size, budget.arena.size());
        let text = budget.to_string();
        assert!(text.starts_with("memory ") && text.contains("64 MiB in flight"), "{text}");
        let Sizes { frames_size, decision_log_size, reply_cache_size } = Sizes::default();
        let most = frames_size + 2 * decision_log_size + reply_cache_size + 16 * MIB;
        assert!(budget.size() < most, "{} MiB", budget.size() / MIB);
    }

    #[test]
    fn the_largest_messages_have_the_memory_that_clients_cannot_use() {
        // Messages fill classes from the small ones up, and clients are held back when less than a
        // quarter is free (`stage::network`): by then the two largest classes are all there is.
        for frames_size in [16 * MIB, 128 * MIB, 1024 * MIB] {
            let arena = arena(Sizes { frames_size, ..Sizes::default() });
            let large = arena.classes.iter().rev().take(2);
            let large: usize = large.map(|c| c.slot_size as usize * c.count as usize).sum();
            assert!(large * 4 >= arena.size(), "{frames_size}");
            let largest = arena.classes.last().expect("not empty").slot_size;
            assert!(largest as usize > BATCH_SIZE_MAX);
        }
    }
}
