//! Where the project is, and how its commands are run: shown as one would type them, without a standard input, with their own exit code.
use crate::error::{Error, Result};
use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
};

/// The repository.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The cargo that runs this task, else the one on the path.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Text of a file of the project.
pub(crate) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })
}

/// `command` as one would type it: the program's plain name, `NAME=value` before it.
pub(crate) fn shown(command: &Command) -> String {
    let quoted = |s: &OsStr| {
        let s = s.to_string_lossy();
        match s.is_empty() || s.contains(|c: char| c.is_whitespace() || "'\"$\\*&|;<>()".contains(c)) {
            true => format!("'{s}'"),
            false => s.into_owned(),
        }
    };
    let variables = command.get_envs().filter_map(|(k, v)| Some(format!("{}={}", k.to_string_lossy(), quoted(v?))));
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(quoted(program)).chain(command.get_args().map(quoted));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

/// Runs `command` with the task's own outputs.
///
/// # Errors
/// [`Error::Start`], [`Error::Failed`].
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status =
        command.stdin(Stdio::null()).status().map_err(|source| Error::Start { command: shown(command), source })?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Failed { command: shown(command), code: status.code() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("/somewhere/bin/cargo");
        command.args(["doc", "--no-deps", "a b"]).env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(shown(&command), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps 'a b'");
    }

    #[test]
    fn an_exit_code_is_kept() {
        let error = run(Command::new("sh").args(["-c", "exit 7"])).unwrap_err();
        assert!(matches!(error, Error::Failed { code: Some(7), .. }), "{error}");
        let error = run(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(matches!(error, Error::Start { .. }), "{error}");
    }

    #[test]
    fn the_root_is_the_workspace() {
        assert!(read(&root().join("Cargo.toml")).unwrap().starts_with("[workspace]"));
    }
}
