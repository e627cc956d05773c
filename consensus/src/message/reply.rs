//! A replica's answer to a request, as bytes.
//!
//! Owns the body of REPLY. Always true: the body says nothing about the replica that sent it, so
//! equal answers of different replicas are equal bytes with equal digests, and a client can match
//! replies by the digest that the link has checked already (rule CLI.2). Must not: authenticate.
//!
//! | offset | size | |
//! |---|---|---|
//! | 0 | 8 | client |
//! | 8 | 8 | sequence |
//! | 16 | 4 | view of the replica |
//! | 20 | 2 | flags: bit 0 read-only, the rest zero |
//! | 22 | 1 | status |
//! | 23 | 1 | reserved, zero |
//! | 24 | 4 | result size |
//! | 28 | 4 | reserved, zero |
//! | 32 | | result |

use super::codec::fields::{Reader, Writer};
use crate::limits::RESULT_SIZE_MAX;
use crate::message::Malformed;
use crate::payload::Payload;
use crate::types::{ClientId, Digest, Sequence, ViewId};

/// Bytes of a reply's body before its result.
pub const REPLY_HEADER_SIZE: usize = 32;

const REPLY_READ_ONLY: u16 = 1;

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
}

impl Status {
    fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::TooOld => 1,
            Self::Refused => 2,
            Self::Busy => 3,
            Self::TooLarge => 4,
        }
    }

    fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            0 => Ok(Self::Ok),
            1 => Ok(Self::TooOld),
            2 => Ok(Self::Refused),
            3 => Ok(Self::Busy),
            4 => Ok(Self::TooLarge),
            _ => Err(Malformed::Unknown),
        }
    }
}

/// The fixed part of a reply's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHeader {
    /// Session that asked.
    pub client: ClientId,
    /// Which of its requests.
    pub sequence: Sequence,
    /// Membership that the replica is in.
    pub view: ViewId,
    /// Read-only requests have numbers of their own (rule SMR.3).
    pub read_only: bool,
    /// How it went.
    pub status: Status,
    /// Bytes after the header, at most [`RESULT_SIZE_MAX`].
    pub result_size: u32,
}

impl ReplyHeader {
    /// Checks a whole body: header, and a result of exactly the size it states, none unless the
    /// status is [`Status::Ok`].
    ///
    /// # Errors
    /// [`Malformed`] names the first thing that is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (client, sequence) = (ClientId(reader.u64()?), Sequence(reader.u64()?));
        let (view, flags) = (ViewId(reader.u32()?), reader.u16()?);
        if flags & !REPLY_READ_ONLY != 0 {
            return Err(Malformed::Reserved);
        }
        let status = Status::from_code(reader.u8()?)?;
        reader.zeros(1)?;
        let result_size = reader.u32()?;
        reader.zeros(4)?;
        if result_size as usize > RESULT_SIZE_MAX {
            return Err(Malformed::TooLong);
        }
        if reader.left() != result_size as usize || (status != Status::Ok && result_size != 0) {
            return Err(Malformed::Inconsistent);
        }
        let read_only = flags & REPLY_READ_ONLY != 0;
        Ok(Self { client, sequence, view, read_only, status, result_size })
    }

    /// Writes the header into the first [`REPLY_HEADER_SIZE`] bytes of `body`.
    pub fn write(&self, body: &mut [u8]) {
        debug_assert!(self.result_size as usize <= RESULT_SIZE_MAX, "our own reply in its limits");
        let mut writer = Writer::new(body);
        writer.u64(self.client.0);
        writer.u64(self.sequence.0);
        writer.u32(self.view.0);
        writer.u16(if self.read_only { REPLY_READ_ONLY } else { 0 });
        writer.u8(self.status.code());
        writer.zeros(1);
        writer.u32(self.result_size);
        writer.zeros(4);
    }
}

/// A reply that parsed. A clone shares the bytes.
#[derive(Clone, Debug)]
pub struct Reply<P> {
    /// The fixed part.
    pub header: ReplyHeader,
    /// Digest of the whole body, as the link computed it. Equal replies have equal digests.
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
        Ok(Self { header: ReplyHeader::parse(body.bytes())?, digest, body })
    }

    /// What the service answered.
    pub fn result(&self) -> &[u8] {
        &self.body.bytes()[REPLY_HEADER_SIZE..]
    }

    /// What the service answered, sharing the memory of the message.
    pub fn into_result(self) -> P {
        let size = self.body.bytes().len() - REPLY_HEADER_SIZE;
        self.body.into_slice(REPLY_HEADER_SIZE, size).expect("a parsed body has a header")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::SharedBytes;
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
            status,
            result_size,
        }
    }

    /// Changes only with the version of the link header.
    const GOLDEN: &str = include_str!("vectors/reply.hex");

    #[test]
    fn golden_vector() {
        let bytes = body(header(Status::Ok, 5), b"value");
        assert_eq!(super::super::codec::tests::hex(&bytes), GOLDEN.replace('\n', ""));
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
