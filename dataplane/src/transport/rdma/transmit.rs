//! What is queued leaves as sends.
//!
//! Owns the batch that is being made. Always true: what a send reads is kept until it is done; nothing is sent
//! that the other side has no receive for. Must not: take completions.

use std::sync::Arc;

use super::Registered;
use super::chunks::Chunks;
use super::endpoint::RdmaEndpoint;
use super::flights::Flight;
use super::socket::Socket;
use super::verbs::{Part, SendWork};
use super::work::Work;
use crate::endpoint::{ConnId, EndpointCounts};
use crate::frame::Frame;
use crate::transport::stream::table::Parts;
use crate::transport::stream::tx_queue::{COPY_MAX, TxQueue};

/// Sends posted together.
const BATCH_MAX: usize = 16;
/// Places in the queue that only updates of credits may take: an answer to them frees a place.
const FOR_UPDATES: usize = 4;
const NOTHING: Part = Part { address: std::ptr::null(), size: 0, key: 0 };

/// Sends that are posted together, and chunks that are free again as soon as they are.
struct Batch {
    sends: [SendWork; BATCH_MAX],
    count: usize,
    copied: [u16; BATCH_MAX],
    copied_count: usize,
}

impl Batch {
    fn new() -> Self {
        let send =
            SendWork { work: 0, parts: [NOTHING; 2], number: 0, signalled: false, copied: false };
        Self { sends: [send; BATCH_MAX], count: 0, copied: [0; BATCH_MAX], copied_count: 0 }
    }

    fn is_full(&self) -> bool {
        self.count == BATCH_MAX
    }

    fn add(&mut self, send: SendWork) {
        self.sends[self.count] = send;
        self.count += 1;
    }

    fn give_after(&mut self, chunk: u16) {
        self.copied[self.copied_count] = chunk;
        self.copied_count += 1;
    }
}

/// What one send consists of.
struct Load {
    /// Bytes in the chunk.
    copied: usize,
    /// A part of a frame that the device gathers.
    body: Option<(Frame, Part)>,
}

impl Load {
    fn size(&self) -> usize {
        self.copied + self.body.as_ref().map_or(0, |(_, part)| part.size as usize)
    }
}

impl RdmaEndpoint {
    /// Transmit what a connection has queued, until a limit is reached.
    pub(super) fn transmit(&mut self, id: ConnId) {
        let mut batch = Batch::new();
        let bytes_max = self.config.tcp.turn_bytes_max;
        let Some(Parts { conn, tx, counts, .. }) = self.table.parts(id) else {
            return;
        };
        let socket = &mut conn.io;
        if !socket.ready || socket.ended {
            return;
        }
        let (mut bytes, mut more, mut starved) = (0, false, false);
        while !tx.is_empty()
            && socket.credits.available() > 0
            && socket.flights.room() > FOR_UPDATES
        {
            if batch.is_full() || bytes >= bytes_max {
                more = true;
                break;
            }
            let chunk = if self.sends < self.sends_max { self.send.take() } else { None };
            let Some(chunk) = chunk else {
                starved = true;
                break;
            };
            let load = fill(chunk, socket.send_size, tx, &mut self.send, &self.registered, counts);
            bytes += load.size();
            self.sends += 1;
            add_send(&mut batch, socket, id, chunk, load, &mut self.send);
        }
        counts.tx_bytes += bytes as u64;
        if batch.count == 0
            && socket.credits.update_due()
            && socket.flights.room() > 0
            && self.sends < self.sends_max
        {
            self.sends += 1;
            add_update(&mut batch, socket, id);
        }
        if starved && !socket.starved {
            socket.starved = true;
            self.starved.push_back(id);
        }
        self.post_batch(id, batch);
        if more {
            self.table.queue_tx(id);
        }
    }

    fn post_batch(&mut self, id: ConnId, mut batch: Batch) {
        let Some(conn) = self.table.conn_mut(id).filter(|_| batch.count > 0) else {
            return;
        };
        // The end of the last one is the end of all.
        batch.sends[batch.count - 1].signalled = true;
        // SAFETY: chunks that are not copied at once are with the device, and frames are held and so never
        // written, until `Flights` gives them up: after a completion of this send or a later one, or after the
        // queue pair is gone.
        let posted = unsafe { conn.io.id.post_sends(&batch.sends[..batch.count]) };
        if posted.is_err() {
            conn.io.ended = true;
            self.table.queue_rx(id);
        }
        for chunk in &batch.copied[..batch.copied_count] {
            self.send.give(*chunk);
        }
        if batch.copied_count > 0 {
            self.feed_starved();
        }
    }
}

/// Put the next bytes of a queue into `chunk`, as many as fit a send, but for a large body in memory that the
/// device may read: of that it gathers what fits.
fn fill(
    chunk: u16,
    send_size: usize,
    tx: &mut TxQueue,
    chunks: &mut Chunks,
    registered: &[Arc<Registered>],
    counts: &mut EndpointCounts,
) -> Load {
    let scratch = &mut chunks.bytes_mut(chunk)[..send_size];
    let mut copied = tx.gather_with(scratch, COPY_MAX + 1, |_| ()).copied;
    counts.tx_messages += tx.advance(copied) as u64;
    let mut body = None;
    if copied < send_size
        && let Some((frame, from)) = tx.large_body(COPY_MAX + 1)
    {
        let size = (send_size - copied).min(frame.size() - from);
        let bytes = &frame.bytes()[from..from + size];
        match registered.iter().find(|known| known.region.contains(bytes)) {
            Some(known) => {
                let key = known.region.key();
                let part = Part { address: bytes.as_ptr(), size: size as u32, key };
                body = Some((frame.clone(), part));
            }
            None => {
                scratch[copied..copied + size].copy_from_slice(bytes);
                copied += size;
            }
        }
        counts.tx_messages += tx.advance(size) as u64;
    }
    Load { copied, body }
}

fn add_send(
    batch: &mut Batch,
    socket: &mut Socket,
    id: ConnId,
    chunk: u16,
    load: Load,
    chunks: &mut Chunks,
) {
    let at_once = load.body.is_none() && load.copied <= socket.inline;
    let mut parts = [chunks.part(chunk, load.copied, !at_once), NOTHING];
    let body = load.body.map(|(frame, part)| {
        parts[1] = part;
        frame
    });
    if at_once {
        batch.give_after(chunk);
    }
    socket.credits.spend();
    let work = Work::Send { conn: id, number: socket.flights.next() }.to_bits();
    let number = socket.credits.tell();
    batch.add(SendWork { work, parts, number, signalled: false, copied: at_once });
    socket.flights.begin(Flight { chunk: (!at_once).then_some(chunk), _body: body });
}

/// A send without bytes that tells how many receives there are.
fn add_update(batch: &mut Batch, socket: &mut Socket, id: ConnId) {
    let work = Work::Send { conn: id, number: socket.flights.next() }.to_bits();
    let number = socket.credits.tell();
    batch.add(SendWork { work, parts: [NOTHING; 2], number, signalled: false, copied: false });
    socket.flights.begin(Flight { chunk: None, _body: None });
}
