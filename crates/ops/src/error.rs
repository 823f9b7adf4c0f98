//! What an operation can answer instead of a result.
use std::fmt;

/// Result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation did not run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A buffer, a type or a shape is not what the operation needs.
    Tensor {
        /// The operation.
        op: &'static str,
        /// What is wrong.
        source: paring_tensor::Error,
    },
    /// The shapes of two operands do not fit.
    Shape {
        /// The operation.
        op: &'static str,
        /// Which operand.
        what: &'static str,
        /// Its dimensions.
        got: Vec<usize>,
        /// What they should be.
        want: Vec<usize>,
    },
    /// An index (a token id, a target, a position) past the end of what it points into.
    Index {
        /// The operation.
        op: &'static str,
        /// The index.
        index: usize,
        /// What it points into has this many entries.
        len: usize,
    },
    /// An element type that the backend has no kernel for.
    Unsupported {
        /// The operation.
        op: &'static str,
        /// What is missing.
        what: String,
    },
    /// Backward was asked of a run that recorded nothing, or a cache was given to one that records.
    NotRecording {
        /// The operation.
        op: &'static str,
    },
    /// An observer could not go on with what it was shown.
    Observer {
        /// What it said.
        message: String,
    },
    /// The device failed.
    Device {
        /// The operation.
        op: &'static str,
        /// What it said.
        message: String,
    },
}

impl Error {
    /// Names the operation in which a tensor error arose.
    pub fn in_op(op: &'static str) -> impl Fn(paring_tensor::Error) -> Error {
        move |source| Error::Tensor { op, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Tensor { op, source } => write!(f, "{op}: {source}"),
            Error::Shape { op, what, got, want } => write!(f, "{op}: {what} has shape {got:?}, expected {want:?}"),
            Error::Index { op, index, len } => write!(f, "{op}: index {index} into {len} entries"),
            Error::Unsupported { op, what } => write!(f, "{op}: {what} is not supported by this backend"),
            Error::NotRecording { op } => write!(f, "{op}: the context's tape does not allow this"),
            Error::Observer { message } => f.write_str(message),
            Error::Device { op, message } => write!(f, "{op}: {message}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Tensor { source, .. } => Some(source),
            _ => None,
        }
    }
}
