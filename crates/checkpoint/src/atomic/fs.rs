//! What writing asks of the system, as a trait, so that tests can make any of it fail; and the system itself.
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// A file being written.
pub trait FsFile: Write + Send {
    /// fsync: returns when the data are on the disk.
    ///
    /// # Errors
    /// What the system says. After an error nobody knows what is on the disk.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `len` bytes; writing goes on there.
    ///
    /// # Errors
    /// What the system says.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// The system calls that change files.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Creates a file that is not there yet, for writing.
    ///
    /// # Errors
    /// What the system says, `AlreadyExists` among it; so for all the others.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;
    /// Opens a file for appending, creating it when it is missing.
    ///
    /// # Errors
    /// What the system says.
    fn append(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;
    /// Renames a file over whatever file is at `to`.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames, unless something is at `to`.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the system says.
    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Exchanges two names in one step.
    ///
    /// # Errors
    /// `Unsupported` when the file system cannot, or what the system says.
    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory that is not there yet.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and what is in it, without following symbolic links.
    ///
    /// # Errors
    /// What the system says.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
}

/// The file systems of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl FsFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

impl Fs for RealFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        // The mode is 0666 less the umask: what the user asked every program for.
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).open(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(OpenOptions::new().append(true).create(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(unsupported) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                // Some network file systems do not know the flag. Between the look and the rename somebody else could create `to`;
                // even then only an empty directory can be replaced by a directory.
                if to.symlink_metadata().is_ok() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                std::fs::rename(from, to)
            }
            other => other,
        }
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).map_err(unsupported)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(path)
    }
}

/// A kernel without the call says ENOSYS, a file system without the flag EINVAL or ENOTSUP.
fn unsupported(e: rustix::io::Errno) -> io::Error {
    use rustix::io::Errno;
    if [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP].contains(&e) { io::ErrorKind::Unsupported.into() } else { e.into() }
}
