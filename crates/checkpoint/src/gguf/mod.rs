//! GGUF, the file format of llama.cpp: reading versions 2 and 3, writing version 3.
//!
//! The format, all little-endian: `GGUF`, version (u32), number of tensors (u64), number of metadata pairs (u64); the pairs (key, type,
//! value); a description of each tensor (name, number of dimensions, dimensions from the innermost out, type, offset); padding to the
//! alignment; the tensors, each at an aligned offset from here. See
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
mod file; // one file
mod header; // everything before the data, and its checks
mod types; // ggml's types and their sizes
mod value; // metadata
mod write; // one file, streamed

pub use file::Gguf;
pub use paring_tensor::block; // the numbers in ggml's blocks
pub use value::{Array, Strings, Value};
pub use write::GgufWriter;

/// The metadata key of the alignment, its value when it is missing, and what is accepted.
const ALIGNMENT_KEY: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const ALIGNMENTS: std::ops::RangeInclusive<u64> = 8..=1 << 16;

/// Dimensions of a tensor, at most: ggml has room for no more.
const MOST_DIMS: u64 = 4;

fn is_alignment(n: u64) -> bool {
    n.is_power_of_two() && ALIGNMENTS.contains(&n)
}
