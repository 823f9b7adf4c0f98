//! Tests of paring-text through its public API. One program, because linking several costs more than running them.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod bpe;
mod choices;
mod directory;
mod documents;
mod gguf;
mod hostile;
mod packing;
mod stream;

use paring_text::{Tokenizer, train_bpe};
use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The text of a corpus in `fixtures/`.
fn corpus(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/corpus").join(name);
    std::fs::read_to_string(path).unwrap()
}

const END: &str = "<|endoftext|>";

/// A small vocabulary, trained on real text once for all tests.
fn trained() -> Tokenizer {
    static TRAINED: LazyLock<Tokenizer> = LazyLock::new(train);
    TRAINED.clone()
}

/// The training of [`trained`].
fn train() -> Tokenizer {
    let text = corpus("calibration.txt");
    train_bpe(&text.split('\x0c').collect::<Vec<_>>(), 600, END).unwrap()
}

/// The file `name` in `dir` with these bytes.
fn file(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A directory with the files of `tokenizer`.
fn directory_of(tokenizer: &Tokenizer) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in tokenizer.files().unwrap() {
        file(dir.path(), &name, bytes);
    }
    dir
}

/// The message of the error of `result`, which contains all of `parts`.
fn check_error<T: std::fmt::Debug>(result: paring_text::Result<T>, parts: &[&str]) {
    let error = result.unwrap_err();
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "`{text}` does not say `{part}`");
    }
    assert!(!text.contains('\n') && text.len() < 1000, "{text}");
    assert!(error.is_input(), "{text}");
}
