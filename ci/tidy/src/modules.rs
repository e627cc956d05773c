//! Each crate's README lists its modules; here the list is compared with the files.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{Finding, read};

const CRATES: &[&str] = &[
    "tee",
    "consensus",
    "dataplane",
    "client",
    "services",
    "appliance",
    "sim",
    "bench",
    "torture",
    "ci/tidy",
];

/// Compares `- \`name\` what it is` lines with the entries of `src/`. A folder is listed as `name/`
/// (or as `name.rs`, if it has such a file), and its files need no lines of their own. `lib.rs` may
/// be left out.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for name in CRATES {
        let readme = root.join(name).join("README.md");
        let place = format!("{name}/README.md");
        if !readme.exists() {
            findings.push(Finding::new(place, "missing: purpose, modules, invariants, tests"));
            continue;
        }
        let listed = listed_modules(&read(&readme)?);
        let present = present_modules(&root.join(name).join("src"))?;
        for module in present.difference(&listed) {
            let text = format!("does not list `{module}`: add a line \"- `{module}` what it is\"");
            findings.push(Finding::new(&place, text));
        }
        for module in listed.difference(&present) {
            findings.push(Finding::new(&place, format!("lists `{module}`, which does not exist")));
        }
    }
    Ok(findings)
}

fn listed_modules(readme: &str) -> BTreeSet<String> {
    let names = readme.lines().filter_map(|line| line.strip_prefix("- `")?.split_once('`'));
    let modules = names.map(|(name, _)| name.to_string());
    let modules = modules.filter(|name| name.ends_with(".rs") || name.ends_with('/'));
    modules.map(|name| module_of(&name)).filter(|name| name != "lib").collect()
}

/// A file and a folder of one name are one module.
fn module_of(name: &str) -> String {
    name.trim_end_matches('/').trim_end_matches(".rs").to_string()
}

fn present_modules(src: &Path) -> Result<BTreeSet<String>, String> {
    let mut modules = BTreeSet::new();
    let entries = std::fs::read_dir(src).map_err(|error| format!("{}: {error}", src.display()))?;
    for entry in entries {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() || (name.ends_with(".rs") && name != "lib.rs") {
            modules.insert(module_of(&name));
        }
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_lines_are_read_and_other_lines_are_not() {
        let readme = "- `a.rs` first\n- `b/` folder\n- `lib.rs` root\n- `cargo test` no\ntext";
        let listed: Vec<_> = listed_modules(readme).into_iter().collect();
        assert_eq!(listed, ["a", "b"]);
    }
}
