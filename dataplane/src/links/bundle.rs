//! Many small messages under one link header and one tag.
//!
//! Owns the format of a bundle. Always true: what [`parse`] accepts is whole messages one after the
//! other, as many as the header says, of sizes and kinds that may be bundled, and nothing else. Must
//! not: be asked for a bundle whose tag was not checked.
//!
//! The header has [`KIND_BUNDLE`](super::KIND_BUNDLE), the number of messages in its session field, and zeros for proof
//! and digest: the link tag covers every byte of the bundle itself. Each message in it is
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | kind, below [`CONTROL_KIND_MIN`] |
//! | 1 | 1 | auth |
//! | 2 | 2 | proof size |
//! | 4 | 4 | size of body and proof |
//! | 8 | 8 | session |
//! | 16 | | body, proof |

use super::{CONTROL_KIND_MIN, Outgoing, Small};
use crate::arena::FramePool;
use crate::frame::{Frame, FrameMut};
use crate::header::Header;
use crate::limits::{BUNDLE_MESSAGES_MAX, BUNDLE_SIZE_MAX, BUNDLED_SIZE_MAX};
use crate::reject::Reject;
use crate::types::Digest;

/// Bytes before each message of a bundle.
pub const PREFIX_SIZE: usize = 16;

/// A slot so many times larger than a bundle is left to those who need it.
const SLOT_WASTE_MAX: usize = 4;

/// A message inside a bundle. The fields are those of a link header.
#[derive(Clone, Copy, Debug)]
pub struct Inner<'a> {
    /// What the body is; never one of the links' own.
    pub kind: u8,
    /// What sort of proof follows the body.
    pub auth: u8,
    /// How many of the last bytes are proof; not more than there are.
    pub proof_size: u16,
    /// As the sender set it.
    pub session: u64,
    /// Where body and proof begin in the bundle.
    pub start: usize,
    /// Body and proof.
    pub payload: &'a [u8],
}

impl<'a> Inner<'a> {
    /// The bytes before the proof.
    pub fn body(&self) -> &'a [u8] {
        let size = self.payload.len().saturating_sub(usize::from(self.proof_size));
        self.payload.get(..size).unwrap_or(&[])
    }
}

/// How many messages the header of a bundle announces.
///
/// # Errors
/// `Malformed`: it is not the header of a bundle.
pub(super) fn announced(header: &Header) -> Result<usize, Reject> {
    let size = header.payload_size();
    let plain =
        header.auth == 0 && header.proof_size == 0 && header.body_digest == Digest::default();
    match usize::try_from(header.session) {
        Ok(count @ 1..=BUNDLE_MESSAGES_MAX) if plain && size <= BUNDLE_SIZE_MAX => Ok(count),
        _ => Err(Reject::Malformed),
    }
}

/// Calls `take` with each of the `count` messages of a bundle, in order. Whether these are all, and
/// each may be there, is known at the end only. `bytes` are those after the link header.
///
/// # Errors
/// `Malformed`: nothing of the bundle may be used.
pub fn parse<'a>(
    bytes: &'a [u8],
    count: usize,
    mut take: impl FnMut(Inner<'a>),
) -> Result<(), Reject> {
    let mut rest = bytes;
    for _ in 0..count {
        let (prefix, after) = rest.split_first_chunk::<PREFIX_SIZE>().ok_or(Reject::Malformed)?;
        let [kind, auth, proof_low, proof_high, size @ .., _, _, _, _, _, _, _, _] = *prefix;
        let proof_size = u16::from_le_bytes([proof_low, proof_high]);
        let size = u32::from_le_bytes(size) as usize;
        let session = prefix.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let fits = size <= BUNDLED_SIZE_MAX && usize::from(proof_size) <= size;
        let (true, Some((payload, after))) = (fits, after.split_at_checked(size)) else {
            return Err(Reject::Malformed);
        };
        if kind >= CONTROL_KIND_MIN {
            return Err(Reject::Malformed);
        }
        let start = bytes.len() - rest.len() + PREFIX_SIZE;
        take(Inner { kind, auth, proof_size, session, start, payload });
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(Reject::Malformed) }
}

/// A bundle that is being written.
pub(super) struct OpenBundle {
    frame: FrameMut,
    size: usize,
    count: usize,
}

impl OpenBundle {
    /// Two messages; `None` when there is no slot for them.
    pub(super) fn of(first: &Outgoing, second: &Outgoing, pool: &FramePool) -> Option<Self> {
        let mut bundle = Self::new(pool)?;
        (bundle.push(&first.as_small()) && bundle.push(&second.as_small())).then_some(bundle)
    }

    /// An empty one.
    fn new(pool: &FramePool) -> Option<Self> {
        let frame = pool.alloc(BUNDLE_SIZE_MAX)?;
        let apt = frame.capacity() <= SLOT_WASTE_MAX * BUNDLE_SIZE_MAX;
        apt.then_some(Self { frame, size: 0, count: 0 })
    }

    /// Messages in it.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Appends a message; `false` if it does not fit, or may not be there.
    #[inline(always)]
    pub(super) fn push(&mut self, message: &Small<'_>) -> bool {
        let Small { kind, auth, session, proof_size, payload, .. } = *message;
        let end = self.size + PREFIX_SIZE + payload.len();
        let may = kind < CONTROL_KIND_MIN
            && payload.len() <= BUNDLED_SIZE_MAX
            && usize::from(proof_size) <= payload.len();
        if !may || end > BUNDLE_SIZE_MAX || self.count == BUNDLE_MESSAGES_MAX {
            return false;
        }
        let (prefix, place) = self.frame.bytes_mut()[self.size..end].split_at_mut(PREFIX_SIZE);
        prefix[0] = kind;
        prefix[1] = auth;
        prefix[2..4].copy_from_slice(&proof_size.to_le_bytes());
        prefix[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        prefix[8..].copy_from_slice(&session.to_le_bytes());
        place.copy_from_slice(payload);
        self.size = end;
        self.count += 1;
        true
    }

    /// The bytes after the header of the bundle. One that fills less than half of its slot moves to a
    /// smaller one, if there is any: it may wait for a slow peer.
    pub(super) fn close(self, pool: &FramePool) -> Frame {
        if 2 * self.size <= self.frame.capacity()
            && let Some(mut smaller) = pool.alloc(self.size)
            && smaller.capacity() < self.frame.capacity()
        {
            smaller.bytes_mut()[..self.size].copy_from_slice(&self.frame.bytes()[..self.size]);
            return smaller.freeze(self.size as u32);
        }
        self.frame.freeze(self.size as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{Arena, ArenaSpec, SlotClass};
    use crate::header::assert_golden;
    use crate::limits::{HEADER_SIZE, TAG_SIZE};
    use crate::links::KIND_BUNDLE;
    use crate::types::PeerId;
    use proptest::prelude::*;

    fn arena() -> Arena {
        let class = |slot_size, count| SlotClass { slot_size, count };
        Arena::heap(&ArenaSpec { classes: vec![class(512, 8), class(4096, 2)] }).unwrap()
    }

    fn out(kind: u8, session: u64, payload: &[u8], proof_size: u16, arena: &Arena) -> Outgoing {
        Outgoing {
            to: PeerId::replica(0),
            kind,
            auth: 1,
            session,
            proof_size,
            body_digest: None,
            frame: Some(arena.pool().copy_from(payload).unwrap()),
        }
    }

    fn header(count: u64, size: usize) -> Header {
        Header {
            kind: KIND_BUNDLE,
            auth: 0,
            size: (HEADER_SIZE + size) as u32,
            sender: 0,
            proof_size: 0,
            cluster: 7,
            session: count,
            sequence: 1,
            body_digest: Digest::default(),
            tag: [0; TAG_SIZE],
        }
    }

    type Message = (u8, u8, u16, u64, Vec<u8>);

    fn parsed(bytes: &[u8], count: usize) -> Result<Vec<Message>, Reject> {
        let mut all = Vec::new();
        parse(bytes, count, |it| {
            assert_eq!(&bytes[it.start..it.start + it.payload.len()], it.payload);
            assert_eq!(it.body().len(), it.payload.len() - usize::from(it.proof_size));
            all.push((it.kind, it.auth, it.proof_size, it.session, it.payload.to_vec()));
        })
        .map(|()| all)
    }

    /// Changes only together with the version of the wire.
    const GOLDEN: &str = include_str!("../vectors/bundle.hex");

    #[test]
    fn golden_vector() {
        let arena = arena();
        let mut bundle = OpenBundle::new(&arena.pool()).unwrap();
        assert!(bundle.push(&out(1, 0x0102_0304_0506_0708, b"body proof", 5, &arena).as_small()));
        assert!(bundle.push(&out(249, 9, b"", 0, &arena).as_small()));
        let frame = bundle.close(&arena.pool());
        assert_golden(frame.bytes(), GOLDEN);
        let first = (1, 1, 5, 0x0102_0304_0506_0708, b"body proof".to_vec());
        assert_eq!(parsed(frame.bytes(), 2), Ok(vec![first, (249, 1, 0, 9, vec![])]));
    }

    #[test]
    fn only_its_own_header_announces_a_bundle() {
        assert_eq!(announced(&header(1, 16)), Ok(1));
        assert_eq!(announced(&header(32, BUNDLE_SIZE_MAX)), Ok(BUNDLE_MESSAGES_MAX));
        let wrong = [
            header(0, 16),
            header(33, 33 * 16),
            header(u64::MAX, 16),
            header(1, BUNDLE_SIZE_MAX + 1),
            Header { auth: 1, ..header(1, 16) },
            Header { proof_size: 1, ..header(1, 17) },
            Header { body_digest: [1; 32], ..header(1, 16) },
        ];
        for header in wrong {
            assert_eq!(announced(&header), Err(Reject::Malformed), "{header:?}");
        }
    }

    #[test]
    fn a_bundle_is_taken_whole_or_not_at_all() {
        let arena = arena();
        let mut bundle = OpenBundle::new(&arena.pool()).unwrap();
        assert!(bundle.push(&out(1, 2, b"one", 1, &arena).as_small()));
        assert!(bundle.push(&out(2, 3, b"two", 0, &arena).as_small()));
        let bytes = bundle.close(&arena.pool()).bytes().to_vec();
        assert_eq!(parsed(&bytes, 2).map(|all| all.len()), Ok(2));
        for count in [0, 1, 3, 32] {
            assert_eq!(parsed(&bytes, count), Err(Reject::Malformed), "{count} messages");
        }
        for size in 0..bytes.len() {
            assert_eq!(parsed(&bytes[..size], 2), Err(Reject::Malformed), "{size} bytes");
        }
        let broken = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            parsed(&bytes, 2)
        };
        for kind in CONTROL_KIND_MIN..=255 {
            assert_eq!(broken(0, kind), Err(Reject::Malformed), "the links' own kind {kind}");
        }
        assert_eq!(broken(2, 4), Err(Reject::Malformed), "a proof larger than the message");
        assert_eq!(broken(4, 2), Err(Reject::Malformed), "what follows is no message");
        assert_eq!(broken(7, 0xff), Err(Reject::Malformed), "beyond the end");
        let large = [&[1, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0; 513]].concat();
        assert_eq!(parsed(&large, 1), Err(Reject::Malformed), "too large for a bundle");
    }

    #[test]
    fn a_small_bundle_holds_a_small_slot() {
        let arena = arena();
        let mut bundle = OpenBundle::new(&arena.pool()).unwrap();
        assert!(bundle.push(&out(1, 1, &[7; 100], 0, &arena).as_small()));
        let frame = bundle.close(&arena.pool());
        assert_eq!((arena.free_slots(), frame.size()), (9, 116));
        assert_eq!(arena.pool().free_slots_for(4096), 2);
        // Without a small one it stays where it is.
        let small: Vec<_> = std::iter::from_fn(|| {
            (arena.pool().free_slots_for(1) > 2).then(|| arena.pool().alloc(1))
        })
        .collect();
        let message = Outgoing { frame: None, ..out(1, 1, &[], 0, &arena) };
        let mut bundle = OpenBundle::new(&arena.pool()).unwrap();
        assert!(bundle.push(&message.as_small()));
        assert_eq!(bundle.close(&arena.pool()).size(), 16);
        drop(small);
        let huge =
            Arena::heap(&ArenaSpec { classes: vec![SlotClass { slot_size: 1 << 20, count: 1 }] });
        assert!(OpenBundle::new(&huge.unwrap().pool()).is_none(), "left to those who need it");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            messages in proptest::collection::vec(
                (0..CONTROL_KIND_MIN, any::<u64>(), proptest::collection::vec(any::<u8>(), 0..=512), any::<u16>()),
                1..40,
            ),
        ) {
            let arena = arena();
            let mut bundle = OpenBundle::new(&arena.pool()).unwrap();
            let mut model: Vec<Message> = Vec::new();
            for (kind, session, payload, proof) in messages {
                let proof = proof % (payload.len() as u16 + 1);
                if !bundle.push(&out(kind, session, &payload, proof, &arena).as_small()) {
                    break;
                }
                model.push((kind, 1, proof, session, payload));
            }
            prop_assert_eq!(bundle.count(), model.len());
            let frame = bundle.close(&arena.pool());
            let header = header(model.len() as u64, frame.size());
            prop_assert_eq!(announced(&header), Ok(model.len()));
            prop_assert_eq!(parsed(frame.bytes(), model.len()), Ok(model));
        }

        #[test]
        fn any_bytes_are_messages_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            count in 0usize..40,
        ) {
            if let Ok(messages) = parsed(&bytes, count) {
                prop_assert_eq!(messages.len(), count);
                let size: usize = messages.iter().map(|(.., payload)| PREFIX_SIZE + payload.len()).sum();
                prop_assert_eq!(size, bytes.len());
            }
        }
    }
}
