//! The socket of one connection.
//!
//! Owns it, and the bytes that were read and not taken. Always true: one turn reads and writes
//! a bounded number of bytes. Must not: know other connections.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};

use mio::net::TcpStream;

use crate::endpoint::EndpointCounts;
use crate::transport::stream::device::RxTurn;
use crate::transport::stream::reassembly::{Reassembly, Sink, Stop};
use crate::transport::stream::tx_queue::TxQueue;

/// What the table keeps for a connection.
pub(in crate::transport) struct Socket {
    pub(super) stream: TcpStream,
    /// The kernel may have bytes for us.
    pub(super) readable: bool,
    /// The kernel said the other side closed: read until the end, even after a short read.
    pub(super) ending: bool,
    /// The kernel may take bytes.
    pub(super) writable: bool,
    /// Bytes that were read and not taken.
    pub(super) held: Option<Held>,
}

/// A receive buffer with bytes that wait for a slot or for room.
pub(super) struct Held {
    pub(super) buffer: Box<[u8]>,
    pub(super) start: usize,
    pub(super) end: usize,
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

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, readable: false, ending: false, writable: false, held: None }
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
                let stop = reassembly.take_counted(&mut input, sink, counts);
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
            counts.note_rx(message.body.size());
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
