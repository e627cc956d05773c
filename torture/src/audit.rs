//! Reads the lists when all is quiet, and compares them with the record.
//!
//! Owns a client of its own. Always true: it reads by ordered requests, so what it sees is what a quorum has
//! executed. Must not: turn the page while other clients have anything in flight.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tetrarch_client::{Client, Session};
use tetrarch_services::kv::reply::Reply;
use tetrarch_services::wire::Reader;

use crate::client::{LISTS, Shared, command, connect};
use crate::history::Id;

/// Elements that are read at once: their bytes fit one reply.
const READ_AT_ONCE: usize = 60;

/// See the module.
pub struct Auditor {
    session: Session,
    _client: Client,
}

impl Auditor {
    /// Client `index` of a cluster.
    ///
    /// # Errors
    /// It cannot connect.
    pub fn connect(directory: &Path, index: u32, patience: Duration) -> Result<Self> {
        let client = connect(directory, index, patience)?;
        Ok(Self { session: client.session()?, _client: client })
    }

    /// Compares what is new.
    ///
    /// # Errors
    /// What cannot be.
    pub fn look(&self, shared: &Shared) -> Result<()> {
        for list in 0..LISTS {
            let from = shared.history().seen(list);
            let began = Instant::now();
            let found = self.read(&shared.key(list), from)?;
            if let Err(wrong) = shared.history().look(list, &found, began) {
                bail!("{wrong}");
            }
        }
        Ok(())
    }

    /// Compares everything again, and goes on with other lists.
    ///
    /// # Errors
    /// What cannot be.
    pub fn turn_page(&self, shared: &Shared) -> Result<()> {
        for list in 0..LISTS {
            let found = self.read(&shared.key(list), 0)?;
            let found: Vec<_> = found.iter().map(|element| Id::of(element)).collect();
            let history = shared.history();
            // Something in doubt may have happened since.
            let seen = history.elements(list).iter().copied().map(Some);
            if found.len() < seen.len() || !seen.eq(found.into_iter().take(history.seen(list))) {
                bail!("list {list}: what was seen in earlier rounds has changed");
            }
        }
        for list in 0..LISTS {
            let key = shared.key(list);
            self.session.invoke(&command(&[b"DEL", key.as_bytes()])?)?;
        }
        shared.history().turn_page();
        shared.page.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        Ok(())
    }

    /// The elements of a list from `from` on.
    fn read(&self, key: &str, from: usize) -> Result<Vec<Vec<u8>>> {
        let mut elements = Vec::new();
        loop {
            let start = from + elements.len();
            let stop = start + READ_AT_ONCE - 1;
            let (first, last) = (start.to_string(), stop.to_string());
            let words = [b"LRANGE", key.as_bytes(), first.as_bytes(), last.as_bytes()];
            let answer = self.session.invoke(&command(&words)?).context("the auditor")?;
            let mut reader = Reader::new(&answer);
            let Ok(Reply::Array(count)) = Reply::read(&mut reader) else {
                bail!("{key}: no list: {answer:?}")
            };
            for _ in 0..count {
                match Reply::read(&mut reader) {
                    Ok(Reply::Bulk(element)) => elements.push(element.to_vec()),
                    other => bail!("{key}: no element: {other:?}"),
                }
            }
            if count < READ_AT_ONCE {
                return Ok(elements);
            }
        }
    }
}
