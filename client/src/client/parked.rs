//! Commands whose sessions have no room for them at present.
//!
//! Owns their order. Always true: commands of a session start in the order in which they came, and
//! no session waits for another one's room. Must not: start them; the pump does.

use std::collections::VecDeque;

use tetrarch_consensus::smr::client::Busy;
use tetrarch_dataplane::types::Instant;

use super::Command;

/// See the module.
#[derive(Default)]
pub(super) struct Parked {
    /// By session number.
    sessions: Vec<Line>,
    /// Sessions that may have room again.
    ready: VecDeque<u32>,
    /// When the caller of each gives up, and in which session: oldest first, with those that have been
    /// started.
    deadlines: VecDeque<(Instant, u32)>,
}

/// What waits in one session.
#[derive(Default)]
struct Line {
    /// Oldest first.
    commands: VecDeque<Command>,
    /// Why the oldest could not be started.
    why: Option<Busy>,
}

impl Parked {
    /// Does anything of this session wait?
    pub(super) fn holds(&self, session: u32) -> bool {
        self.sessions.get(session as usize).is_some_and(|line| !line.commands.is_empty())
    }

    /// Has `command` wait behind those of its session, which hold back for the reason that is known, or
    /// because of `why`.
    pub(super) fn push(&mut self, command: Command, why: Option<Busy>) {
        let session = command.place.number;
        self.deadlines.push_back((command.due, session));
        if self.sessions.len() <= session as usize {
            self.sessions.resize_with(session as usize + 1, Line::default);
        }
        let line = &mut self.sessions[session as usize];
        line.why = why.or(line.why);
        line.commands.push_back(command);
    }

    /// An operation of this session ended.
    pub(super) fn note_room(&mut self, session: u32) {
        if self.holds(session) {
            self.ready.push_back(session);
        }
    }

    /// A session that may have room again.
    pub(super) fn pop_ready(&mut self) -> Option<u32> {
        self.ready.pop_front()
    }

    /// Its oldest command.
    pub(super) fn pop(&mut self, session: u32) -> Option<Command> {
        self.sessions.get_mut(session as usize)?.commands.pop_front()
    }

    /// There was no room for what [`Parked::pop`] gave.
    pub(super) fn put_back(&mut self, command: Command, why: Busy) {
        let line = &mut self.sessions[command.place.number as usize];
        line.why = Some(why);
        line.commands.push_front(command);
    }

    /// A command whose caller has waited long enough, and for what.
    pub(super) fn pop_overdue(&mut self, now: Instant) -> Option<(Command, Busy)> {
        while let Some(&(due, session)) = self.deadlines.front() {
            if due > now {
                return None;
            }
            self.deadlines.pop_front();
            // It may have been started; then those behind it are due later.
            let line = &mut self.sessions[session as usize];
            if line.commands.front().is_some_and(|command| command.due <= now) {
                let why = line.why.unwrap_or(Busy::Window);
                return line.commands.pop_front().map(|command| (command, why));
            }
        }
        None
    }

    /// Everything that waits.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.sessions.iter_mut().flat_map(|line| line.commands.drain(..))
    }
}
