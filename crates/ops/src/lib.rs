#![doc = include_str!("../README.md")]

mod backend; // the trait
mod check; // the shapes that every backend checks alike
mod error;
mod head; // losses fused with the vocabulary head, chunked over tokens: the default methods
mod quantised; // activations beside quantised weights
mod spec; // arguments
mod statistics; // what calibration keeps of activations

pub use backend::Backend;
pub use check::*;
pub use error::{Error, Result};
pub use head::{HeadGrads, head_chunk_rows};
pub use paring_importance::{ChannelSums, RowProducts};
pub use paring_optim::AdamWStep;
pub use quantised::{SMALLEST_BLOCK, round_block, want_gradients};
pub use spec::{Accum, Activation, AttnSpec, Compared, IGNORE};
