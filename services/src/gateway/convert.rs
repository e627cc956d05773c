//! From the store's replies to RESP.

use crate::kv::reply::Reply;
use crate::resp::{Protocol, RespWriter};
use crate::wire::{Malformed, Reader};

/// What answering commands from a reply came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answered {
    /// One command was answered.
    Yes,
    /// The store has skipped it.
    Skipped,
    /// It must be ordered.
    Order,
}

/// Passes over the reply to one command.
pub(super) fn pass(reader: &mut Reader<'_>) -> Result<Answered, Malformed> {
    walk(reader, |_| {})
}

/// Writes the reply to one command. `Answered::Yes` unless nothing was written.
pub(super) fn write(
    reader: &mut Reader<'_>,
    protocol: Protocol,
    out: &mut Vec<u8>,
) -> Result<Answered, Malformed> {
    let mut writer = RespWriter::new(out, protocol);
    walk(reader, |reply| match reply {
        Reply::Ok => writer.status("OK"),
        Reply::Status(text) => writer.status_bytes(text),
        Reply::Nil => writer.nil(),
        Reply::NilArray => writer.nil_array(),
        Reply::Integer(value) => writer.integer(value),
        Reply::Bulk(bytes) => writer.bulk(bytes),
        Reply::Failure(failure) => writer.error(failure.text()),
        Reply::Error(text) => writer.error_bytes(text),
        Reply::Array(count) => writer.array(count),
        Reply::Map(count) => writer.map(count),
        Reply::Set(count) => writer.set(count),
        Reply::Skipped | Reply::Order => {}
    })
}

fn walk<'a>(
    reader: &mut Reader<'a>,
    mut each: impl FnMut(Reply<'a>),
) -> Result<Answered, Malformed> {
    let mut missing = 1usize;
    while missing > 0 {
        let reply = Reply::read(reader)?;
        // Every reply takes at least a byte, so a false count ends with the bytes.
        missing = missing.saturating_add(reply.children()) - 1;
        match reply {
            Reply::Skipped => return Ok(Answered::Skipped),
            Reply::Order => return Ok(Answered::Order),
            reply => each(reply),
        }
    }
    Ok(Answered::Yes)
}
