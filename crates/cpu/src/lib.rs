#![doc = include_str!("../README.md")]

mod attention; // fused causal attention, forward and backward
mod backend; // the trait: checks, then kernels
mod elementwise; // sums, SwiGLU, AdamW
mod exp; // an exponential that vectorises
mod gemm; // matrix products
mod isa; // instructions found at run time
mod loss; // rows of logits
mod norm; // RMSNorm and rotary embeddings

pub use backend::Cpu;
pub use isa::Isa;
