//! Matrix products on the stand-in for the driver, with every checker on, beyond what `conformance.rs` asks: pointers that are aligned to an
//! element only, sums that are cut off, shapes around the tiles, quantised weights, epilogues.
#![allow(
    clippy::unwrap_used,
    clippy::field_reassign_with_default,
    reason = "a test that cannot go on has failed; settings can only be changed"
)]
mod common;
#[path = "common/numbers.rs"]
mod generated;
#[path = "common/odd.rs"]
mod odd;

use common::{open, open_with};
use generated::numbers;
use odd::Odd;
use paring_conformance::{Case, Failure, Op, Reason, Values, cases, check};
use paring_cuda::{Allocation, Compute, Cuda, Epilogue, Gemm, Layout};
use paring_ops::{Accum, Activation, Backend};
use paring_ptx_sim::Rounding;
use paring_reference::Reference;
use paring_tensor::{
    DType::{self, BF16, F32, Q4_0, Q4_1, Q8_0},
    Shape, Tensor, round_to,
};
use ptx_sim_driver::Config;

fn check_each(backend: &dyn Backend, cases: impl IntoIterator<Item = Case>) {
    let failures: Vec<Failure> = cases.into_iter().filter_map(|case| check(backend, &case).err()).take(3).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

fn ours(case: &Case) -> bool {
    case.op.name().starts_with("linear")
}

/// The table itself is in `conformance.rs`.
#[test]
fn the_table_of_conformance_where_no_pointer_is_aligned() {
    let opened = open();
    check_each(&Odd(&opened.cuda), cases().into_iter().filter(ours));
    opened.clean();
}

/// Tensor cores cut sums off instead of rounding them. Every element stays within its bound. The mean of the squares may leave its own: after
/// an outlier of 10^4, each of the 18 steps that follow takes half of 2^-23 off the sum, always towards zero.
#[test]
fn the_table_of_conformance_where_sums_are_cut_off() {
    const MOST: f64 = 1e-12;
    let mut config = Config::default();
    config.rounding = Rounding::TruncateAccumulate;
    let opened = open_with(&config, Allocation::Exact);
    let mut failures: Vec<Failure> =
        cases().into_iter().filter(ours).filter_map(|case| check(&opened.cuda, &case).err()).collect();
    failures.retain(|failure| !matches!(*failure.reason, Reason::Sum { got, .. } if got < MOST));
    assert!(failures.is_empty(), "{failures:#?}");
    opened.clean();
}

/// The sizes of `spec`: nothing near a multiple of a tile is left out. Products of three of them would take an hour: each appears in each
/// place, beside others that move.
fn shapes() -> Vec<(usize, usize, usize)> {
    let sizes = [1, 15, 16, 17, 127, 128, 129];
    let mut shapes = Vec::new();
    for (i, &m) in sizes.iter().enumerate() {
        for (j, &n) in sizes.iter().enumerate() {
            shapes.push((m, n, [8, 31, 32, 33, 64, 72, 100][(i + 2 * j) % 7]));
        }
    }
    shapes
}

fn check_shapes(op: impl Fn((usize, usize, usize)) -> Op) {
    let opened = open();
    check_each(&opened.cuda, shapes().into_iter().map(|shape| Case::new(op(shape), Values::Normal)));
}

#[test]
fn products_around_the_tiles() {
    for dtype in [F32, BF16] {
        check_shapes(|(t, n, k)| Op::Linear { t, k, n, dtype });
    }
}

#[test]
fn gradients_of_inputs_around_the_tiles() {
    for dtype in [F32, BF16] {
        check_shapes(|(t, n, k)| Op::LinearDx { t, k, n, dtype, accum: Accum::Add });
    }
}

#[test]
fn gradients_of_weights_around_the_tiles() {
    for dtype in [F32, BF16] {
        check_shapes(|(t, n, k)| Op::LinearDw { t, k, n, dtype });
    }
}

fn tensor(b: &dyn Backend, values: &[f32], dtype: DType, dims: &[usize]) -> Tensor {
    b.upload(values, dtype, Shape::new(dims).unwrap()).unwrap()
}

/// `got` beside the exact `want`, both `[m, n]`, in units of `sizes`: sums of magnitudes.
fn assert_near(what: &str, got: &[f32], want: &[f64], sizes: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len());
    for (i, ((&got, &want), &size)) in got.iter().zip(want).zip(sizes).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= bound * size, "{what}[{i}] is {got:e}, expected {want:e} within {:e}", bound * size);
    }
}

/// Quantised weights beside the reference.
#[test]
fn quantised_weights_are_multiplied_as_they_lie() {
    let opened = open();
    let cuda = &opened.cuda;
    // One block, blocks that fill half a stage, a stage, and one more; rows of a group and around; rows that begin at any even address.
    for (t, n, k) in
        [(1, 1, 32), (1, 9, 576), (3, 8, 1024), (8, 17, 1056), (9, 5, 96), (17, 3, 2080), (0, 3, 32), (2, 0, 32)]
    {
        for dtype in [Q8_0, Q4_0, Q4_1] {
            let mut x = numbers(1 + k as u64, t * k);
            // A block of zeros, and one with a single number.
            x.iter_mut().take(31).for_each(|x| *x = 0.0);
            let w = numbers(2 + n as u64, n * k);
            let run = |b: &dyn Backend| {
                let (x, w) = (tensor(b, &x, F32, &[t, k]), tensor(b, &w, dtype, &[n, k]));
                let mut y = b.alloc(F32, Shape::new(&[t, n]).unwrap()).unwrap();
                b.linear(&mut y, &x, &w).unwrap();
                b.download(&y).unwrap()
            };
            let (got, want) = (run(cuda), run(&Reference));
            let largest = k as f64;
            let wide: Vec<f64> = want.iter().map(|&x| f64::from(x)).collect();
            assert_near(&format!("{dtype} {t} {n} {k}"), &got, &wide, &vec![largest; got.len()], 2e-7);
        }
    }
    // Rows of a larger weight: a view begins within a piece of 16 bytes.
    let w = tensor(cuda, &numbers(5, 9 * 96), Q8_0, &[9, 96]);
    let x = tensor(cuda, &numbers(6, 2 * 96), F32, &[2, 96]);
    let mut all = cuda.alloc(F32, Shape::new(&[2, 9]).unwrap()).unwrap();
    cuda.linear(&mut all, &x, &w).unwrap();
    let mut some = cuda.alloc(F32, Shape::new(&[2, 5]).unwrap()).unwrap();
    cuda.linear(&mut some, &x, &w.rows(3..8).unwrap()).unwrap();
    let (all, some) = (cuda.download(&all).unwrap(), cuda.download(&some).unwrap());
    assert_eq!(some, [&all[3..8], &all[12..17]].concat());
}

#[test]
fn activations_that_have_no_scale() {
    let opened = open();
    let cuda = &opened.cuda;
    let w = numbers(3, 4 * 64);
    for special in [0.0, 1e-38, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 7.8e-31, 7.9e-31] {
        let x: Vec<f32> = (0..64).map(|i| if i == 40 { special } else { 0.0 }).collect();
        let run = |b: &dyn Backend| {
            let (x, w) = (tensor(b, &x, F32, &[1, 64]), tensor(b, &w, Q8_0, &[4, 64]));
            let mut y = b.alloc(F32, Shape::new(&[1, 4]).unwrap()).unwrap();
            b.linear(&mut y, &x, &w).unwrap();
            b.download(&y).unwrap()
        };
        for (got, want) in run(cuda).into_iter().zip(run(&Reference)) {
            assert!(
                (got.is_nan() && want.is_nan()) || (got - want).abs() <= 1e-6 * want.abs(),
                "{special}: {got} {want}"
            );
        }
    }
}

fn act(activation: Option<Activation>, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match activation {
        None => x,
        Some(Activation::Silu) => x * sigmoid(x),
        Some(Activation::GeluTanh) => {
            x * sigmoid(2.0 * std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3)))
        }
        Some(Activation::Relu2) => x.max(0.0).powi(2),
        // Phi by Simpson's rule.
        Some(Activation::Gelu) => {
            let (steps, h) = (2000, x / 2000.0);
            let density = |i: usize| (-(i as f64 * h).powi(2) / 2.0).exp();
            let weight = |i: usize| {
                if i == 0 || i == steps {
                    1.0
                } else if i % 2 == 1 {
                    4.0
                } else {
                    2.0
                }
            };
            let area: f64 = (0..=steps).map(|i| weight(i) * density(i)).sum::<f64>() * h / 3.0;
            x * (0.5 + area / (2.0 * std::f64::consts::PI).sqrt())
        }
    }
}

/// One product with its epilogue beside plain loops.
fn check_gemm(
    cuda: &Cuda,
    layout: Layout,
    compute: Compute,
    [m, n, k]: [usize; 3],
    full: bool,
    activation: Option<Activation>,
) {
    let (a_dims, b_dims) = match layout {
        Layout::Nt => ([m, k], [n, k]),
        Layout::Nn => ([m, k], [k, n]),
        Layout::Tn => ([k, m], [k, n]),
    };
    let dtype = if compute == Compute::Bf16 { BF16 } else { F32 };
    let rounded = |v: Vec<f32>| -> Vec<f32> { v.into_iter().map(|x| round_to(x, dtype)).collect() };
    let (a, b) = (rounded(numbers(11, m * k)), rounded(numbers(12, n * k)));
    let (bias, residual, before) = (numbers(13, n), numbers(14, m * n), numbers(15, m * n));
    let (mut want, mut sizes) = (vec![0.0; m * n], vec![0.0; m * n]);
    for i in 0..m {
        for j in 0..n {
            let term = |q: usize| {
                let a = if layout == Layout::Tn { a[q * m + i] } else { a[i * k + q] };
                let b = if layout == Layout::Nt { b[j * k + q] } else { b[q * n + j] };
                f64::from(a) * f64::from(b)
            };
            let at = i * n + j;
            let mut sum: f64 = (0..k).map(term).sum();
            let mut size: f64 = (0..k).map(|q| term(q).abs()).sum();
            if full {
                sum += f64::from(bias[j]);
                size += 1.0;
            }
            // Of relu2 the slope is 2 x.
            size *= if activation == Some(Activation::Relu2) { 1.0 + 2.0 * sum.abs() } else { 1.5 };
            sum = act(activation, sum);
            if full {
                sum += f64::from(residual[at]) + f64::from(before[at]);
                size += 2.0;
            }
            (want[at], sizes[at]) = (sum, size);
        }
    }
    let (ta, tb) = (tensor(cuda, &a, dtype, &a_dims), tensor(cuda, &b, dtype, &b_dims));
    let (bias, residual) = (tensor(cuda, &bias, F32, &[n]), tensor(cuda, &residual, F32, &[m, n]));
    let mut c = tensor(cuda, &before, F32, &[m, n]);
    let mut c_bf16 = cuda.alloc(BF16, Shape::new(&[m, n]).unwrap()).unwrap();
    let epilogue = Epilogue {
        bias: full.then_some(&bias),
        activation,
        residual: full.then_some(&residual),
        accum: if full { Accum::Add } else { Accum::Set },
    };
    let gemm = Gemm { layout, compute, a: &ta, b: &tb, epilogue };
    cuda.gemm(&mut c, full.then_some(&mut c_bf16), &gemm).unwrap();
    let what = format!("{layout:?} {compute:?} {m} {n} {k} {activation:?}");
    let got = cuda.download(&c).unwrap();
    assert_near(&what, &got, &want, &sizes, 1.9e-6);
    if full {
        let rounded: Vec<f32> = got.iter().map(|&x| round_to(x, BF16)).collect();
        assert_eq!(cuda.download(&c_bf16).unwrap(), rounded, "{what}");
    }
}

fn check_epilogues(layout: Layout) {
    let opened = open();
    let cuda = &opened.cuda;
    let activations = [None].into_iter().chain(Activation::ALL.map(Some));
    for (i, activation) in activations.enumerate() {
        for compute in [Compute::Bf16, Compute::F32] {
            // With pieces of 16 bytes and without; the last is made in parts of k.
            for (m, n, k) in [(40, 36, 24), (17, 21, 40), (9, 12, 1100), (9, 11, 1100)] {
                check_gemm(cuda, layout, compute, [m, n, k], i != 4, activation);
            }
        }
    }
}

#[test]
fn epilogues_nt() {
    check_epilogues(Layout::Nt);
}

#[test]
fn epilogues_nn() {
    check_epilogues(Layout::Nn);
}

#[test]
fn epilogues_tn() {
    check_epilogues(Layout::Tn);
}
