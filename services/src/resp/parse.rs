//! Commands from a stream of bytes: arrays of bulk strings, or inline lines for people with telnet.
//!
//! Incremental: [`Parser`] keeps its place, so a large command that arrives in pieces is looked at
//! once.

use std::fmt;
use std::ops::Range;

use tetrarch_consensus::limits::OPERATION_SIZE_MAX;

use crate::wire::decimal;

/// What a client may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of one bulk string.
    pub bulk_size_max: usize,
    /// Words of one command.
    pub words_max: usize,
    /// Bytes of one inline command.
    pub inline_size_max: usize,
    /// Bytes of one command as it is sent.
    pub command_size_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bulk_size_max: OPERATION_SIZE_MAX,
            words_max: 64 * 1024,
            inline_size_max: 64 * 1024,
            command_size_max: 2 * OPERATION_SIZE_MAX,
        }
    }
}

/// The longest line that announces a count or a size: a sign, 19 digits, some slack.
const COUNT_SIZE_MAX: usize = 32;

/// Bytes that are not RESP. The connection cannot go on: where the next command starts is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// A count of words that is not a number or too large.
    WordCount,
    /// A size that is not a number, negative or too large.
    BulkSize,
    /// Another byte where a bulk string should start.
    ExpectedBulk(u8),
    /// No line break where one belongs.
    ExpectedLineBreak,
    /// A line without an end.
    InlineTooLong,
    /// A command larger than allowed.
    CommandTooLong,
    /// A quote that is not closed, or not followed by a space.
    Quotes,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            ParseError::WordCount => "invalid multibulk length",
            ParseError::BulkSize => "invalid bulk length",
            ParseError::ExpectedBulk(found) => {
                return write!(f, "expected '$', got '{}'", found.escape_ascii());
            }
            ParseError::ExpectedLineBreak => "expected a line break",
            ParseError::InlineTooLong => "too big inline request",
            ParseError::CommandTooLong => "too big request",
            ParseError::Quotes => "unbalanced quotes in request",
        };
        f.write_str(text)
    }
}

impl std::error::Error for ParseError {}

/// What the front of a buffer holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// A command. Without words it is to be ignored.
    Command {
        /// The words.
        words: Vec<Vec<u8>>,
        /// Bytes it took.
        size: usize,
    },
    /// The start of a command, or nothing.
    Incomplete,
}

/// Reads one command from the front of `bytes`, without keeping anything.
///
/// # Errors
/// [`ParseError`].
pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Parsed, ParseError> {
    let mut parser = Parser::new(*limits);
    Ok(match parser.advance(bytes)? {
        Some(size) => {
            let words = parser.words(bytes).map(<[u8]>::to_vec).collect();
            Parsed::Command { words, size }
        }
        None => Parsed::Incomplete,
    })
}

/// Reads commands from the front of a buffer that grows.
#[derive(Clone, Debug)]
pub struct Parser {
    limits: Limits,
    /// Looked at so far, from the start of the command.
    at: usize,
    /// Words still to come, once the count is known.
    missing: Option<usize>,
    /// Where the words are: in the buffer, or in `inline`.
    words: Vec<Range<usize>>,
    /// Words of an inline command, without quotes and escapes.
    inline: Vec<u8>,
    is_inline: bool,
}

impl Parser {
    /// At the start of a command.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            at: 0,
            missing: None,
            words: Vec::new(),
            inline: Vec::new(),
            is_inline: false,
        }
    }

    /// Goes on reading the command at the front of `bytes`: the same bytes as the last time, and
    /// perhaps more. Returns the command's size once it is complete; [`Parser::words`] then has the
    /// words, until [`Parser::reset`].
    ///
    /// # Errors
    /// [`ParseError`].
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, ParseError> {
        if self.missing.is_none() {
            match bytes.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some(count) = self.count_line(bytes, ParseError::WordCount)? else {
                        return Ok(None);
                    };
                    // Redis, too, takes a count below one for a command without words.
                    let count = usize::try_from(count).unwrap_or(0);
                    if count > self.limits.words_max {
                        return Err(ParseError::WordCount);
                    }
                    self.missing = Some(count);
                }
                Some(_) => return self.inline_line(bytes),
            }
        }
        while self.missing != Some(0) {
            if !self.bulk(bytes)? {
                return Ok(None);
            }
        }
        Ok(Some(self.at))
    }

    /// The words of a complete command; `bytes` as in the last [`Parser::advance`].
    pub fn words<'a>(&'a self, bytes: &'a [u8]) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let source = if self.is_inline { &self.inline[..] } else { bytes };
        self.words.iter().map(|range| source.get(range.clone()).unwrap_or_default())
    }

    /// Is there part of a command in the buffer?
    pub fn is_inside(&self) -> bool {
        self.at > 0
    }

    /// Goes on to the next command.
    pub fn reset(&mut self) {
        self.at = 0;
        self.missing = None;
        self.words.clear();
        self.inline.clear();
        self.is_inline = false;
    }

    /// The number on the line at `self.at`, after its first byte; moves on to the next line.
    fn count_line(&mut self, bytes: &[u8], error: ParseError) -> Result<Option<i64>, ParseError> {
        let line = &bytes[self.at + 1..];
        let Some(end) = line.iter().take(COUNT_SIZE_MAX).position(|&byte| byte == b'\r') else {
            return if line.len() >= COUNT_SIZE_MAX { Err(error) } else { Ok(None) };
        };
        match line.get(end + 1) {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(ParseError::ExpectedLineBreak),
        }
        let count = decimal(&line[..end]).ok_or(error)?;
        self.at += 1 + end + 2;
        Ok(Some(count))
    }

    /// Reads one bulk string; false when it is not complete.
    fn bulk(&mut self, bytes: &[u8]) -> Result<bool, ParseError> {
        match bytes.get(self.at) {
            None => return Ok(false),
            Some(b'$') => {}
            Some(&other) => return Err(ParseError::ExpectedBulk(other)),
        }
        let before = self.at;
        let Some(size) = self.count_line(bytes, ParseError::BulkSize)? else { return Ok(false) };
        let size = usize::try_from(size).map_err(|_| ParseError::BulkSize)?;
        if size > self.limits.bulk_size_max {
            return Err(ParseError::BulkSize);
        }
        let (start, end) = (self.at, self.at + size);
        if end + 2 > self.limits.command_size_max {
            return Err(ParseError::CommandTooLong);
        }
        match bytes.get(end..end + 2) {
            // Only the short line before it is read again.
            None => self.at = before,
            Some(b"\r\n") => {
                self.words.push(start..end);
                self.missing = self.missing.map(|missing| missing - 1);
                self.at = end + 2;
                return Ok(true);
            }
            Some(_) => return Err(ParseError::ExpectedLineBreak),
        }
        Ok(false)
    }

    fn inline_line(&mut self, bytes: &[u8]) -> Result<Option<usize>, ParseError> {
        let rest = &bytes[self.at.min(bytes.len())..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            self.at = bytes.len();
            let long = bytes.len() > self.limits.inline_size_max;
            return if long { Err(ParseError::InlineTooLong) } else { Ok(None) };
        };
        let end = self.at + end;
        if end > self.limits.inline_size_max {
            return Err(ParseError::InlineTooLong);
        }
        let line = &bytes[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.is_inline = true;
        split_words(line, &mut self.inline, &mut self.words)?;
        self.at = end + 1;
        Ok(Some(end + 1))
    }
}

/// Splits a line the way Redis does: spaces part words; double quotes allow escapes, single quotes
/// only `\'`; a closing quote must be followed by a space.
fn split_words(
    line: &[u8],
    text: &mut Vec<u8>,
    words: &mut Vec<Range<usize>>,
) -> Result<(), ParseError> {
    let is_space = |byte: u8| byte.is_ascii_whitespace() || byte == 0x0b;
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|&byte| is_space(byte)) {
            at += 1;
        }
        if at == line.len() {
            return Ok(());
        }
        let start = text.len();
        while let Some(&byte) = line.get(at) {
            match byte {
                b'"' | b'\'' => {
                    at = quoted(line, at, text)?;
                    if line.get(at).is_some_and(|&byte| !is_space(byte)) {
                        return Err(ParseError::Quotes);
                    }
                    break;
                }
                byte if is_space(byte) => break,
                byte => {
                    text.push(byte);
                    at += 1;
                }
            }
        }
        words.push(start..text.len());
    }
}

/// Appends the quoted text that starts at `at`, and returns the place after the closing quote.
fn quoted(line: &[u8], at: usize, text: &mut Vec<u8>) -> Result<usize, ParseError> {
    let quote = line[at];
    let mut at = at + 1;
    loop {
        match line[at.min(line.len())..] {
            [] => return Err(ParseError::Quotes),
            [byte, ..] if byte == quote => return Ok(at + 1),
            [b'\\', b'\'', ..] if quote == b'\'' => {
                text.push(b'\'');
                at += 2;
            }
            [b'\\', b'x', high, low, ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                text.push(hex(high) << 4 | hex(low));
                at += 4;
            }
            [b'\\', escaped, ..] if quote == b'"' => {
                text.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => other,
                });
                at += 2;
            }
            [byte, ..] => {
                text.push(byte);
                at += 1;
            }
        }
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.saturating_sub(b'A') + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(bytes: &[u8]) -> Result<Option<Vec<String>>, ParseError> {
        Ok(match parse(bytes, &Limits::default())? {
            Parsed::Command { words, .. } => {
                Some(words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect())
            }
            Parsed::Incomplete => None,
        })
    }

    fn ok(bytes: &[u8], expected: &[&str]) {
        let expected = expected.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(words(bytes), Ok(Some(expected)), "{}", bytes.escape_ascii());
    }

    #[test]
    fn commands_are_arrays_or_lines() {
        ok(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", &["GET", "k"]);
        ok(b"*1\r\n$0\r\n\r\nrest", &[""]);
        ok(b"*0\r\n", &[]);
        ok(b"*-1\r\n", &[]);
        ok(b"\r\n", &[]);
        ok(b"PING\r\n", &["PING"]);
        ok(b"  set  a\tb \n", &["set", "a", "b"]);
        ok(b"set \"a b\\x41\\n\" 'c\\'d\\n'\r\n", &["set", "a bA\n", "c'd\\n"]);
        ok(b"echo \"\" ''\n", &["echo", "", ""]);
        ok(b"a\"b\"\n", &["ab"]);
    }

    #[test]
    fn what_is_not_resp_is_refused() {
        for (bytes, error) in [
            (&b"*x\r\n"[..], ParseError::WordCount),
            (b"*99999999999\r\n", ParseError::WordCount),
            (b"*1111111111111111111111111111111111", ParseError::WordCount),
            (b"*1\r\n+a\r\n", ParseError::ExpectedBulk(b'+')),
            (b"*1\r\n$-1\r\n", ParseError::BulkSize),
            (b"*1\r\n$x\r\n", ParseError::BulkSize),
            (b"*1\r\n$300000\r\n", ParseError::BulkSize),
            (b"*1\rx", ParseError::ExpectedLineBreak),
            (b"*1\r\n$1\r\nabc", ParseError::ExpectedLineBreak),
            (b"get \"a\n", ParseError::Quotes),
            (b"get \"a\"b\n", ParseError::Quotes),
            (&[b'a'; 70_000], ParseError::InlineTooLong),
        ] {
            assert_eq!(words(bytes), Err(error), "{}", bytes.escape_ascii());
        }
        let three = b"*3\r\n".iter().chain(&b"$262144\r\n"[..]).copied().collect::<Vec<_>>();
        let large = [&three[..], &[b'x'; 262_144], b"\r\n$262144\r\n"].concat();
        assert_eq!(words(&large), Err(ParseError::CommandTooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(prop_oneof![
            Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'"'), Just(b'\''),
            Just(b'\\'), any::<u8>()
        ], 0..80)) {
            if let Ok(Parsed::Command { size, .. }) = parse(&bytes, &Limits::default()) {
                prop_assert!(size <= bytes.len() && size > 0);
            }
        }

        #[test]
        fn pieces_make_the_same_commands(
            commands in proptest::collection::vec(
                proptest::collection::vec(
                    proptest::collection::vec(any::<u8>(), 0..20), 1..5), 1..5),
            cuts in proptest::collection::vec(1..9usize, 1..200),
        ) {
            let mut stream = Vec::new();
            for words in &commands {
                stream.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
                for word in words {
                    stream.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
                    stream.extend_from_slice(word);
                    stream.extend_from_slice(b"\r\n");
                }
            }
            let mut parser = Parser::new(Limits::default());
            let (mut start, mut end) = (0, 0);
            let mut found: Vec<Vec<Vec<u8>>> = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while start < stream.len() {
                match parser.advance(&stream[start..end]).expect("well-formed") {
                    Some(size) => {
                        let words = parser.words(&stream[start..end]);
                        found.push(words.map(<[u8]>::to_vec).collect());
                        parser.reset();
                        start += size;
                    }
                    None => {
                        prop_assert!(end < stream.len());
                        end = (end + cuts.next().expect("cycle")).min(stream.len());
                    }
                }
            }
            prop_assert_eq!(found, commands);
        }
    }
}
