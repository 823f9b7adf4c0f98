#![doc = include_str!("../README.md")]

mod arch; // what a model is made of
mod batch; // packed tokens
mod config; // Hugging Face's config.json, both ways
mod decoder; // the forward
mod error;
mod gguf; // GGUF files of architecture llama, under Hugging Face's names
mod open; // a path becomes a source of tensors, a config and an Arch
mod params; // the table of parameters
mod rope; // tables of rotary angles
mod save; // config.json and weights

pub use arch::{Arch, Family, LayerArch, Llama3Rope, Rope};
pub use batch::{Batch, split_documents};
pub use config::{GGUF_ARCHITECTURES, MODEL_TYPES};
pub use decoder::{Layer, LoadAs, Model};
pub use error::{Error, Result};
pub use gguf::GgufModel;
pub use open::{Opened, SourceKind, open};
pub use params::{Axis, ParamSpec, params};
pub use rope::rope_table;
pub use save::write_model;
