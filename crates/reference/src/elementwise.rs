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
