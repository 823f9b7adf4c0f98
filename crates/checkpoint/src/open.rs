//! Opening for reading: regular files only, so that a pipe cannot hang us and a device cannot surprise us.
use crate::{Error, Result};
use std::{
    fs::{File, FileType, OpenOptions},
    io::Read,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

/// An open regular file and its length.
///
/// # Errors
/// [`Error::Read`], [`Error::NotAFile`].
pub fn open_regular(path: &Path) -> Result<(File, u64)> {
    let read = |source| Error::Read { path: path.into(), source };
    // Looked at before it is opened, because opening alone can have effects on a device; and again on the descriptor, which cannot be exchanged.
    check_regular(path, std::fs::metadata(path).map_err(read)?.file_type())?;
    // Without NONBLOCK, opening a pipe that nobody writes to waits for ever. It has no effect on regular files.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    check_regular(path, metadata.file_type())?;
    Ok((file, metadata.len()))
}

fn check_regular(path: &Path, kind: FileType) -> Result<()> {
    if kind.is_file() { Ok(()) } else { Err(Error::NotAFile { path: path.into(), kind: kind_name(kind) }) }
}

/// What a thing in the file system is, with its article.
pub(crate) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        k if k.is_dir() => "a directory",
        k if k.is_fifo() => "a pipe",
        k if k.is_socket() => "a socket",
        k if k.is_char_device() || k.is_block_device() => "a device",
        k if k.is_symlink() => "a symbolic link",
        k if k.is_file() => "a regular file",
        _ => "something unknown",
    }
}

/// Length in bytes and BLAKE3 of the file at `path`, which is read in pieces.
///
/// # Errors
/// [`Error::Read`], [`Error::NotAFile`].
pub fn hash_file(path: &Path) -> Result<(u64, blake3::Hash)> {
    let (mut file, _) = open_regular(path)?;
    let (mut hasher, mut len, mut piece) = (blake3::Hasher::new(), 0, vec![0; 1 << 18]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok((len, hasher.finalize())),
            Ok(n) => {
                hasher.update(&piece[..n]);
                len += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { path: path.into(), source }),
        }
    }
}
