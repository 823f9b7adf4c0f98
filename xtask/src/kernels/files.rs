//! Files that this task writes, and programs that it runs for their output. All writing of xtask is here: PTX into `kernels/ptx`, the rest
//! under `target/kernels`.
use crate::{
    error::{Error, Result},
    project::{root, shown},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A path for a file that may be deleted at any time.
///
/// # Errors
/// [`Error::Write`] when its directory cannot be made.
pub(super) fn scratch(name: &str) -> Result<PathBuf> {
    let path = root().join("target/kernels").join(name);
    let dir = path.parent().unwrap_or(&path);
    fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.into(), source })?;
    Ok(path)
}

/// Writes a whole file.
///
/// # Errors
/// [`Error::Write`].
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|source| Error::Write { path: path.into(), source })
}

/// Files of `dir` with this extension, by name. A directory that is not there has none.
///
/// # Errors
/// [`Error::Read`].
pub(super) fn list(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(vec![]);
    }
    let read = |source| Error::Read { path: dir.into(), source };
    let entries = fs::read_dir(dir).map_err(read)?.collect::<std::io::Result<Vec<_>>>().map_err(read)?;
    let mut paths: Vec<_> = entries.iter().map(|e| e.path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == extension));
    paths.sort();
    Ok(paths)
}

/// What `command` prints to both of its outputs. When it fails, its messages go to our own stderr.
///
/// # Errors
/// [`Error::Start`], [`Error::Failed`].
pub(super) fn output(command: &mut Command) -> Result<(String, String)> {
    let done =
        command.stdin(Stdio::null()).output().map_err(|source| Error::Start { command: shown(command), source })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, messages) = (text(&done.stdout), text(&done.stderr));
    match done.status.success() {
        true => Ok((out, messages)),
        false => {
            eprintln!("{}", messages.trim_end());
            Err(Error::Failed { command: shown(command), code: done.status.code() })
        }
    }
}

/// Whether `name` is of the form `pattern`, in which `*` stands for any characters.
pub(super) fn glob(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => {
            let Some(name) = name.strip_prefix(head) else { return false };
            (0..=name.len()).any(|n| name.is_char_boundary(n) && glob(rest, &name[n..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, fits) in [
            ("gemm_*", "gemm_nt", true),
            ("gemm_*", "gemm", false),
            ("*_nt_*", "gemm_nt_bf16", true),
            ("*_nt_*", "gemm_nt", false),
            ("*", "", true),
            ("a", "ab", false),
        ] {
            assert_eq!(glob(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_program_that_fails_is_an_error() {
        let (out, messages) = output(Command::new("sh").args(["-c", "echo a; echo b >&2"])).unwrap();
        assert_eq!((out.as_str(), messages.as_str()), ("a\n", "b\n"));
        let error = output(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(matches!(error, Error::Failed { code: Some(3), .. }), "{error}");
    }
}
