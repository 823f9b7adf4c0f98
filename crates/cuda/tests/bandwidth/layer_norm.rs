//! LayerNorm against its formula in f64.
use crate::{bits, common::open, numbers, odd::Odd, shape, wide};
use paring_ops::{Accum, Backend};
use paring_tensor::{
    DType::{BF16, F32},
    Tensor, from_f32, to_f32,
};

/// The worst error, in units of `sizes`.
fn worst(got: &[f32], want: &[f64], sizes: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let each = got.iter().zip(want).zip(sizes);
    each.map(|((&g, w), s)| (f64::from(g) - w).abs() / s.max(1e-30)).fold(0.0, f64::max)
}

struct Norm {
    t: usize,
    d: usize,
    x: Vec<f64>,
    w: Vec<f64>,
    bias: Vec<f64>,
}

impl Norm {
    /// Mean and one over the standard deviation of each row.
    fn moments(&self) -> Vec<(f64, f64)> {
        let row = |x: &[f64]| {
            let mean = x.iter().sum::<f64>() / self.d as f64;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / self.d as f64;
            (mean, 1.0 / (variance + f64::from(1e-5f32)).sqrt())
        };
        self.x.chunks(self.d).map(row).collect()
    }

    /// `y` and its size.
    fn forward(&self) -> (Vec<f64>, Vec<f64>) {
        let moments = self.moments();
        let one = |i: usize| {
            let (mean, rstd) = moments[i / self.d];
            let (w, bias) = (self.w[i % self.d], self.bias[i % self.d]);
            let size = (self.x[i].abs() + mean.abs()) * rstd * w.abs() + bias.abs();
            ((self.x[i] - mean) * rstd * w + bias, size)
        };
        (0..self.t * self.d).map(one).unzip()
    }

    /// dx, dw, dbias on top of `old`, with sizes.
    fn backward(&self, dy: &[f64], old: f64) -> [(Vec<f64>, Vec<f64>); 3] {
        let (t, d, moments) = (self.t, self.d, self.moments());
        let normed = |i: usize| (self.x[i] - moments[i / d].0) * moments[i / d].1;
        let start = |n: usize| (vec![old; n], vec![old.abs(); n]);
        let (mut dx, mut dw, mut dbias) = (start(t * d), start(d), start(d));
        for row in 0..t {
            let (at, rstd) = (row * d, moments[row].1);
            let mean = |f: &dyn Fn(usize) -> f64| (at..at + d).map(f).sum::<f64>() / d as f64;
            let g = |i: usize| dy[i] * self.w[i - at];
            let (mean_g, mean_gn) = (mean(&g), mean(&|i| g(i) * normed(i)));
            let (size_g, size_gn) = (mean(&|i| g(i).abs()), mean(&|i| (g(i) * normed(i)).abs()));
            for i in at..at + d {
                dx.0[i] += rstd * (g(i) - mean_g - normed(i) * mean_gn);
                dx.1[i] += rstd * (g(i).abs() + size_g + normed(i).abs() * size_gn);
                dw.0[i - at] += dy[i] * normed(i);
                dw.1[i - at] += (dy[i] * normed(i)).abs();
                dbias.0[i - at] += dy[i];
                dbias.1[i - at] += dy[i].abs();
            }
        }
        [dx, dw, dbias]
    }
}

#[test]
fn layer_norm_is_its_formula() {
    const BOUND: f64 = 1.9e-6; // of conformance
    let opened = open();
    let cuda = &opened.cuda;
    for (t, d) in [(1, 1), (3, 5), (17, 33), (5, 64), (3, 576), (2, 12_036), (600, 8), (3, 3012), (3, 6024), (0, 4)] {
        for dtype in [F32, BF16] {
            let held = |values: Vec<f32>| to_f32(&from_f32(&values, dtype), dtype)[..values.len()].to_vec();
            let (w, bias) = (held(numbers(2, d)), held(numbers(3, d)));
            let (a, b, dy) = (numbers(4, t * d), numbers(5, t * d), numbers(6, t * d));
            let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            let norm = Norm { t, d, x: wide(&sum), w: wide(&w), bias: wide(&bias) };
            let (want, sizes) = norm.forward();
            let gradients = norm.backward(&wide(&dy), 0.5);
            for odd in [false, true] {
                let upload = |values: &[f32], dtype, dims: &[usize]| match odd {
                    false => cuda.upload(values, dtype, shape(dims)).unwrap(),
                    true => Odd(cuda).upload(values, dtype, shape(dims)).unwrap(),
                };
                let out = |dims: &[usize]| upload(&vec![f32::NAN; dims.iter().product()], F32, dims);
                let (w, bias) = (upload(&w, dtype, &[d]), upload(&bias, dtype, &[d]));
                let (a, b) = (upload(&a, F32, &[t, d]), upload(&b, F32, &[t, d]));
                let [mut sum_t, mut y, mut y2] = [0; 3].map(|_| out(&[t, d]));
                let [mut mean, mut rstd] = [0; 2].map(|_| out(&[t]));
                cuda.add_layer_norm([&mut sum_t, &mut y], [&mut mean, &mut rstd], [&a, &b], &w, &bias, 1e-5).unwrap();
                let name = format!("[{t}, {d}] {dtype} odd {odd}");
                assert_eq!(bits(&cuda.download(&sum_t).unwrap()), bits(&sum), "{name}");
                let got = cuda.download(&y).unwrap();
                assert!(worst(&got, &want, &sizes) < BOUND, "{name}: {}", worst(&got, &want, &sizes));
                cuda.layer_norm(&mut y2, [&mut mean, &mut rstd], &sum_t, &w, &bias, 1e-5).unwrap();
                assert_eq!(bits(&cuda.download(&y2).unwrap()), bits(&got), "{name}: of the sum");
                let dy = upload(&dy, F32, &[t, d]);
                let mut dx = upload(&vec![0.5; t * d], F32, &[t, d]);
                let [mut dw, mut dbias] = [0; 2].map(|_| upload(&vec![0.5; d], F32, &[d]));
                let saved = [&mean, &rstd];
                cuda.layer_norm_backward(&mut dx, Accum::Add, [&mut dw, &mut dbias], &dy, &sum_t, &w, saved).unwrap();
                for ((got, (want, sizes)), what) in
                    [&dx, &dw, &dbias].into_iter().zip(&gradients).zip(["dx", "dw", "dbias"])
                {
                    let used = worst(&cuda.download(got).unwrap(), want, sizes);
                    assert!(used < BOUND, "{name}: {what} {used}");
                }
                let mut set = out(&[t, d]);
                cuda.layer_norm_backward(&mut set, Accum::Set, [&mut dw, &mut dbias], &dy, &sum_t, &w, saved).unwrap();
                let want: Vec<f64> = gradients[0].0.iter().map(|dx| dx - 0.5).collect();
                assert!(worst(&cuda.download(&set).unwrap(), &want, &gradients[0].1) < BOUND, "{name}: set");
            }
        }
    }
}

#[test]
fn layer_norm_refuses_before_it_writes() {
    let opened = open();
    let cuda = &opened.cuda;
    let of = |dims: &[usize]| cuda.upload(&vec![0.5; dims.iter().product()], F32, shape(dims)).unwrap();
    let short = |dims: &[usize]| cuda.upload(&vec![0.5; dims.iter().product()], BF16, shape(dims)).unwrap();
    let (x, w, [mut mean, mut rstd]) = (of(&[3, 4]), of(&[4]), [of(&[3]), of(&[3])]);
    let mut y = of(&[3, 4]);
    let mut call = |bias: &Tensor, y: &mut Tensor| cuda.layer_norm(y, [&mut mean, &mut rstd], &x, &w, bias, 1e-5);
    for bias in [of(&[5]), short(&[4])] {
        assert!(call(&bias, &mut y).is_err());
    }
    let kept = y.clone();
    assert!(call(&of(&[4]), &mut y).is_err());
    drop(kept);
    assert_eq!(cuda.download(&y).unwrap(), [0.5; 12]);
    assert!(call(&of(&[4]), &mut y).is_ok());
}
