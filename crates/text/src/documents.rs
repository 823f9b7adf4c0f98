//! Texts from files, document by document, without holding a file in memory.
use crate::{Error, Result, open::cannot_read, pack::kind, zstd::Zstd};
use flate2::bufread::MultiGzDecoder;
use paring_checkpoint::{Error as FileError, Limits, open_regular, parse_json};
use serde_json::Value;
use std::{
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

/// The documents of the file at `path`, in order.
///
/// | name | documents |
/// |---|---|
/// | `.txt` | separated by form feeds; `\r\n` and `\r` become `\n` |
/// | `.jsonl` | the string in the field `text` of the object on each line; blank lines are skipped |
///
/// With `.gz` or `.zst` behind, it is decompressed on the way.
///
/// # Errors
/// Here: another name, a file that cannot be opened. From the iterator, which ends after an error: text that is not UTF-8, a line that is
/// wrong, a document that is too long, a file that does not decompress.
pub fn read_documents(path: &Path) -> Result<Documents> {
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    let form = match name.rsplit_once('.') {
        Some((_, "txt")) => Form::FormFeeds,
        Some((_, "jsonl")) => Form::TextFields,
        _ => return Err(Error::Extension { path: path.into() }),
    };
    let delimiter = if form == Form::FormFeeds { b'\x0c' } else { b'\n' };
    Ok(Documents { form, pieces: Pieces::open(path, delimiter)? })
}

/// Iterator over the documents of a file; see [`read_documents`].
#[derive(Debug)]
pub struct Documents {
    form: Form,
    pieces: Pieces,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    FormFeeds,
    TextFields,
}

impl Documents {
    /// The most bytes that one document may have before it is an error; 128 MiB unless it is set. This is what keeps a small compressed file
    /// from filling the memory.
    pub fn max_document_bytes(mut self, bytes: usize) -> Self {
        self.pieces.limit = bytes;
        self
    }

    fn read(&mut self) -> Result<Option<String>> {
        match self.form {
            Form::FormFeeds => Ok(self.pieces.next()?.map(newlines)),
            Form::TextFields => match self.pieces.next_json()? {
                None => Ok(None),
                Some((line, json)) => {
                    let wrong = |problem| Error::Line { path: self.pieces.path.clone(), line, problem };
                    text_field(json).map(Some).map_err(wrong)
                }
            },
        }
    }
}

impl Iterator for Documents {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read().transpose();
        self.pieces.done |= matches!(item, Some(Err(_)));
        item
    }
}

/// Number, from 1, and JSON of every line of the file at `path` that is not blank.
pub(crate) fn json_lines(path: &Path) -> Result<impl Iterator<Item = Result<(u64, Value)>>> {
    let mut lines = Pieces::open(path, b'\n')?;
    Ok(std::iter::from_fn(move || {
        let item = lines.next_json().transpose();
        lines.done |= matches!(item, Some(Err(_)));
        item
    }))
}

const MAX_DOCUMENT: usize = 128 << 20;

/// A file cut at a delimiter.
struct Pieces {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    delimiter: u8,
    limit: usize,
    /// Bytes before the next piece, after decompression.
    offset: u64,
    /// Pieces so far.
    count: u64,
    done: bool,
}

impl Pieces {
    fn open(path: &Path, delimiter: u8) -> Result<Self> {
        let file = BufReader::with_capacity(1 << 16, open_regular(path)?.0);
        let extension = path.extension().map(|e| e.to_ascii_lowercase()).unwrap_or_default();
        let reader: Box<dyn BufRead + Send> = match extension.to_str() {
            Some("gz") => Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file))),
            Some("zst") => Box::new(BufReader::with_capacity(1 << 16, Zstd::new(file))),
            _ => Box::new(file),
        };
        Ok(Pieces { path: path.into(), reader, delimiter, limit: MAX_DOCUMENT, offset: 0, count: 0, done: false })
    }

    /// The next piece. What follows the last delimiter is a piece too, even if that is nothing.
    fn next(&mut self) -> Result<Option<String>> {
        if self.done {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.count += 1;
        match read_until(&mut *self.reader, self.delimiter, self.limit, &mut bytes) {
            Ok(Stop::Delimiter) => {}
            Ok(Stop::End) => self.done = true,
            Ok(Stop::Limit) => {
                return Err(Error::TooLong { path: self.path.clone(), document: self.count, limit: self.limit });
            }
            // Errors with a number come from the system, the others from a decompressor.
            Err(e) if e.raw_os_error().is_some() => return Err(cannot_read(&self.path, e)),
            Err(source) => return Err(Error::Compressed { path: self.path.clone(), source }),
        }
        let start = self.offset;
        self.offset += bytes.len() as u64 + 1;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(e) => {
                let byte = start + e.utf8_error().valid_up_to() as u64;
                Err(Error::NotUtf8 { path: self.path.clone(), byte })
            }
        }
    }

    /// Number and JSON of the next line that is not blank.
    fn next_json(&mut self) -> Result<Option<(u64, Value)>> {
        while let Some(line) = self.next()? {
            if line.trim().is_empty() {
                continue;
            }
            return match parse_json(&self.path, &line, &Limits::default()) {
                Ok(json) => Ok(Some((self.count, json))),
                Err(e) => Err(Error::Line { path: self.path.clone(), line: self.count, problem: json_problem(&e) }),
            };
        }
        Ok(None)
    }
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Pieces { path, count, done, .. } = self;
        f.debug_struct("Pieces").field("path", path).field("count", count).field("done", done).finish_non_exhaustive()
    }
}

/// Why [`read_until`] stopped.
enum Stop {
    Delimiter,
    End,
    Limit,
}

/// Appends to `bytes` what comes before `delimiter`, which is taken from `reader` too. `BufRead::read_until` has no limit.
fn read_until(reader: &mut dyn BufRead, delimiter: u8, limit: usize, bytes: &mut Vec<u8>) -> io::Result<Stop> {
    loop {
        let buffer = match reader.fill_buf() {
            Ok(buffer) => buffer,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if buffer.is_empty() {
            return Ok(Stop::End);
        }
        let found = buffer.iter().position(|&b| b == delimiter);
        let n = found.unwrap_or(buffer.len());
        if limit - bytes.len() < n {
            return Ok(Stop::Limit);
        }
        bytes.extend_from_slice(&buffer[..n]);
        reader.consume(n + usize::from(found.is_some()));
        if found.is_some() {
            return Ok(Stop::Delimiter);
        }
    }
}

/// `text` with `\n` for every end of line, as Python's text files have it: the same file must give the same ids there.
fn newlines(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

fn text_field(json: Value) -> std::result::Result<String, String> {
    let Value::Object(mut fields) = json else {
        return Err(format!("expected an object with a field `text`, got {}", kind(&json)));
    };
    match fields.get_mut("text").map(Value::take) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("the field `text` is {}, expected a string", kind(&other))),
        None => {
            let names: Vec<_> = fields.keys().map(|k| format!("`{k}`")).collect();
            Err(format!("has no field `text`, only [{}]", names.join(", ")))
        }
    }
}

/// What is wrong with a line; its number and the file are said elsewhere.
fn json_problem(e: &FileError) -> String {
    match e {
        FileError::Malformed { problem, .. } => problem.replace(" at line 1 column ", " at character "),
        FileError::Limit { field, got, limit, .. } => format!("{field} is {got}, above the limit of {limit}"),
        FileError::Duplicate { what, name, .. } => format!("{what} `{name}` appears twice"),
        other => other.to_string(),
    }
}
