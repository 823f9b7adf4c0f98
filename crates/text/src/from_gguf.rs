//! The tokenizer inside a GGUF, written as the tokenizer.json that Hugging Face's converters would have started from.
//!
//! A GGUF names its pre-tokenizer (`tokenizer.ggml.pre`) instead of holding it; what the names mean is llama.cpp's `llm_tokenizer_bpe`, and the
//! JSON is what the models themselves were published with.
use crate::{Error, Result};
use paring_checkpoint::Gguf;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// A tokenizer in Hugging Face's files.
pub(crate) struct Converted {
    /// tokenizer.json
    pub(crate) tokenizer: String,
    /// tokenizer_config.json
    pub(crate) config: Value,
    /// The end token.
    pub(crate) end: Option<u32>,
}

/// Reads the metadata `tokenizer.*`.
///
/// # Errors
/// Missing or wrong keys, kinds that are not supported, lists that contradict each other.
pub(crate) fn convert(gguf: &Gguf) -> Result<Converted> {
    let vocab = Vocab::read(gguf)?;
    let mut parts = match gguf.get_str("tokenizer.ggml.model")? {
        "gpt2" => byte_level(gguf, &vocab)?,
        "llama" => sentence_piece(gguf, &vocab)?,
        other => {
            let problem = format!(
                "the kind `{other}` is not supported; supported: gpt2 (byte-level BPE), llama (SentencePiece BPE)"
            );
            return Err(unusable(gguf, problem));
        }
    };
    let adds_bos = if gguf.contains_key(ADD_BOS) { gguf.get_bool(ADD_BOS)? } else { parts.adds_bos };
    if let (true, Some(id)) = (adds_bos, vocab.bos) {
        parts.post_processor = add_first(&parts.post_processor, vocab.token(id), id);
    }
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocab.added(),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": parts.post_processor,
        "decoder": parts.decoder,
        "model": parts.model,
    });
    let mut config = Map::new();
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    for (name, id) in [("bos", vocab.bos), ("eos", vocab.eos), ("pad", vocab.pad), ("unk", vocab.unk)] {
        if let Some(id) = id {
            config.insert(format!("{name}_token"), vocab.token(id).into());
        }
    }
    if gguf.contains_key(TEMPLATE) {
        config.insert("chat_template".into(), gguf.get_str(TEMPLATE)?.into());
    }
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    Ok(Converted { tokenizer: tokenizer.to_string(), config: config.into(), end: vocab.eos })
}

const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const TEMPLATE: &str = "tokenizer.chat_template";

/// The parts of a tokenizer.json that differ between kinds.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Value,
    /// Whether the kind puts a first token in front of a text when the file does not say.
    adds_bos: bool,
}

/// What a token is for: `llama_token_type` of llama.cpp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens and what is said about them.
struct Vocab<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<Kind>,
    ids: HashMap<&'a str, u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
}

impl<'a> Vocab<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self> {
        let tokens = gguf.get_str_array("tokenizer.ggml.tokens")?;
        let key = "tokenizer.ggml.token_type";
        let kinds = match gguf.contains_key(key) {
            true => gguf
                .get_i32_array(key)?
                .into_iter()
                .enumerate()
                .map(|(id, n)| kind(gguf, id, n))
                .collect::<Result<_>>()?,
            false => vec![Kind::Normal; tokens.len()],
        };
        same_length(gguf, key, kinds.len(), tokens.len())?;
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, &token) in (0..).zip(&tokens) {
            if token.is_empty() {
                return Err(unusable(gguf, format!("token {id} is empty")));
            }
            if let Some(first) = ids.insert(token, id) {
                return Err(unusable(gguf, format!("tokens {first} and {id} are both `{token}`")));
            }
        }
        let special = |name| special_id(gguf, name, tokens.len());
        let (bos, eos) = (special("bos")?, special("eos")?);
        let (pad, unk) = (special("padding")?, special("unknown")?);
        Ok(Vocab { tokens, kinds, ids, bos, eos, pad, unk })
    }

    fn token(&self, id: u32) -> &'a str {
        self.tokens[id as usize]
    }

    /// `added_tokens` of tokenizer.json: tokens that are found in a text before anything else happens to it.
    fn added(&self) -> Vec<Value> {
        let named = [self.bos, self.eos, self.pad, self.unk];
        let mut added = Vec::new();
        for (id, (&content, &kind)) in (0..).zip(self.tokens.iter().zip(&self.kinds)) {
            // Transformers makes those that tokenizer_config.json names special; so they are here.
            let special = matches!(kind, Kind::Control | Kind::Unknown) || named.contains(&Some(id));
            if special || kind == Kind::UserDefined {
                added.push(json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                    "special": special,
                }));
            }
        }
        added
    }

    fn json(&self) -> Map<String, Value> {
        (0u32..).zip(&self.tokens).map(|(id, &token)| (token.to_string(), id.into())).collect()
    }
}

fn kind(gguf: &Gguf, id: usize, n: i32) -> Result<Kind> {
    Ok(match n {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        _ => return Err(unusable(gguf, format!("tokenizer.ggml.token_type of token {id} is {n}, expected 1 to 6"))),
    })
}

fn special_id(gguf: &Gguf, name: &str, n_tokens: usize) -> Result<Option<u32>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    if !gguf.contains_key(&key) {
        return Ok(None);
    }
    let id = gguf.get_u32(&key)?;
    if n_tokens <= id as usize {
        return Err(unusable(gguf, format!("{key} is {id}, but there are {n_tokens} tokens")));
    }
    Ok(Some(id))
}

/// Byte-level BPE: tokens in GPT-2's alphabet for bytes, merges in the order they apply.
fn byte_level(gguf: &Gguf, vocab: &Vocab) -> Result<Parts> {
    let key = "tokenizer.ggml.merges";
    let mut merges = Vec::new();
    for (i, merge) in gguf.get_str_array(key)?.into_iter().enumerate() {
        let wrong = |problem: String| unusable(gguf, format!("{key}[{i}] is `{merge}`, {problem}"));
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(wrong("expected two tokens with a space between them".into()));
        };
        for part in [left, right, &[left, right].concat()] {
            if !vocab.ids.contains_key(part) {
                return Err(wrong(format!("but `{part}` is no token")));
            }
        }
        merges.push([left, right]);
    }
    let key = "tokenizer.ggml.pre";
    let pre = if gguf.contains_key(key) { gguf.get_str(key)? } else { "default" };
    let pre = PreTokenizer::named(pre).ok_or_else(|| {
        let known = PreTokenizer::NAMES.map(|(name, _)| name).join(", ");
        unusable(gguf, format!("the pre-tokenizer `{pre}` is not supported; supported: {known}"))
    })?;
    Ok(Parts {
        normalizer: if pre == PreTokenizer::Qwen2 { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre.json(),
        post_processor: byte_level_json(true),
        decoder: byte_level_json(true),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": pre == PreTokenizer::Llama3, "vocab": vocab.json(), "merges": merges,
        }),
        adds_bos: false,
    })
}

/// How a text is cut into words, inside of which the merges apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PreTokenizer {
    /// Contractions, letters, digits, other characters, each with a space before it.
    Gpt2,
    /// The same after every digit was cut out.
    SmolLm,
    /// Digits in groups of up to three, line ends with the punctuation before them.
    Llama3,
    /// The same with single digits.
    Qwen2,
}

impl PreTokenizer {
    /// Names in llama.cpp. Files from before it had names say nothing or `default`, which Transformers takes for GPT-2's as well.
    const NAMES: [(&str, PreTokenizer); 10] = [
        ("default", PreTokenizer::Gpt2),
        ("gpt-2", PreTokenizer::Gpt2),
        ("gpt2", PreTokenizer::Gpt2),
        ("smollm", PreTokenizer::SmolLm),
        ("starcoder", PreTokenizer::SmolLm),
        ("llama-bpe", PreTokenizer::Llama3),
        ("llama3", PreTokenizer::Llama3),
        ("llama-v3", PreTokenizer::Llama3),
        ("qwen2", PreTokenizer::Qwen2),
        ("deepseek-r1-qwen", PreTokenizer::Qwen2),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|&(_, pre)| pre)
    }

    fn json(self) -> Value {
        let first = match self {
            PreTokenizer::Gpt2 => return byte_level_json(true),
            PreTokenizer::SmolLm => json!({"type": "Digits", "individual_digits": true}),
            PreTokenizer::Llama3 => split(LLAMA3),
            PreTokenizer::Qwen2 => split(QWEN2),
        };
        let cut_again = self == PreTokenizer::SmolLm;
        json!({"type": "Sequence", "pretokenizers": [first, byte_level_json(cut_again)]})
    }
}

/// How Llama 3 cuts digits.
pub(crate) const LLAMA3: &str = r"\p{N}{1,3}";

/// How Qwen 2 does.
pub(crate) const QWEN2: &str = r"\p{N}";

/// The expression of GPT-4's family of tokenizers, in which only the digits differ.
pub(crate) fn split_regex(digits: &str) -> String {
    let contractions_and_letters = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+";
    let others_and_space = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    format!("{contractions_and_letters}|{digits}|{others_and_space}")
}

fn split(digits: &str) -> Value {
    let pattern = json!({"Regex": split_regex(digits)});
    json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
}

/// Bytes as characters; `use_regex` cuts with GPT-2's expression.
fn byte_level_json(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

/// SentencePiece's BPE: pieces with scores instead of merges, spaces as `▁`, and bytes for what is no piece.
fn sentence_piece(gguf: &Gguf, vocab: &Vocab) -> Result<Parts> {
    let key = "tokenizer.ggml.scores";
    let scores = gguf.get_f32_array(key)?;
    same_length(gguf, key, scores.len(), vocab.tokens.len())?;
    if let Some(id) = scores.iter().position(|s| s.is_nan()) {
        return Err(unusable(gguf, format!("{key}[{id}] is not a number")));
    }
    let byte_token = |byte| vocab.ids.contains_key(format!("<0x{byte:02X}>").as_str());
    let byte_fallback = (0..=u8::MAX).all(byte_token);
    if !byte_fallback && vocab.unk.is_none() {
        return Err(unusable(
            gguf,
            "neither all 256 bytes nor an unknown token, so that not every text has ids".into(),
        ));
    }
    let key = "tokenizer.ggml.add_space_prefix";
    let prefix = if gguf.contains_key(key) { gguf.get_bool(key)? } else { true };
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", "▁")];
    let mut decoders = vec![replace("▁", " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        post_processor: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": vocab.unk.map(|id| vocab.token(id)), "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": byte_fallback, "ignore_merges": false, "vocab": vocab.json(),
            "merges": merges(vocab, &scores),
        }),
        adds_bos: true,
    })
}

/// The merges that make the pieces, best score first: SentencePiece joins whatever neighbours make the piece with the best score.
fn merges<'a>(vocab: &Vocab<'a>, scores: &[f32]) -> Vec<[&'a str; 2]> {
    let is_piece = |id: u32| matches!(vocab.kinds[id as usize], Kind::Normal | Kind::UserDefined);
    let piece = |text: &str| vocab.ids.get(text).copied().filter(|&id| is_piece(id));
    let mut merges = Vec::new();
    for (id, &token) in (0u32..).zip(&vocab.tokens) {
        if !is_piece(id) {
            continue;
        }
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(l), Some(r)) = (piece(left), piece(right)) {
                merges.push((id, l, r, [left, right]));
            }
        }
    }
    let score = |id: u32| scores[id as usize];
    merges.sort_by(|a, b| score(b.0).total_cmp(&score(a.0)).then((a.0, a.1, a.2).cmp(&(b.0, b.1, b.2))));
    merges.into_iter().map(|(.., pair)| pair).collect()
}

/// `post_processor`, and `token` in front of every text when special tokens are asked for.
fn add_first(post_processor: &Value, token: &str, id: u32) -> Value {
    let first = json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |which: &str| json!({"Sequence": {"id": which, "type_id": 0}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [first, text("A")],
        "pair": [first, text("A"), first, text("B")],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    });
    match post_processor {
        Value::Null => template,
        other => json!({"type": "Sequence", "processors": [other, template]}),
    }
}

fn same_length(gguf: &Gguf, key: &str, got: usize, want: usize) -> Result<()> {
    if got == want {
        return Ok(());
    }
    Err(unusable(gguf, format!("{key} has {got} items, expected one for each of the {want} tokens")))
}

fn unusable(gguf: &Gguf, problem: String) -> Error {
    Error::Tokenizer { path: gguf.path().into(), problem }
}
