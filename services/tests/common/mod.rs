//! A gateway over one store in this process, and a client that shows replies as they are.

#![allow(dead_code, reason = "each test file uses a part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tetrarch_services::gateway::local::Local;
use tetrarch_services::gateway::{Gateway, GatewayConfig, ReadMode};
use tetrarch_services::kv::KvConfig;

pub struct Server {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(read_mode: ReadMode, sessions: u32) -> Self {
        let mut config = GatewayConfig::new(([127, 0, 0, 1], 0).into());
        config.read_mode = read_mode;
        let mut cluster = Local::new(KvConfig { seed: [1, 2], ..KvConfig::default() }, sessions);
        let mut gateway = Gateway::bind(&config, &cluster).expect("a free port");
        let address = gateway.address();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                gateway.turn(&mut cluster, Duration::from_millis(20)).expect("poll");
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the gateway does not panic");
        }
    }
}

pub struct Client {
    pub socket: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("option");
        Self { socket, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("send");
    }

    /// One command and its reply.
    pub fn call(&mut self, words: &[&str]) -> String {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.send(&encode(&words));
        String::from_utf8_lossy(&self.reply()).into_owned()
    }

    /// The bytes of the next reply; empty when the connection was closed.
    pub fn reply(&mut self) -> Vec<u8> {
        loop {
            if let Some(size) = reply_size(&self.buffer) {
                return self.buffer.drain(..size).collect();
            }
            let mut piece = [0; 64 * 1024];
            match self.socket.read(&mut piece).expect("a reply in time") {
                0 => return Vec::new(),
                size => self.buffer.extend_from_slice(&piece[..size]),
            }
        }
    }
}

pub fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The size of the reply at the front, once it is complete.
fn reply_size(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut missing = 1;
    while missing > 0 {
        let end = at + bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        let number = || {
            let text = std::str::from_utf8(&bytes[at + 1..end]).expect("text");
            text.parse::<i64>().expect("a number")
        };
        missing -= 1;
        let kind = bytes[at];
        match kind {
            b'$' | b'=' if number() >= 0 => {
                let size = usize::try_from(number()).expect("not negative");
                at = end + 2 + size + 2;
                if at > bytes.len() {
                    return None;
                }
                continue;
            }
            b'*' | b'~' if number() >= 0 => missing += number(),
            b'%' => missing += 2 * number(),
            b'+' | b'-' | b':' | b'_' | b'$' | b'*' => {}
            other => panic!("not RESP: {}", other.escape_ascii()),
        }
        at = end + 2;
    }
    Some(at)
}

/// The lines of a reply's elements, sorted: for replies whose order means nothing. Pairs of a map
/// stay together.
pub fn sorted(reply: &[u8], pairs: bool) -> Vec<Vec<u8>> {
    let head = reply.windows(2).position(|pair| pair == b"\r\n").map_or(reply.len(), |at| at + 2);
    let mut elements = vec![];
    let mut at = head;
    while at < reply.len() {
        let mut size = reply_size(&reply[at..]).expect("complete");
        if pairs {
            size += reply_size(&reply[at + size..]).expect("complete");
        }
        elements.push(reply[at..at + size].to_vec());
        at += size;
    }
    elements.sort();
    elements.insert(0, reply[..head].to_vec());
    elements
}
