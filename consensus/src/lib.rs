//! What order requests have: Mod-SMaRt over VP-Consensus (J. Sousa, "Byzantine State Machine
//! Replication for the Masses", 2018, chapter 3 and appendix B), as pure state machines.
//!
//! Owns the protocol: messages, agreement, the synchronisation phase, the client's side. Always
//! true: [`Protocol::step`] is a function of its inputs. Must not: perform IO, read a clock, start a
//! thread, draw random numbers, or use `unsafe`; `no_std` and the attribute below let none of them
//! be named. Rules are numbered in `docs/PROTOCOL.md` and cited where they are implemented.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod action;
pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod input;
pub mod limits;
pub mod membership;
pub mod message;
pub mod payload;
pub mod protocol;
pub mod quorum;
pub mod record;
pub mod smr;
pub mod spec;
pub mod state_machine;
pub mod types;
pub mod verified;
pub mod vp;

pub use action::{Action, Evidence, Recipients, TransferNote};
pub use batch::{Batch, Identity, RequestView, Selection, SparseBatch};
pub use checkpoint::Ordered;
pub use config::{Config, FaultModel, View};
pub use input::Input;
pub use membership::{Membership, ViewAnswer, ViewRequest};
pub use message::{Message, Request};
pub use payload::{Payload, PayloadPool};
pub use protocol::{Actions, Protocol};
pub use record::Record;
pub use state_machine::{BadSnapshot, Context, Replies, RequestValidator, StateMachine};
pub use types::{
    ClientId, ConsensusId, Digest, Epoch, Instant, Lsn, Regency, ReplicaId, ReplicaSet, Sequence,
    ViewId,
};
pub use verified::Verified;
