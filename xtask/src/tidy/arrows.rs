//! Which crate of the workspace may depend on which. This table is the one that counts; ARCHITECTURE.md shows a copy of it, and a test
//! holds the two together.
use super::{
    Violation,
    tree::{Crate, Kind, Tree, short},
};

/// What every program builds on, and more.
macro_rules! program {
    ($($more:literal),*) => {
        &[
            "model", "exec", "ops", "tensor", "checkpoint", "text", "importance", "prune", "distill", "optim", "sampling",
            $($more),*
        ]
    };
}

/// A crate, from the leaves up, and what it may depend on outside its tests, examples and benches.
pub(super) const ARROWS: &[(&str, &[&str])] = &[
    // Leaf maths: slices or views in, numbers out.
    ("importance", &[]),
    ("distill", &[]),
    ("optim", &[]),
    ("sampling", &[]),
    ("tensor", &[]),
    ("prune", &["tensor"]),
    ("ptx-sim", &[]),
    ("gpu-model", &[]),
    // The contract.
    ("checkpoint", &["tensor"]),
    ("text", &["checkpoint"]),
    ("ops", &["tensor", "importance", "distill", "optim"]),
    // Its implementations.
    ("reference", &["ops", "tensor", "distill", "optim"]),
    ("cpu", &["ops", "tensor"]),
    ("sim-driver", &["ptx-sim"]),
    ("cuda", &["ops", "tensor"]),
    ("conformance", &["ops", "reference", "tensor", "sampling"]),
    // Programs.
    ("exec", &["ops", "tensor"]),
    ("model", &["exec", "ops", "tensor", "checkpoint"]),
    // Token ids only: no arrow to `text`.
    ("engine", &["model", "exec", "ops", "tensor", "sampling"]),
    ("eval", program!()),
    // Layers are judged by what `eval` measures.
    ("calibrate", program!("eval")),
    ("train", program!()),
    // Turns what `calibrate` gathered into weights.
    ("surgery", program!("calibrate")),
    // Scores candidates as views of one teacher, trains and measures a few.
    ("search", program!("calibrate", "surgery", "train", "eval")),
    ("cli", ANYTHING),
    ("benches", &[]),
    ("xtask", &[]),
];

/// Every crate of the workspace, except those that are for tests only.
const ANYTHING: &[&str] = &["*"];

/// Backends: who writes a program for one of them has decided for all its users.
pub(super) const BACKENDS: [&str; 3] = ["reference", "cpu", "cuda"];

/// Those that may name a backend outside their tests: the program, and the test kit, whose oracle one is.
const MAY_NAME_BACKENDS: [&str; 2] = ["cli", "conformance"];

/// Crates that are for tests only.
const ONLY_DEV: [&str; 2] = ["conformance", "sim-driver"];

/// Packages of others that few crates may use, and why.
const RESERVED: [(&str, &[&str], &str); 3] = [
    // The stand-in for the driver is tested with the host code that it stands in for.
    ("cudarc", &["cuda", "sim-driver"], "launching is the business of one crate"),
    ("memmap2", &["checkpoint"], "maps are unsafe and read in one place"),
    ("tokenizers", &["text"], "it can panic and is fenced in one place"),
];

/// Where a crate stands in the table: the order of building.
pub(super) fn rank(package: &str) -> usize {
    let name = short(package);
    ARROWS.iter().position(|(from, _)| *from == name).unwrap_or(ARROWS.len())
}

/// The table as ARCHITECTURE.md shows it.
pub(super) fn table() -> String {
    let mut text = String::from("| crate | may depend on |\n|---|---|\n");
    for (from, to) in ARROWS {
        let to = match *to {
            [] => "nothing".to_owned(),
            ANYTHING => format!("anything but {}", ONLY_DEV.join(", ")),
            to => to.join(", "),
        };
        text += &format!("| {from} | {to} |\n");
    }
    text
}

/// Rules `arrow`, `backend`, `only-dev`, `reserved`.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for krate in &tree.crates {
        let from = short(&krate.package);
        let allowed = ARROWS.iter().find(|(name, _)| *name == from).map(|(_, to)| *to);
        if allowed.is_none() {
            let fix = "add it to ARROWS in xtask/src/tidy/arrows.rs and to ARCHITECTURE.md";
            found.push(at(tree, krate, "name", "arrow", format!("crate `{from}` is not in the table of arrows"), fix));
        }
        for (dependency, kind) in &krate.dependencies {
            let to = short(dependency);
            let mut report = |rule, what, fix| found.push(at(tree, krate, dependency, rule, what, fix));
            if let Some((_, owners, why)) =
                RESERVED.iter().find(|(name, owners, _)| *name == dependency && !owners.contains(&from))
            {
                let owner = owners[0];
                let fix = "ask that crate for what is missing";
                report("reserved", format!("`{from}` depends on `{dependency}`, which only `{owner}` may: {why}"), fix);
            }
            if *kind == Kind::Dev || !tree.crates.iter().any(|c| c.package == *dependency) {
                continue;
            }
            if ONLY_DEV.contains(&to) {
                let fix = "make it a dev-dependency";
                report("only-dev", format!("`{from}` depends on `{to}`, which is for tests only"), fix);
            } else if BACKENDS.contains(&to) && !MAY_NAME_BACKENDS.contains(&from) {
                let fix = "take a `&dyn Backend`, or make it a dev-dependency";
                report("backend", format!("`{from}` names the concrete backend `{to}`"), fix);
            } else if !allowed.is_none_or(|a| a == ANYTHING || a.contains(&to)) {
                let fix = "move what is needed, or change the table here and in ARCHITECTURE.md with the reason";
                report("arrow", format!("`{from}` -> `{to}` is not an allowed arrow"), fix);
            }
        }
    }
    found
}

/// A violation at the line of the crate's Cargo.toml that begins with `key`.
fn at(tree: &Tree, krate: &Crate, key: &str, rule: &'static str, what: String, fix: &'static str) -> Violation {
    let file = format!("{}/Cargo.toml", krate.dir);
    let begins = |l: &str| l.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '.', '=']));
    let line = tree.text(&file).and_then(|text| text.lines().position(begins)).map_or(1, |i| i + 1);
    Violation { file, line, rule, what, fix }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tree::{Crate, File, Kind, Tree},
        *,
    };

    /// A workspace where `package` has these dependencies.
    fn sample(package: &str, dependencies: &[(&str, Kind)]) -> Tree {
        let krate = |package: &str, dependencies: Vec<_>| Crate {
            package: package.into(),
            dir: format!("crates/{}", short(package)),
            features: vec![],
            dependencies,
        };
        let mut crates: Vec<_> = ["paring-tensor", "paring-ops", "paring-cpu", "paring-conformance", "paring-cli"]
            .iter()
            .filter(|p| **p != package)
            .map(|p| krate(p, vec![]))
            .collect();
        crates.push(krate(package, dependencies.iter().map(|(n, k)| ((*n).into(), *k)).collect()));
        let text: String = dependencies.iter().map(|(n, _)| format!("{n}.workspace = true\n")).collect();
        let path = format!("crates/{}/Cargo.toml", short(package));
        let text = format!("[package]\nname = \"{package}\"\n[dependencies]\n{text}");
        Tree { files: vec![File { path, len: 0, text: Some(text) }], crates, foreign: vec![] }
    }

    fn rules(package: &str, dependencies: &[(&str, Kind)]) -> Vec<(&'static str, usize)> {
        check(&sample(package, dependencies)).into_iter().map(|v| (v.rule, v.line)).collect()
    }

    #[test]
    fn arrows_against_the_table_are_found_with_their_line() {
        assert_eq!(
            rules("paring-distill", &[("serde", Kind::Normal), ("paring-tensor", Kind::Normal)]),
            [("arrow", 5)]
        );
        assert_eq!(rules("paring-ops", &[("paring-tensor", Kind::Normal)]), []);
        assert_eq!(rules("paring-cli", &[("paring-tensor", Kind::Normal), ("paring-cpu", Kind::Normal)]), []);
        assert_eq!(rules("paring-distill", &[("paring-tensor", Kind::Dev)]), []);
    }

    #[test]
    fn a_crate_that_the_table_does_not_know_is_found() {
        assert_eq!(rules("paring-novelty", &[]), [("arrow", 2)]);
    }

    #[test]
    fn a_library_that_names_a_backend_is_found() {
        assert_eq!(rules("paring-model", &[("paring-cpu", Kind::Normal)]), [("backend", 4)]);
        assert_eq!(rules("paring-model", &[("paring-cpu", Kind::Dev)]), []);
    }

    #[test]
    fn the_test_kit_outside_tests_is_found_even_in_the_program() {
        assert_eq!(rules("paring-cli", &[("paring-conformance", Kind::Normal)]), [("only-dev", 4)]);
        assert_eq!(rules("paring-cpu", &[("paring-conformance", Kind::Dev)]), []);
    }

    #[test]
    fn a_reserved_package_elsewhere_is_found() {
        assert_eq!(rules("paring-ops", &[("tokenizers", Kind::Dev)]), [("reserved", 4)]);
        assert_eq!(rules("paring-text", &[("tokenizers", Kind::Normal)]), []);
    }

    #[test]
    fn the_table_obeys_its_own_rules_and_goes_up() {
        for (i, (from, to)) in ARROWS.iter().enumerate() {
            for to in *to {
                assert!(
                    *to == "*" || ARROWS[..i].iter().any(|(name, _)| name == to),
                    "{from} -> {to} does not go down"
                );
                assert!(!BACKENDS.contains(to) || MAY_NAME_BACKENDS.contains(from), "{from} -> {to}");
                assert!(!ONLY_DEV.contains(to), "{from} -> {to}");
            }
        }
    }
}
