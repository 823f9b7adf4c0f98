//! Tokenizers inside of GGUF files.
use crate::{check_error, corpus, directory_of, file, trained};
use paring_checkpoint::{
    Gguf, Limits,
    gguf::{GgufWriter, Value},
};
use paring_text::{Result, Tokenizer};
use proptest::prelude::*;
use std::{collections::HashMap, path::Path, sync::LazyLock};

type Metadata = Vec<(String, Value)>;

/// `metadata` with `tokenizer.ggml.KEY` set, or removed for `None`.
fn with(mut metadata: Metadata, key: &str, value: Option<Value>) -> Metadata {
    let key = if key == "chat_template" { "tokenizer.chat_template".into() } else { format!("tokenizer.ggml.{key}") };
    metadata.retain(|(k, _)| *k != key);
    metadata.extend(value.map(|v| (key, v)));
    metadata
}

fn load(metadata: &Metadata) -> Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    let metadata: Vec<(&str, Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    let bytes = GgufWriter::new(Vec::new(), Path::new("t.gguf"), &metadata, &[]).unwrap().finish().unwrap();
    let path = file(dir.path(), "t.gguf", bytes);
    Tokenizer::from_gguf(&Gguf::open(&path, &Limits::default()).unwrap())
}

/// A file as llama.cpp's converter would write it for a tokenizer.json of byte-level BPE.
fn converted(json: &serde_json::Value) -> Metadata {
    let mut tokens: Vec<(u64, &str)> =
        json["model"]["vocab"].as_object().unwrap().iter().map(|(t, id)| (id.as_u64().unwrap(), t.as_str())).collect();
    tokens.sort_unstable();
    let pair = |m: &serde_json::Value| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap());
    let merges: Vec<String> = json["model"]["merges"].as_array().unwrap().iter().map(pair).collect();
    let kinds: Vec<i32> = (0..tokens.len()).map(|id| if id == 0 { 3 } else { 1 }).collect();
    let mut metadata = Vec::new();
    for (key, value) in [
        ("model", "gpt2".into()),
        ("pre", "gpt-2".into()),
        ("tokens", tokens.iter().map(|(_, t)| *t).collect::<Vec<_>>().into()),
        ("token_type", kinds.into()),
        ("merges", merges.into()),
        ("eos_token_id", 0u32.into()),
        ("chat_template", "{{ messages }}".into()),
    ] {
        metadata = with(metadata, key, Some(value));
    }
    metadata
}

fn trained_gguf() -> Metadata {
    converted(&serde_json::from_slice(&trained().files().unwrap()[0].1).unwrap())
}

#[test]
fn a_converted_tokenizer_gives_the_same_ids() {
    let tokenizer = load(&trained_gguf()).unwrap();
    let text = corpus("heldout.txt") + "<|endoftext|>";
    let ids = trained().encode(&text).unwrap();
    assert_eq!(tokenizer.encode(&text).unwrap(), ids);
    assert_eq!(tokenizer.decode(&ids).unwrap(), trained().decode(&ids).unwrap());
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_token()), (600, Some(0)));

    // The generated directory, too; and it says what the file said.
    let dir = directory_of(&tokenizer);
    let again = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(again.encode(&text).unwrap(), ids);
    assert_eq!(again.end_token(), Some(0));
    let files = tokenizer.files().unwrap();
    assert_eq!(files.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["tokenizer.json", "tokenizer_config.json"]);
    let config: serde_json::Value = serde_json::from_slice(&files[1].1).unwrap();
    assert_eq!(
        config,
        serde_json::json!({
            "clean_up_tokenization_spaces": false, "eos_token": "<|endoftext|>", "chat_template": "{{ messages }}",
            "tokenizer_class": "PreTrainedTokenizerFast",
        })
    );
}

/// The words of `text`, seen through merges that go over digits, spaces and line ends.
fn check_words(pre: &str, text: &str, want: &[&str]) {
    let base = trained().files().unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&base[0].1).unwrap();
    let mut vocab: Vec<String> = json["model"]["vocab"].as_object().unwrap().keys().take(257).cloned().collect();
    let merges = [("1", "2"), ("12", "3"), ("Ġ", "Ġ"), ("Ġ", "1"), ("!", "Ċ"), ("Ċ", "Ċ"), ("Ã", "©")];
    vocab.extend(merges.iter().map(|(l, r)| format!("{l}{r}")));
    // A token that no merge makes.
    vocab.push("xyz".into());
    json["model"]["vocab"] =
        (0u32..).zip(&vocab).map(|(id, t)| (t.clone(), id.into())).collect::<serde_json::Map<_, _>>().into();
    json["model"]["merges"] = merges.iter().map(|(l, r)| serde_json::json!([l, r])).collect::<Vec<_>>().into();
    let tokenizer = load(&with(converted(&json), "pre", Some(pre.into()))).unwrap();
    let got: Vec<&str> = tokenizer.encode(text).unwrap().iter().map(|&id| vocab[id as usize].as_str()).collect();
    assert_eq!(got, want, "{pre}: {text:?}");
}

#[test]
fn pre_tokenizers_cut_where_their_models_do() {
    check_words("gpt-2", "41231", &["4", "123", "1"]);
    check_words("smollm", "41231", &["4", "1", "2", "3", "1"]);
    check_words("llama-bpe", "41231", &["4", "12", "3", "1"]);
    check_words("qwen2", "41231", &["4", "1", "2", "3", "1"]);

    check_words("default", "x  1", &["x", "Ġ", "Ġ1"]);
    check_words("smollm", "x  1", &["x", "ĠĠ", "1"]);
    check_words("llama3", "x  1", &["x", "Ġ", "Ġ", "1"]);

    check_words("gpt-2", "!\n", &["!", "Ċ"]);
    check_words("llama-bpe", "!\n", &["!Ċ"]);
    check_words("qwen2", "!\n", &["!Ċ"]);

    // Llama 3 takes a word that is a token as it is; Qwen 2 composes accents first.
    check_words("llama-bpe", "xyz", &["xyz"]);
    check_words("gpt-2", "xyz", &["x", "y", "z"]);
    check_words("qwen2", "e\u{301}", &["Ã©"]);
    check_words("gpt-2", "e\u{301}", &["e", "Ì", "ģ"]);
}

#[test]
fn kinds_of_tokens() {
    let metadata = trained_gguf();
    let mut kinds = vec![1i32; 600];
    kinds[0] = 3;
    kinds[300] = 4;
    let tokenizer = load(&with(metadata.clone(), "token_type", Some(kinds.into()))).unwrap();
    // A user-defined token is found as a whole, and is text.
    let defined = tokenizer.decode(&[300]).unwrap();
    assert!(!defined.is_empty());
    assert!(tokenizer.encode(&format!("x{defined}x")).unwrap().contains(&300));

    // What the file names is special even where its kind does not say so, because Transformers makes it so.
    let tokenizer = load(&with(with(metadata.clone(), "token_type", None), "bos_token_id", Some(1u32.into()))).unwrap();
    assert_eq!(tokenizer.decode(&[0, 1]).unwrap(), "");
    assert_eq!(load(&with(metadata, "eos_token_id", None)).unwrap().end_token(), None);
}

#[test]
fn a_first_token_is_added_by_the_generated_files_only() {
    let mut metadata = with(trained_gguf(), "bos_token_id", Some(0u32.into()));
    metadata = with(metadata, "add_bos_token", Some(true.into()));
    let tokenizer = load(&metadata).unwrap();
    assert_eq!(tokenizer.encode("low").unwrap(), trained().encode("low").unwrap());
    let json: serde_json::Value = serde_json::from_slice(&tokenizer.files().unwrap()[0].1).unwrap();
    let template = &json["post_processor"]["processors"][1];
    assert_eq!(template["single"][0]["SpecialToken"]["id"], "<|endoftext|>");
    assert_eq!(template["special_tokens"]["<|endoftext|>"]["ids"], serde_json::json!([0]));
}

#[test]
fn wrong_metadata_is_an_error() {
    let good = trained_gguf();
    let check = |key: &str, value: Option<Value>, parts: &[&str]| {
        check_error(load(&with(good.clone(), key, value)), &[&["t.gguf"], parts].concat());
    };
    for key in ["model", "tokens", "merges"] {
        check(key, None, &["tokenizer.ggml", key, "missing"]);
        check(key, Some(5u32.into()), &["tokenizer.ggml", key, "a u32"]);
    }
    check("model", Some("bert".into()), &["`bert`", "gpt2", "llama"]);
    check("pre", Some("unheard-of".into()), &["`unheard-of`", "smollm", "llama-bpe", "qwen2"]);
    check("pre", Some(1u32.into()), &["pre", "a string"]);
    check("tokens", Some(Vec::<&str>::new().into()), &["600 items", "0 tokens"]);
    check("token_type", Some(vec![1i32; 599].into()), &["599 items", "600 tokens"]);
    check("token_type", Some(vec![7i32; 600].into()), &["token 0 is 7", "1 to 6"]);
    check("token_type", Some(vec![1.0f32; 600].into()), &["token_type", "integers", "f32"]);
    check("merges", Some(vec!["ab"].into()), &["merges[0]", "`ab`", "two tokens"]);
    check("merges", Some(vec!["zzz l"].into()), &["merges", "`zzz`", "no token"]);
    check("eos_token_id", Some(600u32.into()), &["eos_token_id is 600", "600 tokens"]);
    check("eos_token_id", Some((-1i32).into()), &["eos_token_id", "-1"]);
    check("eos_token_id", Some("x".into()), &["eos_token_id", "integer"]);
    check("chat_template", Some(1u32.into()), &["chat_template", "a string"]);
    let mut tokens: Vec<String> = (0..600).map(|i| format!("t{i}")).collect();
    tokens[7] = "t5".into();
    check("tokens", Some(tokens.clone().into()), &["tokens 5 and 7", "`t5`"]);
    tokens[7] = String::new();
    check("tokens", Some(tokens.into()), &["token 7 is empty"]);
}

/// Pieces over a small alphabet with the scores of a trained SentencePiece model: the longer the later, no two the same.
struct Pieces {
    pieces: Vec<String>,
    scores: Vec<f32>,
}

static PIECES: LazyLock<Pieces> = LazyLock::new(|| {
    let mut pieces: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    pieces.extend((0..=255).map(|b| format!("<0x{b:02X}>")));
    let letters = ["a", "b", "c", "▁"];
    let mut words: Vec<String> = letters.map(String::from).into();
    for length in 2..=4u32 {
        for n in 0..4u32.pow(length) {
            let word: String = (0..length).map(|i| letters[(n / 4u32.pow(i) % 4) as usize]).collect();
            // Some of them, in no order that the alphabet knows.
            if (n * 7 + length * 5) % 11 < 4 {
                words.push(word);
            }
        }
    }
    let scores = words.iter().enumerate().map(|(i, _)| -((i * 37 % words.len()) as f32) - 1.0);
    let scores = std::iter::repeat_n(0.0, pieces.len()).chain(scores).collect();
    pieces.extend(words);
    Pieces { pieces, scores }
});

fn sentence_piece() -> Metadata {
    let Pieces { pieces, scores } = &*PIECES;
    let kinds: Vec<i32> =
        (0..pieces.len()).map(|id| [2, 3, 3].get(id).copied().unwrap_or(if id < 259 { 6 } else { 1 })).collect();
    let mut metadata = Vec::new();
    for (key, value) in [
        ("model", "llama".into()),
        ("tokens", pieces.clone().into()),
        ("scores", scores.clone().into()),
        ("token_type", kinds.into()),
        ("bos_token_id", 1u32.into()),
        ("eos_token_id", 2u32.into()),
        ("unknown_token_id", 0u32.into()),
    ] {
        metadata = with(metadata, key, Some(value));
    }
    metadata
}

/// SentencePiece as its paper has it: from single characters on, the neighbours that make the piece with the best score become that piece, the
/// leftmost first; what is no piece becomes bytes.
fn naive(text: &str) -> Vec<u32> {
    let ids: HashMap<&str, u32> = PIECES.pieces.iter().map(String::as_str).zip(0..).collect();
    let score = |s: &str| ids.get(s).map(|&id| PIECES.scores[id as usize]);
    let text = if text.is_empty() { String::new() } else { format!("▁{}", text.replace(' ', "▁")) };
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for i in 1..symbols.len() {
            if let Some(s) = score(&symbols[i - 1..=i].concat())
                && best.is_none_or(|(b, _)| b < s)
            {
                best = Some((s, i));
            }
        }
        let Some((_, i)) = best else { break };
        let right = symbols.remove(i);
        symbols[i - 1] += &right;
    }
    let bytes = |s: &String| s.bytes().map(|b| ids[format!("<0x{b:02X}>").as_str()]).collect::<Vec<_>>();
    symbols.iter().flat_map(|s| ids.get(s.as_str()).map_or_else(|| bytes(s), |&id| vec![id])).collect()
}

proptest! {
    #[test]
    fn sentence_piece_is_its_definition(text in "[abc ]{0,30}|[abcé🦀\\n ]{0,12}") {
        static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| load(&sentence_piece()).unwrap());
        let ids = TOKENIZER.encode(&text).unwrap();
        prop_assert_eq!(&ids, &naive(&text));
        prop_assert_eq!(TOKENIZER.decode(&ids).unwrap(), text);
    }
}

#[test]
fn sentence_piece_files() {
    let tokenizer = load(&sentence_piece()).unwrap();
    assert_eq!(tokenizer.end_token(), Some(2));
    assert_eq!(tokenizer.encode("a</s>").unwrap().last(), Some(&2));
    // The first token of these models, unless the file says otherwise.
    let post_processor = |metadata: &Metadata| {
        let json: serde_json::Value = serde_json::from_slice(&load(metadata).unwrap().files().unwrap()[0].1).unwrap();
        json["post_processor"]["type"].as_str().map(String::from)
    };
    assert_eq!(post_processor(&sentence_piece()).as_deref(), Some("TemplateProcessing"));
    assert_eq!(post_processor(&with(sentence_piece(), "add_bos_token", Some(false.into()))), None);
    // Without a space in front.
    let bare = load(&with(sentence_piece(), "add_space_prefix", Some(false.into()))).unwrap();
    assert_eq!(bare.encode("a").unwrap(), [bare.token_id("a").unwrap()]);
    assert_eq!(bare.decode(&bare.encode(" a b").unwrap()).unwrap(), " a b");

    let check = |key: &str, value: Option<Value>, parts: &[&str]| {
        check_error(load(&with(sentence_piece(), key, value)), &[&["t.gguf"], parts].concat());
    };
    check("scores", None, &["scores", "missing"]);
    check("scores", Some(vec![0.0f32; 5].into()), &["scores", "5 items"]);
    check("scores", Some(vec![f32::NAN; PIECES.pieces.len()].into()), &["scores[0]", "not a number"]);
    let renamed: Vec<String> = PIECES.pieces.iter().map(|p| p.replace("<0x", "<byte ")).collect();
    let without_bytes = with(sentence_piece(), "tokens", Some(renamed.into()));
    assert_eq!(load(&without_bytes).unwrap().encode("é").unwrap().last(), Some(&0));
    check_error(load(&with(without_bytes, "unknown_token_id", None)), &["256 bytes", "unknown"]);
}
