//! One connection's commands on their way to the cluster, and their replies on the way back.
//!
//! Consecutive commands travel together in one operation (a *group*). Always true: replies leave in
//! the order of the commands; a command takes effect after those before it on the same connection,
//! because operations of one session are executed in order, ordered and read-only operations are
//! never in flight together, and what the store skipped is sent again before anything newer.

use std::collections::VecDeque;

use super::cluster::{Cluster, Failure, Mode, Refusal};
use super::convert::{self, Answered};
use crate::kv::command::Command;
use crate::kv::limits::COMMANDS_MAX;
use crate::kv::op::{Operation, OperationWriter};
use crate::resp::{Protocol, RespWriter};
use crate::wire::{Malformed, Reader};

/// Commands in one group. Larger groups save little, and are executed without pause.
const GROUP_COMMANDS_MAX: usize = 256;
/// Bytes of a group to which another command is added.
const GROUP_SIZE_MAX: usize = 32 * 1024;
/// Groups of one connection in flight: half of what a session may have.
const IN_FLIGHT_MAX: usize = 32;
const _: () = assert!(GROUP_COMMANDS_MAX <= COMMANDS_MAX);
const _: () = assert!(IN_FLIGHT_MAX <= tetrarch_consensus::limits::SESSION_WINDOW);

/// Bytes of replies in flight, as far as one can tell from the last ones. Replicas keep about as much
/// for a session: a reply that is lost on the way and not kept any more is lost for good.
const REPLIES_SIZE_MAX: usize = 256 * 1024;

/// Bytes of operations and replies that a connection holds before it reads no further.
const HELD_SIZE_MAX: usize = 1024 * 1024;
/// Replies owed before a connection reads no further.
const OWED_MAX: usize = 16 * 1024;

#[derive(Debug)]
enum State {
    /// Takes more commands; only the last group can be open.
    Open,
    Waiting,
    InFlight(Mode),
    /// Answered: the reply, and how much of it was used.
    Done(Vec<u8>, usize),
    /// Never to be answered.
    Failed(Refused),
}

#[derive(Clone, Copy, Debug)]
enum Refused {
    Failure(Failure),
    Refusal(Refusal),
    Malformed,
}

impl Refused {
    fn write(self, writer: &mut RespWriter<'_>) {
        match self {
            Refused::Failure(failure) => writer.error(&failure.to_string()),
            Refused::Refusal(Refusal::TooLarge) => {
                writer.error("ERR the command is larger than an operation may be (256 KiB)");
            }
            Refused::Refusal(Refusal::Busy | Refusal::Unavailable) => {
                writer.error("CLUSTERDOWN too few replicas are connected; nothing was executed");
            }
            Refused::Refusal(Refusal::Overloaded) => {
                writer.error("TRYAGAIN the cluster is overloaded; nothing was executed");
            }
            Refused::Malformed => writer.error("ERR the cluster's reply is malformed"),
        }
    }
}

#[derive(Debug)]
struct Group {
    number: u32,
    operation: OperationWriter,
    /// No command writes, and the connection wants such commands read.
    read_only: bool,
    transaction: bool,
    state: State,
    /// Commands that were not answered to the client yet.
    owed: usize,
}

/// What the client waits for, in order.
#[derive(Debug)]
enum Owed {
    /// Bytes that are known already.
    Local(Vec<u8>),
    /// The next `count` replies of the groups.
    Replies { count: usize, protocol: Protocol },
    /// The replies of a transaction, as one array.
    Transaction { count: usize, protocol: Protocol },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    groups: VecDeque<Group>,
    owed: VecDeque<Owed>,
    owed_count: usize,
    held_size: usize,
    next_number: u32,
    attempt: u16,
    in_flight: usize,
    /// Bytes of a large reply lately.
    reply_size: usize,
    /// Something came back unanswered: nothing is sent until all in flight is back.
    stalled: bool,
    /// Emptied operations, to be used again.
    spare: Vec<OperationWriter>,
}

impl Pipeline {
    /// Is there no room for more commands?
    pub fn is_full(&self) -> bool {
        self.held_size >= HELD_SIZE_MAX || self.owed_count >= OWED_MAX
    }

    /// Is nothing owed to the client?
    pub fn is_idle(&self) -> bool {
        self.owed.is_empty()
    }

    /// Groups whose completion will come.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Answers a command here. `out` is the connection's output.
    pub fn local(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        if self.owed.is_empty() {
            return write(out);
        }
        if let Some(Owed::Local(bytes)) = self.owed.back_mut() {
            let before = bytes.len();
            write(bytes);
            self.held_size += bytes.len() - before;
            return;
        }
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.held_size += bytes.len();
        self.owed_count += 1;
        self.owed.push_back(Owed::Local(bytes));
    }

    /// Adds a command for the store. `read`: it may be answered without being ordered.
    pub fn command(&mut self, command: &Command<'_>, read: bool, protocol: Protocol) {
        let extend = self.groups.back().is_some_and(|group| {
            matches!(group.state, State::Open)
                && group.operation.count() < GROUP_COMMANDS_MAX
                && group.operation.size() < GROUP_SIZE_MAX
        });
        if !extend {
            self.push_group(read, false);
        }
        let Some(group) = self.groups.back_mut() else { return };
        let before = group.operation.size();
        group.operation.push(command);
        group.owed += 1;
        // Reads between writes are ordered with them: better than waiting at every change.
        group.read_only &= read;
        self.held_size += group.operation.size() - before;
        // A large command travels alone: beside others it might exceed what an operation may be.
        if group.operation.size() >= GROUP_SIZE_MAX && group.operation.count() > 1 {
            self.split_last();
        }
        self.owe_replies(1, protocol);
    }

    /// Adds a transaction.
    pub fn transaction(&mut self, operation: &mut OperationWriter, protocol: Protocol) {
        let count = operation.count();
        if count == 0 {
            return;
        }
        self.close();
        self.push_group(false, true);
        let Some(group) = self.groups.back_mut() else { return };
        std::mem::swap(&mut group.operation, operation);
        group.operation.set_transaction();
        group.owed = count;
        group.state = State::Waiting;
        self.held_size += group.operation.size();
        self.owed_count += count;
        self.owed.push_back(Owed::Transaction { count, protocol });
    }

    /// No more commands come for now: the last group goes as it is.
    pub fn close(&mut self) {
        if let Some(group) = self.groups.back_mut()
            && matches!(group.state, State::Open)
        {
            group.state = State::Waiting;
        }
    }

    /// Sends what may be sent. `tag` makes a tag of a group's number. True when the cluster was busy.
    pub fn submit(
        &mut self,
        cluster: &mut dyn Cluster,
        session: u32,
        tag: impl Fn(u32) -> u64,
    ) -> bool {
        if self.stalled {
            return false;
        }
        self.close();
        let flying = self.groups.iter().find_map(|group| match group.state {
            State::InFlight(mode) => Some(mode),
            _ => None,
        });
        let mut flying = flying;
        let in_flight_max = (REPLIES_SIZE_MAX / self.reply_size.max(1)).clamp(1, IN_FLIGHT_MAX);
        for group in &mut self.groups {
            if !matches!(group.state, State::Waiting) {
                continue;
            }
            let mode = if group.read_only { Mode::ReadOnly } else { Mode::Ordered };
            if flying.is_some_and(|flying| flying != mode) || self.in_flight >= in_flight_max {
                return false;
            }
            group.operation.set_attempt(self.attempt);
            match cluster.submit(session, mode, tag(group.number), group.operation.bytes()) {
                Ok(()) => {
                    group.state = State::InFlight(mode);
                    flying = Some(mode);
                    self.in_flight += 1;
                }
                Err(Refusal::Busy) => return true,
                Err(refusal) => group.state = State::Failed(Refused::Refusal(refusal)),
            }
        }
        false
    }

    /// Takes the answer to a group.
    pub fn complete(&mut self, number: u32, outcome: Result<Vec<u8>, Failure>) {
        let Some(at) = self.groups.iter().position(|group| group.number == number) else {
            return;
        };
        let group = &mut self.groups[at];
        if !matches!(group.state, State::InFlight(_)) {
            return;
        }
        self.in_flight -= 1;
        group.state = match outcome {
            Err(failure) => State::Failed(Refused::Failure(failure)),
            Ok(reply) => match unanswered(&reply, group.owed) {
                Ok(unanswered) => {
                    self.stalled |= unanswered;
                    self.reply_size = reply.len().max(self.reply_size - self.reply_size / 8);
                    self.held_size += reply.len();
                    State::Done(reply, 0)
                }
                Err(_) => State::Failed(Refused::Malformed),
            },
        };
        if self.stalled && self.in_flight == 0 {
            self.stalled = false;
            self.attempt = self.attempt.wrapping_add(1);
            self.send_again();
        }
    }

    /// Writes the replies that are there, in order, until `out` has `limit` bytes: then true.
    pub fn drain(&mut self, out: &mut Vec<u8>, limit: usize) -> bool {
        while let Some(owed) = self.owed.front_mut() {
            if out.len() >= limit {
                return true;
            }
            match owed {
                Owed::Local(bytes) => {
                    self.held_size -= bytes.len();
                    out.append(bytes);
                    self.owed_count -= 1;
                    self.owed.pop_front();
                }
                Owed::Replies { count, protocol } => {
                    let protocol = *protocol;
                    if !Self::write_reply(&mut self.groups, protocol, out) {
                        return false;
                    }
                    *count -= 1;
                    self.owed_count -= 1;
                    if *count == 0 {
                        self.owed.pop_front();
                    }
                }
                Owed::Transaction { count, protocol } => {
                    let (count, protocol) = (*count, *protocol);
                    if !Self::write_transaction(&mut self.groups, count, protocol, out) {
                        return false;
                    }
                    self.owed_count -= count;
                    self.owed.pop_front();
                }
            }
            self.retire();
        }
        false
    }

    /// Writes the next reply; false when it is not there yet.
    fn write_reply(groups: &mut VecDeque<Group>, protocol: Protocol, out: &mut Vec<u8>) -> bool {
        let Some(group) = groups.front_mut() else { return false };
        match &mut group.state {
            State::Failed(refused) => refused.write(&mut RespWriter::new(out, protocol)),
            State::Done(reply, used) => {
                let mut reader = Reader::new(&reply[*used..]);
                let Ok(Answered::Yes) = convert::write(&mut reader, protocol, out) else {
                    return false;
                };
                *used = reply.len() - reader.rest().len();
            }
            _ => return false,
        }
        group.owed -= 1;
        true
    }

    fn write_transaction(
        groups: &mut VecDeque<Group>,
        count: usize,
        protocol: Protocol,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(group) = groups.front_mut() else { return false };
        match &mut group.state {
            State::Failed(refused) => {
                refused.write(&mut RespWriter::new(out, protocol));
                group.owed = 0;
                true
            }
            State::Done(reply, _)
                if convert::pass(&mut Reader::new(reply)) == Ok(Answered::Yes) =>
            {
                RespWriter::new(out, protocol).array(count);
                (0..count).all(|_| Self::write_reply(groups, protocol, out))
            }
            _ => false,
        }
    }

    /// Forgets groups that are answered.
    fn retire(&mut self) {
        while self.groups.front().is_some_and(|group| group.owed == 0) {
            let Some(mut group) = self.groups.pop_front() else { return };
            self.held_size -= group.operation.size();
            if let State::Done(reply, _) = &group.state {
                self.held_size -= reply.len();
            }
            if self.spare.len() < 4 {
                group.operation.clear();
                self.spare.push(group.operation);
            }
        }
    }

    fn owe_replies(&mut self, count: usize, protocol: Protocol) {
        self.owed_count += count;
        if let Some(Owed::Replies { count: owed, protocol: last }) = self.owed.back_mut()
            && *last == protocol
        {
            *owed += count;
            return;
        }
        self.owed.push_back(Owed::Replies { count, protocol });
    }

    fn new_group(&mut self, read_only: bool, transaction: bool) -> Group {
        self.next_number = self.next_number.wrapping_add(1);
        let operation = self.spare.pop().unwrap_or_default();
        let number = self.next_number;
        Group { number, operation, read_only, transaction, state: State::Open, owed: 0 }
    }

    fn push_group(&mut self, read_only: bool, transaction: bool) {
        self.close();
        let group = self.new_group(read_only, transaction);
        if !transaction {
            self.held_size += group.operation.size();
        }
        self.groups.push_back(group);
    }

    /// Moves the last command of the open group into a group of its own.
    fn split_last(&mut self) {
        let Some(group) = self.groups.pop_back() else { return };
        let count = group.operation.count();
        self.held_size -= group.operation.size();
        let (bytes, read_only) = (group.operation.bytes().to_vec(), group.read_only);
        let Ok(operation) = Operation::parse(&bytes) else { return };
        self.push_part(&operation, 0, count - 1, read_only);
        self.close();
        self.push_part(&operation, count - 1, 1, read_only);
    }

    /// A group of `count` commands of `operation`, from number `first` on.
    fn part(
        &mut self,
        operation: &Operation<'_>,
        first: usize,
        count: usize,
        read_only: bool,
    ) -> Group {
        let mut group = self.new_group(read_only, operation.transaction);
        let (from, to) = (operation.tail(first), operation.tail(first + count));
        group.operation.push_encoded(count, &from[..from.len() - to.len()]);
        if operation.transaction {
            group.operation.set_transaction();
        }
        group.owed = count;
        self.held_size += group.operation.size();
        group
    }

    fn push_part(
        &mut self,
        operation: &Operation<'_>,
        first: usize,
        count: usize,
        read_only: bool,
    ) {
        let group = self.part(operation, first, count, read_only);
        self.groups.push_back(group);
    }

    /// Everything in flight is back, and some commands were not answered: they go into new groups,
    /// in their old places. All of these are ordered.
    fn send_again(&mut self) {
        let groups = std::mem::take(&mut self.groups);
        for group in groups {
            let State::Done(reply, used) = &group.state else {
                self.groups.push_back(group);
                continue;
            };
            if unanswered(&reply[*used..], group.owed) != Ok(true) {
                self.groups.push_back(group);
                continue;
            }
            self.held_size -= group.operation.size() + reply.len();
            self.divide(&group, reply, *used);
        }
    }

    /// Divides a group into answered and unanswered stretches.
    fn divide(&mut self, group: &Group, reply: &[u8], used: usize) {
        let Ok(operation) = Operation::parse(group.operation.bytes()) else { return };
        if group.transaction {
            let mut again = self.part(&operation, 0, operation.count(), false);
            again.state = State::Waiting;
            self.groups.push_back(again);
            return;
        }
        let mut reader = Reader::new(&reply[used..]);
        let mut index = operation.count() - group.owed;
        let mut before = None;
        while index < operation.count() {
            let bytes = reader.rest();
            let Ok(kind) = convert::pass(&mut reader) else { return };
            let mut stretch = 1;
            // The first that found no room goes alone: it then has all the room there is.
            if kind != Answered::Skipped || before == Some(Answered::Skipped) {
                let mut next = reader;
                while index + stretch < operation.count() && convert::pass(&mut next) == Ok(kind) {
                    reader = next;
                    stretch += 1;
                }
            }
            before = Some(kind);
            let mut part = self.part(&operation, index, stretch, false);
            part.state = State::Waiting;
            if kind == Answered::Yes {
                let answered = bytes[..bytes.len() - reader.rest().len()].to_vec();
                self.held_size += answered.len();
                part.state = State::Done(answered, 0);
            }
            self.groups.push_back(part);
            index += stretch;
        }
    }
}

/// Does a reply to `count` commands leave any of them unanswered?
fn unanswered(reply: &[u8], count: usize) -> Result<bool, Malformed> {
    let mut reader = Reader::new(reply);
    let mut unanswered = false;
    for _ in 0..count {
        unanswered |= convert::pass(&mut reader)? != Answered::Yes;
    }
    if reader.is_empty() { Ok(unanswered) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests;
