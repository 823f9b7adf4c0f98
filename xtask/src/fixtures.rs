//! `cargo xtask fixtures`: makes the committed fixtures again, by the commands that made them.
use crate::{
    error::Result,
    project::{cargo, root, run as run_command},
};
use clap::Subcommand;
use std::{ffi::OsString, path::PathBuf, process::Command};

/// What can be made again.
#[derive(Subcommand)]
pub(crate) enum Fixture {
    /// Train the embedded teacher from random initialisation, as fixtures/teacher/recipe.toml says (more than an hour)
    Teacher {
        /// The training text, which `cargo xtask fixtures corpus SOURCES --training-text FILE` writes
        text: PathBuf,
    },
    /// Cut the embedded corpus out of the public-domain texts
    Corpus {
        /// The directory of the source texts
        source: PathBuf,
        /// Handed to make_corpus.py, e.g. `--training-text FILE`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        more: Vec<OsString>,
    },
}

/// Makes `fixture`.
///
/// # Errors
/// Those of the command behind it.
pub(crate) fn run(fixture: &Fixture) -> Result<()> {
    run_command(&mut command(fixture))
}

fn command(fixture: &Fixture) -> Command {
    match fixture {
        Fixture::Teacher { text } => {
            let mut command = cargo();
            command.current_dir(root()).args([
                "run",
                "--release",
                "--package",
                "paring-train",
                "--example",
                "pretrain",
            ]);
            // A run that was stopped goes on from what it left in `runs/teacher`.
            command.args(["--", "fixtures/teacher/recipe.toml", "--heldout", "fixtures/corpus/heldout.txt"]);
            command.args(["--work", "runs/teacher", "--out", "runs/teacher-out", "--text"]);
            command.arg(std::path::absolute(text).unwrap_or_else(|_| text.clone()));
            command
        }
        Fixture::Corpus { source, more } => {
            let corpus = root().join("fixtures/corpus");
            let mut command = Command::new("python3");
            command.arg(corpus.join("make_corpus.py")).arg(source).arg(corpus).args(more);
            command
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_made_by_the_committed_script() {
        let command =
            command(&Fixture::Corpus { source: "texts".into(), more: vec!["--training-text".into(), "t".into()] });
        let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        assert!(PathBuf::from(&args[0]).is_file(), "{args:?}");
        assert!(args[2].ends_with("fixtures/corpus"), "{args:?}");
        assert_eq!((&args[1], &args[3], &args[4]), (&"texts".into(), &"--training-text".into(), &"t".into()));
    }
}
