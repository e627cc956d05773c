//! `tetrarch-bench report`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tetrarch_bench::report::{page, read};

/// Options of `report`.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Files of lines that --json printed
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where the page goes
    #[arg(short, long, default_value = "report.html")]
    output: PathBuf,
}

/// Runs it.
///
/// # Errors
/// A file that cannot be read or written, or that holds no results.
pub fn run(args: &ReportArgs) -> Result<()> {
    let lines = read(&args.files)?;
    std::fs::write(&args.output, page(&lines))
        .with_context(|| format!("{}: cannot be written", args.output.display()))?;
    println!("{} results in {}", lines.len(), args.output.display());
    Ok(())
}
