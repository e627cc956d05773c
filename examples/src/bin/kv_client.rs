//! Keys and values through the client library.
//!
//! `kv_client DIR [CLIENT]` uses a running cluster whose directory `tetrarch init` made. Without
//! arguments it starts four replicas of the key-value store in this process, over TCP on the
//! loopback, and stops one of them half way.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tetrarch_appliance::service::ServiceKind;
use tetrarch_client::{Client, ClientConfig, Mode, Session};
use tetrarch_examples::tcp_replicas;
use tetrarch_services::kv::op::OperationWriter;
use tetrarch_services::kv::reply::Reply;
use tetrarch_services::kv::text;
use tetrarch_services::wire::Reader;

/// The words of a Redis command as an operation of the store.
fn operation(words: &[&str]) -> Result<Vec<u8>> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut writer = OperationWriter::new();
    match text::parse(&words) {
        Ok(command) => writer.push(&command),
        Err(error) => bail!("not a command of the store: {error:?}"),
    }
    Ok(writer.bytes().to_vec())
}

/// The first value in an answer.
fn shown(answer: &[u8]) -> Result<String> {
    Ok(match Reply::read(&mut Reader::new(answer))? {
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Integer(number) => number.to_string(),
        Reply::Nil => "(nothing)".to_owned(),
        Reply::Ok => "OK".to_owned(),
        other => bail!("{other:?}"),
    })
}

fn invoke(session: &Session, words: &[&str]) -> Result<String> {
    let answer = shown(&session.invoke(&operation(words)?)?)?;
    println!("{:24} {answer}", words.join(" "));
    Ok(answer)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut replicas, mut config) = match arguments.as_slice() {
        [] => tcp_replicas(ServiceKind::Kv)?,
        [directory] => (Vec::new(), ClientConfig::load(directory.as_ref(), 0)?),
        [directory, index] => (Vec::new(), ClientConfig::load(directory.as_ref(), index.parse()?)?),
        _ => bail!("usage: kv_client [DIR [CLIENT]]"),
    };
    config.operation_timeout = Duration::from_secs(20);
    let client = Client::connect(config)?;
    let session = client.session()?;
    invoke(&session, &["SET", "greeting", "hello"])?;
    ensure!(invoke(&session, &["GET", "greeting"])? == "hello");
    invoke(&session, &["DEL", "counter"])?;

    // Many at a time: the session keeps their order.
    let increment = operation(&["INCR", "counter"])?;
    let pending = (0..50).map(|_| session.submit(&increment, Mode::Ordered));
    let pending = pending.collect::<Result<Vec<_>, _>>()?;
    for (expected, pending) in (1..).zip(pending) {
        ensure!(shown(&pending.wait()?)? == format!("{expected}"), "increment {expected}");
    }
    println!("{:24} 50 in flight, answered in order", "INCR counter");

    if let Some(replica) = replicas.pop() {
        replica.stop()?;
        println!("{:24} one of four is gone", "");
    }
    ensure!(invoke(&session, &["INCR", "counter"])? == "51");
    // Answered from the replicas' states, without ordering, as enough of them agree.
    let answer = session.query(&operation(&["GET", "counter"])?)?;
    ensure!(shown(&answer)? == "51");
    println!("{:24} 51 (read-only)", "GET counter");
    drop(client);
    for replica in replicas {
        replica.stop()?;
    }
    Ok(())
}
