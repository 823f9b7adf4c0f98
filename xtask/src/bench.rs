//! `cargo xtask bench`: this project beside its peers and beside the machine's limits.
//!
//! The program that does it is an example of `benches`, because this crate may depend on none of the project's.
use crate::{
    compress::build,
    error::{Error, Result},
    project::shown,
};
use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

/// Builds the program in release mode and becomes it, with `args`. `--device cuda` is another program: cuBLAS is the peer there.
///
/// # Errors
/// When the build fails or the program cannot be started; else this does not return.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let program = match on_a_gpu(args) {
        true => ["--package", "paring-cuda", "--example", "cublas"],
        false => ["--package", "paring-benches", "--example", "compare"],
    };
    let mut command = Command::new(build(&program)?);
    command.args(args);
    let source = command.exec();
    Err(Error::Start { command: shown(&command), source })
}

/// Whether `args` say `--device cuda` or `--device=cuda:N`.
fn on_a_gpu(args: &[OsString]) -> bool {
    let cuda = |device: &str| device.starts_with("cuda");
    let text = |a: &OsString| a.to_string_lossy().into_owned();
    args.windows(2).any(|w| w[0] == "--device" && cuda(&text(&w[1])))
        || args.iter().any(|a| text(a).strip_prefix("--device=").is_some_and(cuda))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_another_program() {
        let gpu = |args: &[&str]| on_a_gpu(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(gpu(&["--device", "cuda"]) && gpu(&["--rounds", "3", "--device=cuda:1"]));
        assert!(!gpu(&["--rounds", "3"]) && !gpu(&["--device", "cpu"]) && !gpu(&["--device"]));
    }
}
