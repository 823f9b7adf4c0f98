//! Hugging Face's `config.json`, resolved once at the edge, and written back for a pruned model.
use crate::{Arch, Error, Family, LayerArch, Llama3Rope, Result, Rope};
use serde_json::{Map, Value, json};

/// Values of `model_type` that are implemented.
pub const MODEL_TYPES: &[&str] = &["llama"];
/// Values of a GGUF's `general.architecture` that are implemented.
pub const GGUF_ARCHITECTURES: &[&str] = &["llama"];

/// No model is larger than this in any of its dimensions; a number beyond is a broken file, and multiplying it would be too.
const MAX_DIM: u64 = 1 << 24;

fn wrong(key: &str, problem: impl Into<String>) -> Error {
    Error::Config { key: key.into(), problem: problem.into() }
}

/// `key` as a dimension: a whole number in `1..=2^24`; `None` when absent or null.
fn dim(config: &Map<String, Value>, key: &str) -> Result<Option<usize>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(v) => match v.as_u64() {
            Some(n) if (1..=MAX_DIM).contains(&n) => Ok(Some(n as usize)),
            _ => Err(wrong(key, format!("is {v}, expected a whole number from 1 to {MAX_DIM}"))),
        },
    }
}

fn needed(config: &Map<String, Value>, key: &str) -> Result<usize> {
    dim(config, key)?.ok_or_else(|| wrong(key, "is missing"))
}

/// `key` as a positive finite number; `None` when absent or null.
fn positive(config: &Map<String, Value>, key: &str) -> Result<Option<f64>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(v) => match v.as_f64() {
            Some(x) if x.is_finite() && 0.0 < x => Ok(Some(x)),
            _ => Err(wrong(key, format!("is {v}, expected a positive number"))),
        },
    }
}

fn flag(config: &Map<String, Value>, key: &str) -> Result<bool> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(v) => Err(wrong(key, format!("is {v}, expected true or false"))),
    }
}

fn rope(config: &Map<String, Value>) -> Result<Rope> {
    // Transformers 5 writes `rope_parameters`, with the base inside; 4 wrote `rope_scaling` and kept the base outside.
    let (name, inner) = match (config.get("rope_parameters"), config.get("rope_scaling")) {
        (Some(Value::Object(m)), _) => ("rope_parameters", Some(m)),
        (_, Some(Value::Object(m))) => ("rope_scaling", Some(m)),
        (Some(v), _) if !v.is_null() => return Err(wrong("rope_parameters", format!("is {v}, expected an object"))),
        (_, Some(v)) if !v.is_null() => return Err(wrong("rope_scaling", format!("is {v}, expected an object"))),
        _ => ("rope_scaling", None),
    };
    let theta = match inner.map(|m| positive(m, "rope_theta")).transpose()?.flatten() {
        Some(theta) => theta,
        None => positive(config, "rope_theta")?.unwrap_or(10_000.0),
    };
    let Some(inner) = inner else { return Ok(Rope { theta, llama3: None }) };
    let kind = inner.get("rope_type").or_else(|| inner.get("type")).and_then(Value::as_str).unwrap_or("default");
    let llama3 = match kind {
        "default" => None,
        "llama3" => {
            let part = |key: &str| positive(inner, key)?.ok_or_else(|| wrong(&format!("{name}.{key}"), "is missing"));
            let s = Llama3Rope {
                factor: part("factor")?,
                low_freq_factor: part("low_freq_factor")?,
                high_freq_factor: part("high_freq_factor")?,
                original_max_positions: part("original_max_position_embeddings")?,
            };
            if s.high_freq_factor <= s.low_freq_factor {
                return Err(wrong(&format!("{name}.high_freq_factor"), "has to be above low_freq_factor"));
            }
            Some(s)
        }
        other => {
            let what = format!("rope_type `{other}` is not supported yet; supported: default, llama3");
            return Err(Error::Unsupported { what });
        }
    };
    Ok(Rope { theta, llama3 })
}

impl Arch {
    /// Resolves a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] names the key; [`Error::Unsupported`] what is asked for and what there is.
    pub fn from_config(config: &Value) -> Result<Self> {
        let Value::Object(config) = config else {
            return Err(wrong("config.json", "is not a JSON object"));
        };
        let model_type = match config.get("model_type") {
            Some(Value::String(s)) => s.as_str(),
            Some(v) => return Err(wrong("model_type", format!("is {v}, expected a string"))),
            None => return Err(wrong("model_type", "is missing")),
        };
        if !MODEL_TYPES.contains(&model_type) {
            let what = format!(
                "model_type `{}` is not supported yet; supported: {}",
                model_type.escape_debug(),
                MODEL_TYPES.join(", ")
            );
            return Err(Error::Unsupported { what });
        }
        if config.get("quantization_config").is_some_and(|v| !v.is_null()) {
            let what =
                "a checkpoint with `quantization_config` holds packed weights; give the unquantised one, or a GGUF"
                    .into();
            return Err(Error::Unsupported { what });
        }
        for key in ["attention_bias", "mlp_bias"] {
            if flag(config, key)? {
                return Err(Error::Unsupported { what: format!("`{key}: true` is not supported yet in family llama") });
            }
        }
        match config.get("hidden_act").and_then(Value::as_str).unwrap_or("silu") {
            "silu" | "swish" => {}
            other => {
                return Err(Error::Unsupported {
                    what: format!("hidden_act `{other}` is not supported yet; supported: silu"),
                });
            }
        }
        let hidden = needed(config, "hidden_size")?;
        let heads = needed(config, "num_attention_heads")?;
        let kv_heads = dim(config, "num_key_value_heads")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(wrong(
                "num_key_value_heads",
                format!("is {kv_heads}, which does not divide {heads} query heads"),
            ));
        }
        let head_dim = match dim(config, "head_dim")? {
            Some(d) => d,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(wrong("head_dim", format!("is missing and {hidden} / {heads} is not whole"))),
        };
        if head_dim % 2 != 0 {
            return Err(wrong(
                "head_dim",
                format!("is {head_dim}, expected an even number: rotary embeddings turn pairs"),
            ));
        }
        let layer = LayerArch { heads, kv_heads, ffn: needed(config, "intermediate_size")? };
        let n_layers = needed(config, "num_hidden_layers")?;
        if n_layers > 4096 {
            return Err(wrong("num_hidden_layers", format!("is {n_layers}, expected at most 4096")));
        }
        Ok(Arch {
            family: Family::Llama,
            vocab: needed(config, "vocab_size")?,
            hidden,
            head_dim,
            rms_eps: positive(config, "rms_norm_eps")?.unwrap_or(1e-6) as f32,
            tied: flag(config, "tie_word_embeddings")?,
            rope: rope(config)?,
            max_positions: dim(config, "max_position_embeddings")?.unwrap_or(2048),
            layers: vec![layer; n_layers],
        })
    }

    /// The `config.json` of this model, made from the one it descends from: what pruning changes is replaced, all else is kept.
    ///
    /// `head_dim` is always written: readers would otherwise divide the pruned width by the heads.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when layers differ, which Llama's config cannot say.
    pub fn to_config(&self, base: &Value, dtype: &str) -> Result<Value> {
        let Some(layer) = self.uniform_layer() else {
            return Err(Error::Unsupported { what: uneven(&self.layers) });
        };
        let mut config = base.as_object().cloned().unwrap_or_default();
        config.entry("architectures").or_insert_with(|| json!(["LlamaForCausalLM"]));
        let mut set = |key: &str, value: Value| config.insert(key.into(), value);
        set("model_type", json!(self.family.name()));
        set("vocab_size", json!(self.vocab));
        set("hidden_size", json!(self.hidden));
        set("intermediate_size", json!(layer.ffn));
        set("num_hidden_layers", json!(self.layers.len()));
        set("num_attention_heads", json!(layer.heads));
        set("num_key_value_heads", json!(layer.kv_heads));
        set("head_dim", json!(self.head_dim));
        set("tie_word_embeddings", json!(self.tied));
        set("max_position_embeddings", json!(self.max_positions));
        // The f32 nearest to 1e-5 printed as an f64 is 9.99999974e-6; its own shortest digits read back to the same f32.
        let eps: f64 = self.rms_eps.to_string().parse().unwrap_or(f64::from(self.rms_eps));
        set("rms_norm_eps", json!(eps));
        // Both names: Transformers 5 reads `dtype`, 4 and other tools `torch_dtype`.
        set("torch_dtype", json!(dtype));
        set("dtype", json!(dtype));
        if !config.contains_key("rope_parameters") {
            config.insert("rope_theta".into(), json!(self.rope.theta));
            let scaling = self.rope.llama3.map(|s| {
                json!({
                    "rope_type": "llama3", "factor": s.factor, "low_freq_factor": s.low_freq_factor,
                    "high_freq_factor": s.high_freq_factor, "original_max_position_embeddings": s.original_max_positions as u64,
                })
            });
            if let Some(scaling) = scaling {
                config.insert("rope_scaling".into(), scaling);
            }
        }
        Ok(Value::Object(config))
    }
}

/// Why layers that differ have no config, which of them do, and what could be done.
fn uneven(layers: &[LayerArch]) -> String {
    let Some(first) = layers.first() else { return "a model without layers has no config".into() };
    let differ: Vec<String> = (0..layers.len()).filter(|&l| layers[l] != *first).map(|l| l.to_string()).collect();
    let shown = differ.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
    let (name, verb) = if differ.len() == 1 { ("layer", "differs") } else { ("layers", "differ") };
    let more = if differ.len() > 12 { format!(" and {} more", differ.len() - 12) } else { String::new() };
    format!(
        "{name} {shown}{more} {verb} from layer 0 in neurons, heads or groups, and a Hugging Face Llama config has one size for all layers; GGUF's \
         architecture `deci` or Nemotron-NAS's `block_configs` could say it, and Paring writes neither: choose one size for all layers, \
         or run the model in memory"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Value {
        json!({
            "model_type": "llama", "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 163, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
            "max_position_embeddings": 256, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}, "pad_token_id": 0,
        })
    }

    #[test]
    fn a_config_survives_the_way_through_an_arch() {
        for rope in [
            json!({"rope_type": "default", "rope_theta": 5000.0}),
            json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 64}),
        ] {
            let mut config = base();
            config["rope_parameters"] = rope.clone();
            let arch = Arch::from_config(&config).unwrap();
            let written = arch.to_config(&config, "bfloat16").unwrap();
            assert_eq!(Arch::from_config(&written).unwrap(), arch);
            assert_eq!((&written["pad_token_id"], &written["rope_parameters"]), (&json!(0), &rope));
            assert_eq!(written["rms_norm_eps"], json!(1e-5));
            // Without a config to descend from (a GGUF) the rope is written in the older form.
            let written = arch.to_config(&json!({}), "bfloat16").unwrap();
            assert_eq!(Arch::from_config(&written).unwrap(), arch);
        }
    }

    #[test]
    fn broken_and_unknown_configs_name_the_key() {
        for (key, value, part) in [
            ("model_type", json!("mamba"), "`mamba` is not supported"),
            ("model_type", json!(3), "expected a string"),
            ("model_type", Value::Null, "expected a string"),
            ("hidden_size", json!(0), "hidden_size"),
            ("hidden_size", json!(-48), "hidden_size"),
            ("hidden_size", json!(1u64 << 60), "hidden_size"),
            ("hidden_size", json!("48"), "hidden_size"),
            ("hidden_size", Value::Null, "is missing"),
            ("num_key_value_heads", json!(4), "does not divide"),
            ("head_dim", json!(7), "even number"),
            ("head_dim", json!(1.5), "head_dim"),
            ("num_hidden_layers", json!(5000), "at most 4096"),
            ("vocab_size", Value::Null, "vocab_size"),
            ("rms_norm_eps", json!(0.0), "rms_norm_eps"),
            ("tie_word_embeddings", json!("yes"), "tie_word_embeddings"),
            ("attention_bias", json!(true), "attention_bias"),
            ("hidden_act", json!("gelu"), "gelu"),
            ("quantization_config", json!({"bits": 4}), "quantization_config"),
            ("rope_parameters", json!({"rope_type": "yarn"}), "yarn"),
            ("rope_parameters", json!([1]), "expected an object"),
            ("rope_parameters", json!({"rope_theta": 0.0}), "rope_theta"),
            ("rope_parameters", json!({"rope_type": "llama3", "factor": 8.0}), "low_freq_factor"),
        ] {
            let mut config = base();
            config[key] = value.clone();
            let error = Arch::from_config(&config).unwrap_err().to_string();
            assert!(error.contains(part), "{key} = {value}: {error}");
        }
        assert!(Arch::from_config(&json!([])).is_err());
    }

    #[test]
    fn layers_that_differ_cannot_be_written() {
        let mut arch = Arch::from_config(&base()).unwrap();
        arch.layers[1].ffn = 40;
        let said = arch.to_config(&base(), "bfloat16").unwrap_err().to_string();
        assert!(said.starts_with("layer 1 differs from layer 0") && said.contains("`deci`"), "{said}");
        arch.layers = (0..20).map(|l| LayerArch { ffn: 40 + l, ..arch.layers[0] }).collect();
        let said = arch.to_config(&base(), "bfloat16").unwrap_err().to_string();
        assert!(said.starts_with("layers 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 7 more differ"), "{said}");
    }
}
