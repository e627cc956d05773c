//! Why messages of members had no effect, counted.
//!
//! Owns the counters. Always true: they only grow. Must not: change what happens to a message.

/// Why a message of a member had no effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Ignored {
    /// The sender is not a member of the view, or claims to be this replica.
    NotMember,
    /// It belongs to another view.
    OtherView,
    /// It belongs to an instance, epoch or regency that is over.
    Stale,
    /// Only the leader may say this.
    NotLeader,
    /// It contradicts an earlier message of the same member.
    Contradiction,
    /// It does not hold together.
    Invalid,
    /// It was not asked for.
    NotNeeded,
}

impl Ignored {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Ignored; 7] = [
        Ignored::NotMember,
        Ignored::OtherView,
        Ignored::Stale,
        Ignored::NotLeader,
        Ignored::Contradiction,
        Ignored::Invalid,
        Ignored::NotNeeded,
    ];
}

/// How many messages were ignored, by reason.
#[derive(Clone, Copy, Default, Debug)]
pub struct IgnoredCounts([u64; Ignored::ALL.len()]);

impl IgnoredCounts {
    /// How many for this reason.
    pub fn get(&self, reason: Ignored) -> u64 {
        self.0[reason as usize]
    }

    pub(crate) fn add(&mut self, reason: Ignored) {
        let count = &mut self.0[reason as usize];
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let mut counts = IgnoredCounts::default();
        for (number, reason) in Ignored::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            for _ in 0..=number {
                counts.add(reason);
            }
        }
        for (number, reason) in Ignored::ALL.into_iter().enumerate() {
            assert_eq!(counts.get(reason), number as u64 + 1);
        }
    }
}
