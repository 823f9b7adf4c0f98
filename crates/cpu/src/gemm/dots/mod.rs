//! Products with few rows, `y = x w^T`: a decoded token, a handful of sequences. Every weight is used a few times only, so packing it would
//! cost as much as the product. Rows of w are multiplied as they lie, along the inner dimension; each is read from memory once. With one row
//! the memory's bandwidth is the limit.
#[cfg(target_arch = "x86_64")]
mod x86; // vectors

use super::{Out, round_bf16, scratch::with_scratch};
use crate::{isa::Isa, pool::Threads};
use half::bf16;

/// Rows of x that go this way. Up to some thirty it would be faster (`examples/fused.rs`), but these sums have an order of their own: with
/// more, sequences of common lengths would depend on their company in the last bits.
const FEW: usize = 16;
/// Bytes of weights that are worth a task: a few microseconds.
const TASK_BYTES: usize = 128 << 10;
/// A whole number of groups of rows of w, whatever the kernel.
const ROWS: usize = 24;

/// Whether a product of `m` rows goes this way.
pub(crate) fn few_rows(m: usize) -> bool {
    m <= FEW
}

/// `y[m, n] = x[m, k] w[n, k]^T`; beside bf16 weights x is rounded to bf16.
///
/// # Panics
/// If an operand is not of the sizes.
pub(crate) fn dots<W: Weights>(isa: Isa, threads: &Threads, y: &mut [f32], n: usize, k: usize, x: &[f32], w: &[W]) {
    let m = y.len().checked_div(n).unwrap_or(x.len().checked_div(k).unwrap_or(0));
    assert!(y.len() == m * n && x.len() == m * k && w.len() == n * k, "operands are not of the product's sizes");
    if y.is_empty() {
        return;
    }
    if k == 0 {
        return y.fill(0.0);
    }
    let kernels = W::kernels(isa);
    // A row of x in the form of the kernels.
    let ldx = kernels.form.values(k);
    if kernels.form == Form::AsIs {
        return shared_out(threads, y, n, k, x, ldx, w, &kernels);
    }
    with_scratch(0, m * ldx, |prepared| {
        for (to, x) in prepared.chunks_exact_mut(ldx).zip(x.chunks_exact(k)) {
            kernels.form.prepare(to, x);
        }
        shared_out(threads, y, n, k, prepared, ldx, w, &kernels);
    });
}

fn shared_out<W: Weights>(
    threads: &Threads,
    y: &mut [f32],
    n: usize,
    k: usize,
    x: &[f32],
    ldx: usize,
    w: &[W],
    kernels: &Kernels<W>,
) {
    let m = y.len() / n;
    let least = (TASK_BYTES / (k * size_of::<W>())).max(1);
    let rows = n.div_ceil(8 * threads.count()).max(least).next_multiple_of(ROWS);
    let out = Out::new(y, n);
    threads.for_each(n.div_ceil(rows), |task| {
        let (first, end) = (task * rows, n.min((task + 1) * rows));
        for i in (0..m).step_by(MOST) {
            // Four rows of x at a time are multiplied with all rows of this task, which stay in the cache: the first pass brings them.
            let count = MOST.min(m - i);
            let x = &x[i * ldx..(i + count) * ldx];
            let (width, whole, one) = kernels.of[count - 1];
            let mut j = first;
            while j < end {
                let (step, run) = if width <= end - j { (width, whole) } else { (1, one) };
                let w = &w[j * k..(j + step) * k];
                #[allow(unsafe_code, reason = "calling a kernel; tasks write disjoint columns of one matrix")]
                // SAFETY: x has `count` prepared rows and w `step` rows of k, for which the kernel was chosen. It writes rows i.. and columns
                // j.. of y, this task's alone, and inside, since i + count <= m and j + step <= n. `kernels` are for the machine's
                // instructions (`Cpu::with_isa` checked).
                unsafe {
                    let y = out.at(i * n + j).head((count - 1) * n + step);
                    run(k, x.as_ptr(), ldx, w.as_ptr(), y.as_mut_ptr(), n);
                }
                j += step;
            }
        }
    });
}

/// Rows of x that a kernel multiplies at most.
const MOST: usize = 4;

/// `y[r][c] = x_r . w_c`; arguments: k, rows of x in their form, their length, rows of w of k each, y, row stride of y.
///
/// # Safety
/// The operands have the rows that the kernel is for, and the machine its instructions.
type Run<W> = unsafe fn(usize, *const f32, usize, *const W, *mut f32, usize);

/// For one to four rows of x: how many rows of w are multiplied at a time, the kernel for these, and the one for a single row.
pub(crate) struct Kernels<W> {
    form: Form,
    of: [(usize, Run<W>, Run<W>); MOST],
}

/// What kernels want x to be. Whole groups of a vector's elements are in the form; what is left of a row follows as f32.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    AsIs,
    /// Rounded to bf16.
    Rounded,
    /// Rounded to bf16; of every group of twice so many the even ones first, then the odd ones. A vector of bf16 weights becomes two of f32
    /// that way without anything moving across lanes.
    Split(usize),
    /// bf16, so many to a group.
    Pairs(usize),
}

impl Form {
    /// Units of 32 bits that a row of `k` values takes.
    fn values(self, k: usize) -> usize {
        match self {
            Form::Pairs(group) => k - k / group * group / 2,
            _ => k,
        }
    }

    fn prepare(self, to: &mut [f32], x: &[f32]) {
        let round = |to: &mut [f32], x: &[f32]| to.iter_mut().zip(x).for_each(|(to, &x)| *to = round_bf16(x));
        match self {
            Form::AsIs => to.copy_from_slice(x),
            Form::Rounded => round(to, x),
            Form::Split(lanes) => {
                let whole = x.len() / (2 * lanes) * (2 * lanes);
                for (to, x) in to[..whole].chunks_exact_mut(2 * lanes).zip(x.chunks_exact(2 * lanes)) {
                    let (even, odd) = to.split_at_mut(lanes);
                    for ((even, odd), x) in even.iter_mut().zip(odd).zip(x.as_chunks::<2>().0) {
                        (*even, *odd) = (round_bf16(x[0]), round_bf16(x[1]));
                    }
                }
                round(&mut to[whole..], &x[whole..]);
            }
            Form::Pairs(group) => {
                let whole = x.len() / group * group;
                for (to, x) in to.iter_mut().zip(x[..whole].as_chunks::<2>().0) {
                    *to = f32::from_bits((round_bf16(x[0]).to_bits() >> 16) | round_bf16(x[1]).to_bits());
                }
                round(&mut to[whole / 2..], &x[whole..]);
            }
        }
    }
}

/// An element type of weights.
pub(crate) trait Weights: Copy + Sync + Sized {
    fn kernels(isa: Isa) -> Kernels<Self>;

    fn value(self) -> f32;
}

impl Weights for f32 {
    fn kernels(isa: Isa) -> Kernels<f32> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            isa if isa.has_avx512() => x86::avx512_f32(),
            #[cfg(target_arch = "x86_64")]
            isa if Isa::Avx2 <= isa => x86::avx2_f32(),
            _ => Kernels { form: Form::AsIs, of: portable_kernels() },
        }
    }

    fn value(self) -> f32 {
        self
    }
}

impl Weights for bf16 {
    fn kernels(isa: Isa) -> Kernels<bf16> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => x86::avx512_pairs(),
            #[cfg(target_arch = "x86_64")]
            isa if isa.has_avx512() => x86::avx512_bf16(),
            #[cfg(target_arch = "x86_64")]
            isa if Isa::Avx2 <= isa => x86::avx2_bf16(),
            _ => Kernels { form: Form::Rounded, of: portable_kernels() },
        }
    }

    fn value(self) -> f32 {
        self.to_f32()
    }
}

fn portable_kernels<W: Weights>() -> [(usize, Run<W>, Run<W>); MOST] {
    [
        (1, portable::<W, 1>, portable::<W, 1>),
        (1, portable::<W, 2>, portable::<W, 2>),
        (1, portable::<W, 3>, portable::<W, 3>),
        (1, portable::<W, 4>, portable::<W, 4>),
    ]
}

/// One row of w, in eight lanes.
///
/// # Safety
/// x has `R` rows of `k` values, each at `ldx`; w holds `k`; y has `R` rows of one value, each at `ld`.
#[allow(unsafe_code, reason = "slices from pointers of the kernels' common form")]
unsafe fn portable<W: Weights, const R: usize>(
    k: usize,
    x: *const f32,
    ldx: usize,
    w: *const W,
    y: *mut f32,
    ld: usize,
) {
    for r in 0..R {
        // SAFETY: by contract.
        let (x, w) = unsafe { (std::slice::from_raw_parts(x.add(r * ldx), k), std::slice::from_raw_parts(w, k)) };
        let ((x, x_tail), (w, w_tail)) = (x.as_chunks::<8>(), w.as_chunks::<8>());
        let mut lanes = [0.0f32; 8];
        for (x, w) in x.iter().zip(w) {
            for l in 0..8 {
                lanes[l] += x[l] * w[l].value();
            }
        }
        let tail: f32 = x_tail.iter().zip(w_tail).map(|(x, w)| x * w.value()).sum();
        // SAFETY: by contract.
        unsafe { *y.add(r * ld) = lanes.iter().sum::<f32>() + tail };
    }
}
