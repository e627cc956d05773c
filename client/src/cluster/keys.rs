//! The file of private keys: one owner, mode 0600.
//!
//! Owns its text form and its mode. Always true: a file that others than its owner may read is refused;
//! one that exists is never replaced. Must not: print a secret, or put one into an error.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::Deserialize;
use tetrarch_dataplane::crypto::keys::{KeyError, StaticPublic, StaticSecret};
use tetrarch_dataplane::crypto::signature::{SigningKey, VerifyingKey};

use super::{CLUSTER_FILE, ClusterError, parse_toml, read, unreadable};

/// The private half of one identity. Wiped when dropped, never printed.
#[derive(Clone, Debug)]
pub struct PrivateKeys {
    /// For links and, with each other side's public key, for MAC vectors.
    pub static_secret: StaticSecret,
    /// For states (replicas) and requests (clients).
    pub signing_key: SigningKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    static_secret: String,
    signing_seed: String,
}

impl PrivateKeys {
    /// New random keys.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self { static_secret: StaticSecret::generate()?, signing_key: SigningKey::generate()? })
    }

    /// Loads a key file; refuses one that others than its owner may read or write.
    ///
    /// # Errors
    /// The file cannot be read, has the wrong mode, or holds no keys.
    pub fn load(file: &Path) -> Result<Self, ClusterError> {
        let hint = "is this the machine that holds this identity's keys?";
        let meta = std::fs::metadata(file).map_err(|error| unreadable(file, &error, hint))?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(ClusterError::new(
                file,
                "mode",
                format!("{mode:04o}"),
                "others than the owner can reach this private key",
                format!("run `chmod 600 {}`", file.display()),
            ));
        }
        Self::parse(&read(file, hint)?, file)
    }

    /// Reads the text of a key file; `file` is its name in errors, which show nothing of the text.
    ///
    /// # Errors
    /// The text holds no keys.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ClusterError> {
        let raw: KeyFile = parse_toml(text, file).map_err(|error| {
            // What TOML says may quote the text, and the text is secret.
            let problem = "not the form of a key file: static_secret and signing_seed in quotes";
            ClusterError::new(file, error.field, "", problem, "restore the file from a backup")
        })?;
        let bad = |field: &str, error: KeyError| {
            ClusterError::new(file, field, "", error.to_string(), "restore the file from a backup")
        };
        let static_secret =
            StaticSecret::from_hex(&raw.static_secret).map_err(|e| bad("static_secret", e))?;
        let signing_key =
            SigningKey::from_hex(&raw.signing_seed).map_err(|e| bad("signing_seed", e))?;
        Ok(Self { static_secret, signing_key })
    }

    /// Writes a new key file with mode 0600; refuses to replace one.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub fn store(&self, file: &Path, owner: &str) -> Result<(), ClusterError> {
        let options =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        let text = format!(
            "# PRIVATE keys of {owner}. Whoever reads this file can act as {owner}.\n\
             static_secret = \"{}\"\nsigning_seed = \"{}\"\n",
            *self.static_secret.to_hex(),
            *self.signing_key.to_hex(),
        );
        options
            .and_then(|mut out| out.write_all(text.as_bytes()).and_then(|()| out.sync_all()))
            .map_err(|error| {
                ClusterError::new(
                    file,
                    "",
                    "",
                    format!("cannot write: {error}"),
                    "choose a new directory, or remove the old file if it is really not needed",
                )
            })
    }

    /// Are these the keys that `cluster.toml` lists for `owner`?
    ///
    /// # Errors
    /// The name of the public key that does not fit.
    pub fn check_fits(
        &self,
        file: &Path,
        owner: &str,
        static_key: &StaticPublic,
        signing_key: &VerifyingKey,
    ) -> Result<(), ClusterError> {
        let mismatch = |field: &str, listed: String| {
            ClusterError::new(
                file,
                field,
                "",
                format!(
                    "does not fit the public key {listed} that {CLUSTER_FILE} lists for {owner}"
                ),
                format!(
                    "use the key file that was made together with this {CLUSTER_FILE}, or another \
                     id; two clusters' directories may have been mixed"
                ),
            )
        };
        if self.static_secret.public() != *static_key {
            return Err(mismatch("static_secret", static_key.to_hex()));
        }
        if self.signing_key.verifying_key() != *signing_key {
            return Err(mismatch("signing_seed", signing_key.to_hex()));
        }
        Ok(())
    }
}
