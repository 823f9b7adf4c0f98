//! GGUF files of architecture `llama`, read as if they were Hugging Face checkpoints: same names, same shapes, same row order.
//!
//! Two things differ in the file. Names: `blk.0.attn_q.weight` is `model.layers.0.self_attn.q_proj.weight`. And llama.cpp's converter
//! reorders the rows of q and k inside every head, because it turns neighbouring pairs where Hugging Face turns element `i` with
//! `i + head_dim / 2`: row `p * head_dim / 2 + i` of a head here is row `2 i + p` there (convert_hf_to_gguf.py, `LlamaModel.permute`).
use crate::{Arch, Error, Family, GGUF_ARCHITECTURES, LayerArch, Llama3Rope, ParamSpec, Result, Rope, params, rope};
use paring_checkpoint::{Gguf, TensorInfo, TensorSource};
use paring_tensor::{DType, HostBuffer, Tensor};
use serde_json::{Value, json};
use std::{collections::HashMap, path::Path};

/// A GGUF under Hugging Face's names.
#[derive(Debug)]
pub struct GgufModel {
    gguf: Gguf,
    arch: Arch,
    names: HashMap<String, Mapped>,
}

#[derive(Clone, Debug)]
struct Mapped {
    gguf_name: String,
    /// Rows of one head, when rows have to be put back in Hugging Face's order.
    head_rows: Option<usize>,
}

/// Stretchings that published models use: factor, low, high, original positions. A GGUF keeps only their effect.
const KNOWN_LLAMA3: [Llama3Rope; 2] = [
    Llama3Rope { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 8192.0 },
    Llama3Rope { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 8192.0 },
];

impl GgufModel {
    /// Reads the architecture and maps the names; tensors are read when asked for.
    ///
    /// # Errors
    /// Unknown architectures, missing or wrong metadata, missing, unexpected or misshapen tensors.
    pub fn new(gguf: Gguf) -> Result<Self> {
        let architecture = gguf.get_str("general.architecture")?;
        if !GGUF_ARCHITECTURES.contains(&architecture) {
            let supported = GGUF_ARCHITECTURES.join(", ");
            let what = format!(
                "GGUF architecture `{}` is not supported yet; supported: {supported}",
                architecture.escape_debug()
            );
            return Err(Error::Unsupported { what });
        }
        let arch = read_arch(&gguf)?;
        let names = params(&arch).iter().map(|spec| (spec.name.clone(), mapped(spec, &arch))).collect();
        Ok(GgufModel { gguf, arch, names })
    }

    /// The architecture.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// The file's metadata, for its tokenizer.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// What of a Hugging Face config the metadata tells besides the architecture.
    pub fn base_config(&self) -> Value {
        let mut config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"});
        for (key, gguf_key) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
            if let Ok(id) = self.gguf.get_u32(&format!("tokenizer.ggml.{gguf_key}_token_id")) {
                config[key] = json!(id);
            }
        }
        config
    }
}

/// `key` as a dimension between 1 and 2^24.
fn dim(gguf: &Gguf, key: &str) -> Result<usize> {
    match gguf.get_u32(key)? {
        n if (1..=1 << 24).contains(&n) => Ok(n as usize),
        n => Err(Error::Config { key: key.into(), problem: format!("is {n}, expected 1 to 16777216") }),
    }
}

fn read_arch(gguf: &Gguf) -> Result<Arch> {
    let heads = dim(gguf, "llama.attention.head_count")?;
    let kv_heads = if gguf.contains_key("llama.attention.head_count_kv") {
        dim(gguf, "llama.attention.head_count_kv")?
    } else {
        heads
    };
    let hidden = dim(gguf, "llama.embedding_length")?;
    let head_dim = if gguf.contains_key("llama.attention.key_length") {
        dim(gguf, "llama.attention.key_length")?
    } else {
        hidden / heads
    };
    if heads % kv_heads != 0 || head_dim == 0 || head_dim % 2 != 0 {
        let problem =
            format!("gives {heads} heads on {kv_heads} key/value heads of width {head_dim}, which no llama has");
        return Err(Error::Config { key: "llama.attention.head_count".into(), problem });
    }
    if gguf.contains_key("llama.rope.dimension_count") && dim(gguf, "llama.rope.dimension_count")? != head_dim {
        let what =
            "a GGUF whose rotary embedding covers part of a head (`llama.rope.dimension_count`) is not supported yet"
                .into();
        return Err(Error::Unsupported { what });
    }
    match gguf.get_str("llama.rope.scaling.type") {
        Ok("none") | Err(_) => {}
        Ok(kind) => {
            let what =
                format!("GGUF rope scaling `{}` is not supported yet; supported: none, llama3", kind.escape_debug());
            return Err(Error::Unsupported { what });
        }
    }
    let names = gguf.names();
    let layers = dim(gguf, "llama.block_count")?;
    if layers > 4096 {
        return Err(Error::Config {
            key: "llama.block_count".into(),
            problem: format!("is {layers}, expected at most 4096"),
        });
    }
    let layer = LayerArch { heads, kv_heads, ffn: dim(gguf, "llama.feed_forward_length")? };
    let Some(embedding) = gguf.info("token_embd.weight") else {
        return Err(Error::MissingTensor { name: "token_embd.weight".into(), file: gguf.path().display().to_string() });
    };
    let theta = if gguf.contains_key("llama.rope.freq_base") {
        f64::from(gguf.get_f32("llama.rope.freq_base")?)
    } else {
        10_000.0
    };
    let rms_eps = gguf.get_f32("llama.attention.layer_norm_rms_epsilon")?;
    for (key, value) in
        [("llama.rope.freq_base", theta), ("llama.attention.layer_norm_rms_epsilon", f64::from(rms_eps))]
    {
        if !(value.is_finite() && 0.0 < value) {
            return Err(Error::Config { key: key.into(), problem: format!("is {value}, expected a positive number") });
        }
    }
    let llama3 = match gguf.info("rope_freqs.weight") {
        None => None,
        Some(_) => Some(known_scaling(theta, head_dim, &gguf.read_f32("rope_freqs.weight")?)?),
    };
    Ok(Arch {
        family: Family::Llama,
        vocab: embedding.shape.first().copied().unwrap_or(0),
        hidden,
        head_dim,
        rms_eps,
        tied: !names.iter().any(|n| n == "output.weight"),
        rope: Rope { theta, llama3 },
        max_positions: dim(gguf, "llama.context_length")?,
        layers: vec![layer; layers],
    })
}

/// The Llama 3.1 parameters whose effect `factors` is: `plain frequency / factor` is the stretched one.
fn known_scaling(theta: f64, head_dim: usize, factors: &[f32]) -> Result<Llama3Rope> {
    let plain = rope::inverse_frequencies(theta, head_dim, None);
    let fits = |s: &&Llama3Rope| {
        let stretched = rope::inverse_frequencies(theta, head_dim, Some(s));
        factors.len() == plain.len()
            && plain.iter().zip(&stretched).zip(factors).all(|((p, s), f)| (p / s - f).abs() <= 1e-3 * f.abs())
    };
    KNOWN_LLAMA3.iter().find(fits).copied().ok_or_else(|| Error::Unsupported {
        what: "the GGUF's `rope_freqs.weight` is none of the known Llama 3.1 scalings; give the Hugging Face directory instead".into(),
    })
}

fn mapped(spec: &ParamSpec, arch: &Arch) -> Mapped {
    let last = spec.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
    let part = match last {
        "embed_tokens" => "token_embd",
        "lm_head" => "output",
        "norm" => "output_norm",
        "input_layernorm" => "attn_norm",
        "q_proj" => "attn_q",
        "k_proj" => "attn_k",
        "v_proj" => "attn_v",
        "o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "gate_proj" => "ffn_gate",
        "up_proj" => "ffn_up",
        "down_proj" => "ffn_down",
        other => other,
    };
    let gguf_name = match spec.layer {
        Some(l) => format!("blk.{l}.{part}.weight"),
        None => format!("{part}.weight"),
    };
    Mapped { gguf_name, head_rows: matches!(part, "attn_q" | "attn_k").then_some(arch.head_dim) }
}

/// Puts the rows of every head back: row `p * h/2 + i` is row `2 i + p` of the file. `cols` are the values, or the bytes, of a row.
fn unpermute<T: Copy>(values: &[T], head_rows: usize, cols: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks(head_rows * cols) {
        for row in 0..head.len() / cols.max(1) {
            let (p, i) = (row / (head_rows / 2), row % (head_rows / 2));
            out.extend_from_slice(&head[(2 * i + p) * cols..][..cols]);
        }
    }
    out
}

impl TensorSource for GgufModel {
    fn names(&self) -> Vec<String> {
        let by_gguf: HashMap<&str, &str> =
            self.names.iter().map(|(hf, m)| (m.gguf_name.as_str(), hf.as_str())).collect();
        // A tensor without a counterpart keeps its name, so that the check for unexpected tensors sees it.
        let hf = |n: String| by_gguf.get(n.as_str()).map_or(n.clone(), |hf| (*hf).to_string());
        let mut names: Vec<String> =
            self.gguf.names().into_iter().filter(|n| n != "rope_freqs.weight").map(hf).collect();
        names.sort();
        names
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.gguf.info(self.names.get(name).map_or(name, |m| &m.gguf_name))
    }

    fn read_f32(&self, name: &str) -> paring_checkpoint::Result<Vec<f32>> {
        let Some(m) = self.names.get(name) else { return self.gguf.read_f32(name) };
        let values = self.gguf.read_f32(&m.gguf_name)?;
        let cols = self.gguf.info(&m.gguf_name).and_then(|i| i.shape.get(1).copied()).unwrap_or(1);
        Ok(match m.head_rows {
            Some(rows) if values.len() % (rows * cols).max(1) == 0 => unpermute(&values, rows, cols),
            _ => values,
        })
    }

    /// Whole rows change places, as bytes: blocks lie inside a row, so they are never undone.
    fn read_tensor(&self, name: &str, dtype: DType) -> paring_checkpoint::Result<Tensor> {
        let Some(m) = self.names.get(name) else { return self.gguf.read_tensor(name, dtype) };
        let tensor = self.gguf.read_tensor(&m.gguf_name, dtype)?;
        let row = dtype.bytes(tensor.n_cols());
        let Some(head_rows) = m.head_rows.filter(|rows| tensor.n_rows() % rows == 0 && 0 < row) else {
            return Ok(tensor);
        };
        let unpermuted = HostBuffer::tensor_bytes(&tensor).and_then(|bytes| {
            HostBuffer::zeroed(bytes.len())?.into_tensor_of(&unpermute(bytes, head_rows, row), dtype, tensor.shape())
        });
        unpermuted.map_err(|source| paring_checkpoint::Error::Tensor {
            path: self.gguf.path().into(),
            tensor: m.gguf_name.clone(),
            source,
        })
    }
}

/// Opens a GGUF of a supported architecture.
///
/// # Errors
/// Those of [`Gguf::open`] and [`GgufModel::new`].
pub(crate) fn open(path: &Path) -> Result<GgufModel> {
    GgufModel::new(Gguf::open(path, &paring_checkpoint::Limits::default())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpermute_undoes_what_the_converter_does() {
        // Two heads of six rows and two columns; `permute` of convert_hf_to_gguf.py written out.
        let (heads, rows, cols) = (2, 6, 2);
        let hf: Vec<f32> = (0..(heads * rows * cols) as u8).map(f32::from).collect();
        let mut file = vec![0.0; hf.len()];
        for head in 0..heads {
            for p in 0..2 {
                for i in 0..rows / 2 {
                    for c in 0..cols {
                        file[(head * rows + 2 * i + p) * cols + c] = hf[(head * rows + p * rows / 2 + i) * cols + c];
                    }
                }
            }
        }
        assert_ne!(file, hf);
        assert_eq!(unpermute(&file, rows, cols), hf);
    }

    #[test]
    fn the_stretching_of_published_models_is_recognised() {
        for known in KNOWN_LLAMA3 {
            let plain = rope::inverse_frequencies(5e5, 64, None);
            let stretched = rope::inverse_frequencies(5e5, 64, Some(&known));
            let factors: Vec<f32> = plain.iter().zip(&stretched).map(|(p, s)| p / s).collect();
            assert_eq!(known_scaling(5e5, 64, &factors).unwrap(), known);
            let other: Vec<f32> = factors.iter().map(|f| f * 1.1).collect();
            assert!(known_scaling(5e5, 64, &other).is_err());
        }
    }
}
