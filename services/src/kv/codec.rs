//! How one command is written inside an operation: an opcode, its fixed fields, its strings as
//! LEB128 length and bytes.
//!
//! Always true: decoding is total, and each command has one encoding.

use super::command::{
    Args, Command, Deadline, ExpireIf, HashPart, Literal, SetExpiry, SetIf, SetReply, Spelling,
    TtlForm,
};
use super::value::Kind;
use crate::wire::{Malformed, Reader, put_length, put_string};

/// Numbers of the commands in an operation. Never reused.
mod opcode {
    pub const LITERAL: u8 = 1;
    pub const GET: u8 = 2;
    pub const GETDEL: u8 = 3;
    pub const MGET: u8 = 4;
    pub const STRLEN: u8 = 5;
    pub const SET: u8 = 6;
    pub const MSET: u8 = 7;
    pub const APPEND: u8 = 8;
    pub const INCRBY: u8 = 9;
    pub const DEL: u8 = 10;
    pub const EXISTS: u8 = 11;
    pub const TYPE: u8 = 12;
    pub const EXPIRE: u8 = 13;
    pub const TTL: u8 = 14;
    pub const PERSIST: u8 = 15;
    pub const PUSH: u8 = 16;
    pub const POP: u8 = 17;
    pub const LRANGE: u8 = 18;
    pub const LLEN: u8 = 19;
    pub const LINDEX: u8 = 20;
    pub const HSET: u8 = 21;
    pub const HSETNX: u8 = 22;
    pub const HGET: u8 = 23;
    pub const HMGET: u8 = 24;
    pub const HDEL: u8 = 25;
    pub const HREAD: u8 = 26;
    pub const HLEN: u8 = 27;
    pub const HEXISTS: u8 = 28;
    pub const HSTRLEN: u8 = 29;
    pub const HINCRBY: u8 = 30;
    pub const SADD: u8 = 31;
    pub const SREM: u8 = 32;
    pub const SMEMBERS: u8 = 33;
    pub const SISMEMBER: u8 = 34;
    pub const SMISMEMBER: u8 = 35;
    pub const SCARD: u8 = 36;
    pub const SCAN: u8 = 37;
    pub const KEYS: u8 = 38;
    pub const DBSIZE: u8 = 39;
    pub const FLUSH: u8 = 40;
}

/// Appends a command.
pub(super) fn encode(out: &mut Vec<u8>, command: &Command<'_>) {
    use Command as C;
    match *command {
        C::Literal { kind, text } => put(out, opcode::LITERAL, &[kind as u8], &[text]),
        C::Get { key } => put(out, opcode::GET, &[], &[key]),
        C::GetDel { key } => put(out, opcode::GETDEL, &[], &[key]),
        C::MGet { keys } => put_args(out, opcode::MGET, &[], &[], keys),
        C::StrLen { key } => put(out, opcode::STRLEN, &[], &[key]),
        C::Set { key, value, condition, reply, expiry, spelling } => {
            let (form, millis) = match expiry {
                SetExpiry::Clear => (0, None),
                SetExpiry::Keep => (1, None),
                SetExpiry::Deadline(Deadline::In(millis)) => (2, Some(millis)),
                SetExpiry::Deadline(Deadline::At(millis)) => (3, Some(millis)),
            };
            let flags = condition as u8 | (reply as u8) << 2 | form << 4;
            put(out, opcode::SET, &[flags, spelling as u8], &[key, value]);
            if let Some(millis) = millis {
                out.extend_from_slice(&millis.to_le_bytes());
            }
        }
        C::MSet { pairs } => put_args(out, opcode::MSET, &[], &[], pairs),
        C::Append { key, value } => put(out, opcode::APPEND, &[], &[key, value]),
        C::IncrBy { key, delta } => put(out, opcode::INCRBY, &delta.to_le_bytes(), &[key]),
        C::Del { keys } => put_args(out, opcode::DEL, &[], &[], keys),
        C::Exists { keys } => put_args(out, opcode::EXISTS, &[], &[], keys),
        C::Type { key } => put(out, opcode::TYPE, &[], &[key]),
        C::Expire { key, deadline, condition, spelling } => {
            let (absolute, millis) = match deadline {
                Deadline::In(millis) => (0, millis),
                Deadline::At(millis) => (1, millis),
            };
            put(out, opcode::EXPIRE, &[condition as u8, spelling as u8, absolute], &[key]);
            out.extend_from_slice(&millis.to_le_bytes());
        }
        C::Ttl { key, form } => {
            let flags = u8::from(form.millis) | u8::from(form.absolute) << 1;
            put(out, opcode::TTL, &[flags], &[key]);
        }
        C::Persist { key } => put(out, opcode::PERSIST, &[], &[key]),
        C::Push { key, head, existing, items } => {
            let flags = u8::from(head) | u8::from(existing) << 1;
            put_args(out, opcode::PUSH, &[flags], &[key], items);
        }
        C::Pop { key, head, count } => {
            let flags = u8::from(head) | u8::from(count.is_some()) << 1;
            put(out, opcode::POP, &[flags], &[key]);
            if let Some(count) = count {
                out.extend_from_slice(&count.to_le_bytes());
            }
        }
        C::LRange { key, start, stop } => {
            put(out, opcode::LRANGE, &start.to_le_bytes(), &[key]);
            out.extend_from_slice(&stop.to_le_bytes());
        }
        C::LLen { key } => put(out, opcode::LLEN, &[], &[key]),
        C::LIndex { key, index } => put(out, opcode::LINDEX, &index.to_le_bytes(), &[key]),
        _ => encode_hash_set_keyspace(out, command),
    }
}

fn encode_hash_set_keyspace(out: &mut Vec<u8>, command: &Command<'_>) {
    use Command as C;
    match *command {
        C::HSet { key, pairs, status } => {
            put_args(out, opcode::HSET, &[u8::from(status)], &[key], pairs);
        }
        C::HSetNx { key, field, value } => put(out, opcode::HSETNX, &[], &[key, field, value]),
        C::HGet { key, field } => put(out, opcode::HGET, &[], &[key, field]),
        C::HMGet { key, fields } => put_args(out, opcode::HMGET, &[], &[key], fields),
        C::HDel { key, fields } => put_args(out, opcode::HDEL, &[], &[key], fields),
        C::HRead { key, part } => put(out, opcode::HREAD, &[part as u8], &[key]),
        C::HLen { key } => put(out, opcode::HLEN, &[], &[key]),
        C::HExists { key, field } => put(out, opcode::HEXISTS, &[], &[key, field]),
        C::HStrLen { key, field } => put(out, opcode::HSTRLEN, &[], &[key, field]),
        C::HIncrBy { key, field, delta } => {
            put(out, opcode::HINCRBY, &delta.to_le_bytes(), &[key, field]);
        }
        C::SAdd { key, members } => put_args(out, opcode::SADD, &[], &[key], members),
        C::SRem { key, members } => put_args(out, opcode::SREM, &[], &[key], members),
        C::SMembers { key } => put(out, opcode::SMEMBERS, &[], &[key]),
        C::SIsMember { key, member } => put(out, opcode::SISMEMBER, &[], &[key, member]),
        C::SMIsMember { key, members } => {
            put_args(out, opcode::SMISMEMBER, &[], &[key], members);
        }
        C::SCard { key } => put(out, opcode::SCARD, &[], &[key]),
        C::Scan { cursor, pattern, count, kind } => {
            let kind = match kind {
                None => 0,
                Some(Some(kind)) => kind as u8,
                Some(None) => 0xff,
            };
            let flags = [kind, u8::from(pattern.is_some())];
            put(out, opcode::SCAN, &flags, &[pattern.unwrap_or_default()]);
            out.extend_from_slice(&cursor.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
        }
        C::Keys { pattern } => put(out, opcode::KEYS, &[], &[pattern]),
        C::DbSize => out.push(opcode::DBSIZE),
        C::Flush => out.push(opcode::FLUSH),
        _ => unreachable!("`encode` handles the others"),
    }
}

fn put(out: &mut Vec<u8>, opcode: u8, fixed: &[u8], strings: &[&[u8]]) {
    out.push(opcode);
    out.extend_from_slice(fixed);
    for string in strings {
        put_string(out, string);
    }
}

fn put_args(out: &mut Vec<u8>, opcode: u8, fixed: &[u8], strings: &[&[u8]], args: Args<'_>) {
    put(out, opcode, fixed, strings);
    put_length(out, args.len());
    for arg in args.iter() {
        put_string(out, arg);
    }
}

/// Reads one command.
///
/// # Errors
/// [`Malformed`].
pub(super) fn decode<'a>(r: &mut Reader<'a>) -> Result<Command<'a>, Malformed> {
    use Command as C;
    Ok(match r.u8()? {
        opcode::LITERAL => {
            let kind = pick(r.u8()?, &[Literal::Error, Literal::Status, Literal::Bulk])?;
            let text = r.string()?;
            let line = kind != Literal::Bulk;
            if line && text.iter().any(|&byte| byte == b'\r' || byte == b'\n') {
                return Err(Malformed);
            }
            C::Literal { kind, text }
        }
        opcode::GET => C::Get { key: r.string()? },
        opcode::GETDEL => C::GetDel { key: r.string()? },
        opcode::MGET => C::MGet { keys: args(r, 1)? },
        opcode::STRLEN => C::StrLen { key: r.string()? },
        opcode::SET => decode_set(r)?,
        opcode::MSET => C::MSet { pairs: args(r, 2)? },
        opcode::APPEND => C::Append { key: r.string()?, value: r.string()? },
        opcode::INCRBY => {
            let delta = r.i64()?;
            C::IncrBy { key: r.string()?, delta }
        }
        opcode::DEL => C::Del { keys: args(r, 1)? },
        opcode::EXISTS => C::Exists { keys: args(r, 1)? },
        opcode::TYPE => C::Type { key: r.string()? },
        opcode::EXPIRE => decode_expire(r)?,
        opcode::TTL => {
            let flags = bits(r.u8()?, 2)?;
            let form = TtlForm { millis: flags & 1 != 0, absolute: flags & 2 != 0 };
            C::Ttl { key: r.string()?, form }
        }
        opcode::PERSIST => C::Persist { key: r.string()? },
        opcode::PUSH => {
            let flags = bits(r.u8()?, 2)?;
            let (head, existing) = (flags & 1 != 0, flags & 2 != 0);
            C::Push { head, existing, key: r.string()?, items: args(r, 1)? }
        }
        opcode::POP => {
            let flags = bits(r.u8()?, 2)?;
            let key = r.string()?;
            let count = if flags & 2 != 0 { Some(r.u32()?) } else { None };
            C::Pop { key, head: flags & 1 != 0, count }
        }
        opcode::LRANGE => {
            let start = r.i64()?;
            C::LRange { start, key: r.string()?, stop: r.i64()? }
        }
        opcode::LLEN => C::LLen { key: r.string()? },
        opcode::LINDEX => {
            let index = r.i64()?;
            C::LIndex { key: r.string()?, index }
        }
        code => decode_hash_set_keyspace(code, r)?,
    })
}

fn decode_hash_set_keyspace<'a>(code: u8, r: &mut Reader<'a>) -> Result<Command<'a>, Malformed> {
    use Command as C;
    Ok(match code {
        opcode::HSET => {
            let status = bits(r.u8()?, 1)? != 0;
            C::HSet { status, key: r.string()?, pairs: args(r, 2)? }
        }
        opcode::HSETNX => C::HSetNx { key: r.string()?, field: r.string()?, value: r.string()? },
        opcode::HGET => C::HGet { key: r.string()?, field: r.string()? },
        opcode::HMGET => C::HMGet { key: r.string()?, fields: args(r, 1)? },
        opcode::HDEL => C::HDel { key: r.string()?, fields: args(r, 1)? },
        opcode::HREAD => {
            let part = pick(r.u8()?, &[HashPart::All, HashPart::Fields, HashPart::Values])?;
            C::HRead { part, key: r.string()? }
        }
        opcode::HLEN => C::HLen { key: r.string()? },
        opcode::HEXISTS => C::HExists { key: r.string()?, field: r.string()? },
        opcode::HSTRLEN => C::HStrLen { key: r.string()?, field: r.string()? },
        opcode::HINCRBY => {
            let delta = r.i64()?;
            C::HIncrBy { delta, key: r.string()?, field: r.string()? }
        }
        opcode::SADD => C::SAdd { key: r.string()?, members: args(r, 1)? },
        opcode::SREM => C::SRem { key: r.string()?, members: args(r, 1)? },
        opcode::SMEMBERS => C::SMembers { key: r.string()? },
        opcode::SISMEMBER => C::SIsMember { key: r.string()?, member: r.string()? },
        opcode::SMISMEMBER => C::SMIsMember { key: r.string()?, members: args(r, 1)? },
        opcode::SCARD => C::SCard { key: r.string()? },
        opcode::SCAN => {
            let kind = match r.u8()? {
                0 => None,
                0xff => Some(None),
                number => Some(Some(Kind::of_number(number).ok_or(Malformed)?)),
            };
            let given = bits(r.u8()?, 1)? != 0;
            let pattern = r.string()?;
            if !given && !pattern.is_empty() {
                return Err(Malformed);
            }
            let pattern = given.then_some(pattern);
            C::Scan { kind, pattern, cursor: r.u64()?, count: r.u32()? }
        }
        opcode::KEYS => C::Keys { pattern: r.string()? },
        opcode::DBSIZE => C::DbSize,
        opcode::FLUSH => C::Flush,
        _ => return Err(Malformed),
    })
}

fn decode_set<'a>(r: &mut Reader<'a>) -> Result<Command<'a>, Malformed> {
    let flags = bits(r.u8()?, 6)?;
    let condition = pick(flags & 3, &[SetIf::Always, SetIf::Absent, SetIf::Present])?;
    let reply = pick(flags >> 2 & 3, &[SetReply::Status, SetReply::Old, SetReply::Flag])?;
    let spelling = pick(r.u8()?, &Spelling::ALL)?;
    let (key, value) = (r.string()?, r.string()?);
    let expiry = match flags >> 4 {
        0 => SetExpiry::Clear,
        1 => SetExpiry::Keep,
        2 => SetExpiry::Deadline(Deadline::In(r.i64()?)),
        _ => SetExpiry::Deadline(Deadline::At(r.i64()?)),
    };
    Ok(Command::Set { key, value, condition, reply, expiry, spelling })
}

fn decode_expire<'a>(r: &mut Reader<'a>) -> Result<Command<'a>, Malformed> {
    let conditions = [
        ExpireIf::Always,
        ExpireIf::Absent,
        ExpireIf::Present,
        ExpireIf::Later,
        ExpireIf::Earlier,
        ExpireIf::PresentEarlier,
    ];
    let condition = pick(r.u8()?, &conditions)?;
    let spelling = pick(r.u8()?, &Spelling::ALL)?;
    let absolute = bits(r.u8()?, 1)? != 0;
    let key = r.string()?;
    let millis = r.i64()?;
    let deadline = if absolute { Deadline::At(millis) } else { Deadline::In(millis) };
    Ok(Command::Expire { key, deadline, condition, spelling })
}

fn pick<T: Copy>(number: u8, values: &[T]) -> Result<T, Malformed> {
    values.get(usize::from(number)).copied().ok_or(Malformed)
}

fn bits(flags: u8, used: u32) -> Result<u8, Malformed> {
    if flags >> used == 0 { Ok(flags) } else { Err(Malformed) }
}

/// Strings, at least one, in groups of `group`.
fn args<'a>(r: &mut Reader<'a>, group: usize) -> Result<Args<'a>, Malformed> {
    let count = r.length()?;
    if count == 0 || count % group != 0 {
        return Err(Malformed);
    }
    let bytes = r.rest();
    for _ in 0..count {
        // Each string takes at least a byte, so a false count ends with the bytes.
        r.string()?;
    }
    Ok(Args::Encoded { count, bytes: &bytes[..bytes.len() - r.rest().len()] })
}
