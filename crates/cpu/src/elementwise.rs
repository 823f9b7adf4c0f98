//! Operations on each element alone, AdamW among them; in pieces of a fixed size that threads share out.
use crate::{
    gemm::round_bf16,
    isa::{Isa, vectorised},
    pool::Threads,
};
use half::bf16;
use paring_ops::AdamWStep;

/// Elements of a piece: large enough to be worth a task, small enough for the cache.
pub(crate) const PIECE: usize = 1 << 14;

pub(crate) fn fill(threads: &Threads, y: &mut [f32], value: f32) {
    threads.pieces(PIECE, y, |_, y| y.fill(value));
}

pub(crate) fn zero(threads: &Threads, bytes: &mut [u8]) {
    threads.pieces(4 * PIECE, bytes, |_, bytes| bytes.fill(0));
}

vectorised! {
    fn bf16_piece(y: &mut [bf16], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = bf16::from_bits((round_bf16(x).to_bits() >> 16) as u16);
        }
    }
}

pub(crate) fn to_bf16(isa: Isa, threads: &Threads, y: &mut [bf16], x: &[f32]) {
    threads.pieces(PIECE, (y, x), |_, (y, x)| bf16_piece(isa, y, x));
}

vectorised! {
    fn add_piece(y: &mut [f32], a: &[f32], b: &[f32]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

pub(crate) fn add(isa: Isa, threads: &Threads, y: &mut [f32], a: &[f32], b: &[f32]) {
    threads.pieces(PIECE, (y, a, b), |_, (y, a, b)| add_piece(isa, y, a, b));
}

vectorised! {
    fn accumulate_piece(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

pub(crate) fn accumulate(isa: Isa, threads: &Threads, y: &mut [f32], add: bool, x: &[f32]) {
    threads.pieces(PIECE, (y, x), |_, (y, x)| {
        if add {
            accumulate_piece(isa, y, x);
        } else {
            y.copy_from_slice(x);
        }
    });
}

vectorised! {
    fn scale_piece(y: &mut [f32], factor: f32) {
        y.iter_mut().for_each(|y| *y *= factor);
    }
}

pub(crate) fn scale(isa: Isa, threads: &Threads, y: &mut [f32], factor: f32) {
    threads.pieces(PIECE, y, |_, y| scale_piece(isa, y, factor));
}

vectorised! {
    fn sum_squares_piece(x: &[f32]) -> f64 {
        let mut lanes = [0.0f64; 8];
        let (head, tail) = x.as_chunks::<8>();
        for x in head {
            for i in 0..8 {
                lanes[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        lanes.iter().sum::<f64>() + tail.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    }
}

/// Pieces are summed in their order, whoever made them.
pub(crate) fn sum_squares(isa: Isa, threads: &Threads, x: &[f32]) -> f64 {
    let piece = |i: usize| &x[i * PIECE..x.len().min((i + 1) * PIECE)];
    threads.map(x.len().div_ceil(PIECE), |i| sum_squares_piece(isa, piece(i))).iter().sum()
}

/// A number that is kept in f32 or shorter, computed with in f32.
trait Kept {
    fn get(&self) -> f32;
    fn set(&mut self, x: f32);
}

impl Kept for f32 {
    #[inline(always)]
    fn get(&self) -> f32 {
        *self
    }
    #[inline(always)]
    fn set(&mut self, x: f32) {
        *self = x;
    }
}

impl Kept for bf16 {
    #[inline(always)]
    fn get(&self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn set(&mut self, x: f32) {
        *self = bf16::from_bits((round_bf16(x).to_bits() >> 16) as u16);
    }
}

impl Kept for &mut f32 {
    #[inline(always)]
    fn get(&self) -> f32 {
        **self
    }
    #[inline(always)]
    fn set(&mut self, x: f32) {
        **self = x;
    }
}

/// The two halves of an f32, as `paring_optim::split` makes them.
impl Kept for (&mut bf16, &mut bf16) {
    #[inline(always)]
    fn get(&self) -> f32 {
        let (high, low) = (self.0.to_bits(), self.1.to_bits());
        f32::from_bits(u32::from(high.wrapping_sub(low >> 15)) << 16 | u32::from(low))
    }
    #[inline(always)]
    fn set(&mut self, x: f32) {
        let bits = x.to_bits();
        *self.0 = bf16::from_bits((bits.wrapping_add(0x8000) >> 16) as u16);
        *self.1 = bf16::from_bits(bits as u16);
    }
}

vectorised! {
    fn split_piece(high: &mut [bf16], low: &mut [bf16], w: &[f32]) {
        high.iter_mut().zip(low).zip(w).for_each(|(mut halves, &w)| halves.set(w));
    }
}

pub(crate) fn split(isa: Isa, threads: &Threads, high: &mut [bf16], low: &mut [bf16], w: &[f32]) {
    threads.pieces(PIECE, (high, low, w), |_, (high, low, w)| split_piece(isa, high, low, w));
}

vectorised! {
    fn join_piece(w: &mut [f32], high: &[bf16], low: &[bf16]) {
        for ((w, high), low) in w.iter_mut().zip(high).zip(low) {
            let (mut high, mut low) = (*high, *low);
            *w = (&mut high, &mut low).get();
        }
    }
}

pub(crate) fn join(isa: Isa, threads: &Threads, w: &mut [f32], high: &[bf16], low: &[bf16]) {
    threads.pieces(PIECE, (w, high, low), |_, (w, high, low)| join_piece(isa, w, high, low));
}

/// The same formula, in the same order, as `paring_optim::adamw_update`.
#[inline(always)]
fn adamw_update<W: Kept, M: Kept>(
    w: impl Iterator<Item = W>,
    m: &mut [M],
    v: &mut [M],
    grad: &[f32],
    step: &AdamWStep,
) {
    let decay = 1.0 - step.lr * step.weight_decay;
    let size = step.lr / step.bias1;
    for (((mut w, m), v), &grad) in w.zip(m).zip(v).zip(grad) {
        let grad = grad * step.grad_scale;
        let first = step.beta1 * m.get() + (1.0 - step.beta1) * grad;
        let second = step.beta2 * v.get() + (1.0 - step.beta2) * grad * grad;
        let denominator = second.sqrt() / step.bias2_sqrt + step.eps;
        w.set(w.get() * decay - size * first / denominator);
        m.set(first);
        v.set(second);
    }
}

/// Defines AdamW for one way to keep the moments: of whole weights and of halves.
macro_rules! adamw {
    ($moment:ty: $whole_piece:ident, $whole:ident, $halves_piece:ident, $halves:ident) => {
        vectorised! {
            fn $whole_piece(w: &mut [f32], m: &mut [$moment], v: &mut [$moment], grad: &[f32], step: &AdamWStep) {
                adamw_update(w.iter_mut(), m, v, grad, step);
            }
        }

        pub(crate) fn $whole(
            isa: Isa,
            threads: &Threads,
            w: &mut [f32],
            m: &mut [$moment],
            v: &mut [$moment],
            grad: &[f32],
            step: &AdamWStep,
        ) {
            threads.pieces(PIECE, (w, m, v, grad), |_, (w, m, v, grad)| $whole_piece(isa, w, m, v, grad, step));
        }

        vectorised! {
            fn $halves_piece(
                high: &mut [bf16],
                low: &mut [bf16],
                m: &mut [$moment],
                v: &mut [$moment],
                grad: &[f32],
                step: &AdamWStep,
            ) {
                adamw_update(high.iter_mut().zip(low), m, v, grad, step);
            }
        }

        pub(crate) fn $halves(
            isa: Isa,
            threads: &Threads,
            high: &mut [bf16],
            low: &mut [bf16],
            m: &mut [$moment],
            v: &mut [$moment],
            grad: &[f32],
            step: &AdamWStep,
        ) {
            threads.pieces(PIECE, (high, low, m, v, grad), |_, (high, low, m, v, grad)| {
                $halves_piece(isa, high, low, m, v, grad, step);
            });
        }
    };
}

adamw!(f32: adamw_piece, adamw, adamw_halves_piece, adamw_halves);
adamw!(bf16: adamw_short_piece, adamw_short, adamw_short_halves_piece, adamw_short_halves);
