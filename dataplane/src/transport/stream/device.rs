//! What the endpoints over TCP connections do alike, whatever moves the bytes.
//!
//! Owns nothing: it works on the table of a [`Device`]. Always true: each connection that has bytes
//! gets one turn, so that none keeps the others waiting; one who knocks gets a place within the
//! limits, or none. Must not: do IO itself.

use std::net::SocketAddr;
use std::time::Duration;

use super::dial::DialStep;
use super::table::{Admission, Table};
use crate::burst::Burst;
use crate::endpoint::{ConnId, RawReceived};
use crate::types::PeerId;

/// The kernel is asked for events at least every so many bursts, also when there is work.
pub(in crate::transport) const POLL_EVERY: u32 = 8;
/// How long to wait for a slot or buffer before looking again: nobody tells us.
pub(in crate::transport) const STALL_RETRY: Duration = Duration::from_millis(1);

/// How a turn of a connection that may have bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum RxTurn {
    /// Nothing more for now; the kernel will say.
    Idle,
    /// There may be more: give it another turn.
    More,
    /// No slot is free.
    Stalled,
    /// No buffer to receive into is free.
    NoBuffer,
    /// The other side closed, or the socket failed.
    Ended,
    /// The bytes are not our messages.
    Malformed,
}

/// What moves the bytes of one core's connections.
pub(in crate::transport) trait Device {
    /// What it keeps for a connection.
    type Socket;

    /// Its connections.
    fn table(&mut self) -> &mut Table<Self::Socket>;
    /// Begin to connect to `address`. `None`: that failed at once.
    fn connect(&mut self, id: ConnId, address: SocketAddr) -> Option<Self::Socket>;
    /// Take what a connection received, until a limit is reached.
    fn rx_turn(&mut self, id: ConnId, into: &mut Burst<RawReceived>) -> RxTurn;
    /// Close a connection and forget it.
    fn remove(&mut self, id: ConnId);

    /// A place for one who knocks. `None`: close the connection.
    fn place_for_guest(&mut self) -> Option<ConnId> {
        loop {
            match self.table().admission() {
                Admission::Admit => return self.table().take_place(),
                Admission::Evict(oldest) => self.remove(oldest),
                Admission::Refuse => return None,
            }
        }
    }

    /// Begin the attempts that are due, end those that take too long.
    fn dial_due(&mut self) {
        for index in 0..self.table().dials.len() {
            match self.table().dial_step(index) {
                Some(DialStep::Begin) => self.dial(index),
                Some(DialStep::GiveUp(id)) => self.remove(id),
                None => {}
            }
        }
    }

    /// As [`Endpoint::set_dials`](crate::endpoint::Endpoint::set_dials).
    fn change_dials(&mut self, wanted: &[(PeerId, SocketAddr)]) {
        for id in self.table().unwanted_dials(wanted) {
            self.remove(id);
        }
        self.table().set_dials(wanted);
    }

    /// Begin one attempt.
    fn dial(&mut self, index: usize) {
        let table = self.table();
        let address = table.dials[index].address;
        let Some(id) = table.take_place() else {
            return table.dial_later(index);
        };
        match self.connect(id, address) {
            Some(socket) => self.table().begin_dial(index, id, socket),
            None => {
                self.table().give_back(id);
                self.table().fail_dial(index);
            }
        }
    }

    /// Give each connection that may have bytes one turn, until `into` is full.
    fn take_received(&mut self, into: &mut Burst<RawReceived>) {
        let mut waiting = 0;
        self.table().stalled = false;
        for _ in 0..self.table().rx_waiting() {
            if into.is_full() {
                return;
            }
            let Some(id) = self.table().next_rx() else {
                break;
            };
            let outcome = self.rx_turn(id, into);
            match outcome {
                RxTurn::Idle => {}
                RxTurn::More => self.table().queue_rx(id),
                RxTurn::Stalled | RxTurn::NoBuffer => {
                    if outcome == RxTurn::Stalled {
                        self.table().counts.pool_exhausted += 1;
                    }
                    waiting += 1;
                    self.table().queue_rx(id);
                }
                RxTurn::Ended => self.remove(id),
                RxTurn::Malformed => {
                    self.table().counts.malformed += 1;
                    self.remove(id);
                }
            }
        }
        let table = self.table();
        table.stalled = waiting > 0 && waiting == table.rx_waiting();
    }
}
