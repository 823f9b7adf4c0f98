//! Sums for calibration against the same sums on the host.
use crate::{
    common::open,
    numbers, shape,
    sim::{
        Sim,
        Value::{Pointer, U32},
        text,
    },
    wide,
};
use paring_ops::Backend;
use paring_tensor::DType::F32;

#[test]
fn sums_of_channels() {
    let opened = open();
    let cuda = &opened.cuda;
    for (t, c) in [(1, 1), (7, 3), (300, 33), (513, 64), (0, 5), (4, 0)] {
        // Every third is large and almost constant: what sums of squares alone would lose.
        let shifted = |(i, x)| if i % 3 == 0 { 1e4 + x } else { x };
        let values: Vec<f32> = numbers(8, t * c).into_iter().enumerate().map(shifted).collect();
        let x = cuda.upload(&values, F32, shape(&[t, c])).unwrap();
        let got = cuda.channel_sums(&x).unwrap();
        assert_eq!(got, cuda.channel_sums(&x).unwrap());
        assert_eq!((got.tokens, got.absolute.len(), got.deviation_square.len()), (t, c, c));
        for channel in 0..c {
            let of = |row: usize| f64::from(values[row * c + channel]);
            let first = if t == 0 { 0.0 } else { of(0) };
            let near = |got: f64, f: &dyn Fn(f64) -> f64| {
                let (want, size) = (0..t).map(|row| f(of(row))).fold((0.0, 0.0), |(w, s), x| (w + x, s + x.abs()));
                assert!((got - want).abs() <= 1e-13 * size, "[{t}, {c}] channel {channel}: {got} {want}");
            };
            near(got.absolute[channel], &f64::abs);
            near(got.square[channel], &|x| x * x);
            near(got.deviation[channel], &|x| x - first);
            near(got.deviation_square[channel], &|x| (x - first).powi(2));
        }
    }
}

/// The second step of a sum, with more parts than threads: whole numbers, so that the order does not matter.
#[test]
fn parts_are_added() {
    for n in [1, 31, 255, 256, 257, 1000] {
        let parts: Vec<f64> = (0..n).map(|i| f64::from(i * i % 1009 - 300)).collect();
        let mut sim = Sim::new();
        let (from, to) = (sim.upload(&parts), sim.alloc(8));
        let arguments = [Pointer(from), Pointer(to), U32(n as u32)];
        sim.launch(text("elementwise"), "sum_parts_f64", [1, 1, 1], [256, 1, 1], 0, &arguments);
        assert_eq!(sim.download::<f64>(to, 1), [parts.iter().sum::<f64>()], "{n}");
    }
}

#[test]
fn products_of_rows() {
    let opened = open();
    let cuda = &opened.cuda;
    for (t, d) in [(1, 1), (3, 7), (5, 64), (2, 2051), (3, 0), (0, 3)] {
        let (a, b) = (numbers(1, t * d), numbers(2, t * d));
        let upload = |values: &[f32]| cuda.upload(values, F32, shape(&[t, d])).unwrap();
        let got = cuda.row_products(&upload(&a), &upload(&b)).unwrap();
        assert_eq!(got.len(), t);
        for (row, got) in got.iter().enumerate() {
            let (a, b) = (wide(&a[row * d..][..d]), wide(&b[row * d..][..d]));
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let near = |got: f64, want: f64| assert!((got - want).abs() <= 1e-13 * d as f64, "{got} {want}");
            near(got.xy, dot(&a, &b));
            near(got.xx, dot(&a, &a));
            near(got.yy, dot(&b, &b));
        }
    }
    let (x, y) =
        (cuda.upload(&[0.0; 6], F32, shape(&[2, 3])).unwrap(), cuda.upload(&[0.0; 6], F32, shape(&[3, 2])).unwrap());
    assert!(cuda.row_products(&x, &y).is_err());
}
