//! Rules on what is written: Rust sources first, then every text of the repository.
use super::{
    Violation,
    lex::{Lexed, has_word, lex},
    tree::{File, Tree},
};
use std::collections::BTreeSet;

/// Where `unsafe` may be written: the memory map, SIMD, and calls of C libraries and as one.
const UNSAFE: [&str; 6] = [
    "crates/checkpoint/src/map.rs",
    "crates/cpu/src/",
    "crates/cuda/src/driver.rs",
    "crates/cuda/examples/cublas.rs",
    "crates/sim-driver/",
    "xtask/src/kernels/nvrtc.rs",
];

/// Where files may be opened for writing.
const WRITERS: &str = "crates/checkpoint/src/atomic/";

/// Crates and files of which no part is in the program: what only tests run, and what makes files that are committed.
const ONLY_FOR_TESTS: [&str; 2] = ["crates/sim-driver/", "xtask/src/kernels/"];

/// What opens a file for writing, or changes what is under a name.
const WRITES: [&str; 12] = [
    "File::create",
    "fs::write",
    "fs::copy",
    "fs::rename",
    "fs::hard_link",
    "fs::symlink",
    ".write(true)",
    ".append(true)",
    ".create(true)",
    ".create_new(true)",
    ".truncate(true)",
    ".set_len(",
];

/// Macros that stand for work not done.
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Crates that a reader may take alone, and whose example proves it.
const LEAVES: [&str; 7] = ["importance", "prune", "distill", "optim", "sampling", "ptx-sim", "gpu-model"];

/// Lines of a file, before a second subject has begun.
const MAX_LINES: usize = 600;

/// Lines of a leaf crate's example: about fifteen.
const MAX_EXAMPLE_LINES: usize = 30;

/// Bytes of a file: the embedded teacher has fewer.
const MAX_BYTES: u64 = 12_000_000;

/// Directories at the top of somebody's machine.
const MACHINE_DIRS: [&str; 3] = ["home", "root", "work"];

/// Rules `header`, `length`, `unsafe`, `writes`, `unfinished`, `environment`, `machine`, `readme`, `standalone`, `large`.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let lexed: Vec<(&str, &str, Lexed)> = tree.texts(".rs").map(|(path, text)| (path, text, lex(text))).collect();
    let in_test_files = test_files(&lexed);
    let mut found = Vec::new();
    for (path, text, lexed) in &lexed {
        let is_test = |line: usize| in_test_files.contains(*path) || lexed.is_test.get(line).copied().unwrap_or(false);
        found.extend(header(path, text));
        found.extend(unsafe_blocks(path, lexed));
        found.extend(unfinished(path, lexed));
        found.extend(ignored_examples(path, &lexed.comments));
        if is_shipped(path) {
            found.extend(writes(path, lexed, is_test));
            found.extend(environment(path, lexed, is_test));
        }
        found.extend(machine_paths(path, text, |line| !is_shipped(path) || is_test(line)));
        if is_shipped(path) {
            found.extend(temporary_paths(path, lexed, is_test));
        }
    }
    for (path, text) in [".rs", ".py", ".sh", ".cu", ".cuh"].iter().flat_map(|end| tree.texts(end)) {
        found.extend(length(path, text));
    }
    for file in &tree.files {
        found.extend(large(file));
        let is_prose = [".rs", ".txt", ".lock"].iter().all(|end| !file.path.ends_with(end));
        found.extend(file.text.iter().filter(|_| is_prose).flat_map(|t| machine_paths(&file.path, t, |_| false)));
    }
    for krate in &tree.crates {
        found.extend(readme(tree, &krate.dir));
    }
    found.extend(LEAVES.iter().flat_map(|leaf| standalone(tree, leaf)));
    found
}

/// Lines of code that say `unsafe`, in the whole tree: a number to watch.
pub(super) fn n_unsafe(tree: &Tree) -> usize {
    tree.texts(".rs").map(|(_, text)| lex(text).code.lines().filter(|l| has_word(l, "unsafe")).count()).sum()
}

/// Whether users run what is written here: not tests, examples and benches.
fn is_shipped(path: &str) -> bool {
    let for_tests = ONLY_FOR_TESTS.iter().any(|dir| path.starts_with(dir));
    let in_dir = |dir: &str| path.split('/').any(|part| part == dir);
    path.contains("/src/") && !for_tests && !["tests", "examples", "benches"].into_iter().any(in_dir)
}

/// Files of modules that are declared under `#[cfg(test)]`.
fn test_files(lexed: &[(&str, &str, Lexed)]) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for (path, _, lexed) in lexed {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let stem = name.trim_end_matches(".rs");
        let dir = if ["lib", "main", "mod"].contains(&stem) { dir.to_owned() } else { format!("{dir}/{stem}") };
        for module in &lexed.test_modules {
            files.extend([format!("{dir}/{module}.rs"), format!("{dir}/{module}/mod.rs")]);
        }
    }
    files
}

fn header(path: &str, text: &str) -> Option<Violation> {
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("//! ") || first.starts_with("#![doc") {
        return None;
    }
    let fix = "open it with `//!`: what is here, and why";
    Some(Violation { file: path.into(), line: 1, rule: "header", what: "the file does not say what it is".into(), fix })
}

fn length(path: &str, text: &str) -> Option<Violation> {
    let n = text.lines().count();
    let what = format!("{n} lines, at most {MAX_LINES}");
    let fix = "split it where a second subject begins";
    (MAX_LINES < n).then(|| Violation { file: path.into(), line: MAX_LINES + 1, rule: "length", what, fix })
}

fn unsafe_blocks(path: &str, lexed: &Lexed) -> Vec<Violation> {
    if UNSAFE.iter().any(|allowed| path.starts_with(allowed)) {
        return vec![];
    }
    let fix = "find a safe way; ARCHITECTURE.md says who has leave";
    lines(path, &lexed.code, "unsafe", fix, |line, _| {
        ["unsafe", "unsafe_code"].iter().find(|w| has_word(line, w)).map(|w| format!("`{w}` is written here"))
    })
}

fn writes(path: &str, lexed: &Lexed, is_test: impl Fn(usize) -> bool) -> Vec<Violation> {
    if path.starts_with(WRITERS) {
        return vec![];
    }
    let fix = "write through `paring_checkpoint::atomic`, which leaves the old file or the new one";
    lines(path, &lexed.code, "writes", fix, |line, i| {
        let call = WRITES.iter().find(|w| !is_test(i) && line.contains(*w))?;
        Some(format!("`{}` outside {WRITERS}", call.trim_matches(['.', '('])))
    })
}

fn unfinished(path: &str, lexed: &Lexed) -> Vec<Violation> {
    let fix = "finish it, or take it out";
    lines(path, &lexed.code, "unfinished", fix, |line, _| {
        if let Some(name) = UNFINISHED.iter().find(|m| has_word(line, m) && line.contains(&format!("{m}!"))) {
            return Some(format!("`{name}!`"));
        }
        let attribute = &line[line.find("#[")?..];
        let word = ["ignore", "should_panic"].iter().find(|w| has_word(attribute, w))?;
        Some(format!("`#[{word}]`"))
    })
}

/// Code in documentation that is never compiled rots.
fn ignored_examples(path: &str, comments: &str) -> Vec<Violation> {
    let fix = "make it run, or mark it `text`";
    lines(path, comments, "unfinished", fix, |line, _| {
        let (_, language) = line.split_once("```")?;
        has_word(language, "ignore").then(|| "an example that is not compiled".into())
    })
}

/// What a library does depends on its arguments alone.
fn environment(path: &str, lexed: &Lexed, is_test: impl Fn(usize) -> bool) -> Vec<Violation> {
    if ["crates/cli/", "xtask/"].iter().any(|p| path.starts_with(p)) {
        return vec![];
    }
    let fix = "make it an argument; `cli` reads the environment";
    lines(path, &lexed.code, "environment", fix, |line, i| {
        (!is_test(i) && line.contains("env::var")).then(|| "a library reads an environment variable".into())
    })
}

/// Paths of the machine that this was written on, except where `may(line)`.
fn machine_paths(path: &str, text: &str, may: impl Fn(usize) -> bool) -> Vec<Violation> {
    let fix = "write it from the root of the repository, or take it as an argument";
    lines(path, text, "machine", fix, |line, i| {
        let dir = MACHINE_DIRS.iter().find(|d| !may(i) && has_top_dir(line, d))?;
        Some(format!("a path under /{dir}"))
    })
}

fn temporary_paths(path: &str, lexed: &Lexed, is_test: impl Fn(usize) -> bool) -> Vec<Violation> {
    let fix = "write beside the target, or take the directory as an argument";
    lines(path, &lexed.strings, "machine", fix, |line, i| {
        (!is_test(i) && has_top_dir(line, "tmp")).then(|| "a path under /tmp".into())
    })
}

/// Whether `line` has an absolute path that begins with `/dir/`.
fn has_top_dir(line: &str, dir: &str) -> bool {
    line.match_indices(&format!("/{dir}/")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.~}*>)/".contains(c))
    })
}

fn readme(tree: &Tree, dir: &str) -> Option<Violation> {
    let path = format!("{dir}/src/lib.rs");
    let text = tree.text(&path)?;
    let what = "the crate's documentation is not its README".into();
    let fix = "open it with `#![doc = include_str!(\"../README.md\")]`";
    let is_readme = text.starts_with("#![doc = include_str!(\"../README.md\")]\n");
    (!is_readme).then_some(Violation { file: path, line: 1, rule: "readme", what, fix })
}

fn standalone(tree: &Tree, leaf: &str) -> Vec<Violation> {
    let dir = format!("crates/{leaf}");
    if !tree.crates.iter().any(|c| c.dir == dir) {
        return vec![];
    }
    let path = format!("{dir}/examples/standalone.rs");
    let fix = "show the crate alone in about fifteen lines";
    let Some(text) = tree.text(&path) else {
        let what = format!("leaf crate `{leaf}` has no such example");
        return vec![Violation { file: path, line: 1, rule: "standalone", what, fix }];
    };
    let own = format!("paring_{}", leaf.replace('-', "_"));
    let mut found = lines(&path, &lex(text).code, "standalone", fix, |line, _| {
        let mut names = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| w.starts_with("paring_"));
        names.find(|w| *w != own).map(|w| format!("it uses `{w}` too"))
    });
    let n = text.lines().count();
    if MAX_EXAMPLE_LINES < n {
        let what = format!("{n} lines, at most {MAX_EXAMPLE_LINES}");
        found.push(Violation { file: path, line: MAX_EXAMPLE_LINES + 1, rule: "standalone", what, fix });
    }
    found
}

fn large(file: &File) -> Option<Violation> {
    let what = format!("{} bytes, at most {MAX_BYTES}", file.len);
    let fix = "keep it out of the repository and fetch it, or make it smaller";
    (MAX_BYTES < file.len).then(|| Violation { file: file.path.clone(), line: 1, rule: "large", what, fix })
}

/// A violation for each line of `text` in which `find` finds something.
fn lines(
    path: &str,
    text: &str,
    rule: &'static str,
    fix: &'static str,
    find: impl Fn(&str, usize) -> Option<String>,
) -> Vec<Violation> {
    let found = text.lines().enumerate().filter_map(|(i, line)| Some((i, find(line, i)?)));
    found.map(|(i, what)| Violation { file: path.into(), line: i + 1, rule, what, fix }).collect()
}

#[cfg(test)]
mod tests; // each rule and a sample that it must refuse
