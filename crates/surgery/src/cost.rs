//! What compensation takes, told before it starts: memory and operations.
use crate::{Mode, Options, Readers};
use paring_model::Arch;

/// Bytes beside the weights: residual streams of both models before and after a half of a block, what a map reads and misses, second moments
/// and the matrices of a solve in f64.
pub fn memory_bytes(teacher: &Arch, student: &Arch, tokens: u64, options: &Options) -> u64 {
    let widest = |arch: &Arch| arch.layers.iter().map(|l| l.ffn.max(l.heads * arch.head_dim)).max().unwrap_or(0) as u64;
    let (hidden, kept, inputs) = (teacher.hidden as u64, student.hidden as u64, widest(student));
    let read = match options.mode {
        Mode::Sequential => inputs,
        Mode::Teacher => inputs + widest(teacher),
    };
    let streams = 4 * tokens * (2 * hidden + 4 * kept + read);
    let largest = inputs.max(kept);
    let outputs = hidden.max(kept);
    let moments = 2 * 4 * (largest * largest + largest * outputs);
    let solve = 8 * (4 * largest * largest + 5 * largest * outputs);
    streams + moments + solve
}

/// Floating-point operations of fitting on `tokens` tokens in windows of `context`: forwards of the teacher's blocks (and the student's, in
/// sequential mode) and second moments.
pub fn flops(teacher: &Arch, student: &Arch, tokens: u64, context: usize, options: &Options) -> f64 {
    let blocks = |arch: &Arch| arch.forward_flops_per_token(context) - 2.0 * (arch.vocab * arch.hidden) as f64;
    let (hidden, kept) = (teacher.hidden as f64, student.hidden as f64);
    let moments = |inputs: f64, outputs: f64| 2.0 * inputs * (inputs + outputs);
    let per_layer = |l: &paring_model::LayerArch| {
        let writers = moments((l.heads * student.head_dim) as f64, kept) + moments(l.ffn as f64, kept);
        // A product with the sliced map, and the moments.
        let readers = 2.0 * (2.0 * kept * hidden + moments(kept, hidden));
        writers + if options.mode == Mode::Sequential && options.readers == Readers::Fit { readers } else { 0.0 }
    };
    let both = if options.mode == Mode::Sequential { blocks(student) } else { 0.0 };
    tokens as f64 * (blocks(teacher) + both + student.layers.iter().map(per_layer).sum::<f64>())
}

/// Bytes and operations of finding a rotated basis: streams of the teacher and matrices of the width of its residual stream.
pub fn basis_cost(teacher: &Arch, tokens: u64, context: usize) -> (u64, f64) {
    let hidden = teacher.hidden as u64;
    let norms = 2 * teacher.layers.len() as u64 + 1;
    let flops = teacher.forward_flops_per_token(context) + (2 * norms * hidden * hidden) as f64;
    // Beside two streams: covariances on the device and in f64, and what eigenvalues take.
    (4 * tokens * 2 * hidden + 100 * hidden * hidden, tokens as f64 * flops + 25.0 * (hidden as f64).powi(3))
}
