//! Which token ends a document.
use crate::{Error, Result, files, open::cannot_read};
use paring_checkpoint::{Limits, read_json};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The end token that the files of a checkpoint directory name, if any does.
///
/// # Errors
/// Files that cannot be read, [`Error::EndToken`] when the tokenizer does not have it.
pub(crate) fn find(dir: &Path, tokenizer: &tokenizers::Tokenizer, vocab: usize) -> Result<Option<u32>> {
    if let Some((path, config)) = json(dir, files::CONFIG)? {
        // Either the token, or an object that says how it is matched.
        let eos = &config["eos_token"];
        if let Some(token) = eos.as_str().or_else(|| eos["content"].as_str()) {
            let unknown = || Error::EndToken { path, got: format!("`{token}`"), vocab };
            return Ok(Some(tokenizer.token_to_id(token).ok_or_else(unknown)?));
        }
    }
    for name in ["generation_config.json", "config.json"] {
        if let Some((path, config)) = json(dir, name)? {
            let id = match &config["eos_token_id"] {
                // Those after the first end a turn of a conversation.
                Value::Array(ids) => ids.first().unwrap_or(&Value::Null),
                id => id,
            };
            if !id.is_null() {
                return check_id(&path, tokenizer, vocab, id).map(Some);
            }
        }
    }
    Ok(None)
}

/// `id`, when it is a number that a token has. `path` is the file that says it.
///
/// # Errors
/// [`Error::EndToken`].
pub(crate) fn check_id(path: &Path, tokenizer: &tokenizers::Tokenizer, vocab: usize, id: &Value) -> Result<u32> {
    let known = id.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| tokenizer.id_to_token(id).is_some());
    known.ok_or_else(|| Error::EndToken { path: path.into(), got: id.to_string(), vocab })
}

/// The JSON file `name` of `dir`, if there is one.
fn json(dir: &Path, name: &str) -> Result<Option<(PathBuf, Value)>> {
    let path = dir.join(name);
    if !path.try_exists().map_err(|e| cannot_read(&path, e))? {
        return Ok(None);
    }
    let value = read_json(&path, &Limits::default())?;
    Ok(Some((path, value)))
}
