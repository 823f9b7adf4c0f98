//! A rotated basis for the residual stream: its principal directions, and what they keep.
//!
//! RMSNorm without a gain commutes with a rotation of the residual stream, so a model may be turned into the basis of its covariance and cut
//! there: the first `k` directions lose less than the best `k` channels (`spec/beyond.md`, section 2).
use crate::linalg::{Mat, gemm};
use crate::{Error, Result};
use nalgebra::{DMatrix, SymmetricEigen};

/// An orthonormal basis of the residual stream, most important direction first.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    size: usize,
    /// `[H, H]`, a direction per row.
    directions: Vec<f64>,
    /// What each direction is worth, descending: the eigenvalues.
    values: Vec<f64>,
}

/// Sweeps of the eigenvalue iteration, per row: it needs about two.
const SWEEPS: usize = 60;

impl Basis {
    /// Eigenvectors of a symmetric matrix `[H, H]`, by descending eigenvalue. The sign of each is such that its largest entry is positive.
    ///
    /// # Errors
    /// [`Error::Matrix`], [`Error::NotFinite`], [`Error::Eigen`] when the iteration does not converge.
    pub fn principal(covariance: &[f64], size: usize) -> Result<Self> {
        if size == 0 || size.checked_mul(size) != Some(covariance.len()) {
            return Err(Error::Matrix { matrix: "covariance", got: covariance.len(), want: format!("{size} squared") });
        }
        if let Some(index) = covariance.iter().position(|v| !v.is_finite()) {
            return Err(Error::NotFinite { matrix: "covariance", index });
        }
        let matrix = DMatrix::from_row_slice(size, size, covariance);
        let matrix = (&matrix + matrix.transpose()) * 0.5;
        let eigen = SymmetricEigen::try_new(matrix, f64::EPSILON, SWEEPS * size).ok_or(Error::Eigen { size })?;
        let mut order: Vec<usize> = (0..size).collect();
        // Stable, and every value is finite: equal values keep their order.
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let mut directions = Vec::with_capacity(size * size);
        for &i in &order {
            let column = eigen.eigenvectors.column(i);
            let largest = column.iter().fold(0.0f64, |m, &v| if m.abs() < v.abs() { v } else { m });
            directions.extend(column.iter().map(|&v| if largest < 0.0 { -v } else { v }));
        }
        Ok(Basis { size, directions, values: order.iter().map(|&i| eigen.eigenvalues[i]).collect() })
    }

    /// Directions whose first `k`, for every `k`, lose least of what is read: the output error `tr(M (C - C B (B^T C B)^-1 B^T C))` of maps with
    /// `W^T W = M` that read a stream of covariance `C`, each refitted to the kept directions. The optimum spans `C^-1/2 U` with `U` the
    /// eigenvectors of `C^1/2 M C^1/2`; the directions are those, orthonormalised in order.
    ///
    /// # Errors
    /// Those of [`Basis::principal`].
    pub fn weighted(covariance: &[f64], readers: &[f64], size: usize) -> Result<Self> {
        let c = Basis::principal(covariance, size)?;
        if readers.len() != covariance.len() {
            return Err(Error::Matrix { matrix: "readers", got: readers.len(), want: format!("{size} squared") });
        }
        // Directions without energy keep a little, or their inverse root would be infinite.
        let least = c.values.iter().sum::<f64>().max(0.0) / size as f64 * 1e-6;
        let root = |power: f64| -> Vec<f64> {
            let scaled: Vec<f64> = (0..size * size)
                .map(|at| c.directions[at] * c.values[at / size].max(least).max(f64::MIN_POSITIVE).powf(power))
                .collect();
            let mut out = vec![0.0; size * size];
            gemm(&mut out, size, [size; 3], 1.0, Mat::transposed(&scaled, size), Mat::rows(&c.directions, size));
            out
        };
        let product = |a: &[f64], b: &[f64]| {
            let mut out = vec![0.0; size * size];
            gemm(&mut out, size, [size; 3], 1.0, Mat::rows(a, size), Mat::rows(b, size));
            out
        };
        let half = root(0.5);
        let u = Basis::principal(&product(&product(&half, readers), &half), size)?;
        let mut directions = product(&u.directions, &root(-0.5));
        orthonormalise(&mut directions, size);
        Ok(Basis { size, directions, values: u.values })
    }

    /// The mirror image along `normal`: `I - 2 n n^T / n^T n`. Nothing is gained by it, but it is orthonormal, turns every direction into a mixture
    /// of all, and costs nothing: for tests of what a rotation leaves alone.
    ///
    /// # Errors
    /// [`Error::Matrix`] for a normal of no length, [`Error::NotFinite`].
    pub fn reflection(normal: &[f64]) -> Result<Self> {
        let size = normal.len();
        let square: f64 = normal.iter().map(|v| v * v).sum();
        if !square.is_finite() {
            return Err(Error::NotFinite { matrix: "normal", index: 0 });
        }
        if square <= 0.0 {
            return Err(Error::Matrix { matrix: "normal", got: size, want: "a vector of some length".into() });
        }
        let at = |i: usize| (i / size, i % size);
        let entry = |(r, c): (usize, usize)| f64::from(u8::from(r == c)) - 2.0 * normal[r] * normal[c] / square;
        let directions = (0..size * size).map(|i| entry(at(i))).collect();
        Ok(Basis { size, directions, values: vec![1.0; size] })
    }

    /// Width of the residual stream.
    pub fn size(&self) -> usize {
        self.size
    }

    /// `[H, H]`, a direction per row.
    pub fn directions(&self) -> &[f64] {
        &self.directions
    }

    /// What each direction is worth, descending.
    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

/// The gain of a norm over `kept` of the dimensions of a stream of unit mean square, so that the shortened norm returns what the whole one
/// would have on average: the root of the mean square of what is kept. `energy` is the sum over tokens of the squares of what is kept.
pub fn kept_gain(energy: f64, tokens: u64, kept: usize) -> f64 {
    (energy / (tokens.max(1) as f64 * kept.max(1) as f64)).sqrt()
}

/// Gram and Schmidt, twice for every row, in order.
fn orthonormalise(rows: &mut [f64], n: usize) {
    for i in 0..rows.len() / n {
        let (before, row) = rows.split_at_mut(i * n);
        let row = &mut row[..n];
        for _ in 0..2 {
            let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            row.iter_mut().for_each(|v| *v /= length.max(f64::MIN_POSITIVE));
            for other in before.chunks_exact(n) {
                let along: f64 = other.iter().zip(&*row).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v /= length.max(f64::MIN_POSITIVE));
    }
}
