//! Random inputs on a grid, and central differences of the fourth order.
use paring_ops::Backend;
use paring_reference::Reference;
use paring_sampling::rng::Rng;
use paring_tensor::{DType, Shape, Tensor};

/// Step of the differences. Inputs lie on a grid of half this width, so that `x + STEP` and `x + 2 STEP` are exact in f32.
const STEP: f32 = 1.0 / 16.0;

/// `n` multiples of 1/32 in (-1, 1): exact in bf16 as well, also a step away.
pub(crate) fn grid(n: usize, seed: u64) -> Vec<f32> {
    let rng = Rng::new(seed);
    (0..n as u64).map(|i| (rng.below(0, i, 63) as f32 - 31.0) / 32.0).collect()
}

pub(crate) fn tensor(values: &[f32], dtype: DType, dims: &[usize]) -> Tensor {
    Reference.upload(values, dtype, Shape::new(dims).unwrap()).unwrap()
}

pub(crate) fn f32s(values: &[f32], dims: &[usize]) -> Tensor {
    tensor(values, DType::F32, dims)
}

/// An output that holds rubbish.
pub(crate) fn rubbish(dims: &[usize]) -> Tensor {
    let shape = Shape::new(dims).unwrap();
    f32s(&vec![f32::NAN; shape.elements()], dims)
}

pub(crate) fn values(t: &Tensor) -> Vec<f32> {
    Reference.download(t).unwrap()
}

/// `sum_i c_i y_i`: a scalar whose gradient with respect to y is c.
pub(crate) fn weighted(y: &[f32], c: &[f32]) -> f64 {
    assert_eq!(y.len(), c.len());
    y.iter().zip(c).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum()
}

/// The gradient of `loss` at `x` by differences: `(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12 h`, wrong by `h^4 f''''' / 30`.
pub(crate) fn differences(x: &[f32], mut loss: impl FnMut(&[f32]) -> f64) -> Vec<f64> {
    let one = |i: usize| {
        let mut at = |steps: f32| {
            let mut x = x.to_vec();
            x[i] += steps * STEP;
            loss(&x)
        };
        (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * f64::from(STEP))
    };
    (0..x.len()).map(one).collect()
}

/// Relative squared error of a gradient against differences of `loss`. Outputs are f32, so about 1e-12 is all that can be had.
pub(crate) fn assert_gradient(what: &str, gradient: &[f32], x: &[f32], loss: impl FnMut(&[f32]) -> f64) {
    let numeric = differences(x, loss);
    assert_eq!(gradient.len(), numeric.len(), "{what}");
    let error: f64 = gradient.iter().zip(&numeric).map(|(&g, n)| (f64::from(g) - n).powi(2)).sum();
    let size: f64 = numeric.iter().map(|n| n * n).sum();
    assert!(0.0 < size, "{what}: a gradient of zero proves nothing");
    assert!(error < 1e-9 * size, "{what}: relative squared error {:e}\n{gradient:?}\n{numeric:?}", error / size);
}
