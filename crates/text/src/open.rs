//! Whole files of bounded length, through the opening that refuses pipes and devices.
use crate::Result;
use paring_checkpoint::{Error as FileError, open_regular};
use std::{
    io::{self, Read},
    path::Path,
};

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// Those of [`open_regular`], and when it is longer.
pub(crate) fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed shows that there is more.
    let mut file = open_regular(path)?.0.take(limit.saturating_add(1));
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
