#![doc = include_str!("../README.md")]

mod basis; // directions of the residual stream
mod block; // one block at a time, and streams between blocks
mod compensate; // maps fitted to the teacher
mod cost; // memory and operations, forecast
mod cut; // a plan's slices
mod error;
mod rotated; // another basis of the residual stream
mod weights; // values of parameters, wherever they come from

pub use basis::{Weighting, basis, keep_energy};
pub use block::Text;
pub use compensate::{Aim, Bench, Fitted, Mode, Options, Readers, compensate};
pub use cost::{basis_cost, flops, memory_bytes};
pub use cut::{Cut, student_arch};
pub use error::{Error, Result};
pub use rotated::Rotated;
pub use weights::{Checkpoint, Memory, Weights, model};
