//! `cargo run -p tetrarch-tidy`: prints every rule that the tree breaks, and how to mend it.

use std::process::ExitCode;

use tetrarch_tidy::{check_all, workspace_root};

fn main() -> ExitCode {
    let root = workspace_root();
    match check_all(&root) {
        Ok(findings) if findings.is_empty() => {
            println!("tidy: nothing to mend");
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            for finding in &findings {
                println!("{finding}");
            }
            println!("tidy: {} to mend", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy: {error}");
            ExitCode::FAILURE
        }
    }
}
