//! `cargo xtask compress`: the main job of the project in one command on a fresh clone.
use crate::{
    error::{Error, Result},
    project::{cargo, root, shown},
};
use cargo_metadata::{Message, camino::Utf8PathBuf};
use std::{
    ffi::OsString,
    io::BufReader,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

/// Builds `paring` and becomes `paring compress ARGS`: the same process, so signals and exit codes are the program's own. Nothing but
/// the program writes to stdout.
///
/// # Errors
/// When the build fails or the program cannot be started; else this does not return.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let program = build(&["--package", "paring-cli", "--bin", "paring"])?;
    let mut command = Command::new(program);
    command.arg("compress").args(args);
    let source = command.exec();
    Err(Error::Start { command: shown(&command), source })
}

/// Builds `what` in release mode and says where cargo put it: with `CARGO_TARGET_DIR` or a configured target it is not in
/// `target/release`.
///
/// # Errors
/// [`Error::Failed`], [`Error::Start`], [`Error::NoProgram`].
pub(crate) fn build(what: &[&str]) -> Result<Utf8PathBuf> {
    let mut command = cargo();
    command.args(["build", "--release"]).args(what);
    command.args(["--message-format", "json-render-diagnostics", "--manifest-path"]).arg(root().join("Cargo.toml"));
    let start = |source| Error::Start { command: "cargo build".into(), source };
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(start)?;
    let messages = child.stdout.take().map(BufReader::new);
    let program = messages.map(program_of).transpose().map_err(start)?.flatten();
    let status = child.wait().map_err(start)?;
    match status.success() {
        true => program.ok_or_else(|| Error::NoProgram { command: shown(&command) }),
        false => Err(Error::Failed { command: shown(&command), code: status.code() }),
    }
}

/// The last program among cargo's messages.
fn program_of(messages: impl std::io::BufRead) -> std::io::Result<Option<Utf8PathBuf>> {
    let mut program = None;
    for message in Message::parse_stream(messages) {
        if let Message::CompilerArtifact(artifact) = message? {
            program = artifact.executable.or(program);
        }
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_the_messages() {
        let target =
            r#""target":{"kind":["bin"],"crate_types":["bin"],"name":"paring","src_path":"m.rs","edition":"2024"}"#;
        let profile = r#""profile":{"opt_level":"3","debuginfo":0,"debug_assertions":false,"overflow_checks":false,"test":false}"#;
        let artifact = |executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"p","manifest_path":"Cargo.toml",{target},{profile},"features":[],"filenames":[],"executable":{executable},"fresh":true}}"#
            )
        };
        let text = [artifact("null"), artifact("\"t/paring\""), artifact("null"), "a plain line".into()].join("\n");
        assert_eq!(program_of(text.as_bytes()).unwrap(), Some("t/paring".into()));
        assert_eq!(program_of(artifact("null").as_bytes()).unwrap(), None);
    }
}
