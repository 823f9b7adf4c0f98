//! GGUF: what is written is read again, and the getters take what they say and nothing else.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{RawGguf, Scratch, refused};
use half::{bf16, f16};
use paring_checkpoint::{
    Error, Gguf, Limits, StorageType, TensorSource, TensorSpec,
    gguf::{GgufWriter, Value},
};
use paring_tensor::{DType, HostBuffer};
use std::path::Path;

fn open(path: &Path) -> paring_checkpoint::Result<Gguf> {
    Gguf::open(path, &Limits::default())
}

/// A file with these metadata and tensors, every tensor from the same values.
fn written(metadata: &[(&str, Value)], specs: &[TensorSpec], values: &[f32]) -> Vec<u8> {
    let mut writer = GgufWriter::new(Vec::new(), Path::new("out.gguf"), metadata, specs).unwrap();
    for spec in specs {
        writer.values(&spec.name, &values[..spec.shape.iter().product()]).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn tensors_come_back_with_the_values_of_their_type() {
    let scratch = Scratch::new();
    // Not on any grid, so that every type rounds differently.
    let values: Vec<f32> = (0..192).map(|i| (i as f32 * 0.37).sin()).collect();
    let kinds = [
        StorageType::F32,
        StorageType::F16,
        StorageType::BF16,
        StorageType::Q8_0,
        StorageType::Q4_0,
        StorageType::Q4_1,
    ];
    for alignment in [8u32, 32, 4096] {
        let specs: Vec<_> = kinds.iter().map(|&k| TensorSpec::new(k.name(), k, [3, 64])).collect();
        let bytes = written(&[("general.alignment", alignment.into())], &specs, &values);
        let gguf = open(&scratch.write("a.gguf", &bytes)).unwrap();
        assert_eq!(gguf.names(), ["BF16", "F16", "F32", "Q4_0", "Q4_1", "Q8_0"]);
        assert_eq!(bytes.len() % alignment as usize, 0);
        for kind in kinds {
            let info = gguf.info(kind.name()).unwrap();
            let (block, block_bytes) = kind.block().unwrap();
            assert_eq!((info.shape.as_slice(), info.storage), ([3, 64].as_slice(), kind));
            assert_eq!(info.bytes as usize, 192 / block * block_bytes);
            assert_eq!(gguf.bytes(kind.name()).unwrap().len() as u64, info.bytes);
            let got = gguf.read_f32(kind.name()).unwrap();
            let (want, tolerance): (Vec<f32>, f32) = match kind {
                StorageType::F16 => (values.iter().map(|&v| f16::from_f32(v).to_f32()).collect(), 0.0),
                StorageType::BF16 => (values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect(), 0.0),
                // Half a level, and for Q8_0 what 127 levels lose by a scale of 11 bits; in Q4_0 the far end is cut by a whole level.
                StorageType::Q8_0 => (values.clone(), (0.5 + 127.0 / 2048.0) / 127.0),
                StorageType::Q4_0 => (values.clone(), 1.01 / 8.0),
                StorageType::Q4_1 => (values.clone(), 1.01 / 15.0),
                _ => (values.clone(), 0.0),
            };
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(got.len() == 192 && worst <= tolerance, "{kind}: off by {worst}");
        }
        // The copy without a detour, and the rounding.
        let tensor = gguf.read_tensor("BF16", DType::BF16).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape().dims()), (DType::BF16, [3, 64].as_slice()));
        assert_eq!(HostBuffer::to_f32(&tensor).unwrap(), gguf.read_f32("BF16").unwrap());
        let tensor = gguf.read_tensor_checked("Q4_1", DType::F32).unwrap();
        assert_eq!(HostBuffer::to_f32(&tensor).unwrap(), gguf.read_f32("Q4_1").unwrap());
    }
}

#[test]
fn dimensions_are_turned_round() {
    let scratch = Scratch::new();
    // Innermost first in the file: two rows of three.
    let data: Vec<u8> = (0..6u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    for version in [2, 3] {
        let raw = RawGguf::new(version, 1, 0).tensor("t", &[3, 2, 1], 0, 0).pad(32).bytes(&data);
        let gguf = open(&scratch.write("a.gguf", &raw.0)).unwrap();
        assert_eq!((gguf.version(), gguf.info("t").unwrap().shape), (version, vec![1, 2, 3]));
        assert_eq!(gguf.read_f32("t").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }
}

#[test]
fn tensors_may_lie_in_any_order_and_with_gaps() {
    let scratch = Scratch::new();
    let raw = RawGguf::new(3, 2, 0).tensor("a", &[1], 0, 96).tensor("b", &[1], 28, 0).pad(32);
    let start = raw.0.len();
    let raw = raw.bytes(&0.1f64.to_le_bytes()).pad(32).bytes(&[0xff; 64]).bytes(&2f32.to_le_bytes());
    assert_eq!(raw.0.len(), start + 96 + 4);
    let gguf = open(&scratch.write("a.gguf", &raw.0)).unwrap();
    assert_eq!((gguf.read_f32("a").unwrap(), gguf.read_f32("b").unwrap()), (vec![2.0], vec![0.1]));
}

#[test]
fn other_types_are_named_and_not_read() {
    let scratch = Scratch::new();
    for (id, name, block, bytes) in
        [(14, "Q6_K", 256, 210), (10, "Q2_K", 256, 84), (39, "MXFP4", 32, 17), (24, "I8", 1, 1)]
    {
        let raw = RawGguf::new(3, 1, 0).tensor("t", &[block, 2], id, 0).pad(32).bytes(&vec![7; 2 * bytes]);
        let path = scratch.write("a.gguf", &raw.0);
        let gguf = open(&path).unwrap();
        let info = gguf.info("t").unwrap();
        assert_eq!((info.storage, info.bytes), (StorageType::Other(name), 2 * bytes as u64));
        assert_eq!(gguf.bytes("t").unwrap(), vec![7; 2 * bytes]);
        refused(name, &path, "Storage", &["tensor `t`", name, "Q8_0, Q4_0 or Q4_1"], |_| gguf.read_f32("t"));
        // One byte less, and the size is known well enough to see it.
        let short = scratch.write("b.gguf", &raw.0[..raw.0.len() - 1]);
        refused(name, &short, "PastEnd", &["the data of tensor `t`"], open);
    }
}

/// What each getter makes of a value, as text.
type Getter = (&'static str, fn(&Gguf, &str) -> paring_checkpoint::Result<String>);
const GETTERS: [Getter; 8] = [
    ("str", |g, k| g.get_str(k).map(|v| format!("{v:?}"))),
    ("u32", |g, k| g.get_u32(k).map(|v| format!("{v:?}"))),
    ("f32", |g, k| g.get_f32(k).map(|v| format!("{v:?}"))),
    ("bool", |g, k| g.get_bool(k).map(|v| format!("{v:?}"))),
    ("strs", |g, k| g.get_str_array(k).map(|v| format!("{v:?}"))),
    ("i32s", |g, k| g.get_i32_array(k).map(|v| format!("{v:?}"))),
    ("u32s", |g, k| g.get_u32_array(k).map(|v| format!("{v:?}"))),
    ("f32s", |g, k| g.get_f32_array(k).map(|v| format!("{v:?}"))),
];

#[test]
fn every_type_against_every_getter() {
    // The value, and what which getters make of it; the others say no.
    let cases: Vec<(Value, &str, &[&str])> = vec![
        (200u8.into(), "200", &["u32"]),
        (5i8.into(), "5", &["u32"]),
        ((-5i8).into(), "", &[]),
        (60_000u16.into(), "60000", &["u32"]),
        (300i16.into(), "300", &["u32"]),
        (u32::MAX.into(), "4294967295", &["u32"]),
        (7i32.into(), "7", &["u32"]),
        (i32::MIN.into(), "", &[]),
        (1.5f32.into(), "1.5", &["f32"]),
        (f32::NAN.into(), "NaN", &["f32"]),
        (true.into(), "true", &["bool"]),
        ("gpt2".into(), "\"gpt2\"", &["str"]),
        (9u64.into(), "9", &["u32"]),
        ((1u64 << 32).into(), "", &[]),
        (u64::MAX.into(), "", &[]),
        (9i64.into(), "9", &["u32"]),
        (i64::MIN.into(), "", &[]),
        (0.1f64.into(), "0.1", &["f32"]),
        (vec![1u8, 255].into(), "[1, 255]", &["i32s", "u32s"]),
        (vec![1i8, 2].into(), "[1, 2]", &["i32s", "u32s"]),
        (vec![-1i8].into(), "[-1]", &["i32s"]),
        (vec![1u16].into(), "[1]", &["i32s", "u32s"]),
        (vec![-300i16].into(), "[-300]", &["i32s"]),
        (vec![3u32].into(), "[3]", &["i32s", "u32s"]),
        (vec![u32::MAX].into(), "[4294967295]", &["u32s"]),
        (vec![-3i32].into(), "[-3]", &["i32s"]),
        (vec![-1.5f32].into(), "[-1.5]", &["f32s"]),
        (vec![true, false].into(), "", &[]),
        (vec!["a", "", "é"].into(), "[\"a\", \"\", \"é\"]", &["strs"]),
        (vec![4u64].into(), "[4]", &["i32s", "u32s"]),
        (vec![1u64 << 40].into(), "", &[]),
        (vec![-4i64].into(), "[-4]", &["i32s"]),
        (vec![0.1f64].into(), "[0.1]", &["f32s"]),
        (Vec::<u32>::new().into(), "[]", &["i32s", "u32s"]),
        (Vec::<&str>::new().into(), "[]", &["strs"]),
    ];
    let scratch = Scratch::new();
    let keys: Vec<String> = (0..cases.len()).map(|i| format!("x.key{i}")).collect();
    let metadata: Vec<(&str, Value)> = keys.iter().zip(&cases).map(|(k, c)| (k.as_str(), c.0.clone())).collect();
    let path = scratch.write("meta.gguf", &written(&metadata, &[], &[]));
    let gguf = open(&path).unwrap();
    assert_eq!(gguf.metadata().len(), cases.len());
    for (key, (value, want, takers)) in keys.iter().zip(&cases) {
        // `NaN != NaN`, so the text is compared.
        assert_eq!(format!("{:?}", gguf.get(key)), format!("{:?}", Some(value)));
        for (getter, get) in GETTERS {
            let case = format!("{getter} of {value:?}");
            if takers.contains(&getter) {
                assert_eq!(get(&gguf, key).unwrap(), *want, "{case}");
            } else {
                refused(&case, &path, "KeyType", &[key, "expected a"], |_| get(&gguf, key));
            }
        }
    }
    for (getter, get) in GETTERS {
        refused(getter, &path, "MissingKey", &["x.none", "expected a"], |_| get(&gguf, "x.none"));
    }
    assert!(gguf.contains_key("x.key0") && !gguf.contains_key("x.none"));
    let message = gguf.get_u32("x.key11").unwrap_err().to_string();
    assert!(message.contains("`x.key11` is a string, expected an integer from 0 to 4294967295"), "{message}");
    let message = gguf.get_u32_array("x.key30").unwrap_err().to_string();
    assert!(message.contains("is an array that holds 1099511627776, expected"), "{message}");
}

#[test]
fn values_print_as_one_line_that_no_terminal_obeys() {
    let shown = |v: Value| v.to_string();
    assert_eq!(shown("a\u{1b}[2J\n".into()), "a\\u{1b}[2J\\n");
    assert_eq!(shown(vec!["a", "b"].into()), "an array of strings of length 2");
    assert_eq!(shown(1e-5f32.into()), "0.00001");
    assert_eq!(shown(false.into()), "false");
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let path = Path::new("out.gguf");
    let spec = |name: &str, storage, shape: &[usize]| TensorSpec::new(name, storage, shape);
    type Case<'a> = (&'a str, Vec<(&'a str, Value)>, Vec<TensorSpec>, &'a str);
    let f32s = StorageType::F32;
    let cases: Vec<Case<'_>> = vec![
        ("key twice", vec![("a", 1u8.into()), ("a", 2u8.into())], vec![], "is announced twice"),
        ("no key", vec![("", 1u8.into())], vec![], "empty name"),
        ("alignment 3", vec![("general.alignment", 3u32.into())], vec![], "3 is no alignment"),
        ("alignment type", vec![("general.alignment", 32u64.into())], vec![], "32 is no alignment"),
        ("tensor twice", vec![], vec![spec("t", f32s, &[1]), spec("t", f32s, &[1])], "is announced twice"),
        ("no name", vec![], vec![spec("", f32s, &[1])], "empty name"),
        ("no dims", vec![], vec![spec("t", f32s, &[])], "expected 1 to 4 dimensions"),
        ("5 dims", vec![], vec![spec("t", f32s, &[1; 5])], "expected 1 to 4 dimensions"),
        ("zero", vec![], vec![spec("t", f32s, &[2, 0])], "none 0"),
        (
            "half a block",
            vec![],
            vec![spec("t", StorageType::Q8_0, &[2, 48])],
            "rows of 48 elements, expected a multiple of 32",
        ),
        ("no ggml type", vec![], vec![spec("t", StorageType::U8, &[2])], "U8 is no type of ggml"),
        ("no type", vec![], vec![spec("t", StorageType::Other("BOOL"), &[2])], "BOOL is no type of ggml"),
    ];
    for (case, metadata, specs, want) in cases {
        let error = GgufWriter::new(Vec::new(), path, &metadata, &specs).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Announced { .. }) && error.to_string().contains(want), "{case}: {error}");
    }
    let huge = [spec("t", f32s, &[usize::MAX, 2])];
    assert!(matches!(GgufWriter::new(Vec::new(), path, &[], &huge), Err(Error::Overflow { .. })));
}

#[test]
fn the_writer_holds_its_caller_to_what_was_announced() {
    let specs = [
        TensorSpec::new("a", StorageType::F16, [4]),
        TensorSpec::new("b", StorageType::Q8_0, [32]),
        TensorSpec::new("c", StorageType::I32, [1]),
    ];
    let writer = || GgufWriter::new(Vec::new(), Path::new("out.gguf"), &[], &specs).unwrap();
    let announced = |result: paring_checkpoint::Result<()>, want: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Announced { .. }) && error.to_string().contains(want), "{error}");
    };
    let mut w = writer();
    announced(w.values("b", &[0.0; 32]), "`a` is next");
    announced(w.values("a", &[0.0; 3]), "has 3 values, but 4 were announced");
    announced(w.bytes("a", &[0; 9]), "has 9 bytes, but 8 were announced");
    for (bad, index) in [([0.0, 0.0, f32::NAN, 0.0], 2), ([0.0, f32::INFINITY, 0.0, 0.0], 1), ([0.0, 0.0, 0.0, 1e6], 3)]
    {
        match w.values("a", &bad) {
            Err(Error::NonFinite { index: got, .. }) => assert_eq!(got, index),
            other => panic!("{bad:?} gave {other:?}"),
        }
    }
    w.values("a", &[1.0; 4]).unwrap();
    let mut x = [0.0f32; 32];
    // The NaN is rounded to 0, and the scale of 1e8 is no f16: neither may go unseen.
    for bad in [f32::NAN, f32::NEG_INFINITY, 1e8] {
        x[5] = bad;
        assert!(matches!(w.values("b", &x), Err(Error::NonFinite { .. })), "{bad}");
    }
    w.bytes("b", &[0; 34]).unwrap();
    announced(w.values("c", &[1.0]), "not rounded to I32");
    announced(writer().finish().map(|_| ()), "was announced but not written");
    w.bytes("c", &7i32.to_le_bytes()).unwrap();
    announced(w.values("d", &[]), "are written");
    let scratch = Scratch::new();
    let gguf = open(&scratch.write("a.gguf", &w.finish().unwrap())).unwrap();
    assert_eq!(gguf.read_f32("a").unwrap(), [1.0; 4]);
    assert_eq!(gguf.bytes("c").unwrap(), 7i32.to_le_bytes());
    assert!(matches!(gguf.read_f32("c"), Err(Error::Storage { .. })));
}
