//! Rules on documents: what they say about the code is looked up in the code.
use super::{Violation, arrows, tree::Tree};

/// Documents whose paths must exist.
const DOCUMENTS: [&str; 6] =
    ["ARCHITECTURE.md", "CONTRIBUTING.md", "RELIABILITY.md", "SECURITY.md", "README.md", "kernels/README.md"];

/// Directories at the top of the repository: what begins with one of them in a document is a path.
const TOPS: [&str; 7] = ["crates/", "xtask/", "benches/", "fixtures/", "kernels/", ".ci/", ".cargo/"];

/// Where the limits on files are defined.
const LIMITS: &str = "crates/checkpoint/src/checked.rs";

/// Rules `table`, `path`, `promise`, `limit`.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(table(tree.text("ARCHITECTURE.md").unwrap_or_default()));
    for document in DOCUMENTS {
        found.extend(tree.text(document).into_iter().flat_map(|text| paths(tree, document, text)));
    }
    if let Some(checked) = tree.text(LIMITS) {
        found.extend(limits(checked, tree.text("SECURITY.md").unwrap_or_default()));
    }
    found
}

/// ARCHITECTURE.md shows the table of arrows that tidy checks.
fn table(text: &str) -> Option<Violation> {
    let file = "ARCHITECTURE.md".into();
    let fix = "copy the table that `cargo xtask tidy --arrows` prints";
    let line = text.lines().position(|l| l.starts_with("| crate |")).map_or(1, |i| i + 1);
    let what = "the table of arrows is not the one in xtask/src/tidy/arrows.rs".into();
    (!text.contains(&arrows::table())).then_some(Violation { file, line, rule: "table", what, fix })
}

/// Paths in code quotes exist, and so do the tests that are named as `path::test`.
fn paths(tree: &Tree, document: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        // Code quotes are the odd pieces between backticks.
        for quoted in line.split('`').skip(1).step_by(2) {
            let Some(path) = TOPS.iter().any(|top| quoted.starts_with(top)).then_some(quoted) else { continue };
            if path.contains(|c: char| c.is_whitespace() || "*<>{}".contains(c)) {
                continue;
            }
            let (path, test) = path.split_once("::").map_or((path, None), |(path, test)| (path, Some(test)));
            let file = tree.text(path);
            let is_dir = || tree.files.iter().any(|f| f.path.starts_with(&format!("{}/", path.trim_end_matches('/'))));
            let mut report =
                |rule, what, fix| found.push(Violation { file: document.into(), line: i + 1, rule, what, fix });
            if file.is_none() && !tree.files.iter().any(|f| f.path == path) && !is_dir() {
                report("path", format!("`{path}` does not exist"), "write where it is now");
            } else if let Some(test) = test.filter(|t| !file.unwrap_or_default().contains(&format!("fn {t}("))) {
                report(
                    "promise",
                    format!("`{path}` has no test `{test}`"),
                    "name the test that holds this, or promise less",
                );
            }
        }
    }
    found
}

/// SECURITY.md lists each default of `Limits`.
fn limits(checked: &str, security: &str) -> Vec<Violation> {
    let body =
        checked.split_once("fn default() -> Self {").map_or("", |(_, rest)| rest.split('}').next().unwrap_or(rest));
    let defaults: Vec<_> = body.lines().filter_map(|l| l.trim().strip_suffix(',')?.split_once(": ")).collect();
    let report = |what, fix| Violation { file: "SECURITY.md".into(), line: 1, rule: "limit", what, fix };
    if defaults.is_empty() {
        return vec![report(
            format!("no defaults are found in {LIMITS}"),
            "mend this rule in xtask/src/tidy/documents.rs",
        )];
    }
    let is_listed = |(field, value): &(&str, &str)| security.contains(&format!("| `{field}` | `{value}` |"));
    let missing = defaults.iter().filter(|d| !is_listed(d));
    missing
        .map(|(field, value)| report(format!("limit `{field}` is not listed as `{value}`"), "correct its row"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tree::File, *};

    fn tree(files: &[(&str, &str)]) -> Tree {
        let file = |(path, text): &(&str, &str)| File { path: (*path).into(), len: 0, text: Some((*text).into()) };
        Tree { files: files.iter().map(file).collect(), ..Tree::default() }
    }

    #[test]
    fn a_table_that_differs_is_found() {
        let good = format!("# Title\n\n{}\nmore\n", arrows::table());
        assert_eq!(table(&good), None);
        let bad = good.replace("| text | checkpoint |", "| text | nothing |");
        assert_ne!(good, bad);
        assert_eq!(table(&bad).map(|v| v.line), Some(3));
    }

    #[test]
    fn paths_and_tests_that_are_not_there_are_found() {
        let tree = tree(&[("crates/a/src/lib.rs", "fn it_holds() {}"), ("kernels/README.md", "")]);
        let rules = |text: &str| paths(&tree, "X.md", text).iter().map(|v| (v.rule, v.line)).collect::<Vec<_>>();
        assert_eq!(rules("`crates/a/src/lib.rs` `crates/a` `kernels/` `crates/*/x` `cargo xtask` crates/b"), []);
        assert_eq!(rules("x\n`crates/b/src/lib.rs`"), [("path", 2)]);
        assert_eq!(rules("`crates/a/src/lib.rs::it_holds`"), []);
        assert_eq!(rules("`crates/a/src/lib.rs::it_hold`, `crates/b.rs::x`"), [("promise", 1), ("path", 1)]);
    }

    #[test]
    fn a_limit_that_is_not_listed_is_found() {
        let checked = "fn default() -> Self {\n Limits {\n  dims: 8,\n  bytes: 1 << 20,\n }\n}";
        assert_eq!(limits(checked, "| `dims` | `8` |\n| `bytes` | `1 << 20` |"), []);
        assert_eq!(limits(checked, "| `dims` | `9` |\n| `bytes` | `1 << 20` |").len(), 1);
        assert_eq!(limits("", "").len(), 1);
    }
}
