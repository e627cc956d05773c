//! Changes of the cluster's membership, from the side of its operators, and the view in which a replica starts.
//!
//! Owns what the View Manager's tool does: makes keys for future members, and the next membership from the
//! current one; and what a replica remembers of views while it is down. Always true: nothing is sent that the
//! protocol would refuse for its contents. Must not: decide what the membership is: the members do, in the
//! order of all requests.

pub mod beginning;
pub mod change;
pub mod command;
pub mod kept;
pub mod keys;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Puts `bytes` in the place of what `directory` has under `name`: as a whole and durably, or not at all.
fn replace_file(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    let mut out = File::create(&new)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&new, directory.join(name))?;
    File::open(directory)?.sync_all()
}
