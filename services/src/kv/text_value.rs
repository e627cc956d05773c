//! Bytes that are kept in place when they are few: most keys and many values are.
//!
//! Always true: content alone decides whether bytes are kept in place, so memory use does not depend
//! on history by more than a constant factor.

use std::fmt;
use std::ops::Deref;

/// Bytes kept without memory of their own.
const INLINE_MAX: usize = 22;

/// A byte string.
#[derive(Clone)]
pub struct Text(Repr);

#[derive(Clone)]
enum Repr {
    Inline { size: u8, bytes: [u8; INLINE_MAX] },
    Heap(Vec<u8>),
}

impl Text {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let mut kept = [0; INLINE_MAX];
        match kept.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                Self(Repr::Inline { size: bytes.len() as u8, bytes: kept })
            }
            None => Self(Repr::Heap(bytes.to_vec())),
        }
    }

    /// Replaces the content. Memory is used again, unless most of it would stay empty.
    pub fn set(&mut self, new: &[u8]) {
        match &mut self.0 {
            Repr::Heap(old) if new.len() > INLINE_MAX && old.capacity() <= 2 * new.len() + 64 => {
                old.clear();
                old.extend_from_slice(new);
            }
            _ => *self = Self::new(new),
        }
    }

    /// Adds to the end.
    pub fn append(&mut self, more: &[u8]) {
        match &mut self.0 {
            Repr::Heap(old) => old.extend_from_slice(more),
            Repr::Inline { size, bytes } => {
                let (start, end) = (usize::from(*size), usize::from(*size) + more.len());
                if let Some(place) = bytes.get_mut(start..end) {
                    place.copy_from_slice(more);
                    *size = end as u8;
                } else {
                    self.0 = Repr::Heap([&bytes[..start], more].concat());
                }
            }
        }
    }
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { size, bytes } => &bytes[..usize::from(*size)],
            Repr::Heap(bytes) => bytes,
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text {}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_vector(
            first in proptest::collection::vec(any::<u8>(), 0..50),
            second in proptest::collection::vec(any::<u8>(), 0..300),
            third in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut text = Text::new(&first);
            prop_assert_eq!(&*text, &first[..]);
            text.append(&third);
            prop_assert_eq!(&*text, &[&first[..], &third].concat()[..]);
            for bytes in [&second, &first, &third, &second] {
                text.set(bytes);
                prop_assert_eq!(&*text, &bytes[..]);
            }
            text.append(&first);
            prop_assert_eq!(&*text, &[&second[..], &first].concat()[..]);
        }
    }
}
