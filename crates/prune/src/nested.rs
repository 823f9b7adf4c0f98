//! Least squares for every number of best inputs at once.
//!
//! With the inputs sorted, best first, keeping `k` of them means the leading block of the Gram matrix, and the Cholesky factor of a leading
//! block is the leading block of the factor. So is the forward substitution: the first `k` rows of `L^-1 B` are those of the small problem.
//! One factorisation and one forward substitution per layer therefore serve all widths, and each width costs a back substitution,
//! `k^2 N / 2` multiply-adds.
//!
//! The problem is that of [`crate::least_squares`] with a ridge towards zero, `(G_kk + lambda I) W_new^T = G_k: W^T`, except that `lambda` is
//! a part of the mean diagonal of the whole of `G` and not of `G_kk`: it has to be the same for all widths.
use crate::linalg::{Mat, cholesky, gemm};
use crate::{Error, Result};

/// The factored problem of one layer.
#[derive(Clone, Debug)]
pub struct NestedLeastSquares {
    inputs: usize,
    outputs: usize,
    /// `L`, `[F, F]`, of `G + lambda I`.
    factor: Vec<f64>,
    /// `L^-1 G W^T`, `[F, N]`.
    solved: Vec<f64>,
}

impl NestedLeastSquares {
    /// Factors the problem. About `F^3 / 3 + 1.5 F^2 N` multiply-adds in f64 on one thread.
    ///
    /// # Shapes
    /// - `gram`: `[F, F]`, the sum of `x x^T` over calibration inputs in sorted order, both triangles.
    /// - `w`: `[N, F]`, the old weight, its inputs in the same order.
    /// - `strength`: the ridge as a part of the mean diagonal of `gram`.
    ///
    /// # Errors
    /// [`Error::Matrix`], [`Error::NotFinite`], [`Error::RidgeStrength`], or [`Error::NotPositiveDefinite`].
    pub fn new<G: Copy + Into<f64>>(gram: &[G], inputs: usize, w: &[f32], strength: f64) -> Result<Self> {
        if inputs == 0 || inputs.checked_mul(inputs) != Some(gram.len()) {
            return Err(Error::Matrix { matrix: "Gram", got: gram.len(), want: format!("{inputs} squared") });
        }
        if !w.len().is_multiple_of(inputs) {
            return Err(Error::Matrix { matrix: "weight", got: w.len(), want: format!("a multiple of {inputs}") });
        }
        if !strength.is_finite() || strength < 0.0 {
            return Err(Error::RidgeStrength { got: strength });
        }
        let mut factor: Vec<f64> = gram.iter().map(|&g| g.into()).collect();
        let old: Vec<f64> = w.iter().map(|&v| f64::from(v)).collect();
        for (matrix, values) in [("Gram", &factor), ("weight", &old)] {
            if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                return Err(Error::NotFinite { matrix, index });
            }
        }
        let outputs = w.len() / inputs;
        let mut solved = vec![0f64; inputs * outputs];
        let product = [inputs, outputs, inputs];
        gemm(&mut solved, outputs, product, 1.0, Mat::rows(&factor, inputs), Mat::transposed(&old, inputs));
        let lambda = strength * (0..inputs).map(|i| factor[i * inputs + i]).sum::<f64>() / inputs as f64;
        (0..inputs).for_each(|i| factor[i * inputs + i] += lambda);
        cholesky(&mut factor, inputs).map_err(|(channel, pivot)| Error::NotPositiveDefinite { channel, pivot })?;
        forward(&factor, inputs, &mut solved, outputs);
        Ok(NestedLeastSquares { inputs, outputs, factor, solved })
    }

    /// The weight `[N, k]` on the first `k` inputs that best reproduces the old output.
    ///
    /// # Errors
    /// [`Error::Index`] for more inputs than there are, [`Error::Zero`] for none.
    pub fn solve(&self, k: usize) -> Result<Vec<f32>> {
        if k == 0 {
            return Err(Error::Zero { axis: "inputs" });
        }
        if self.inputs < k {
            return Err(Error::Index { got: k, len: self.inputs });
        }
        let n = self.outputs;
        let mut x = self.solved[..k * n].to_vec();
        backward(&self.factor, self.inputs, k, &mut x, n);
        Ok((0..n).flat_map(|o| (0..k).map(move |i| (i, o))).map(|(i, o)| x[i * n + o] as f32).collect())
    }
}

/// Rows of a block of a triangular solve.
const BLOCK: usize = 64;

/// `L x = b` in place: `l` is `[n, n]`, `b` `[n, columns]`.
fn forward(l: &[f64], n: usize, b: &mut [f64], columns: usize) {
    for i0 in (0..n).step_by(BLOCK) {
        let i1 = n.min(i0 + BLOCK);
        for r in i0..i1 {
            let (above, row) = b.split_at_mut(r * columns);
            let row = &mut row[..columns];
            for s in i0..r {
                let factor = l[r * n + s];
                row.iter_mut().zip(&above[s * columns..]).for_each(|(y, x)| *y -= factor * x);
            }
            row.iter_mut().for_each(|y| *y /= l[r * n + r]);
        }
        if i1 < n {
            let (done, rest) = b.split_at_mut(i1 * columns);
            let product = [n - i1, columns, i1 - i0];
            gemm(
                rest,
                columns,
                product,
                -1.0,
                Mat::rows(&l[i1 * n + i0..], n),
                Mat::rows(&done[i0 * columns..], columns),
            );
        }
    }
}

/// `L_kk^T x = b` in place, `L_kk` the leading block of `l` `[n, n]`; `b` is `[k, columns]`.
fn backward(l: &[f64], n: usize, k: usize, b: &mut [f64], columns: usize) {
    for i0 in (0..k).step_by(BLOCK).collect::<Vec<_>>().into_iter().rev() {
        let i1 = k.min(i0 + BLOCK);
        if i1 < k {
            let (head, done) = b.split_at_mut(i1 * columns);
            let product = [i1 - i0, columns, k - i1];
            let left = Mat::transposed(&l[i1 * n + i0..], n);
            gemm(&mut head[i0 * columns..], columns, product, -1.0, left, Mat::rows(done, columns));
        }
        for r in (i0..i1).rev() {
            let (head, below) = b.split_at_mut((r + 1) * columns);
            let row = &mut head[r * columns..];
            for s in r + 1..i1 {
                let factor = l[s * n + r];
                row.iter_mut().zip(&below[(s - r - 1) * columns..]).for_each(|(y, x)| *y -= factor * x);
            }
            row.iter_mut().for_each(|y| *y /= l[r * n + r]);
        }
    }
}
