//! From one membership to the next: which steps are allowed, and what the View Manager is told.
//!
//! Owns the rule of the step and the answer's form. Always true: the judgement is a function of the two
//! memberships, so it is the same at all members. Must not: know when a view ends.

use core::fmt;

use crate::config::FaultModel;
use crate::membership::Membership;
use crate::message::Malformed;
use crate::message::codec::fields::{Reader, Writer};
use crate::spec;
use crate::types::{ConsensusId, ViewId};

/// What an answer's code says.
pub mod code {
    /// The view named will rule behind the instance whose number follows.
    pub const ACCEPTED: u8 = 0;
    /// The membership asked for is not the next one: the view named rules.
    pub const NOT_NEXT: u8 = 1;
    /// The view named is about to rule: ask again when it does.
    pub const UNDER_WAY: u8 = 2;
    /// It is of another cluster. A view rules as before.
    pub const OTHER_CLUSTER: u8 = 3;
    /// It is of another fault model.
    pub const OTHER_MODEL: u8 = 4;
    /// Too few members stay: as many as the number that follows have to.
    pub const TOO_FEW_STAY: u8 = 5;
    /// The operation is no request for a view.
    pub const MALFORMED: u8 = 6;
}

/// Why a view is not followed by the one asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedView {
    /// It is not the next view: this one rules, so the next one is one more.
    NotNext(ViewId),
    /// This view was accepted and does not rule yet.
    UnderWay(ViewId),
    /// It is of another cluster.
    OtherCluster,
    /// It is of another fault model.
    OtherModel,
    /// Too few members stay.
    TooFewStay {
        /// How many have to.
        needed: usize,
    },
    /// It cannot be read.
    Malformed,
}

impl fmt::Display for RefusedView {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNext(view) => write!(
                out,
                "view {view} rules, so only a request for the view after it counts: look at the \
                 current view and ask again"
            ),
            Self::UnderWay(view) => {
                write!(out, "the change to view {view} is under way: ask again when it rules")
            }
            Self::OtherCluster => out.write_str("the request is for another cluster"),
            Self::OtherModel => out.write_str("the fault model of a cluster cannot change"),
            Self::TooFewStay { needed } => write!(
                out,
                "at least {needed} members of the current view have to stay: go in smaller steps"
            ),
            Self::Malformed => out.write_str("the request cannot be read"),
        }
    }
}

impl core::error::Error for RefusedView {}

impl Membership {
    /// May `next` follow this view directly? Members may come, go, and change address and keys; f may
    /// change; but so many members stay that, without the faulty ones of this view, they are more than may
    /// be faulty in the next.
    ///
    /// # Errors
    /// [`RefusedView`] says why not.
    pub fn check_next(&self, next: &Membership) -> Result<(), RefusedView> {
        spec!("VIEW.2");
        if next.cluster() != self.cluster() {
            return Err(RefusedView::OtherCluster);
        }
        if self.id().0.checked_add(1) != Some(next.id().0) {
            return Err(RefusedView::NotNext(self.id()));
        }
        let model = |membership: &Membership| membership.view().quorums().model();
        if model(self) != model(next) {
            return Err(RefusedView::OtherModel);
        }
        let needed = self.stay_needed(next);
        if self.staying(next) < needed {
            return Err(RefusedView::TooFewStay { needed });
        }
        Ok(())
    }

    /// Members of this view that are in `next`, too.
    pub fn staying(&self, next: &Membership) -> usize {
        self.members().iter().filter(|member| next.member(member.id).is_some()).count()
    }

    /// How many members have to stay in a step to `next`.
    pub fn stay_needed(&self, next: &Membership) -> usize {
        self.view().quorums().stay(next.view().quorums())
    }

    /// Which faults are tolerated.
    pub fn model(&self) -> FaultModel {
        self.view().quorums().model()
    }
}

/// What the View Manager is told, as the result of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ViewAnswer {
    /// The view asked for rules behind an instance.
    Accepted {
        /// That view.
        view: ViewId,
        /// The last instance of the view before.
        last: ConsensusId,
    },
    /// Nothing changes.
    Refused(RefusedView),
}

impl ViewAnswer {
    /// Encoded bytes.
    pub const SIZE: usize = 16;

    /// As bytes.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let (code, view, number) = match self {
            Self::Accepted { view, last } => (code::ACCEPTED, view, last.0),
            Self::Refused(refused) => match refused {
                RefusedView::NotNext(view) => (code::NOT_NEXT, view, 0),
                RefusedView::UnderWay(view) => (code::UNDER_WAY, view, 0),
                RefusedView::OtherCluster => (code::OTHER_CLUSTER, ViewId(0), 0),
                RefusedView::OtherModel => (code::OTHER_MODEL, ViewId(0), 0),
                RefusedView::TooFewStay { needed } => {
                    (code::TOO_FEW_STAY, ViewId(0), needed as u64)
                }
                RefusedView::Malformed => (code::MALFORMED, ViewId(0), 0),
            },
        };
        let mut bytes = [0; Self::SIZE];
        let mut writer = Writer::new(&mut bytes);
        writer.u8(code);
        writer.zeros(3);
        writer.u32(view.0);
        writer.u64(number);
        bytes
    }

    /// Reads what [`ViewAnswer::to_bytes`] made, and nothing else.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let code = reader.u8()?;
        reader.zeros(3)?;
        let (view, number) = (ViewId(reader.u32()?), reader.u64()?);
        reader.end()?;
        let refused = match code {
            code::ACCEPTED => return Ok(Self::Accepted { view, last: ConsensusId(number) }),
            code::NOT_NEXT => RefusedView::NotNext(view),
            code::UNDER_WAY => RefusedView::UnderWay(view),
            code::OTHER_CLUSTER => RefusedView::OtherCluster,
            code::OTHER_MODEL => RefusedView::OtherModel,
            code::TOO_FEW_STAY => {
                let needed = usize::try_from(number).map_err(|_| Malformed::TooLong)?;
                RefusedView::TooFewStay { needed }
            }
            code::MALFORMED => RefusedView::Malformed,
            _ => return Err(Malformed::Unknown),
        };
        let answer = Self::Refused(refused);
        if answer.to_bytes() != *bytes {
            return Err(Malformed::Reserved);
        }
        Ok(answer)
    }
}
