//! Names that may be joined to a directory: plain file names, nothing that leads elsewhere.
use crate::{Error, Result};
use std::path::Path;

/// Checks that `name` is the plain name of a file: not empty, at most 255 bytes, no separator of any system, no control character, not `.` or `..`.
/// `path` is who said the name, for the message.
///
/// # Errors
/// [`Error::Name`].
///
/// ```
/// # use paring_checkpoint::check_file_name;
/// let index = std::path::Path::new("model.safetensors.index.json");
/// assert!(check_file_name(index, "model-00001-of-00002.safetensors").is_ok());
/// assert!(check_file_name(index, "../../etc/passwd").is_err());
/// ```
pub fn check_file_name(path: &Path, name: &str) -> Result<()> {
    let problem = match name {
        "" => "is empty",
        "." | ".." => "is a directory",
        _ if 255 < name.len() => "is longer than 255 bytes",
        _ if name.contains('\0') => "contains a NUL",
        // `\` and `:` separate on other systems, where a directory written here may be unpacked.
        _ if name.contains(['/', '\\', ':']) => "contains a separator",
        _ if name.chars().any(char::is_control) => "contains a control character",
        _ => return Ok(()),
    };
    Err(Error::Name { path: path.into(), name: name.into(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_pass() {
        let long = "x".repeat(256);
        let bad = [
            "",
            ".",
            "..",
            "/",
            "/abs",
            "a/b",
            "../x",
            "a/../../b",
            "C:\\x",
            "a\\b",
            "x\0y",
            "x\ny",
            "\u{1b}[2J",
            &long,
        ];
        for name in bad {
            let got = check_file_name(Path::new("d"), name);
            assert!(matches!(got, Err(Error::Name { .. })), "{name:?} gave {got:?}");
        }
        for name in ["a", "a.b", "...", "..a", ".hidden", "ü", "model-00001-of-00002.safetensors", "trailing."] {
            check_file_name(Path::new("d"), name).unwrap();
        }
    }
}
