//! Safetensors: what is written is read again, in one file and in shards.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{Scratch, kind, refused, safetensors};
use half::{bf16, f16};
use paring_checkpoint::{
    DirWriter, Error, Limits, ModelWriter, Overwrite, SafetensorsDir, SafetensorsFile, SafetensorsWriter, StorageType,
    TensorSource, TensorSpec, safetensors::DEFAULT_SHARD_BYTES,
};
use paring_tensor::{DType, HostBuffer, Tensor};
use std::{collections::BTreeMap, path::Path};

/// Values that every type rounds differently.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37 + 0.1).sin()).collect()
}

fn tensor(dtype: DType, shape: &[usize]) -> Tensor {
    HostBuffer::tensor_from_f32(&values(shape.iter().product()), dtype, shape).unwrap()
}

fn rounded(dtype: DType, values: &[f32]) -> Vec<f32> {
    let round = |&v: &f32| match dtype {
        DType::F32 => v,
        DType::BF16 => bf16::from_f32(v).to_f32(),
        _ => f16::from_f32(v).to_f32(),
    };
    values.iter().map(round).collect()
}

/// Names, types and shapes of a small model; a vector, a matrix, a scalar and an empty tensor among them.
fn tensors() -> Vec<(&'static str, Tensor)> {
    vec![
        ("model.embed", tensor(DType::BF16, &[5, 3])),
        ("model.a", tensor(DType::F32, &[7])),
        ("model.b", tensor(DType::F16, &[2, 3, 2])),
        ("model.scalar", tensor(DType::F32, &[])),
        ("model.empty", tensor(DType::BF16, &[0, 4])),
        ("model.z", tensor(DType::BF16, &[1, 1])),
    ]
}

fn write_model(target: &Path, overwrite: Overwrite, shard_bytes: u64) {
    let tensors = tensors();
    let specs = tensors.iter().map(|(name, t)| TensorSpec::new(*name, t.dtype(), t.shape().dims())).collect();
    let mut dir = DirWriter::create(target, overwrite).unwrap();
    dir.write_bytes("config.json", b"{}").unwrap();
    let metadata = BTreeMap::from([("made_by".to_string(), "a test".to_string())]);
    let mut model = ModelWriter::new(&mut dir, specs, metadata, shard_bytes).unwrap();
    for (name, t) in &tensors {
        model.tensor(name, t).unwrap();
    }
    model.finish().unwrap();
    dir.commit().unwrap();
}

#[test]
fn models_come_back_from_any_number_of_shards() {
    for (shard_bytes, files) in [(DEFAULT_SHARD_BYTES, 1), (60, 2), (40, 3), (1, 6)] {
        let scratch = Scratch::new();
        let target = scratch.path("model");
        write_model(&target, Overwrite::Refuse, shard_bytes);
        let dir = SafetensorsDir::open(&target, &Limits::default()).unwrap();
        assert_eq!(dir.files().len(), files, "shards of {shard_bytes}");
        assert_eq!(target.join("model.safetensors.index.json").exists(), files != 1);
        let names = ["model.a", "model.b", "model.embed", "model.empty", "model.scalar", "model.z"];
        assert_eq!(dir.names(), names);
        for (name, want) in tensors() {
            let info = dir.info(name).unwrap();
            assert_eq!((info.shape.as_slice(), info.storage), (want.shape().dims(), want.dtype().into()), "{name}");
            assert_eq!(dir.bytes(name).unwrap(), HostBuffer::tensor_bytes(&want).unwrap());
            let exact = values(want.shape().dims().iter().product());
            assert_eq!(dir.read_f32(name).unwrap(), rounded(want.dtype(), &exact));
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let got = dir.read_tensor_checked(name, dtype).unwrap();
                assert_eq!((got.dtype(), got.shape().dims()), (dtype, want.shape().dims()));
                let twice = rounded(dtype, &rounded(want.dtype(), &exact));
                assert_eq!(HostBuffer::to_f32(&got).unwrap(), twice, "{name} as {dtype:?}");
            }
        }
        for file in dir.files() {
            assert_eq!(file.metadata()["made_by"], "a test");
            assert_eq!(file.metadata()["format"], "pt");
            // A reader that maps the file gets aligned data.
            let bytes = std::fs::read(file.path()).unwrap();
            assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0);
        }
        refused("no such tensor", &target, "MissingTensor", &["`model.c`"], |_| dir.read_f32("model.c"));
    }
}

#[test]
fn the_index_says_what_is_where() {
    let scratch = Scratch::new();
    let target = scratch.path("model");
    write_model(&target, Overwrite::Refuse, 60);
    let index = paring_checkpoint::read_json(&target.join("model.safetensors.index.json"), &Limits::default()).unwrap();
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let weight_map = serde_json::json!({
        "model.embed": first, "model.a": first, "model.b": second, "model.scalar": second, "model.empty": second,
        "model.z": second,
    });
    // 5*3 bf16, 7 f32, 12 f16, one f32, nothing, one bf16.
    assert_eq!(index, serde_json::json!({"metadata": {"total_size": 30 + 28 + 24 + 4 + 2}, "weight_map": weight_map}));
}

#[test]
fn a_model_without_tensors_is_a_model() {
    let scratch = Scratch::new();
    let mut dir = DirWriter::create(&scratch.path("m"), Overwrite::Refuse).unwrap();
    ModelWriter::new(&mut dir, vec![], BTreeMap::new(), 1).unwrap().finish().unwrap();
    dir.commit().unwrap();
    assert!(SafetensorsDir::open(&scratch.path("m"), &Limits::default()).unwrap().names().is_empty());
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let scratch = Scratch::new();
    let read = |name: &str| {
        write_model(&scratch.path(name), Overwrite::Refuse, 40);
        let mut files: Vec<_> = std::fs::read_dir(scratch.path(name)).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files.iter().map(|f| (f.file_name().unwrap().to_owned(), std::fs::read(f).unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(read("one"), read("two"));
}

#[test]
fn integers_doubles_and_types_that_are_not_read() {
    let scratch = Scratch::new();
    let header = r#"{"b":{"dtype":"BOOL","shape":[2],"data_offsets":[20,22]},"d":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},
        "i":{"dtype":"I32","shape":[2],"data_offsets":[8,16]},"u":{"dtype":"U8","shape":[2,2],"data_offsets":[16,20]},
        "l":{"dtype":"I64","shape":[1],"data_offsets":[22,30]}}"#;
    let mut data = 0.1f64.to_le_bytes().to_vec();
    data.extend([(-3i32).to_le_bytes(), 7i32.to_le_bytes()].concat());
    data.extend([1, 2, 3, 255, 0, 1]);
    data.extend(i64::MIN.to_le_bytes());
    let path = scratch.write("a.safetensors", &safetensors(header, &data));
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.read_f32("d").unwrap(), [0.1f32]);
    assert_eq!(file.read_i64("i").unwrap(), [-3, 7]);
    assert_eq!(file.read_i64("u").unwrap(), [1, 2, 3, 255]);
    assert_eq!(file.read_i64("l").unwrap(), [i64::MIN]);
    assert_eq!(file.info("b").unwrap().storage, StorageType::Other("BOOL"));
    refused("ints", &path, "Storage", &["tensor `i`", "I32", "expected F32, BF16, F16 or F64"], |_| file.read_f32("i"));
    refused("bools", &path, "Storage", &["tensor `b`", "BOOL"], |_| file.read_f32("b"));
    refused("bools", &path, "Storage", &["tensor `b`", "expected I64, I32 or U8"], |_| file.read_i64("b"));
    refused("doubles", &path, "Storage", &["tensor `d`", "F64"], |_| file.read_i64("d"));
}

#[test]
fn weights_that_are_no_numbers_are_found_when_asked_for() {
    let scratch = Scratch::new();
    for (bad, index) in [(f32::NAN, 2), (f32::INFINITY, 0), (f32::NEG_INFINITY, 3)] {
        let mut values = [1.0f32; 4];
        values[index] = bad;
        let header = r#"{"t":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let path = scratch.write("a.safetensors", &safetensors(header, &data));
        let file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(file.read_f32("t").unwrap().len(), 4);
        let words = ["tensor `t`", &format!("holds {bad} at index {index}")];
        refused("values", &path, "NonFinite", &words, |_| file.read_checked("t"));
        refused("tensor", &path, "NonFinite", &words, |_| file.read_tensor_checked("t", DType::F32));
    }
    // Finite in the file, not in the type asked for.
    let data = 1e6f32.to_le_bytes();
    let path =
        scratch.write("a.safetensors", &safetensors(r#"{"t":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#, &data));
    let file = SafetensorsFile::open(&path).unwrap();
    assert_eq!(file.read_checked("t").unwrap(), [1e6]);
    refused("f16", &path, "NonFinite", &["holds inf at index 0"], |_| file.read_tensor_checked("t", DType::F16));
}

#[test]
fn the_writers_hold_their_caller_to_what_was_announced() {
    let path = Path::new("out.safetensors");
    let none = BTreeMap::new();
    let announced = |result: paring_checkpoint::Result<()>, want: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Announced { .. }) && error.to_string().contains(want), "{error}");
    };
    let new = |specs: &[TensorSpec]| SafetensorsWriter::new(Vec::new(), path, specs, &none);
    let (a, b) = (TensorSpec::new("a", DType::F32, [2]), TensorSpec::new("b", DType::BF16, [1]));
    announced(new(&[a.clone(), a.clone()]).map(|_| ()), "announced twice");
    announced(new(&[TensorSpec::new("__metadata__", DType::F32, [1])]).map(|_| ()), "reserved");
    announced(new(&[TensorSpec::new("q", StorageType::Q8_0, [32])]).map(|_| ()), "Q8_0 is no type");
    assert_eq!(kind(&new(&[TensorSpec::new("x", DType::F32, [usize::MAX, 2])]).unwrap_err()), "Overflow");

    let mut w = new(&[a, b]).unwrap();
    announced(w.tensor("b", &tensor(DType::BF16, &[1])), "`a` is next");
    announced(w.tensor("a", &tensor(DType::BF16, &[2])), "is BF16 [2], but F32 [2] was announced");
    announced(w.tensor("a", &tensor(DType::F32, &[1, 2])), "but F32 [2] was announced");
    announced(w.bytes("a", &[0; 7]), "has 7 bytes, but 8 were announced");
    w.tensor("a", &tensor(DType::F32, &[2])).unwrap();
    w.bytes("b", &[0; 2]).unwrap();
    announced(w.bytes("b", &[0; 2]), "are written");
    let bytes = w.finish().unwrap();
    assert_eq!(SafetensorsFile::open(&Scratch::new().write("a", &bytes)).unwrap().names(), ["a", "b"]);
    announced(new(&[TensorSpec::new("a", DType::F32, [2])]).unwrap().finish().map(|_| ()), "announced but not written");

    let scratch = Scratch::new();
    let mut dir = DirWriter::create(&scratch.path("m"), Overwrite::Refuse).unwrap();
    let (a, b) = (TensorSpec::new("a", DType::F32, [2]), TensorSpec::new("b", DType::F32, [2]));
    announced(ModelWriter::new(&mut dir, vec![a.clone(), a.clone()], none.clone(), 8).map(|_| ()), "announced twice");
    let mut model = ModelWriter::new(&mut dir, vec![a, b], none.clone(), 8).unwrap();
    announced(model.bytes("b", &[0; 8]), "`a` is next");
    model.bytes("a", &[0; 8]).unwrap();
    announced(model.finish(), "was announced but not written");
}
