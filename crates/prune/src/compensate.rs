//! Least squares for the linear map after a pruned axis: `down_proj` after neurons, `o_proj` after heads.
//!
//! With calibration inputs `X [T, F]`, the Gram matrix `G = X^T X`, the kept inputs `k` and the dropped `d`, the new weight is the one
//! whose output on the calibration set is nearest to the old one's. Setting the gradient to zero gives `G_kk W_new^T = G_k: W^T`. Solved
//! is the change `D = W_new - W_k` instead, `G_kk D^T = G_kd W_d^T`: less work, and exactly zero when nothing was dropped.
use crate::linalg::{Mat, cholesky, cholesky_solve, gemm};
use crate::plan::ascending;
use crate::{Error, Result};

/// What the ridge pulls the new weight to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// To the teacher's weight: `lambda |W_new - W_k|^2`. The result is never worse on the calibration set than slicing, and inputs
    /// that were hardly seen keep their weights.
    Teacher,
    /// To zero: `lambda |W_new|^2`, the textbook's ridge. Inputs of little energy are shrunk away.
    Zero,
}

/// How the problem is kept well posed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ridge {
    /// `lambda` as a part of the mean diagonal of `G_kk`.
    pub strength: f64,
    /// What it pulls to.
    pub anchor: Anchor,
}

impl Default for Ridge {
    /// 0.01, to the teacher's weight.
    fn default() -> Self {
        Ridge { strength: 0.01, anchor: Anchor::Teacher }
    }
}

/// The weight `[N, k]` on the kept inputs that best reproduces the output of `w` on the calibration set.
///
/// Cost: about `k^3 / 3 + k F N + k^2 N` multiply-adds in f64 on one thread, memory `k^2 + k F + F N` f64.
///
/// # Shapes
/// - `gram`: `[F, F]`, the sum of `x x^T` over calibration inputs, both triangles; any positive multiple of it gives the same result.
/// - `w`: `[N, F]`, the old weight.
/// - `kept`: ascending inputs.
///
/// # Errors
/// [`Error::Matrix`], [`Error::NotFinite`], [`Error::Plan`] for a bad `kept`, [`Error::RidgeStrength`], or [`Error::NotPositiveDefinite`] when the calibration
/// set has fewer tokens than `k` or constant inputs and the ridge is too small.
pub fn least_squares<G: Copy + Into<f64>>(
    gram: &[G],
    inputs: usize,
    w: &[f32],
    kept: &[usize],
    ridge: &Ridge,
) -> Result<Vec<f32>> {
    let outputs = check(gram, inputs, w, kept)?;
    if !ridge.strength.is_finite() || ridge.strength < 0.0 {
        return Err(Error::RidgeStrength { got: ridge.strength });
    }
    let (k, n) = (kept.len(), outputs);
    let at = |i: usize, j: usize| -> f64 { gram[i * inputs + j].into() };
    let dropped = dropped(inputs, kept);
    if dropped.is_empty() && ridge.anchor == Anchor::Teacher {
        return Ok(w.to_vec());
    }
    let lambda = ridge.strength * kept.iter().map(|&i| at(i, i)).sum::<f64>() / k as f64;
    // Right side: G_kd W_d^T, less lambda W_k^T for a ridge towards zero.
    let mut change = vec![0f64; k * n];
    if ridge.anchor == Anchor::Zero {
        for (row, &i) in change.chunks_exact_mut(n.max(1)).zip(kept) {
            row.iter_mut().enumerate().for_each(|(o, x)| *x = -lambda * f64::from(w[o * inputs + i]));
        }
    }
    let cross: Vec<f64> = kept.iter().flat_map(|&i| dropped.iter().map(move |&j| at(i, j))).collect();
    let w_dropped = columns(w, inputs, &dropped);
    let d = dropped.len();
    gemm(&mut change, n, [k, n, d], 1.0, Mat::rows(&cross, d), Mat::transposed(&w_dropped, d));
    drop((cross, w_dropped));

    let mut factor: Vec<f64> = kept.iter().flat_map(|&i| kept.iter().map(move |&j| at(i, j))).collect();
    (0..k).for_each(|i| factor[i * k + i] += lambda);
    cholesky(&mut factor, k).map_err(|(i, pivot)| Error::NotPositiveDefinite { channel: kept[i], pivot })?;
    cholesky_solve(&factor, k, &mut change, n);

    let mut out = Vec::with_capacity(n * k);
    for o in 0..n {
        out.extend(kept.iter().enumerate().map(|(i, &c)| (f64::from(w[o * inputs + c]) + change[i * n + o]) as f32));
    }
    Ok(out)
}

/// What is lost of the output's energy on the calibration set: `|W X - W_new X_k|^2 / |W X|^2`, from the Gram matrix alone.
///
/// 0 is a perfect repair, 1 as bad as no output at all. `w_new` is `[N, k]`; for the other arguments see [`least_squares`]. An output
/// without energy has nothing to lose: 0.
///
/// # Errors
/// [`Error::Matrix`], [`Error::NotFinite`], or [`Error::Plan`] for a bad `kept`.
pub fn reconstruction_error<G: Copy + Into<f64>>(
    gram: &[G],
    inputs: usize,
    w: &[f32],
    kept: &[usize],
    w_new: &[f32],
) -> Result<f64> {
    let outputs = check(gram, inputs, w, kept)?;
    if w_new.len() != outputs * kept.len() {
        let want = format!("{} ({outputs} outputs of {} inputs)", outputs * kept.len(), kept.len());
        return Err(Error::Matrix { matrix: "new weight", got: w_new.len(), want });
    }
    let gram: Vec<f64> = gram.iter().map(|&g| g.into()).collect();
    let mut difference: Vec<f64> = w.iter().map(|&v| f64::from(v)).collect();
    let energy = energy(&gram, inputs, &difference);
    for (row, new) in difference.chunks_exact_mut(inputs).zip(w_new.chunks_exact(kept.len())) {
        for (&c, &v) in kept.iter().zip(new) {
            row[c] -= f64::from(v);
        }
    }
    Ok(if energy > 0.0 { (self::energy(&gram, inputs, &difference) / energy).max(0.0) } else { 0.0 })
}

/// `trace(w G w^T)`: the energy of the outputs of `w` on the calibration set.
fn energy(gram: &[f64], inputs: usize, w: &[f64]) -> f64 {
    let outputs = w.len() / inputs;
    let mut product = vec![0f64; w.len()];
    gemm(&mut product, inputs, [outputs, inputs, inputs], 1.0, Mat::rows(w, inputs), Mat::rows(gram, inputs));
    product.iter().zip(w).map(|(p, w)| p * w).sum()
}

/// Checks everything that both functions take; returns the number of outputs.
fn check<G: Copy + Into<f64>>(gram: &[G], inputs: usize, w: &[f32], kept: &[usize]) -> Result<usize> {
    ascending("kept inputs", kept, inputs)?;
    if inputs.checked_mul(inputs) != Some(gram.len()) {
        return Err(Error::Matrix { matrix: "Gram", got: gram.len(), want: format!("{inputs} squared") });
    }
    if !w.len().is_multiple_of(inputs) {
        return Err(Error::Matrix { matrix: "weight", got: w.len(), want: format!("a multiple of {inputs}") });
    }
    if let Some(index) = gram.iter().position(|&g| !g.into().is_finite()) {
        return Err(Error::NotFinite { matrix: "Gram", index });
    }
    if let Some(index) = w.iter().position(|v| !v.is_finite()) {
        return Err(Error::NotFinite { matrix: "weight", index });
    }
    Ok(w.len() / inputs)
}

/// All inputs that are not kept, ascending.
fn dropped(inputs: usize, kept: &[usize]) -> Vec<usize> {
    let mut keep = vec![false; inputs];
    kept.iter().for_each(|&i| keep[i] = true);
    (0..inputs).filter(|&i| !keep[i]).collect()
}

/// Columns `list` of `w` in f64.
fn columns(w: &[f32], inputs: usize, list: &[usize]) -> Vec<f64> {
    w.chunks_exact(inputs).flat_map(|row| list.iter().map(move |&i| f64::from(row[i]))).collect()
}
