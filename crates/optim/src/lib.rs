#![doc = include_str!("../README.md")]

mod adamw; // the update
mod schedule; // the learning rate, and clipping
mod split; // a weight as two halves

pub use adamw::{AdamW, AdamWStep, adamw_update};
pub use schedule::{Schedule, clip_factor};
pub use split::{join, split};
