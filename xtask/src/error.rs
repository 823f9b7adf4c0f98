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
    /// A file of the project could not be written.
    Write { path: PathBuf, source: io::Error },
    /// A file of the project is no valid TOML, or does not say what it should.
    Toml { path: PathBuf, source: Box<toml::de::Error> },
    /// What kernels are compiled with is not installed here.
    NoWheels(PathBuf),
    /// A CUDA compiler refused a source.
    Compile { file: PathBuf, log: String },
    /// A tool printed something in a form that is not known.
    Unreadable { tool: &'static str, file: PathBuf, what: &'static str },
    /// This many checks of kernels failed; each was printed.
    Kernels(usize),
    /// No kernel has this name.
    NoKernel(String),
}

/// The result of a task.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What the shell sees: 2 for what was asked wrongly, the failed program's own code where there is one, else 1.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Error::NoStep(_) | Error::NoKernel(_) => ExitCode::from(2),
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
            Error::Write { path, source } => write!(f, "cannot write {}: {source}", path.display()),
            Error::Toml { path, source } => write!(f, "{}: {source}", path.display()),
            Error::NoWheels(path) => write!(
                f,
                "NVIDIA's compiler is not in {}: `cargo xtask kernels --install` installs it (Python 3 with venv; about 170 MB), \
                 and `--wheels DIR` names the site-packages of another place",
                path.display()
            ),
            Error::Compile { file, log } => write!(f, "{} does not compile:\n{log}", file.display()),
            Error::Unreadable { tool, file, what } => write!(f, "{tool} on {}: cannot read {what}", file.display()),
            Error::Kernels(1) => write!(f, "1 check of the kernels failed"),
            Error::Kernels(n) => write!(f, "{n} checks of the kernels failed"),
            Error::NoKernel(name) => write!(f, "no kernel's name contains `{name}`"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Start { source, .. } | Error::Read { source, .. } | Error::Write { source, .. } => Some(source),
            Error::Toml { source, .. } => Some(source),
            Error::Metadata(source) => Some(source),
            _ => None,
        }
    }
}
