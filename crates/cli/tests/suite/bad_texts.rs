//! Texts, token files, importance files and output paths that cannot be used: each is refused by path, and nothing is left behind or touched.
use crate::{lab::Lab, tiny};
use rustix::fs::{CWD, Mode, mkfifoat};
use std::os::unix::fs::symlink;

fn pipe(lab: &Lab, name: &str) {
    mkfifoat(CWD, lab.path(name), Mode::RUSR | Mode::WUSR).unwrap();
}

#[test]
fn texts() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("directory.txt")).unwrap();
    pipe(&lab, "pipe.txt");
    pipe(&lab, "pipe.jsonl");
    symlink("nowhere.txt", lab.path("dangling.txt")).unwrap();
    symlink("loop.txt", lab.path("loop.txt")).unwrap();
    for (name, bytes) in [
        ("empty.txt", &b""[..]),
        ("feeds.txt", b"\x0c\x0c\x0c"),
        ("short.txt", b"Hello."),
        ("latin.txt", b"caf\xe9 and more"),
        ("letter.md", b"Hello."),
        ("plain", b"Hello."),
        ("cut.jsonl", b"{\"text\": \"a\"}\n{\"text\": \n"),
        ("field.jsonl", b"{\"text\": \"a\"}\n\n{\"txt\": \"b\"}\n"),
        ("type.jsonl", b"{\"text\": 3}\n"),
        ("list.jsonl", b"[1, 2]\n"),
        ("not.txt.gz", b"Hello."),
        ("not.txt.zst", b"Hello."),
        ("cut.txt.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xf3"),
    ] {
        lab.write(name, bytes);
    }
    for (text, says) in [
        ("nowhere.txt", &["nowhere.txt: cannot be read"][..]),
        ("directory.txt", &["directory.txt: is a directory"]),
        ("pipe.txt", &["pipe.txt: is a pipe"]),
        ("pipe.jsonl", &["pipe.jsonl: is a pipe"]),
        ("dangling.txt", &["dangling.txt: cannot be read"]),
        ("loop.txt", &["loop.txt: cannot be read"]),
        ("/dev/full", &["/dev/full"]),
        ("model", &["model: is of no known kind"]),
        ("empty.txt", &["empty.txt: nothing to read"]),
        ("feeds.txt", &["feeds.txt: nothing to read"]),
        ("short.txt", &["short.txt", "fewer than one window of 64"]),
        ("latin.txt", &["latin.txt: byte 3 is not UTF-8"]),
        ("letter.md", &["letter.md", "expected .txt or .jsonl"]),
        ("plain", &["plain", "expected .txt or .jsonl"]),
        ("cut.jsonl", &["cut.jsonl: line 2"]),
        ("field.jsonl", &["field.jsonl: line 3", "no field `text`"]),
        ("type.jsonl", &["type.jsonl: line 1", "expected a string"]),
        ("list.jsonl", &["list.jsonl: line 1", "expected an object"]),
        ("not.txt.gz", &["not.txt.gz: does not decompress"]),
        ("not.txt.zst", &["not.txt.zst: does not decompress"]),
        ("cut.txt.gz", &["cut.txt.gz: does not decompress"]),
        ("text.txt nowhere.txt", &["nowhere.txt: cannot be read"]),
    ] {
        lab.refused(&format!("eval --model model --context 64 --text {text}"), says);
        lab.refused(&format!("compress --model model --ffn 24 --context 64 --out new --text {text}"), says);
    }
    // Enough for a window, but not for one to train on and one to evaluate on.
    lab.write("one.txt", tiny::text().chars().take(70).collect::<String>());
    lab.refused(
        "compress --model model --ffn 24 --context 40 --out new --text one.txt",
        &["1 window of 40 tokens", "--heldout FILE"],
    );
}

#[test]
fn token_files() {
    let lab = Lab::new();
    pipe(&lab, "pipe.jsonl");
    let long = format!("{:?}", [1; 129]);
    for (name, text, says) in [
        ("range.jsonl", "[1, 2]\n[1, 300]\n", "line 2: item 2 is 300, expected a token id below 300"),
        ("negative.jsonl", "[1, -2]\n", "line 1: item 2 is -2"),
        ("fraction.jsonl", "[1, 2.5]\n", "line 1: item 2 is 2.5"),
        ("huge.jsonl", "[1, 4294967297]\n", "line 1: item 2 is 4294967297"),
        ("words.jsonl", "[\"a\"]\n", "line 1: item 1 is a string"),
        ("object.jsonl", "{\"text\": \"a\"}\n", "line 1: expected an array"),
        ("one.jsonl", "[1]\n", "line 1: 1 tokens, expected at least 2"),
        ("none.jsonl", "\n\n", "nothing to read"),
        ("cut.jsonl", "[1, 2", "line 1"),
        ("long.jsonl", &long, "a window of 129 tokens"),
        ("nowhere.jsonl", "", "nothing to read"),
    ] {
        lab.write(name, text);
        lab.refused(&format!("eval --model model --tokens {name}"), &[name, says]);
        lab.refused(&format!("compress --model model --ffn 24 --out new --tokens {name}"), &[name, says]);
    }
    lab.refused("eval --model model --tokens pipe.jsonl", &["pipe.jsonl: is a pipe"]);
    lab.refused("eval --model model --tokens missing.jsonl", &["missing.jsonl: cannot be read"]);
    lab.refused("eval --model model --tokens text.txt", &["text.txt: line 1"]);
}

#[test]
fn importance_files() {
    let lab = Lab::new();
    lab.done("importance --model model --text text.txt --context 64 --windows 2 --out right");
    let right = std::fs::read(lab.path("right")).unwrap();
    let length = 8 + u64::from_le_bytes(right[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&right[8..length]).unwrap();
    let changed = |tensor: &str, value: f64| {
        let mut bytes = right.clone();
        let at = length + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let said = |from: &str, to: &str| {
        let text = String::from_utf8(right[..length][8..].to_vec()).unwrap();
        assert!(text.contains(from) && from.len() == to.len(), "{from}: {text}");
        [&right[..8], text.replacen(from, to, 1).as_bytes(), &right[length..]].concat()
    };
    for (name, bytes, says) in [
        ("cut", right[..right.len() - 1].to_vec(), "cut: "),
        ("half", right[..right.len() / 2].to_vec(), "half: "),
        ("head", right[..20].to_vec(), "head: "),
        ("empty", Vec::new(), "empty: "),
        ("score", changed("hidden", 1e9), "hidden"),
        ("nan", changed("ffn.2", f64::NAN), "ffn.2"),
        ("negative", changed("raw.counts", -1.0), "raw.counts"),
        (
            "counts",
            changed("raw.counts", f64::from_bits(77)),
            "the header does not fit the sums, which are of 77 tokens",
        ),
        ("version", said("\"paring.version\":\"2\"", "\"paring.version\":\"9\""), "format version 9, expected 2"),
        (
            "older",
            said("\"paring.version\":\"2\"", "\"paring.version\":\"1\""),
            "format version 1, whose sums were rounded",
        ),
        ("parts", said("seen\\\":\\\"1/1", "seen\\\":\\\"2/1"), "`2/1` of 2 windows is no set of windows"),
        ("settings", said("\\\"choice\\\":", "\\\"chance\\\":"), "header `paring.settings`: unknown field `chance`"),
        ("kind", said("\"paring.kind\":\"importance\"", "\"paring.kind\":\"impurtance\""), "is no importance file"),
        ("weights", tiny::model()["model.safetensors"].clone(), "is no importance file"),
    ] {
        lab.write(name, bytes);
        lab.refused(&format!("prune --model model --ffn 24 --out new --importance {name}"), &[name, says]);
    }
    // The scores of another model.
    tiny::write(&lab.path("other"), &tiny::config(), &tiny::tokenizer(tiny::VOCAB), 8);
    lab.refused(
        "prune --model other --ffn 24 --out new --importance right",
        &["right: holds the scores of another model"],
    );
    pipe(&lab, "pipe");
    lab.refused("prune --model model --ffn 24 --out new --importance pipe", &["pipe: is a pipe"]);
    lab.refused("prune --model model --ffn 24 --out new --importance model", &["model: is a directory"]);
    lab.refused("prune --model model --ffn 24 --out new --importance nowhere", &["nowhere: cannot be read"]);
    lab.refused("prune --model model --ffn 24 --out new --importance /dev/full", &["/dev/full"]);
    lab.refused(
        "prune --model model --ffn 24 --out new --importance right --compensate least-squares",
        &["no text; give --text FILE... or --tokens FILE"],
    );
    lab.done("prune --model model --ffn 24 --out new --importance right");
}

/// Commands that write, up to the name of the output.
const WRITERS: [&str; 4] = [
    "compress --model model --text text.txt --context 64 --ffn 24 --budget 256 --out",
    "importance --model model --text text.txt --context 64 --windows 2 --out",
    "prune --model model --importance importance --ffn 24 --out",
    "distill --student model --teacher model --text text.txt --context 64 --budget 256 --out",
];

#[test]
fn what_is_there_already_is_not_touched() {
    let lab = Lab::new();
    lab.done(&format!("{} importance", WRITERS[1]));
    lab.write("directory/precious", "text");
    lab.write("file", "text");
    symlink("nowhere", lab.path("dangling")).unwrap();
    symlink("loop", lab.path("loop")).unwrap();
    pipe(&lab, "pipe");
    for writer in WRITERS {
        for out in
            ["directory", "directory/", "file", "dangling", "loop", "pipe", "/dev/full", "/dev/null", ".", "/", "model"]
        {
            lab.refused(&format!("{writer} {out}"), &["exists already", out.trim_end_matches('/')]);
        }
    }
    assert_eq!((lab.read("directory/precious"), lab.read("file")), ("text".into(), "text".into()));
}

#[test]
fn outputs_that_cannot_be_written() {
    let lab = Lab::new();
    lab.done(&format!("{} importance", WRITERS[1]));
    for writer in WRITERS {
        // Not because it is read-only: the superuser may write there too.
        lab.refused(&format!("{writer} text.txt/new"), &["text.txt"]);
        lab.refused(&format!("{writer} text.txt/new/new"), &["text.txt"]);
        lab.refused(&format!("{writer} nowhere/.."), &["nowhere/.."]);
    }
    if !rustix::process::geteuid().is_root() {
        std::fs::create_dir(lab.path("closed")).unwrap();
        rustix::fs::chmod(lab.path("closed"), Mode::RUSR | Mode::XUSR).unwrap();
        for writer in WRITERS {
            lab.refused(&format!("{writer} closed/new"), &["closed", "Permission denied"]);
        }
    }
    // Somebody's own directory under the name of the place that a run works in.
    lab.write("mine.unfinished/precious", "text");
    for writer in [WRITERS[0], WRITERS[3]] {
        lab.run(&format!("{writer} mine")).check_refusal(writer, 2, &["mine.unfinished is in the way"]);
        assert_eq!(lab.read("mine.unfinished/precious"), "text");
    }
}
