//! Safetensors files that lie: every one is an error that names file and field, at once.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{Scratch, kind, refused, safetensors};
use paring_checkpoint::{Limits, SafetensorsFile, TensorSource};

#[track_caller]
fn check(case: &str, bytes: &[u8], kinds: &str, words: &[&str]) {
    let scratch = Scratch::new();
    refused(case, &scratch.write("evil.safetensors", bytes), kinds, words, SafetensorsFile::open);
}

/// Two tensors of eight bytes each, in the order `b`, `a`.
const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}"#;

fn good() -> Vec<u8> {
    let data: Vec<u8> = (0..16).collect();
    safetensors(GOOD, &data)
}

#[test]
fn tensors_may_be_named_in_any_order() {
    let scratch = Scratch::new();
    let file = SafetensorsFile::open(&scratch.write("a.safetensors", &good())).unwrap();
    assert_eq!(file.bytes("a").unwrap(), [8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(file.bytes("b").unwrap(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn truncated_at_every_length() {
    let whole = good();
    let scratch = Scratch::new();
    for len in 0..whole.len() {
        let path = scratch.write("cut.safetensors", &whole[..len]);
        refused(
            &format!("cut to {len}"),
            &path,
            "PastEnd",
            &[&format!("the file has {len} bytes")],
            SafetensorsFile::open,
        );
    }
    let long = [whole.as_slice(), &[0xee; 3]].concat();
    check("appended bytes", &long, "Malformed", &["3 bytes after the last tensor belong to none"]);
}

#[test]
fn the_length_of_the_header() {
    for len in [1u64 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX - 8, u64::MAX, 100_000_001] {
        let bytes = [&len.to_le_bytes(), GOOD.as_bytes()].concat();
        check("huge", &bytes, "Limit", &["the header's length", &len.to_string(), "100000000"]);
    }
    let in_file = GOOD.len() as u64;
    check("beyond", &[&(in_file + 1).to_le_bytes(), GOOD.as_bytes()].concat(), "PastEnd", &["the header"]);
    for len in [in_file - 1, 1] {
        check("short", &[&len.to_le_bytes(), GOOD.as_bytes()].concat(), "Malformed", &["JSON"]);
    }
    check("empty", &[&0u64.to_le_bytes(), GOOD.as_bytes()].concat(), "Malformed", &["does not start with `{`"]);
}

#[test]
fn headers_that_are_no_headers() {
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
    let many_dims = format!(r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(1_000_000));
    let cases: [(&str, &str, &str, &[&str]); 15] = [
        ("list", "[]", "Malformed", &["does not start with `{`"]),
        ("space first", " {}", "Malformed", &["does not start with `{`"]),
        ("cut", r#"{"a":"#, "Malformed", &["JSON"]),
        ("two", "{}{}", "Malformed", &["JSON", "trailing"]),
        ("number", r#"{"a":1}"#, "Malformed", &["tensor `a`"]),
        ("deep", &deep, "Limit", &["the depth of JSON", "64"]),
        ("many dimensions", &many_dims, "Malformed", &["tensor `a`", "more than 64 dimensions"]),
        ("metadata number", r#"{"__metadata__":{"a":1}}"#, "Malformed", &["JSON", "string"]),
        ("metadata list", r#"{"__metadata__":[]}"#, "Malformed", &["JSON"]),
        ("metadata twice", r#"{"__metadata__":{},"__metadata__":{}}"#, "Duplicate", &["`__metadata__` appears twice"]),
        ("metadata key twice", r#"{"__metadata__":{"a":"1","a":"2"}}"#, "Duplicate", &["`a` appears twice"]),
        ("no dtype", r#"{"a":{"shape":[],"data_offsets":[0,4]}}"#, "Malformed", &["tensor `a`", "dtype"]),
        ("no shape", r#"{"a":{"dtype":"F32","data_offsets":[0,4]}}"#, "Malformed", &["tensor `a`", "shape"]),
        ("no offsets", r#"{"a":{"dtype":"F32","shape":[]}}"#, "Malformed", &["tensor `a`", "data_offsets"]),
        ("escape", "{\"\\u001b[2J\":1}", "Malformed", &["\\u{1b}[2J"]),
    ];
    for (case, header, kinds, words) in cases {
        check(case, &safetensors(header, &[0; 4]), kinds, words);
    }
    check("not UTF-8", &[&2u64.to_le_bytes(), b"{\xff".as_slice()].concat(), "Malformed", &["is not UTF-8 at byte 9"]);
}

#[test]
fn one_tensor_that_lies() {
    // dtype, shape, offsets, errors, words; the file has four bytes of data.
    let cases: [(&str, &str, &str, &str, &str); 26] = [
        ("F31", "[1]", "[0,4]", "Malformed", "the dtype of tensor `t`: `F31` is unknown"),
        ("f32", "[1]", "[0,4]", "Malformed", "`f32` is unknown"),
        ("BF16", "[1]", "[0,4]", "Malformed", "cover 4 bytes, but shape and dtype need 16 bits"),
        ("F64", "[1]", "[0,4]", "Malformed", "need 64 bits"),
        ("F32", "[2]", "[0,4]", "Malformed", "need 64 bits"),
        ("F32", "[0]", "[0,4]", "Malformed", "need 0 bits"),
        ("F4", "[1]", "[0,0]", "Malformed", "need 4 bits"),
        ("F32", "[-1]", "[0,4]", "Malformed", "tensor `t`"),
        ("F32", "[1.0]", "[0,4]", "Malformed", "tensor `t`"),
        ("F32", "[\"1\"]", "[0,4]", "Malformed", "tensor `t`"),
        ("F32", "1", "[0,4]", "Malformed", "tensor `t`"),
        ("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]", "Limit", "the number of dimensions of tensor `t` is 9"),
        ("F32", "[4294967296,4294967296]", "[0,4]", "Overflow", "the shape of tensor `t`"),
        ("F32", "[4294967296,4294967296,0]", "[0,0]", "Overflow", "the shape of tensor `t`"),
        ("F32", "[18446744073709551615]", "[0,4]", "Overflow", "the size of tensor `t`"),
        ("F32", "[4611686018427387905]", "[0,4]", "Overflow", "the size of tensor `t`"),
        ("F32", "[18446744073709551616]", "[0,4]", "Malformed", "tensor `t`"),
        ("F32", "[1]", "[4,0]", "Malformed", "end at 0, before they begin at 4"),
        ("F32", "[1]", "[4,8]", "PastEnd", "the data of tensor `t`"),
        ("F32", "[2]", "[0,8]", "PastEnd", "the data of tensor `t`"),
        ("F32", "[1]", "[18446744073709551611,18446744073709551615]", "Overflow", "data_offsets of tensor `t`"),
        ("F32", "[1]", "[1,5]", "PastEnd", "the data of tensor `t`"),
        ("U8", "[3]", "[1,4]", "Malformed", "leaves a hole before it"),
        ("U8", "[3]", "[0,3]", "Malformed", "1 bytes after the last tensor"),
        ("F32", "[1]", "[0]", "Malformed", "tensor `t`"),
        ("F32", "[1]", "[0,4,8]", "Malformed", "tensor `t`"),
    ];
    for (dtype, shape, offsets, kinds, word) in cases {
        let header = format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        check(&header, &safetensors(&header, &[0; 4]), kinds, &[word]);
    }
}

#[test]
fn two_tensors_that_lie() {
    let two = |a: &str, first: [u64; 2], b: &str, second: [u64; 2]| {
        let tensor = |[begin, end]: [u64; 2]| {
            format!(r#"{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#, end - begin)
        };
        safetensors(&format!(r#"{{"{a}":{},"{b}":{}}}"#, tensor(first), tensor(second)), &[0; 8])
    };
    check("overlap", &two("a", [0, 5], "b", [4, 8]), "Malformed", &["tensor `b`", "overlaps the tensor before it"]);
    check("same place", &two("a", [0, 8], "b", [0, 8]), "Malformed", &["overlaps"]);
    check("inside", &two("a", [0, 8], "b", [2, 4]), "Malformed", &["tensor `b`", "overlaps"]);
    check("hole", &two("a", [5, 8], "b", [0, 4]), "Malformed", &["tensor `a`", "leaves a hole before it"]);
    check("name twice", &two("a", [0, 4], "a", [4, 8]), "Duplicate", &["tensor `a` appears twice"]);
    check("name twice, escaped", &two("a", [0, 4], "\\u0061", [4, 8]), "Duplicate", &["tensor `a` appears twice"]);
    let twice = r#"{"a":{"dtype":"F32","dtype":"U8","shape":[1],"data_offsets":[0,4]}}"#;
    check("field twice", &safetensors(twice, &[0; 4]), "Malformed", &["tensor `a`", "duplicate field `dtype`"]);
}

#[test]
fn limits_can_be_lowered() {
    let scratch = Scratch::new();
    let path = scratch.write("a.safetensors", &good());
    let all = Limits::default();
    for (limits, kinds, field) in [
        (Limits { header_bytes: 100, ..all.clone() }, "Limit", "the header's length"),
        (Limits { tensors: 1, ..all.clone() }, "Limit", "the number of tensors is 2, above the limit of 1"),
        (
            Limits { metadata_pairs: 0, ..all.clone() },
            "Limit",
            "the number of metadata pairs is 1, above the limit of 0",
        ),
        (Limits { dims: 1, ..all.clone() }, "Limit", "the number of dimensions of tensor `b`"),
        (Limits { json_depth: 2, ..all.clone() }, "Limit", "the depth of JSON"),
        (Limits { string_bytes: 0, ..all.clone() }, "Limit", "the name's length"),
    ] {
        refused(field, &path, kinds, &[field], |p| SafetensorsFile::open_with(p, &limits));
    }
}

#[test]
fn twenty_thousand_tensors_are_read_and_one_too_many_is_not() {
    let header = |n: usize| {
        let tensor = |i: usize| format!(r#""t{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1);
        format!("{{{}}}", (0..n).map(tensor).collect::<Vec<_>>().join(","))
    };
    let scratch = Scratch::new();
    let path = scratch.write("many.safetensors", &safetensors(&header(20_000), &vec![7; 20_000]));
    assert_eq!(SafetensorsFile::open(&path).unwrap().names().len(), 20_000);
    let limits = Limits { tensors: 19_999, ..Limits::default() };
    refused("one too many", &path, "Limit", &["the number of tensors is 20000"], |p| {
        SafetensorsFile::open_with(p, &limits)
    });
}

#[test]
fn a_file_that_is_cut_while_it_is_open() {
    let scratch = Scratch::new();
    let path = scratch.write("a.safetensors", &good());
    let file = SafetensorsFile::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(20).unwrap();
    for error in [file.read_f32("a").map(|_| ()).unwrap_err(), file.bytes("b").map(|_| ()).unwrap_err()] {
        assert_eq!(kind(&error), "Changed", "{error}");
    }
}
