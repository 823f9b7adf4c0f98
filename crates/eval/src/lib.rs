#![doc = include_str!("../README.md")]

mod agreement; // a student beside its teacher
mod perplexity; // one model on its own

pub use agreement::{Agreement, compare};
pub use perplexity::{Likelihood, likelihood};
