//! Why a model cannot be read or run.
use std::fmt;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error about a configuration, a set of tensors, or a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A key of `config.json` (or of a GGUF's metadata) is missing, of the wrong type, or has a value that no model can have.
    Config {
        /// The key.
        key: String,
        /// What was wrong: expected and got.
        problem: String,
    },
    /// A configuration that is valid but that Paring does not implement.
    Unsupported {
        /// What it asks for, and what is supported.
        what: String,
    },
    /// What is wrong with a configuration, and the file it was read from.
    At {
        /// The file.
        file: String,
        /// [`Error::Config`] or [`Error::Unsupported`].
        source: Box<Error>,
    },
    /// A parameter that the configuration calls for is not in the checkpoint.
    MissingTensor {
        /// Its name.
        name: String,
        /// Where it was looked for.
        file: String,
    },
    /// A tensor of the checkpoint has no place in this family.
    UnexpectedTensor {
        /// Its name.
        name: String,
        /// Where it lies.
        file: String,
    },
    /// A tensor has another shape than the configuration says.
    TensorShape {
        /// Its name.
        name: String,
        /// Where it lies.
        file: String,
        /// Its dimensions.
        got: Vec<usize>,
        /// What the configuration says.
        want: Vec<usize>,
    },
    /// A parameter that was to be written is not finite as bf16.
    NotFinite {
        /// Its name.
        name: String,
        /// Which of its values, in row-major order.
        index: usize,
        /// The value before rounding.
        value: f32,
    },
    /// The checkpoint could not be read.
    Checkpoint(paring_checkpoint::Error),
    /// An operation failed.
    Ops(paring_ops::Error),
    /// A window is longer than the positions that the model knows.
    TooLong {
        /// Tokens.
        tokens: usize,
        /// Positions.
        max: usize,
    },
    /// A block that the model does not have.
    NoBlock {
        /// The one asked for, from 0.
        got: usize,
        /// Blocks of the model.
        blocks: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config { key, problem } => write!(f, "model configuration: `{key}` {problem}"),
            Error::Unsupported { what } => write!(f, "{what}"),
            Error::At { file, source } => write!(f, "{file}: {source}"),
            Error::MissingTensor { name, file } => {
                write!(
                    f,
                    "{file}: tensor `{name}` is missing; the checkpoint is incomplete or its config is another model's"
                )
            }
            Error::UnexpectedTensor { name, file } => write!(
                f,
                "{file}: tensor `{name}` has no place in this model family, so the model would be computed wrongly without it"
            ),
            Error::TensorShape { name, file, got, want } => {
                write!(f, "{file}: tensor `{name}` has shape {got:?}, the configuration says {want:?}")
            }
            Error::NotFinite { name, index, value } => {
                write!(
                    f,
                    "`{name}`: the value at index {index} is {value}, which bf16 does not hold; nothing was written"
                )
            }
            Error::Checkpoint(e) => e.fmt(f),
            Error::Ops(e) => e.fmt(f),
            Error::TooLong { tokens, max } => {
                write!(
                    f,
                    "{tokens} tokens in one sequence, but the model knows {max} positions; use a smaller --context"
                )
            }
            Error::NoBlock { got, blocks } => write!(f, "block {got} of a model of {blocks} blocks, counted from 0"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::At { source, .. } => Some(source),
            Error::Checkpoint(e) => Some(e),
            Error::Ops(e) => Some(e),
            _ => None,
        }
    }
}

impl From<paring_checkpoint::Error> for Error {
    fn from(e: paring_checkpoint::Error) -> Self {
        Error::Checkpoint(e)
    }
}

impl From<paring_ops::Error> for Error {
    fn from(e: paring_ops::Error) -> Self {
        Error::Ops(e)
    }
}
