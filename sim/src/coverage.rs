//! What happened how often, so that a simulator that exercises nothing is visible.

use std::collections::BTreeMap;
use std::fmt;

use tetrarch_consensus::message::{RefuseReason, ReplicaState};
use tetrarch_consensus::quorum::Quorums;
use tetrarch_consensus::vp::safe_value::{Choice, choose};
use tetrarch_consensus::{Evidence, Message};

use crate::byzantine::Msg;

/// Named counters.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// Counts one of `name`.
    pub fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// Counts `number` of `name`.
    pub fn add(&mut self, name: &'static str, number: u64) {
        *self.counts.entry(name).or_default() += number;
    }

    /// How many of `name`.
    pub fn get(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Coverage) {
        for (name, count) in &other.counts {
            self.add(name, *count);
        }
    }

    /// Counts what an honest member sends.
    pub fn sent(&mut self, message: &Msg, quorums: Quorums, depth: usize) {
        match message {
            Message::Forwarded(_) => self.count("sent FORWARDED"),
            Message::Propose(_) => self.count("sent PROPOSE"),
            Message::ProposeSparse(_) => self.count("sent PROPOSE without bodies"),
            Message::Write(_) => self.count("sent WRITE"),
            Message::Accept(_) => self.count("sent ACCEPT"),
            Message::Refuse(refuse) => {
                self.count("sent REFUSE");
                if refuse.reason == RefuseReason::Clock {
                    self.count("refusals because of a clock");
                }
            }
            Message::Stop(_) => self.count("sent STOP"),
            Message::StopData(_) => self.count("sent STOPDATA"),
            Message::Sync(sync) => {
                self.count("sent SYNC");
                let states: Vec<ReplicaState> =
                    sync.states.iter().map(|signed| signed.state.clone()).collect();
                if let Choice::Resume(resume) = choose(&states, quorums, depth) {
                    match resume.bound.len() {
                        0 => self.count("syncs with nothing bound"),
                        1 => self.count("syncs with one level bound"),
                        2 => self.count("syncs with several levels bound"),
                        _ => {
                            self.count("syncs with several levels bound");
                            self.count("syncs with more than two levels bound");
                        }
                    }
                }
            }
            Message::Status(_) => self.count("sent STATUS"),
            Message::Fetch(_) => self.count("sent FETCH"),
            Message::Decided(_) => self.count("sent DECIDED"),
            Message::FetchBatch(_) => self.count("sent FETCH_BATCH"),
            Message::BatchBody(_) => self.count("sent BATCH_BODY"),
            Message::FetchBodies(_) => self.count("sent FETCH_BODIES"),
            Message::Bodies(_) => self.count("sent BODIES"),
            Message::FetchState(_) => self.count("sent FETCH_STATE"),
            Message::StateOffer(_) => self.count("sent STATE_OFFER"),
            Message::FetchChunks(_) => self.count("sent FETCH_CHUNKS"),
            Message::Chunk(_) => self.count("sent CHUNK"),
        }
    }

    /// Counts evidence by its kind.
    pub fn evidence(&mut self, evidence: &Evidence) {
        self.count(match evidence {
            Evidence::Equivocation { .. } => "evidence of equivocation",
            Evidence::InvalidProposal { .. } => "evidence of an invalid proposal",
            Evidence::HalfValidProof { .. } => "evidence of a half-valid proof",
            Evidence::IncompleteProposal { .. } => "evidence of an incomplete proposal",
            Evidence::FalseChunk { .. } => "evidence of a false chunk",
            Evidence::FalseOffer { .. } => "evidence of a false offer",
            Evidence::InvalidSynchronization { .. } => "evidence of an invalid synchronisation",
        });
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.counts {
            writeln!(f, "{count:>12} {name}")?;
        }
        Ok(())
    }
}
