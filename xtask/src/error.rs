//! What can go wrong in a task.
use std::{fmt, io, path::PathBuf, process::ExitCode};

/// Why a task did not do what it is for.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Error {
    /// A program could not be started.
    Start { command: String, source: io::Error },
    /// A program ended with something else than success.
    Failed { command: String, code: Option<i32> },
    /// A file of the project could not be read.
    Read { path: PathBuf, source: io::Error },
    /// `cargo metadata` failed.
    Metadata(cargo_metadata::Error),
    /// cargo built a package and named no program.
    NoProgram { command: String },
    /// Tidy found this many violations.
    Untidy(usize),
    /// This many steps of the gate failed.
    Red(usize),
    /// The gate has no step of this name.
    NoStep(String),
    /// Kernels without a check.
    Unchecked(Vec<String>),
    /// A task that the project does not do yet.
    NotBuilt(&'static str),
}

/// The result of a task.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What the shell sees: 2 for what was asked wrongly, the failed program's own code where there is one, else 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Error::NotBuilt(_) | Error::NoStep(_) => ExitCode::from(2),
            Error::Failed { code: Some(code), .. } => ExitCode::from(u8::try_from(*code).unwrap_or(1)),
            _ => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Start { command, source } => write!(f, "cannot start `{command}`: {source}; is it installed?"),
            Error::Failed { command, code: Some(code) } => write!(f, "`{command}` ended with exit code {code}"),
            Error::Failed { command, code: None } => write!(f, "`{command}` was killed by a signal"),
            Error::Read { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Error::Metadata(source) => write!(f, "cargo metadata: {source}"),
            Error::NoProgram { command } => write!(f, "`{command}` succeeded and named no program in its messages"),
            Error::Untidy(1) => write!(f, "tidy found 1 violation"),
            Error::Untidy(n) => write!(f, "tidy found {n} violations"),
            Error::Red(1) => write!(f, "1 step failed"),
            Error::Red(n) => write!(f, "{n} steps failed"),
            Error::NoStep(name) => write!(f, "no step contains `{name}`; `cargo xtask test --list` names them"),
            Error::Unchecked(files) => {
                write!(f, "kernels without a check: {}; add theirs to xtask/src/kernels.rs", files.join(", "))
            }
            Error::NotBuilt(what) => write!(f, "{what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Start { source, .. } | Error::Read { source, .. } => Some(source),
            Error::Metadata(source) => Some(source),
            _ => None,
        }
    }
}
