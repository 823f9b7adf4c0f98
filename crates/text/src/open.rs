//! Opening for reading: regular files only, so that a pipe cannot hang us and a device cannot surprise us.
use crate::Result;
use paring_checkpoint::Error as FileError;
use std::{
    fs::{File, FileType},
    io::{self, Read},
    os::unix::fs::FileTypeExt,
    path::Path,
};

/// An open regular file.
///
/// # Errors
/// When it cannot be read, or is something else than a regular file.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    // Looked at before it is opened, because opening a pipe that nobody writes to waits for ever; and again on what was opened.
    check_regular(path, std::fs::metadata(path).map_err(|e| cannot_read(path, e))?.file_type())?;
    let file = File::open(path).map_err(|e| cannot_read(path, e))?;
    check_regular(path, file.metadata().map_err(|e| cannot_read(path, e))?.file_type())?;
    Ok(file)
}

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// Those of [`open_regular`], and when it is longer.
pub(crate) fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed shows that there is more.
    let mut file = open_regular(path)?.take(limit.saturating_add(1));
    let got = file.read_to_end(&mut bytes).map_err(|e| cannot_read(path, e))? as u64;
    if limit < got {
        return Err(FileError::Limit { path: path.into(), field: "the length in bytes".into(), got, limit }.into());
    }
    Ok(bytes)
}

/// The error for a file that the system does not give us.
pub(crate) fn cannot_read(path: &Path, source: io::Error) -> crate::Error {
    FileError::Read { path: path.into(), source }.into()
}

fn check_regular(path: &Path, kind: FileType) -> Result<()> {
    let kind = match kind {
        k if k.is_file() => return Ok(()),
        k if k.is_dir() => "a directory",
        k if k.is_fifo() => "a pipe",
        k if k.is_socket() => "a socket",
        _ => "a device",
    };
    Err(FileError::NotAFile { path: path.into(), kind }.into())
}
