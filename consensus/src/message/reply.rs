//! A replica's answer to a request, as bytes.
//!
//! Owns the body of REPLY. Always true: the body says nothing about the replica that sent it, so
//! equal answers of different replicas are equal bytes with equal digests, and a client can match
//! replies by the digest that the link has checked already (rule CLI.2); a reply that is only a
//! digest counts as the one it is the digest of. Must not: authenticate.
//!
//! | offset | size | |
//! |---|---|---|
//! | 0 | 8 | client |
//! | 8 | 8 | sequence |
//! | 16 | 4 | view of the replica |
//! | 20 | 2 | flags: bit 0 read-only, bit 1 digest, the rest zero |
//! | 22 | 1 | status |
//! | 23 | 1 | reserved, zero |
//! | 24 | 4 | result size |
//! | 28 | 4 | reserved, zero |
//! | 32 | | result; with bit 1, the digest of the reply that says the same with the result |

use super::codec::fields::Reader;
use crate::limits::{NOTICE_SIZE_MAX, NOTICES_MAX, RESULT_SIZE_MAX};
use crate::message::Malformed;
use crate::payload::Payload;
use crate::types::{ClientId, ConsensusId, Digest, Sequence, ViewId};

/// Bytes of a reply's body before its result.
pub const REPLY_HEADER_SIZE: usize = 32;

const REPLY_READ_ONLY: u16 = 1;
const REPLY_DIGEST: u16 = 2;
const DIGEST_SIZE: usize = size_of::<Digest>();

/// Bytes of the body of a reply that is only a digest.
pub const DIGEST_REPLY_SIZE: usize = REPLY_HEADER_SIZE + DIGEST_SIZE;

/// How a request went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Executed; the result is the service's.
    Ok,
    /// Executed before, and its reply is no longer kept. No result.
    TooOld,
    /// Not executed, and never will be: it is not a command of the service, or its session may not
    /// exist. No result.
    Refused,
    /// Not taken for lack of room; asking again later can help. No result.
    Busy,
    /// Executed, but the result is larger than a reply may be. No result.
    TooLarge,
    /// Not taken: it names an earlier view than the replica's, whose signed membership is the result (rule
    /// CLI.11).
    Outdated,
    /// No answer: what the service tells a session that did not ask (rule CLI.13). In place of the sequence is the
    /// number of the notice.
    Notice,
}

impl Status {
    fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::TooOld => 1,
            Self::Refused => 2,
            Self::Busy => 3,
            Self::TooLarge => 4,
            Self::Outdated => 5,
            Self::Notice => 6,
        }
    }

    fn has_result(self) -> bool {
        matches!(self, Self::Ok | Self::Outdated | Self::Notice)
    }

    fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            0 => Ok(Self::Ok),
            1 => Ok(Self::TooOld),
            2 => Ok(Self::Refused),
            3 => Ok(Self::Busy),
            4 => Ok(Self::TooLarge),
            5 => Ok(Self::Outdated),
            6 => Ok(Self::Notice),
            _ => Err(Malformed::Unknown),
        }
    }
}

/// Which notice: grows over all notices of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NoticeNumber(pub u64);

impl NoticeNumber {
    /// Notice `index`, below [`NOTICES_MAX`], of those that the batch of an instance gave rise to.
    pub fn new(cid: ConsensusId, index: usize) -> Self {
        debug_assert!(index < NOTICES_MAX, "the service was told that there is no room");
        Self(cid.0 << 16 | index as u64)
    }
}

/// The fixed part of a reply's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHeader {
    /// Session that asked.
    pub client: ClientId,
    /// Which of its requests; with [`Status::Notice`], the [`NoticeNumber`].
    pub sequence: Sequence,
    /// Membership that the replica is in.
    pub view: ViewId,
    /// Read-only requests have numbers of their own (rule SMR.3).
    pub read_only: bool,
    /// Instead of the result comes the digest of the whole reply (rule CLI.7).
    pub digest: bool,
    /// How it went.
    pub status: Status,
    /// Bytes after the header, at most [`RESULT_SIZE_MAX`].
    pub result_size: u32,
}

impl ReplyHeader {
    /// Checks a whole body: header, and a result of exactly the size it states, none unless the
    /// status is [`Status::Ok`], [`Status::Outdated`] or [`Status::Notice`].
    ///
    /// # Errors
    /// [`Malformed`] names the first thing that is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (client, sequence) = (ClientId(reader.u64()?), Sequence(reader.u64()?));
        let (view, flags) = (ViewId(reader.u32()?), reader.u16()?);
        if flags & !(REPLY_READ_ONLY | REPLY_DIGEST) != 0 {
            return Err(Malformed::Reserved);
        }
        let status = Status::from_code(reader.u8()?)?;
        reader.zeros(1)?;
        let result_size = reader.u32()?;
        reader.zeros(4)?;
        if result_size as usize > RESULT_SIZE_MAX {
            return Err(Malformed::TooLong);
        }
        if reader.left() != result_size as usize || (!status.has_result() && result_size != 0) {
            return Err(Malformed::Inconsistent);
        }
        let (read_only, digest) = (flags & REPLY_READ_ONLY != 0, flags & REPLY_DIGEST != 0);
        if digest && (status != Status::Ok || result_size as usize != DIGEST_SIZE) {
            return Err(Malformed::Inconsistent);
        }
        if status == Status::Notice && (read_only || result_size as usize > NOTICE_SIZE_MAX) {
            return Err(Malformed::Inconsistent);
        }
        Ok(Self { client, sequence, view, read_only, digest, status, result_size })
    }

    /// Writes the header into the first [`REPLY_HEADER_SIZE`] bytes of `body`.
    #[inline]
    pub fn write(&self, body: &mut [u8]) {
        debug_assert!(self.result_size as usize <= RESULT_SIZE_MAX, "our own reply in its limits");
        let digest = if self.digest { REPLY_DIGEST } else { 0 };
        let flags = digest | if self.read_only { REPLY_READ_ONLY } else { 0 };
        let body: &mut [u8; REPLY_HEADER_SIZE] =
            body.first_chunk_mut().expect("the caller has room for a header");
        body[..8].copy_from_slice(&self.client.0.to_le_bytes());
        body[8..16].copy_from_slice(&self.sequence.0.to_le_bytes());
        body[16..20].copy_from_slice(&self.view.0.to_le_bytes());
        body[20..22].copy_from_slice(&flags.to_le_bytes());
        body[22..24].copy_from_slice(&[self.status.code(), 0]);
        body[24..28].copy_from_slice(&self.result_size.to_le_bytes());
        body[28..].fill(0);
    }
}

/// Names another view in the reply whose bytes begin with `body`: one that was kept, and is sent again.
pub fn set_view(body: &mut [u8], view: ViewId) {
    body[16..20].copy_from_slice(&view.0.to_le_bytes());
}

/// Writes into `out`, of [`DIGEST_REPLY_SIZE`] bytes, the reply that stands for `body`, a whole reply
/// with status [`Status::Ok`] and this digest.
pub fn write_digest_reply(body: &[u8], digest: &Digest, out: &mut [u8]) {
    let header = ReplyHeader::parse(body).expect("our own reply");
    debug_assert!(header.status == Status::Ok && !header.digest, "it has a result");
    ReplyHeader { digest: true, result_size: DIGEST_SIZE as u32, ..header }.write(out);
    out[REPLY_HEADER_SIZE..].copy_from_slice(&digest.0);
}

/// A reply that parsed. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct Reply<P> {
    /// The fixed part.
    pub header: ReplyHeader,
    /// Digest of the whole reply: of the body, as the link computed it, or the one that came in its
    /// place. Equal replies have equal digests.
    pub digest: Digest,
    body: P,
}

impl<P: Payload> Reply<P> {
    /// The reply whose body is all of `body`. `digest` is the digest of the body, which the link has
    /// compared.
    ///
    /// # Errors
    /// [`Malformed`] names the first thing that is wrong.
    pub fn parse(body: P, digest: Digest) -> Result<Self, Malformed> {
        let header = ReplyHeader::parse(body.bytes())?;
        let mut digest = digest;
        if header.digest {
            digest.0.copy_from_slice(&body.bytes()[REPLY_HEADER_SIZE..DIGEST_REPLY_SIZE]);
        }
        Ok(Self { header, digest, body })
    }

    /// The result, unless only the digest came.
    pub fn full_result(&self) -> Option<&[u8]> {
        (!self.header.digest).then(|| self.result())
    }

    /// What the service answered, or the digest in its place.
    pub fn result(&self) -> &[u8] {
        &self.body.bytes()[REPLY_HEADER_SIZE..]
    }

    /// The same, sharing the memory of the message.
    pub fn into_result(self) -> P {
        let size = self.body.bytes().len() - REPLY_HEADER_SIZE;
        self.body.into_slice(REPLY_HEADER_SIZE, size).expect("a parsed body has a header")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FaultModel;
    use crate::membership::{Member, Membership, ViewRequest};
    use crate::payload::SharedBytes;
    use crate::types::ReplicaId;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn body(header: ReplyHeader, result: &[u8]) -> Vec<u8> {
        let mut body = alloc::vec![0xaa; REPLY_HEADER_SIZE];
        header.write(&mut body);
        body.extend_from_slice(result);
        body
    }

    fn header(status: Status, result_size: u32) -> ReplyHeader {
        ReplyHeader {
            client: ClientId::new(2, 7),
            sequence: Sequence::new(5, 9),
            view: ViewId(3),
            read_only: true,
            digest: false,
            status,
            result_size,
        }
    }

    /// Changes only with the version of the link header.
    const GOLDEN: &str = include_str!("vectors/reply.hex");
    const DIGEST_GOLDEN: &str = include_str!("vectors/digest_reply.hex");
    const OUTDATED_GOLDEN: &str = include_str!("vectors/outdated_reply.hex");

    #[test]
    fn golden_vector() {
        let bytes = body(header(Status::Ok, 5), b"value");
        assert_eq!(super::super::codec::tests::hex(&bytes), GOLDEN.replace('\n', ""));
    }

    #[test]
    fn a_refusal_tells_of_the_present_view() {
        // rule: CLI.11
        let members = [1, 2, 3, 4].map(|id| Member {
            id: ReplicaId(id),
            address: alloc::format!("host-{id}:7000"),
            static_key: [id as u8; 32],
            signing_key: [id as u8 + 16; 32],
        });
        let next = Membership::new(9, ViewId(3), 1, FaultModel::Byzantine, members.to_vec());
        let told = ViewRequest { next: next.expect("possible"), signature: [7; 64] };
        let mut result = Vec::new();
        told.encode(&mut result);
        let bytes = body(header(Status::Outdated, result.len() as u32), &result);
        assert_eq!(super::super::codec::tests::hex(&bytes), OUTDATED_GOLDEN.replace('\n', ""));
        let reply = Reply::parse(SharedBytes::from(&bytes[..]), Digest::ZERO).expect("well formed");
        assert_eq!(ViewRequest::decode(reply.result()), Ok(told));
    }

    #[test]
    fn a_reply_gives_back_its_result() {
        let bytes = body(header(Status::Ok, 5), b"value");
        let reply = Reply::parse(SharedBytes::from(&bytes[..]), Digest::ZERO).expect("well formed");
        assert_eq!(reply.header, header(Status::Ok, 5));
        assert_eq!(reply.result(), b"value");
        assert_eq!(reply.into_result().bytes(), b"value");
    }

    #[test]
    fn no_two_bodies_mean_the_same_reply() {
        let bytes = body(header(Status::Ok, 5), b"value");
        let parse = |bytes: &[u8]| ReplyHeader::parse(bytes);
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_err(), "prefix of {end}");
        }
        for (at, expected) in [
            (20, Malformed::Reserved),
            (21, Malformed::Reserved),
            (22, Malformed::Unknown),
            (23, Malformed::Reserved),
            (24, Malformed::Inconsistent),
            (27, Malformed::TooLong),
            (28, Malformed::Reserved),
        ] {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            assert_eq!(parse(&changed), Err(expected), "byte {at}");
        }
        let refused = body(header(Status::Refused, 5), b"value");
        assert_eq!(parse(&refused), Err(Malformed::Inconsistent));
        for status in [Status::TooOld, Status::Refused, Status::Busy, Status::TooLarge] {
            assert_eq!(parse(&body(header(status, 0), b"")), Ok(header(status, 0)));
        }
        let notice = |size: usize, read_only| ReplyHeader {
            read_only,
            ..header(Status::Notice, size as u32)
        };
        let large = alloc::vec![1; NOTICE_SIZE_MAX + 1];
        let longest = &large[1..];
        assert_eq!(
            parse(&body(notice(longest.len(), false), longest)),
            Ok(notice(longest.len(), false))
        );
        let wrong = [body(notice(5, true), b"value"), body(notice(large.len(), false), &large)];
        assert!(wrong.iter().all(|body| parse(body) == Err(Malformed::Inconsistent)));
    }

    #[test]
    fn a_digest_stands_for_the_reply_it_is_the_digest_of() {
        // rule: CLI.7
        let bytes = body(header(Status::Ok, 5), b"value");
        let mut short = alloc::vec![0xaa; DIGEST_REPLY_SIZE];
        write_digest_reply(&bytes, &Digest([7; 32]), &mut short);
        assert_eq!(super::super::codec::tests::hex(&short), DIGEST_GOLDEN.replace('\n', ""));
        let reply = Reply::parse(SharedBytes::from(&short[..]), Digest([9; 32])).expect("whole");
        assert_eq!((reply.digest, reply.full_result()), (Digest([7; 32]), None));
        let expected = ReplyHeader { digest: true, ..header(Status::Ok, 32) };
        assert_eq!(reply.header, expected);
        // A digest has its size, and only what was executed has one.
        for wrong in [
            body(ReplyHeader { digest: true, ..header(Status::Notice, 32) }, &[0; 32]),
            body(ReplyHeader { digest: true, ..header(Status::Ok, 5) }, b"value"),
            body(ReplyHeader { digest: true, ..header(Status::Busy, 0) }, b""),
        ] {
            assert_eq!(ReplyHeader::parse(&wrong), Err(Malformed::Inconsistent));
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_written_back_as_it_was(bytes in prop::collection::vec(0u8..3, 0..40)) {
            if let Ok(header) = ReplyHeader::parse(&bytes) {
                prop_assert_eq!(&body(header, &bytes[REPLY_HEADER_SIZE..]), &bytes);
            }
        }
    }
}
