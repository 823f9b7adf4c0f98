//! Operands of a product, and how they are packed into slivers that the micro-kernel reads from front to back.
use half::bf16;

/// A matrix in memory: element `(i, j)` is `data[i * rs + j * cs]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: Data<'a>,
    rs: usize,
    cs: usize,
}

#[derive(Clone, Copy)]
enum Data<'a> {
    F32(&'a [f32]),
    /// f32 values to be rounded to bf16.
    Rounded(&'a [f32]),
    BF16(&'a [bf16]),
}

/// Rounds to bf16 and back: to nearest, ties to even, NaN kept. Without branches, so that it vectorises.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if x.is_nan() { f32::from_bits((bits | 0x0040_0000) & 0xffff_0000) } else { f32::from_bits(rounded) }
}

impl<'a> Mat<'a> {
    /// Row-major f32 of `cols` columns; rounded to bf16 while packing if `round`.
    pub(crate) fn rows(data: &'a [f32], cols: usize, round: bool) -> Self {
        Mat { data: if round { Data::Rounded(data) } else { Data::F32(data) }, rs: cols, cs: 1 }
    }

    /// Row-major bf16.
    pub(crate) fn rows_bf16(data: &'a [bf16], cols: usize) -> Self {
        Mat { data: Data::BF16(data), rs: cols, cs: 1 }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Mat { rs: self.cs, cs: self.rs, ..self }
    }

    /// Whether an `m` x `n` matrix lies inside the data.
    pub(crate) fn covers(&self, m: usize, n: usize) -> bool {
        let len = match self.data {
            Data::F32(d) | Data::Rounded(d) => d.len(),
            Data::BF16(d) => d.len(),
        };
        m == 0 || n == 0 || (m - 1) * self.rs + (n - 1) * self.cs < len
    }

    /// Rows `i0..i0 + rows`, inner `k0..k0 + kb`, as `[kb][mr]`; missing rows are zero.
    pub(crate) fn pack_rows(&self, sliver: &mut [f32], k0: usize, kb: usize, i0: usize, rows: usize, mr: usize) {
        self.pack(sliver, i0, rows, mr, self.rs, k0, kb, self.cs);
    }

    /// Columns `j0..j0 + columns`, inner `k0..k0 + kb`, as `[kb][nr]`; missing columns are zero.
    pub(crate) fn pack_columns(&self, sliver: &mut [f32], k0: usize, kb: usize, j0: usize, columns: usize, nr: usize) {
        self.pack(sliver, j0, columns, nr, self.cs, k0, kb, self.rs);
    }

    /// Lanes `l0..l0 + lanes` (stride `ls`) of `kb` inner values (stride `ks`) as `[kb][width]`.
    fn pack(&self, out: &mut [f32], l0: usize, lanes: usize, width: usize, ls: usize, k0: usize, kb: usize, ks: usize) {
        match self.data {
            Data::F32(d) => pack(out, d, |x| x, l0, lanes, width, ls, k0, kb, ks),
            Data::Rounded(d) => pack(out, d, round_bf16, l0, lanes, width, ls, k0, kb, ks),
            Data::BF16(d) => {
                pack(out, d, |x| f32::from_bits(u32::from(x.to_bits()) << 16), l0, lanes, width, ls, k0, kb, ks)
            }
        }
    }
}

#[inline(always)]
fn pack<T: Copy>(
    out: &mut [f32],
    data: &[T],
    f: impl Fn(T) -> f32,
    l0: usize,
    lanes: usize,
    width: usize,
    ls: usize,
    k0: usize,
    kb: usize,
    ks: usize,
) {
    if lanes < width {
        out[..kb * width].fill(0.0);
    }
    if ls == 1 {
        // Lanes lie side by side: copy runs.
        for (k, row) in out.chunks_exact_mut(width).take(kb).enumerate() {
            let run = &data[(k0 + k) * ks + l0..][..lanes];
            for (o, &x) in row.iter_mut().zip(run) {
                *o = f(x);
            }
        }
        return;
    }
    // Lanes lie apart, inner values (usually) side by side: transpose eight inner values at a time, so that each lane is read in runs
    // and the writes stay within a few cache lines.
    let mut k = 0;
    while k < kb {
        let run = 8.min(kb - k);
        for lane in 0..lanes {
            let start = (l0 + lane) * ls + (k0 + k) * ks;
            if ks == 1 && run == 8 {
                let source = &data[start..start + 8];
                let target = &mut out[k * width + lane..][..7 * width + 1];
                for i in 0..8 {
                    target[i * width] = f(source[i]);
                }
            } else {
                for i in 0..run {
                    out[(k + i) * width + lane] = f(data[start + i * ks]);
                }
            }
        }
        k += run;
    }
}
