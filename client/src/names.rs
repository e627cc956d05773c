//! Addresses of members: numbers as they are, names resolved on a thread of its own.
//!
//! Owns that thread and what it found. Always true: asking never waits; a name that does not resolve is
//! tried again and again. Must not: forget an address that is in use because its name resolves no more.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tetrarch_dataplane::endpoint::Waker;

/// The pause before a name that did not resolve is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Where addresses of members come from.
pub trait Addresses: Send {
    /// What to dial for `host:port`; `None`: not known yet.
    fn find(&mut self, address: &str) -> Option<SocketAddr>;
    /// Is something known that was not when it was asked for?
    fn has_news(&mut self) -> bool;
}

/// Addresses that are numbers: nothing has to be asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numeric;

impl Addresses for Numeric {
    fn find(&mut self, address: &str) -> Option<SocketAddr> {
        address.parse().ok()
    }

    fn has_news(&mut self) -> bool {
        false
    }
}

/// See the module.
pub struct Names {
    /// `None`: it was asked for, and is not known yet.
    known: BTreeMap<String, Option<SocketAddr>>,
    /// How many were asked for and are not known.
    open: usize,
    questions: Sender<String>,
    answers: Receiver<(String, SocketAddr)>,
}

impl Names {
    /// Wakes whoever asked with `waker` when there is an answer, and tells `warn` of each name that does not
    /// resolve, each time. The thread ends when this is dropped.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(waker: Waker, warn: fn(&str)) -> std::io::Result<Self> {
        Self::resolving(waker, move |name| {
            let found = name.to_socket_addrs().ok().and_then(|mut all| all.next());
            if found.is_none() {
                warn(name);
            }
            found
        })
    }

    fn resolving(
        waker: Waker,
        resolve: impl Fn(&str) -> Option<SocketAddr> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (questions, asked) = channel();
        let (answer, answers) = channel();
        let thread = std::thread::Builder::new().name("names".into());
        thread.spawn(move || answer_all(&asked, &answer, &waker, resolve))?;
        Ok(Self { known: BTreeMap::new(), open: 0, questions, answers })
    }
}

impl Addresses for Names {
    fn find(&mut self, address: &str) -> Option<SocketAddr> {
        if let Ok(number) = address.parse() {
            return Some(number);
        }
        match self.known.get(address) {
            Some(known) => *known,
            None => {
                self.known.insert(address.to_owned(), None);
                self.open += 1;
                // Without its thread, a name stays unknown, as it would with no name service.
                let _ = self.questions.send(address.to_owned());
                None
            }
        }
    }

    fn has_news(&mut self) -> bool {
        let before = self.open;
        while self.open > 0
            && let Ok((name, address)) = self.answers.try_recv()
        {
            self.known.insert(name, Some(address));
            self.open -= 1;
        }
        self.open < before
    }
}

fn answer_all(
    questions: &Receiver<String>,
    answers: &Sender<(String, SocketAddr)>,
    waker: &Waker,
    resolve: impl Fn(&str) -> Option<SocketAddr>,
) {
    let mut open: Vec<String> = Vec::new();
    loop {
        let wait = if open.is_empty() { Duration::MAX } else { RETRY_AFTER };
        match questions.recv_timeout(wait) {
            Ok(name) => open.push(name),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        open.retain(|name| match resolve(name) {
            Some(address) => {
                let told = answers.send((name.clone(), address)).is_ok();
                waker.wake();
                // Nobody listens: the next question will say so.
                !told
            }
            None => true,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn names_are_found_later_and_numbers_at_once() {
        let (told, heard) = channel();
        let waker = Waker::new(move || {
            let _ = told.send(());
        });
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&tries);
        let found = SocketAddr::from(([10, 0, 0, 7], 7000));
        let resolve = move |name: &str| {
            counted.fetch_add(1, Ordering::SeqCst);
            (name == "host:7000").then_some(found)
        };
        let mut names = Names::resolving(waker, resolve).unwrap();
        let number = SocketAddr::from(([127, 0, 0, 1], 9));
        assert_eq!(names.find("127.0.0.1:9"), Some(number));
        assert!(!names.has_news());
        assert_eq!(names.find("host:7000"), None);
        heard.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(names.has_news() && !names.has_news());
        assert_eq!(names.find("host:7000"), Some(found));
        assert_eq!(tries.load(Ordering::SeqCst), 1, "asked once");
    }
}
