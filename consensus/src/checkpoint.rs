//! The core's share of a checkpoint: what all correct replicas agree on at a position beside the
//! application.
//!
//! Owns its form. Always true: it is a function of the decisions up to its instance, so its bytes are equal
//! at all correct replicas; no bytes make reading panic, or allocate more than their own size. Must
//! not: hold anything of one replica alone (its promises are in a [`Base`](crate::record::Base)).
//!
//! | size | little endian |
//! |---|---|
//! | 4 | view |
//! | 4 | decisions, at most 64 |
//! | 8 | instance |
//! | 8 | the application's time at the instance, ns since the UNIX epoch |
//! | 8 | sessions |
//! | 32 x decisions | digests of what was decided, the newest first |
//! | 16 x sessions | client 8, last executed request 8; clients ascending |
//! | 1 | may views follow each other? 0 or 1; if so: |
//! | 8 | the first instance of the view |
//! | | its [membership with its signature](crate::membership), which is zero in the first view |
//! | 1 | was another one accepted? 0 or 1; if so: |
//! | 8 + | the last instance of this view, the next membership with its signature |

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::limits::{DEPTH_MAX, decisions_told};
use crate::membership::ViewRequest;
use crate::message::Malformed;
use crate::message::codec::fields::{Reader, Writer};
use crate::spec;
use crate::types::{ClientId, ConsensusId, Digest, Sequence, ViewId};

const FIXED_SIZE: usize = 32;
const SESSION_SIZE: usize = 16;

/// A view that was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ending {
    /// The last instance of the view before.
    pub last: ConsensusId,
    /// What rules behind it.
    pub next: ViewRequest,
}

/// Which members an instance belongs to, where that can change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruled {
    /// Of the instance's view, signed but for the first.
    pub request: ViewRequest,
    /// The first instance of that view.
    pub since: ConsensusId,
    /// What comes next, as far as known at the instance, which may be the last one.
    pub ending: Option<Ending>,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ordered {
    /// Membership.
    pub view: ViewId,
    /// The last instance that was executed.
    pub cid: ConsensusId,
    /// The application's time then, in ns since the UNIX epoch.
    pub timestamp_ns: u64,
    /// What was decided in `cid` and the instances before it, the newest first: two for each instance
    /// of the depth, or all there are.
    pub decisions: Vec<Digest>,
    /// Last executed request of each session that has one, clients ascending.
    pub sessions: Vec<(ClientId, Sequence)>,
    /// Its view's membership, if views may follow each other (rule VIEW.1).
    pub ruled: Option<Box<Ruled>>,
}

impl Ordered {
    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        spec!("CKP.1");
        assert!(self.decisions.len() <= decisions_told(DEPTH_MAX), "two for each open instance");
        let start = out.len();
        let size = FIXED_SIZE
            + size_of::<Digest>() * self.decisions.len()
            + SESSION_SIZE * self.sessions.len();
        out.resize(start + size, 0);
        let mut writer = Writer::new(&mut out[start..]);
        writer.u32(self.view.0);
        writer.u32(self.decisions.len() as u32);
        writer.u64(self.cid.0);
        writer.u64(self.timestamp_ns);
        writer.u64(self.sessions.len() as u64);
        for digest in &self.decisions {
            writer.bytes(&digest.0);
        }
        for (client, executed) in &self.sessions {
            writer.u64(client.0);
            writer.u64(executed.0);
        }
        encode_ruled(self.ruled.as_deref(), out);
    }

    /// Reads what [`Ordered::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let (view, told) = (ViewId(reader.u32()?), reader.u32()? as usize);
        let (cid, timestamp_ns) = (ConsensusId(reader.u64()?), reader.u64()?);
        let count = usize::try_from(reader.u64()?).map_err(|_| Malformed::TooMany)?;
        if told > decisions_told(DEPTH_MAX) {
            return Err(Malformed::TooMany);
        }
        if count > reader.left() / SESSION_SIZE {
            return Err(Malformed::Truncated);
        }
        let mut decisions = Vec::with_capacity(told);
        for _ in 0..told {
            decisions.push(reader.digest()?);
        }
        let mut sessions: Vec<(ClientId, Sequence)> = Vec::with_capacity(count);
        for _ in 0..count {
            let (client, executed) = (ClientId(reader.u64()?), Sequence(reader.u64()?));
            let ascends = sessions.last().is_none_or(|(last, _)| last.0 < client.0);
            if !ascends || executed == Sequence::NONE {
                return Err(Malformed::Inconsistent);
            }
            sessions.push((client, executed));
        }
        let ruled = read_ruled(&mut reader)?;
        reader.end()?;
        Ok(Self { view, cid, timestamp_ns, decisions, sessions, ruled })
    }
}

fn encode_ruled(ruled: Option<&Ruled>, out: &mut Vec<u8>) {
    out.push(u8::from(ruled.is_some()));
    let Some(ruled) = ruled else {
        return;
    };
    out.extend_from_slice(&ruled.since.0.to_le_bytes());
    ruled.request.encode(out);
    out.push(u8::from(ruled.ending.is_some()));
    if let Some(ending) = &ruled.ending {
        out.extend_from_slice(&ending.last.0.to_le_bytes());
        ending.next.encode(out);
    }
}

fn read_ruled(reader: &mut Reader<'_>) -> Result<Option<Box<Ruled>>, Malformed> {
    if !reader.boolean()? {
        return Ok(None);
    }
    let since = ConsensusId(reader.u64()?);
    let request = ViewRequest::read(reader)?;
    let ending = match reader.boolean()? {
        false => None,
        true => {
            let last = ConsensusId(reader.u64()?);
            Some(Ending { last, next: ViewRequest::read(reader)? })
        }
    };
    Ok(Some(Box::new(Ruled { request, since, ending })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FaultModel;
    use crate::membership::{Member, Membership};
    use crate::types::ReplicaId;
    use alloc::string::String;
    use proptest::prelude::*;

    fn ruled(ending: bool) -> Box<Ruled> {
        let membership = |view| {
            let member = |id| Member {
                id: ReplicaId(id),
                address: String::from("a:1"),
                static_key: [1; 32],
                signing_key: [2; 32],
            };
            let members = (0..4).map(member).collect();
            let next = Membership::new(7, ViewId(view), 1, FaultModel::Byzantine, members);
            ViewRequest { next: next.expect("possible"), signature: [view as u8; 64] }
        };
        let ending = ending.then(|| Ending { last: ConsensusId(9), next: membership(4) });
        Box::new(Ruled { request: membership(3), since: ConsensusId(2), ending })
    }

    fn ordered(decisions: usize, sessions: u64) -> Ordered {
        Ordered {
            view: ViewId(3),
            cid: ConsensusId(1 << 40),
            timestamp_ns: 77,
            decisions: (0..decisions).map(|at| Digest([at as u8; 32])).collect(),
            sessions: (0..sessions).map(|at| (ClientId(3 * at), Sequence(at + 1))).collect(),
            ruled: (sessions > 0).then(|| ruled(sessions > 1)),
        }
    }

    // rule: CKP.1
    #[test]
    fn it_comes_back_as_it_was_and_nothing_else_is_one() {
        for (decisions, sessions) in [(0, 0), (2, 1), (64, 5)] {
            let ordered = ordered(decisions, sessions);
            let mut bytes = Vec::new();
            ordered.encode(&mut bytes);
            assert_eq!(Ordered::decode(&bytes).as_ref(), Ok(&ordered));
            for end in 0..bytes.len() {
                assert!(Ordered::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
            bytes.push(0);
            assert_eq!(Ordered::decode(&bytes), Err(Malformed::Trailing));
        }
        let mut twice = ordered(0, 2);
        twice.sessions[1].0 = twice.sessions[0].0;
        let mut bytes = Vec::new();
        twice.encode(&mut bytes);
        assert_eq!(Ordered::decode(&bytes), Err(Malformed::Inconsistent));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8),
        ) {
            let mut bytes = Vec::new();
            ordered(3, 4).encode(&mut bytes);
            for (place, value) in changes {
                let place = usize::from(place) % bytes.len();
                bytes[place] = value;
            }
            if let Ok(read) = Ordered::decode(&bytes) {
                let mut again = Vec::new();
                read.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
