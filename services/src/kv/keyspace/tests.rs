//! The keyspace against a map, with and without colliding positions.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Set(u8, Expiry),
    Push(u8),
    Pop(u8),
    Remove(u8),
    Expire(u8, Option<u64>),
    Tick(u64),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..24u8;
    let expiry =
        prop_oneof![Just(Expiry::Keep), Just(Expiry::Clear), (0..40u64).prop_map(Expiry::At)];
    prop_oneof![
        (key.clone(), expiry).prop_map(|(k, e)| Step::Set(k, e)),
        key.clone().prop_map(Step::Push),
        key.clone().prop_map(Step::Pop),
        key.clone().prop_map(Step::Remove),
        (key, proptest::option::of(0..40u64)).prop_map(|(k, at)| Step::Expire(k, at)),
        (1..4u64).prop_map(Step::Tick),
        Just(Step::Sweep),
    ]
}

type Model = BTreeMap<u8, (Option<Vec<u8>>, usize, Option<u64>)>;

fn live(model: &mut Model, key: u8, now: u64) -> bool {
    let expired = matches!(model.get(&key), Some((_, _, Some(at))) if *at < now);
    if expired {
        model.remove(&key);
    }
    model.contains_key(&key)
}

fn check(mask: u64, steps: Vec<Step>) {
    let mut keyspace = Keyspace::with_positions([1, 2], mask);
    let mut model = Model::new();
    let mut now = 0;
    for step in steps {
        match step {
            Step::Set(key, expiry) => {
                let kept = if live(&mut model, key, now) { model[&key].2 } else { None };
                let at = match expiry {
                    Expiry::Keep => kept,
                    Expiry::Clear => None,
                    Expiry::At(at) => Some(at),
                };
                keyspace.set_string(&[key], now, &[key; 3], expiry);
                model.insert(key, (Some(vec![key; 3]), 0, at));
            }
            Step::Push(key) => {
                live(&mut model, key, now);
                let entry = model.entry(key).or_insert((None, 0, None));
                keyspace.edit_or_create(&[key], now, Kind::List, |value| {
                    if let Value::List(list) = value {
                        list.push(true, b"x");
                    }
                });
                entry.1 += usize::from(entry.0.is_none());
            }
            Step::Pop(key) => {
                let found = keyspace.edit(&[key], now, |value| {
                    if let Value::List(list) = value {
                        list.pop(false);
                    }
                });
                assert_eq!(found.is_some(), live(&mut model, key, now));
                if let Some((None, items, _)) = model.get_mut(&key) {
                    *items -= 1;
                    if *items == 0 {
                        model.remove(&key);
                    }
                }
            }
            Step::Remove(key) => {
                let was = live(&mut model, key, now);
                assert_eq!(keyspace.remove(&[key], now), was);
                model.remove(&key);
            }
            Step::Expire(key, at) => {
                if live(&mut model, key, now) {
                    keyspace.set_expiry(&[key], at);
                    model.get_mut(&key).expect("live").2 = at;
                }
            }
            Step::Tick(ms) => now += ms,
            Step::Sweep => keyspace.expire(now, 1),
        }
    }
    for key in 0..24 {
        let entry = keyspace.get(&[key], now);
        assert_eq!(entry.is_some(), live(&mut model, key, now), "key {key}");
        if let (Some(entry), Some((_, _, at))) = (entry, model.get(&key)) {
            assert_eq!(entry.expires_ms(), *at);
        }
    }
    let walked: Vec<_> = keyspace.walk(0).collect();
    assert_eq!(walked.len(), keyspace.len());
    assert!(walked.windows(2).all(|w| (w[0].0, w[0].1.key()) < (w[1].0, w[1].1.key())));
    assert_eq!(walked.iter().map(|(_, e)| e.weight()).sum::<usize>(), keyspace.weight());
    let volatile = walked.iter().filter(|(_, e)| e.expires_ms().is_some()).count();
    assert_eq!(volatile, keyspace.volatile.len());
    keyspace.expire(u64::MAX, usize::MAX);
    assert!(!keyspace.has_volatile());
    keyspace.clear();
    assert_eq!((keyspace.len(), keyspace.weight(), keyspace.walk(0).count()), (0, 0, 0));
}

proptest! {
    #[test]
    fn agrees_with_a_map(steps in proptest::collection::vec(step(), 0..120)) {
        check((1 << POSITION_BITS) - 1, steps);
    }

    #[test]
    fn agrees_with_a_map_when_positions_collide(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        check(3, steps);
    }
}
