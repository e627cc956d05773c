//! Reads the project's Rust sources; checks sizes, `unsafe`, `vouch` and quorum arithmetic.

use std::path::Path;

use crate::{Finding, Rules, read};

/// One file, by its path from the workspace with forward slashes.
pub struct Source {
    /// Path.
    pub path: String,
    /// Text.
    pub text: String,
}

const SKIPPED: &[&str] = &["target", ".git", "corpus", "artifacts"];
const EXTENSIONS: &[&str] = &["rs", "md", "toml", "sh", "txt", "yml", "c", "h", "cmake"];

pub(crate) fn collect(root: &Path) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    walk(root, root, &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn walk(root: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(root, &path, sources)?;
            }
        } else if EXTENSIONS.iter().any(|extension| name.ends_with(&format!(".{extension}"))) {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            let relative = relative.to_string_lossy().replace('\\', "/");
            sources.push(Source { path: relative, text: read(&path)? });
        }
    }
    Ok(())
}

pub(crate) fn check(rules: &Rules, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with(".rs")) {
        if source.path.starts_with("ci/tidy/") {
            continue;
        }
        check_size(rules, source, &mut findings);
        for (number, line) in source.text.lines().enumerate() {
            let place = format!("{}:{}", source.path, number + 1);
            check_line(rules, source, code_of(line), &place, &mut findings);
        }
    }
    findings
}

fn check_size(rules: &Rules, source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.text.lines().count();
    let max = rules.size.lines_max;
    if lines > max && !rules.size.exceptions.contains_key(&source.path) {
        let text = format!("{lines} lines, more than {max}: split it by what it owns");
        findings.push(Finding::new(&source.path, text));
    }
}

fn check_line(rules: &Rules, source: &Source, code: &str, place: &str, out: &mut Vec<Finding>) {
    let is_test = source.path.contains("/tests/");
    let uses_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
        .iter()
        .any(|form| code.contains(form));
    if uses_unsafe && !rules.unsafe_code.contains(&source.path) && !is_test {
        out.push(Finding::new(place, "unsafe is not allowed here (ci/tidy/layers.toml)"));
    }
    let vouches = code.contains("Verified::vouch(");
    if vouches && !rules.vouch.contains(&source.path) && !is_test && !in_test_file(source) {
        out.push(Finding::new(place, "only ingress may call Verified::vouch"));
    }
    let threshold = ["2 * f", "3 * f", "2 * self.f", "n - f", "f + 1"]
        .iter()
        .any(|form| contains_expression(code, form));
    if threshold && !source.path.ends_with("quorum.rs") && !is_test && !in_test_file(source) {
        out.push(Finding::new(place, "quorum arithmetic belongs in consensus/src/quorum.rs"));
    }
}

/// Unit tests in a file of their own may build what they like.
fn in_test_file(source: &Source) -> bool {
    source.path.ends_with("/tests.rs") || source.path.contains("/harness")
}

/// The part of a line before a comment.
fn code_of(line: &str) -> &str {
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) }
}

/// Does `form` stand in `code` as an expression of its own, not inside longer names or strings?
fn contains_expression(code: &str, form: &str) -> bool {
    let Some(at) = code.find(form) else { return false };
    let before = code[..at].chars().next_back();
    let after = code[at + form.len()..].chars().next();
    let in_string = code[..at].matches('"').count() % 2 == 1;
    let joined = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.');
    !in_string && !joined(before) && !joined(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_found_as_an_expression_only() {
        assert!(contains_expression("let q = 2 * f + 1;", "2 * f"));
        assert!(contains_expression("(n - f)", "n - f"));
        assert!(!contains_expression("len - frames", "n - f"));
        assert!(!contains_expression("self.f + 1", "f + 1"));
        assert!(!contains_expression("\"needs 2 * f\"", "2 * f"));
        assert_eq!(code_of("    // 2 * f"), "");
    }
}
