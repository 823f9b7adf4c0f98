//! Every file that this project writes is written here, so that a crash, a full disk or a power cut leaves either the old state or the
//! new one under the final name, never a part.
//!
//! A file: unique temporary name beside the target, write, fsync, rename, fsync of the directory. A directory of files: the same with a
//! temporary directory ([`DirWriter`]). Logs are only appended to ([`AppendLog`]). Modes follow the umask: files are created with 0666,
//! directories with 0777, and the system takes the umask off.
//!
//! The promise holds on Linux with a local file system whose fsync works. What the system is asked to do goes through the trait [`Fs`];
//! [`FaultyFs`] records it and fails on demand, for tests.
use crate::{Error, Result, open::kind_name};
use std::{
    ffi::{OsStr, OsString},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

mod append; // logs
mod dir; // directories
mod faulty; // faults on demand
mod fs; // what the system is asked to do
mod lock; // one writer at a time

pub use append::AppendLog;
pub use dir::{DirFile, DirWriter, FileEntry, Overwrite};
pub use faulty::{Event, FaultyFs, Kind, Op};
pub use fs::{Fs, FsFile, RealFs};
pub use lock::Lock;

/// What every temporary name contains. Nothing that this project writes for keeps does.
const MARK: &str = ".paring-tmp-";

/// Error of a failed system call that writes.
fn failed<'a>(path: &'a Path, action: &'static str) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error::Write { path: path.into(), action, source }
}

/// `.NAME.paring-tmp-PID-N` beside `path`: hidden, unique in this process, and told apart from that of any other.
fn temporary_beside(path: &Path) -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = file_name(path)?;
    // A name may have 255 bytes; a long one is cut, at a character, to leave room for the rest.
    let mut short = name.to_string_lossy().into_owned();
    while 200 < short.len() {
        short.pop();
    }
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut temporary = OsString::from(".");
    temporary.push(format!("{short}{MARK}{}-{n}", std::process::id()));
    Ok(parent(path).join(temporary))
}

fn file_name(path: &Path) -> Result<&OsStr> {
    let problem = "names no file";
    path.file_name().ok_or_else(|| Error::Name { path: path.into(), name: path.display().to_string(), problem })
}

/// The directory that `path` is in: `.` for a plain name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Writes the file at `path` through `write`, replacing what was there: all of it, or none of it.
///
/// # Errors
/// [`Error::Write`]; [`Error::NotAFile`] when `path` is a directory, pipe or device. The temporary file is removed, the old file is untouched.
///
/// ```
/// use std::io::Write;
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("report.txt");
/// paring_checkpoint::atomic::write_file(&path, |w| writeln!(w, "done"))?;
/// assert_eq!(std::fs::read_to_string(&path)?, "done\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    write_file_on(&RealFs, path, write)
}

/// [`write_file`] with the contents at hand.
///
/// # Errors
/// Those of [`write_file`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_file(path, |w| w.write_all(bytes))
}

/// [`write_file`] on another [`Fs`].
///
/// # Errors
/// Those of [`write_file`].
pub fn write_file_on(fs: &dyn Fs, path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    // Renaming over a device would replace it, which nobody means who says `--out /dev/null`.
    if let Ok(found) = std::fs::metadata(path)
        && !found.is_file()
    {
        return Err(Error::NotAFile { path: path.into(), kind: kind_name(found.file_type()) });
    }
    let temporary = temporary_beside(path)?;
    let result = write_and_rename(fs, &temporary, path, write);
    if result.is_err() {
        // The first error is the one to tell; a temporary file that cannot be removed either is hidden and says what it is.
        let _ = fs.remove_file(&temporary);
    }
    result
}

fn write_and_rename(
    fs: &dyn Fs,
    temporary: &Path,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let mut file =
        io::BufWriter::with_capacity(1 << 16, fs.create_new(temporary).map_err(failed(path, "create a file"))?);
    write(&mut file).and_then(|()| file.flush()).map_err(failed(path, "write"))?;
    // An fsync that failed may have dropped the data and will succeed the next time, so it is never tried twice.
    file.get_mut().sync().map_err(failed(path, "fsync"))?;
    drop(file);
    fs.rename(temporary, path).map_err(failed(path, "rename the finished file"))?;
    fs.sync_dir(parent(path)).map_err(failed(path, "fsync the directory"))
}

/// Creates `path` and the directories above it that are missing, and makes them durable.
///
/// # Errors
/// [`Error::Write`].
pub fn create_dir_all(path: &Path) -> Result<()> {
    create_dir_all_on(&RealFs, path)
}

fn create_dir_all_on(fs: &dyn Fs, path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    create_dir_all_on(fs, parent(path))?;
    match fs.create_dir(path) {
        Ok(()) => {}
        // Somebody else was faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(e) => return Err(failed(path, "create a directory")(e)),
    }
    fs.sync_dir(parent(path)).map_err(failed(path, "fsync the directory"))
}

/// Removes the directory at `path`. It disappears from its name first, so that being killed half way leaves no half directory there.
///
/// # Errors
/// [`Error::Write`].
pub fn remove_dir_all(path: &Path) -> Result<()> {
    remove_dir_all_on(&RealFs, path)
}

pub(crate) fn remove_dir_all_on(fs: &dyn Fs, path: &Path) -> Result<()> {
    let temporary = temporary_beside(path)?;
    fs.rename_noreplace(path, &temporary).map_err(failed(path, "rename before removal"))?;
    fs.sync_dir(parent(path)).map_err(failed(path, "fsync the directory"))?;
    fs.remove_dir_all(&temporary).map_err(failed(path, "remove"))
}

/// Removes what writers that were killed left in `dir`: entries with a temporary name, except those of this process. Call it while
/// holding the [`Lock`] that every writer to `dir` takes, or somebody's unfinished work is removed. Returns the paths removed.
///
/// # Errors
/// [`Error::Read`], [`Error::Write`].
pub fn remove_leftovers(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = |source| Error::Read { path: dir.into(), source };
    let own = format!("{MARK}{}-", std::process::id());
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') || !is_temporary(&name) || name.contains(&own) {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().map_err(read)?.is_dir();
        let result = if is_dir { RealFs.remove_dir_all(&path) } else { RealFs.remove_file(&path) };
        result.map_err(failed(&path, "remove"))?;
        removed.push(path);
    }
    Ok(removed)
}

/// Whether `name` ends as temporary names do: the mark, a process, a number.
fn is_temporary(name: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    name.rsplit_once(MARK).and_then(|(_, tail)| tail.split_once('-')).is_some_and(|(pid, n)| digits(pid) && digits(n))
}
