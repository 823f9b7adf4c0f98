//! Model directories that lie: indexes that lead outside, links, missing shards, pickles, pipes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{Scratch, refused, safetensors};
use paring_checkpoint::{Limits, SafetensorsDir, TensorSource};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn open(path: &Path) -> paring_checkpoint::Result<SafetensorsDir> {
    SafetensorsDir::open(path, &Limits::default())
}

/// A file with the tensors `names`, four bytes each.
fn shard(names: &[&str]) -> Vec<u8> {
    let tensor = |(i, name): (usize, &&str)| {
        format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#, 4 * i, 4 * i + 4)
    };
    let tensors: Vec<String> = names.iter().enumerate().map(tensor).collect();
    safetensors(&format!("{{{}}}", tensors.join(",")), &vec![0; 4 * names.len()])
}

/// A directory `m` with these files in it.
fn model(scratch: &Scratch, files: &[(&str, &[u8])]) -> PathBuf {
    let dir = scratch.path("m");
    std::fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
    dir
}

/// What is refused is named by the path of the directory or of a file in it.
#[track_caller]
fn check(case: &str, files: &[(&str, &[u8])], kinds: &str, words: &[&str]) {
    let scratch = Scratch::new();
    let dir = model(&scratch, files);
    refused(case, &dir, kinds, words, open);
}

#[test]
fn shards_are_found_through_the_index() {
    let scratch = Scratch::new();
    let index = br#"{"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}"#;
    // A tensor that the index does not name is there all the same.
    let files: [(&str, &[u8]); 3] =
        [(INDEX, index), ("x.safetensors", &shard(&["a", "c"])), ("y.safetensors", &shard(&["b"]))];
    let dir = open(&model(&scratch, &files)).unwrap();
    assert_eq!((dir.names(), dir.files().len()), (vec!["a".into(), "b".into(), "c".into()], 2));
    // The single file wins over an index beside it.
    let dir = open(&model(&scratch, &[(SINGLE, &shard(&["only"]))])).unwrap();
    assert_eq!(dir.names(), ["only"]);
}

#[test]
fn names_that_lead_elsewhere() {
    let long = "x".repeat(300);
    let names = [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../outside.safetensors",
        "sub/x.safetensors",
        "a/../../b",
        "C:\\x",
        "a\\b",
        "./x",
        "x\\u0000",
        "x\\n",
        "\\u001b[2J",
        "x/",
        &long,
    ];
    for name in names {
        let scratch = Scratch::new();
        scratch.write("outside.safetensors", &shard(&["a"]));
        let escaped = name.replace("C:\\x", "C:\\\\x").replace("a\\b", "a\\\\b");
        let index = format!(r#"{{"weight_map":{{"a":"{escaped}"}}}}"#);
        let dir = model(&scratch, &[(INDEX, index.as_bytes())]);
        std::fs::create_dir(dir.join("sub")).unwrap();
        std::fs::write(dir.join("sub/x.safetensors"), shard(&["a"])).unwrap();
        let path = dir.join(INDEX);
        refused(&format!("{name:?}"), &path, "Name", &["expected the plain name of a file"], |_| open(&dir));
    }
}

#[test]
fn links_stay_inside() {
    let index = br#"{"weight_map":{"a":"x.safetensors"}}"#;
    let inside = |target: &str| {
        let scratch = Scratch::new();
        let dir = model(&scratch, &[(INDEX, index), ("real.safetensors", &shard(&["a"]))]);
        scratch.write("outside.safetensors", &shard(&["a"]));
        symlink(target, dir.join("x.safetensors")).unwrap();
        (scratch, dir)
    };
    let (_scratch, dir) = inside("real.safetensors");
    assert_eq!(open(&dir).unwrap().names(), ["a"]);
    let (_scratch, dir) = inside("../m/real.safetensors");
    assert_eq!(open(&dir).unwrap().names(), ["a"]);
    let (_scratch, dir) = inside("../outside.safetensors");
    refused("out", &dir, "Name", &["`x.safetensors` is a symbolic link that leaves the directory"], open);
    let (scratch, dir) = inside("nowhere");
    refused("dangling", &dir.join("x.safetensors"), "Read", &["cannot be read"], |_| open(&dir));
    // Through two links, one of which looks harmless.
    symlink(scratch.path("outside.safetensors"), dir.join("nowhere")).unwrap();
    refused("twice", &dir, "Name", &["leaves the directory"], open);
    let (_scratch, dir) = inside("x.safetensors");
    refused("loop", &dir.join("x.safetensors"), "Read", &["cannot be read"], |_| open(&dir));

    for name in [SINGLE, INDEX] {
        let scratch = Scratch::new();
        let dir = model(&scratch, &[("x.safetensors", &shard(&["a"]))]);
        let outside = scratch.write("outside", if name == SINGLE { b"" } else { index });
        symlink(outside, dir.join(name)).unwrap();
        refused(name, &dir, "Name", &[name, "leaves the directory"], open);
    }
    // The directory itself may be a link: the user named it.
    let scratch = Scratch::new();
    let dir = model(&scratch, &[(SINGLE, &shard(&["a"]))]);
    symlink(&dir, scratch.path("link")).unwrap();
    assert_eq!(open(&scratch.path("link")).unwrap().names(), ["a"]);
}

#[test]
fn the_cache_of_hugging_face_is_made_of_links() {
    let scratch = Scratch::new();
    let snapshot = scratch.path("models--org--name/snapshots/0123abcd");
    let blobs = scratch.path("models--org--name/blobs");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join("f00d"), shard(&["a"])).unwrap();
    symlink("../../blobs/f00d", snapshot.join(SINGLE)).unwrap();
    assert_eq!(open(&snapshot).unwrap().names(), ["a"]);
    // But to its own blobs only.
    let other = scratch.path("models--org--other/blobs");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("f00d"), shard(&["a"])).unwrap();
    std::fs::remove_file(snapshot.join(SINGLE)).unwrap();
    symlink(other.join("f00d"), snapshot.join(SINGLE)).unwrap();
    refused("other blobs", &snapshot, "Name", &["leaves the directory"], open);
}

#[test]
fn indexes_and_shards_that_disagree() {
    let (a, ab) = (shard(&["a"]), shard(&["a", "b"]));
    let index = |map: &str| format!(r#"{{"weight_map":{map}}}"#).into_bytes();
    let one = index(r#"{"a":"x.safetensors"}"#);
    check("missing shard", &[(INDEX, &one)], "MissingShard", &["x.safetensors", "is missing", "`a`"]);
    let two = index(r#"{"a":"x.safetensors","b":"x.safetensors"}"#);
    check(
        "not in shard",
        &[(INDEX, &two), ("x.safetensors", &a)],
        "MissingTensor",
        &["x.safetensors", "no tensor `b`"],
    );
    let both = index(r#"{"a":"x.safetensors","b":"y.safetensors"}"#);
    let files: [(&str, &[u8]); 3] = [(INDEX, &both), ("x.safetensors", &a), ("y.safetensors", &ab)];
    check("in two shards", &files, "Duplicate", &["y.safetensors", "tensor `a` appears twice"]);
    check("broken shard", &[(INDEX, &one), ("x.safetensors", &a[..a.len() - 1])], "PastEnd", &["x.safetensors"]);
    let twice = index(r#"{"a":"x.safetensors","a":"y.safetensors"}"#);
    check("name twice", &[(INDEX, &twice)], "Duplicate", &["JSON key `a` appears twice"]);
    for (case, map) in [("empty", "{}"), ("list", "[]"), ("null", "null")] {
        check(case, &[(INDEX, &index(map))], "Malformed", &["`weight_map`", "expected tensor names and their files"]);
    }
    check("no map", &[(INDEX, b"{}")], "Malformed", &["`weight_map`"]);
    check("no string", &[(INDEX, &index(r#"{"a":1}"#))], "Malformed", &["the file of tensor `a`", "is no string"]);
    check("no JSON", &[(INDEX, b"{")], "Malformed", &["JSON"]);
    check("not UTF-8", &[(INDEX, b"{\"\xff\"}")], "Malformed", &["byte 2", "UTF-8"]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    check("deep", &[(INDEX, deep.as_bytes())], "Limit", &["the depth of JSON"]);

    let scratch = Scratch::new();
    let dir = model(&scratch, &[(INDEX, &both), ("x.safetensors", &a)]);
    for limits in [Limits { tensors: 1, ..Limits::default() }, Limits { json_bytes: 10, ..Limits::default() }] {
        refused("limits", &dir.join(INDEX), "Limit", &["limit"], |_| SafetensorsDir::open(&dir, &limits));
    }
}

#[test]
fn directories_without_safetensors() {
    for name in ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.CKPT"] {
        let words = [name, "is a pickle", "safe_serialization=True"];
        check(name, &[("config.json", b"{}"), (name, b"\x80\x02.")], "Pickle", &words);
    }
    check("empty", &[], "NoWeights", &["neither model.safetensors nor"]);
    let scratch = Scratch::new();
    let file = scratch.write("m", b"");
    refused("a file", &file, "NoWeights", &["neither model.safetensors nor"], open);
    refused("nothing", &scratch.path("none"), "Read", &["cannot be read"], open);
}

#[test]
fn things_that_are_no_files() {
    for name in [SINGLE, INDEX] {
        let scratch = Scratch::new();
        let path = model(&scratch, &[]).join(name);
        // Opening a pipe that nobody writes to would wait for ever.
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        refused("pipe", &path, "NotAFile", &["is a pipe, expected a regular file"], |p| open(p.parent().unwrap()));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        refused("directory", &path, "NotAFile", &["is a directory"], |p| open(p.parent().unwrap()));
    }
}
