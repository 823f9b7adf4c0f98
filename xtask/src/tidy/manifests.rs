//! Rules on Cargo.toml: features, lints, and a reason for every package of others.
use super::{
    Violation,
    tree::{Crate, Tree},
};

/// Rules `feature`, `lints`, `dependency`, `reason`.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for krate in &tree.crates {
        let file = format!("{}/Cargo.toml", krate.dir);
        found.extend(features(krate, &file));
        if let Some(text) = tree.text(&file) {
            found.extend(lints(&file, text));
            found.extend(dependencies(&file, text));
        }
    }
    if let Some(text) = tree.text("Cargo.toml") {
        found.extend(reasons("Cargo.toml", text));
    }
    found
}

/// Only the program has cargo features: a library that is compiled in two ways is tested in one.
fn features(krate: &Crate, file: &str) -> Option<Violation> {
    if krate.features.is_empty() || krate.short() == "cli" {
        return None;
    }
    let what = format!("`{}` has cargo features: {}", krate.short(), krate.features.join(", "));
    Some(Violation {
        file: file.into(),
        line: 1,
        rule: "feature",
        what,
        fix: "make it an argument, or a feature of `cli`",
    })
}

fn lints(file: &str, text: &str) -> Option<Violation> {
    let inherits = section(text, "[lints]").any(|(_, line)| line.replace(' ', "") == "workspace=true");
    let what = "the lints of the workspace are not inherited".into();
    let fix = "add `[lints]` with `workspace = true`";
    (!inherits).then(|| Violation { file: file.into(), line: 1, rule: "lints", what, fix })
}

/// Versions and paths are written once, at the top.
fn dependencies(file: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for header in ["[dependencies]", "[dev-dependencies]", "[build-dependencies]"] {
        for (line, entry) in section(text, header) {
            let compact = entry.replace(' ', "");
            if !compact.contains("workspace=true") {
                let what = format!(
                    "`{}` does not come from the workspace",
                    entry.split(['=', '.']).next().unwrap_or(entry).trim()
                );
                let fix = "declare it in the top Cargo.toml and write `NAME.workspace = true`";
                found.push(Violation { file: file.into(), line, rule: "dependency", what, fix });
            }
        }
    }
    found
}

/// Every package of somebody else says why it is there.
fn reasons(file: &str, text: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    for (line, entry) in section(text, "[workspace.dependencies]") {
        let name = entry.split(['=', '.']).next().unwrap_or(entry).trim();
        let (value, reason) = split_comment(entry);
        let is_ours = value.contains("path") && name.starts_with("paring-");
        if !is_ours && reason.trim().len() < 5 {
            let what = format!("`{name}` has no reason");
            let fix = "say after a `#` on the same line what it is for";
            found.push(Violation { file: file.into(), line, rule: "reason", what, fix });
        }
    }
    found
}

/// Entries of the section under `header`, with their line numbers; no blank lines and no comments.
fn section<'a>(text: &'a str, header: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
    let inside = lines.skip_while(move |(_, line)| split_comment(line).0.trim() != header).skip(1);
    inside.take_while(|(_, line)| !line.starts_with('[')).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// A line of TOML before and after its comment.
fn split_comment(line: &str) -> (&str, &str) {
    let mut is_quoted = false;
    for (i, c) in line.char_indices() {
        match c {
            '"' => is_quoted = !is_quoted,
            '#' if !is_quoted => return (&line[..i], &line[i + 1..]),
            _ => {}
        }
    }
    (line, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "[package]\nname = \"x\"\n\n[dependencies]\nhalf.workspace = true\n\n[lints]\nworkspace = true\n";

    #[test]
    fn features_outside_the_program_are_found() {
        let krate = |package: &str, features: &[&str]| Crate {
            package: package.into(),
            dir: "d".into(),
            features: features.iter().map(|f| (*f).into()).collect(),
            dependencies: vec![],
        };
        assert!(features(&krate("paring-exec", &["fast"]), "f").is_some());
        assert!(features(&krate("paring-exec", &[]), "f").is_none());
        assert!(features(&krate("paring-cli", &["cuda"]), "f").is_none());
    }

    #[test]
    fn lints_that_are_not_inherited_are_found() {
        assert_eq!(lints("f", GOOD), None);
        assert!(lints("f", "[lints]\n# workspace = true\n").is_some());
        assert!(lints("f", "[lints.rust]\nunsafe_code = \"allow\"\n").is_some());
    }

    #[test]
    fn versions_outside_the_workspace_are_found() {
        assert_eq!(dependencies("f", GOOD), []);
        let found = dependencies(
            "f",
            "[dependencies]\nhalf = \"2\"\n[dev-dependencies]\nrand = { workspace = true }\nx.path = \"y\"\n",
        );
        assert_eq!(found.iter().map(|v| v.line).collect::<Vec<_>>(), [2, 5]);
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let text = "[workspace.dependencies]\nparing-x = { path = \"crates/x\" }\n# about all\nhalf = \"2#2\"\nclap = \"4\" # arguments and help\nrand = \"1\" #\n";
        assert_eq!(reasons("f", text).iter().map(|v| v.line).collect::<Vec<_>>(), [4, 6]);
    }
}
