//! Logs of one line per event (`metrics.jsonl`): only appended to, and cut back to a known length when a run goes on from a checkpoint.
use super::{Fs, FsFile, RealFs, failed};
use crate::{Error, Result, open::open_regular};
use std::{
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// A text file to which whole lines are appended.
pub struct AppendLog {
    path: PathBuf,
    file: Box<dyn FsFile>,
    len: u64,
}

impl AppendLog {
    /// Opens or creates the log at `path`. A last line without its end, which a killed run leaves, is cut off.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Write`], [`Error::NotAFile`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_on(&RealFs, path, None)
    }

    /// Opens the log at `path` and cuts it back to its first `len` bytes: the length that [`AppendLog::len`] gave when the checkpoint
    /// was made from which the run goes on. What a longer log says happened after the checkpoint and will happen again.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the log is shorter or `len` is not at the end of a line, else those of [`AppendLog::open`].
    pub fn resume(path: &Path, len: u64) -> Result<Self> {
        Self::open_on(&RealFs, path, Some(len))
    }

    /// [`AppendLog::open`] (`keep` is `None`) or [`AppendLog::resume`] on another [`Fs`].
    ///
    /// # Errors
    /// Those of the two.
    pub fn open_on(fs: &dyn Fs, path: &Path, keep: Option<u64>) -> Result<Self> {
        let (whole, found) = match path.symlink_metadata() {
            Ok(_) => whole_lines(path, keep)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => (0, 0),
            Err(source) => return Err(Error::Read { path: path.into(), source }),
        };
        let len = match keep {
            None => whole,
            Some(n) if n == whole => n,
            Some(n) => {
                let problem = format!(
                    "has {found} bytes, of which {whole} are whole lines, but the checkpoint was made when it had {n}"
                );
                return Err(Error::Corrupt { path: path.into(), problem });
            }
        };
        let mut file = fs.append(path).map_err(failed(path, "open for appending"))?;
        if len < found {
            file.truncate(len).map_err(failed(path, "truncate"))?;
        }
        Ok(AppendLog { path: path.into(), file, len })
    }

    /// Appends `line` and a line feed in one write. JSON on one line never contains a line feed; one in `line` becomes a space.
    ///
    /// # Errors
    /// [`Error::Write`]. What was written of the line is cut off again if the system lets us.
    pub fn line(&mut self, line: &str) -> Result<()> {
        let mut text = line.replace('\n', " ");
        text.push('\n');
        if let Err(e) = self.file.write_all(text.as_bytes()) {
            let _ = self.file.truncate(self.len);
            return Err(failed(&self.path, "append")(e));
        }
        self.len += text.len() as u64;
        Ok(())
    }

    /// fsync: call it before the checkpoint that remembers [`AppendLog::len`] is written.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync().map_err(failed(&self.path, "fsync"))
    }

    /// Bytes in the log.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True when nothing was logged.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl std::fmt::Debug for AppendLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppendLog").field("path", &self.path).field("len", &self.len).finish_non_exhaustive()
    }
}

/// The end of the last whole line within the first `keep` bytes of the file, and the file's length.
fn whole_lines(path: &Path, keep: Option<u64>) -> Result<(u64, u64)> {
    let (mut file, found) = open_regular(path)?;
    let read = |source| Error::Read { path: path.into(), source };
    let mut end = keep.unwrap_or(found).min(found);
    let mut piece = [0; 4096];
    // Backwards, because a log may be long and its last line is short.
    while 0 < end {
        let start = end.saturating_sub(piece.len() as u64);
        let part = &mut piece[..(end - start) as usize];
        file.seek(SeekFrom::Start(start)).map_err(read)?;
        file.read_exact(part).map_err(read)?;
        if let Some(i) = part.iter().rposition(|&b| b == b'\n') {
            return Ok((start + i as u64 + 1, found));
        }
        end = start;
    }
    Ok((0, found))
}
