#![doc = include_str!("../README.md")]

mod activation; // SiLU, GELUs, squared ReLU, gated and not
mod attention; // fused causal attention, forward and backward
mod backend; // the trait: checks, then kernels
mod ceilings; // what the machine can do at most
mod elementwise; // sums, AdamW
mod exp; // an exponential that vectorises
mod gemm; // matrix products
mod isa; // instructions found at run time
mod loss; // rows of logits
mod norm; // RMSNorm and rotary embeddings
mod pages; // large ones
mod pool; // threads
mod quant; // products with quantised weights
mod statistics; // what calibration keeps of activations
mod weights; // weights as operands

pub use backend::Cpu;
pub use ceilings::Ceilings;
pub use isa::Isa;
