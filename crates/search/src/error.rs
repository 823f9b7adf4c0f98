//! Why a search cannot go on.
use std::fmt;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A model cannot be read, made or run.
    Model(paring_model::Error),
    /// Sizes, plans or compensation.
    Prune(paring_prune::Error),
    /// A student cannot be cut.
    Surgery(paring_surgery::Error),
    /// A student cannot be trained.
    Train(paring_train::Error),
    /// The layers of the model are not alike, so it has no sizes to search among.
    NotUniform,
    /// A latency that cannot be fitted.
    Latency {
        /// What was wrong.
        what: String,
    },
    /// Text for fewer windows than there has to be.
    NoWindows {
        /// What the text is for.
        what: &'static str,
    },
    /// A saved state that does not belong to this search.
    State {
        /// What differs.
        what: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Model(e) => e.fmt(f),
            Error::Prune(e) => e.fmt(f),
            Error::Surgery(e) => e.fmt(f),
            Error::Train(e) => e.fmt(f),
            Error::NotUniform => write!(f, "the layers of the model differ in size, expected all alike"),
            Error::Latency { what } => write!(f, "latency: {what}"),
            Error::NoWindows { what } => write!(f, "no windows {what}, expected at least one; give more text"),
            Error::State { what } => write!(f, "the unfinished search is another one: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Model(e) => Some(e),
            Error::Prune(e) => Some(e),
            Error::Surgery(e) => Some(e),
            Error::Train(e) => Some(e),
            _ => None,
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

impl From<paring_prune::Error> for Error {
    fn from(e: paring_prune::Error) -> Self {
        Error::Prune(e)
    }
}

impl From<paring_surgery::Error> for Error {
    fn from(e: paring_surgery::Error) -> Self {
        Error::Surgery(e)
    }
}

impl From<paring_train::Error> for Error {
    fn from(e: paring_train::Error) -> Self {
        Error::Train(e)
    }
}
