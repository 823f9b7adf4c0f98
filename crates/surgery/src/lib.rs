#![doc = include_str!("../README.md")]

mod arch; // architectures and sizes
mod basis; // directions of the residual stream
mod block; // one block at a time, and streams between blocks
mod compensate; // maps fitted to the teacher
mod cost; // memory and operations, forecast
mod cut; // a plan's slices
mod error;
mod heads; // heads that a plan combines
mod mask; // what a plan drops, set to zero instead
mod permute; // parameters in another order
mod rotated; // another basis of the residual stream
mod verify; // whether the steps keep what they promise
mod weights; // values of parameters, wherever they come from

pub use arch::{arch_of, dims, sizes, student_arch};
pub use basis::{Weighting, basis, keep_energy};
pub use block::{Text, block, embedding};
pub use compensate::{Aim, Bench, Fitted, Mode, Options, Readers, compensate};
pub use cost::{basis_cost, flops, memory_bytes};
pub use cut::Cut;
pub use error::{Error, Result};
pub use heads::MergedHeads;
pub use mask::Masked;
pub use permute::{LayerOrder, Order, Permuted};
pub use rotated::Rotated;
pub use verify::{Check, Outcome, ROTATION, ROUNDING, Verify, trial_plan};
pub use weights::{Checkpoint, Memory, Weights, model};
