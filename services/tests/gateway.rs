//! The gateway as Redis clients see it: pipelines, transactions, large replies, both read modes,
//! limits and bad input.

mod common;

use std::io::Write;
use std::time::Duration;

use common::{Client, Server, encode};
use tetrarch_services::gateway::ReadMode;

fn words(words: &[&str]) -> Vec<u8> {
    encode(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

#[test]
fn a_pipeline_is_answered_in_order_whatever_the_read_mode() {
    for mode in [ReadMode::Ordered, ReadMode::ReadOnly] {
        let server = Server::start(mode, 4);
        let mut client = server.client();
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for i in 0..3000 {
            let (key, value) = (format!("k{}", i % 7), format!("{i}"));
            sent.extend(words(&["SET", &key, &value]));
            expected.push(b"+OK\r\n".to_vec());
            sent.extend(words(&["GET", &key]));
            expected.push(bulk(value.as_bytes()));
            if i % 3 == 0 {
                sent.extend(words(&["PING"]));
                expected.push(b"+PONG\r\n".to_vec());
            }
            if i % 5 == 0 {
                sent.extend(words(&["SET", "t", "v", "PX", "100000"]));
                expected.push(b"+OK\r\n".to_vec());
                // A key that expires: its reads need an order, whatever the mode.
                sent.extend(words(&["GET", "t"]));
                expected.push(bulk(b"v"));
                sent.extend(words(&["GET", &key]));
                expected.push(bulk(value.as_bytes()));
            }
        }
        let mut sender = client.socket.try_clone().expect("clone");
        let thread = std::thread::spawn(move || sender.write_all(&sent).expect("send"));
        for (index, expected) in expected.iter().enumerate() {
            assert_eq!(&client.reply(), expected, "reply {index} in {mode:?}");
        }
        thread.join().expect("sender");
    }
}

#[test]
fn replies_that_do_not_fit_one_operation_come_in_order_all_the_same() {
    for mode in [ReadMode::Ordered, ReadMode::ReadOnly] {
        let server = Server::start(mode, 4);
        let mut client = server.client();
        let large = vec![b'x'; 100_000];
        client.send(&encode(&[b"SET", b"large", &large]));
        assert_eq!(client.reply(), b"+OK\r\n");
        let mut sent = Vec::new();
        for i in 0..100 {
            sent.extend(words(&["GET", "large"]));
            sent.extend(words(&["INCR", "n"]));
            sent.extend(words(&["GET", "large"]));
            if i % 10 == 0 {
                sent.extend(words(&["MULTI"]));
                sent.extend(words(&["GET", "large"]));
                sent.extend(words(&["GET", "n"]));
                sent.extend(words(&["EXEC"]));
            }
        }
        let mut sender = client.socket.try_clone().expect("clone");
        let thread = std::thread::spawn(move || sender.write_all(&sent).expect("send"));
        for i in 0..100 {
            assert_eq!(client.reply(), bulk(&large));
            assert_eq!(client.reply(), format!(":{}\r\n", i + 1).into_bytes());
            assert_eq!(client.reply(), bulk(&large));
            if i % 10 == 0 {
                assert_eq!(client.reply(), b"+OK\r\n");
                assert_eq!(client.reply(), b"+QUEUED\r\n");
                assert_eq!(client.reply(), b"+QUEUED\r\n");
                let number = bulk((i + 1).to_string().as_bytes());
                assert_eq!(client.reply(), [b"*2\r\n", &bulk(&large)[..], &number].concat());
            }
        }
        thread.join().expect("sender");
        assert_eq!(client.call(&["GET", "n"]), "$3\r\n100\r\n");
    }
}

#[test]
fn a_reply_that_never_fits_is_an_error_and_changes_nothing() {
    let server = Server::start(ReadMode::Ordered, 4);
    let mut client = server.client();
    let element = vec![b'x'; 100_000];
    for _ in 0..4 {
        client.send(&encode(&[b"RPUSH", b"l", &element]));
        client.reply();
    }
    for command in [&["LRANGE", "l", "0", "-1"][..], &["LPOP", "l", "4"], &["RPOP", "l", "3"]] {
        assert!(client.call(command).starts_with("-ERR the reply is larger"), "{command:?}");
    }
    assert_eq!(client.call(&["LLEN", "l"]), ":4\r\n");
    assert!(client.call(&["LPOP", "l", "2"]).starts_with("*2\r\n"));
    client.call(&["MULTI"]);
    client.call(&["LRANGE", "l", "0", "-1"]);
    client.call(&["LRANGE", "l", "0", "-1"]);
    client.call(&["LLEN", "l"]);
    let reply = client.call(&["EXEC"]);
    assert!(reply.contains("-ERR the reply is larger") && reply.ends_with(":2\r\n"));
}

#[test]
fn sizes_are_limited_with_words() {
    let server = Server::start(ReadMode::Ordered, 4);
    let mut client = server.client();
    let value = vec![b'x'; 255 * 1024];
    client.send(&encode(&[b"SET", b"k", &value]));
    assert_eq!(client.reply(), b"+OK\r\n");
    client.send(&encode(&[b"GET", b"k"]));
    assert_eq!(client.reply(), bulk(&value));
    client.send(&encode(&[b"APPEND", b"k", b"1"]));
    assert!(client.reply().starts_with(b"-ERR string exceeds maximum"));
    client.send(&encode(&[b"SET", b"k", &[&value[..], b"1"].concat()]));
    assert!(client.reply().starts_with(b"-ERR string exceeds maximum"));
    client.send(&encode(&[b"SET", &[b'k'; 20_000], b"v"]));
    assert!(client.reply().starts_with(b"-ERR key exceeds"));
    // Two values that a command may have, and an operation may not.
    client.send(&encode(&[b"MSET", b"a", &value, b"b", &value]));
    assert!(client.reply().starts_with(b"-ERR the command is larger"));
    assert_eq!(client.call(&["EXISTS", "a", "b"]), ":0\r\n");
    client.call(&["MULTI"]);
    client.send(&encode(&[b"SET", b"a", &value]));
    assert_eq!(client.reply(), b"+QUEUED\r\n");
    client.send(&encode(&[b"SET", b"a", &value]));
    assert!(client.reply().starts_with(b"-ERR the transaction is larger"));
    assert!(client.call(&["EXEC"]).starts_with("-EXECABORT"));
    assert_eq!(client.call(&["EXISTS", "a"]), ":0\r\n");
}

#[test]
fn what_is_not_resp_ends_the_connection_after_what_was_asked_before() {
    let server = Server::start(ReadMode::Ordered, 4);
    for bad in [&b"*1\r\n+x\r\n"[..], b"*1\r\n$-5\r\n", b"*99999999\r\n", b"get \"x\r\n"] {
        let mut client = server.client();
        client.send(&[&words(&["INCR", "n"])[..], bad].concat());
        assert!(client.reply().starts_with(b":"));
        assert!(client.reply().starts_with(b"-ERR Protocol error"), "{}", bad.escape_ascii());
        assert_eq!(client.reply(), b"");
    }
    // Sessions came back: there are only four.
    for _ in 0..10 {
        assert_eq!(server.client().call(&["PING"]), "+PONG\r\n");
    }
}

#[test]
fn connections_beyond_the_sessions_are_refused_with_words() {
    let server = Server::start(ReadMode::Ordered, 2);
    let mut first = server.client();
    let mut second = server.client();
    assert_eq!(first.call(&["PING"]), "+PONG\r\n");
    assert_eq!(second.call(&["PING"]), "+PONG\r\n");
    let mut third = server.client();
    assert_eq!(third.reply(), b"-ERR max number of clients reached\r\n");
    drop(second);
    for attempt in 0.. {
        let mut again = server.client();
        again.socket.set_read_timeout(Some(Duration::from_secs(60))).expect("option");
        if again.call(&["PING"]) == "+PONG\r\n" {
            break;
        }
        assert!(attempt < 1000, "the session comes back");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn quit_answers_what_came_before_and_nothing_after() {
    let server = Server::start(ReadMode::Ordered, 2);
    let mut client = server.client();
    let all = [words(&["SET", "a", "1"]), words(&["QUIT"]), words(&["SET", "a", "2"])].concat();
    client.send(&all);
    assert_eq!(client.reply(), b"+OK\r\n");
    assert_eq!(client.reply(), b"+OK\r\n");
    assert_eq!(client.reply(), b"");
    assert_eq!(server.client().call(&["GET", "a"]), "$1\r\n1\r\n");
}

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let server = Server::start(ReadMode::Ordered, 4);
    let mut slow = server.client();
    slow.send(&encode(&[b"SET", b"large", &[b'x'; 200_000]]));
    slow.reply();
    let mut sender = slow.socket.try_clone().expect("clone");
    let commands = 400;
    let thread = std::thread::spawn(move || {
        for _ in 0..commands {
            sender.write_all(&words(&["GET", "large"])).expect("send");
        }
    });
    // The others are served meanwhile.
    let mut other = server.client();
    for _ in 0..50 {
        assert_eq!(other.call(&["PING"]), "+PONG\r\n");
    }
    for _ in 0..commands {
        assert_eq!(slow.reply().len(), 200_000 + 11);
    }
    thread.join().expect("sender");
}

#[test]
fn scan_finds_every_key_while_others_come_and_go() {
    let server = Server::start(ReadMode::ReadOnly, 4);
    let mut client = server.client();
    for i in 0..500 {
        client.call(&["SET", &format!("stays{i}"), "v"]);
    }
    let mut found = std::collections::BTreeSet::new();
    let mut cursor = "0".to_owned();
    for round in 0.. {
        client.call(&["SET", &format!("comes{round}"), "v"]);
        client.call(&["DEL", &format!("comes{}", round / 2)]);
        let reply = client.call(&["SCAN", &cursor, "COUNT", "7", "MATCH", "stays*"]);
        let mut lines = reply.split("\r\n").filter(|line| !line.starts_with(['*', '$']));
        cursor = lines.next().expect("a cursor").to_owned();
        found.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
        if cursor == "0" {
            break;
        }
        assert!(round < 1000, "the cursor comes to its end");
    }
    assert_eq!(found.len(), 500);
}

#[test]
fn the_gateway_describes_itself() {
    let server = Server::start(ReadMode::Ordered, 4);
    let mut client = server.client();
    let info = client.call(&["INFO"]);
    for line in ["redis_version:", "role:master", "connected_clients:1", "tetrarch_replicas:1"] {
        assert!(info.contains(line), "{line} in {info}");
    }
    assert!(!client.call(&["INFO", "server"]).contains("role:"));
    assert!(client.call(&["COMMAND"]).contains("$6\r\nappend\r\n"));
    let count = client.call(&["COMMAND", "COUNT"]);
    assert!(count[1..].trim().parse::<usize>().expect("a number") > 60);
    assert!(client.call(&["CLIENT", "INFO"]).contains("id=1"));
    assert!(client.call(&["TIME"]).starts_with("*2\r\n"));
    let mut inline = Client::connect(server.address);
    inline.send(b"SET inline \"a b\"\r\nGET inline\nPING\r\n");
    assert_eq!(inline.reply(), b"+OK\r\n");
    assert_eq!(inline.reply(), b"$3\r\na b\r\n");
    assert_eq!(inline.reply(), b"+PONG\r\n");
}
