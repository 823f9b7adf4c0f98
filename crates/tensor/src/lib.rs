#![doc = include_str!("../README.md")]

pub mod block; // the numbers in ggml's blocks

mod convert; // f32 to the other types and back
mod dtype; // element types
mod error;
mod host; // aligned host memory
mod pool; // host memory that is used again
mod shape;
mod tensor;

pub use convert::{from_f32, round_to, to_f32};
pub use dtype::DType;
pub use error::{Error, Result};
pub use host::{Element, HostBuffer};
pub use pool::{HostPool, Memory};
pub use shape::Shape;
pub use tensor::{Buffer, Tensor};
