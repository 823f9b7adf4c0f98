//! Why a training run ended early.
use std::fmt;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a training run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The loss or the gradient is not a finite number. The weights are those of the step before.
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// What was not finite.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// A checkpoint was made by another run.
    OtherRun {
        /// Where it is.
        path: String,
        /// What differs: key, there, here.
        difference: String,
    },
    /// A checkpoint is whole but does not hold what this model needs.
    State {
        /// Where it is.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// There is nothing to train on.
    NoData {
        /// Windows there are.
        windows: usize,
    },
    /// The model could not be run.
    Model(paring_model::Error),
    /// A checkpoint could not be read or written.
    Checkpoint(paring_checkpoint::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Diverged { step, what, value } => write!(
                f,
                "step {step}: the {what} is {value}, so the step was not taken; lower --lr, lengthen --warmup, or look at the data of this step"
            ),
            Error::OtherRun { path, difference } => {
                write!(
                    f,
                    "{path} belongs to another run ({difference}); give another --out, or the settings it was started with"
                )
            }
            Error::State { path, problem } => write!(f, "{path}: {problem}"),
            Error::NoData { windows } => {
                write!(f, "{windows} windows are too few to train on; give more text or a smaller --context")
            }
            Error::Model(e) => e.fmt(f),
            Error::Checkpoint(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Model(e) => Some(e),
            Error::Checkpoint(e) => Some(e),
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

impl From<paring_checkpoint::Error> for Error {
    fn from(e: paring_checkpoint::Error) -> Self {
        Error::Checkpoint(e)
    }
}
