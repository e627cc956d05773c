//! A replica's own numbers, read from its metrics address.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A page larger than this is not a replica's.
const PAGE_SIZE_MAX: u64 = 4 << 20;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Plain numbers of a replica, by name without `tetrarch_` and `_total`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Numbers(BTreeMap<String, f64>);

impl Numbers {
    /// Reads them.
    ///
    /// # Errors
    /// Nobody answers there, or not with metrics.
    pub fn read(address: SocketAddr) -> Result<Self> {
        let what = || format!("metrics at http://{address}/metrics");
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(what)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").with_context(what)?;
        let mut page = String::new();
        stream.take(PAGE_SIZE_MAX).read_to_string(&mut page).with_context(what)?;
        let numbers = Self::parse(&page);
        if numbers.0.is_empty() {
            bail!("{}: no replica's numbers there", what());
        }
        Ok(numbers)
    }

    /// Those of a page that was read.
    pub fn parse(page: &str) -> Self {
        let lines = page.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("tetrarch_")?.rsplit_once(' ')?;
            let (name, labels) = name.split_once('{')?;
            // More labels than the replica's: one of a family, and no plain number.
            let plain = !labels.contains(',');
            let name = name.strip_suffix("_total").unwrap_or(name);
            Some((name.to_string(), value.parse().ok()?)).filter(|_| plain)
        });
        Self(lines.collect())
    }

    /// One number; 0 if the replica does not have it.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// What was added to a counter since `before`.
    pub fn since(&self, before: &Numbers, name: &str) -> f64 {
        self.get(name) - before.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetrarch_appliance::metrics::Metrics;

    #[test]
    fn the_numbers_that_a_replica_prints_are_read() {
        let metrics = Metrics::new();
        metrics.requests.set(17);
        metrics.decided.set(3);
        let numbers = Numbers::parse(&metrics.prometheus(2));
        assert_eq!((numbers.get("requests"), numbers.get("decided")), (17.0, 3.0));
        assert_eq!(numbers.get("rejects"), 0.0, "a family is no plain number");
        metrics.requests.set(20);
        let later = Numbers::parse(&metrics.prometheus(2));
        assert_eq!(later.since(&numbers, "requests"), 3.0);
        assert_eq!(Numbers::parse("<html>tetrarch_ 5</html>"), Numbers::default());
    }
}
