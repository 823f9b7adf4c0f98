#![doc = include_str!("../README.md")]

mod cut; // a plan's slices
mod error;
mod weights; // values of parameters, wherever they come from

pub use cut::{Cut, student_arch};
pub use error::{Error, Result};
pub use weights::{Checkpoint, Memory, Weights, model};
