//! Several rates, one after the other, as numbers or as shares of a saturation measured first.

use std::time::Duration;

use anyhow::Result;

use super::arrivals::Rate;
use super::{LoadOptions, LoadResult, OpenOptions, Progress, run};

/// Runs `options` at each rate. Where a rate is a percentage, a closed loop of the same sessions
/// runs first, for `saturation` seconds, and is told as well. `options.open_loop` says everything
/// but the rate; without rates it is run as it is.
///
/// # Errors
/// The first run that could not be made.
pub fn run_rates(
    options: &LoadOptions,
    rates: &[Rate],
    saturation: Duration,
    watch: &mut dyn FnMut(Progress),
    tell: &mut dyn FnMut(LoadResult) -> Result<()>,
) -> Result<()> {
    if rates.is_empty() {
        return tell(run(options, watch)?);
    }
    let base = options.open_loop.unwrap_or_default();
    let mut peak = None;
    if rates.iter().any(|rate| matches!(rate, Rate::Percent(_))) {
        let closed = LoadOptions { open_loop: None, duration: saturation, ..options.clone() };
        let result = run(&closed, watch)?;
        peak = Some(result.throughput);
        tell(result)?;
    }
    for rate in rates {
        let (rate, percent) = match *rate {
            Rate::PerSecond(rate) => (rate, peak.map(|peak| 100.0 * rate / peak)),
            // A cluster that answered nothing is offered something all the same.
            Rate::Percent(percent) => {
                ((peak.unwrap_or(0.0) * percent / 100.0).max(1.0), Some(percent))
            }
        };
        let open = OpenOptions { rate, percent, ..base };
        tell(run(&LoadOptions { open_loop: Some(open), ..options.clone() }, watch)?)?;
    }
    Ok(())
}
