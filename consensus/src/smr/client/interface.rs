//! What goes into the client core and what comes out of it.
//!
//! Owns names and units. Always true: no value here holds a key, a link or a clock. Must not: decide.

use core::fmt;

use super::*;
use crate::membership::ViewRequest;
use crate::verified::Verified;

/// How a client proves the ordered requests that it sends first (rule CLI.4). What it sends again is
/// signed in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Authentication {
    /// A MAC for each member: cheap, but each member can check its own entry only.
    #[default]
    MacVector,
    /// An Ed25519 signature, which everybody can check.
    Signature,
}

/// Who sends results in full (rule CLI.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplyForm {
    /// One member that the client names; the others send the digest.
    #[default]
    Digest,
    /// Every member.
    Full,
}

/// What a client is told when it starts.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Index in the cluster's client list.
    pub identity: u32,
    /// At least 1, and larger than at any earlier start of this client: replicas take requests of
    /// an older incarnation for repetitions.
    pub incarnation: u32,
    /// The membership at the start. Later ones are followed (rule CLI.12).
    pub view: View,
    /// The cluster's request timeout. Requests are sent again after half of it (rule TIME.6).
    pub request_timeout: Duration,
    /// Sessions at most; their numbers are below this.
    pub sessions_max: u32,
    /// Ordered requests of a session in flight at most, and as many read-only ones. At most
    /// [`SESSION_WINDOW`], more is taken for that.
    pub window: usize,
    /// How first transmissions are proved.
    pub authentication: Authentication,
    /// Who sends results in full. Custom matching needs all of them in full, whatever this says.
    pub reply: ReplyForm,
    /// Bytes of whole results that wait for a certificate at most. What does not fit is asked for
    /// again when there is one.
    pub kept_size_max: usize,
}

/// How an operation is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// In an order that all replicas agree on.
    Ordered,
    /// From the current state of each replica; must change nothing. Ordered when the replicas'
    /// answers differ.
    ReadOnly,
}

/// Why an operation was not taken. Nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Busy {
    /// The session has as much in flight as it may; try again after a completion.
    Window,
    /// There is no memory for the request; try again after a completion.
    Memory,
    /// The replicas have no room for more of this session at present; try again after a completion.
    Overload,
    /// The operation is larger than [`OPERATION_SIZE_MAX`].
    OperationSize,
    /// The session's number is not below the number of sessions.
    Session,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window => f.write_str("the session's window is full"),
            Self::Memory => f.write_str("no memory is free for the request"),
            Self::Overload => f.write_str("the replicas are overloaded"),
            Self::OperationSize => {
                write!(f, "the operation is larger than {OPERATION_SIZE_MAX} bytes")
            }
            Self::Session => f.write_str("the session's number is too large"),
        }
    }
}

impl core::error::Error for Busy {}

/// One event.
#[derive(Clone, Debug)]
pub enum ClientInput<P> {
    /// An operation; answered by [`ClientAction::Invoked`]. A driver that wants the answer at once
    /// calls [`ClientCore::invoke`].
    Invoke {
        /// In which session.
        session: u32,
        /// How.
        mode: Mode,
        /// What: opaque.
        operation: P,
        /// Comes back in the answer.
        token: u64,
    },
    /// A reply came over the link of `from`.
    Reply {
        /// Whose link.
        from: ReplicaId,
        /// What.
        reply: Reply<P>,
    },
    /// A member said over its link that it is in a later view, in a reply that is [`Status::Outdated`]. The
    /// View Manager's signature was checked, and that the membership is of this cluster.
    News {
        /// Whose link.
        from: ReplicaId,
        /// The membership.
        news: Box<Verified<ViewRequest>>,
    },
    /// `now` has reached `next_deadline()`.
    Deadline,
    /// A link to a member was made (again): what was sent before may be lost.
    Connected(ReplicaId),
    /// The link to a member is gone.
    Disconnected(ReplicaId),
}

/// To whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// Every member.
    All,
    /// One member.
    One(ReplicaId),
}

/// How an operation ended.
#[derive(Clone, Debug)]
pub enum Outcome<P> {
    /// It was executed: the result.
    Done(P),
    /// It was executed, but there is no result to be had: it is larger than a reply may be, or the
    /// operation was executed so long ago that no replica keeps it.
    Forgotten,
    /// It was not and will not be executed: it is not a command of the service, its session may not
    /// exist, or an earlier operation of its session was refused.
    Refused,
}

/// One duty of the driver.
#[derive(Clone, Debug)]
pub enum ClientAction<P> {
    /// Transmit a request.
    Send {
        /// To whom.
        to: To,
        /// Session, for the link header.
        client: ClientId,
        /// Body of the request: the driver adds the proof.
        body: P,
        /// Prove it by a signature? Otherwise by a MAC for each member (rule CLI.4).
        sign: bool,
    },
    /// The answer to [`ClientInput::Invoke`].
    Invoked {
        /// Of the input.
        token: u64,
        /// Names the operation.
        result: Result<Ticket, Busy>,
    },
    /// An operation ended. Its ticket may now name another one.
    Completed {
        /// Which.
        ticket: Ticket,
        /// In which session.
        session: u32,
        /// How.
        outcome: Outcome<P>,
    },
    /// The client is in this view from now on. What the driver was given before has to be dropped:
    /// all of it that is still wanted comes again. Links to the members of before may go.
    Followed {
        /// Who the members are.
        membership: Box<ViewRequest>,
    },
    /// The service told a session something that it did not ask for.
    Notice(Notice),
    /// So many members are in a later membership that one correct one is, and this client has not
    /// followed: not yet, or for want of what [`ClientInput::News`] tells. Comes once for each later
    /// membership.
    Outdated {
        /// The membership that they are in at least.
        view: ViewId,
    },
}

/// How far an operation in flight is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    /// Members that answered.
    pub members: usize,
    /// Members in the view.
    pub of: usize,
    /// Equal answers needed.
    pub needed: usize,
}
