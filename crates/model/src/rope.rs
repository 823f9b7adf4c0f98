//! Tables of rotary angles. In f32 where Transformers is in f32: at position 8000 the rounding of an angle is visible in the logits.
use crate::{Arch, Llama3Rope};
use std::f64::consts::PI;

/// Radians per position of each pair of a head: `theta^(-2i / head_dim)`, stretched as the model says.
///
/// Llama 3.1: Transformers `modeling_rope_utils.py`, `_compute_llama3_parameters`.
pub(crate) fn inverse_frequencies(theta: f64, head_dim: usize, llama3: Option<&Llama3Rope>) -> Vec<f32> {
    let plain = (0..head_dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / head_dim as f64));
    let Some(s) = llama3 else {
        return plain.map(|f| f as f32).collect();
    };
    plain
        .map(|f| {
            let wavelength = 2.0 * PI / f;
            if wavelength > s.original_max_positions / s.low_freq_factor {
                f / s.factor
            } else if wavelength < s.original_max_positions / s.high_freq_factor {
                f
            } else {
                let smooth = (s.original_max_positions / wavelength - s.low_freq_factor)
                    / (s.high_freq_factor - s.low_freq_factor);
                (1.0 - smooth) * f / s.factor + smooth * f
            }
        })
        .map(|f| f as f32)
        .collect()
}

/// `[positions, head_dim]`: for every position `head_dim / 2` cosines, then as many sines.
pub fn rope_table(arch: &Arch, positions: usize) -> Vec<f32> {
    let frequencies = inverse_frequencies(arch.rope.theta, arch.head_dim, arch.rope.llama3.as_ref());
    let mut table = Vec::with_capacity(positions * arch.head_dim);
    for position in 0..positions {
        let angle = |f: &f32| f64::from(position as f32 * f);
        table.extend(frequencies.iter().map(|f| angle(f).cos() as f32));
        table.extend(frequencies.iter().map(|f| angle(f).sin() as f32));
    }
    table
}
