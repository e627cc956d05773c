//! The state of one connection.
//!
//! Owns its socket, its half message and its transmit queue. Always true: one turn reads and writes
//! a bounded number of bytes. Must not: know other connections.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};

use mio::net::TcpStream;

use super::reassembly::{Reassembly, Sink, Stop};
use super::tx_queue::TxQueue;
use crate::endpoint::{ConnId, EndpointCounts, MESSAGE_SIZE_MAX_UNAUTHENTICATED};
use crate::limits::HEADER_SIZE;
use crate::types::Instant;

/// A connection, from the first attempt to dial or its acceptance.
pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) id: ConnId,
    /// Which entry of the list of peers to dial made it.
    pub(super) dial: Option<usize>,
    /// Dialled and not established.
    pub(super) connecting: bool,
    /// The user raised its limit.
    pub(super) authenticated: bool,
    pub(super) opened: Instant,
    /// The largest message accepted.
    pub(super) limit: u32,
    /// The kernel may have bytes for us.
    pub(super) readable: bool,
    /// The kernel said the other side closed: read until the end, even after a short read.
    pub(super) ending: bool,
    /// The kernel may take bytes.
    pub(super) writable: bool,
    /// It is in the queue of those to read from.
    pub(super) rx_queued: bool,
    /// It is in the queue of those to write to.
    pub(super) tx_queued: bool,
    /// Bytes that were read and not taken.
    pub(super) held: Option<Held>,
}

/// A receive buffer with bytes that wait for a slot or for room.
pub(super) struct Held {
    pub(super) buffer: Box<[u8]>,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// How a turn of reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RxTurn {
    /// Nothing more for now; the kernel will say.
    Idle,
    /// There may be more: give it another turn.
    More,
    /// No slot is free.
    Stalled,
    /// No receive buffer is free.
    NoBuffer,
    /// The other side closed, or the socket failed.
    Ended,
    /// The bytes are not our messages.
    Malformed,
}

/// How a turn of writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TxTurn {
    /// All is written, or the kernel will say when to go on.
    Idle,
    /// There is more: give it another turn.
    More,
    /// The socket failed.
    Failed,
}

impl Conn {
    pub(super) fn new(
        stream: TcpStream,
        id: ConnId,
        dial: Option<usize>,
        connecting: bool,
        opened: Instant,
    ) -> Self {
        Self {
            stream,
            id,
            dial,
            connecting,
            authenticated: false,
            opened,
            limit: MESSAGE_SIZE_MAX_UNAUTHENTICATED,
            readable: false,
            ending: false,
            writable: false,
            rx_queued: false,
            tx_queued: false,
            held: None,
        }
    }

    /// Take what was read, read more, until a limit is reached.
    pub(super) fn rx_turn(
        &mut self,
        reassembly: &mut Reassembly,
        buffers: &mut Vec<Box<[u8]>>,
        bytes_max: usize,
        sink: &mut Sink<'_>,
        counts: &mut EndpointCounts,
    ) -> RxTurn {
        let mut bytes = 0;
        loop {
            if let Some(held) = &mut self.held {
                let mut input = &held.buffer[held.start..held.end];
                let stop = take_counted(reassembly, &mut input, sink, counts);
                held.start = held.end - input.len();
                match stop {
                    Some(Stop::NeedMore) => {}
                    Some(Stop::Full) => return RxTurn::More,
                    Some(Stop::PoolExhausted) => return RxTurn::Stalled,
                    None => return RxTurn::Malformed,
                }
                if let Some(held) = self.held.take() {
                    buffers.push(held.buffer);
                }
            }
            if !self.readable {
                return RxTurn::Idle;
            }
            if bytes >= bytes_max || sink.into.is_full() {
                return RxTurn::More;
            }
            let Some(buffer) = buffers.pop() else {
                return RxTurn::NoBuffer;
            };
            match self.read(buffer, reassembly, buffers, sink, counts) {
                Ok(0) => return RxTurn::Ended,
                Ok(count) => bytes += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return RxTurn::Ended,
            }
        }
    }

    /// Read once: first into the slot of a large message, the rest into `buffer`.
    fn read(
        &mut self,
        mut buffer: Box<[u8]>,
        reassembly: &mut Reassembly,
        buffers: &mut Vec<Box<[u8]>>,
        sink: &mut Sink<'_>,
        counts: &mut EndpointCounts,
    ) -> io::Result<usize> {
        let space = reassembly.space().unwrap_or(&mut []);
        let (direct, asked) = (space.len(), space.len() + buffer.len());
        let read = if direct == 0 {
            self.stream.read(&mut buffer)
        } else {
            let mut slices = [IoSliceMut::new(space), IoSliceMut::new(&mut buffer)];
            self.stream.read_vectored(&mut slices)
        };
        let count = *read.as_ref().unwrap_or(&0);
        if count > 0 && count < asked && !self.ending {
            // The kernel had no more. What comes later is a new event.
            self.readable = false;
        }
        if direct > 0
            && count > 0
            && let Some(message) = reassembly.advance(sink.conn, count.min(direct))
        {
            note_rx(counts, message.body.size());
            // There is room: the turn looked before it read.
            let pushed = sink.into.push(message);
            debug_assert!(pushed.is_ok());
        }
        if count > direct {
            self.held = Some(Held { buffer, start: 0, end: count - direct });
        } else {
            buffers.push(buffer);
        }
        read
    }

    /// Write what is queued, until a limit is reached.
    pub(super) fn tx_turn(
        &mut self,
        queue: &mut TxQueue,
        scratch: &mut [u8],
        bytes_max: usize,
        counts: &mut EndpointCounts,
    ) -> TxTurn {
        let mut bytes = 0;
        while !queue.is_empty() && self.writable {
            if bytes >= bytes_max {
                return TxTurn::More;
            }
            let stream = &mut self.stream;
            let write = |slices: &[IoSlice<'_>]| match slices {
                [one] => stream.write(one),
                many => stream.write_vectored(many),
            };
            match queue.write_with(scratch, write) {
                Ok(written) => {
                    bytes += written.bytes;
                    counts.tx_bytes += written.bytes as u64;
                    counts.tx_messages += written.messages as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return TxTurn::Failed,
            }
        }
        TxTurn::Idle
    }
}

/// Reassemble, and count the messages that became whole. `None`: malformed.
fn take_counted(
    reassembly: &mut Reassembly,
    input: &mut &[u8],
    sink: &mut Sink<'_>,
    counts: &mut EndpointCounts,
) -> Option<Stop> {
    let before = sink.into.len();
    let stop = reassembly.take(input, sink);
    for message in sink.into.iter().skip(before) {
        note_rx(counts, message.body.size());
    }
    stop.ok()
}

fn note_rx(counts: &mut EndpointCounts, body_size: usize) {
    counts.rx_messages += 1;
    counts.rx_bytes += (HEADER_SIZE + body_size) as u64;
}
