#![doc = include_str!("../README.md")]

mod error;
mod shown; // names from files, made safe to print

pub mod atomic; // the only place in the project that opens files for writing
pub mod checked; // sizes that files declare, and what they are held against
pub mod gguf;
pub mod manifest; // a checkpoint directory that proves itself whole
pub mod safetensors;

mod json; // bounded text and JSON
mod map; // the memory map: the only `unsafe` of this crate
mod names; // file names that may be joined to a directory
mod open; // regular files only
mod source; // what every reader of tensors can do

pub use atomic::{AppendLog, DirWriter, Lock, Overwrite};
pub use checked::Limits;
pub use error::{Error, Result};
pub use gguf::Gguf;
pub use json::{parse_json, read_json, read_text};
pub use names::check_file_name;
pub use open::{hash_file, open_regular};
pub use safetensors::{ModelWriter, SafetensorsDir, SafetensorsFile, SafetensorsWriter, TensorSpec};
pub use shown::{shown, shown_path};
pub use source::{StorageType, TensorInfo, TensorSource};
