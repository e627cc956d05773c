//! What is kept, what goes, and a cache that was written and read.

use super::*;

fn get(cache: &mut ReplyCache, client: u64, counter: u32) -> Option<Vec<u8>> {
    let (a, b) = cache.get(ClientId(client), Sequence::new(1, counter))?;
    Some([a, b].concat())
}

fn insert(cache: &mut ReplyCache, client: u64, counter: u32, body: &[u8]) {
    cache.insert(ClientId(client), Sequence::new(1, counter), Sequence::NONE, body);
}

fn bytes(cache: &mut ReplyCache) -> Vec<u8> {
    let mut bytes = Vec::new();
    cache.write(&mut |piece| bytes.extend_from_slice(piece));
    assert_eq!(bytes.len() as u64, cache.written_size());
    bytes
}

/// Those that the cache knows, with more executed than it has replies to.
fn sessions(cache: &ReplyCache) -> Vec<(ClientId, Sequence)> {
    let known = cache.sessions.iter();
    let mut known: Vec<_> = known.map(|it| (it.client, Sequence::new(9, 1))).collect();
    known.sort_unstable_by_key(|(client, _)| client.0);
    known
}

/// The same cache, in other memory.
fn written_and_read(cache: &mut ReplyCache) -> ReplyCache {
    let mut other = ReplyCache::new(cache.size_max, cache.session_size_max);
    insert(&mut other, 77, 1, b"to be forgotten");
    other.read(&bytes(cache), &sessions(cache)).expect("what was written");
    assert_eq!((bytes(&mut other), other.size()), (bytes(cache), cache.size()));
    other
}

// rule: CKP.1
#[test]
fn what_was_read_goes_on_like_what_was_written() {
    let mut cache = ReplyCache::new(12 * RING_SIZE_MIN, 4 * RING_SIZE_MIN);
    let step = |cache: &mut ReplyCache, step: u32| {
        let client = u64::from(step.wrapping_mul(2_654_435_761) >> 27);
        let oldest = Sequence::new(1, step.saturating_sub(step % 300));
        let body = vec![step as u8; (step as usize * 977) % 2500];
        cache.insert(ClientId(client), Sequence::new(1, step), oldest, &body);
    };
    (1..=1000).for_each(|at| step(&mut cache, at));
    let mut other = written_and_read(&mut cache);
    for at in 1001..=3000 {
        step(&mut cache, at);
        // Only one of them is asked.
        let _ = get(&mut other, u64::from(at % 32), at - 1);
        step(&mut other, at);
        assert_eq!(cache.size(), other.size(), "step {at}");
    }
    assert!(cache.evicted() > 100);
    assert_eq!(bytes(&mut cache), bytes(&mut other));
}

#[test]
fn other_bytes_are_refused_or_kept_within_the_limits() {
    let mut cache = ReplyCache::new(4 * RING_SIZE_MIN, 2 * RING_SIZE_MIN);
    for counter in 1..=5 {
        (1..=3).for_each(|client| insert(&mut cache, client, counter, &[7; 900]));
    }
    let whole = bytes(&mut cache);
    for end in 1..whole.len() {
        let mut cut = ReplyCache::new(cache.size_max, cache.session_size_max);
        // The end of a session is the end of a smaller cache.
        let ends = cut.read(&whole[..end], &sessions(&cache)).is_ok();
        assert!(!ends || bytes(&mut cut) == whole[..end], "cut at {end}");
    }
    for at in 0..whole.len() {
        for bit in [0, 3, 7] {
            let mut other = whole.clone();
            other[at] ^= 1 << bit;
            let mut read = ReplyCache::new(cache.size_max, cache.session_size_max);
            if read.read(&other, &sessions(&cache)).is_ok() {
                assert_eq!(bytes(&mut read), other, "byte {at}");
                assert!(read.size() <= cache.size_max);
            }
        }
    }
    let mut smaller = ReplyCache::new(RING_SIZE_MIN, RING_SIZE_MIN);
    assert!(smaller.read(&whole, &sessions(&cache)).is_err());
}

#[test]
fn a_whole_window_of_small_replies_is_kept_and_no_more() {
    let mut cache = ReplyCache::new(1 << 20, 1 << 16);
    for counter in 1..=200u32 {
        insert(&mut cache, 1, counter, &counter.to_le_bytes());
    }
    let first = 201 - SESSION_WINDOW as u32;
    for counter in first..=200 {
        assert_eq!(get(&mut cache, 1, counter), Some(counter.to_le_bytes().to_vec()));
    }
    assert_eq!(get(&mut cache, 1, first - 1), None);
    assert_eq!(get(&mut cache, 2, 200), None);
    assert_eq!(cache.size(), RING_SIZE_MIN, "no growth for what fits");
}

#[test]
fn replies_of_all_sizes_survive_growing_and_wrapping() {
    let mut cache = ReplyCache::new(1 << 20, 1 << 14);
    let body = |counter: u32| vec![counter as u8; (counter as usize * 977) % 3000];
    for counter in 1..=500 {
        insert(&mut cache, 1, counter, &body(counter));
        for back in 0..3.min(counter) {
            assert_eq!(get(&mut cache, 1, counter - back), Some(body(counter - back)));
        }
    }
    assert!(cache.size() <= 1 << 14);
}

#[test]
fn one_reply_larger_than_the_share_is_kept_alone() {
    let mut cache = ReplyCache::new(1 << 20, 1 << 13);
    insert(&mut cache, 1, 1, b"small");
    insert(&mut cache, 1, 2, &[7; 100_000]);
    assert_eq!(get(&mut cache, 1, 2), Some(vec![7; 100_000]));
    assert_eq!(get(&mut cache, 1, 1), None);
    insert(&mut cache, 1, 3, b"small again");
    assert_eq!(get(&mut cache, 1, 3), Some(b"small again".to_vec()));
}

#[test]
fn the_session_idle_for_longest_goes_first_and_the_sum_is_bounded() {
    let mut cache = ReplyCache::new(4 * RING_SIZE_MIN, RING_SIZE_MIN);
    for client in 1..=4 {
        insert(&mut cache, client, 1, b"x");
    }
    insert(&mut cache, 1, 2, b"x");
    // Asking is not executing: what others keep must not depend on who was asked.
    assert!(get(&mut cache, 2, 1).is_some());
    insert(&mut cache, 5, 1, b"x");
    assert_eq!(get(&mut cache, 2, 1), None);
    assert!(get(&mut cache, 1, 2).is_some() && get(&mut cache, 5, 1).is_some());
    assert_eq!((cache.size(), cache.evicted()), (4 * RING_SIZE_MIN, 1));
}

#[test]
fn replies_that_nobody_will_ask_for_make_room() {
    // rule: SMR.10
    let mut cache = ReplyCache::new(1 << 20, 1 << 18);
    let body = |counter: u32| vec![counter as u8; 1000 + counter as usize % 7];
    for counter in 1..=500u32 {
        // Two without a result before each: three are in flight.
        let oldest = Sequence::new(1, counter.saturating_sub(2));
        let sequence = Sequence::new(1, counter);
        cache.insert(ClientId(1), sequence, oldest, &body(counter));
        for kept in counter.saturating_sub(2).max(1)..=counter {
            assert_eq!(get(&mut cache, 1, kept), Some(body(kept)));
        }
        assert_eq!(get(&mut cache, 1, counter.saturating_sub(3)), None);
    }
    assert_eq!(cache.size(), RING_SIZE_MIN, "three of them fit");
    // With one in flight it is always the same bytes; a new incarnation asks for nothing old.
    for sequence in [Sequence::new(1, 501), Sequence::new(1, 502), Sequence::new(2, 1)] {
        cache.insert(ClientId(1), sequence, sequence, &body(9));
        let session = &cache.sessions[0];
        assert_eq!((session.count, session.used, session.end), (1, 1002, 1002));
    }
}

#[test]
fn sessions_in_steady_use_share_the_memory_and_keep_their_rings() {
    const SESSIONS: u64 = 100;
    // Their windows of such replies are three times as much.
    let mut cache = ReplyCache::new(SESSIONS as usize * 20 * 1024, 1 << 18);
    for counter in 1..=200 {
        for client in 1..=SESSIONS {
            insert(&mut cache, client, counter, &[counter as u8; 1000]);
            assert!(get(&mut cache, client, counter).is_some());
        }
    }
    assert_eq!(cache.evicted(), 0);
    for client in 1..=SESSIONS {
        for counter in 191..=200 {
            let kept = get(&mut cache, client, counter);
            assert_eq!(kept, Some(vec![counter as u8; 1000]), "client {client}");
        }
    }
}

#[test]
fn sessions_that_come_and_go_never_answer_for_each_other() {
    let mut cache = ReplyCache::new(16 * RING_SIZE_MIN, 2 * RING_SIZE_MIN);
    let (mut last, mut evicted) = (std::collections::BTreeMap::new(), 0);
    for step in 1..=4000u32 {
        // Two clients of 16 sessions each; some replies need a larger ring.
        let client = ClientId::new(step % 2, step.wrapping_mul(2_654_435_761) >> 16 & 0xf).0;
        let body = vec![step as u8; if step % 7 == 0 { 3000 } else { 40 }];
        insert(&mut cache, client, step, &body);
        last.insert(client, (step, body));
        let mut kept = 0;
        for (client, (counter, body)) in &last {
            if let Some(found) = get(&mut cache, *client, *counter) {
                assert_eq!(&found, body, "client {client}");
                kept += 1;
            }
        }
        assert_eq!(kept, cache.sessions.len());
        assert!(cache.size() <= 16 * RING_SIZE_MIN);
        if step % 500 == 0 {
            evicted += cache.evicted();
            cache = written_and_read(&mut cache);
        }
        let rings: usize = cache.sessions.iter().map(|session| session.ring.len()).sum();
        assert_eq!(rings, cache.size());
    }
    assert!(evicted + cache.evicted() > 100);
}
