//! Words that must not be committed: unfinished work, paths of somebody's machine.

use crate::{Finding, Source};

pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !source.path.starts_with("ci/tidy/")) {
        for (number, line) in source.text.lines().enumerate() {
            if let Some(text) = complaint(line) {
                findings.push(Finding::new(format!("{}:{}", source.path, number + 1), text));
            }
        }
    }
    findings
}

fn complaint(line: &str) -> Option<&'static str> {
    let unfinished = ["TODO", "FIXME", "XXX"];
    if unfinished.iter().any(|word| has_word(line, word)) {
        return Some("unfinished work belongs in an issue, not in the tree");
    }
    let machine = ["/work/", "/root/"];
    if machine.iter().any(|path| line.contains(path)) {
        return Some("a path of one machine");
    }
    None
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_work_and_machine_paths_are_found() {
        assert!(complaint("// TODO later").is_some());
        assert!(complaint("let autodoc = 1; // TODOS").is_none());
        assert!(complaint("cd /root/x").is_some());
        assert!(complaint("roots and works/").is_none());
    }
}
