//! Why a student cannot be made.
use std::fmt;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, and with which tensor.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The teacher or the student is not a model that can be read or run.
    Model(paring_model::Error),
    /// The plan, its slices, or a compensation.
    Prune(paring_prune::Error),
    /// The same, and the tensor that it happened to.
    Tensor {
        /// Its name.
        name: String,
        /// What happened.
        source: paring_prune::Error,
    },
    /// A parameter that was asked for does not exist there.
    Missing {
        /// Its name.
        name: String,
    },
    /// No calibration text.
    NoText,
    /// Whoever watches the progress ended the work.
    Stopped,
    /// Values that do not fit their parameter.
    Values {
        /// The parameter's name.
        name: String,
        /// Values given.
        got: usize,
        /// Values expected.
        want: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Model(e) => e.fmt(f),
            Error::Prune(e) => e.fmt(f),
            Error::Tensor { name, source } => write!(f, "{name}: {source}"),
            Error::Missing { name } => {
                write!(f, "the model has no parameter `{name}`; plan and model do not belong together")
            }
            Error::NoText => write!(f, "no calibration tokens, expected at least one window of text"),
            Error::Stopped => write!(f, "compensation was stopped"),
            Error::Values { name, got, want } => write!(f, "{got} values for `{name}`, expected {want}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Model(e) => Some(e),
            Error::Prune(e) | Error::Tensor { source: e, .. } => Some(e),
            Error::Missing { .. } | Error::NoText | Error::Stopped | Error::Values { .. } => None,
        }
    }
}

impl From<paring_model::Error> for Error {
    fn from(e: paring_model::Error) -> Self {
        Error::Model(e)
    }
}

impl From<paring_ops::Error> for Error {
    fn from(e: paring_ops::Error) -> Self {
        Error::Model(e.into())
    }
}

impl From<paring_checkpoint::Error> for Error {
    fn from(e: paring_checkpoint::Error) -> Self {
        Error::Model(e.into())
    }
}

impl From<paring_prune::Error> for Error {
    fn from(e: paring_prune::Error) -> Self {
        Error::Prune(e)
    }
}
