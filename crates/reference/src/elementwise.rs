//! Operations on each element alone.
use paring_ops::Accum;

/// Puts a sum into an output: rounded once, after the old value was added.
pub(crate) fn put(y: &mut f32, accum: Accum, value: f64) {
    *y = match accum {
        Accum::Set => value as f32,
        Accum::Add => (f64::from(*y) + value) as f32,
    };
}

/// `y = a + b`.
pub(crate) fn add(y: &mut [f32], a: &[f64], b: &[f64]) {
    for i in 0..y.len() {
        y[i] = (a[i] + b[i]) as f32;
    }
}

/// `y (+)= x`.
pub(crate) fn accumulate(y: &mut [f32], accum: Accum, x: &[f64]) {
    for i in 0..y.len() {
        put(&mut y[i], accum, x[i]);
    }
}

/// `y *= factor`.
pub(crate) fn scale(y: &mut [f32], factor: f32) {
    for y in y {
        *y = (f64::from(*y) * f64::from(factor)) as f32;
    }
}

/// `sum x^2`.
pub(crate) fn sum_squares(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `y = silu(g) u`, `silu(g) = g sigmoid(g)` (Shazeer, "GLU Variants Improve Transformer", arXiv 2002.05202).
pub(crate) fn swiglu(y: &mut [f32], gate: &[f64], up: &[f64]) {
    for i in 0..y.len() {
        y[i] = (gate[i] * sigmoid(gate[i]) * up[i]) as f32;
    }
}

/// With `s = sigmoid(g)`, `ds/dg = s (1 - s)`:
///
/// - `du = dy silu(g) = dy g s`
/// - `dg = dy u silu'(g) = dy u (s + g s (1 - s))`
pub(crate) fn swiglu_backward(dgate: &mut [f32], dup: &mut [f32], dy: &[f64], gate: &[f64], up: &[f64]) {
    for i in 0..dy.len() {
        let (g, s) = (gate[i], sigmoid(gate[i]));
        dup[i] = (dy[i] * g * s) as f32;
        dgate[i] = (dy[i] * up[i] * (s + g * s * (1.0 - s))) as f32;
    }
}
