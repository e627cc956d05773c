//! What the endpoint knows of one connection.
//!
//! Owns its identifier with the queue pair, its credits, and which chunks are its own. Always true: the queue
//! pair goes before what it may read or write. Must not: know other connections.

use std::collections::VecDeque;

use super::chunks::Chunks;
use super::credits::{Credits, RESERVE};
use super::flights::Flights;
use super::hello::Hello;
use super::verbs::{Id, ReceiveWork};
use super::work::Work;
use crate::endpoint::ConnId;

/// Sends with bytes that one who has not proved who it is may have on the way.
pub(super) const WINDOW_FIRST: u32 = 2;

/// Bytes that came and were not taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) chunk: u16,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// What the table keeps for a connection.
pub(in crate::transport) struct Socket {
    /// Before all that the device uses on its behalf, so that it goes first.
    pub(super) id: Id,
    /// Bytes that a send may have and be copied at once.
    pub(super) inline: usize,
    /// Bytes that the other side takes in one send.
    pub(super) send_size: usize,
    pub(super) credits: Credits,
    pub(super) flights: Flights,
    /// All its receive chunks, wherever they are.
    pub(super) chunks: Vec<u16>,
    /// Oldest first.
    pub(super) held: VecDeque<Held>,
    /// Taken, to be posted again.
    pub(super) taken: Vec<u16>,
    /// The other side can receive.
    pub(super) ready: bool,
    /// Nothing comes after what is held.
    pub(super) ended: bool,
    /// What came was against the rules.
    pub(super) malformed: bool,
    /// It waits for a send chunk.
    pub(super) starved: bool,
    /// It has the window of one who is known.
    pub(super) grown: bool,
}

impl Socket {
    /// A connection that is to be made, with room for `window` sends on the way.
    pub(super) fn new(id: Id, window: usize) -> Self {
        let receives = window + RESERVE as usize;
        Self {
            id,
            inline: 0,
            send_size: 0,
            credits: Credits::new(WINDOW_FIRST),
            flights: Flights::new(),
            chunks: Vec::with_capacity(receives),
            held: VecDeque::with_capacity(receives),
            taken: Vec::with_capacity(receives),
            ready: false,
            ended: false,
            malformed: false,
            starved: false,
            grown: false,
        }
    }

    /// The other side has said what it takes; our own sends have at most `chunk_size` bytes.
    pub(super) fn begin(&mut self, hello: Hello, chunk_size: usize) {
        self.send_size = chunk_size.min(hello.chunk_size as usize);
        // At most 16383, which is no breach of a new connection.
        self.malformed |= self.credits.given(u32::from(hello.credits)).is_err();
    }

    /// Let the device receive into these chunks. `false`: it refuses, and the connection has ended.
    pub(super) fn post(
        &mut self,
        id: ConnId,
        receive: &mut Chunks,
        work: &mut Vec<ReceiveWork>,
        chunks: impl IntoIterator<Item = u16>,
    ) -> bool {
        work.clear();
        for chunk in chunks {
            let name = Work::Receive { conn: id, chunk }.to_bits();
            work.push(receive.lend(chunk, name));
        }
        // SAFETY: the chunks are with the device from here on, until it gives them back or the queue pair is
        // destroyed: nobody else looks into them, and their memory lives as long as the endpoint.
        let posted = unsafe { self.id.post_receives(work) }.is_ok();
        self.ended |= !posted;
        posted
    }

    /// Take and post the receives of the first window. `false`: there are too few chunks, or the device
    /// refuses.
    pub(super) fn post_first(
        &mut self,
        id: ConnId,
        receive: &mut Chunks,
        work: &mut Vec<ReceiveWork>,
    ) -> bool {
        self.add_chunks((WINDOW_FIRST + RESERVE) as usize, receive);
        self.post_added(id, receive, work, 0) == (WINDOW_FIRST + RESERVE) as usize
    }

    /// Post a larger window, as far as there are chunks.
    pub(super) fn grow(
        &mut self,
        id: ConnId,
        receive: &mut Chunks,
        work: &mut Vec<ReceiveWork>,
        count: usize,
    ) {
        let before = self.chunks.len();
        self.add_chunks(count, receive);
        let posted = self.post_added(id, receive, work, before);
        self.credits.grow(posted as u32);
    }

    fn add_chunks(&mut self, count: usize, receive: &mut Chunks) {
        self.chunks.extend((0..count).map_while(|_| receive.take()));
    }

    /// Post its chunks from place `from` on. Returns how many.
    fn post_added(
        &mut self,
        id: ConnId,
        receive: &mut Chunks,
        work: &mut Vec<ReceiveWork>,
        from: usize,
    ) -> usize {
        let chunks = std::mem::take(&mut self.chunks);
        let posted = self.post(id, receive, work, chunks[from..].iter().copied());
        let count = chunks.len() - from;
        self.chunks = chunks;
        if posted { count } else { 0 }
    }
}
