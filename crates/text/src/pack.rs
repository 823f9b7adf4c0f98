//! Texts and token files as the windows that models are calibrated, trained and measured on.
use crate::{Error, Result, Tokenizer, documents::json_lines, read_documents};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// The texts in `files` as windows of `context` ids: the documents without special tokens, each followed by the end token, one after the other,
/// cut without padding. What is left at the end is dropped. With `limit`, at most so many windows, and nothing is read after them.
///
/// An empty document still gives its end token, as in Python `text.split("\f")` does.
///
/// # Errors
/// Those of [`read_documents`] and [`Tokenizer::encode`], [`Error::NoEndToken`], [`Error::NoText`] when all documents are empty,
/// [`Error::TooShort`] when there are fewer tokens than one window, [`Error::Argument`] for windows of fewer than two tokens or none of them.
pub fn pack(tokenizer: &Tokenizer, files: &[PathBuf], context: usize, limit: Option<usize>) -> Result<Vec<Vec<u32>>> {
    Ok(pack_documents(tokenizer, files, context, limit)?.into_iter().map(|w| w.ids).collect())
}

/// A window, and where its documents end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Tokens of each document's part of the window, in order, end tokens included: none is zero, and they add up to the window.
    pub documents: Vec<usize>,
}

/// As [`pack`], with the boundaries of documents.
///
/// # Errors
/// Those of [`pack`].
pub fn pack_documents(
    tokenizer: &Tokenizer,
    files: &[PathBuf],
    context: usize,
    limit: Option<usize>,
) -> Result<Vec<Window>> {
    if context < LEAST {
        let problem = format!("{context} tokens, expected at least {LEAST}: one to see and one to predict");
        return Err(Error::Argument { name: "context", problem });
    }
    let limit = window_limit(limit)?;
    let end = tokenizer.end_token().ok_or_else(|| Error::NoEndToken { path: tokenizer.path().into() })?;
    let mut windows = Vec::new();
    // Ids that are not in a window yet: fewer than `context` between two documents. And where documents end in them.
    let (mut rest, mut ends): (Vec<u32>, Vec<usize>) = (Vec::new(), Vec::new());
    let mut text_seen = false;
    'read: for path in files {
        for document in read_documents(path)? {
            let document = document?;
            text_seen |= !document.is_empty();
            rest.extend(tokenizer.encode(&document)?);
            rest.push(end);
            ends.push(rest.len());
            let mut full = rest.chunks_exact(context);
            for (i, ids) in full.by_ref().take(limit - windows.len()).enumerate() {
                windows.push(Window { ids: ids.to_vec(), documents: cut(&ends, i * context..(i + 1) * context) });
            }
            if windows.len() == limit {
                break 'read;
            }
            let taken = rest.len() - full.remainder().len();
            rest = full.remainder().to_vec();
            ends = ends.into_iter().filter(|&e| taken < e).map(|e| e - taken).collect();
        }
    }
    match windows.is_empty() {
        // Windows of nothing but end tokens teach nothing, and their loss means nothing.
        _ if !text_seen => Err(Error::NoText { paths: files.to_vec() }),
        true => Err(Error::TooShort { paths: files.to_vec(), tokens: rest.len(), context }),
        false => Ok(windows),
    }
}

/// Lengths of the parts that documents' `ends`, ascending, cut `window` into.
fn cut(ends: &[usize], window: Range<usize>) -> Vec<usize> {
    let inside = ends.iter().copied().filter(|e| window.start < *e && *e < window.end);
    let mut last = window.start;
    let length = |end: usize| end - std::mem::replace(&mut last, end);
    inside.chain([window.end]).map(length).collect()
}

/// The windows in a .jsonl file of arrays of ids below `vocab`; at most `limit`. Lengths may differ.
///
/// # Errors
/// [`Error::Line`] for what is no array of ids below `vocab`, or shorter than two (nothing to predict); [`Error::NoText`] for no line at all;
/// those of [`read_documents`].
pub fn read_token_windows(path: &Path, vocab: usize, limit: Option<usize>) -> Result<Vec<Vec<u32>>> {
    let limit = window_limit(limit)?;
    let mut windows = Vec::new();
    for line in json_lines(path)? {
        let (line, json) = line?;
        let wrong = |problem| Error::Line { path: path.into(), line, problem };
        windows.push(window(&json, vocab).map_err(wrong)?);
        if windows.len() == limit {
            break;
        }
    }
    if windows.is_empty() { Err(Error::NoText { paths: vec![path.into()] }) } else { Ok(windows) }
}

/// Tokens of the shortest window: one to see and one to predict.
const LEAST: usize = 2;

fn window(json: &serde_json::Value, vocab: usize) -> std::result::Result<Vec<u32>, String> {
    let items = json.as_array().ok_or_else(|| format!("expected an array of token ids, got {}", kind(json)))?;
    let id = |(i, item): (usize, &serde_json::Value)| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < vocab);
        id.ok_or_else(|| format!("item {} is {}, expected a token id below {vocab}", i + 1, short(item)))
    };
    let ids: Vec<u32> = items.iter().enumerate().map(id).collect::<std::result::Result<_, _>>()?;
    match ids.len() {
        n if n < LEAST => Err(format!("{n} tokens, expected at least {LEAST}: one to see and one to predict")),
        _ => Ok(ids),
    }
}

/// What a JSON value is, for messages.
pub(crate) fn kind(json: &serde_json::Value) -> &'static str {
    use serde_json::Value::{Array, Bool, Null, Number, Object, String};
    match json {
        Null => "null",
        Bool(_) => "a boolean",
        Number(_) => "a number",
        String(_) => "a string",
        Array(_) => "an array",
        Object(_) => "an object",
    }
}

/// A number as it is, anything else by its kind: it can be long.
fn short(json: &serde_json::Value) -> String {
    if json.is_number() { json.to_string() } else { kind(json).to_string() }
}

fn window_limit(limit: Option<usize>) -> Result<usize> {
    match limit {
        Some(0) => Err(Error::Argument { name: "windows", problem: "0, expected at least one".into() }),
        limit => Ok(limit.unwrap_or(usize::MAX)),
    }
}
