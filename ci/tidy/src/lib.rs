//! What a machine can check of the project's rules: layers, module lists, sizes, protocol citations.
//!
//! Owns the checks and nothing else. Always true: a finding names a file, what is wrong there and what
//! to do. Must not: change anything.

mod layers;
mod modules;
mod protocol;
mod sources;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use sources::Source;

/// One broken rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// File, relative to the workspace, with the line if there is one.
    pub place: String,
    /// What is wrong, and what to do.
    pub text: String,
}

impl Finding {
    pub(crate) fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// `ci/tidy/layers.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Package to the packages of ours that it may depend on.
    pub depends: BTreeMap<String, Vec<String>>,
    /// Where `unsafe` may stand.
    pub unsafe_code: Allowed,
    /// Where `Verified::vouch` may stand.
    pub vouch: Allowed,
    /// File sizes.
    pub size: Size,
}

/// A list of files, and of folders with a trailing slash.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// The list.
    pub allowed: Vec<String>,
}

impl Allowed {
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.allowed
            .iter()
            .any(|entry| if entry.ends_with('/') { path.starts_with(entry) } else { path == entry })
    }
}

/// How long a file may be.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Lines at most.
    pub lines_max: usize,
    /// File to the reason why it may be longer.
    pub exceptions: BTreeMap<String, String>,
}

/// The folder that holds the workspace's `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// All findings, sorted.
///
/// # Errors
/// When the tree cannot be read, with the file.
pub fn check_all(root: &Path) -> Result<Vec<Finding>, String> {
    let rules = read(&root.join("ci/tidy/layers.toml"))?;
    let rules: Rules = toml::from_str(&rules).map_err(|error| format!("layers.toml: {error}"))?;
    let sources = sources::collect(root)?;
    let mut findings = Vec::new();
    findings.extend(layers::check(root, &rules)?);
    findings.extend(modules::check(root)?);
    findings.extend(sources::check(&rules, &sources));
    findings.extend(words::check(&sources));
    findings.extend(protocol::check(root, &sources)?);
    findings.sort();
    Ok(findings)
}

pub(crate) fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let findings = check_all(&workspace_root()).expect("the tree can be read");
        let list: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert!(list.is_empty(), "{} to mend:\n{}", list.len(), list.join("\n"));
    }
}
