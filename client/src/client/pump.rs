//! What the client's thread does: commands in, polls, results out.
//!
//! Owns the driver and what is known of each operation in flight. Always true: an operation that was
//! given up by its caller stays in flight in the core, because later ones of its session follow it.
//! Must not: block outside [`ClientDriver::park`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tetrarch_consensus::smr::client::{Busy, Outcome, Ticket};
use tetrarch_dataplane::clock::{Clock, SystemClock};
use tetrarch_dataplane::types::Instant;

use super::parked::Parked;
use super::{Command, Listener, PARK_MAX, Shared, Sink};
use crate::config::ClientConfig;
use crate::driver::{ClientDriver, Completion};
use crate::error::{ClientError, ConnectError};

/// The thread's state.
pub(super) struct Pump {
    driver: ClientDriver,
    shared: Arc<Shared>,
    clock: SystemClock,
    operation_timeout: Duration,
    connect_timeout: Duration,
    /// Told once whether enough replicas are connected.
    ready: SyncSender<Result<(), ConnectError>>,
    /// Taken from the shared queue; swapped with it, so that both keep their memory.
    commands: Vec<Command>,
    /// Commands that were not tried yet, or that there was no memory for; oldest first.
    waiting: VecDeque<Command>,
    /// Commands whose sessions have no room for them.
    parked: Parked,
    /// By [`Ticket::index`]: what to do with the result.
    in_flight: Vec<Option<(Ticket, Command)>>,
    /// Operations by the time at which their callers give up, oldest first.
    deadlines: VecDeque<(Instant, Ticket)>,
    completions: Vec<Completion>,
    /// By session.
    listeners: HashMap<u32, Listener>,
}

impl Pump {
    pub(super) fn new(
        driver: ClientDriver,
        shared: Arc<Shared>,
        config: &ClientConfig,
        ready: SyncSender<Result<(), ConnectError>>,
    ) -> Self {
        Self {
            driver,
            shared,
            clock: SystemClock::new(),
            operation_timeout: config.operation_timeout,
            connect_timeout: config.connect_timeout,
            ready,
            commands: Vec::new(),
            waiting: VecDeque::new(),
            parked: Parked::default(),
            in_flight: Vec::new(),
            deadlines: VecDeque::new(),
            completions: Vec::new(),
            listeners: HashMap::new(),
        }
    }

    pub(super) fn run(mut self) {
        let connected = self.driver.connect(&self.clock, self.connect_timeout);
        let serves = connected.is_ok();
        // Whoever waits for this may be gone.
        drop(self.ready.try_send(connected));
        if serves {
            self.serve();
        }
        self.close();
    }

    /// Does what callers want until the client is closed.
    fn serve(&mut self) {
        loop {
            let now = self.clock.now();
            if !self.take_commands(now) {
                return;
            }
            self.start_waiting(now);
            let worked = self.driver.poll(now, &mut self.completions);
            self.hand_over_completions();
            while let Some(notice) = self.driver.notice() {
                if let Some(listener) = self.listeners.get_mut(&notice.client.session()) {
                    listener(notice);
                }
            }
            self.give_up(now);
            if !worked {
                let limit = self.deadlines.front().map(|(due, _)| due.since(now));
                self.driver.park(now, limit.unwrap_or(PARK_MAX).min(PARK_MAX));
            }
        }
    }

    /// `false` when the client was closed.
    fn take_commands(&mut self, now: Instant) -> bool {
        let mut queue = self.shared.lock();
        std::mem::swap(&mut queue.commands, &mut self.commands);
        for (session, listener) in queue.listeners.drain(..) {
            match listener {
                Some(listener) => self.listeners.insert(session, listener),
                None => self.listeners.remove(&session),
            };
        }
        let closed = queue.closed;
        drop(queue);
        for mut command in self.commands.drain(..) {
            command.due = now + self.operation_timeout;
            self.waiting.push_back(command);
        }
        !closed
    }

    /// Starts what there is room for, in the order of each session.
    fn start_waiting(&mut self, now: Instant) {
        while let Some(session) = self.parked.pop_ready() {
            while let Some(command) = self.parked.pop(session) {
                let Err((command, busy)) = self.start(now, command) else { continue };
                self.parked.put_back(command, busy);
                if busy == Busy::Memory {
                    // Nothing in this session need end before there is memory.
                    return self.parked.note_room(session);
                }
                break;
            }
        }
        while let Some(command) = self.waiting.pop_front() {
            if self.parked.holds(command.place.number) {
                self.parked.push(command, None);
                continue;
            }
            match self.start(now, command) {
                Ok(()) => {}
                Err((command, busy)) if command.due <= now => {
                    // It was never sent, and its caller has waited long enough.
                    command.end(Err(ClientError::Busy(busy)));
                }
                Err((command, Busy::Memory)) => return self.waiting.push_front(command),
                Err((command, busy)) => self.parked.push(command, Some(busy)),
            }
        }
    }

    /// Starts `command`, or ends it if it can never be. Gives it back when there is no room now.
    fn start(&mut self, now: Instant, command: Command) -> Result<(), (Command, Busy)> {
        let (session, mode) = (command.place.number, command.mode);
        match self.driver.submit(now, session, mode, &command.operation) {
            Ok(ticket) => {
                if self.in_flight.len() <= ticket.index() {
                    self.in_flight.resize_with(ticket.index() + 1, || None);
                }
                self.deadlines.push_back((command.due, ticket));
                self.in_flight[ticket.index()] = Some((ticket, command));
            }
            Err(busy @ (Busy::Window | Busy::Memory | Busy::Overload)) => {
                return Err((command, busy));
            }
            Err(busy) => {
                let size = command.operation.len();
                command.end(Err(ClientError::from_busy(busy, size)));
            }
        }
        Ok(())
    }

    fn hand_over_completions(&mut self) {
        for Completion { ticket, session, outcome } in self.completions.drain(..) {
            self.parked.note_room(session);
            let place = self.in_flight.get_mut(ticket.index());
            // Its caller may have given up.
            let Some((_, command)) = place.and_then(Option::take) else { continue };
            command.end(match outcome {
                Outcome::Done(result) => Ok(result.to_vec()),
                Outcome::Forgotten => Err(ClientError::Forgotten),
                Outcome::Refused => Err(ClientError::Refused),
            });
        }
    }

    /// Tells callers who have waited long enough. Their place in the window stays taken until the
    /// operation ends.
    fn give_up(&mut self, now: Instant) {
        while let Some((command, busy)) = self.parked.pop_overdue(now) {
            command.end(Err(ClientError::Busy(busy)));
        }
        while let Some(&(due, ticket)) = self.deadlines.front() {
            let known = self.in_flight.get_mut(ticket.index());
            let mine = known.and_then(Option::as_mut).filter(|(other, _)| *other == ticket);
            if mine.is_some() && due > now {
                return;
            }
            self.deadlines.pop_front();
            let (Some((_, command)), Some(heard)) = (mine, self.driver.heard(ticket)) else {
                continue;
            };
            let error = ClientError::Timeout {
                heard,
                connected: self.driver.connected(),
                after: self.operation_timeout,
            };
            let nobody = Sink::Callback(Box::new(|_| {}));
            std::mem::replace(&mut command.sink, nobody).put(Err(error));
        }
    }

    fn close(mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        std::mem::swap(&mut queue.commands, &mut self.commands);
        drop(queue);
        let in_flight = self.in_flight.drain(..).flatten().map(|(_, command)| command);
        let parked = self.parked.drain().chain(self.waiting.drain(..));
        for command in self.commands.drain(..).chain(parked).chain(in_flight) {
            command.end(Err(ClientError::Closed));
        }
    }
}
