//! `cargo xtask tidy`: the arrows and invariants of ARCHITECTURE.md, as a program. What a compiler cannot check and a reviewer forgets is
//! here, one function a rule, each with a sample that it must refuse. Also a test of this crate, so `cargo test` knows it too.
mod arrows; // which crate may depend on which
mod documents; // what the documents say is so
mod lex; // Rust text without comments and strings
mod manifests; // Cargo.toml
mod sources; // *.rs, and other text
mod supply; // what others wrote
mod tree; // files and crates

use crate::error::{Error, Result};
use std::fmt;
use tree::Tree;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// From the root of the repository.
    pub(crate) file: String,
    /// From 1.
    pub(crate) line: usize,
    /// A word to search this module for.
    pub(crate) rule: &'static str,
    /// What is wrong.
    pub(crate) what: String,
    /// What to do.
    pub(crate) fix: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}; {}", self.file, self.line, self.rule, self.what, self.fix)
    }
}

/// Checks the project and prints what it finds.
///
/// # Errors
/// [`Error::Untidy`]; those of reading the project.
pub(crate) fn run() -> Result<()> {
    let tree = Tree::of_the_project()?;
    let found = check(&tree);
    for violation in &found {
        println!("{violation}");
    }
    match found.len() {
        0 => {
            println!(
                "tidy: {} files, {} crates, {} lines of Rust with `unsafe`",
                tree.files.len(),
                tree.crates.len(),
                sources::n_unsafe(&tree)
            );
            Ok(())
        }
        n => Err(Error::Untidy(n)),
    }
}

/// Prints the table of arrows.
///
/// # Errors
/// None.
pub(crate) fn print_arrows() -> Result<()> {
    print!("{}", arrows::table());
    Ok(())
}

/// Every rule, on everything, in the order of file and line.
fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(arrows::check(tree));
    found.extend(manifests::check(tree));
    found.extend(sources::check(tree));
    found.extend(documents::check(tree));
    found.extend(supply::check(tree));
    found.sort();
    found
}

/// The packages of the workspace, a crate after those that it depends on.
///
/// # Errors
/// Those of `cargo metadata`.
pub(crate) fn members_in_order() -> Result<Vec<String>> {
    let (crates, _) = tree::metadata()?;
    let mut names: Vec<String> = crates.into_iter().map(|c| c.package).collect();
    names.sort_by_key(|name| arrows::rank(name));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let found: Vec<_> = check(&Tree::of_the_project().unwrap()).iter().map(Violation::to_string).collect();
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }

    #[test]
    fn a_violation_says_where_and_what_to_do() {
        let fix = "write it";
        let violation = Violation { file: "a/b.rs".into(), line: 3, rule: "header", what: "no header".into(), fix };
        assert_eq!(violation.to_string(), "a/b.rs:3: [header] no header; write it");
    }
}
