//! The gateway and the store against `golden/*.txt`: scripts of commands with the replies that
//! Redis 7.0 gives.
//!
//! With `GOLDEN_SERVER=host:port` the same scripts run against that server (it is flushed!), which
//! shows that the files say what Redis says. With `GOLDEN_WRITE=1` in addition, the replies in the
//! files are replaced by that server's.
//!
//! Lines: `> command` ordered reply, `~ command` reply whose elements have no order, `% command`
//! reply of pairs without order, `= command` only here (Redis answers otherwise), `! ms` sleeps,
//! `< reply` with escapes. Comments start with `#`.

mod common;

use std::fmt::Write;
use std::time::Duration;

use common::{Client, Server, encode, sorted};
use tetrarch_services::gateway::ReadMode;
use tetrarch_services::resp::{Limits, Parsed, parse};

fn words(line: &str) -> Vec<Vec<u8>> {
    match parse(format!("{line}\n").as_bytes(), &Limits::default()) {
        Ok(Parsed::Command { words, .. }) => words,
        other => panic!("{line}: {other:?}"),
    }
}

fn escaped(reply: &[u8]) -> String {
    reply.escape_ascii().to_string().replace("\\\"", "\"").replace("\\'", "'")
}

fn unescaped(text: &str) -> Vec<u8> {
    let quoted = text.replace('"', "\\\"");
    words(&format!("\"{quoted}\"")).remove(0)
}

fn run(path: &str, read_mode: ReadMode) {
    let path = format!("{}/tests/golden/{path}", env!("CARGO_MANIFEST_DIR"));
    let script = std::fs::read_to_string(&path).expect("the golden file");
    let real = std::env::var("GOLDEN_SERVER").ok();
    let write = std::env::var("GOLDEN_WRITE").is_ok() && real.is_some();
    let server = real.is_none().then(|| Server::start(read_mode, 4));
    let mut client = match (&real, &server) {
        (Some(address), _) => Client::connect(address.parse().expect("host:port")),
        (None, Some(server)) => server.client(),
        (None, None) => unreachable!("one of them is there"),
    };
    client.call(&["FLUSHALL"]);
    let mut out = String::new();
    let mut lines = script.lines().peekable();
    let mut count = 0;
    while let Some(line) = lines.next() {
        writeln!(out, "{line}").expect("memory");
        let Some((kind, text)) = line.split_at_checked(1) else { continue };
        match kind {
            "#" | "<" => continue,
            "!" => {
                let ms = text.trim().parse().expect("milliseconds");
                std::thread::sleep(Duration::from_millis(ms));
                continue;
            }
            _ => {}
        }
        let expected =
            lines.next_if(|next| next.starts_with('<')).map(|next| unescaped(&next[2..]));
        if kind == "=" && real.is_some() {
            if let Some(expected) = expected {
                writeln!(out, "< {}", escaped(&expected)).expect("memory");
            }
            continue;
        }
        let words = words(text.trim());
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        client.send(&encode(&words));
        let reply = client.reply();
        writeln!(out, "< {}", escaped(&reply)).expect("memory");
        count += 1;
        if write {
            continue;
        }
        let expected = expected.unwrap_or_else(|| panic!("{path}: no reply for {line}"));
        let same = match kind {
            "~" => sorted(&reply, false) == sorted(&expected, false),
            "%" => sorted(&reply, true) == sorted(&expected, true),
            _ => reply == expected,
        };
        assert!(
            same,
            "{path}: {line}\n expected {}\n found    {}",
            escaped(&expected),
            escaped(&reply)
        );
    }
    assert!(count > 0, "{path} has commands");
    if write {
        std::fs::write(&path, out).expect("write the golden file");
    }
}

macro_rules! golden {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            run(concat!(stringify!($name), ".txt"), ReadMode::Ordered);
            if std::env::var("GOLDEN_SERVER").is_err() {
                run(concat!(stringify!($name), ".txt"), ReadMode::ReadOnly);
            }
        }
    )*};
}

golden!(strings, keys, lists, hashes, sets, expiry, transactions, connection);
