#![doc = include_str!("../README.md")]

pub mod depth; // a model without some of its layers
mod gram; // x^T x of the MLP's activations
mod observe; // importance

pub use gram::Gram;
pub use observe::{Importance, geometry};
