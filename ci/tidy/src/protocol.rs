//! Every rule of `docs/PROTOCOL.md` is cited by code and by a test, and every citation is a rule.
//!
//! Code cites with `spec!("VP.1")`, tests with `rule: VP.1` in a comment, a golden trace or a name's
//! doc line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::{Finding, Source, read};

pub(crate) fn check(root: &Path, sources: &[Source]) -> Result<Vec<Finding>, String> {
    let rules = rules_of(&read(&root.join("docs/PROTOCOL.md"))?);
    let mut code = BTreeMap::new();
    let mut tests = BTreeMap::new();
    for source in sources.iter().filter(|source| !source.path.starts_with("ci/tidy/")) {
        if source.path.ends_with(".rs") {
            cited_in_code(source, &mut code);
        }
        if source.path.ends_with(".rs") || source.path.contains("trace") {
            cited_in_tests(source, &mut tests);
        }
    }
    Ok(compare(&rules, &code, &tests))
}

type Citations = BTreeMap<String, String>;

fn compare(rules: &BTreeSet<String>, code: &Citations, tests: &Citations) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in rules {
        if !code.contains_key(rule) {
            let text = format!("{rule} is not cited by code: spec!(\"{rule}\") where it is done");
            findings.push(Finding::new("docs/PROTOCOL.md", text));
        }
        if !tests.contains_key(rule) {
            let text =
                format!("{rule} is not hit by a test: \"rule: {rule}\" in the one that does");
            findings.push(Finding::new("docs/PROTOCOL.md", text));
        }
    }
    for (rule, place) in code.iter().chain(tests) {
        if !rules.contains(rule) {
            findings.push(Finding::new(place, format!("cites {rule}, which is not a rule")));
        }
    }
    findings
}

fn rules_of(protocol: &str) -> BTreeSet<String> {
    let names = protocol.lines().filter_map(|line| line.strip_prefix("- **")?.split_once("**"));
    names.map(|(name, _)| name.to_string()).filter(|name| is_rule(name)).collect()
}

fn is_rule(name: &str) -> bool {
    name.split_once('.').is_some_and(|(group, number)| {
        group.len() >= 2
            && group.chars().all(|c| c.is_ascii_uppercase())
            && !number.is_empty()
            && number.chars().all(|c| c.is_ascii_digit())
    })
}

fn cited_in_code(source: &Source, citations: &mut Citations) {
    for (number, line) in source.text.lines().enumerate() {
        let Some((_, rest)) = line.split_once("spec!(") else { continue };
        if line.trim_start().starts_with("//") {
            continue;
        }
        for name in rest.split('"').filter(|part| is_rule(part)) {
            citations.insert(name.to_string(), format!("{}:{}", source.path, number + 1));
        }
    }
}

fn cited_in_tests(source: &Source, citations: &mut Citations) {
    for (number, line) in source.text.lines().enumerate() {
        let Some((_, rest)) = line.split_once("rule: ") else { continue };
        let names = rest.split([',', ' ', ')']).map(|part| part.trim_end_matches(['.', ';', ':']));
        for name in names.filter(|part| !part.is_empty()).take_while(|part| is_rule(part)) {
            citations.insert(name.to_string(), format!("{}:{}", source.path, number + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source { path: "a.rs".into(), text: text.into() }
    }

    #[test]
    fn a_rule_without_code_or_test_and_a_citation_without_a_rule_are_found() {
        let rules = rules_of("- **VP.1** text\n- **VP.2** text\n- **bold** no\n");
        let (mut code, mut tests) = (Citations::new(), Citations::new());
        cited_in_code(&source("spec!(\"VP.1\", \"VP.9\");"), &mut code);
        cited_in_tests(&source("// rule: VP.1, VP.2\n"), &mut tests);
        let findings = compare(&rules, &code, &tests);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].text.contains("VP.2 is not cited by code"));
        assert!(findings[1].text.contains("VP.9, which is not a rule"));
    }
}
