//! Checkpoints of any contents, written as the format says: what is right and what is wrong with them is up to the test.
#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_checkpoint::{
    StorageType, TensorSpec,
    gguf::{GgufWriter, Value},
    safetensors::SafetensorsWriter,
};
use paring_model::{Arch, ParamSpec};
use paring_tensor::DType;
use std::{collections::BTreeMap, path::Path};

/// A tensor by name: shape and values.
pub(crate) type Named = (String, Vec<usize>, Vec<f32>);

/// Writes `tensors` into one safetensors file, f32.
pub(crate) fn write_safetensors(path: &Path, tensors: &[Named]) {
    let specs: Vec<TensorSpec> =
        tensors.iter().map(|(name, shape, _)| TensorSpec::new(name, DType::F32, shape.clone())).collect();
    let mut writer = SafetensorsWriter::new(Vec::new(), path, &specs, &BTreeMap::new()).unwrap();
    for (name, _, values) in tensors {
        writer.bytes(name, &paring_tensor::from_f32(values, DType::F32)).unwrap();
    }
    std::fs::write(path, writer.finish().unwrap()).unwrap();
}

/// Writes a Hugging Face directory, which has to be there.
pub(crate) fn write_dir(dir: &Path, config: &serde_json::Value, tensors: &[Named]) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    write_safetensors(&dir.join("model.safetensors"), tensors);
}

pub(crate) fn named(values: &[(ParamSpec, Vec<f32>)]) -> Vec<Named> {
    values.iter().map(|(p, values)| (p.name.clone(), p.shape.clone(), values.clone())).collect()
}

/// A GGUF on its way to a file.
pub(crate) struct GgufFile {
    pub(crate) metadata: Vec<(&'static str, Value)>,
    pub(crate) tensors: Vec<(TensorSpec, Vec<f32>)>,
}

/// Names of llama.cpp beside those of Hugging Face (gguf-py, `constants.py` and `tensor_mapping.py`).
const NAMES: [(&str, &str); 12] = [
    ("model.embed_tokens", "token_embd"),
    ("lm_head", "output"),
    ("model.norm", "output_norm"),
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

fn gguf_name(name: &str) -> String {
    let plain = name.strip_suffix(".weight").unwrap();
    let (prefix, plain) = match plain.strip_prefix("model.layers.") {
        None => (String::new(), plain),
        Some(rest) => {
            let (layer, rest) = rest.split_once('.').unwrap();
            (format!("blk.{layer}."), rest)
        }
    };
    let (_, part) = NAMES.iter().find(|(hf, _)| *hf == plain).unwrap();
    format!("{prefix}{part}.weight")
}

/// `LlamaModel.permute` of convert_hf_to_gguf.py: `reshape(heads, 2, rows / heads / 2, cols).swapaxes(1, 2)`.
fn permute(values: &[f32], heads: usize, cols: usize) -> Vec<f32> {
    let half = values.len() / cols / heads / 2;
    let row = |head: usize, p: usize, i: usize| &values[((head * 2 + p) * half + i) * cols..][..cols];
    let order = (0..heads).flat_map(|head| (0..half).flat_map(move |i| [(head, 0, i), (head, 1, i)]));
    order.flat_map(|(head, p, i)| row(head, p, i).to_vec()).collect()
}

/// What llama.cpp divides the plain frequencies by (`LlamaModel.generate_extra_tensors` of convert_hf_to_gguf.py).
fn rope_factors(arch: &Arch) -> Option<Vec<f32>> {
    let s = arch.rope.llama3?;
    let (low, high) = (s.original_max_positions / s.low_freq_factor, s.original_max_positions / s.high_freq_factor);
    let factor = |i: usize| {
        let wavelength = std::f64::consts::TAU * arch.rope.theta.powf(2.0 * i as f64 / arch.head_dim as f64);
        if wavelength < high {
            return 1.0;
        }
        if low < wavelength {
            return s.factor;
        }
        let smooth =
            (s.original_max_positions / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
        1.0 / ((1.0 - smooth) / s.factor + smooth)
    };
    Some((0..arch.head_dim / 2).map(|i| factor(i) as f32).collect())
}

impl GgufFile {
    /// The model as llama.cpp's converter writes it: matrices in `storage`, gains of norms f32.
    pub(crate) fn new(arch: &Arch, values: &[(ParamSpec, Vec<f32>)], storage: StorageType) -> Self {
        let layer = arch.uniform_layer().unwrap();
        let n = |n: usize| Value::from(u32::try_from(n).unwrap());
        let metadata = vec![
            ("general.architecture", "llama".into()),
            ("llama.block_count", n(arch.layers.len())),
            ("llama.context_length", n(arch.max_positions)),
            ("llama.embedding_length", n(arch.hidden)),
            ("llama.feed_forward_length", n(layer.ffn)),
            ("llama.attention.head_count", n(layer.heads)),
            ("llama.attention.head_count_kv", n(layer.kv_heads)),
            ("llama.attention.key_length", n(arch.head_dim)),
            ("llama.attention.value_length", n(arch.head_dim)),
            ("llama.rope.dimension_count", n(arch.head_dim)),
            ("llama.rope.freq_base", (arch.rope.theta as f32).into()),
            ("llama.attention.layer_norm_rms_epsilon", arch.rms_eps.into()),
            ("llama.vocab_size", n(arch.vocab)),
            ("tokenizer.ggml.eos_token_id", 2u32.into()),
        ];
        let mut tensors: Vec<(TensorSpec, Vec<f32>)> = Vec::new();
        if let Some(factors) = rope_factors(arch) {
            tensors.push((TensorSpec::new("rope_freqs.weight", DType::F32, [factors.len()]), factors));
        }
        for (p, values) in values {
            let storage = if p.shape.len() == 1 { StorageType::F32 } else { storage };
            let values = match () {
                () if p.name.ends_with("q_proj.weight") => permute(values, layer.heads, p.shape[1]),
                () if p.name.ends_with("k_proj.weight") => permute(values, layer.kv_heads, p.shape[1]),
                () => values.clone(),
            };
            tensors.push((TensorSpec::new(gguf_name(&p.name), storage, p.shape.clone()), values));
        }
        GgufFile { metadata, tensors }
    }

    pub(crate) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.remove(key);
        self.metadata.push((key, value.into()));
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.metadata.retain(|(k, _)| *k != key);
    }

    pub(crate) fn write(&self, path: &Path) {
        let specs: Vec<TensorSpec> = self.tensors.iter().map(|(spec, _)| spec.clone()).collect();
        let mut writer = GgufWriter::new(Vec::new(), path, &self.metadata, &specs).unwrap();
        for (spec, values) in &self.tensors {
            writer.values(&spec.name, values).unwrap();
        }
        std::fs::write(path, writer.finish().unwrap()).unwrap();
    }
}
