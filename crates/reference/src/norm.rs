//! RMSNorm and rotary embeddings.
use crate::elementwise::put;
use paring_ops::Accum;

/// `y = x r w`, `r_t = 1 / sqrt(mean_i(x_ti^2) + eps)` (Zhang and Sennrich, arXiv 1910.07467, equation 4).
///
/// Rows of no elements have no mean: nothing is written then.
pub(crate) fn rms_norm(y: &mut [f32], rstd: &mut [f32], x: &[f64], w: &[f64], eps: f64) {
    let d = w.len();
    if d == 0 {
        return;
    }
    for t in 0..rstd.len() {
        let x = &x[t * d..][..d];
        let mean_square = x.iter().map(|x| x * x).sum::<f64>() / d as f64;
        let r = 1.0 / (mean_square + eps).sqrt();
        rstd[t] = r as f32;
        for i in 0..d {
            y[t * d + i] = (x[i] * r * w[i]) as f32;
        }
    }
}

/// From `d r / d x_i = -r^3 x_i / D`:
///
/// - `dx_i (+)= sum_j dy_j w_j d(x_j r)/dx_i = r (dy_i w_i - x_i r^2 mean_j(dy_j w_j x_j))`
/// - `dw_i += sum_t dy_ti x_ti r_t`
pub(crate) fn rms_norm_backward(
    dx: &mut [f32],
    accum: Accum,
    dw: &mut [f32],
    dy: &[f64],
    x: &[f64],
    w: &[f64],
    rstd: &[f64],
) {
    let d = w.len();
    let mut dw_sum = vec![0.0; d];
    for (t, r) in rstd.iter().enumerate() {
        let row = t * d;
        let mean = (0..d).map(|j| dy[row + j] * w[j] * x[row + j]).sum::<f64>() / d as f64;
        for i in 0..d {
            put(&mut dx[row + i], accum, r * (dy[row + i] * w[i] - x[row + i] * r * r * mean));
            dw_sum[i] += dy[row + i] * x[row + i] * r;
        }
    }
    for (dw, sum) in dw.iter_mut().zip(dw_sum) {
        put(dw, Accum::Add, sum);
    }
}

/// Rotation of each pair `(x_i, x_{i + h/2})` of a head by the angle of its position and of `i` (Su et al., arXiv 2104.09864, equation 34,
/// with the pairs as Hugging Face's `rotate_half` makes them), in place:
///
/// - `x_i       = x_i cos - x_{i + h/2} sin`
/// - `x_{i+h/2} = x_{i + h/2} cos + x_i sin`
///
/// The gradient of a rotation is the rotation back: `inverse` turns by the negative angle.
pub(crate) fn rope(x: &mut [f32], table: &[f64], positions: &[u32], cols: usize, h: usize, inverse: bool) {
    let half = h / 2;
    for (t, &position) in positions.iter().enumerate() {
        let (cos, sin) = table[position as usize * h..][..h].split_at(half);
        for head in 0..cols / h {
            let at = t * cols + head * h;
            for i in 0..half {
                let s = if inverse { -sin[i] } else { sin[i] };
                let (a, b) = (f64::from(x[at + i]), f64::from(x[at + half + i]));
                x[at + i] = (a * cos[i] - b * s) as f32;
                x[at + half + i] = (b * cos[i] + a * s) as f32;
            }
        }
    }
}
