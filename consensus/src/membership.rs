//! What a view is to everybody: members with their addresses and keys, as values and as the bytes that
//! the View Manager signs.
//!
//! Owns the form of a [`Membership`], of the View Manager's request for the next one and of the answer to
//! it, and which steps from one to the next are allowed. Always true: one membership has one encoding,
//! its members ascend by id, and it is possible ([`View::new`]); no bytes make reading panic, or allocate
//! more than their own size. Must not: verify signatures (ingress does), or know when a view ends.
//!
//! | size | membership, little endian |
//! |---|---|
//! | 8 | cluster |
//! | 4 | view |
//! | 2 | f |
//! | 1 | fault model: 0 Byzantine, 1 crash |
//! | 1 | members, at most 64; then each of them, ascending by id |
//!
//! | size | member |
//! |---|---|
//! | 2 | id |
//! | 1 | size of the address |
//! | 1 | zero |
//! | 32 | static key |
//! | 32 | signing key |
//! | | address |
//!
//! | size | request of the View Manager: the operation of a REQUEST |
//! |---|---|
//! | 64 | signature, of [`VIEW_PREFIX`] and the rest |
//! | | membership |
//!
//! | size | answer: the result of its REPLY |
//! |---|---|
//! | 1 | [`code`] |
//! | 3 | zero |
//! | 4 | view |
//! | 8 | a number, by code |

mod step;

#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;

pub use step::{RefusedView, ViewAnswer, code};

use crate::config::{FaultModel, View};
use crate::limits::{ADDRESS_SIZE_MAX, REPLICAS_MAX, SIGNATURE_SIZE};
use crate::message::Malformed;
use crate::message::codec::fields::{Reader, Writer};
use crate::spec;
use crate::types::{ClientId, ReplicaId, ViewId};

/// What the bytes that the View Manager signs begin with: so no other signature can be taken for one of
/// a membership, whatever the keys.
pub const VIEW_PREFIX: [u8; 32] = *b"tetrarch v1 next view\0\0\0\0\0\0\0\0\0\0\0";

/// The client identity of the View Manager: the last one that links can name, and never in a cluster's
/// list of clients.
pub const VIEW_MANAGER: u32 = u32::MAX >> 1;

const HEAD_SIZE: usize = 16;
const MEMBER_SIZE: usize = 68;

/// Encoded bytes of a membership at most.
pub const MEMBERSHIP_SIZE_MAX: usize = HEAD_SIZE + REPLICAS_MAX * (MEMBER_SIZE + ADDRESS_SIZE_MAX);

/// Encoded bytes of a [`ViewRequest`] at most.
pub const VIEW_REQUEST_SIZE_MAX: usize = SIGNATURE_SIZE + MEMBERSHIP_SIZE_MAX;

/// Is this a session of the View Manager?
pub fn is_view_manager(client: ClientId) -> bool {
    client.identity() == VIEW_MANAGER
}

/// A member as everybody has to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its stable id.
    pub id: ReplicaId,
    /// Where others reach it: text for the transport, 1 to [`ADDRESS_SIZE_MAX`] bytes without control
    /// characters.
    pub address: String,
    /// Proves who it is on links, and shares keys with clients (X25519).
    pub static_key: [u8; 32],
    /// Verifies the states that it signs (Ed25519).
    pub signing_key: [u8; 32],
}

/// A view with everything that its members and clients have to know of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    cluster: u64,
    view: View,
    members: Vec<Member>,
}

impl Membership {
    /// View `view` of `cluster` with `members` (in any order), of which `f` may be faulty.
    ///
    /// # Errors
    /// [`Malformed::TooMany`]: the members are more than [`REPLICAS_MAX`]. [`Malformed::TooLong`]: an
    /// address is empty or too long. [`Malformed::Reserved`]: an address has control characters.
    /// [`Malformed::Inconsistent`]: an id is listed twice, or so many members cannot tolerate `f` faults.
    pub fn new(
        cluster: u64,
        view: ViewId,
        f: usize,
        model: FaultModel,
        mut members: Vec<Member>,
    ) -> Result<Self, Malformed> {
        spec!("VIEW.1");
        if members.len() > REPLICAS_MAX {
            return Err(Malformed::TooMany);
        }
        for member in &members {
            if !(1..=ADDRESS_SIZE_MAX).contains(&member.address.len()) {
                return Err(Malformed::TooLong);
            }
            if member.address.chars().any(char::is_control) {
                return Err(Malformed::Reserved);
            }
        }
        members.sort_unstable_by_key(|member| member.id);
        let ids = members.iter().map(|member| member.id).collect();
        let view = View::new(view, ids, f, model).map_err(|_| Malformed::Inconsistent)?;
        Ok(Self { cluster, view, members })
    }

    /// Of which cluster.
    pub fn cluster(&self) -> u64 {
        self.cluster
    }

    /// Who votes, and all thresholds.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Which view.
    pub fn id(&self) -> ViewId {
        self.view.id()
    }

    /// The members, ascending by id: in the order of their places in the view.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member with this id.
    pub fn member(&self, id: ReplicaId) -> Option<&Member> {
        self.view.index_of(id).map(|index| &self.members[index])
    }

    /// Bytes of [`Membership::encode`].
    pub fn encoded_size(&self) -> usize {
        let addresses: usize = self.members.iter().map(|member| member.address.len()).sum();
        HEAD_SIZE + MEMBER_SIZE * self.members.len() + addresses
    }

    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.encoded_size(), 0);
        let mut writer = Writer::new(&mut out[start..]);
        let quorums = self.view.quorums();
        writer.u64(self.cluster);
        writer.u32(self.view.id().0);
        writer.u16(quorums.f() as u16);
        writer.u8(u8::from(quorums.model() == FaultModel::Crash));
        writer.u8(self.members.len() as u8);
        for member in &self.members {
            writer.u16(member.id.0);
            writer.u8(member.address.len() as u8);
            writer.zeros(1);
            writer.bytes(&member.static_key);
            writer.bytes(&member.signing_key);
            writer.bytes(member.address.as_bytes());
        }
    }

    /// Reads what [`Membership::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong, as for [`Membership::new`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        spec!("VIEW.1");
        let mut reader = Reader::new(bytes);
        let membership = Self::read(&mut reader)?;
        reader.end()?;
        Ok(membership)
    }

    /// As [`Membership::decode`], with something behind it.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let cluster = reader.u64()?;
        let (view, f) = (ViewId(reader.u32()?), usize::from(reader.u16()?));
        let model = match reader.boolean()? {
            false => FaultModel::Byzantine,
            true => FaultModel::Crash,
        };
        let count = usize::from(reader.u8()?);
        if count > REPLICAS_MAX {
            return Err(Malformed::TooMany);
        }
        let mut members: Vec<Member> = Vec::with_capacity(count);
        for _ in 0..count {
            let member = Self::read_member(reader)?;
            if members.last().is_some_and(|last| last.id >= member.id) {
                return Err(Malformed::Inconsistent);
            }
            members.push(member);
        }
        Self::new(cluster, view, f, model, members)
    }

    fn read_member(reader: &mut Reader<'_>) -> Result<Member, Malformed> {
        let id = ReplicaId(reader.u16()?);
        let size = usize::from(reader.u8()?);
        reader.zeros(1)?;
        let (static_key, signing_key) = (reader.array()?, reader.array()?);
        let text = reader.slice(size)?;
        let address = core::str::from_utf8(text).map_err(|_| Malformed::Unknown)?;
        Ok(Member { id, address: String::from(address), static_key, signing_key })
    }
}

/// A membership that the View Manager wants, or wanted: whoever has its public key can check it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewRequest {
    /// All of the next view.
    pub next: Membership,
    /// Ed25519 of the View Manager, of [`ViewRequest::signed_bytes`].
    pub signature: [u8; SIGNATURE_SIZE],
}

impl ViewRequest {
    /// The bytes under the signature for `next`.
    pub fn signed_bytes(next: &Membership) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(VIEW_PREFIX.len() + next.encoded_size());
        bytes.extend_from_slice(&VIEW_PREFIX);
        next.encode(&mut bytes);
        bytes
    }

    /// Appends the bytes to `out`: the operation of the View Manager's REQUEST.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.signature);
        self.next.encode(out);
    }

    /// Reads what [`ViewRequest::encode`] wrote, and nothing else. The signature is not checked.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        spec!("VIEW.1");
        let mut reader = Reader::new(bytes);
        let request = Self::read(&mut reader)?;
        reader.end()?;
        Ok(request)
    }

    /// As [`ViewRequest::decode`], with something behind it.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let signature = reader.array()?;
        Ok(Self { next: Membership::read(reader)?, signature })
    }
}
