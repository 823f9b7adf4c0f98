//! Conversions, tables of blocks, AdamW and sums of squares: results that are right to the last bit.
use crate::{bits, common::open, numbers, odd::Odd, shape};
use paring_ops::{AdamWStep, Backend};
use paring_reference::Reference;
use paring_tensor::{
    DType::{self, BF16, F16, F32},
    from_f32, to_f32,
};

/// Values that are hard to convert: NaN with a payload of either sign, infinities, ties, subnormals of every type.
fn hard(n: usize) -> Vec<f32> {
    let hard = [
        f32::from_bits(0x7f80_0001),
        f32::from_bits(0xffc1_2345),
        f32::from_bits(0x7fbf_ffff),
        f32::INFINITY,
        f32::NEG_INFINITY,
        -0.0,
        f32::MAX,
        65_519.996,
        65_520.0,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        1.0 + 1.0 / 2048.0,
        2.980_232_2e-8, // half the smallest f16
        2.980_233e-8,
        6.0e-8,
        1e-45,
    ];
    numbers(5, n).into_iter().enumerate().map(|(i, x)| if i % 3 == 0 { hard[i / 3 % hard.len()] } else { x }).collect()
}

#[test]
fn conversions_are_those_of_the_host_to_the_bit() {
    let opened = open();
    let cuda = &opened.cuda;
    let n = 32 * 37;
    let types = [F32, BF16, F16, DType::Q8_0, DType::Q4_0, DType::Q4_1];
    let mut zeros = numbers(7, n);
    zeros[64..96].fill(0.0);
    zeros[100] = -1.0; // the largest magnitude, of either sign
    zeros[101] = 1.0;
    for (name, values) in [("numbers", numbers(3, n)), ("hard", hard(n)), ("zeros", zeros)] {
        for from in types {
            for to in types {
                // The definition: through f32. A move within a type keeps its bits.
                let held = to_f32(&from_f32(&values, from), from);
                let want = to_f32(&from_f32(&held, to), to);
                for backend in [cuda as &dyn Backend, &Odd(cuda)] {
                    let x = backend.upload(&values, from, shape(&[n])).unwrap();
                    let mut y = backend.upload(&vec![0.0; n], to, shape(&[n])).unwrap();
                    backend.convert(&mut y, &x).unwrap();
                    let (mut got, mut want) = (backend.download(&y).unwrap(), want.clone());
                    if from.is_quantised() || to.is_quantised() {
                        // Which NaN arithmetic makes is the device's choice.
                        let nan = |x: &mut f32| *x = if x.is_nan() { f32::NAN } else { *x };
                        got.iter_mut().chain(&mut want).for_each(nan);
                    }
                    assert_eq!(bits(&got), bits(&want), "{name}, {from} to {to}");
                }
            }
        }
    }
}

/// Rows shorter and longer than what a block's threads take at once.
#[test]
fn tables_of_every_type() {
    let opened = open();
    let cuda = &opened.cuda;
    let ids = [8u32, 0, 3, 3];
    for (v, d) in [(9, 96), (9, 1056), (9, 2176)] {
        let values = numbers(11, v * d);
        for dtype in DType::QUANTISED.into_iter().chain([F32, BF16]) {
            let table = to_f32(&from_f32(&values, dtype), dtype);
            let want: Vec<f32> = ids.iter().flat_map(|&id| table[id as usize * d..][..d].to_vec()).collect();
            for backend in [cuda as &dyn Backend, &Odd(cuda)] {
                let w = backend.upload(&values, dtype, shape(&[v, d])).unwrap();
                let mut y = backend.upload(&vec![0.0; ids.len() * d], F32, shape(&[ids.len(), d])).unwrap();
                backend.embed(&mut y, &ids, &w).unwrap();
                assert_eq!(bits(&backend.download(&y).unwrap()), bits(&want), "{dtype}");
            }
        }
    }
}

#[test]
fn updates_have_the_bits_of_their_definition() {
    let opened = open();
    let cuda = &opened.cuda;
    let n = 1003;
    let step = AdamWStep {
        lr: 3e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        bias1: 0.271,
        bias2_sqrt: 0.377,
        grad_scale: 0.8,
    };
    for moments in [F32, BF16] {
        let run = |backend: &dyn Backend| {
            let upload = |seed, dtype| backend.upload(&numbers(seed, n), dtype, shape(&[n])).unwrap();
            let (mut w, mut m, grad) = (upload(1, F32), upload(2, moments), upload(4, F32));
            let squares: Vec<f32> = numbers(3, n).iter().map(|x| x * x).collect();
            let mut v = backend.upload(&squares, moments, shape(&[n])).unwrap();
            let (mut high, mut low) = (upload(5, BF16), upload(6, BF16));
            backend.split(&mut high, &mut low, &w).unwrap();
            for _ in 0..3 {
                backend.adamw(&mut w, &mut m, &mut v, &grad, &step).unwrap();
            }
            let whole = [&w, &m, &v].map(|t| bits(&backend.download(t).unwrap()));
            let (mut m, mut v) = (upload(2, moments), backend.upload(&squares, moments, shape(&[n])).unwrap());
            for _ in 0..3 {
                backend.adamw_split(&mut high, &mut low, &mut m, &mut v, &grad, &step).unwrap();
            }
            backend.join(&mut w, &high, &low).unwrap();
            let halves = [&w, &m, &v].map(|t| bits(&backend.download(t).unwrap()));
            assert_eq!(whole, halves);
            whole
        };
        assert_eq!(run(cuda), run(&Reference), "{moments}");
    }
}

#[test]
fn sums_do_not_depend_on_where_the_numbers_lie() {
    let opened = open();
    let cuda = &opened.cuda;
    for n in [1, 5, 4099, 70_001] {
        let sum = |backend: &dyn Backend| {
            let x = backend.upload(&numbers(9, n), F32, shape(&[n])).unwrap();
            backend.sum_squares(&x).unwrap().to_bits()
        };
        assert_eq!(sum(cuda), sum(&Odd(cuda)), "{n}");
    }
    // Terms that f32 has not.
    for (x, want) in [(1e25f32, 1e50), (1e-30, 1e-60)] {
        let t = cuda.upload(&[x; 8], F32, shape(&[8])).unwrap();
        let got = cuda.sum_squares(&t).unwrap();
        assert!((got / (8.0 * want) - 1.0).abs() < 1e-6, "{got:e}");
    }
}
