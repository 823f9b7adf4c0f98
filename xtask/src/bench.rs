//! `cargo xtask bench`: this project beside its peers and beside the machine's limits.
//!
//! The program that does it is an example of `benches`, because this crate may depend on none of the project's.
use crate::{
    compress::build,
    error::{Error, Result},
    project::shown,
};
use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

/// Builds the program in release mode and becomes it, with `args`.
///
/// # Errors
/// When the build fails or the program cannot be started; else this does not return.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let mut command = Command::new(build(&["--package", "paring-benches", "--example", "compare"])?);
    command.args(args);
    let source = command.exec();
    Err(Error::Start { command: shown(&command), source })
}
