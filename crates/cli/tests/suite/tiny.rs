//! The model that the tests compress: 21 thousand parameters with a tokenizer of its own, made once, kept as files in memory.
use crate::lab::Files;
use paring_checkpoint::{DirWriter, Overwrite};
use paring_model::{Arch, ParamSpec, write_model};
use paring_text::{Tokenizer, train_bpe};
use paring_train::initial_values;
use serde_json::{Value, json};
use std::{path::Path, sync::LazyLock};

/// Tokens of the vocabulary.
pub(crate) const VOCAB: usize = 300;

/// Real text: some 40 KB, and some that nobody trains on.
const CORPUS: &str = include_str!("../../../../fixtures/corpus/calibration.txt");

/// The first 40 thousand characters of the corpus.
pub(crate) fn text() -> String {
    CORPUS.chars().take(40_000).collect()
}

/// Eight thousand other characters.
pub(crate) fn heldout() -> String {
    CORPUS.chars().skip(40_000).take(8_000).collect()
}

/// What `config.json` says. Widths are so small that a whole run takes a second, and none equals another.
pub(crate) fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": VOCAB, "hidden_size": 24,
        "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "bos_token_id": 0, "eos_token_id": 0,
    })
}

/// A vocabulary of `n` tokens, trained on [`text`].
pub(crate) fn tokenizer(n: usize) -> Tokenizer {
    train_bpe(&text().split('\x0c').collect::<Vec<_>>(), n, "<|endoftext|>").unwrap()
}

/// Writes a model of random weights to `dir`.
pub(crate) fn write(dir: &Path, config: &Value, tokenizer: &Tokenizer, seed: u64) {
    // Larger than at the start of a training: this model has opinions, so that there is something to lose and to learn.
    write_scaled(dir, config, tokenizer, seed, |spec| if spec.shape.len() == 1 { 1.0 } else { 6.0 });
}

/// Writes a model of random weights, each parameter `scale` times as large as at the start of a training.
pub(crate) fn write_scaled(
    dir: &Path,
    config: &Value,
    tokenizer: &Tokenizer,
    seed: u64,
    scale: impl Fn(&ParamSpec) -> f32,
) {
    let arch = Arch::from_config(config).unwrap();
    let mut out = DirWriter::create(dir, Overwrite::Refuse).unwrap();
    write_model(&mut out, &arch, config, |spec| {
        let scale = scale(spec);
        Ok::<_, paring_model::Error>(initial_values(&arch, spec, seed).into_iter().map(|v| scale * v).collect())
    })
    .unwrap();
    for (name, bytes) in tokenizer.files().unwrap() {
        out.write_bytes(&name, &bytes).unwrap();
    }
    out.commit().unwrap();
}

/// The files of the model.
pub(crate) fn model() -> &'static Files {
    static MODEL: LazyLock<Files> = LazyLock::new(|| {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("model");
        write(&dir, &config(), &tokenizer(VOCAB), 7);
        crate::lab::files(&dir)
    });
    &MODEL
}
