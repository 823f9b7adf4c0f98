//! Models whose weights stay as a GGUF stores them: blocks bit for bit, q and k with their rows back in place, products within what the
//! rounding of activations to 8 bits costs.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;
#[path = "common/files.rs"]
mod files;

use common::{backends, bits, config, cpu, logits, nmse, random_ids, random_values};
use files::{GgufFile, named, write_dir};
use paring_checkpoint::StorageType;
use paring_exec::{Ctx, Grads};
use paring_model::{Arch, Batch, Error, LoadAs, Model, Opened, open};
use paring_ops::Backend;
use paring_reference::Reference;
use paring_tensor::{DType, HostBuffer, from_f32};
use std::path::{Path, PathBuf};

/// What 8 bits for activations cost: their error is uniform within half of a 127th of the largest of 32, a squared error of about
/// (2.1 / 127)^2 / 12 = 2.3e-5 of normal activations, at each of the fifteen products from the embedding to a logit. Twice that, because
/// a gate multiplies two of them.
const ROUNDED_ACTIVATIONS: f64 = 2.0 * 15.0 * 2.3e-5;
/// Two backends that round the same activations but for those within an error of f32 of half a step: a few of them, one step each.
const SAME_ROUNDING: f64 = ROUNDED_ACTIVATIONS / 10.0;

fn arch(tied: bool) -> Arch {
    Arch::from_config(&config(tied)).unwrap()
}

/// A GGUF of random values with its embedding in `embedding` and its other matrices in `storage`.
fn mixed(dir: &Path, arch: &Arch, embedding: StorageType, storage: StorageType) -> PathBuf {
    let mut file = GgufFile::new(arch, &random_values(arch, 4), storage);
    for (spec, _) in file.tensors.iter_mut().filter(|(spec, _)| spec.name == "token_embd.weight") {
        spec.storage = embedding;
    }
    let path = dir.join(format!("{embedding}-{storage}-{}.gguf", arch.tied));
    file.write(&path);
    path
}

fn load(opened: &Opened, backend: &dyn Backend, load_as: impl Into<LoadAs>) -> Model {
    Model::load(&opened.arch, opened.source(), backend, load_as).unwrap()
}

fn tokens(arch: &Arch, n: usize) -> Batch {
    Batch::pack([random_ids(arch.vocab, n, 5).as_slice()])
}

#[test]
fn blocks_stay_what_they_are_in_the_file() {
    let tmp = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for (tied, dtype) in [true, false].into_iter().flat_map(|tied| DType::QUANTISED.map(|dtype| (tied, dtype))) {
        let opened = open(&mixed(tmp.path(), &arch(tied), StorageType::Q8_0, dtype.into())).unwrap();
        let values = random_values(&opened.arch, 4);
        let loaded = backends().into_iter().map(|(name, backend)| (name, load(&opened, &*backend, LoadAs::Stored)));
        for (name, model) in loaded {
            for (spec, values) in &values {
                let tensor = &model.weight(spec.id).tensor;
                let want = match spec.shape.len() {
                    1 => DType::F32,
                    _ if spec.name == "model.embed_tokens.weight" => DType::Q8_0,
                    _ => dtype,
                };
                assert_eq!(tensor.dtype(), want, "{name}: {}", spec.name);
                // Values in Hugging Face's order, in blocks: the file has the rows of q and k in another.
                let got = HostBuffer::tensor_bytes(tensor).unwrap();
                assert_eq!(got, from_f32(values, want), "{name}, {dtype}: {}", spec.name);
                seen += usize::from(want == dtype && spec.name.contains("q_proj"));
            }
        }
    }
    assert!(12 <= seen, "{seen} tensors with rows in another order");
}

#[test]
fn logits_are_those_of_the_undone_weights_but_for_rounded_activations() {
    let tmp = tempfile::tempdir().unwrap();
    let mut worst = [0.0f64; 2];
    for (tied, dtype) in [true, false].into_iter().flat_map(|tied| DType::QUANTISED.map(|dtype| (tied, dtype))) {
        let opened = open(&mixed(tmp.path(), &arch(tied), StorageType::Q8_0, dtype.into())).unwrap();
        // One token at a time, a few, more than any tile has rows.
        for n in [1, 3, 40] {
            let batch = tokens(&opened.arch, n);
            let exact = logits(&Reference, &load(&opened, &Reference, DType::F32), &batch);
            let oracle = logits(&Reference, &load(&opened, &Reference, LoadAs::Stored), &batch);
            let error = nmse(&oracle, &exact);
            assert!(0.0 < error && error <= ROUNDED_ACTIVATIONS, "{dtype}, {n} tokens: {error:e}");
            worst[0] = worst[0].max(error);
            for (name, backend) in backends() {
                let got = logits(&*backend, &load(&opened, &*backend, LoadAs::Stored), &batch);
                let error = nmse(&got, &oracle);
                assert!(error <= SAME_ROUNDING, "{name}, {dtype}, {n} tokens: {error:e}");
                worst[1] = worst[1].max(error);
            }
        }
    }
    println!("rounded activations {:.1e}, the same rounding {:.1e}", worst[0], worst[1]);
}

#[test]
fn types_without_blocks_stay_or_become_f32() {
    let tmp = tempfile::tempdir().unwrap();
    let backend = cpu(1);
    for (storage, want) in
        [(StorageType::F32, DType::F32), (StorageType::BF16, DType::BF16), (StorageType::F16, DType::F32)]
    {
        let opened = open(&mixed(tmp.path(), &arch(true), storage, storage)).unwrap();
        let (stored, alike) = (load(&opened, &backend, LoadAs::Stored), load(&opened, &backend, want));
        for spec in stored.specs() {
            let dtype = if spec.shape.len() == 1 { DType::F32 } else { want };
            assert_eq!(stored.weight(spec.id).tensor.dtype(), dtype, "{storage}: {}", spec.name);
        }
        let batch = tokens(&opened.arch, 9);
        assert_eq!(bits(&logits(&backend, &stored, &batch)), bits(&logits(&backend, &alike, &batch)), "{storage}");
    }
    let dir = tmp.path().join("directory");
    std::fs::create_dir(&dir).unwrap();
    write_dir(&dir, &config(true), &named(&random_values(&arch(true), 4)));
    let model = load(&open(&dir).unwrap(), &backend, LoadAs::Stored);
    assert!(model.specs().iter().all(|spec| model.weight(spec.id).tensor.dtype() == DType::F32));
}

#[test]
fn a_scale_that_is_not_a_number_is_found_when_it_is_loaded() {
    let (tmp, name) = (tempfile::tempdir().unwrap(), "model.layers.1.self_attn.k_proj.weight");
    // Infinity and NaN as f16, as a scale or, behind it, as a minimum.
    for (dtype, offset) in [(DType::Q8_0, 0), (DType::Q4_0, 0), (DType::Q4_1, 0), (DType::Q4_1, 2)] {
        for bad in [0x7c00u16, 0xfe01] {
            let path = mixed(tmp.path(), &arch(false), StorageType::Q8_0, dtype.into());
            let tensor = open(&path).unwrap().source().read_tensor(name, dtype).unwrap();
            // The first row is the first in the file too.
            let block = &HostBuffer::tensor_bytes(&tensor).unwrap()[..dtype.block().1];
            let mut bytes = std::fs::read(&path).unwrap();
            let at = bytes.windows(block.len()).position(|w| w == block).unwrap() + offset;
            bytes[at..at + 2].copy_from_slice(&bad.to_le_bytes());
            std::fs::write(&path, bytes).unwrap();
            let opened = open(&path).unwrap();
            let error = Model::load(&opened.arch, opened.source(), &cpu(1), LoadAs::Stored).unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, Error::Checkpoint(paring_checkpoint::Error::NonFinite { .. })), "{message}");
            assert!(message.contains(name) && message.contains(".gguf"), "{message}");
        }
    }
}

#[test]
fn a_type_that_is_not_read_is_named_with_those_that_are() {
    let tmp = tempfile::tempdir().unwrap();
    let mut config = config(true);
    config["hidden_size"] = 256.into();
    let path = mixed(tmp.path(), &Arch::from_config(&config).unwrap(), StorageType::Q8_0, StorageType::Q8_0);
    let mut bytes = std::fs::read(&path).unwrap();
    // Behind the name: the number of dimensions, two dimensions, the type. 12 is Q4_K, whose blocks are smaller.
    let name = b"blk.0.ffn_up.weight";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap() + name.len() + 4 + 16;
    assert_eq!(bytes[at..at + 4], 8u32.to_le_bytes());
    bytes[at..at + 4].copy_from_slice(&12u32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let opened = open(&path).unwrap();
    for load_as in [LoadAs::Stored, DType::F32.into()] {
        let message = Model::load(&opened.arch, opened.source(), &cpu(1), load_as).unwrap_err().to_string();
        for word in ["ffn_up", "Q4_K", "Q8_0, Q4_0 or Q4_1", ".gguf"] {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
    }
}

#[test]
fn there_is_no_gradient_of_blocks() {
    let tmp = tempfile::tempdir().unwrap();
    let opened = open(&mixed(tmp.path(), &arch(false), StorageType::Q8_0, StorageType::Q4_0)).unwrap();
    for (name, backend) in backends() {
        let backend = &*backend;
        let model = load(&opened, backend, LoadAs::Stored);
        let mut cx = Ctx::record(backend);
        let x = model.hidden(&mut cx, &tokens(&opened.arch, 5), None).unwrap();
        let dx = backend.zeros(DType::F32, x.tensor.shape()).unwrap();
        let mut grads = Grads::new(&model.shapes());
        let message = cx.backward(&x, dx, &mut grads).unwrap_err().to_string();
        assert!(message.contains("gradient with q4_0 weights") && message.contains("f32 or bf16"), "{name}: {message}");
    }
}
