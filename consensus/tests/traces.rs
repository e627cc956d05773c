//! Golden traces: what small clusters do in scripted scenarios, as text that is reviewed as a diff.
//!
//! `UPDATE=1 cargo test -p tetrarch-consensus --test traces` writes what happens now.

mod harness;

use std::path::Path;

#[test]
fn every_trace_is_as_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let update = std::env::var_os("UPDATE").is_some();
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of traces")
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no traces in {}", folder.display());
    let mut different = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a readable trace");
        let (commands, expected) = text.split_once("----\n").unwrap_or((&text, ""));
        println!("{}", path.display());
        let happened = harness::script::run(commands);
        if happened == expected {
            continue;
        }
        if update {
            std::fs::write(&path, format!("{commands}----\n{happened}")).expect("writable");
        } else {
            println!("expected:\n{expected}\nhappened:\n{happened}");
            different.push(path);
        }
    }
    assert!(different.is_empty(), "traces differ (UPDATE=1 rewrites them): {different:?}");
}
