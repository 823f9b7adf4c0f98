//! Each rule on sources, with a sample that it must refuse and one that it must let pass.
use super::*;
use crate::tidy::tree::Crate;

/// Lines of violations that `check` finds in one file, with their rules.
fn found(path: &str, text: &str) -> Vec<(&'static str, usize)> {
    let text = format!("//! A sample.\n{text}");
    let file = File { path: path.into(), len: text.len() as u64, text: Some(text) };
    check(&Tree { files: vec![file], ..Tree::default() }).iter().map(|v| (v.rule, v.line)).collect()
}

const LIBRARY: &str = "crates/exec/src/a.rs";

#[test]
fn a_file_that_does_not_say_what_it_is_is_found() {
    assert_eq!(header("f", "use x;\n").map(|v| v.line), Some(1));
    assert_eq!(header("f", "//!\n"), header("f", ""));
    assert_eq!(header("f", "//! Says.\n"), None);
    assert_eq!(header("f", "#![doc = include_str!(\"../README.md\")]\n"), None);
}

#[test]
fn a_long_file_is_found() {
    assert_eq!(found(LIBRARY, &"\n".repeat(599)), []);
    assert_eq!(found(LIBRARY, &"\n".repeat(600)), [("length", 601)]);
}

#[test]
fn unsafe_outside_its_places_is_found() {
    let text =
        "// unsafe\nconst S: &str = \"unsafe\";\nfn f() { unsafe { g() } }\n#[allow(unsafe_code, reason = \"r\")]\n";
    assert_eq!(found(LIBRARY, text), [("unsafe", 4), ("unsafe", 5)]);
    assert_eq!(found("crates/exec/tests/a.rs", text), [("unsafe", 4), ("unsafe", 5)]);
    assert_eq!(found("crates/cpu/src/gemm/kernel.rs", text), []);
    assert_eq!(found("crates/checkpoint/src/map.rs", text), []);
    assert_eq!(found("crates/checkpoint/src/open.rs", text), [("unsafe", 4), ("unsafe", 5)]);
}

#[test]
fn writing_outside_atomic_is_found() {
    for call in
        ["File::create(p)", "std::fs::write(p, b)", "fs::rename(a, b)", "OpenOptions::new().append(true).open(p)"]
    {
        let text = format!("// {call}\nfn f() {{ {call}; }}\n#[cfg(test)]\nmod tests {{\n fn g() {{ {call}; }}\n}}\n");
        for path in [LIBRARY, "crates/cli/src/a.rs", "xtask/src/a.rs", "crates/checkpoint/src/open.rs"] {
            assert_eq!(found(path, &text), [("writes", 3)], "{call}");
        }
        for path in [
            "crates/checkpoint/src/atomic/fs.rs",
            "crates/exec/tests/a.rs",
            "crates/exec/examples/a.rs",
            "benches/benches/a.rs",
        ] {
            assert_eq!(found(path, &text), [], "{call}");
        }
    }
    assert_eq!(found(LIBRARY, "fn f() { OpenOptions::new().read(true).open(p); }"), []);
}

#[test]
fn a_module_that_is_only_for_tests_is_a_test_wherever_it_lies() {
    let file =
        |path: &str, text: &str| File { path: path.into(), len: 0, text: Some(format!("//! A sample.\n{text}")) };
    let rules = |declared: &str| {
        let files =
            vec![file("crates/exec/src/a.rs", declared), file("crates/exec/src/a/b.rs", "fn f() { fs::write(p, b); }")];
        check(&Tree { files, ..Tree::default() }).len()
    };
    assert_eq!((rules("#[cfg(test)]\nmod b;"), rules("mod b;")), (0, 1));
}

#[test]
fn unfinished_and_silenced_code_is_found() {
    for line in [
        "todo!()",
        "unimplemented!(\"x\")",
        "dbg!(x);",
        "#[ignore]",
        "#[ignore = \"slow\"]",
        "#[should_panic(expected = \"x\")]",
    ] {
        assert_eq!(found("crates/exec/tests/a.rs", line), [("unfinished", 2)], "{line}");
    }
    assert_eq!(found(LIBRARY, "#[cfg_attr(miri, ignore)]"), [("unfinished", 2)]);
    assert_eq!(found(LIBRARY, "/// ```ignore\n/// x\n/// ```"), [("unfinished", 2)]);
    assert_eq!(found(LIBRARY, "// todo!()\n#[arg(ignore_case = true)]\nlet todo = ignore;\n/// ```text"), []);
}

#[test]
fn an_environment_variable_in_a_library_is_found() {
    let text = "fn f() { std::env::var(\"X\"); env::var_os(\"Y\"); }\nfn g() { env::temp_dir(); }";
    assert_eq!(found(LIBRARY, text), [("environment", 2)]);
    assert_eq!(found("crates/cli/src/a.rs", text), []);
}

#[test]
fn paths_of_a_machine_are_found() {
    assert_eq!(found(LIBRARY, "const P: &str = \"/home/me/x\";\n// see /root/y\n"), [("machine", 2), ("machine", 3)]);
    assert_eq!(found(LIBRARY, "const P: &str = \"/tmp/x\";"), [("machine", 2)]);
    assert_eq!(found(LIBRARY, "// https://example.org/home/x ~/work/y $HOME/work/z a/work/b <dir>/root/c\n"), []);
    assert_eq!(found("crates/exec/tests/a.rs", "const P: &str = \"/work/x\";"), []);
    assert_eq!(found("fixtures/a.py", "open('/work/x')"), [("machine", 2)]);
    assert_eq!(found("README.md", "`cd /home/me`"), [("machine", 2)]);
}

#[test]
fn a_library_that_is_not_documented_by_its_readme_is_found() {
    let krate = |text: &str| {
        let files = vec![File { path: "crates/exec/src/lib.rs".into(), len: 0, text: Some(text.into()) }];
        readme(&Tree { files, ..Tree::default() }, "crates/exec")
    };
    assert_eq!(krate("#![doc = include_str!(\"../README.md\")]\n"), None);
    assert_eq!(krate("//! Some documentation.\n").map(|v| v.rule), Some("readme"));
}

#[test]
fn a_leaf_crate_without_its_own_example_is_found() {
    let leaf = |text: Option<String>| {
        let path = "crates/optim/examples/standalone.rs".to_owned();
        let files = text.map(|text| File { path, len: 0, text: Some(text) }).into_iter().collect();
        let krate = Crate {
            package: "paring-optim".into(),
            dir: "crates/optim".into(),
            features: vec![],
            dependencies: vec![],
        };
        standalone(&Tree { files, crates: vec![krate], ..Tree::default() }, "optim")
            .iter()
            .map(|v| v.line)
            .collect::<Vec<_>>()
    };
    assert_eq!(leaf(None), [1]);
    assert_eq!(leaf(Some("use paring_optim::AdamW; // paring_tensor\n".into())), [] as [usize; 0]);
    assert_eq!(leaf(Some("use paring_optim::AdamW;\nuse paring_tensor::Tensor;\n".into())), [2]);
    assert_eq!(leaf(Some("\n".repeat(31))), [31]);
}

#[test]
fn a_large_file_is_found() {
    let file = |len| File { path: "f".into(), len, text: None };
    assert!(large(&file(MAX_BYTES)).is_none() && large(&file(MAX_BYTES + 1)).is_some());
}

#[test]
fn unsafe_lines_are_counted() {
    let text = "unsafe { a() }\n// unsafe\nfn b() {}\nunsafe fn c() {}\n";
    let files = vec![File { path: "a.rs".into(), len: 0, text: Some(text.into()) }];
    assert_eq!(n_unsafe(&Tree { files, ..Tree::default() }), 2);
}
