//! The tokenizer's files beside the weights.
use crate::{
    Error, Result,
    open::{cannot_read, read_bytes},
};
use paring_checkpoint::{Error as FileError, Limits};
use std::path::Path;

/// The tokenizer itself.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// Which class of Transformers reads it, its special tokens, and the chat template.
pub(crate) const CONFIG: &str = "tokenizer_config.json";

/// All that a program may look for, [`TOKENIZER`] first. Older programs read the others instead of it.
const NAMES: [&str; 10] = [
    TOKENIZER,
    CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
];

/// Those of [`NAMES`] that are in `dir`, and their contents.
///
/// # Errors
/// When one cannot be read or is too large, or there is no [`TOKENIZER`].
pub(crate) fn read(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for name in NAMES {
        let path = dir.join(name);
        if path.try_exists().map_err(|e| cannot_read(&path, e))? {
            files.push((name.to_string(), read_bytes(&path, Limits::default().json_bytes)?));
        } else if name == TOKENIZER {
            let problem = "the file is missing; give the directory of a Hugging Face model, and if that has only a tokenizer.model or vocab.json, \
                           write it with AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) in Python";
            return Err(Error::Tokenizer { path, problem: problem.into() });
        }
    }
    Ok(files)
}

/// The file `name` of `files` as text; `path` is where it came from.
///
/// # Errors
/// When it is not UTF-8, or missing.
pub(crate) fn text<'a>(path: &Path, files: &'a [(String, Vec<u8>)], name: &str) -> Result<&'a str> {
    let bytes = files.iter().find(|(n, _)| n == name).map_or(&[][..], |(_, bytes)| bytes);
    let malformed = |byte| FileError::Malformed {
        path: path.into(),
        field: format!("byte {byte}"),
        problem: "is not UTF-8, expected text".into(),
    };
    Ok(std::str::from_utf8(bytes).map_err(|e| malformed(e.valid_up_to()))?)
}
