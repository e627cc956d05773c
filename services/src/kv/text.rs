//! From the words of a Redis command to a [`Command`], with Redis' errors in Redis' order.

use super::command::{
    Args, Command, Deadline, ExpireIf, HashPart, SetExpiry, SetIf, SetReply, Spelling, TtlForm,
};
use super::reply::Failure;
use super::table::{Spec, Verb, arity_allows, lookup};
use super::value::Kind;
use crate::wire::decimal;

/// Why words are not a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TextError<'a> {
    /// No command has this name.
    Unknown,
    /// Too few or too many words.
    Arity(&'static str),
    /// As many words as the arity allows, but not a number that makes sense. Reads the same.
    Count(&'static str),
    /// Options that do not belong there.
    Syntax,
    /// A word that should be an integer.
    NotInteger,
    /// A word that should be an integer and not negative.
    NotPositive,
    /// A word that should be a cursor.
    Cursor,
    /// A time that is not positive or too large.
    ExpireTime(Spelling),
    /// DECRBY of the smallest integer.
    Decrement,
    /// An option of EXPIRE that does not exist.
    Option(&'a [u8]),
    /// NX of EXPIRE with another.
    NxAndOther,
    /// GT with LT.
    GtAndLt,
}

impl TextError<'_> {
    /// Is it found before the options are looked at? Such an error makes an open transaction fail.
    pub fn is_structural(&self) -> bool {
        matches!(self, TextError::Unknown | TextError::Arity(_))
    }

    /// Appends the error line, without the minus, for the command made of `words`. What comes from
    /// the client is cut and its line breaks are replaced.
    pub fn write(&self, words: &[&[u8]], out: &mut Vec<u8>) {
        let text = match self {
            TextError::Unknown => {
                out.extend_from_slice(b"ERR unknown command '");
                write_clean(words.first().unwrap_or(&&b""[..]), 128, out);
                out.extend_from_slice(b"', with args beginning with: ");
                let start = out.len();
                for word in words.iter().skip(1) {
                    let used = out.len() - start;
                    if used >= 128 {
                        break;
                    }
                    out.push(b'\'');
                    write_clean(word, 128 - used, out);
                    out.extend_from_slice(b"' ");
                }
                return;
            }
            TextError::Arity(name) | TextError::Count(name) => {
                let text = format!("ERR wrong number of arguments for '{name}' command");
                out.extend_from_slice(text.as_bytes());
                return;
            }
            TextError::Option(option) => {
                out.extend_from_slice(b"ERR Unsupported option ");
                write_clean(option, 128, out);
                return;
            }
            TextError::Syntax => "ERR syntax error",
            TextError::NotInteger => Failure::NotInteger.text(),
            TextError::NotPositive => "ERR value is out of range, must be positive",
            TextError::Cursor => "ERR invalid cursor",
            TextError::ExpireTime(spelling) => Failure::ExpireTime(*spelling).text(),
            TextError::Decrement => "ERR decrement would overflow",
            TextError::NxAndOther => {
                "ERR NX and XX, GT or LT options at the same time are not compatible"
            }
            TextError::GtAndLt => "ERR GT and LT options at the same time are not compatible",
        };
        out.extend_from_slice(text.as_bytes());
    }
}

/// Appends at most `max` bytes, without line breaks.
fn write_clean(bytes: &[u8], max: usize, out: &mut Vec<u8>) {
    let bytes = bytes.iter().take(max);
    out.extend(bytes.map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
}

/// The command that `words` spell. The first word is its name.
///
/// # Errors
/// [`TextError`].
pub fn parse<'a>(words: &'a [&'a [u8]]) -> Result<Command<'a>, TextError<'a>> {
    let name = words.first().ok_or(TextError::Unknown)?;
    let spec = lookup(name).ok_or(TextError::Unknown)?;
    parse_as(spec, words)
}

/// As [`parse`], for a command that was looked up already.
///
/// # Errors
/// [`TextError`].
pub fn parse_as<'a>(spec: &Spec, words: &'a [&'a [u8]]) -> Result<Command<'a>, TextError<'a>> {
    use Command as C;
    if !arity_allows(spec.arity, words.len()) {
        return Err(TextError::Arity(spec.name));
    }
    // Checked by the arity: what a verb indexes is there.
    let w = |index: usize| words.get(index).copied().unwrap_or_default();
    let rest = |from: usize| Args::Words(words.get(from..).unwrap_or_default());
    let key = w(1);
    Ok(match spec.verb {
        Verb::Get => C::Get { key },
        Verb::GetDel => C::GetDel { key },
        Verb::MGet => C::MGet { keys: rest(1) },
        Verb::StrLen => C::StrLen { key },
        Verb::Set => parse_set(words)?,
        Verb::SetNx => set(key, w(2), SetIf::Absent, SetReply::Flag),
        Verb::GetSet => set(key, w(2), SetIf::Always, SetReply::Old),
        Verb::SetEx => set_until(key, w(2), w(3), 1000, Spelling::SetEx)?,
        Verb::PSetEx => set_until(key, w(2), w(3), 1, Spelling::PSetEx)?,
        Verb::MSet => C::MSet { pairs: pairs(spec, rest(1))? },
        Verb::Append => C::Append { key, value: w(2) },
        Verb::Incr => C::IncrBy { key, delta: 1 },
        Verb::Decr => C::IncrBy { key, delta: -1 },
        Verb::IncrBy => C::IncrBy { key, delta: integer(w(2))? },
        Verb::DecrBy => {
            let delta = integer(w(2))?.checked_neg().ok_or(TextError::Decrement)?;
            C::IncrBy { key, delta }
        }
        Verb::Del => C::Del { keys: rest(1) },
        Verb::Exists => C::Exists { keys: rest(1) },
        Verb::Type => C::Type { key },
        Verb::Expire => parse_expire(words, 1000, false, Spelling::Expire)?,
        Verb::PExpire => parse_expire(words, 1, false, Spelling::PExpire)?,
        Verb::ExpireAt => parse_expire(words, 1000, true, Spelling::ExpireAt)?,
        Verb::PExpireAt => parse_expire(words, 1, true, Spelling::PExpireAt)?,
        Verb::Ttl => C::Ttl { key, form: TtlForm { millis: false, absolute: false } },
        Verb::PTtl => C::Ttl { key, form: TtlForm { millis: true, absolute: false } },
        Verb::ExpireTime => C::Ttl { key, form: TtlForm { millis: false, absolute: true } },
        Verb::PExpireTime => C::Ttl { key, form: TtlForm { millis: true, absolute: true } },
        Verb::Persist => C::Persist { key },
        Verb::LPush => C::Push { key, head: true, existing: false, items: rest(2) },
        Verb::RPush => C::Push { key, head: false, existing: false, items: rest(2) },
        Verb::LPushX => C::Push { key, head: true, existing: true, items: rest(2) },
        Verb::RPushX => C::Push { key, head: false, existing: true, items: rest(2) },
        Verb::LPop => C::Pop { key, head: true, count: pop_count(spec, words)? },
        Verb::RPop => C::Pop { key, head: false, count: pop_count(spec, words)? },
        Verb::LRange => C::LRange { key, start: integer(w(2))?, stop: integer(w(3))? },
        Verb::LLen => C::LLen { key },
        Verb::LIndex => C::LIndex { key, index: integer(w(2))? },
        Verb::HSet => C::HSet { key, pairs: pairs(spec, rest(2))?, status: false },
        Verb::HMSet => C::HSet { key, pairs: pairs(spec, rest(2))?, status: true },
        Verb::HSetNx => C::HSetNx { key, field: w(2), value: w(3) },
        Verb::HGet => C::HGet { key, field: w(2) },
        Verb::HMGet => C::HMGet { key, fields: rest(2) },
        Verb::HDel => C::HDel { key, fields: rest(2) },
        Verb::HGetAll => C::HRead { key, part: HashPart::All },
        Verb::HKeys => C::HRead { key, part: HashPart::Fields },
        Verb::HVals => C::HRead { key, part: HashPart::Values },
        Verb::HLen => C::HLen { key },
        Verb::HExists => C::HExists { key, field: w(2) },
        Verb::HStrLen => C::HStrLen { key, field: w(2) },
        Verb::HIncrBy => C::HIncrBy { key, field: w(2), delta: integer(w(3))? },
        Verb::SAdd => C::SAdd { key, members: rest(2) },
        Verb::SRem => C::SRem { key, members: rest(2) },
        Verb::SMembers => C::SMembers { key },
        Verb::SIsMember => C::SIsMember { key, member: w(2) },
        Verb::SMIsMember => C::SMIsMember { key, members: rest(2) },
        Verb::SCard => C::SCard { key },
        Verb::Scan => parse_scan(words)?,
        Verb::Keys => C::Keys { pattern: key },
        Verb::DbSize => C::DbSize,
        Verb::FlushAll => parse_flush(words)?,
    })
}

fn integer<'a>(word: &[u8]) -> Result<i64, TextError<'a>> {
    decimal(word).ok_or(TextError::NotInteger)
}

fn pairs<'a>(spec: &Spec, args: Args<'a>) -> Result<Args<'a>, TextError<'a>> {
    if args.len().is_multiple_of(2) { Ok(args) } else { Err(TextError::Count(spec.name)) }
}

fn pop_count<'a>(spec: &Spec, words: &[&[u8]]) -> Result<Option<u32>, TextError<'a>> {
    match words {
        [_, _] => Ok(None),
        [_, _, count] => {
            let count = decimal(count).ok_or(TextError::NotPositive)?;
            let count = u64::try_from(count).map_err(|_| TextError::NotPositive)?;
            // More than any list has.
            Ok(Some(u32::try_from(count).unwrap_or(u32::MAX)))
        }
        _ => Err(TextError::Count(spec.name)),
    }
}

fn set<'a>(key: &'a [u8], value: &'a [u8], condition: SetIf, reply: SetReply) -> Command<'a> {
    let (expiry, spelling) = (SetExpiry::Clear, Spelling::Set);
    Command::Set { key, value, condition, reply, expiry, spelling }
}

fn set_until<'a>(
    key: &'a [u8],
    time: &[u8],
    value: &'a [u8],
    unit: i64,
    spelling: Spelling,
) -> Result<Command<'a>, TextError<'a>> {
    let millis = positive_millis(integer(time)?, unit, spelling)?;
    let expiry = SetExpiry::Deadline(Deadline::In(millis));
    let (condition, reply) = (SetIf::Always, SetReply::Status);
    Ok(Command::Set { key, value, condition, reply, expiry, spelling })
}

fn positive_millis<'a>(value: i64, unit: i64, spelling: Spelling) -> Result<i64, TextError<'a>> {
    value.checked_mul(unit).filter(|&millis| millis > 0).ok_or(TextError::ExpireTime(spelling))
}

/// Is `word` this option, in any case?
fn is(word: &[u8], option: &str) -> bool {
    word.eq_ignore_ascii_case(option.as_bytes())
}

fn parse_set<'a>(words: &'a [&'a [u8]]) -> Result<Command<'a>, TextError<'a>> {
    let &[_, key, value, ref options @ ..] = words else { return Err(TextError::Syntax) };
    let mut condition = SetIf::Always;
    let mut reply = SetReply::Status;
    let mut keep = false;
    // The time's word, its unit in milliseconds, and whether it counts from the epoch.
    let mut time: Option<(&[u8], i64, bool)> = None;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let unit = [("EX", 1000, false), ("PX", 1, false), ("EXAT", 1000, true), ("PXAT", 1, true)]
            .into_iter()
            .find(|(name, ..)| is(option, name));
        if is(option, "NX") && condition != SetIf::Present {
            condition = SetIf::Absent;
        } else if is(option, "XX") && condition != SetIf::Absent {
            condition = SetIf::Present;
        } else if is(option, "GET") {
            reply = SetReply::Old;
        } else if is(option, "KEEPTTL") && time.is_none() {
            keep = true;
        } else if let Some((_, unit, absolute)) = unit
            && time.is_none()
            && !keep
        {
            time = Some((options.next().ok_or(TextError::Syntax)?, unit, absolute));
        } else {
            return Err(TextError::Syntax);
        }
    }
    let expiry = match time {
        None if keep => SetExpiry::Keep,
        None => SetExpiry::Clear,
        Some((word, unit, absolute)) => {
            let millis = positive_millis(integer(word)?, unit, Spelling::Set)?;
            let at = if absolute { Deadline::At(millis) } else { Deadline::In(millis) };
            SetExpiry::Deadline(at)
        }
    };
    Ok(Command::Set { key, value, condition, reply, expiry, spelling: Spelling::Set })
}

fn parse_expire<'a>(
    words: &'a [&'a [u8]],
    unit: i64,
    absolute: bool,
    spelling: Spelling,
) -> Result<Command<'a>, TextError<'a>> {
    let &[_, key, time, ref options @ ..] = words else { return Err(TextError::Syntax) };
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for option in options {
        let flag = match () {
            () if is(option, "NX") => &mut nx,
            () if is(option, "XX") => &mut xx,
            () if is(option, "GT") => &mut gt,
            () if is(option, "LT") => &mut lt,
            () => return Err(TextError::Option(option)),
        };
        *flag = true;
    }
    let condition = match (nx, xx, gt, lt) {
        (true, false, false, false) => ExpireIf::Absent,
        (true, ..) => return Err(TextError::NxAndOther),
        (_, _, true, true) => return Err(TextError::GtAndLt),
        // A key that does not expire is never made to by GT, so XX adds nothing.
        (_, _, true, _) => ExpireIf::Later,
        (_, true, _, true) => ExpireIf::PresentEarlier,
        (_, _, _, true) => ExpireIf::Earlier,
        (_, true, ..) => ExpireIf::Present,
        _ => ExpireIf::Always,
    };
    let millis = integer(time)?.checked_mul(unit).ok_or(TextError::ExpireTime(spelling))?;
    let deadline = if absolute { Deadline::At(millis) } else { Deadline::In(millis) };
    Ok(Command::Expire { key, deadline, condition, spelling })
}

fn parse_scan<'a>(words: &'a [&'a [u8]]) -> Result<Command<'a>, TextError<'a>> {
    let &[_, cursor, ref options @ ..] = words else { return Err(TextError::Syntax) };
    let cursor = std::str::from_utf8(cursor).ok().and_then(|word| word.parse::<u64>().ok());
    let cursor = cursor.ok_or(TextError::Cursor)?;
    let mut pattern = None;
    let mut count = 10;
    let mut kind = None;
    let mut options = options.iter().copied();
    while let Some(option) = options.next() {
        let value = options.next().ok_or(TextError::Syntax)?;
        if is(option, "MATCH") {
            pattern = (value != b"*").then_some(value);
        } else if is(option, "COUNT") {
            let value = integer(value)?;
            if value < 1 {
                return Err(TextError::Syntax);
            }
            count = u32::try_from(value).unwrap_or(u32::MAX);
        } else if is(option, "TYPE") {
            kind = Some(Kind::of_name(value));
        } else {
            return Err(TextError::Syntax);
        }
    }
    Ok(Command::Scan { cursor, pattern, count, kind })
}

fn parse_flush<'a>(words: &'a [&'a [u8]]) -> Result<Command<'a>, TextError<'a>> {
    match words {
        [_] => Ok(Command::Flush),
        [_, how] if is(how, "ASYNC") || is(how, "SYNC") => Ok(Command::Flush),
        _ => Err(TextError::Syntax),
    }
}
