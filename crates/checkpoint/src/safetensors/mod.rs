//! Safetensors: one file, a directory of shards, and writing both.
//!
//! The format: 8 bytes with the header's length, the header (JSON: name -> dtype, shape, offsets), the data. The safetensors crate
//! parses the header; what it does not check is checked here first: names that appear twice, the limits, and that errors say where.
//! See <https://github.com/huggingface/safetensors#format>.
mod dir; // several files, one index
mod file; // one file
mod header; // the header's checks
mod model; // a model directory, sharded
mod write; // one file, streamed

pub use dir::SafetensorsDir;
pub use file::SafetensorsFile;
pub use model::{DEFAULT_SHARD_BYTES, ModelWriter};
pub use write::{SafetensorsWriter, TensorSpec};
