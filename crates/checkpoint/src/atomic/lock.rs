//! One writer per directory: a lock file with `flock`, which the system frees when the process ends, however it ends.
use super::failed;
use crate::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A held lock. Dropping it, or the death of the process, frees it. The file stays: removing it would let two processes lock two files of
/// the same name. On NFS the lock of a machine that died may stay until the server notices.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    // Kept open, because closing frees the lock.
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, creating the file when it is missing, without waiting.
    ///
    /// # Errors
    /// [`Error::Locked`] with process and host of the holder, or [`Error::Write`].
    pub fn acquire(path: &Path) -> Result<Lock> {
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut options = OpenOptions::new();
        // Not truncated: until the lock is ours, the text in it is the holder's.
        options.read(true).write(true).create(true).truncate(false).custom_flags(nonblock);
        loop {
            let mut file = options.open(path).map_err(failed(path, "open the lock file"))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(e) if e == rustix::io::Errno::WOULDBLOCK => {
                    return Err(Error::Locked { path: path.into(), holder: holder(&mut file) });
                }
                Err(e) if e == rustix::io::Errno::INTR => continue,
                Err(e) => return Err(failed(path, "lock")(e.into())),
            }
            // Somebody may have removed the file after we opened it; then our lock is on a file without a name.
            if !same_file(&file, path) {
                continue;
            }
            let me = format!("process {} on {}\n", std::process::id(), host());
            let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(me.as_bytes()));
            written.map_err(failed(path, "write the lock file"))?;
            return Ok(Lock { path: path.into(), _file: file });
        }
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn holder(file: &mut File) -> String {
    let mut text = Vec::new();
    let read = file.take(300).read_to_end(&mut text).is_ok();
    let text = String::from_utf8_lossy(&text);
    // The holder writes its name after it took the lock, so for a moment there is none.
    if read && !text.trim().is_empty() { text.trim().into() } else { "it has not written its name yet".into() }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
