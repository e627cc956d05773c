//! Every input that a fuzzer has found worth keeping, and every seed, on stable Rust.
//!
//! `cargo test -p tetrarch-fuzz-targets -- --ignored` writes the seeds to `fuzz/corpus/`, which
//! holds what `cargo fuzz cmin` leaves of them and of what was found.

mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use tetrarch_consensus::message::codec;
use tetrarch_consensus::payload::SharedBytes;
use tetrarch_dataplane::header::Header;
use tetrarch_fuzz_targets::{TARGETS, play_member, run};

fn corpus(target: &str) -> PathBuf {
    seeds::root().join("fuzz/corpus").join(target)
}

#[test]
fn every_corpus_replays() {
    for (target, _) in TARGETS {
        let folder = corpus(target);
        let entries =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{}: a target without corpus", folder.display());
        for file in files {
            let data = fs::read(&file).expect("readable");
            let result = std::panic::catch_unwind(|| run(target, &data));
            assert!(result.is_ok(), "{} fails: see above", file.display());
        }
    }
}

#[test]
fn every_seed_replays_and_every_target_has_one() {
    let mut missing: BTreeSet<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    for seed in seeds::all() {
        run(seed.target, &seed.bytes);
        missing.remove(seed.target);
    }
    assert!(missing.is_empty(), "without a seed: {missing:?}");
}

/// A seed that no longer parses would leave its target with nothing to start from.
#[test]
fn golden_vectors_are_inputs_that_parse() {
    for seed in seeds::all() {
        match seed.target {
            "message" => {
                let body = SharedBytes::from(&seed.bytes[1..]);
                assert!(codec::decode(seed.bytes[0], body).is_ok(), "{}", seed.name);
            }
            // Deep enough to be worth mutating.
            "member" => match seed.name.as_str() {
                "leader-change" => assert_eq!(play_member(&seed.bytes).1, 1),
                "transfer" => assert_eq!(play_member(&seed.bytes), (38, 0)),
                _ => assert_eq!(play_member(&seed.bytes), (2, 0), "{}", seed.name),
            },
            "link_header" => assert!(Header::parse(&seed.bytes).is_ok()),
            _ => {}
        }
    }
}

#[test]
fn every_target_has_its_binary_and_no_binary_is_forgotten() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let fuzz = seeds::root().join("fuzz");
    let binaries = fs::read_dir(fuzz.join("fuzz_targets")).expect("readable");
    let binaries: BTreeSet<String> = binaries
        .map(|entry| entry.expect("readable").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(binaries, names);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("readable");
    let listed = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
    let listed: BTreeSet<String> =
        listed.filter_map(|name| name.strip_suffix(".rs\"")).map(str::to_owned).collect();
    assert_eq!(listed, names);
}

#[test]
#[ignore = "writes to fuzz/corpus: run by hand when a format has changed"]
fn write_seeds() {
    for seed in seeds::all() {
        let folder = corpus(seed.target);
        fs::create_dir_all(&folder).expect("the corpus can be written to");
        fs::write(folder.join(&seed.name), &seed.bytes).expect("the corpus can be written to");
    }
}
