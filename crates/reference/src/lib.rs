#![doc = include_str!("../README.md")]

mod activation; // SiLU, GELUs, squared ReLU, gated and not
mod attention; // causal softmax attention with grouped heads
mod backend; // the trait: checks, then the loops of the other files
mod elementwise; // sums
mod embed; // rows of a table
mod linear; // matrix products
mod loss; // rows of logits
mod norm; // RMSNorm and rotary embeddings
mod optimizer; // AdamW

pub use backend::Reference;
