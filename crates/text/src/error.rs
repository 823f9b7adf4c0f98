//! What can be wrong with a tokenizer or a text.
use paring_checkpoint::{shown, shown_path};
use std::{fmt, io, path::PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error about a tokenizer, a text or a token file. Every variant says which, where there is a file.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read, is too large, or is no JSON.
    File(paring_checkpoint::Error),
    /// The tokenizer in the file cannot be used.
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The token that ends a document is named, but does not exist.
    EndToken {
        /// The file that names it.
        path: PathBuf,
        /// How it is named.
        got: String,
        /// Number of ids of the tokenizer.
        vocab: usize,
    },
    /// No end token, where documents have to be told apart.
    NoEndToken {
        /// Where the tokenizer comes from.
        path: PathBuf,
    },
    /// A text could not be tokenised.
    Encode {
        /// Where the tokenizer comes from.
        path: PathBuf,
        /// What the tokenizer says.
        problem: String,
    },
    /// Ids could not be turned into text.
    Decode {
        /// Where the tokenizer comes from.
        path: PathBuf,
        /// What the tokenizer says.
        problem: String,
    },
    /// An id that no token has.
    UnknownId {
        /// Where the tokenizer comes from.
        path: PathBuf,
        /// The id.
        id: u32,
        /// Number of ids of the tokenizer.
        vocab: usize,
    },
    /// The tokenizer has ids for which the model has no embedding.
    TooManyIds {
        /// Where the tokenizer comes from.
        path: PathBuf,
        /// The highest id.
        highest: usize,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A vocabulary could not be trained.
    Train {
        /// Why, and what to do.
        problem: String,
    },
    /// A text file of an unknown kind.
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// The file does not decompress: it is truncated, damaged, or not what its name says.
    Compressed {
        /// The file.
        path: PathBuf,
        /// What the decompressor says.
        source: io::Error,
    },
    /// The text is not UTF-8.
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Index of the first wrong byte, after decompression.
        byte: u64,
    },
    /// A document that would take too much memory.
    TooLong {
        /// The file.
        path: PathBuf,
        /// Which document, from 1.
        document: u64,
        /// The most bytes that are accepted.
        limit: usize,
    },
    /// A line of a .jsonl file is not what it should be.
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// Expected and got.
        problem: String,
    },
    /// The files hold no text, or no windows.
    NoText {
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// The texts are shorter than one window.
    TooShort {
        /// The files.
        paths: Vec<PathBuf>,
        /// Tokens in all of them, end tokens included.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// An argument that makes no sense.
    Argument {
        /// Which one.
        name: &'static str,
        /// Expected and got.
        problem: String,
    },
}

impl Error {
    /// True when the input or the arguments are at fault, false when the machine is (I/O error, memory).
    pub fn is_input(&self) -> bool {
        match self {
            Error::File(source) => source.is_input(),
            _ => true,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File(source) => write!(f, "{source}"),
            Error::Tokenizer { path, problem } => write!(f, "{}: tokenizer: {}", shown_path(path), shown(problem)),
            Error::EndToken { path, got, vocab } => write!(
                f,
                "{}: the end token is {}, which is none of the tokenizer's {vocab} tokens; the files belong to different models",
                shown_path(path),
                shown(got)
            ),
            Error::NoEndToken { path } => write!(
                f,
                "{}: says of no token that it ends a document; set `eos_token` in tokenizer_config.json",
                shown_path(path)
            ),
            Error::Encode { path, problem } => {
                write!(f, "{}: the tokenizer fails on this text: {}", shown_path(path), shown(problem))
            }
            Error::Decode { path, problem } => {
                write!(f, "{}: the tokenizer fails on these ids: {}", shown_path(path), shown(problem))
            }
            Error::UnknownId { path, id, vocab } => write!(
                f,
                "{}: no token has the id {id}; the tokenizer has {vocab} ids; is it the one of this model?",
                shown_path(path)
            ),
            Error::TooManyIds { path, highest, rows } => write!(
                f,
                "{}: the tokenizer has ids up to {highest}, the model {rows} rows of embeddings; use the tokenizer that the model was trained with",
                shown_path(path)
            ),
            Error::Train { problem } => write!(f, "training a vocabulary: {}", shown(problem)),
            Error::Extension { path } => write!(
                f,
                "{}: is of no known kind; expected .txt or .jsonl, or one of them with .gz or .zst behind",
                shown_path(path)
            ),
            Error::Compressed { path, source } => write!(
                f,
                "{}: does not decompress: {}; the file is truncated, damaged, or not what its name says",
                shown_path(path),
                shown(&source.to_string())
            ),
            Error::NotUtf8 { path, byte } => {
                write!(f, "{}: byte {byte} is not UTF-8; convert the text to UTF-8 first", shown_path(path))
            }
            Error::TooLong { path, document, limit } => write!(
                f,
                "{}: document {document} has more than {limit} bytes; separate documents by form feeds (.txt) or lines (.jsonl)",
                shown_path(path)
            ),
            Error::Line { path, line, problem } => {
                write!(f, "{}: line {line}: {}", shown_path(path), shown(problem))
            }
            Error::NoText { paths } => write!(f, "{}: nothing to read, expected text", shown_paths(paths)),
            Error::TooShort { paths, tokens, context } => write!(
                f,
                "{}: {tokens} tokens, fewer than one window of {context}; give more text or a shorter context",
                shown_paths(paths)
            ),
            Error::Argument { name, problem } => write!(f, "{name}: {problem}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::File(source) => source.source(),
            Error::Compressed { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<paring_checkpoint::Error> for Error {
    fn from(source: paring_checkpoint::Error) -> Self {
        Error::File(source)
    }
}

/// The first of `paths`, and how many more there are.
fn shown_paths(paths: &[PathBuf]) -> String {
    match paths {
        [] => "no files".into(),
        [path] => shown_path(path),
        [path, rest @ ..] => format!("{} and {} more", shown_path(path), rest.len()),
    }
}
