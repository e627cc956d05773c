//! The Redis commands that the store understands: names, arities, and what COMMAND says of them.

/// A Redis command that becomes a [`super::command::Command`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the variants are the Redis commands of those names")]
pub enum Verb {
    Append,
    DbSize,
    Decr,
    DecrBy,
    Del,
    Exists,
    Expire,
    ExpireAt,
    ExpireTime,
    FlushAll,
    Get,
    GetDel,
    GetSet,
    HDel,
    HExists,
    HGet,
    HGetAll,
    HIncrBy,
    HKeys,
    HLen,
    HMGet,
    HMSet,
    HSet,
    HSetNx,
    HStrLen,
    HVals,
    Incr,
    IncrBy,
    Keys,
    LIndex,
    LLen,
    LPop,
    LPush,
    LPushX,
    LRange,
    MGet,
    MSet,
    PExpire,
    PExpireAt,
    PExpireTime,
    Persist,
    PSetEx,
    PTtl,
    RPop,
    RPush,
    RPushX,
    SAdd,
    SCard,
    Scan,
    Set,
    SetEx,
    SetNx,
    SIsMember,
    SMembers,
    SMIsMember,
    SRem,
    StrLen,
    Ttl,
    Type,
}

/// One line of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spec {
    /// In lower case.
    pub name: &'static str,
    /// Words with the name; a negative number is a minimum.
    pub arity: i8,
    /// What it does.
    pub verb: Verb,
    /// Does it change the store?
    pub writes: bool,
    /// Positions of the first and the last key (negative: from the end) and the distance between
    /// keys; zeros when there are none.
    pub keys: (i8, i8, i8),
}

/// The command of a name, in any case.
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0; 16];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let at = SPECS.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()?;
    Some(&SPECS[at])
}

/// Is `count` words a possible length for a command of this arity?
pub fn arity_allows(arity: i8, count: usize) -> bool {
    let words = usize::from(arity.unsigned_abs());
    if arity < 0 { count >= words } else { count == words }
}

const ONE: (i8, i8, i8) = (1, 1, 1);
const ALL: (i8, i8, i8) = (1, -1, 1);
const NONE: (i8, i8, i8) = (0, 0, 0);

const fn write(name: &'static str, arity: i8, verb: Verb, keys: (i8, i8, i8)) -> Spec {
    Spec { name, arity, verb, writes: true, keys }
}

const fn read(name: &'static str, arity: i8, verb: Verb, keys: (i8, i8, i8)) -> Spec {
    Spec { name, arity, verb, writes: false, keys }
}

/// The table, sorted by name.
pub static SPECS: &[Spec] = &[
    write("append", 3, Verb::Append, ONE),
    read("dbsize", 1, Verb::DbSize, NONE),
    write("decr", 2, Verb::Decr, ONE),
    write("decrby", 3, Verb::DecrBy, ONE),
    write("del", -2, Verb::Del, ALL),
    read("exists", -2, Verb::Exists, ALL),
    write("expire", -3, Verb::Expire, ONE),
    write("expireat", -3, Verb::ExpireAt, ONE),
    read("expiretime", 2, Verb::ExpireTime, ONE),
    write("flushall", -1, Verb::FlushAll, NONE),
    write("flushdb", -1, Verb::FlushAll, NONE),
    read("get", 2, Verb::Get, ONE),
    write("getdel", 2, Verb::GetDel, ONE),
    write("getset", 3, Verb::GetSet, ONE),
    write("hdel", -3, Verb::HDel, ONE),
    read("hexists", 3, Verb::HExists, ONE),
    read("hget", 3, Verb::HGet, ONE),
    read("hgetall", 2, Verb::HGetAll, ONE),
    write("hincrby", 4, Verb::HIncrBy, ONE),
    read("hkeys", 2, Verb::HKeys, ONE),
    read("hlen", 2, Verb::HLen, ONE),
    read("hmget", -3, Verb::HMGet, ONE),
    write("hmset", -4, Verb::HMSet, ONE),
    write("hset", -4, Verb::HSet, ONE),
    write("hsetnx", 4, Verb::HSetNx, ONE),
    read("hstrlen", 3, Verb::HStrLen, ONE),
    read("hvals", 2, Verb::HVals, ONE),
    write("incr", 2, Verb::Incr, ONE),
    write("incrby", 3, Verb::IncrBy, ONE),
    read("keys", 2, Verb::Keys, NONE),
    read("lindex", 3, Verb::LIndex, ONE),
    read("llen", 2, Verb::LLen, ONE),
    write("lpop", -2, Verb::LPop, ONE),
    write("lpush", -3, Verb::LPush, ONE),
    write("lpushx", -3, Verb::LPushX, ONE),
    read("lrange", 4, Verb::LRange, ONE),
    read("mget", -2, Verb::MGet, ALL),
    write("mset", -3, Verb::MSet, (1, -1, 2)),
    write("persist", 2, Verb::Persist, ONE),
    write("pexpire", -3, Verb::PExpire, ONE),
    write("pexpireat", -3, Verb::PExpireAt, ONE),
    read("pexpiretime", 2, Verb::PExpireTime, ONE),
    write("psetex", 4, Verb::PSetEx, ONE),
    read("pttl", 2, Verb::PTtl, ONE),
    write("rpop", -2, Verb::RPop, ONE),
    write("rpush", -3, Verb::RPush, ONE),
    write("rpushx", -3, Verb::RPushX, ONE),
    write("sadd", -3, Verb::SAdd, ONE),
    read("scan", -2, Verb::Scan, NONE),
    read("scard", 2, Verb::SCard, ONE),
    write("set", -3, Verb::Set, ONE),
    write("setex", 4, Verb::SetEx, ONE),
    write("setnx", 3, Verb::SetNx, ONE),
    read("sismember", 3, Verb::SIsMember, ONE),
    read("smembers", 2, Verb::SMembers, ONE),
    read("smismember", -3, Verb::SMIsMember, ONE),
    write("srem", -3, Verb::SRem, ONE),
    read("strlen", 2, Verb::StrLen, ONE),
    read("ttl", 2, Verb::Ttl, ONE),
    read("type", 2, Verb::Type, ONE),
    write("unlink", -2, Verb::Del, ALL),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_name_is_found() {
        assert!(SPECS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for spec in SPECS {
            assert_eq!(lookup(spec.name.to_uppercase().as_bytes()), Some(spec));
        }
        assert_eq!(lookup(b"nonsense"), None);
        assert_eq!(lookup(b""), None);
        assert_eq!(lookup(&[b'a'; 1000]), None);
    }

    #[test]
    fn arity_counts_the_name() {
        assert!(arity_allows(2, 2) && !arity_allows(2, 3) && !arity_allows(2, 1));
        assert!(arity_allows(-2, 2) && arity_allows(-2, 3) && !arity_allows(-2, 1));
    }
}
