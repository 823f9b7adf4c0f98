//! Windows of token ids from `--text`, `--tokens`, or the embedded text.
use crate::{
    args::Data,
    embedded::{self, Part},
    error::{Failure, Result},
    source::{Source, hash_all},
};
use paring_text::{Window, pack_documents, read_token_windows};
use std::path::PathBuf;

/// Tokens of a window unless `--context` says otherwise.
pub(crate) const CONTEXT: usize = 512;

/// Packed windows and where they came from.
#[derive(Debug)]
pub(crate) struct Windows {
    pub(crate) windows: Vec<Vec<u32>>,
    /// BLAKE3 over the files.
    pub(crate) hash: String,
}

impl Windows {
    pub(crate) fn slices(&self) -> Vec<&[u32]> {
        self.windows.iter().map(Vec::as_slice).collect()
    }

    /// At most `n` of the windows, evenly from first to last.
    pub(crate) fn spread(&self, n: usize) -> Windows {
        Windows { windows: spread(&self.windows, n), hash: self.hash.clone() }
    }

    /// Tokens of the longest window.
    pub(crate) fn longest(&self) -> usize {
        self.windows.iter().map(Vec::len).max().unwrap_or(1)
    }

    /// Tokens of all windows.
    pub(crate) fn tokens(&self) -> u64 {
        count(&self.windows)
    }
}

/// At most `n` of `all`, evenly from first to last.
pub(crate) fn spread<T: Clone>(all: &[T], n: usize) -> Vec<T> {
    let n = n.min(all.len());
    (0..n).map(|i| all[i * all.len() / n].clone()).collect()
}

/// Tokens of windows.
pub(crate) fn count(windows: &[Vec<u32>]) -> u64 {
    windows.iter().map(|w| w.len() as u64).sum()
}

/// The length of windows that `data` asks for, which the model has positions for.
pub(crate) fn context(data: &Data, source: &Source) -> Result<usize> {
    let (context, max) = (data.context.unwrap_or(CONTEXT), source.opened.arch.max_positions);
    match context {
        0 | 1 => Err(Failure::input(format!("--context {context}: expected at least 2, or nothing is predicted"))),
        n if max < n => Err(Failure::input(format!("--context {n}: {} has only {max} positions", source.name))),
        n => Ok(n),
    }
}

/// The windows that `data` asks for, at most `--windows` or `limit` of them. `part` is the embedded text that stands in when the model is
/// the embedded teacher and no text is given.
pub(crate) fn windows(data: &Data, source: &Source, part: Part, limit: Option<usize>) -> Result<Windows> {
    if let Some(file) = &data.tokens {
        let limit = window_limit(data, limit)?;
        let mut windows = read_token_windows(file, source.opened.arch.vocab, limit)?;
        let max = source.opened.arch.max_positions;
        if let Some(n) = windows.iter().map(Vec::len).find(|n| max < *n) {
            let file = paring_checkpoint::shown_path(file);
            return Err(Failure::input(format!(
                "{file}: a window of {n} tokens, but {} has only {max} positions",
                source.name
            )));
        }
        windows.truncate(limit.unwrap_or(usize::MAX));
        return Ok(Windows { windows, hash: hash_all(std::slice::from_ref(file))? });
    }
    let (windows, hash) = texts(data, source, part, limit)?;
    Ok(Windows { windows: windows.into_iter().map(|w| w.ids).collect(), hash })
}

/// As [`windows`], and the tokens of every document in each of them: what `--mask-documents` keeps apart.
pub(crate) fn windows_of_documents(data: &Data, source: &Source, part: Part) -> Result<(Windows, Vec<Vec<usize>>)> {
    if data.tokens.is_some() {
        return Err(Failure::input(
            "--mask-documents with --tokens: a file of windows does not say where documents end; give --text FILE...",
        ));
    }
    let (windows, hash) = texts(data, source, part, None)?;
    let (ids, documents) = windows.into_iter().map(|w| (w.ids, w.documents)).unzip();
    Ok((Windows { windows: ids, hash }, documents))
}

fn window_limit(data: &Data, limit: Option<usize>) -> Result<Option<usize>> {
    match data.windows.or(limit) {
        Some(0) => Err(Failure::input("--windows 0: expected at least 1")),
        limit => Ok(limit),
    }
}

/// Windows of texts, and the hash of these.
fn texts(data: &Data, source: &Source, part: Part, limit: Option<usize>) -> Result<(Vec<Window>, String)> {
    let limit = window_limit(data, limit)?;
    let files: Vec<PathBuf> = match (data.text.is_empty(), source.embedded) {
        (false, _) => data.text.clone(),
        (true, true) => vec![embedded::corpus(part)?],
        (true, false) => return Err(Failure::input("no text; give --text FILE... or --tokens FILE")),
    };
    let windows = pack_documents(&source.tokenizer()?, &files, context(data, source)?, limit)?;
    Ok((windows, hash_all(&files)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_windows_come_from_everywhere_and_once() {
        let all = Windows { windows: (0..10).map(|i| vec![i]).collect(), hash: String::new() };
        assert_eq!(all.spread(4).windows, [[0], [2], [5], [7]]);
        assert_eq!(all.spread(10).windows, all.windows);
        assert_eq!(all.spread(99).windows, all.windows);
        assert_eq!(all.spread(1).windows, [[0]]);
    }
}
