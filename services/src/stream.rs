//! Reading a snapshot piece by piece, and writing one in pieces of useful size.
//!
//! Always true: what a snapshot claims about sizes is compared with a limit before memory is taken.

use tetrarch_consensus::BadSnapshot;

const BUFFER_SIZE: usize = 64 * 1024;

/// A buffered reader over the `read` function of `StateMachine::restore`.
pub struct StreamReader<'a> {
    read: &'a mut dyn FnMut(&mut [u8]) -> usize,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl<'a> StreamReader<'a> {
    /// Reads through `read`.
    pub fn new(read: &'a mut dyn FnMut(&mut [u8]) -> usize) -> Self {
        Self { read, buffer: vec![0; BUFFER_SIZE], at: 0, end: 0 }
    }

    fn refill(&mut self) -> Result<(), BadSnapshot> {
        let size = (self.read)(&mut self.buffer);
        if size == 0 || size > self.buffer.len() {
            return Err(BadSnapshot);
        }
        (self.at, self.end) = (0, size);
        Ok(())
    }

    /// Fills `out`.
    ///
    /// # Errors
    /// [`BadSnapshot`] when the snapshot ends before.
    pub fn exact(&mut self, out: &mut [u8]) -> Result<(), BadSnapshot> {
        let mut filled = 0;
        while filled < out.len() {
            if self.at == self.end && out.len() - filled >= BUFFER_SIZE {
                // Much is not copied twice.
                let left = out.len() - filled;
                match (self.read)(&mut out[filled..]) {
                    size @ 1.. if size <= left => filled += size,
                    _ => return Err(BadSnapshot),
                }
                continue;
            }
            if self.at == self.end {
                self.refill()?;
            }
            let size = (out.len() - filled).min(self.end - self.at);
            out[filled..filled + size].copy_from_slice(&self.buffer[self.at..self.at + size]);
            filled += size;
            self.at += size;
        }
        Ok(())
    }

    /// `N` bytes.
    ///
    /// # Errors
    /// As [`StreamReader::exact`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BadSnapshot> {
        let mut out = [0; N];
        self.exact(&mut out)?;
        Ok(out)
    }

    /// One byte.
    ///
    /// # Errors
    /// As [`StreamReader::exact`].
    pub fn u8(&mut self) -> Result<u8, BadSnapshot> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Eight bytes, little endian.
    ///
    /// # Errors
    /// As [`StreamReader::exact`].
    pub fn u64(&mut self) -> Result<u64, BadSnapshot> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count or size of at most `max`.
    ///
    /// # Errors
    /// [`BadSnapshot`] at the end or when it is more.
    pub fn count(&mut self, max: usize) -> Result<usize, BadSnapshot> {
        let count = usize::try_from(self.u64()?).map_err(|_| BadSnapshot)?;
        if count > max { Err(BadSnapshot) } else { Ok(count) }
    }

    /// A string of at most `max` bytes.
    ///
    /// # Errors
    /// As [`StreamReader::count`].
    pub fn string(&mut self, max: usize) -> Result<Vec<u8>, BadSnapshot> {
        let mut out = vec![0; self.count(max)?];
        self.exact(&mut out)?;
        Ok(out)
    }

    /// Checks that the snapshot ends here.
    ///
    /// # Errors
    /// [`BadSnapshot`] when it goes on.
    pub fn end(&mut self) -> Result<(), BadSnapshot> {
        if self.at == self.end && (self.read)(&mut self.buffer) == 0 {
            Ok(())
        } else {
            Err(BadSnapshot)
        }
    }
}

/// Bytes that a writer gathers before it hands them over.
const GATHERED: usize = 4096;

/// A buffered writer over the `out` function of `StateMachine::snapshot`. It takes no memory but its own: the core
/// that executes writes a snapshot with it.
pub struct StreamWriter<'a> {
    out: &'a mut dyn FnMut(&[u8]),
    buffer: [u8; GATHERED],
    used: usize,
}

impl<'a> StreamWriter<'a> {
    /// Writes through `out`.
    pub fn new(out: &'a mut dyn FnMut(&[u8])) -> Self {
        Self { out, buffer: [0; GATHERED], used: 0 }
    }

    /// Appends bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if bytes.len() > GATHERED - self.used {
            self.finish();
        }
        if bytes.len() > GATHERED {
            return (self.out)(bytes);
        }
        self.buffer[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    /// Appends a number.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Appends a string.
    pub fn string(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.bytes(bytes);
    }

    /// Hands over what is left.
    pub fn finish(&mut self) {
        if self.used > 0 {
            (self.out)(&self.buffer[..self.used]);
            self.used = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_pieces_is_read_in_other_pieces() {
        let mut bytes = Vec::new();
        let mut out = |piece: &[u8]| bytes.extend_from_slice(piece);
        let mut writer = StreamWriter::new(&mut out);
        writer.u64(7);
        writer.string(&[5; 100_000]);
        writer.finish();
        let mut at = 0;
        let mut read = |into: &mut [u8]| {
            let size = into.len().min(777).min(bytes.len() - at);
            into[..size].copy_from_slice(&bytes[at..at + size]);
            at += size;
            size
        };
        let mut reader = StreamReader::new(&mut read);
        assert_eq!(reader.u64(), Ok(7));
        assert_eq!(reader.string(100_000), Ok(vec![5; 100_000]));
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(reader.u8(), Err(BadSnapshot));
    }

    #[test]
    fn a_size_above_its_limit_takes_no_memory() {
        let mut read = |into: &mut [u8]| {
            into.fill(0xff);
            into.len()
        };
        assert_eq!(StreamReader::new(&mut read).string(1000), Err(BadSnapshot));
    }
}
