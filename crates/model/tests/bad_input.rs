//! Checkpoints that are broken in one place each: the kind of error is the right one, and its message names the file and the tensor or key.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;
#[path = "common/files.rs"]
mod files;

use common::{Golden, config, cpu, random_values};
use files::{GgufFile, Named, named, write_dir, write_safetensors};
use paring_checkpoint::{Error as Checkpoint, StorageType, TensorSpec, gguf::Value as Meta};
use paring_model::{Arch, Error, Model, open};
use paring_tensor::DType;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A directory with a golden model, then `spoil`ed.
fn spoiled(spoil: impl FnOnce(&mut Value, &mut Vec<Named>), after: impl FnOnce(&Path)) -> (tempfile::TempDir, PathBuf) {
    let golden = Golden::open("llama");
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("broken-model");
    std::fs::create_dir(&dir).unwrap();
    let (mut config, mut tensors) = (golden.opened.config.clone(), named(&golden.values()));
    spoil(&mut config, &mut tensors);
    write_dir(&dir, &config, &tensors);
    after(&dir);
    (tmp, dir)
}

/// `open` fails with an error of a kind, and the message has all `words`.
fn refused(path: &Path, is_kind: impl Fn(&Error) -> bool, words: &[&str]) {
    let error = open(path).unwrap_err();
    assert!(is_kind(&error), "{}: {error:?}", path.display());
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
    assert!(message.chars().all(|c| !c.is_control()), "{message:?}");
}

const UP: &str = "model.layers.1.mlp.up_proj.weight";

fn place(tensors: &[Named], name: &str) -> usize {
    tensors.iter().position(|t| t.0 == name).unwrap()
}

#[test]
fn the_model_before_it_is_broken_opens() {
    let (_tmp, dir) = spoiled(|_, _| {}, |_| {});
    assert_eq!(&open(&dir).unwrap().arch, Golden::open("llama").arch());
}

#[test]
fn tensors_that_do_not_fit_the_configuration() {
    let (_tmp, dir) = spoiled(|_, t| drop(t.remove(place(t, UP))), |_| {});
    refused(&dir, |e| matches!(e, Error::MissingTensor { name, .. } if name == UP), &["broken-model", UP]);

    let (_tmp, dir) = spoiled(
        |_, t| {
            let at = place(t, UP);
            t[at].1.reverse();
        },
        |_| {},
    );
    let is_kind = |e: &Error| matches!(e, Error::TensorShape { name, got, want, .. } if name == UP && got == &[48, 56] && want == &[56, 48]);
    refused(&dir, is_kind, &["broken-model/model.safetensors", UP, "[48, 56]", "[56, 48]"]);

    // A bias would be silently left out of the computation; the terminal does not obey its name.
    for (name, shown) in [("model.layers.0.self_attn.q_proj.bias", "q_proj.bias"), ("evil\u{1b}[2J", "evil\\u{1b}[2J")]
    {
        let (_tmp, dir) = spoiled(|_, t| t.push((name.into(), vec![48], vec![0.0; 48])), |_| {});
        refused(&dir, |e| matches!(e, Error::UnexpectedTensor { .. }), &["broken-model/model.safetensors", shown]);
    }

    // One layer more in the configuration than in the file, and one less.
    let (_tmp, dir) = spoiled(|c, _| c["num_hidden_layers"] = json!(4), |_| {});
    refused(&dir, |e| matches!(e, Error::MissingTensor { .. }), &["model.layers.3.", "broken-model"]);
    let (_tmp, dir) = spoiled(|c, _| c["num_hidden_layers"] = json!(2), |_| {});
    refused(&dir, |e| matches!(e, Error::UnexpectedTensor { .. }), &["model.layers.2.", "broken-model"]);
}

#[test]
fn tensors_that_say_nothing_are_passed_over() {
    let (_tmp, dir) =
        spoiled(|_, t| t.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![4], vec![1.0; 4])), |_| {});
    open(&dir).unwrap();
    // A tied model may bring its head along; an untied one has to.
    let (_tmp, dir) = spoiled(|c, _| c["tie_word_embeddings"] = json!(true), |_| {});
    assert!(open(&dir).unwrap().arch.tied);
    let (_tmp, dir) = spoiled(|_, t| drop(t.remove(place(t, "lm_head.weight"))), |_| {});
    refused(&dir, |e| matches!(e, Error::MissingTensor { name, .. } if name == "lm_head.weight"), &["lm_head.weight"]);
}

#[test]
fn files_that_are_not_whole() {
    for keep in [0, 7, 100, 10_000, 237_000] {
        let cut = |dir: &Path| {
            let file = dir.join("model.safetensors");
            let bytes = std::fs::read(&file).unwrap();
            assert!(keep < bytes.len());
            std::fs::write(&file, &bytes[..keep]).unwrap();
        };
        let (_tmp, dir) = spoiled(|_, _| {}, cut);
        let is_kind = |e: &Error| matches!(e, Error::Checkpoint(Checkpoint::PastEnd { .. }));
        refused(&dir, is_kind, &["broken-model/model.safetensors", "truncated"]);
    }

    let shards = |dir: &Path| {
        std::fs::remove_file(dir.join("model.safetensors")).unwrap();
        let values = named(&Golden::open("llama").values());
        let (first, second) = values.split_at(12);
        let file = |i: usize| format!("model-0000{i}-of-00002.safetensors");
        write_safetensors(&dir.join(file(1)), first);
        write_safetensors(&dir.join(file(2)), second);
        let of = |tensors: &[Named], i| tensors.iter().map(|t| (t.0.clone(), json!(file(i)))).collect::<Vec<_>>();
        let map: serde_json::Map<String, Value> = of(first, 1).into_iter().chain(of(second, 2)).collect();
        std::fs::write(dir.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    };
    let (_tmp, dir) = spoiled(|_, _| {}, shards);
    open(&dir).unwrap();
    std::fs::remove_file(dir.join("model-00002-of-00002.safetensors")).unwrap();
    let is_kind = |e: &Error| matches!(e, Error::Checkpoint(Checkpoint::MissingShard { .. }));
    refused(&dir, is_kind, &["broken-model/model-00002-of-00002.safetensors", "model.layers.1."]);

    let (_tmp, dir) = spoiled(|_, _| {}, |dir| std::fs::remove_file(dir.join("model.safetensors")).unwrap());
    refused(&dir, |e| matches!(e, Error::Checkpoint(Checkpoint::NoWeights { .. })), &["broken-model", "safetensors"]);
    let pickle = |dir: &Path| {
        std::fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap();
    };
    let (_tmp, dir) = spoiled(|_, _| {}, pickle);
    refused(&dir, |e| matches!(e, Error::Checkpoint(Checkpoint::Pickle { .. })), &["pytorch_model.bin"]);
}

#[test]
fn configurations_that_are_broken() {
    let write = |text: &'static str| move |dir: &Path| std::fs::write(dir.join("config.json"), text).unwrap();
    for text in ["", "{", "[1, 2", "{\"model_type\": \"llama\",}", "{\"a\": 1} {}", "\u{feff}x"] {
        let (_tmp, dir) = spoiled(|_, _| {}, write(text));
        let is_kind = |e: &Error| matches!(e, Error::Checkpoint(Checkpoint::Malformed { .. }));
        refused(&dir, is_kind, &["broken-model/config.json"]);
    }
    let (_tmp, dir) = spoiled(|_, _| {}, write("{\"model_type\": \"llama\", \"model_type\": \"llama\"}"));
    let is_kind = |e: &Error| matches!(e, Error::Checkpoint(Checkpoint::Duplicate { .. }));
    refused(&dir, is_kind, &["broken-model/config.json", "model_type"]);
    let (_tmp, dir) = spoiled(|_, _| {}, |dir| std::fs::remove_file(dir.join("config.json")).unwrap());
    refused(&dir, |e| matches!(e, Error::Checkpoint(Checkpoint::Read { .. })), &["broken-model/config.json"]);

    for (key, value, words) in [
        ("hidden_size", Value::Null, "is missing"),
        ("hidden_size", json!(-1), "-1"),
        ("intermediate_size", json!("56"), "expected a whole number"),
        ("num_key_value_heads", json!(4), "does not divide"),
        ("head_dim", json!(7), "even"),
        ("num_hidden_layers", json!(1u64 << 40), "from 1 to"),
        ("rms_norm_eps", json!(-1e-5), "positive"),
        ("model_type", json!(7), "expected a string"),
    ] {
        let (_tmp, dir) = spoiled(|c, _| c[key] = value.clone(), |_| {});
        let is_kind = |e: &Error| matches!(e, Error::At { source, .. } if matches!(&**source, Error::Config { key: k, .. } if k == key));
        refused(&dir, is_kind, &["broken-model/config.json", key, words]);
    }
    let (_tmp, dir) = spoiled(|_, _| {}, write("[]"));
    refused(&dir, |e| matches!(e, Error::At { .. }), &["broken-model/config.json", "is not a JSON object"]);
    for (key, value, words) in [
        ("model_type", json!("mamba\u{1b}[2J"), "supported: llama"),
        ("attention_bias", json!(true), "attention_bias"),
        ("hidden_act", json!("gelu"), "supported: silu"),
        ("rope_parameters", json!({"rope_type": "yarn"}), "supported: default, llama3"),
        ("quantization_config", json!({"bits": 4}), "quantization_config"),
    ] {
        let (_tmp, dir) = spoiled(|c, _| c[key] = value.clone(), |_| {});
        let is_kind =
            |e: &Error| matches!(e, Error::At { source, .. } if matches!(**source, Error::Unsupported { .. }));
        refused(&dir, is_kind, &["broken-model/config.json", words]);
    }
}

#[test]
fn a_weight_that_is_not_a_number_is_found_when_it_is_loaded() {
    for (bad, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        for dtype in [DType::F32, DType::BF16] {
            let spoil = |_: &mut Value, t: &mut Vec<Named>| {
                let at = place(t, UP);
                t[at].2[77] = bad;
            };
            let (_tmp, dir) = spoiled(spoil, |_| {});
            let opened = open(&dir).unwrap();
            let error = Model::load(&opened.arch, opened.source(), &cpu(1), dtype).unwrap_err();
            let Error::Checkpoint(Checkpoint::NonFinite { tensor, index, .. }) = &error else { panic!("{error:?}") };
            assert_eq!((tensor.as_str(), *index), (UP, 77));
            let message = error.to_string();
            for word in ["broken-model/model.safetensors", UP, "index 77", shown] {
                assert!(message.contains(word), "`{word}` is not in: {message}");
            }
        }
    }
}

/// A GGUF of a random model, spoiled.
fn gguf(spoil: impl FnOnce(&mut GgufFile)) -> (tempfile::TempDir, PathBuf) {
    let arch = Arch::from_config(&config(false)).unwrap();
    let mut file = GgufFile::new(&arch, &random_values(&arch, 1), StorageType::Q8_0);
    spoil(&mut file);
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("broken.gguf");
    file.write(&path);
    (tmp, path)
}

#[test]
fn ggufs_that_are_broken() {
    let (_tmp, path) = gguf(|_| {});
    open(&path).unwrap();

    let at = |e: &Error, unsupported: bool| match e {
        Error::At { source, .. } => match **source {
            Error::Unsupported { .. } => unsupported,
            Error::Config { .. } => !unsupported,
            _ => false,
        },
        _ => false,
    };
    for (key, value, unsupported, words) in [
        ("general.architecture", Meta::from("mamba\n"), true, "supported: llama"),
        ("llama.rope.scaling.type", "yarn".into(), true, "supported: none, llama3"),
        ("llama.rope.dimension_count", 8u32.into(), true, "llama.rope.dimension_count"),
        ("llama.embedding_length", 0u32.into(), false, "llama.embedding_length"),
        ("llama.block_count", 5000u32.into(), false, "llama.block_count"),
        ("llama.attention.head_count_kv", 4u32.into(), false, "llama.attention.head_count"),
        ("llama.rope.freq_base", f32::NAN.into(), false, "llama.rope.freq_base"),
        ("llama.attention.layer_norm_rms_epsilon", (-1f32).into(), false, "layer_norm_rms_epsilon"),
    ] {
        let (_tmp, path) = gguf(|f| f.set(key, value));
        refused(&path, |e| at(e, unsupported), &["broken.gguf", words]);
    }
    for key in ["general.architecture", "llama.block_count", "llama.context_length", "llama.feed_forward_length"] {
        let (_tmp, path) = gguf(|f| f.remove(key));
        let is_kind = |e: &Error| matches!(e, Error::Checkpoint(Checkpoint::MissingKey { .. }));
        refused(&path, is_kind, &["broken.gguf", key]);
    }
    let (_tmp, path) = gguf(|f| f.set("llama.block_count", "two"));
    let is_kind = |e: &Error| matches!(e, Error::Checkpoint(Checkpoint::KeyType { .. }));
    refused(&path, is_kind, &["broken.gguf", "llama.block_count"]);

    let (_tmp, path) = gguf(|f| f.tensors.retain(|(spec, _)| spec.name != "blk.1.ffn_up.weight"));
    refused(&path, |e| matches!(e, Error::MissingTensor { .. }), &["broken.gguf", UP]);
    let (_tmp, path) = gguf(|f| f.tensors.retain(|(spec, _)| spec.name != "token_embd.weight"));
    refused(&path, |e| matches!(e, Error::MissingTensor { .. }), &["broken.gguf", "token_embd.weight"]);
    let bias = (TensorSpec::new("blk.0.attn_q.bias", DType::F32, [96]), vec![0.0; 96]);
    let (_tmp, path) = gguf(|f| f.tensors.push(bias));
    refused(&path, |e| matches!(e, Error::UnexpectedTensor { .. }), &["broken.gguf", "blk.0.attn_q.bias"]);
    let (_tmp, path) = gguf(|f| f.set("llama.feed_forward_length", 128u32));
    refused(&path, |e| matches!(e, Error::TensorShape { .. }), &["broken.gguf", "[160, 64]", "[128, 64]"]);

    let (_tmp, path) = gguf(|_| {});
    let bytes = std::fs::read(&path).unwrap();
    for keep in [0, 3, 20, 500, bytes.len() / 2, bytes.len() - 40] {
        std::fs::write(&path, &bytes[..keep]).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, Error::Checkpoint(_)), "{keep} bytes: {error:?}");
        assert!(error.to_string().contains("broken.gguf"), "{error}");
    }
}
