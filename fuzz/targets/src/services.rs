//! What clients ask of services, and what services answer.
//!
//! Owns the targets for RESP, operations and their answers. Execution is part of them: an operation
//! that parses must be executed without a panic, by two replicas alike.

use tetrarch_consensus::{
    ClientId, ConsensusId, Context, Digest, Replies, RequestValidator, RequestView, Sequence,
    StateMachine, ViewId,
};
use tetrarch_services::kv::op::{Operation, OperationWriter};
use tetrarch_services::kv::reply::Reply;
use tetrarch_services::kv::{KvConfig, KvService, KvValidator, text};
use tetrarch_services::maplist::{self, MapListLimits, MapListService, MapListValidator};
use tetrarch_services::null::{NullService, NullValidator};
use tetrarch_services::resp::{Limits, Parser};
use tetrarch_services::wire::Reader;

const NOW_NS: u64 = 1_700_000_000_000_000_000;
/// Operations of one input at most: the rest would only cost time.
const OPERATIONS_MAX: usize = 16;

/// Keeps what a service answered.
#[derive(Default)]
struct Kept(Vec<Vec<u8>>);

impl Replies for Kept {
    fn reply(&mut self, _to: ClientId, size: usize) -> &mut [u8] {
        self.0.push(vec![0xee; size]);
        self.0.last_mut().expect("pushed a line above")
    }
}

fn view(number: u64, operation: &[u8]) -> RequestView<'_> {
    RequestView {
        client: ClientId(1),
        sequence: Sequence(number),
        digest: Digest::ZERO,
        operation,
        body: operation,
        auth: 0,
        proof: &[],
    }
}

/// Executes `operation` as batch `number`, and answers it as a read-only request before and after.
/// Returns the reply to the execution.
pub(crate) fn execute(service: &mut impl StateMachine, number: u64, operation: &[u8]) -> Vec<u8> {
    let timestamp_ns = NOW_NS + number * 1_000_000;
    let context = Context { cid: ConsensusId(number), view: ViewId(0), timestamp_ns, seed: 0 };
    let mut replies = Kept::default();
    let before = state(service);
    service.query(&view(number, operation), &mut replies);
    assert_eq!(state(service), before, "a query changed the state");
    service.execute(&context, &view(number, operation), &mut replies);
    service.end_batch(&context);
    service.query(&view(number, operation), &mut replies);
    assert_eq!(replies.0.len(), 3, "one reply a request");
    replies.0.swap_remove(1)
}

/// Executes `operation` on two replicas; they must agree on the reply and on the state.
fn execute_twice<S: StateMachine>(pair: &mut [S; 2], number: u64, operation: &[u8]) -> Vec<u8> {
    let [one, other] = pair;
    let reply = execute(one, number, operation);
    assert_eq!(execute(other, number, operation), reply, "replies differ");
    assert_eq!(state(one), state(other), "states differ");
    reply
}

/// All that a service keeps. Cheaper than the digest, which hashes every part of an empty state.
pub(crate) fn state(service: &impl StateMachine) -> Vec<u8> {
    let mut bytes = Vec::new();
    service.snapshot(&mut |piece| bytes.extend_from_slice(piece));
    bytes
}

/// Equal states must have equal digests, whatever their history. Compared for one input in 16.
fn digests_agree(pair: &[impl StateMachine; 2], data: &[u8]) {
    if data.len().is_multiple_of(16) {
        assert_eq!(pair[0].digest(), pair[1].digest());
    }
}

/// Cuts `data` into pieces: a byte that is the size, 255 for all that is left, and as many bytes.
fn pieces(data: &[u8]) -> Vec<&[u8]> {
    let mut rest = data;
    let mut pieces = Vec::new();
    while let Some((size, after)) = rest.split_first() {
        let size = if *size == u8::MAX { after.len() } else { usize::from(*size) };
        let (piece, after) = after.split_at(after.len().min(size));
        pieces.push(piece);
        rest = after;
        if pieces.len() == OPERATIONS_MAX {
            break;
        }
    }
    pieces
}

/// Bytes of a Redis client, in two pieces and as a whole: the same commands. Each command that the
/// store knows becomes an operation that the store accepts and executes.
pub fn resp(data: &[u8]) {
    let mut service = KvService::new(KvConfig::default());
    let mut commands = 0;
    let limits = Limits { inline_size_max: 512, command_size_max: 2048, ..Limits::default() };
    let mut rest = data;
    loop {
        let mut whole = Parser::new(limits);
        let result = whole.advance(rest);
        let mut parts = Parser::new(limits);
        let first = parts.advance(&rest[..rest.len() / 2]);
        match first {
            Ok(None) => assert_eq!(parts.advance(rest), result, "pieces make another command"),
            // Complete or wrong before its end: more bytes change nothing.
            done => assert_eq!(done, result, "more bytes make another command"),
        }
        let Ok(Some(size)) = result else { return };
        assert!(size > 0 && size <= rest.len());
        let words: Vec<&[u8]> = whole.words(rest).collect();
        assert_eq!(parts.words(rest).collect::<Vec<_>>(), words);
        match text::parse(&words) {
            Ok(command) => {
                let mut writer = OperationWriter::new();
                writer.push(&command);
                let operation = Operation::parse(writer.bytes()).expect("what we write parses");
                assert_eq!(operation.commands().collect::<Vec<_>>(), [command]);
                commands += 1;
                let reply = execute(&mut service, commands, writer.bytes());
                assert!(walk(&reply, 1), "an answer that cannot be read");
            }
            Err(error) => {
                let mut line = Vec::new();
                error.write(&words, &mut line);
                assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n')), "two lines");
            }
        }
        rest = &rest[size..];
        if rest.is_empty() || commands == OPERATIONS_MAX as u64 {
            return;
        }
    }
}

/// Operations of the key-value store. One that parses is written back to the same bytes; every one
/// is executed, and answered with as many replies as it has commands.
pub fn kv_operation(data: &[u8]) {
    let mut pair = [(); 2].map(|()| KvService::new(KvConfig::default()));
    for (number, bytes) in (1..).zip(pieces(data)) {
        let parsed = Operation::parse(bytes);
        assert_eq!(KvValidator.valid(bytes), parsed.is_ok());
        let reply = execute_twice(&mut pair, number, bytes);
        let Ok(operation) = parsed else { continue };
        let mut writer = OperationWriter::new();
        operation.commands().for_each(|command| writer.push(&command));
        writer.set_attempt(operation.attempt);
        if operation.transaction {
            writer.set_transaction();
        }
        assert_eq!(writer.bytes(), bytes, "another encoding of the same operation");
        assert!(walk(&reply, operation.count()), "an answer that cannot be read");
    }
    digests_agree(&pair, data);
}

/// Does `bytes` hold `count` replies, with all that belongs to them, and nothing else?
fn walk(bytes: &[u8], count: usize) -> bool {
    let mut reader = Reader::new(bytes);
    let mut missing = count;
    while missing > 0 {
        let Ok(reply) = Reply::read(&mut reader) else { return false };
        missing = missing.saturating_add(reply.children()) - 1;
    }
    reader.is_empty()
}

/// What a replica answers, read by a client that was lied to.
pub fn kv_reply(data: &[u8]) {
    let mut reader = Reader::new(data);
    let mut left = data.len();
    while let Ok(reply) = Reply::read(&mut reader) {
        assert!(reader.rest().len() < left, "a reply of no bytes");
        left = reader.rest().len();
        let _ = reply.children();
    }
    let _ = walk(data, data.len());
}

/// Operations of BFTMapList, as those of the store.
pub fn maplist_operation(data: &[u8]) {
    let mut pair = [(); 2].map(|()| MapListService::new(MapListLimits::default()));
    for (number, bytes) in (1..).zip(pieces(data)) {
        let parsed = maplist::Operation::parse(bytes);
        assert_eq!(MapListValidator.valid(bytes), parsed.is_ok());
        if let Ok(operation) = parsed {
            let mut again = Vec::new();
            operation.write(&mut again);
            assert_eq!(again, bytes, "another encoding of the same operation");
        }
        let reply = execute_twice(&mut pair, number, bytes);
        let answer = maplist::Answer::parse(&reply).expect("what the service writes parses");
        assert_eq!(answer == maplist::Answer::Malformed, parsed.is_err());
    }
    digests_agree(&pair, data);
}

/// An answer of BFTMapList that parses is written back to the same bytes.
pub fn maplist_answer(data: &[u8]) {
    if let Ok(answer) = maplist::Answer::parse(data) {
        let mut again = Vec::new();
        answer.write(&mut again);
        assert_eq!(again, data);
    }
}

/// The null service answers what passes its validator with the size asked for.
pub fn null_operation(data: &[u8]) {
    let mut pair = [NullService::new(), NullService::new()];
    let reply = execute_twice(&mut pair, 1, data);
    let wanted = data.first_chunk().map_or(0, |size| u32::from_le_bytes(*size) as usize);
    assert_eq!(reply.len(), if NullValidator.valid(data) { wanted } else { 0 });
    assert_eq!(pair[0].executed(), 1);
}
