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

use tetrarch_consensus::limits::{
    BATCH_SIZE_MAX, DECISION_LOG_MAX, DECISION_LOG_SIZE_MAX, RESULT_SIZE_MAX,
};
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
    /// Bytes of kept replies.
    pub reply_cache_size: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { frames_size: 128 * MIB, reply_cache_size: 64 * MIB }
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
        let arena = arena(sizes.frames_size);
        let lines = vec![
            Line {
                size: arena.size(),
                what: format!(
                    "frames: {} MiB in flight and the last {DECISION_LOG_MAX} decisions (or {} MiB)",
                    sizes.frames_size / MIB,
                    DECISION_LOG_SIZE_MAX / MIB,
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

/// Slots for `in_flight` bytes of messages and the decision log. Slot sizes grow by four, so a frame
/// wastes at most three quarters of its slot; the counts give each class the share of memory in the
/// table, which adds up to 64.
fn arena(in_flight: usize) -> ArenaSpec {
    /// Slot size, share of the messages in flight in 64ths.
    const SHARES: [(usize, usize); 6] = [
        // WRITE, ACCEPT, STATUS, requests and replies of a few words.
        (256, 16),
        // Requests and replies of about 1 KiB, small proposals.
        (KIB + 512, 10),
        // Requests and replies of about 4 KiB, proposals of tens of small requests.
        (6 * KIB, 8),
        // Proposals of hundreds of small requests.
        (32 * KIB, 6),
        (192 * KIB, 8),
        // Full batches, the largest operations and results.
        (BATCH_SIZE_MAX + 16 * KIB, 16),
    ];
    let largest = SHARES.len() - 1;
    let mut classes: Vec<SlotClass> = SHARES
        .iter()
        .map(|(size, share)| {
            let share = in_flight / 64 * share;
            SlotClass { slot_size: *size as u32, count: (share / size).max(4) as u32 }
        })
        .collect();
    // The log holds as many batches of any one size as fit its bytes; most are small.
    for (at, class) in classes.iter_mut().enumerate().skip(1) {
        let below = SHARES[at - 1].0;
        let batches = DECISION_LOG_MAX.min(DECISION_LOG_SIZE_MAX / below);
        // The largest batches are few: half as many as could be, as they share the log's bytes.
        let batches = if at == largest { batches / 4 } else { batches / 2 };
        class.count += batches as u32;
    }
    ArenaSpec { classes }
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
        assert!(text.starts_with("memory ") && text.contains("frames: 128 MiB"), "{text}");
        assert!(budget.size() < 512 * MIB, "{} MiB", budget.size() / MIB);
    }

    #[test]
    fn the_largest_messages_have_a_quarter_of_the_memory() {
        // That is the reserve which clients cannot use: see `stage::network`.
        for frames_size in [16 * MIB, 128 * MIB, 1024 * MIB] {
            let arena = arena(frames_size);
            let largest = arena.classes.last().expect("not empty");
            assert!(largest.slot_size as usize * largest.count as usize * 4 >= arena.size());
            assert!(largest.slot_size as usize > BATCH_SIZE_MAX);
        }
    }
}
