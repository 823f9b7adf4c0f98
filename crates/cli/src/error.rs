//! What the program says when it cannot go on: one or two lines, and an exit code.
use std::fmt;

/// Result of a command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command ended without its result.
#[derive(Debug)]
pub(crate) struct Failure {
    /// 1: the work failed; 2: arguments or input are wrong; 128 + n: stopped by signal n.
    pub(crate) code: u8,
    /// What was wrong, where, and what to do.
    pub(crate) message: String,
}

impl Failure {
    /// The arguments or the input are wrong.
    pub(crate) fn input(message: impl fmt::Display) -> Self {
        Failure { code: 2, message: message.to_string() }
    }

    /// The input was right and the work failed all the same.
    pub(crate) fn work(message: impl fmt::Display) -> Self {
        Failure { code: 1, message: message.to_string() }
    }

    /// Says where it happened, in front.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<paring_model::Error> for Failure {
    fn from(e: paring_model::Error) -> Self {
        match e {
            paring_model::Error::Checkpoint(e) => e.into(),
            paring_model::Error::Ops(e) => e.into(),
            e => Failure::input(e),
        }
    }
}

impl From<paring_ops::Error> for Failure {
    fn from(e: paring_ops::Error) -> Self {
        Failure::work(e)
    }
}

impl From<paring_checkpoint::Error> for Failure {
    fn from(e: paring_checkpoint::Error) -> Self {
        if e.is_input() { Failure::input(e) } else { Failure::work(e) }
    }
}

impl From<paring_text::Error> for Failure {
    fn from(e: paring_text::Error) -> Self {
        Failure::input(e)
    }
}

impl From<paring_importance::Error> for Failure {
    fn from(e: paring_importance::Error) -> Self {
        Failure::input(e)
    }
}

impl From<paring_prune::Error> for Failure {
    fn from(e: paring_prune::Error) -> Self {
        Failure::input(e)
    }
}

impl From<paring_sampling::Error> for Failure {
    fn from(e: paring_sampling::Error) -> Self {
        Failure::input(e)
    }
}

impl From<paring_train::Error> for Failure {
    fn from(e: paring_train::Error) -> Self {
        match e {
            paring_train::Error::Model(e) => e.into(),
            paring_train::Error::Checkpoint(e) => e.into(),
            paring_train::Error::Diverged { .. } => Failure::work(e),
            e => Failure::input(e),
        }
    }
}

impl From<paring_surgery::Error> for Failure {
    fn from(e: paring_surgery::Error) -> Self {
        match e {
            paring_surgery::Error::Model(e) => e.into(),
            paring_surgery::Error::Prune(e) => e.into(),
            e => Failure::work(e),
        }
    }
}

impl From<paring_engine::Error> for Failure {
    fn from(e: paring_engine::Error) -> Self {
        match e {
            paring_engine::Error::Model(e) => e.into(),
            e => Failure::input(e),
        }
    }
}
