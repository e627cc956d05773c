//! What is wrong with a file of a cluster.
//!
//! Owns the form of the message. Always true: it names file, field, value and remedy, as far as there are
//! such. Must not: hold a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// Something in a file is wrong. Says where, what, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterError {
    /// Which file.
    pub file: PathBuf,
    /// Which field in it; empty when the file as a whole is meant.
    pub field: String,
    /// The offending value; empty when there is none to show (secrets are never shown).
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl ClusterError {
    /// An error about `field` of `file`.
    pub fn new(
        file: &Path,
        field: impl Into<String>,
        value: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            file: file.to_path_buf(),
            field: field.into(),
            value: value.to_string(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        match (self.field.is_empty(), self.value.is_empty()) {
            (true, true) => {}
            (false, true) => write!(f, "{}: ", self.field)?,
            (true, false) => write!(f, "{}: ", self.value)?,
            (false, false) => write!(f, "{} = {}: ", self.field, self.value)?,
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

impl std::error::Error for ClusterError {}
