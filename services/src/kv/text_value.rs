//! Bytes that are kept in place when they are few: most keys and many values are. Many bytes are shared by copies.
//!
//! Always true: content alone decides whether bytes are kept in place, so memory use does not depend
//! on history by more than a constant factor. A copy that a snapshot takes of a large value costs nothing until one
//! of the two changes.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes kept without memory of their own.
const INLINE_MAX: usize = 22;
/// Fewer bytes than that are copied: then a count beside them would cost more than it spares.
const SHARED_MIN: usize = 512;

/// A byte string.
#[derive(Clone)]
pub struct Text(Repr);

#[derive(Clone)]
enum Repr {
    Inline { size: u8, bytes: [u8; INLINE_MAX] },
    Heap(Vec<u8>),
    Shared(Arc<Vec<u8>>),
}

impl Repr {
    fn of(bytes: Vec<u8>) -> Self {
        if bytes.len() < SHARED_MIN { Self::Heap(bytes) } else { Self::Shared(Arc::new(bytes)) }
    }
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
            None => Self(Repr::of(bytes.to_vec())),
        }
    }

    /// These bytes. Their memory is taken over if they are many.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        if bytes.len() > INLINE_MAX { Self(Repr::of(bytes)) } else { Self::new(&bytes) }
    }

    /// Replaces the content. Memory is used again, unless most of it would stay empty, or a copy holds it.
    pub fn set(&mut self, new: &[u8]) {
        let old = match &mut self.0 {
            Repr::Heap(old) if (INLINE_MAX + 1..SHARED_MIN).contains(&new.len()) => Some(old),
            Repr::Shared(old) if new.len() >= SHARED_MIN => Arc::get_mut(old),
            _ => None,
        };
        match old.filter(|old| old.capacity() <= 2 * new.len() + 64) {
            Some(old) => {
                old.clear();
                old.extend_from_slice(new);
            }
            None => *self = Self::new(new),
        }
    }

    /// Adds to the end.
    pub fn append(&mut self, more: &[u8]) {
        match &mut self.0 {
            Repr::Shared(old) => Arc::make_mut(old).extend_from_slice(more),
            Repr::Heap(old) => {
                old.extend_from_slice(more);
                if old.len() >= SHARED_MIN {
                    self.0 = Repr::of(std::mem::take(old));
                }
            }
            Repr::Inline { size, bytes } => {
                let (start, end) = (usize::from(*size), usize::from(*size) + more.len());
                if let Some(place) = bytes.get_mut(start..end) {
                    place.copy_from_slice(more);
                    *size = end as u8;
                } else {
                    self.0 = Repr::of([&bytes[..start], more].concat());
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
            Repr::Shared(bytes) => bytes,
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
            third in proptest::collection::vec(any::<u8>(), 0..1500),
        ) {
            let mut text = Text::new(&first);
            prop_assert_eq!(&*text, &first[..]);
            text.append(&third);
            prop_assert_eq!(&*text, &[&first[..], &third].concat()[..]);
            for bytes in [&second, &first, &third, &second] {
                let before = text.clone();
                let content = before.to_vec();
                text.set(bytes);
                prop_assert_eq!(&*text, &bytes[..]);
                prop_assert_eq!(&*before, &content[..], "a copy stays as it was");
            }
            for bytes in [&third, &second, &third] {
                text.set(bytes);
                prop_assert_eq!(&*text, &bytes[..]);
            }
            text.set(&second);
            let before = text.clone();
            text.append(&first);
            prop_assert_eq!(&*text, &[&second[..], &first].concat()[..]);
            prop_assert_eq!(&*before, &second[..], "a copy stays as it was");
            prop_assert_eq!(&Text::from_vec(text.to_vec()), &text);
        }
    }
}
