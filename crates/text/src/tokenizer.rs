//! The tokenizer of a model: a `tokenizer.json`, whether it lies in a directory, was made from a GGUF or was trained here.
use crate::{Error, Result, Stream, cut, end_token, fence::fenced, files, from_gguf};
use paring_checkpoint::{Gguf, Limits, parse_json};
use serde_json::Value;
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};
use tokenizers::PostProcessorWrapper;

/// Text to ids and back. Cloning is cheap.
///
/// The ids are those of Hugging Face's `tokenizers`, of which this is a careful wrapper: truncation, padding and anything random that a
/// file may ask for are off, special tokens are never added, and a panic of the parser is an error.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    tokenizer: tokenizers::Tokenizer,
    /// Long texts may be cut: see [`cut`].
    can_cut: bool,
    vocab: usize,
    end: Option<u32>,
    files: Vec<(String, Vec<u8>)>,
}

impl Tokenizer {
    /// The tokenizer of a Hugging Face checkpoint directory.
    ///
    /// The end token is `eos_token` of tokenizer_config.json, else `eos_token_id` (the first, if it is a list) of generation_config.json,
    /// else of config.json, else there is none.
    ///
    /// # Errors
    /// No tokenizer.json, files that cannot be read, a tokenizer that cannot be used, an end token that it does not have.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join(files::TOKENIZER);
        let files = files::read(dir)?;
        let json = files::text(&path, &files, files::TOKENIZER)?;
        let (tokenizer, can_cut) = parse(&path, json)?;
        let vocab = id_count(&path, &tokenizer)?;
        let end = end_token::find(dir, &tokenizer, vocab)?;
        Ok(Tokenizer { inner: Arc::new(Inner { path, tokenizer, can_cut, vocab, end, files }) })
    }

    /// The tokenizer inside a GGUF: byte-level BPE (`gpt2`) with a known pre-tokenizer, or SentencePiece BPE (`llama`).
    ///
    /// # Errors
    /// Missing or wrong metadata, kinds of tokenizers and pre-tokenizers that are not supported.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let made = from_gguf::convert(gguf)?;
        Tokenizer::from_json(gguf.path(), made.tokenizer, made.config, made.end)
    }

    /// The tokenizer that a generated tokenizer.json and tokenizer_config.json describe. `path` is where they come from.
    pub(crate) fn from_json(path: &Path, tokenizer_json: String, config: Value, end: Option<u32>) -> Result<Self> {
        let (tokenizer, can_cut) = parse(path, &tokenizer_json)?;
        let vocab = id_count(path, &tokenizer)?;
        if let Some(id) = end {
            end_token::check_id(path, &tokenizer, vocab, &id.into())?;
        }
        let files = vec![
            (files::TOKENIZER.to_string(), tokenizer_json.into_bytes()),
            (files::CONFIG.to_string(), format!("{config:#}\n").into_bytes()),
        ];
        Ok(Tokenizer { inner: Arc::new(Inner { path: path.into(), tokenizer, can_cut, vocab, end, files }) })
    }

    /// The ids of `text`, with no special tokens around it. Special tokens that are spelled out in `text` get their ids, as in Hugging Face.
    ///
    /// # Errors
    /// [`Error::Encode`], when the tokenizer does not know what to do with a character, or is broken; or when more than 16 MiB of text hang
    /// together, which would take gigabytes of memory.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let Inner { path, tokenizer, can_cut, .. } = &*self.inner;
        let failed = |problem| Error::Encode { path: path.clone(), problem };
        let mut ids = Vec::new();
        for piece in cut::pieces(text, if *can_cut { PIECE } else { text.len() }) {
            if MAX_PIECE < piece.len() {
                let problem =
                    format!("{} bytes hang together, more than {MAX_PIECE}; separate the documents", piece.len());
                return Err(failed(problem));
            }
            let encoding = fenced(|| tokenizer.encode_fast(piece, false)).map_err(failed)?;
            ids.extend_from_slice(encoding.map_err(|e| failed(e.to_string()))?.get_ids());
        }
        Ok(ids)
    }

    /// The text of `ids`, without the special tokens among them. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::UnknownId`], and [`Error::Decode`] when the tokenizer is broken.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let Inner { path, tokenizer, vocab, .. } = &*self.inner;
        // The library leaves ids out that it does not know, which would hide that a model and a tokenizer do not belong together.
        if let Some(&id) = ids.iter().find(|&&id| tokenizer.id_to_token(id).is_none()) {
            return Err(Error::UnknownId { path: path.clone(), id, vocab: *vocab });
        }
        let failed = |problem| Error::Decode { path: path.clone(), problem };
        match fenced(|| tokenizer.decode(ids, true)) {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(e)) => Err(failed(e.to_string())),
            Err(panic) => Err(failed(panic)),
        }
    }

    /// Decodes ids one by one, while they are being generated.
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(self)
    }

    /// The highest id + 1: the rows that an embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab
    }

    /// The token that ends a document.
    pub fn end_token(&self) -> Option<u32> {
        self.inner.end
    }

    /// The id of `token`, as the vocabulary spells it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.tokenizer.token_to_id(token)
    }

    /// Nothing, when an embedding of `embedding_rows` rows has one for every id. It may have more: many models round up.
    ///
    /// # Errors
    /// [`Error::TooManyIds`].
    pub fn check_fits(&self, embedding_rows: usize) -> Result<()> {
        let highest = self.inner.vocab.saturating_sub(1);
        if highest < embedding_rows {
            return Ok(());
        }
        Err(Error::TooManyIds { path: self.inner.path.clone(), highest, rows: embedding_rows })
    }

    /// Names and contents of the files that a checkpoint directory needs for this tokenizer: those of the directory it was read from, byte for
    /// byte, or a generated tokenizer.json and tokenizer_config.json.
    ///
    /// # Errors
    /// None so far: the files are read together with the tokenizer, so that they cannot differ from it.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(self.inner.files.clone())
    }

    /// Where it comes from, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.inner.path
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { path, vocab, end, .. } = &*self.inner;
        f.debug_struct("Tokenizer").field("path", path).field("vocab", vocab).field("end", end).finish_non_exhaustive()
    }
}

/// Bytes of text that are tokenised at once, where a text can be cut.
const PIECE: usize = 1 << 20;

/// The most that is tokenised at once.
const MAX_PIECE: usize = 16 << 20;

/// The tokenizer that `json` describes, with everything off that would make its ids depend on anything but the text; and whether long texts may
/// be cut for it.
fn parse(path: &Path, json: &str) -> Result<(tokenizers::Tokenizer, bool)> {
    let unusable = |problem: String| Error::Tokenizer { path: path.into(), problem };
    // Size, depth and doubled keys first: the library recurses, and lets the last of two keys win.
    let value = parse_json(path, json, &Limits::default())?;
    match &value["model"]["dropout"] {
        Value::Null => {}
        Value::Number(n) if n.as_f64() == Some(0.0) => {}
        other => {
            let problem = format!("model.dropout is {other}, which makes every tokenisation different; set it to null");
            return Err(unusable(problem));
        }
    }
    let json = json.strip_prefix('\u{feff}').unwrap_or(json);
    let parsed = fenced(|| {
        let mut tokenizer = tokenizers::Tokenizer::from_str(json)?;
        // The post-processor adds special tokens, which nobody here asks for.
        tokenizer.with_truncation(None)?.with_padding(None).with_post_processor(None::<PostProcessorWrapper>);
        Ok::<_, tokenizers::Error>(tokenizer)
    });
    let tokenizer = parsed.map_err(unusable)?.map_err(|e| unusable(e.to_string()))?;
    Ok((tokenizer, cut::can_cut(&value)))
}

/// The highest id + 1.
fn id_count(path: &Path, tokenizer: &tokenizers::Tokenizer) -> Result<usize> {
    let unusable = |problem: String| Error::Tokenizer { path: path.into(), problem };
    let vocab = fenced(|| tokenizer.get_vocab(true)).map_err(unusable)?;
    let highest = vocab.into_values().max();
    Ok(highest.ok_or_else(|| unusable("the vocabulary is empty, expected at least one token".into()))? as usize + 1)
}
