//! A model through files and back: what is written opens to the same numbers, in one file, in shards, as a GGUF.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;
#[path = "common/files.rs"]
mod files;

use common::{FAMILIES, Golden, bits, config, cpu, logits, model, random_values};
use files::{GgufFile, named, write_dir};
use paring_checkpoint::{
    DirWriter, ModelWriter, Overwrite, StorageType, TensorSpec,
    gguf::block::{
        LEN, dequantize_q4_0, dequantize_q4_1, dequantize_q8_0, quantize_q4_0, quantize_q4_1, quantize_q8_0,
    },
};
use paring_model::{Arch, Batch, Error, Model, Opened, ParamSpec, SourceKind, open, write_model};
use paring_tensor::{DType, from_f32, round_to};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

type Values = Vec<(ParamSpec, Vec<f32>)>;

/// Bits of the logits of some tokens under an opened model.
fn logits_of(opened: &Opened, dtype: DType) -> Vec<u32> {
    let backend = cpu(2);
    let model = Model::load(&opened.arch, opened.source(), &backend, dtype).unwrap();
    bits(&logits(&backend, &model, &tokens(&opened.arch)))
}

/// The same of a model in memory.
fn logits_in_memory(arch: &Arch, values: &Values, dtype: DType) -> Vec<u32> {
    let backend = cpu(2);
    bits(&logits(&backend, &model(&backend, arch, values, dtype), &tokens(arch)))
}

fn tokens(arch: &Arch) -> Batch {
    Batch::pack([common::random_ids(arch.vocab, 40, 5).as_slice()])
}

/// `values` with every matrix changed by `f`, row by row; gains of norms stay.
fn matrices(values: &Values, f: impl Fn(&[f32]) -> Vec<f32>) -> Values {
    let change = |(p, v): &(ParamSpec, Vec<f32>)| {
        let v = if p.shape.len() == 1 { v.clone() } else { v.chunks(p.shape[1]).flat_map(&f).collect() };
        (p.clone(), v)
    };
    values.iter().map(change).collect()
}

fn saved(at: &Path, arch: &Arch, base: &Value, values: &Values) -> Opened {
    let mut dir = DirWriter::create(at, Overwrite::Refuse).unwrap();
    write_model(&mut dir, arch, base, |p| Ok::<_, Error>(values[p.id.0].1.clone())).unwrap();
    dir.commit().unwrap();
    open(at).unwrap()
}

#[test]
fn a_saved_model_is_the_model_rounded_to_bf16() {
    let tmp = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let golden = Golden::open(family);
        let opened = saved(&tmp.path().join(family), golden.arch(), &golden.opened.config, &golden.values());
        assert_eq!(&opened.arch, golden.arch());
        assert!(matches!(opened.kind, SourceKind::Directory(_)));
        assert_eq!(opened.config["eos_token_id"], 2, "what pruning does not change is kept");
        let storage: Vec<_> =
            opened.source().names().iter().map(|n| opened.source().info(n).unwrap().storage).collect();
        assert!(storage.iter().all(|s| *s == StorageType::BF16), "{storage:?}");
        assert_eq!(opened.stored_bytes(), 2 * golden.arch().n_params() as u64);

        let round = |(p, v): (ParamSpec, Vec<f32>)| (p, v.iter().map(|&v| round_to(v, DType::BF16)).collect());
        let rounded: Values = golden.values().into_iter().map(round).collect();
        for (p, values) in &rounded {
            assert_eq!(bits(&opened.source().read_f32(&p.name).unwrap()), bits(values), "{}", p.name);
        }
        for dtype in [DType::F32, DType::BF16] {
            assert_eq!(
                logits_of(&opened, dtype),
                logits_in_memory(golden.arch(), &rounded, dtype),
                "{family}, {dtype}"
            );
        }
        // The rounding did something, so the comparison above says something.
        assert_ne!(logits_of(&opened, DType::F32), logits_of(&golden.opened, DType::F32));
    }
}

#[test]
fn a_model_that_bf16_cannot_hold_is_not_written() {
    let tmp = tempfile::tempdir().unwrap();
    let golden = Golden::open("llama");
    for bad in [f32::NAN, f32::NEG_INFINITY, f32::MAX] {
        let mut values = golden.values();
        values[6].1[11] = bad;
        let at = tmp.path().join("broken");
        let mut dir = DirWriter::create(&at, Overwrite::Refuse).unwrap();
        let read = |p: &ParamSpec| Ok::<_, Error>(values[p.id.0].1.clone());
        let error = write_model(&mut dir, golden.arch(), &golden.opened.config, read).unwrap_err();
        assert!(matches!(&error, Error::NotFinite { name, index: 11, .. } if *name == values[6].0.name), "{error}");
        drop(dir);
        assert!(!at.exists());
    }
}

#[test]
fn shards_open_to_the_same_model_as_one_file() {
    let tmp = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let golden = Golden::open(family);
        let at = tmp.path().join(family);
        let mut dir = DirWriter::create(&at, Overwrite::Refuse).unwrap();
        dir.write_bytes("config.json", golden.opened.config.to_string().as_bytes()).unwrap();
        let values = golden.values();
        let specs = values.iter().map(|(p, _)| TensorSpec::new(&p.name, DType::F32, p.shape.clone())).collect();
        let mut writer = ModelWriter::new(&mut dir, specs, BTreeMap::new(), 20_000).unwrap();
        for (p, values) in &values {
            writer.bytes(&p.name, &from_f32(values, DType::F32)).unwrap();
        }
        writer.finish().unwrap();
        dir.commit().unwrap();
        let opened = open(&at).unwrap();
        let SourceKind::Directory(files) = &opened.kind else { panic!("{family} is a directory") };
        // The embedding alone is larger than a shard; the rest does not fit one.
        assert!(8 <= files.files().len(), "{}", files.files().len());
        assert_eq!(opened.stored_bytes(), golden.opened.stored_bytes());
        assert_eq!(logits_of(&opened, DType::F32), logits_of(&golden.opened, DType::F32), "{family}");
    }
}

/// `row` as ggml's blocks hold it.
fn in_blocks<const N: usize>(
    row: &[f32],
    quantize: fn(&[f32; LEN]) -> [u8; N],
    dequantize: fn(&[u8; N]) -> [f32; LEN],
) -> Vec<f32> {
    row.as_chunks().0.iter().flat_map(|x| dequantize(&quantize(x))).collect()
}

#[test]
fn a_gguf_is_the_directory_with_the_weights_that_its_type_holds() {
    let tmp = tempfile::tempdir().unwrap();
    for tied in [true, false] {
        let config = config(tied);
        let arch = Arch::from_config(&config).unwrap();
        let values = random_values(&arch, 4);
        type Stored = (StorageType, fn(&[f32]) -> Vec<f32>);
        let types: [Stored; 6] = [
            (StorageType::F32, |row| row.to_vec()),
            (StorageType::F16, |row| row.iter().map(|&v| round_to(v, DType::F16)).collect()),
            (StorageType::BF16, |row| row.iter().map(|&v| round_to(v, DType::BF16)).collect()),
            (StorageType::Q8_0, |row| in_blocks(row, quantize_q8_0, dequantize_q8_0)),
            (StorageType::Q4_0, |row| in_blocks(row, quantize_q4_0, dequantize_q4_0)),
            (StorageType::Q4_1, |row| in_blocks(row, quantize_q4_1, dequantize_q4_1)),
        ];
        let mut seen = Vec::new();
        for (storage, stored) in types {
            let path = tmp.path().join(format!("{storage}-{tied}.gguf"));
            GgufFile::new(&arch, &values, storage).write(&path);
            let gguf = open(&path).unwrap();
            assert_eq!(gguf.arch, arch, "{storage}");
            let dir = tmp.path().join(format!("{storage}-{tied}"));
            std::fs::create_dir(&dir).unwrap();
            let stored = matrices(&values, stored);
            write_dir(&dir, &config, &named(&stored));
            let dir = open(&dir).unwrap();
            for (p, _) in &stored {
                let (got, want) = (gguf.source().read_f32(&p.name).unwrap(), dir.source().read_f32(&p.name).unwrap());
                assert_eq!(bits(&got), bits(&want), "{storage}: {}", p.name);
            }
            assert_eq!(gguf.source().names(), dir.source().names());
            for dtype in [DType::F32, DType::BF16] {
                assert_eq!(logits_of(&gguf, dtype), logits_of(&dir, dtype), "{storage}, {dtype}");
            }
            seen.push(logits_of(&gguf, DType::F32));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 6, "every type rounds in its own way");
    }
}

#[test]
fn the_golden_model_computes_the_same_from_a_gguf() {
    let tmp = tempfile::tempdir().unwrap();
    let golden = Golden::open("llama-tied");
    let path = tmp.path().join("golden.GGUF");
    GgufFile::new(golden.arch(), &golden.values(), StorageType::F32).write(&path);
    let opened = open(&path).unwrap();
    assert_eq!(&opened.arch, golden.arch());
    assert!(matches!(opened.kind, SourceKind::Gguf(_)));
    assert_eq!(logits_of(&opened, DType::F32), logits_of(&golden.opened, DType::F32));
    // And from there into a directory, with what the metadata tell for a configuration.
    assert_eq!(opened.config["eos_token_id"], 2);
    let values: Values = golden.values();
    let again = saved(&tmp.path().join("dir"), &opened.arch, &opened.config, &values);
    assert_eq!(again.arch, opened.arch);
    assert_eq!(again.config["eos_token_id"], 2);
}

#[test]
fn llama_3_rope_scaling_survives_a_gguf_when_it_is_a_known_one() {
    let tmp = tempfile::tempdir().unwrap();
    let write = |name: &str, factor: f64, original: u64, theta: f64| {
        let mut config = config(true);
        config["rope_theta"] = json!(theta);
        config["rope_scaling"] = json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        });
        let arch = Arch::from_config(&config).unwrap();
        let values = random_values(&arch, 6);
        let path = tmp.path().join(format!("{name}.gguf"));
        GgufFile::new(&arch, &values, StorageType::F32).write(&path);
        (path, arch, values)
    };
    let mut seen = Vec::new();
    for factor in [8.0, 32.0] {
        let (path, arch, values) = write(&factor.to_string(), factor, 8192, 500_000.0);
        let opened = open(&path).unwrap();
        assert_eq!(opened.arch, arch);
        assert_eq!(logits_of(&opened, DType::F32), logits_in_memory(&arch, &values, DType::F32));
        let mut plain = arch;
        plain.rope.llama3 = None;
        assert_ne!(logits_of(&opened, DType::F32), logits_in_memory(&plain, &values, DType::F32), "it was not applied");
        seen.push(opened.arch.rope);
    }
    assert_ne!(seen[0], seen[1]);
    let (path, ..) = write("other", 8.0, 64, 500_000.0);
    let error = open(&path).unwrap_err();
    assert!(matches!(&error, Error::At { source, .. } if matches!(**source, Error::Unsupported { .. })), "{error:?}");
    assert!(error.to_string().contains("rope_freqs.weight") && error.to_string().contains("other.gguf"), "{error}");
}
