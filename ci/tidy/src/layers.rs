//! The arrows between our crates, compared with `cargo metadata`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{Finding, Rules};

pub(crate) fn check(root: &Path, rules: &Rules) -> Result<Vec<Finding>, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cargo metadata: {error}"))?;
    Ok(compare(&metadata, rules))
}

fn compare(metadata: &Value, rules: &Rules) -> Vec<Finding> {
    let mut findings = Vec::new();
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let place = format!("{name}/Cargo.toml");
        let Some(allowed) = rules.depends.get(name) else {
            findings.push(Finding::new(place, "not in ci/tidy/layers.toml: say what it may use"));
            continue;
        };
        let used = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
        for dependency in used {
            let used = dependency["name"].as_str().unwrap_or_default();
            let dev = dependency["kind"].as_str() == Some("dev");
            if used.starts_with("tetrarch-") && !dev && !allowed.iter().any(|name| name == used) {
                let text = format!("must not depend on {used} (ci/tidy/layers.toml)");
                findings.push(Finding::new(&place, text));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_is_not_allowed_is_found() {
        let rules: Rules = toml::from_str(
            "depends = { tetrarch-a = [] }\nunsafe_code = { allowed = [] }\n\
             vouch = { allowed = [] }\nsize = { lines_max = 1, exceptions = {} }",
        )
        .expect("valid");
        let metadata = serde_json::json!({"packages": [
            {"name": "tetrarch-a", "dependencies": [
                {"name": "tetrarch-b", "kind": null},
                {"name": "tetrarch-c", "kind": "dev"},
                {"name": "libc", "kind": null}]},
            {"name": "tetrarch-d", "dependencies": []}]});
        let findings = compare(&metadata, &rules);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[0].text.contains("tetrarch-b"));
        assert!(findings[1].text.contains("not in"));
    }
}
