//! What can go wrong in a sweep over layers.
use std::fmt;

/// Result of a sweep.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a sweep has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Layers that cannot be removed: none, all, or some that do not exist.
    Removal {
        /// The first of them, from 0.
        first: usize,
        /// The one behind the last.
        end: usize,
        /// Layers of the stack.
        layers: usize,
    },
    /// A number of layers to remove that is zero or leaves none.
    Size {
        /// The number.
        got: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// Nothing to judge by.
    NoUnits,
    /// The criterion gave infinity or no number.
    NotFinite {
        /// Layers that were removed.
        removed: Vec<usize>,
        /// The window or question, from 0.
        unit: usize,
        /// What came out.
        got: f64,
    },
    /// The caller said to stop.
    Stopped,
    /// The model or the backend failed.
    Model(paring_model::Error),
    /// Statistics could not be kept.
    Importance(paring_importance::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Removal { first, end, layers } => {
                write!(
                    f,
                    "layers {first} to {end} (exclusive) cannot be removed from {layers}: expected some, not all, of them"
                )
            }
            Error::Size { got, layers } => {
                write!(f, "{got} layers cannot be removed from {layers}: expected 1 to {}", layers.saturating_sub(1))
            }
            Error::NoUnits => write!(f, "no window and no question to judge by, expected at least one"),
            Error::NotFinite { removed, unit, got } => {
                let what =
                    if removed.is_empty() { "with all layers".into() } else { format!("without layers {removed:?}") };
                write!(f, "{what}, window or question {unit} scores {got}, expected a number; check the checkpoint")
            }
            Error::Stopped => write!(f, "stopped before the sweep over layers was done"),
            Error::Model(e) => write!(f, "{e}"),
            Error::Importance(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Model(e) => Some(e),
            Error::Importance(e) => Some(e),
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

impl From<paring_importance::Error> for Error {
    fn from(e: paring_importance::Error) -> Self {
        Error::Importance(e)
    }
}
