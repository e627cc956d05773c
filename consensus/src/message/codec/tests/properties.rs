//! Properties of arbitrary messages and of arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn any_batch(most: usize) -> impl Strategy<Value = Batch<Bytes>> {
    let one = (any::<u64>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..40), 0usize..4);
    prop::collection::vec(one, 0..most).prop_map(|requests| {
        let requests: Vec<_> = requests
            .iter()
            .map(|(client, counter, operation, entries)| {
                request(ClientId(*client), *counter, operation, &[0x11; 64][..entries * 16])
            })
            .collect();
        batch(&requests)
    })
}

prop_compose! {
    fn any_written()(epoch in any::<u32>(), fill in any::<[u8; 32]>()) -> Written {
        Written { epoch: Epoch(epoch), digest: Digest(fill) }
    }
}

prop_compose! {
    fn any_open_state()(
        certified in prop::option::of(any_written()),
        pairs in prop::collection::vec(any_written(), 0..=WRITE_SET_MAX),
    ) -> OpenState {
        let mut write_set = WriteSet::EMPTY;
        pairs.into_iter().for_each(|pair| write_set.insert(pair));
        OpenState { certified, write_set }
    }
}

prop_compose! {
    fn any_state()(
        numbers in any::<(u32, u32, u16, u64)>(),
        decisions in prop::collection::vec(any::<[u8; 32]>(), 0..=decisions_told(DEPTH_MAX)),
        open in prop::collection::vec(any_open_state(), 0..5),
        fill in any::<u8>(),
    ) -> SignedState {
        let blank = open.iter().rev().take_while(|open| open.is_blank()).count();
        let state = ReplicaState {
            view: ViewId(numbers.0),
            regency: Regency(numbers.1),
            replica: ReplicaId(numbers.2),
            decided: ConsensusId(numbers.3),
            decisions: decisions.into_iter().map(Digest).collect(),
            open: open[..open.len() - blank].to_vec(),
        };
        SignedState { state, signature: [fill; 64] }
    }
}

prop_compose! {
    fn any_position()(view in any::<u32>(), epoch in any::<u32>(), cid in any::<u64>()) -> Position {
        Position { view: ViewId(view), cid: ConsensusId(cid), epoch: Epoch(epoch) }
    }
}

fn any_small_message() -> impl Strategy<Value = Message<Bytes>> {
    let vote = || {
        (any_position(), any::<[u8; 32]>())
            .prop_map(|(at, digest)| Vote { at, digest: Digest(digest) })
    };
    let reason = prop_oneof![
        Just(RefuseReason::Clock),
        any::<u64>().prop_map(|client| RefuseReason::Proof(ClientId(client))),
    ];
    let status = (any::<(u32, u32, u32, u64, u64)>(), any::<(u64, u64, bool, u32, u32)>());
    prop_oneof![
        vote().prop_map(Message::Write),
        vote().prop_map(Message::Accept),
        (vote(), reason).prop_map(|(Vote { at, digest }, reason)| {
            Message::Refuse(Refuse { at, digest, reason })
        }),
        status.prop_map(|(a, b)| Message::Status(Status {
            view: ViewId(a.0),
            regency: Regency(a.1),
            wanted: Regency(a.2),
            stopped: b.2,
            decided: ConsensusId(a.3),
            log_start: ConsensusId(a.4),
            written: set_from_bits(b.0),
            accepted: set_from_bits(b.1),
            proposed: b.3,
            learned: b.4,
        })),
        any::<(u32, u64, u64, bool)>().prop_map(|(view, from, to, with_batches)| {
            let (view, from, to) = (ViewId(view), ConsensusId(from), ConsensusId(to));
            Message::Fetch(Fetch { view, from, to, with_batches })
        }),
        (vote(), any::<[u8; 32]>()).prop_map(|(Vote { at, digest }, bits)| {
            let mut which = [0; Selection::SIZE];
            which[..32].copy_from_slice(&bits);
            Message::FetchBodies(FetchBodies { at, digest, which: Selection::from_bytes(&which) })
        }),
        vote().prop_map(|Vote { at, digest }| {
            Message::FetchBatch(FetchBatch { view: at.view, cid: at.cid, digest })
        }),
        any_state().prop_map(|signed| Message::StopData(Box::new(signed))),
    ]
}

fn any_transfer_message() -> impl Strategy<Value = Message<Bytes>> {
    let vote = || {
        (any_position(), any::<[u8; 32]>())
            .prop_map(|(at, digest)| Vote { at, digest: Digest(digest) })
    };
    prop_oneof![
        any::<(u32, u64)>().prop_map(|(view, above)| {
            Message::FetchState(FetchState { view: ViewId(view), above: ConsensusId(above) })
        }),
        (vote(), prop::collection::vec(any::<u64>(), 0..=OFFERS_MAX)).prop_map(|(vote, sizes)| {
            let mut all = StateOffer::new(vote.at.view);
            for size in sizes {
                assert!(all.push(Offer { cid: vote.at.cid, size, root: vote.digest }));
            }
            Message::StateOffer(all)
        }),
        (vote(), any::<(u32, u32)>()).prop_map(|(Vote { at, digest }, (first, count))| {
            Message::FetchChunks(FetchChunks {
                view: at.view,
                cid: at.cid,
                root: digest,
                first,
                count,
            })
        }),
        (any_position(), any::<(u32, u64)>(), 0..=CHUNK_PATH_MAX, 1..100usize).prop_map(
            |(at, (index, size), nodes, bytes)| {
                let payload = alloc::vec![0xc5; 32 * nodes + bytes];
                let place = (at.cid, index, size);
                let chunk = Chunk::new(at.view, place, nodes, Bytes::from(&payload[..]));
                Message::Chunk(chunk.expect("a path and bytes"))
            }
        ),
    ]
}

fn any_message() -> impl Strategy<Value = Message<Bytes>> {
    let states = prop::collection::vec(any_state(), 0..6);
    prop_oneof![
        3 => any_small_message(),
        1 => any_transfer_message(),
        1 => any_batch(6).prop_map(Message::Forwarded),
        1 => (any_position(), any_batch(6))
            .prop_map(|(at, batch)| Message::Propose(Propose { at, batch })),
        1 => (any_position(), any_batch(6)).prop_map(|(at, requests)| {
            Message::Stop(Stop { view: at.view, regency: Regency(at.epoch.0), requests })
        }),
        1 => (any_position(), states).prop_map(|(at, states)| {
            Message::Sync(Sync { view: at.view, regency: Regency(at.epoch.0), states })
        }),
        1 => (any_position(), prop::option::of(any_batch(6))).prop_map(|(at, batch)| {
            let digest = batch.as_ref().map_or(Digest::ZERO, |batch| batch.digest);
            Message::Decided(Decided { at, digest, batch })
        }),
        1 => (any_position(), any_batch(6)).prop_map(|(at, batch)| {
            Message::BatchBody(BatchBody { view: at.view, cid: at.cid, batch })
        }),
        1 => (any_position(), any_batch(6)).prop_map(|(at, requests)| {
            Message::Bodies(Bodies { at, digest: requests.digest, requests })
        }),
        1 => (any_position(), any_batch(6), any::<u8>()).prop_map(|(at, batch, mask)| {
            let mut omitted = Selection::NONE;
            (0..8).filter(|place| mask & (1 << place) != 0).for_each(|place| omitted.insert(place));
            match (0..batch.len()).any(|place| omitted.contains(place)) {
                true => {
                    let batch = SparseBatch::of(&batch, &omitted, &mut HeapPool).expect("heap");
                    Message::ProposeSparse(ProposeSparse { at, batch })
                }
                false => Message::Propose(Propose { at, batch }),
            }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn a_message_survives_the_wire(message in any_message()) {
        let bytes = encoded(&message);
        let again = decoded(message.kind(), &bytes);
        prop_assert!(again.as_ref() == Ok(&message), "{:?} became {:?}", message, again);
    }

    #[test]
    fn mutated_and_truncated_messages_never_panic(
        message in any_message(),
        kind in 0u8..23,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..4),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = encoded(&message);
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        if cut {
            bytes.truncate(end.index(bytes.len()));
        }
        for kind in [kind, message.kind()] {
            if let Ok(other) = decoded(kind, &bytes) {
                prop_assert_eq!(encoded(&other), bytes.clone(), "one message has one encoding");
            }
        }
    }

    #[test]
    fn a_signed_state_is_the_same_bytes_after_the_wire(signed in any_state()) {
        let message = Message::<Bytes>::StopData(Box::new(signed.clone()));
        let again = decoded(message.kind(), &encoded(&message)).expect("well formed");
        let size = state_to_sign_size(&signed.state);
        let (mut before, mut after) = (alloc::vec![0; size], alloc::vec![0xff; size]);
        encode_state(1, &signed.state, &mut before);
        visit_states(&again, |signed| {
            encode_state(1, &signed.state, &mut after);
        });
        prop_assert_eq!(&before[..], &after[..]);
    }
}
