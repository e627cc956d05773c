//! One Redis connection: its socket, its buffers, and what it is owed.
//!
//! Always true: neither buffer grows beyond its limit, whatever the client sends or fails to read.

use std::io::{self, Read, Write};

use mio::net::TcpStream;

use super::cluster::Cluster;
use super::pipeline::Pipeline;
use super::session::{Session, Shared, Then};
use crate::resp::{Limits, Parser, Protocol, RespWriter};

/// Bytes read from a connection in one turn: others wait meanwhile.
const READ_SIZE: usize = 16 * 1024;
/// Bytes of replies that wait for a client that does not read, before its next command is read.
const OUTPUT_SIZE_MAX: usize = 1024 * 1024;
/// Words of a command that are listed without taking memory.
const WORDS_FEW: usize = 8;
/// Memory that an idle connection keeps for each direction.
const IDLE_CAPACITY_MAX: usize = 64 * 1024;

/// What became of a connection in its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Waits for its socket or for the cluster.
    Wait,
    /// Could go on at once.
    Again,
    /// Is over.
    Gone,
}

#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    parser: Parser,
    input: Vec<u8>,
    /// Bytes of `input` that were used.
    input_used: usize,
    output: Vec<u8>,
    output_sent: usize,
    session: Session,
    pub pipeline: Pipeline,
    /// The socket may have bytes (edge triggered: until it says that it has none).
    pub readable: bool,
    pub writable: bool,
    /// The cluster was busy: try again when something completes.
    pub busy: bool,
    /// Commands that were read wait for room.
    left: bool,
    /// No more commands; closes when all is answered and sent.
    closing: bool,
    commands: u64,
    failed: bool,
}

impl Connection {
    pub fn new(socket: TcpStream, session: Session, limits: Limits) -> Self {
        Self {
            socket,
            parser: Parser::new(limits),
            input: Vec::new(),
            input_used: 0,
            output: Vec::new(),
            output_sent: 0,
            session,
            pipeline: Pipeline::default(),
            readable: true,
            writable: true,
            busy: false,
            left: false,
            closing: false,
            commands: 0,
            failed: false,
        }
    }

    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Commands since the last call, and whether the client broke the protocol.
    pub fn take_counts(&mut self) -> (u64, bool) {
        (std::mem::take(&mut self.commands), std::mem::take(&mut self.failed))
    }

    /// Does what can be done without waiting.
    pub fn turn(
        &mut self,
        shared: &Shared<'_>,
        cluster: &mut dyn Cluster,
        number: u32,
        tag: impl Fn(u32) -> u64,
    ) -> Turn {
        if self.left && self.wants_input() {
            self.take_commands(shared);
        }
        if !self.left && self.readable && self.wants_input() {
            match self.read() {
                Ok(true) => {}
                Ok(false) => self.closing = true,
                Err(_) => return Turn::Gone,
            }
            self.take_commands(shared);
        }
        self.busy = self.pipeline.submit(cluster, number, tag);
        let more = self.pipeline.drain(&mut self.output, OUTPUT_SIZE_MAX);
        if self.send().is_err() {
            return Turn::Gone;
        }
        if more && self.writable {
            // The socket took what was written; no event will ask for the rest.
            return Turn::Again;
        }
        if self.closing && self.output.is_empty() && self.pipeline.is_idle() {
            return Turn::Gone;
        }
        // Draining may have made room for commands that were read already.
        let more = self.left || self.readable;
        if more && self.wants_input() { Turn::Again } else { Turn::Wait }
    }

    fn wants_input(&self) -> bool {
        !self.closing && !self.pipeline.is_full() && self.output.len() < OUTPUT_SIZE_MAX
    }

    /// Reads once. False at the end of the stream.
    fn read(&mut self) -> io::Result<bool> {
        self.input.drain(..self.input_used);
        self.input_used = 0;
        let size = self.input.len();
        self.input.resize(size + READ_SIZE, 0);
        let result = self.socket.read(&mut self.input[size..]);
        let read = *result.as_ref().unwrap_or(&0);
        self.input.truncate(size + read);
        match result {
            Ok(0) => Ok(false),
            Ok(_) => {
                // Less than was asked for: the socket is empty, and will tell when it no longer is.
                self.readable = read == READ_SIZE;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Executes the commands that were read, as far as there is room.
    fn take_commands(&mut self, shared: &Shared<'_>) {
        self.left = false;
        while !self.closing {
            let bytes = &self.input[self.input_used..];
            if self.pipeline.is_full() || self.output.len() >= OUTPUT_SIZE_MAX {
                self.left = !bytes.is_empty();
                break;
            }
            match self.parser.advance(bytes) {
                Ok(None) => break,
                Ok(Some(size)) => {
                    let then = {
                        let mut few = [&b""[..]; WORDS_FEW];
                        let many: Vec<&[u8]>;
                        let words = self.parser.words(bytes);
                        let words = if words.len() <= WORDS_FEW {
                            let count = words.len();
                            few.iter_mut().zip(words).for_each(|(slot, word)| *slot = word);
                            &few[..count]
                        } else {
                            many = words.collect();
                            &many[..]
                        };
                        self.commands += 1;
                        let (pipeline, output) = (&mut self.pipeline, &mut self.output);
                        self.session.command(words, shared, pipeline, output)
                    };
                    self.parser.reset();
                    self.input_used += size;
                    self.closing |= then == Then::Close;
                }
                Err(error) => {
                    let text = format!("ERR Protocol error: {error}");
                    self.pipeline.local(&mut self.output, |out| {
                        RespWriter::new(out, Protocol::Resp2).error(&text);
                    });
                    self.failed = true;
                    self.closing = true;
                }
            }
        }
        if self.input_used == self.input.len() {
            self.input.clear();
            self.input.shrink_to(IDLE_CAPACITY_MAX);
            self.input_used = 0;
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while self.writable && self.output_sent < self.output.len() {
            match self.socket.write(&self.output[self.output_sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(size) => self.output_sent += size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.output_sent == self.output.len() {
            self.output.clear();
            self.output.shrink_to(IDLE_CAPACITY_MAX);
            self.output_sent = 0;
        } else if self.output_sent >= OUTPUT_SIZE_MAX / 2 {
            self.output.drain(..self.output_sent);
            self.output_sent = 0;
        }
        Ok(())
    }
}
