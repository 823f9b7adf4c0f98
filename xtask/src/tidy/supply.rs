//! Rules on packages of others: where they come from, under which licence, and what must never be among them.
use super::{
    Violation,
    tree::{Foreign, Tree},
};

/// Licences under which a package may be used beside Apache-2.0.
const LICENSES: [&str; 11] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Where packages come from.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Packages that must not be linked, and why.
const BANNED: [(&str, &str); 4] = [
    ("serde-pickle", "a pickle runs code"),
    ("repugnant-pickle", "a pickle runs code"),
    ("onig_sys", "a regex engine in C, behind patterns that a file brings"),
    ("openssl-sys", "no part of this project speaks TLS"),
];

/// Rules `licence`, `source`, `banned`.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    tree.foreign.iter().flat_map(package).collect()
}

fn package(package: &Foreign) -> Vec<Violation> {
    let mut found = Vec::new();
    let name = format!("`{} {}`", package.name, package.version);
    let mut report = |rule, what, fix| found.push(Violation { file: "Cargo.lock".into(), line: 1, rule, what, fix });
    match &package.license {
        None => report("licence", format!("{name} declares no licence"), "use another package"),
        Some(license) if !is_allowed(license) => {
            let fix = "use another package, or add the licence in xtask/src/tidy/supply.rs";
            report("licence", format!("{name} is under {license}"), fix);
        }
        Some(_) => {}
    }
    if package.source != SOURCE {
        report("source", format!("{name} comes from {}", package.source), "use a published version");
    }
    if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == package.name) {
        report("banned", format!("{name} is linked: {why}"), "switch off the feature that asks for it");
    }
    found
}

/// Whether an SPDX expression can be met by the licences above. `/` is the old way to write `OR`.
fn is_allowed(expression: &str) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = text.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    any_of(&mut rest) && rest.is_empty()
}

fn any_of(rest: &mut &[&str]) -> bool {
    let mut is_met = all_of(rest);
    while take(rest, "OR") {
        is_met |= all_of(rest);
    }
    is_met
}

fn all_of(rest: &mut &[&str]) -> bool {
    let mut is_met = one(rest);
    while take(rest, "AND") {
        is_met &= one(rest);
    }
    is_met
}

fn one(rest: &mut &[&str]) -> bool {
    if take(rest, "(") {
        return any_of(rest) & take(rest, ")");
    }
    let Some((name, after)) = rest.split_first() else { return false };
    *rest = after;
    let mut license = (*name).to_owned();
    if take(rest, "WITH")
        && let Some((exception, after)) = rest.split_first()
    {
        *rest = after;
        license = format!("{license} WITH {exception}");
    }
    LICENSES.contains(&license.as_str())
}

fn take(rest: &mut &[&str], token: &str) -> bool {
    match rest.split_first() {
        Some((first, after)) if *first == token => {
            *rest = after;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(name: &str, license: Option<&str>, source: &str) -> Vec<&'static str> {
        let foreign = Foreign {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(Into::into),
            source: source.into(),
        };
        package(&foreign).iter().map(|v| v.rule).collect()
    }

    #[test]
    fn licences_are_read_as_expressions() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "Apache-2.0/MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR X",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X", "MIT X", "", "Apache-2.0 WITH Something"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_package_that_must_not_be_linked_is_found() {
        assert_eq!(rules("half", Some("MIT"), SOURCE), [] as [&str; 0]);
        assert_eq!(rules("half", None, SOURCE), ["licence"]);
        assert_eq!(rules("half", Some("GPL-3.0-only"), SOURCE), ["licence"]);
        assert_eq!(rules("half", Some("MIT"), "git+https://example.org/half"), ["source"]);
        assert_eq!(rules("serde-pickle", Some("MIT"), SOURCE), ["banned"]);
    }
}
