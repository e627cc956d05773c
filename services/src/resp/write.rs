//! Replies as RESP2 or RESP3.

use crate::wire::write_decimal;

/// The version of RESP that a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// What every client understands.
    #[default]
    Resp2,
    /// Maps, sets and nulls of their own.
    Resp3,
}

/// Appends replies to a buffer.
#[derive(Debug)]
pub struct RespWriter<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

impl<'a> RespWriter<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// Is it the newer version?
    pub fn is_resp3(&self) -> bool {
        self.protocol == Protocol::Resp3
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    fn number(&mut self, kind: u8, value: i64) {
        let mut buffer = [0; 20];
        self.line(kind, write_decimal(value, &mut buffer));
    }

    fn count(&mut self, kind: u8, count: usize) {
        self.number(kind, i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A status line. `text` has no line breaks.
    pub fn status(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// A status line of bytes without line breaks.
    pub fn status_bytes(&mut self, text: &[u8]) {
        self.line(b'+', text);
    }

    /// An error line. `text` has no line breaks.
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text.as_bytes());
    }

    /// An error line of bytes without line breaks.
    pub fn error_bytes(&mut self, text: &[u8]) {
        self.line(b'-', text);
    }

    /// An integer.
    pub fn integer(&mut self, value: i64) {
        self.number(b':', value);
    }

    /// A byte string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.count(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// No value.
    pub fn nil(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.out.extend_from_slice(b"$-1\r\n"),
            Protocol::Resp3 => self.out.extend_from_slice(b"_\r\n"),
        }
    }

    /// No array.
    pub fn nil_array(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.out.extend_from_slice(b"*-1\r\n"),
            Protocol::Resp3 => self.out.extend_from_slice(b"_\r\n"),
        }
    }

    /// The start of an array of `count` replies.
    pub fn array(&mut self, count: usize) {
        self.count(b'*', count);
    }

    /// The start of a map of `count` pairs.
    pub fn map(&mut self, count: usize) {
        match self.protocol {
            Protocol::Resp2 => self.count(b'*', count.saturating_mul(2)),
            Protocol::Resp3 => self.count(b'%', count),
        }
    }

    /// The start of a set of `count` replies.
    pub fn set(&mut self, count: usize) {
        match self.protocol {
            Protocol::Resp2 => self.count(b'*', count),
            Protocol::Resp3 => self.count(b'~', count),
        }
    }

    /// A long text for people.
    pub fn verbatim(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.count(b'=', text.len() + 4);
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(text.as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(protocol: Protocol, write: impl FnOnce(&mut RespWriter<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut RespWriter::new(&mut out, protocol));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn the_versions_differ_in_nulls_maps_and_sets() {
        let all = |w: &mut RespWriter<'_>| {
            w.nil();
            w.nil_array();
            w.map(1);
            w.set(2);
            w.bulk(b"x");
            w.verbatim("ab");
            w.integer(-5);
        };
        let two = "$-1\r\n*-1\r\n*2\r\n*2\r\n$1\r\nx\r\n$2\r\nab\r\n:-5\r\n";
        let three = "_\r\n_\r\n%1\r\n~2\r\n$1\r\nx\r\n=6\r\ntxt:ab\r\n:-5\r\n";
        assert_eq!(written(Protocol::Resp2, all), two);
        assert_eq!(written(Protocol::Resp3, all), three);
    }
}
