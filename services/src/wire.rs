//! Reading and writing the services' own binary formats: little endian, LEB128 lengths, canonical.
//!
//! Always true: reading is total (any bytes give a value or [`Malformed`], never a panic), and every
//! value has exactly one encoding, so two operations that differ in bytes differ in meaning. Must
//! not: allocate while reading.

use std::fmt;

/// Bytes that are not an encoding of what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are not a well-formed encoding")
    }
}

impl std::error::Error for Malformed {}

/// Takes values from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Was everything read?
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next `size` bytes.
    ///
    /// # Errors
    /// [`Malformed`] when fewer are left.
    #[inline]
    pub fn take(&mut self, size: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.bytes.split_at_checked(size).ok_or(Malformed)?;
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.bytes.split_first_chunk::<N>().ok_or(Malformed)?;
        self.bytes = tail;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (&head, tail) = self.bytes.split_first().ok_or(Malformed)?;
        self.bytes = tail;
        Ok(head)
    }

    /// Two bytes, little endian.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes, little endian.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, little endian.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Eight bytes, little endian, two's complement.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    /// A length: LEB128 of at most 32 bits, shortest form only.
    ///
    /// # Errors
    /// [`Malformed`] at the end, above 32 bits, or with needless zero groups.
    #[inline]
    pub fn length(&mut self) -> Result<usize, Malformed> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(usize::from(first));
        }
        let mut value = u64::from(first & 0x7f);
        for shift in [7u32, 14, 21, 28] {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                let canonical = byte != 0 && value <= u64::from(u32::MAX);
                return if canonical { Ok(value as usize) } else { Err(Malformed) };
            }
        }
        Err(Malformed)
    }

    /// A length and as many bytes.
    ///
    /// # Errors
    /// [`Malformed`] when the length is malformed or more than what is left.
    #[inline]
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let size = self.length()?;
        self.take(size)
    }
}

/// Appends a length as LEB128. Lengths above 32 bits do not occur: every limit is far below.
pub fn put_length(out: &mut Vec<u8>, length: usize) {
    debug_assert!(u32::try_from(length).is_ok());
    let mut rest = length;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a length and the bytes.
pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Bytes that [`put_length`] appends.
pub fn length_size(length: usize) -> usize {
    (usize::BITS - (length | 1).leading_zeros()).div_ceil(7) as usize
}

/// Bytes that [`put_string`] appends for `size` bytes.
pub fn string_size(size: usize) -> usize {
    length_size(size) + size
}

/// The integer that `bytes` spell in decimal the way Redis reads one: an optional minus, no plus,
/// no leading zeros, no spaces, within 64 bits.
pub fn decimal(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [] => return None,
        [b'0'] => return if negative { None } else { Some(0) },
        [b'0', ..] => return None,
        _ if digits.len() > 19 => return None,
        _ => {}
    }
    let mut value: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // At most 19 digits: below 10^19, which fits 64 bits unsigned.
        value = value * 10 + u64::from(digit - b'0');
    }
    if negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// Writes an integer in decimal into `buffer` and returns the text.
pub fn write_decimal(value: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut rest = value.unsigned_abs();
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_are_read_the_way_redis_reads_them() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"-1"), Some(-1));
        assert_eq!(decimal(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(decimal(b"-9223372036854775808"), Some(i64::MIN));
        for bad in ["", "-", "+1", "01", "-0", " 1", "1 ", "1.0", "9223372036854775808", "0x1"] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(decimal(b"-9223372036854775809"), None);
        assert_eq!(decimal(b"99999999999999999999"), None);
    }

    #[test]
    fn a_length_has_one_encoding() {
        assert!(Reader::new(&[0x80, 0x00]).length().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).length().is_err());
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).length(), Ok(u32::MAX as usize));
        assert!(Reader::new(&[0x80; 9]).length().is_err());
    }

    proptest! {
        #[test]
        fn lengths_and_strings_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..400), n in any::<u32>()) {
            let mut out = Vec::new();
            put_string(&mut out, &bytes);
            prop_assert_eq!(out.len(), string_size(bytes.len()));
            put_length(&mut out, n as usize);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.string(), Ok(&bytes[..]));
            prop_assert_eq!(reader.length(), Ok(n as usize));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn decimals_come_back(value in any::<i64>()) {
            let mut buffer = [0; 20];
            prop_assert_eq!(decimal(write_decimal(value, &mut buffer)), Some(value));
        }
    }
}
