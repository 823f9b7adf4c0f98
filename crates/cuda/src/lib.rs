#![doc = include_str!("../README.md")]

mod activation; // SiLU, GELUs, squared ReLU, gated and not
mod attention; // fused causal attention, forward and backward
mod backend; // the trait, operation by operation
mod device; // memory, kernels, the stream: what operations are launched through
mod driver; // the driver API behind safe types
mod elementwise; // sums, conversions
mod embed; // rows of a table
mod gemm; // matrix products
mod grid; // elements and rows shared out to threads
mod kernel; // argument structs, launches
mod layer_norm; // LayerNorm, which the trait has not
mod loss; // rows of logits
mod memory; // a caching allocator
mod modules; // the kernels' PTX
mod norm; // normalisation
mod optimizer; // AdamW
mod rope; // rotary embeddings
mod staging; // page-locked memory between host and device
mod statistics; // sums for calibration

pub use backend::Cuda;
pub use gemm::{Compute, Epilogue, Gemm, Layout, Plan, Tile, plan};
pub use kernel::{Field, Kind, Signature};
pub use memory::{Allocation, Held};
pub use modules::MODULES;

/// The arguments of every kernel, for checks against the PTX.
pub fn signatures() -> Vec<Signature> {
    let parts = [
        activation::SIGNATURES,
        attention::SIGNATURES,
        elementwise::SIGNATURES,
        embed::SIGNATURES,
        gemm::SIGNATURES,
        layer_norm::SIGNATURES,
        loss::SIGNATURES,
        norm::SIGNATURES,
        optimizer::SIGNATURES,
        rope::SIGNATURES,
        statistics::SIGNATURES,
    ];
    parts.concat()
}
