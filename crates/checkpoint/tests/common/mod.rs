//! What the tests of this crate share: files made byte by byte, and one helper that says what an error must be.
#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_checkpoint::Error;
use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A directory that disappears, and a file in it.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// The name of an error's variant.
pub(crate) fn kind(e: &Error) -> String {
    let debug = format!("{e:?}");
    debug.chars().take_while(char::is_ascii_alphanumeric).collect()
}

/// Runs `open` on a hostile file: it fails with one of the `kinds`, within a second, and the message has the file's name and all `words`.
#[track_caller]
pub(crate) fn refused<T: Debug>(
    case: &str,
    path: &Path,
    kinds: &str,
    words: &[&str],
    open: impl FnOnce(&Path) -> paring_checkpoint::Result<T>,
) {
    let start = Instant::now();
    let result = open(path);
    let elapsed = start.elapsed();
    let error = match result {
        Ok(got) => panic!("{case}: was accepted as {got:?}"),
        Err(error) => error,
    };
    let message = error.to_string();
    assert!(kinds.split('|').any(|k| k == kind(&error)), "{case}: expected {kinds}, got {error:?}");
    assert!(error.is_input(), "{case}: the input is at fault in {error:?}");
    let name = path.file_name().unwrap().to_str().unwrap();
    for word in [name].iter().chain(words) {
        assert!(message.contains(word), "{case}: expected `{word}` in `{message}`");
    }
    assert!(message.len() < 1000 && !message.contains('\n'), "{case}: expected one line, got `{message}`");
    assert!(elapsed < Duration::from_secs(1), "{case}: took {elapsed:?}");
}

/// A safetensors file with this header.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A GGUF put together field by field, right or wrong.
#[derive(Clone)]
pub(crate) struct RawGguf(pub(crate) Vec<u8>);

impl RawGguf {
    pub(crate) fn new(version: u32, tensors: u64, pairs: u64) -> Self {
        RawGguf(b"GGUF".to_vec()).u32(version).u64(tensors).u64(pairs)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn u32(self, n: u32) -> Self {
        self.bytes(&n.to_le_bytes())
    }

    pub(crate) fn u64(self, n: u64) -> Self {
        self.bytes(&n.to_le_bytes())
    }

    pub(crate) fn text(self, text: impl AsRef<[u8]>) -> Self {
        self.u64(text.as_ref().len() as u64).bytes(text.as_ref())
    }

    /// A metadata pair; `value` is as it is in the file.
    pub(crate) fn pair(self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.text(key).u32(kind).bytes(value)
    }

    /// A tensor's description; `dims` from the innermost out, as in the file.
    pub(crate) fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let start = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(start, |raw, &d| raw.u64(d)).u32(kind).u64(offset)
    }

    /// Zeros up to a multiple of `n` bytes.
    pub(crate) fn pad(mut self, n: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(n), 0);
        self
    }
}
