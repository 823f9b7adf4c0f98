//! Products, Cholesky factor and triangular solves in f64, blocked so that nearly all work is in products, which ndarray does with the
//! vectors of the machine, on one thread: results are the same for any number of threads.
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder, ShapeError, linalg::general_mat_mul};

/// Columns of a block of the Cholesky factor.
const BLOCK: usize = 64;

/// A matrix that is read: element `(i, j)` lies at `i * row + j * col`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f64],
    row: usize,
    col: usize,
}

impl<'a> Mat<'a> {
    /// Rows of `stride` values.
    pub(crate) fn rows(data: &'a [f64], stride: usize) -> Self {
        Mat { data, row: stride, col: 1 }
    }

    /// The transpose of rows of `stride` values.
    pub(crate) fn transposed(data: &'a [f64], stride: usize) -> Self {
        Mat { data, row: 1, col: stride }
    }

    fn view(self, shape: [usize; 2]) -> Result<ArrayView2<'a, f64>, ShapeError> {
        ArrayView2::from_shape(shape.strides([self.row, self.col]), self.data)
    }
}

/// `c += alpha * a b`, where `c` is `[m, n]` in rows of `stride` values, `a` is `[m, k]` and `b` is `[k, n]`.
pub(crate) fn gemm(c: &mut [f64], stride: usize, [m, n, k]: [usize; 3], alpha: f64, a: Mat<'_>, b: Mat<'_>) {
    if m * n * k == 0 {
        return;
    }
    let c = ArrayViewMut2::from_shape([m, n].strides([stride, 1]), c);
    // The callers' sizes always fit: a view that did not would be a mistake here, and adding nothing is what is left to do.
    if let (Ok(a), Ok(b), Ok(mut c)) = (a.view([m, k]), b.view([k, n]), c) {
        general_mat_mul(alpha, &a, &b, 1.0, &mut c);
    }
}

/// Replaces the lower triangle of the symmetric `a` `[n, n]` by its Cholesky factor `L`, `L L^T = a`; the upper one is left as it was.
///
/// Fails with the index and value of the first pivot that is not clearly positive.
pub(crate) fn cholesky(a: &mut [f64], n: usize) -> Result<(), (usize, f64)> {
    // Below this part of its diagonal entry a pivot is rounding noise of the subtractions that made it.
    let noise = n as f64 * f64::EPSILON;
    let limits: Vec<f64> = (0..n).map(|i| noise * a[i * n + i]).collect();
    let mut below = Vec::new();
    for j0 in (0..n).step_by(BLOCK) {
        let j1 = n.min(j0 + BLOCK);
        for i in j0..n {
            // Row i of the block column, by forward substitution with the rows of the block above it.
            for j in j0..j1.min(i + 1) {
                let dot: f64 = (j0..j).map(|p| a[i * n + p] * a[j * n + p]).sum();
                let rest = a[i * n + j] - dot;
                if i > j {
                    a[i * n + j] = rest / a[j * n + j];
                } else if rest > limits[i] && rest.is_finite() {
                    a[i * n + j] = rest.sqrt();
                } else {
                    return Err((i, rest));
                }
            }
        }
        // The trailing matrix loses the outer product of what was just found. A copy, because both lie in the same rows.
        below.clear();
        (j1..n).for_each(|i| below.extend_from_slice(&a[i * n + j0..i * n + j1]));
        let width = j1 - j0;
        for i0 in (j1..n).step_by(BLOCK) {
            let i1 = n.min(i0 + BLOCK);
            let (rows, columns) = (Mat::rows(&below[(i0 - j1) * width..], width), Mat::transposed(&below, width));
            gemm(&mut a[i0 * n + j1..], n, [i1 - i0, i1 - j1, width], -1.0, rows, columns);
        }
    }
    Ok(())
}

/// Solves `L L^T x = b` in place; `l` is `[n, n]` from [`cholesky`], `b` is `[n, columns]`.
pub(crate) fn cholesky_solve(l: &[f64], n: usize, b: &mut [f64], columns: usize) {
    let blocks = || (0..n).step_by(BLOCK).map(|i0| (i0, n.min(i0 + BLOCK)));
    for (i0, i1) in blocks() {
        for r in i0..i1 {
            for s in i0..r {
                let (above, row) = b.split_at_mut(r * columns);
                subtract(&mut row[..columns], l[r * n + s], &above[s * columns..(s + 1) * columns]);
            }
            divide(&mut b[r * columns..(r + 1) * columns], l[r * n + r]);
        }
        let (done, rest) = b.split_at_mut(i1 * columns);
        let left = Mat::rows(&l[(i1 * n + i0).min(l.len())..], n);
        gemm(rest, columns, [n - i1, columns, i1 - i0], -1.0, left, Mat::rows(&done[i0 * columns..], columns));
    }
    for (i0, i1) in blocks().collect::<Vec<_>>().into_iter().rev() {
        for r in (i0..i1).rev() {
            divide(&mut b[r * columns..(r + 1) * columns], l[r * n + r]);
            for s in i0..r {
                let (above, row) = b.split_at_mut(r * columns);
                subtract(&mut above[s * columns..(s + 1) * columns], l[r * n + s], &row[..columns]);
            }
        }
        let (rest, done) = b.split_at_mut(i0 * columns);
        gemm(rest, columns, [i0, columns, i1 - i0], -1.0, Mat::transposed(&l[i0 * n..], n), Mat::rows(done, columns));
    }
}

/// `y -= factor * x`.
fn subtract(y: &mut [f64], factor: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y -= factor * x;
    }
}

fn divide(y: &mut [f64], by: f64) {
    for y in y {
        *y /= by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reproducible values in -1..1.
    fn noise(len: usize, seed: u64) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn naive(a: impl Fn(usize, usize) -> f64, b: impl Fn(usize, usize) -> f64, [m, n, k]: [usize; 3]) -> Vec<f64> {
        (0..m * n).map(|at| (0..k).map(|p| a(at / n, p) * b(p, at % n)).sum()).collect()
    }

    fn assert_close(got: &[f64], want: &[f64], what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert!((g - w).abs() <= 1e-9 * w.abs().max(1.0), "{what}: {g} and not {w} at {i}");
        }
    }

    #[test]
    fn products_agree_with_naive_loops_at_the_edges_of_tiles_and_blocks() {
        for [m, n, k] in
            [[1, 1, 1], [3, 5, 2], [4, 4, 4], [5, 9, 257], [8, 3, 512], [17, 6, 300], [0, 3, 2], [2, 0, 2], [2, 2, 0]]
        {
            let (a, b) = (noise(m * k, 1), noise(k * n, 2));
            let want = naive(|i, p| a[i * k + p], |p, j| b[p * n + j], [m, n, k]);
            let mut c = vec![0.0; m * n];
            gemm(&mut c, n, [m, n, k], 1.0, Mat::rows(&a, k), Mat::rows(&b, n));
            assert_close(&c, &want, "a b");
            // a stored transposed, and subtracted from itself: nothing is left.
            let a_t: Vec<f64> = (0..m * k).map(|at| a[at % m.max(1) * k + at / m.max(1)]).collect();
            gemm(&mut c, n, [m, n, k], -1.0, Mat::transposed(&a_t, m), Mat::rows(&b, n));
            assert_close(&c, &vec![0.0; m * n], "a b - a b");
        }
    }

    #[test]
    fn factors_multiply_back_and_solve_across_block_borders() {
        for n in [1, 2, 63, 64, 65, 130, 200] {
            let x = noise(n * (n + 5), n as u64);
            let a = naive(|i, p| x[p * n + i], |p, j| x[p * n + j], [n, n, n + 5]);
            let mut l = a.clone();
            cholesky(&mut l, n).unwrap();
            let lower = |i: usize, j: usize| if j <= i { l[i * n + j] } else { 0.0 };
            assert_close(&naive(lower, |p, j| lower(j, p), [n; 3]), &a, &format!("L L^T of {n}"));
            let want = noise(n * 3, 7);
            let mut b = naive(|i, p| a[i * n + p], |p, j| want[p * 3 + j], [n, 3, n]);
            cholesky_solve(&l, n, &mut b, 3);
            // The condition number of a random matrix of this kind is up to about 1e5.
            for (g, w) in b.iter().zip(&want) {
                assert!((g - w).abs() < 1e-6, "{n}: {g} and not {w}");
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_is_named() {
        assert_eq!(cholesky(&mut [0.0], 1), Err((0, 0.0)));
        assert_eq!(cholesky(&mut [1.0, 2.0, 2.0, 1.0], 2), Err((1, -3.0)));
        // Singular: the second pivot is rounding noise.
        assert_eq!(cholesky(&mut [0.1, 0.3, 0.3, 0.9], 2).map_err(|(at, _)| at), Err(1));
        assert!(cholesky(&mut [f64::NAN], 1).is_err());
    }
}
