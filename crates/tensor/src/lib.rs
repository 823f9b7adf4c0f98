#![doc = include_str!("../README.md")]

mod convert; // f32 <-> bf16/f16, element by element
mod dtype; // element types
mod error;
mod host; // aligned host memory
mod shape;
mod tensor;

pub use convert::{from_f32, round_to, to_f32};
pub use dtype::DType;
pub use error::{Error, Result};
pub use host::{Element, HostBuffer};
pub use shape::Shape;
pub use tensor::{Buffer, Tensor};
