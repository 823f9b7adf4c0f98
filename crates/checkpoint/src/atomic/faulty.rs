//! A file system for tests: does what the real one does, writes down what it was asked, and fails where it is told to.
//!
//! Public so that the crates that write through this one can test their own crashes; nothing outside of tests uses it.
use super::{Fs, FsFile, RealFs};
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What was asked of the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new file.
    Create(PathBuf),
    /// A file opened for appending.
    Append(PathBuf),
    /// Bytes were added to a file.
    Write(PathBuf, Vec<u8>),
    /// A file was cut.
    Truncate(PathBuf, u64),
    /// A file's fsync.
    Sync(PathBuf),
    /// A rename, of any of the two kinds.
    Rename(PathBuf, PathBuf),
    /// Two names changed places.
    Exchange(PathBuf, PathBuf),
    /// A directory's fsync.
    SyncDir(PathBuf),
    /// A new directory.
    CreateDir(PathBuf),
    /// A file or directory was removed.
    Remove(PathBuf),
}

/// Which calls a fault counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// All of them.
    Any,
    /// Writes to files.
    Write,
    /// fsync of files and directories.
    Sync,
    /// Creations of files and directories.
    Create,
    /// Renames and exchanges.
    Rename,
}

/// What happens at the counted call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ENOSPC, after half of the bytes of a write went through.
    NoSpace,
    /// EIO.
    Io,
    /// The call and all later ones fail, cleaning up included: as if the process had died there.
    Crash,
    /// The call fails and says that this file system does not know it.
    Unsupported,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    fault: Option<(Op, usize, Kind)>,
    seen: usize,
    crashed: bool,
    one_byte: bool,
}

/// The real file system with faults. Clones share their state.
#[derive(Clone, Debug, Default)]
pub struct FaultyFs {
    state: Arc<Mutex<State>>,
}

impl FaultyFs {
    /// Without a fault: only records.
    pub fn recording() -> Self {
        Self::default()
    }

    /// The call number `nth` (from 0) among those of kind `op` fails as `kind` says.
    pub fn failing(op: Op, nth: usize, kind: Kind) -> Self {
        let fs = Self::default();
        fs.lock().fault = Some((op, nth, kind));
        fs
    }

    /// Every write takes one byte only, and every second one is interrupted.
    pub fn one_byte_at_a_time() -> Self {
        let fs = Self::default();
        fs.lock().one_byte = true;
        fs
    }

    /// What was asked so far, and done.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// Whether the fault was reached.
    pub fn reached(&self) -> bool {
        let state = self.lock();
        state.fault.is_some_and(|(_, nth, _)| nth < state.seen)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; gives the fault when it is its turn.
    fn turn(&self, op: Op) -> Option<Kind> {
        let mut state = self.lock();
        if state.crashed {
            return Some(Kind::Crash);
        }
        let (of, nth, kind) = state.fault?;
        if of != op && of != Op::Any {
            return None;
        }
        state.seen += 1;
        if state.seen != nth + 1 {
            return None;
        }
        state.crashed = kind == Kind::Crash;
        Some(kind)
    }

    fn call<T>(&self, op: Op, event: Event, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if let Some(kind) = self.turn(op) {
            return Err(error(kind));
        }
        let result = f()?;
        self.lock().events.push(event);
        Ok(result)
    }

    fn file(&self, path: &Path, inner: Box<dyn FsFile>) -> Box<dyn FsFile> {
        Box::new(FaultyFile { fs: self.clone(), path: path.into(), inner, interrupted: false })
    }
}

fn error(kind: Kind) -> io::Error {
    match kind {
        Kind::NoSpace => io::ErrorKind::StorageFull.into(),
        Kind::Unsupported => io::ErrorKind::Unsupported.into(),
        Kind::Io => io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()),
        Kind::Crash => io::Error::other("the process died here (a test)"),
    }
}

struct FaultyFile {
    fs: FaultyFs,
    path: PathBuf,
    inner: Box<dyn FsFile>,
    interrupted: bool,
}

impl FaultyFile {
    fn pass_on(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.fs.lock().events.push(Event::Write(self.path.clone(), bytes[..n].to_vec()));
        Ok(n)
    }
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(kind) = self.fs.turn(Op::Write) {
            // A disk fills up in the middle of a write, not between two.
            if kind == Kind::NoSpace && 1 < bytes.len() {
                self.pass_on(&bytes[..bytes.len() / 2])?;
            }
            return Err(error(kind));
        }
        let one_byte = self.fs.lock().one_byte;
        if one_byte {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        let most = if one_byte { 1 } else { bytes.len() };
        self.pass_on(&bytes[..most.min(bytes.len())])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl FsFile for FaultyFile {
    fn sync(&mut self) -> io::Result<()> {
        let FaultyFile { fs, path, inner, .. } = self;
        fs.call(Op::Sync, Event::Sync(path.clone()), || inner.sync())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let FaultyFile { fs, path, inner, .. } = self;
        fs.call(Op::Write, Event::Truncate(path.clone(), len), || inner.truncate(len))
    }
}

impl Fs for FaultyFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let file = self.call(Op::Create, Event::Create(path.into()), || RealFs.create_new(path))?;
        Ok(self.file(path, file))
    }
    fn append(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let file = self.call(Op::Create, Event::Append(path.into()), || RealFs.append(path))?;
        Ok(self.file(path, file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Op::Rename, Event::Rename(from.into(), to.into()), || RealFs.rename(from, to))
    }
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Op::Rename, Event::Rename(from.into(), to.into()), || RealFs.rename_noreplace(from, to))
    }
    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        self.call(Op::Rename, Event::Exchange(a.into(), b.into()), || RealFs.exchange(a, b))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::Sync, Event::SyncDir(path.into()), || RealFs.sync_dir(path))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::Create, Event::CreateDir(path.into()), || RealFs.create_dir(path))
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(Op::Any, Event::Remove(path.into()), || RealFs.remove_file(path))
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.call(Op::Any, Event::Remove(path.into()), || RealFs.remove_dir_all(path))
    }
}
