#![doc = include_str!("../README.md")]

mod attention; // FlashAttention-2, forward, backward, decoding
mod cost; // from counts to seconds
mod explain; // constants and their reasons
mod gemm; // products of matrices
mod gpu; // what is known of GPUs
mod papers; // the published speed-ups
mod plan; // the kernels of a pass, in order
mod predict; // the question and the answer
mod shape; // architectures, published models
#[cfg(test)]
mod simulated; // counts against those of the simulator

pub use cost::{
    Counts, GRAPH_CAPTURE, GRAPH_GAP, GRAPH_LAUNCH, HOST_LAUNCH, HOST_WAIT, Limit, MEMORY_LATENCY, STREAM_GAP,
};
pub use explain::{Assumption, assumptions};
pub use gemm::{Step, TILES, Tile, VECTOR_ROWS, Weights};
pub use gpu::{A100, GPUS, Gpu, H100, RTX4090, SCHEDULERS};
pub use papers::{
    Comparison, DIFFERENCES, PUBLISHED, Published, STUDENT_BATCH, TEACHER, TEACHER_BATCH, compare_papers,
    mean_speed_ups, throughput,
};
pub use plan::{HEAD_CHUNK_BYTES, Kernel, Part};
pub use predict::{LABEL, Memory, Prediction, RESERVED, Work, predict};
pub use shape::{Error, LayerShape, PRESETS, Params, Preset, Shape};
