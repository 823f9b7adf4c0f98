//! GGUF files that lie, from the list of what other readers fell for: every one is an error that names file and field, at once.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{RawGguf, Scratch, kind, refused};
use paring_checkpoint::{Gguf, Limits, TensorSource};
use std::path::Path;

fn open(path: &Path) -> paring_checkpoint::Result<Gguf> {
    Gguf::open(path, &Limits::default())
}

/// Lengths that became allocations, loops or small numbers elsewhere.
const LENGTHS: [u64; 6] = [1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX - 7, u64::MAX];

/// A file, which errors it may give, and words of the message.
#[track_caller]
fn check(case: &str, raw: &RawGguf, kinds: &str, words: &[&str]) {
    let scratch = Scratch::new();
    refused(case, &scratch.write("evil.gguf", &raw.0), kinds, words, open);
}

/// A file of 43 bytes, as the one that made gguf-py eat 120 MB a second.
fn small(raw: RawGguf) -> RawGguf {
    let mut raw = raw;
    raw.0.resize(43, 0);
    raw
}

#[test]
fn counts_and_lengths_far_beyond_the_file() {
    for n in LENGTHS {
        let case = |what: &str| format!("{what} {n}");
        let number = n.to_string();
        check(&case("n_tensors"), &small(RawGguf::new(3, n, 0)), "Limit", &["the number of tensors", &number]);
        check(&case("n_kv"), &small(RawGguf::new(3, 0, n)), "Limit", &["the number of metadata pairs", &number]);
        let key = RawGguf::new(3, 0, 1).u64(n);
        check(&case("key"), &small(key), "Limit", &["the length of the key of metadata pair 0", &number]);
        let name = RawGguf::new(3, 1, 0).u64(n).bytes(&[0; 32]);
        check(&case("name"), &name, "Limit", &["the length of the name of tensor 0", &number]);
        let text = RawGguf::new(3, 0, 1).text("a").u32(8).u64(n);
        check(&case("string"), &text, "Limit", &["the length of metadata key `a`", &number]);
        for element in (0..=12).filter(|&t| t != 9) {
            let array = RawGguf::new(3, 0, 1).text("a").u32(9).u32(element).u64(n).bytes(&[0; 20]);
            check(&case("array"), &array, "Limit", &["the length of metadata key `a`", &number]);
        }
        let string = RawGguf::new(3, 0, 1).text("a").u32(9).u32(8).u64(2).text("x").u64(n);
        check(&case("string of an array"), &string, "Limit", &["the length of string 1 of metadata key `a`", &number]);
    }
}

#[test]
fn counts_and_lengths_just_beyond_the_file() {
    check("n_tensors", &small(RawGguf::new(3, 1_000_000, 0)), "PastEnd", &["the number of tensors", "43 bytes"]);
    check("n_kv", &small(RawGguf::new(3, 0, 1_000_000)), "PastEnd", &["the number of metadata pairs", "43 bytes"]);
    check("key", &small(RawGguf::new(3, 0, 1).u64(30)), "PastEnd", &["the length of the key of metadata pair 0"]);
    check("string", &RawGguf::new(3, 0, 1).text("a").u32(8).u64(6).bytes(b"12345"), "PastEnd", &["metadata key `a`"]);
    for (element, each) in [(0, 1), (2, 2), (6, 4), (7, 1), (8, 8), (11, 8)] {
        let array = RawGguf::new(3, 0, 1).text("a").u32(9).u32(element).u64(5).bytes(&vec![0; 5 * each - 1]);
        check("array", &array, "PastEnd", &["the length of metadata key `a`"]);
    }
}

#[test]
fn limits_can_be_lowered() {
    let scratch = Scratch::new();
    let raw = RawGguf::new(3, 1, 2).pair("a", 8, &RawGguf(vec![]).text("12345").0).pair("b", 0, &[1]);
    let raw = raw.tensor("t", &[1, 1], 0, 0).pad(32).bytes(&[0; 4]);
    let path = scratch.write("a.gguf", &raw.0);
    assert!(open(&path).is_ok());
    let all = Limits::default();
    for (limits, field) in [
        (Limits { header_bytes: 60, ..all.clone() }, "the header's length"),
        (Limits { tensors: 0, ..all.clone() }, "the number of tensors"),
        (Limits { metadata_pairs: 1, ..all.clone() }, "the number of metadata pairs"),
        (Limits { string_bytes: 4, ..all.clone() }, "the length of metadata key `a`"),
        (Limits { dims: 1, ..all.clone() }, "the number of dimensions of tensor `t`"),
    ] {
        refused(field, &path, "Limit", &[field], |p| Gguf::open(p, &limits));
    }
}

#[test]
fn dimensions() {
    let tensor = |dims: &[u64], kind| RawGguf::new(3, 1, 0).tensor("t", dims, kind, 0).pad(32).bytes(&[0; 64]);
    let max = u64::MAX;
    // The product wraps to something small, or to something negative, or its bytes do, or the padded sum does.
    let dims: [&[u64]; 12] = [
        &[max],
        &[1 << 63],
        &[(1 << 63) - 1],
        &[1 << 62],
        &[1 << 32, 1 << 32],
        &[(1 << 32) + 1, 1 << 32],
        &[1 << 31, 1 << 33],
        &[1 << 62, 4],
        &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
        &[max, max, max, max],
        &[1 << 30, 1 << 30],
        &[32, (1 << 59) + 1],
    ];
    for d in dims {
        for (kind, block) in [(0, 1), (1, 1), (8, 32), (2, 32), (14, 256), (27, 1)] {
            let words = &["of tensor `t`"];
            let kinds = if d[0] % block == 0 { "Overflow|PastEnd" } else { "Malformed" };
            check(&format!("{d:?} of type {kind}"), &tensor(d, kind), kinds, words);
        }
    }
    for d in [&[0u64][..], &[0, 1], &[1, 0], &[max, 0], &[1 << 32, 1 << 32, 0]] {
        check(
            &format!("{d:?}"),
            &tensor(d, 0),
            "Malformed",
            &["a dimension of tensor `t`", "is 0, expected at least 1"],
        );
    }
    for (n, kinds) in [(0, "Malformed"), (5, "Limit"), (1 << 31, "Limit"), (u32::MAX, "Limit")] {
        let raw = RawGguf::new(3, 1, 0).text("t").u32(n).bytes(&[1; 64]);
        check(&format!("n_dims {n}"), &raw, kinds, &["the number of dimensions of tensor `t`", &format!("is {n}")]);
    }
    for (kind, row, block) in [(8, 33, "32"), (2, 16, "32"), (3, 1, "32"), (14, 128, "256"), (41, 64, "128")] {
        check("a broken row", &tensor(&[row, 2], kind), "Malformed", &["a row of tensor `t`", &row.to_string(), block]);
    }
    for kind in [4, 5, 31, 33, 36, 38, 42, 1 << 31, u32::MAX] {
        check(
            &format!("type {kind}"),
            &tensor(&[1], kind),
            "Malformed",
            &["the type of tensor `t`", &kind.to_string()],
        );
    }
}

#[test]
fn alignments() {
    let key = "general.alignment";
    let with = |kind, value: &[u8]| RawGguf::new(3, 0, 1).pair(key, kind, value).pad(32).bytes(&[0; 64]);
    for n in [0, 1, 2, 3, 4, 7, 24, 33, 1 << 17, 1 << 31, u32::MAX] {
        let words = [key, &n.to_string(), "expected a power of two from 8 to 65536"];
        check(&format!("alignment {n}"), &with(4, &n.to_le_bytes()), "Malformed", &words);
    }
    let text = RawGguf(vec![]).text("32").0;
    let list = RawGguf(vec![]).u32(4).u64(1).u32(32).0;
    let wrong: [(u32, &[u8], &str); 12] = [
        (0, &[32], "a u8"),
        (1, &[32], "an i8"),
        (2, &[32, 0], "a u16"),
        (3, &[32, 0], "an i16"),
        (5, &[32, 0, 0, 0], "an i32"),
        (6, &32f32.to_le_bytes(), "an f32"),
        (7, &[1], "a bool"),
        (8, &text, "a string"),
        (9, &list, "an array of u32"),
        (10, &32u64.to_le_bytes(), "a u64"),
        (11, &32i64.to_le_bytes(), "an i64"),
        (12, &32f64.to_le_bytes(), "an f64"),
    ];
    for (kind, value, name) in wrong {
        check(name, &with(kind, value), "KeyType", &[key, &format!("is {name}, expected a u32")]);
    }
}

#[test]
fn values() {
    let with = |kind, value: &[u8]| RawGguf::new(3, 0, 1).pair("a.b", kind, value).bytes(&[0; 64]);
    for kind in [13, 14, 255, 1 << 31, u32::MAX] {
        check("type", &with(kind, &[0; 8]), "Malformed", &["the type of metadata key `a.b`", "expected 0 to 12"]);
        let list = RawGguf(vec![]).u32(kind).u64(1).0;
        check("element", &with(9, &list), "Malformed", &["the element type of metadata key `a.b`", "expected 0 to 12"]);
    }
    // A thousand arrays in arrays would be a thousand stack frames.
    let nested = (0..1000).fold(RawGguf(vec![]), |raw, _| raw.u32(9).u64(1));
    check("nested", &with(9, &nested.0), "Malformed", &["metadata key `a.b`", "an array of arrays"]);
    for b in [2, 128, 255] {
        check("bool", &with(7, &[b]), "Malformed", &["metadata key `a.b`", &format!("a bool of {b}, expected 0 or 1")]);
        let list = RawGguf(vec![]).u32(7).u64(3).bytes(&[1, 0, b]).0;
        check("bools", &with(9, &list), "Malformed", &["metadata key `a.b`", &format!("a bool of {b}")]);
    }
    let bad = b"ab\xff";
    let words = |field| [field, "is not UTF-8 at byte 2"];
    check("text", &with(8, &RawGguf(vec![]).text(bad).0), "Malformed", &words("metadata key `a.b`"));
    let list = RawGguf(vec![]).u32(8).u64(2).text("x").text(bad).0;
    check("texts", &with(9, &list), "Malformed", &words("string 1 of metadata key `a.b`"));
    let key = RawGguf::new(3, 0, 1).text(bad).bytes(&[0; 64]);
    check("key", &key, "Malformed", &words("the key of metadata pair 0"));
    let name = RawGguf::new(3, 1, 0).text(bad).bytes(&[0; 64]);
    check("name", &name, "Malformed", &words("the name of tensor 0"));
}

#[test]
fn names() {
    let twice = RawGguf::new(3, 0, 3).pair("a", 0, &[1]).pair("b", 0, &[1]).pair("a", 4, &[1, 0, 0, 0]);
    check("key twice", &twice, "Duplicate", &["metadata key `a` appears twice"]);
    let two_alignments =
        (0..2).fold(RawGguf::new(3, 0, 2), |raw, i| raw.pair("general.alignment", 4, &[32 << i, 0, 0, 0]));
    check("alignment twice", &two_alignments, "Duplicate", &["`general.alignment`"]);
    let twice = RawGguf::new(3, 2, 0).tensor("t", &[1], 0, 0).tensor("t", &[1], 0, 32).bytes(&[0; 128]);
    check("tensor twice", &twice, "Duplicate", &["tensor `t` appears twice"]);
    check("no key", &RawGguf::new(3, 0, 1).pair("", 0, &[1]), "Malformed", &["the key of metadata pair 0", "is empty"]);
    let nameless = RawGguf::new(3, 1, 0).tensor("", &[1], 0, 0).bytes(&[0; 64]);
    check("no name", &nameless, "Malformed", &["the name of tensor 0", "is empty"]);
    // What a terminal obeys is escaped, and a name of a megabyte is not repeated.
    let escape = RawGguf::new(3, 1, 0).tensor("\u{1b}[2J\n", &[0], 0, 0);
    check("escape", &escape, "Malformed", &["\\u{1b}[2J\\n"]);
    let long = RawGguf::new(3, 1, 0).tensor(&"x".repeat(1 << 20), &[0], 0, 0);
    check("long", &long, "Malformed", &["xxx..."]);
}

#[test]
fn places() {
    let one = |offset: u64| RawGguf::new(3, 1, 0).tensor("t", &[8], 0, offset).pad(32).bytes(&[0; 64]);
    for offset in [1, 4, 16, 31, 33, u64::MAX] {
        let words = ["the offset of tensor `t`", &offset.to_string(), "a multiple of the alignment 32"];
        check("unaligned", &one(offset), "Malformed", &words);
    }
    for offset in [64, 96, 1 << 32, 1 << 62, 1 << 63, u64::MAX - 31, u64::MAX - 63, u64::MAX - 127] {
        check(&format!("offset {offset}"), &one(offset), "PastEnd|Overflow", &["of tensor `t`"]);
    }
    let scratch = Scratch::new();
    assert!(open(&scratch.write("good.gguf", &one(32).0)).is_ok());
    // Past the end by one byte.
    let mut short = one(32);
    short.0.pop();
    check("one byte short", &short, "PastEnd", &["the data of tensor `t`"]);
    for (first, second) in [((9, 0), (1, 32)), ((8, 0), (8, 0)), ((1, 32), (16, 0)), ((24, 0), (8, 32))] {
        let raw = RawGguf::new(3, 2, 0).tensor("a", &[first.0], 0, first.1).tensor("b", &[second.0], 0, second.1);
        check("overlap", &raw.pad(32).bytes(&[0; 128]), "Malformed", &["inside of tensor", "`a`", "`b`"]);
    }
}

#[test]
fn other_files() {
    check("magic", &RawGguf(b"GGML\x03\0\0\0".to_vec()), "Malformed", &["the magic", "is `GGML`, expected `GGUF`"]);
    check("binary magic", &RawGguf(vec![0x1b, 0xff, 0, 1, 2, 3]), "Malformed", &["the magic", "\\u{1b}"]);
    check("empty", &RawGguf(Vec::new()), "PastEnd", &["the magic", "0 bytes"]);
    check("version 1", &RawGguf::new(1, 0, 0), "Unsupported", &["GGUF version 1, expected 2 or 3"]);
    check(
        "big-endian",
        &RawGguf::new(3u32.swap_bytes(), 0, 0),
        "Unsupported",
        &["big-endian", "expected little-endian"],
    );
    for version in [0, 4, 1 << 15, u32::MAX] {
        check("version", &RawGguf::new(version, 0, 0), "Unsupported", &[&format!("GGUF version {version}")]);
    }
    let scratch = Scratch::new();
    refused("directory", scratch.dir(), "NotAFile", &["is a directory"], open);
    refused("missing", &scratch.path("none.gguf"), "Read", &["cannot be read"], open);
}

#[test]
fn truncated_at_every_length() {
    let scratch = Scratch::new();
    let list = RawGguf(vec![]).u32(8).u64(2).text("ab").text("").0;
    let raw = RawGguf::new(3, 2, 4)
        .pair("s", 8, &RawGguf(vec![]).text("text").0)
        .pair("l", 9, &list)
        .pair("f", 12, &1f64.to_le_bytes())
        .pair("general.alignment", 4, &64u32.to_le_bytes())
        .tensor("a", &[32, 1], 8, 0)
        .tensor("b", &[3], 0, 64)
        .pad(64)
        .bytes(&[0; 64])
        .bytes(&[0; 12]);
    assert!(open(&scratch.write("whole.gguf", &raw.0)).is_ok());
    for len in 0..raw.0.len() {
        let path = scratch.write("cut.gguf", &raw.0[..len]);
        refused(&format!("cut to {len}"), &path, "PastEnd", &["cut.gguf", &format!("the file has {len} bytes")], open);
    }
    // Bytes after the end are nobody's, and no tensor's.
    let gguf = open(&scratch.write("long.gguf", &raw.bytes(&[0xee; 100]).0)).unwrap();
    assert_eq!(gguf.read_f32("b").unwrap(), [0.0; 3]);
}

#[test]
fn a_file_that_is_cut_while_it_is_open() {
    let scratch = Scratch::new();
    let raw = RawGguf::new(3, 1, 0).tensor("t", &[8192], 0, 0).pad(32).bytes(&[0; 32768]);
    let path = scratch.write("a.gguf", &raw.0);
    let gguf = open(&path).unwrap();
    assert_eq!(gguf.read_f32("t").unwrap().len(), 8192);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    for error in [gguf.read_f32("t").map(|_| ()).unwrap_err(), gguf.bytes("t").map(|_| ()).unwrap_err()] {
        assert_eq!(kind(&error), "Changed", "{error}");
    }
}
