#![doc = include_str!("../README.md")]

mod by_block; // one block in memory at a time
mod contribution; // what heads add to the residual stream
pub mod depth; // a model without some of its layers
mod gram; // x^T x of the MLP's activations
mod measure; // windows, one after the other
mod observe; // importance
mod taylor; // activation times gradient

pub use by_block::ByBlock;
pub use gram::Gram;
pub use measure::Measure;
pub use observe::{Importance, geometry};
