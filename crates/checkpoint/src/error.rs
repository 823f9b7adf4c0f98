//! What can be wrong with a file, a directory of files, or the disk they go to.
use crate::{shown, shown_path};
use std::{fmt, io, path::PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error about a file. Every variant says which.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed.
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Writing failed.
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, pipe, socket or device where a file is needed.
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A number in the file is above a limit.
    Limit {
        /// The file.
        path: PathBuf,
        /// Which number.
        field: String,
        /// Its value.
        got: u64,
        /// The largest that is accepted.
        limit: u64,
    },
    /// Numbers in the file add up or multiply to more than 64 bits hold.
    Overflow {
        /// The file.
        path: PathBuf,
        /// Which number.
        field: String,
    },
    /// The file declares more than it holds: it is truncated, or its header lies.
    PastEnd {
        /// The file.
        path: PathBuf,
        /// What is declared.
        field: String,
        /// Where it would end, in bytes from the start of the file.
        end: u64,
        /// The file's length.
        len: u64,
    },
    /// The file's length is another than when it was opened.
    Changed {
        /// The file.
        path: PathBuf,
        /// The length now.
        got: u64,
        /// The length at opening.
        want: u64,
    },
    /// The file breaks its format.
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which part.
        field: String,
        /// What is wrong: expected and got.
        problem: String,
    },
    /// The same name twice.
    Duplicate {
        /// The file (the second one, when two files share a tensor).
        path: PathBuf,
        /// What it names: "tensor", "metadata key", "JSON key".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A name that must not become part of a path.
    Name {
        /// The file that says it, or the directory it would be written to.
        path: PathBuf,
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The right kind of file with contents that this program does not read.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it has, and what to do.
        what: String,
    },
    /// A directory without weights.
    NoWeights {
        /// The directory.
        path: PathBuf,
    },
    /// A directory whose weights are pickles.
    Pickle {
        /// One of the files.
        path: PathBuf,
    },
    /// No tensor of this name.
    MissingTensor {
        /// The file or directory.
        path: PathBuf,
        /// The name.
        tensor: String,
    },
    /// The index names a file that is not there.
    MissingShard {
        /// The missing file.
        path: PathBuf,
        /// One of the tensors that should be in it.
        tensor: String,
    },
    /// The tensor is stored in a type that cannot be read as what was asked for.
    Storage {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// How it is stored.
        got: String,
        /// What would have been accepted.
        want: String,
    },
    /// A weight is infinite or not a number.
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Index of the first such element, in row-major order.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A metadata key is missing.
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type it should have.
        want: &'static str,
    },
    /// A metadata key has a value of another type.
    KeyType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type needed.
        want: &'static str,
        /// The type found.
        got: String,
    },
    /// The output is already there.
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// A directory that is to be replaced does not look like one that this program wrote.
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// Another process works here.
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Process and host, as the holder wrote them.
        holder: String,
    },
    /// What is being written differs from what was announced: a mistake of the caller.
    Announced {
        /// The file being written.
        path: PathBuf,
        /// The tensor or file.
        name: String,
        /// Expected and got.
        problem: String,
    },
    /// A checkpoint does not hold what its manifest says.
    Corrupt {
        /// The file that differs.
        path: PathBuf,
        /// Expected and got.
        problem: String,
    },
    /// A tensor could not be made from what the file holds.
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Why.
        source: paring_tensor::Error,
    },
}

impl Error {
    /// True when the input or the arguments are at fault (a file, a path, a name), false when the machine is (disk full, I/O error, memory).
    pub fn is_input(&self) -> bool {
        use io::ErrorKind::{
            AlreadyExists, InvalidFilename, IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
        };
        match self {
            Error::Read { source, .. } | Error::Write { source, .. } => {
                // A loop of links has a kind of its own, which stable Rust does not name.
                source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
                    || matches!(
                        source.kind(),
                        NotFound
                            | PermissionDenied
                            | NotADirectory
                            | IsADirectory
                            | InvalidFilename
                            | AlreadyExists
                            | ReadOnlyFilesystem
                    )
            }
            Error::Tensor { source, .. } => !matches!(source, paring_tensor::Error::OutOfMemory { .. }),
            Error::Announced { .. } => false,
            _ => true,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Read { path, source } => write!(f, "{}: cannot be read: {source}", shown_path(path)),
            Error::Write { path, action, source } => {
                write!(f, "{}: cannot {action}: {source}", shown_path(path))?;
                match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        write!(f, "; free some space or write to another disk")
                    }
                    _ => Ok(()),
                }
            }
            Error::NotAFile { path, kind } => {
                write!(f, "{}: is {kind}, expected a regular file", shown_path(path))
            }
            Error::Limit { path, field, got, limit } => {
                write!(f, "{}: {} is {got}, above the limit of {limit}", shown_path(path), shown(field))
            }
            Error::Overflow { path, field } => {
                write!(f, "{}: {} does not fit 64 bits, so the header is wrong", shown_path(path), shown(field))
            }
            Error::PastEnd { path, field, end, len } => write!(
                f,
                "{}: {} would end at byte {end}, but the file has {len} bytes; it is truncated or its header is wrong",
                shown_path(path),
                shown(field)
            ),
            Error::Changed { path, got, want } => write!(
                f,
                "{}: has {got} bytes now and had {want} when it was opened; somebody writes to it",
                shown_path(path)
            ),
            Error::Malformed { path, field, problem } => {
                write!(f, "{}: {}: {}", shown_path(path), shown(field), shown(problem))
            }
            Error::Duplicate { path, what, name } => {
                write!(f, "{}: {what} `{}` appears twice", shown_path(path), shown(name))
            }
            Error::Name { path, name, problem } => write!(
                f,
                "{}: `{}` {problem}; expected the plain name of a file in this directory",
                shown_path(path),
                shown(name)
            ),
            Error::Unsupported { path, what } => write!(f, "{}: {}", shown_path(path), shown(what)),
            Error::NoWeights { path } => write!(
                f,
                "{}: has neither model.safetensors nor model.safetensors.index.json; give the directory of a Hugging Face model",
                shown_path(path)
            ),
            Error::Pickle { path } => write!(
                f,
                "{}: is a pickle, which can run any code when it is loaded; convert the model to safetensors first \
                 (in Python: model.save_pretrained(DIR, safe_serialization=True))",
                shown_path(path)
            ),
            Error::MissingTensor { path, tensor } => {
                write!(f, "{}: has no tensor `{}`", shown_path(path), shown(tensor))
            }
            Error::MissingShard { path, tensor } => write!(
                f,
                "{}: is missing, and the index says that tensor `{}` is in it; copy the file there",
                shown_path(path),
                shown(tensor)
            ),
            Error::Storage { path, tensor, got, want } => write!(
                f,
                "{}: tensor `{}` is stored as {}, expected {want}",
                shown_path(path),
                shown(tensor),
                shown(got)
            ),
            Error::NonFinite { path, tensor, index, value } => write!(
                f,
                "{}: tensor `{}` holds {value} at index {index}, expected only finite numbers",
                shown_path(path),
                shown(tensor)
            ),
            Error::MissingKey { path, key, want } => {
                write!(f, "{}: metadata key `{}` is missing, expected {want}", shown_path(path), shown(key))
            }
            Error::KeyType { path, key, want, got } => {
                write!(f, "{}: metadata key `{}` is {got}, expected {want}", shown_path(path), shown(key))
            }
            Error::Exists { path } => {
                write!(f, "{}: exists already; remove it, or choose another name", shown_path(path))
            }
            Error::NotOurs { path } => write!(
                f,
                "{}: is not replaced, because it is neither empty nor a model or checkpoint (no config.json, no manifest.json); remove it yourself if you are sure",
                shown_path(path)
            ),
            Error::Locked { path, holder } => {
                write!(f, "{}: another run works here ({}); wait for it, or stop it", shown_path(path), shown(holder))
            }
            Error::Announced { path, name, problem } => {
                write!(f, "{}: writing `{}`: {}", shown_path(path), shown(name), shown(problem))
            }
            Error::Corrupt { path, problem } => write!(f, "{}: {}", shown_path(path), shown(problem)),
            Error::Tensor { path, tensor, source } => {
                write!(f, "{}: tensor `{}`: {source}", shown_path(path), shown(tensor))
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Read { source, .. } | Error::Write { source, .. } => Some(source),
            Error::Tensor { source, .. } => Some(source),
            _ => None,
        }
    }
}
