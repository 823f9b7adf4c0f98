//! Checkpoints that are broken: each is refused by file and field, at once, and nothing is left behind.
use crate::{lab::Lab, tiny};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};

/// Replaces the first `from` in a file by `to`, byte for byte.
fn patch(lab: &Lab, name: &str, from: &[u8], to: &[u8]) {
    let mut bytes = std::fs::read(lab.path(name)).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    bytes.splice(at..at + from.len(), to.iter().copied());
    lab.write(name, bytes);
}

fn remove(lab: &Lab, name: &str) {
    std::fs::remove_file(lab.path(name)).unwrap();
}

/// A copy of the tiny model with another value in its `config.json`.
fn with_config(lab: &Lab, name: &str, key: &str, value: Value) {
    lab.model_with(name, |lab, m| {
        let mut config = lab.read_json(&format!("{m}/config.json"));
        config[key] = value;
        lab.write(&format!("{m}/config.json"), config.to_string());
    });
}

/// A copy of the tiny model with other bytes in one file.
fn with_file(lab: &Lab, name: &str, file: &str, bytes: &[u8]) {
    lab.model_with(name, |lab, m| lab.write(&format!("{m}/{file}"), bytes));
}

/// A copy of the tiny model with a pipe, which nobody writes to, in place of one file.
fn with_pipe(lab: &Lab, name: &str, file: &str) {
    lab.model_with(name, |lab, m| {
        let path = lab.path(&format!("{m}/{file}"));
        std::fs::remove_file(&path).unwrap();
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
    });
}

#[test]
fn activations_that_overflow_are_named() {
    let lab = Lab::new();
    let huge = |layer: usize| format!("model.layers.{layer}.mlp.up_proj.weight");
    // Every weight is a number, and what it multiplies is none any more.
    tiny::write_scaled(&lab.path("huge"), &tiny::config(), &tiny::tokenizer(tiny::VOCAB), 7, |spec| {
        if spec.name == huge(2) { 1e38 } else { 6.0 }
    });
    let ran = lab.run("importance --model huge --text text.txt --context 64 --windows 2 --out new");
    ran.check_refusal(
        "importance",
        1,
        &["calibration: layer 2", "is infinite or not a number", "check the checkpoint"],
    );
    assert!(!lab.path("new").exists());
}

/// A GGUF: version, counts and what follows.
fn gguf(version: u32, tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// A GGUF tensor `x` of 32 f32 at `offset`.
fn gguf_tensor(offset: u64) -> Vec<u8> {
    let mut bytes = 1u64.to_le_bytes().to_vec();
    bytes.extend(b"x");
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(32u64.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend([0; 64]);
    bytes
}

/// Every command line that reads weights refuses `model`.
fn check(lab: &Lab, model: &str, says: &[&str]) {
    lab.refused(&format!("eval --model {model} --text text.txt --context 64"), says);
    // A run that has begun is taken back: the corrected model may have another name, and --out the same.
    lab.refused(
        &format!("compress --model {model} --text text.txt --context 64 --ffn 24 --budget 256 --out new"),
        says,
    );
}

#[test]
fn names_that_lead_to_no_model() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("empty")).unwrap();
    std::os::unix::fs::symlink("loop", lab.path("loop")).unwrap();
    mkfifoat(CWD, lab.path("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    mkfifoat(CWD, lab.path("pipe.gguf"), Mode::RUSR | Mode::WUSR).unwrap();
    check(&lab, "nowhere", &["nowhere: there is no such file", "paring fetch"]);
    check(&lab, "/nowhere/at/all", &["/nowhere/at/all: there is no such file"]);
    check(&lab, "nobody/nothing", &["nobody/nothing", "Hugging Face cache", "huggingface-cli download"]);
    check(&lab, "nobody/nothing@v1", &["nobody/nothing", "revision v1"]);
    check(&lab, "../etc/passwd", &["../etc/passwd", "no such file"]);
    check(&lab, "smollm2-135m-instruct", &["not fetched", "paring fetch smollm2-135m-instruct"]);
    check(&lab, "empty", &["empty/config.json", "cannot be read"]);
    check(&lab, "loop", &["loop"]);
    check(&lab, "text.txt", &["text.txt"]);
    check(&lab, "/dev/full", &["/dev/full"]);
    check(&lab, "pipe", &["pipe"]);
    check(&lab, "pipe.gguf", &["pipe.gguf: is a pipe"]);
    check(&lab, "model/nothing.gguf", &["model/nothing.gguf"]);
}

#[test]
fn weights_that_are_broken() {
    let lab = Lab::new();
    let weights = &tiny::model()["model.safetensors"];
    let name = |m: &str| format!("{m}/model.safetensors");
    lab.model_with("without", |lab, m| remove(lab, &name(m)));
    check(&lab, "without", &["without: has neither model.safetensors nor model.safetensors.index.json"]);
    lab.model_with("pickle", |lab, m| {
        std::fs::rename(lab.path(&name(m)), lab.path("pickle/pytorch_model.bin")).unwrap()
    });
    check(&lab, "pickle", &["pickle/pytorch_model.bin: is a pickle", "safe_serialization"]);
    for (model, cut) in [("half", weights.len() / 2), ("header", 100), ("length", 7), ("nothing", 0)] {
        with_file(&lab, model, "model.safetensors", &weights[..cut]);
        check(&lab, model, &[&name(model)]);
    }
    with_file(&lab, "longer", "model.safetensors", &[weights, &[0; 8][..]].concat());
    check(&lab, "longer", &[&name("longer")]);
    lab.model_with("shard", |lab, m| {
        std::fs::rename(lab.path(&name(m)), lab.path("shard/other.safetensors")).unwrap();
        let index = json!({"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}});
        lab.write("shard/model.safetensors.index.json", index.to_string());
    });
    check(&lab, "shard", &["model-00001-of-00001.safetensors: is missing", "`model.norm.weight`"]);
    lab.model_with("leaves", |lab, m| {
        remove(lab, &name(m));
        let index = json!({"weight_map": {"model.norm.weight": "../model/model.safetensors"}});
        lab.write("leaves/model.safetensors.index.json", index.to_string());
    });
    check(&lab, "leaves", &["leaves/model.safetensors.index.json", "`../model/model.safetensors`"]);
    // The last two bytes are of the last tensor.
    let last = |value: u16| [&weights[..weights.len() - 2], &value.to_le_bytes()].concat();
    with_file(&lab, "nan", "model.safetensors", &last(0x7fc0));
    check(&lab, "nan", &["nan/model.safetensors: tensor `", "` holds NaN at index"]);
    with_file(&lab, "inf", "model.safetensors", &last(0xff80));
    check(&lab, "inf", &["inf/model.safetensors: tensor `", "` holds -inf at index"]);
    lab.model_with("missing", |lab, m| patch(lab, &name(m), b"model.norm.weight", b"model.morn.weight"));
    check(&lab, "missing", &["missing", "tensor `model.norm.weight` is missing"]);
    with_pipe(&lab, "piped", "model.safetensors");
    check(&lab, "piped", &["piped/model.safetensors: is a pipe"]);
}

#[test]
fn configurations_that_are_broken() {
    let lab = Lab::new();
    for (model, key, value, says) in [
        ("shape", "intermediate_size", json!(44), "has shape [48, 24], the configuration says [44, 24]"),
        ("rows", "vocab_size", json!(301), "tensor `model.embed_tokens.weight`"),
        ("layers", "num_hidden_layers", json!(5), "tensor `model.layers.4.input_layernorm.weight` is missing"),
        ("fewer", "num_hidden_layers", json!(3), "has no place in this model family"),
        ("type", "model_type", json!("mamba"), "`mamba` is not supported yet; supported: llama"),
        ("none", "model_type", Value::Null, "model_type"),
        ("zero", "hidden_size", json!(0), "`hidden_size` is 0"),
        ("huge", "hidden_size", json!(u64::MAX), "`hidden_size` is 18446744073709551615"),
        ("text", "num_attention_heads", json!("4"), "`num_attention_heads`"),
        ("groups", "num_key_value_heads", json!(3), "does not divide 4 query heads"),
        ("odd", "head_dim", json!(5), "`head_dim` is 5"),
        ("eps", "rms_norm_eps", json!(-1.0), "`rms_norm_eps`"),
        ("bias", "attention_bias", json!(true), "attention_bias"),
        ("untied", "tie_word_embeddings", json!(false), "tensor `lm_head.weight` is missing"),
        ("packed", "quantization_config", json!({"bits": 4}), "quantization_config"),
        ("rope", "rope_scaling", json!({"rope_type": "yarn"}), "yarn"),
    ] {
        with_config(&lab, model, key, value);
        check(&lab, model, &[model, says]);
    }
    let deep = "[".repeat(100_000);
    for (model, text) in
        [("cut", "{\"model_type\":"), ("array", "[]"), ("empty", ""), ("twice", "{\"a\":1,\"a\":2}"), ("deep", &deep)]
    {
        with_file(&lab, model, "config.json", text.as_bytes());
        check(&lab, model, &[&format!("{model}/config.json")]);
    }
    with_file(&lab, "latin", "config.json", b"{\"x\": \"\xe9\"}");
    check(&lab, "latin", &["latin/config.json", "UTF-8"]);
    with_pipe(&lab, "piped", "config.json");
    check(&lab, "piped", &["piped/config.json: is a pipe"]);
}

#[test]
fn tokenizers_that_are_broken_or_of_another_model() {
    let lab = Lab::new();
    lab.model_with("without", |lab, m| remove(lab, &format!("{m}/tokenizer.json")));
    check(&lab, "without", &["without/tokenizer.json", "missing"]);
    for (model, text) in [("cut", "{\"version\":"), ("other", "{}"), ("model", "{\"model\": {\"type\": \"BPE\"}}")] {
        with_file(&lab, &format!("tok-{model}"), "tokenizer.json", text.as_bytes());
        check(&lab, &format!("tok-{model}"), &[&format!("tok-{model}/tokenizer.json")]);
    }
    with_file(&lab, "end", "tokenizer_config.json", b"{\"eos_token\": \"</s>\"}");
    check(&lab, "end", &["end/tokenizer_config.json", "`</s>`"]);
    with_pipe(&lab, "piped", "tokenizer.json");
    check(&lab, "piped", &["piped/tokenizer.json: is a pipe"]);
    // A smaller embedding than the tokenizer has ids.
    let mut config = tiny::config();
    config["vocab_size"] = json!(280);
    tiny::write(&lab.path("rows"), &config, &tiny::tokenizer(300), 1);
    check(&lab, "rows", &["rows/tokenizer.json", "ids up to 299", "280 rows"]);
    // A student of another vocabulary.
    tiny::write(&lab.path("small"), &config, &tiny::tokenizer(280), 1);
    let line = "distill --student small --teacher model --text text.txt --context 64 --budget 256 --out new";
    lab.refused(line, &["small has 280 tokens and model has 300", "vocabulary"]);
    // What generate reads besides.
    with_file(&lab, "ends", "generation_config.json", b"{\"eos_token_id\": ");
    lab.refused("generate --model ends --prompt a --max-tokens 2", &["ends/generation_config.json"]);
}

#[test]
fn gguf_files_that_are_broken() {
    let lab = Lab::new();
    for (name, bytes, says) in [
        ("magic.gguf", b"GGUX\x03\0\0\0".repeat(8), "is this a GGUF file"),
        ("version.gguf", gguf(99, 0, 0, &[0; 64]), "is GGUF version 99, expected 2 or 3"),
        ("offset.gguf", gguf(3, 1, 0, &gguf_tensor(1 << 40)), "tensor `x` would end at byte 1099511627"),
        ("wraps.gguf", gguf(3, 1, 0, &gguf_tensor(u64::MAX - 31)), "tensor `x`"),
        ("keys.gguf", gguf(3, 0, 1 << 63, &[0; 19]), "keys.gguf"),
        ("tensors.gguf", gguf(3, u64::MAX, 0, &[0; 19]), "tensors.gguf"),
        ("short.gguf", b"GGUF".to_vec(), "short.gguf"),
        ("empty.gguf", Vec::new(), "empty.gguf"),
        ("no-model.gguf", gguf(3, 0, 0, &[0; 64]), "general.architecture"),
    ] {
        lab.write(name, bytes);
        check(&lab, name, &[name, says]);
    }
    std::fs::create_dir(lab.path("dir.gguf")).unwrap();
    check(&lab, "dir.gguf", &["dir.gguf: is a directory"]);
}

#[test]
fn a_student_that_is_broken() {
    let lab = Lab::new();
    let weights = &tiny::model()["model.safetensors"];
    with_file(&lab, "nan", "model.safetensors", &[&weights[..weights.len() - 2], &[0xc0, 0x7f]].concat());
    let distill = "distill --text text.txt --context 64 --budget 256 --out new";
    lab.refused(&format!("{distill} --student nan --teacher model"), &["nan/model.safetensors", "NaN"]);
    lab.refused(&format!("{distill} --student model --teacher nan"), &["nan/model.safetensors", "NaN"]);
    lab.refused(&format!("{distill} --student nowhere --teacher model"), &["nowhere: there is no such file"]);
    // The corrected command works at once, with the same --out.
    lab.done(&format!("{distill} --student model --teacher model --batch 2"));
}

#[test]
fn names_from_outside_cannot_drive_the_terminal() {
    let lab = Lab::new();
    let esc = "e\u{1b}[31m\u{9b}2J";
    with_config(&lab, esc, "intermediate_size", json!(44));
    let words = |words: &[&str]| lab.command(words);
    let eval = |model: &str, text: &str| words(&["eval", "--model", model, "--text", text, "--context", "64"]);
    lab.refuses(eval(esc, "text.txt"), "path of weights", &["e\\u{1b}[31m\\u{9b}2J/model.safetensors"]);
    lab.refuses(eval(&format!("{esc}/nothing"), "text.txt"), "path of a model", &["\\u{1b}[31m"]);
    lab.refuses(eval("model", &format!("{esc}.txt")), "path of a text", &["\\u{1b}[31m"]);
    // Of sequences that begin with ESC, clap prints nothing.
    lab.refuses(words(&["eval", &format!("--{esc}")]), "a flag", &["\\u{9b}2J"]);
    lab.refuses(words(&["eval", "--device", esc]), "a device", &["\\u{1b}[31m"]);
    lab.refuses(words(&[esc]), "a command", &["\\u{9b}2J"]);
    lab.refuses(words(&["fetch", esc]), "a name to fetch", &["\\u{1b}[31m"]);
    lab.refuses(words(&["prune", "--importance", "i", "--out", esc]), "an output", &["\\u{1b}[31m"]);
    with_config(&lab, "type", "model_type", json!(esc));
    check(&lab, "type", &["\\u{1b}[31m"]);
    lab.model_with("tensor", |lab, m| {
        std::fs::rename(lab.path("tensor/model.safetensors"), lab.path("tensor/other.safetensors")).unwrap();
        let index = json!({"weight_map": {(esc): "other.safetensors"}});
        lab.write(&format!("{m}/model.safetensors.index.json"), index.to_string());
    });
    check(&lab, "tensor", &["\\u{1b}[31m"]);
    lab.write("recipe.toml", "\"a\\u001b[31m\" = 1\n");
    lab.refused("eval --recipe recipe.toml", &["recipe.toml", "\\u{1b}[31m"]);
    lab.write("ids.jsonl", "{\"a\\u001b[31m\": 1}\n");
    lab.refused("eval --model model --tokens ids.jsonl", &["ids.jsonl: line 1"]);
    lab.write("text.jsonl", "{\"a\\u001b[31m\": 1}\n");
    lab.refused("eval --model model --text text.jsonl --context 64", &["text.jsonl: line 1", "\\u{1b}[31m"]);
}
