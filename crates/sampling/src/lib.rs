#![doc = include_str!("../README.md")]

pub mod rng; // numbers from (seed, stream, index)
mod sampler; // filters and the draw

pub use sampler::{Error, Sampler};
