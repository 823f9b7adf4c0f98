//! The memory map of a file that is read.
//!
//! A map has one danger that no check removes: when somebody truncates the file while it is mapped, touching a page behind the new end
//! kills the process (SIGBUS). What we do about it: the length is taken at opening and every range is checked against it, and it is
//! compared again before every tensor that is read, so that a file which became shorter is an error. Only a truncation during the very
//! read of a tensor is left. Our own outputs are never truncated: they are written beside their name and renamed.
#![allow(unsafe_code, reason = "memory maps cannot be made safely; this is the only module that makes one")]
use crate::{Error, Result, open::open_regular};
use memmap2::{Mmap, UncheckedAdvice};
use std::{
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

/// A mapped regular file.
#[derive(Debug)]
pub(crate) struct Map {
    path: PathBuf,
    file: File,
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl Map {
    /// # Errors
    /// [`Error::Read`], [`Error::NotAFile`].
    pub(crate) fn open(path: &Path) -> Result<Map> {
        let (file, len) = open_regular(path)?;
        let read = |source| Error::Read { path: path.into(), source };
        let map = if len == 0 {
            None
        } else {
            // SAFETY: the bytes must not change while references to them live. Nobody in this project writes to a file in place (module
            // `atomic`), and the module's text says what happens when somebody else does. The map is read-only, and it does not outlive
            // this struct, whose `bytes` borrow from it.
            Some(unsafe { Mmap::map(&file) }.map_err(read)?)
        };
        let map = Map { path: path.into(), file, map };
        map.check_length()?;
        Ok(map)
    }

    /// The file's bytes, as many as it had when it was opened.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }

    /// Says that `range` was copied: its pages need not stay in this process, whose memory would hold every tensor twice. They stay in
    /// the system's cache of the file, from where a second reading gets them.
    pub(crate) fn forget(&self, range: &Range<usize>) {
        if let Some(map) = &self.map {
            // SAFETY: pages of a read-only map of a file are exchanged for the file's bytes at the next access; no reference to them sees
            // another value, by what `open` relies on.
            let advised = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
            // It is an advice: where the system does not take it, nothing is lost but memory.
            drop(advised);
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Asks the system whether the file still has its length.
    ///
    /// # Errors
    /// [`Error::Changed`], [`Error::Read`].
    pub(crate) fn check_length(&self) -> Result<()> {
        let now = self.file.metadata().map_err(|source| Error::Read { path: self.path.clone(), source })?.len();
        let want = self.bytes().len() as u64;
        if now == want { Ok(()) } else { Err(Error::Changed { path: self.path.clone(), got: now, want }) }
    }
}
