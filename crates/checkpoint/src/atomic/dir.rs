//! A directory of files that appears whole: a model, a checkpoint.
use super::{Fs, FsFile, RealFs, failed, file_name, is_temporary, parent, temporary_beside};
use crate::{Error, Result, check_file_name};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What to do when something is at the final name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Refuse, when the writer is created and again when it commits.
    Refuse,
    /// Put the new directory in its place in one step, then remove the old one. Only a directory that is empty or has a `config.json` or
    /// a `manifest.json` is replaced, so that a mistyped path does not cost somebody's home directory.
    Replace,
}

/// Length and hash of a file as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the contents.
    pub blake3: blake3::Hash,
}

#[derive(Debug, Default)]
struct Written {
    finished: BTreeMap<String, FileEntry>,
    unfinished: BTreeSet<String>,
}

type Shared = Arc<Mutex<Written>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Written> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a directory under a temporary name beside the final one; [`DirWriter::commit`] gives it its name. Dropped before that, it
/// removes what it wrote.
#[derive(Debug)]
pub struct DirWriter {
    fs: Arc<dyn Fs>,
    target: PathBuf,
    temporary: PathBuf,
    overwrite: Overwrite,
    subdirs: BTreeSet<String>,
    written: Shared,
    /// Nothing of ours is left under the temporary name.
    done: bool,
}

impl DirWriter {
    /// Starts a directory that will be at `target`. The directories above it have to exist.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NotOurs`], [`Error::NotAFile`] when a file is at `target`, [`Error::Write`].
    pub fn create(target: &Path, overwrite: Overwrite) -> Result<Self> {
        Self::create_on(Arc::new(RealFs), target, overwrite)
    }

    /// [`DirWriter::create`] on another [`Fs`].
    ///
    /// # Errors
    /// Those of [`DirWriter::create`].
    pub fn create_on(fs: Arc<dyn Fs>, target: &Path, overwrite: Overwrite) -> Result<Self> {
        if is_temporary(&file_name(target)?.to_string_lossy()) {
            let problem = "looks like a temporary name of this program";
            return Err(Error::Name { path: parent(target).into(), name: target.display().to_string(), problem });
        }
        check_target(target, overwrite)?;
        let temporary = temporary_beside(target)?;
        fs.create_dir(&temporary).map_err(failed(target, "create a directory"))?;
        let (subdirs, written) = Default::default();
        Ok(DirWriter { fs, target: target.into(), temporary, overwrite, subdirs, written, done: false })
    }

    /// Where the directory will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// A new subdirectory.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Announced`] when it is there already, [`Error::Write`].
    pub fn subdir(&mut self, name: &str) -> Result<()> {
        check_file_name(&self.target, name)?;
        if !self.subdirs.insert(name.into()) || self.is_taken(name) {
            return Err(self.twice(name));
        }
        self.fs.create_dir(&self.temporary.join(name)).map_err(failed(&self.target.join(name), "create a directory"))
    }

    /// A new file: `name`, or `subdir/name` after [`DirWriter::subdir`]. It has to be [finished](DirFile::finish).
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Announced`] when it is there already, [`Error::Write`].
    pub fn file(&mut self, name: &str) -> Result<DirFile> {
        match name.split_once('/') {
            Some((dir, _)) if !self.subdirs.contains(dir) => {
                let problem = "lies in a subdirectory that was not created";
                return Err(Error::Name { path: self.target.clone(), name: name.into(), problem });
            }
            Some((_, file)) => check_file_name(&self.target, file)?,
            None => check_file_name(&self.target, name)?,
        }
        if self.is_taken(name) || self.subdirs.contains(name) {
            return Err(self.twice(name));
        }
        let path = self.target.join(name);
        let file = self.fs.create_new(&self.temporary.join(name)).map_err(failed(&path, "create a file"))?;
        lock(&self.written).unfinished.insert(name.into());
        let hashed = Hashed { file, hasher: blake3::Hasher::new(), bytes: 0 };
        // Large enough that a tensor goes through it in few calls.
        let writer = BufWriter::with_capacity(1 << 18, hashed);
        Ok(DirFile { name: name.into(), path, writer, written: Arc::clone(&self.written) })
    }

    /// A new file with the contents at hand.
    ///
    /// # Errors
    /// Those of [`DirWriter::file`] and [`DirFile::finish`].
    pub fn write_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.file(name)?;
        file.write_all(bytes).map_err(failed(&self.target.join(name), "write"))?;
        file.finish()
    }

    /// Files that are finished, by name: what a manifest lists.
    pub fn files(&self) -> BTreeMap<String, FileEntry> {
        lock(&self.written).finished.clone()
    }

    /// Makes everything durable and gives the directory its name.
    ///
    /// # Errors
    /// [`Error::Announced`] when a file is not finished, [`Error::Exists`] when somebody else made the directory meanwhile,
    /// [`Error::Write`]. After an error nothing new is under the final name, except when the very last step fails, the fsync of the
    /// directory above: then the new directory is there, whole, but may be gone after a power cut.
    pub fn commit(mut self) -> Result<()> {
        if let Some(name) = lock(&self.written).unfinished.first() {
            let problem = "is not finished".into();
            return Err(Error::Announced { path: self.target.clone(), name: name.clone(), problem });
        }
        let sync = failed(&self.target, "fsync the directory");
        for name in &self.subdirs {
            self.fs.sync_dir(&self.temporary.join(name)).map_err(&sync)?;
        }
        self.fs.sync_dir(&self.temporary).map_err(&sync)?;
        let old = self.give_name()?;
        self.done = true;
        self.fs.sync_dir(parent(&self.target)).map_err(&sync)?;
        if let Some(old) = old {
            // Only after the new one is durable. The new one is in place whether this works or not.
            self.fs.remove_dir_all(&old).map_err(failed(&self.target, "remove the directory that was replaced"))?;
        }
        Ok(())
    }

    /// Renames; returns where the replaced directory is now.
    fn give_name(&self) -> Result<Option<PathBuf>> {
        check_target(&self.target, self.overwrite)?;
        let rename = failed(&self.target, "rename the finished directory");
        if self.target.symlink_metadata().is_err() {
            return match self.fs.rename_noreplace(&self.temporary, &self.target) {
                Ok(()) => Ok(None),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists { path: self.target.clone() }),
                Err(e) => Err(rename(e)),
            };
        }
        match self.fs.exchange(&self.temporary, &self.target) {
            Ok(()) => Ok(Some(self.temporary.clone())),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                // Two renames instead of one exchange: between them nothing is at the name, and the old directory is beside it.
                let old = temporary_beside(&self.target)?;
                self.fs.rename_noreplace(&self.target, &old).map_err(&rename)?;
                if let Err(e) = self.fs.rename_noreplace(&self.temporary, &self.target) {
                    let _ = self.fs.rename_noreplace(&old, &self.target);
                    return Err(rename(e));
                }
                Ok(Some(old))
            }
            Err(e) => Err(rename(e)),
        }
    }

    fn is_taken(&self, name: &str) -> bool {
        let written = lock(&self.written);
        written.finished.contains_key(name) || written.unfinished.contains(name)
    }

    fn twice(&self, name: &str) -> Error {
        Error::Announced { path: self.target.clone(), name: name.into(), problem: "is there already".into() }
    }
}

impl Drop for DirWriter {
    fn drop(&mut self) {
        if !self.done {
            // Nobody to tell. What stays is hidden, and `remove_leftovers` finds it.
            let _ = self.fs.remove_dir_all(&self.temporary);
        }
    }
}

/// Whether `target` may be written under `overwrite`.
fn check_target(target: &Path, overwrite: Overwrite) -> Result<()> {
    let exists = || Error::Exists { path: target.into() };
    let read = |source| Error::Read { path: target.into(), source };
    let found = match target.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(read(e)),
        Ok(found) => found,
    };
    // A file or a link is never replaced by a directory.
    if overwrite == Overwrite::Refuse || !found.is_dir() {
        return Err(exists());
    }
    let ours = ["config.json", "manifest.json"].iter().any(|f| target.join(f).is_file());
    if ours || std::fs::read_dir(target).map_err(read)?.next().is_none() {
        return Ok(());
    }
    Err(Error::NotOurs { path: target.into() })
}

/// A file of a [`DirWriter`]. Buffered; hashed on the way.
pub struct DirFile {
    name: String,
    path: PathBuf,
    writer: BufWriter<Hashed>,
    written: Shared,
}

struct Hashed {
    file: Box<dyn FsFile>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl DirFile {
    /// Where the file will be, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what is buffered and makes it durable.
    ///
    /// # Errors
    /// [`Error::Write`]; the directory can then not be committed.
    pub fn finish(mut self) -> Result<()> {
        self.writer.flush().map_err(failed(&self.path, "write"))?;
        let Hashed { file, hasher, bytes } = self.writer.get_mut();
        // An fsync that failed may have dropped the data and will succeed the next time, so it is never tried twice.
        file.sync().map_err(failed(&self.path, "fsync"))?;
        let entry = FileEntry { bytes: *bytes, blake3: hasher.finalize() };
        let mut written = lock(&self.written);
        written.unfinished.remove(&self.name);
        written.finished.insert(self.name.clone(), entry);
        Ok(())
    }
}

impl Write for DirFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl fmt::Debug for DirFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
