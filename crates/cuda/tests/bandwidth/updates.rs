//! Weights in halves and AdamW, each kernel launched directly, to the last bit: what is rounded lies beside a tie, on it and behind it.
use crate::{
    bits,
    numbers::numbers,
    sim::{
        Sim,
        Value::{self, F32, Pointer, U64},
        text,
    },
};
use half::bf16;
use paring_optim::{AdamWStep, adamw_update, split};

/// Lower halves of an f32 that are cut off, round to even, up, and leave every bit set.
const LOWER: [u32; 7] = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x5aaa];

/// Launches a kernel over `n` elements in groups of four and in none.
fn launch(sim: &mut Sim, entry: &str, n: usize, grouped: bool, pointers: &[u64], floats: &[f32]) {
    let groups = if grouped { n / 4 } else { 0 };
    let threads = groups + n - 4 * groups;
    let sizes = [n, groups].map(|n| U64(n as u64));
    let pointers = pointers.iter().copied().map(Pointer);
    let arguments: Vec<Value> = pointers.chain(sizes).chain(floats.iter().copied().map(F32)).collect();
    sim.launch(text("optimizer"), entry, [threads.div_ceil(64) as u32, 1, 1], [64, 1, 1], 0, &arguments);
}

#[test]
fn halves_of_every_upper_half() {
    // 4099 numbers, of which every upper half differs.
    let w: Vec<f32> = (0..4099u32).map(|i| f32::from_bits((i * 16 + i % 15) << 16 | LOWER[i as usize % 7])).collect();
    let (high, low): (Vec<u16>, Vec<u16>) = w.iter().map(|&w| split(w)).unzip();
    let n = w.len();
    for grouped in [true, false] {
        let mut sim = Sim::new();
        let (from, to) = (sim.upload(&w), [0; 2].map(|_| sim.alloc(2 * n)));
        launch(&mut sim, "split_f32", n, grouped, &[from, to[0], to[1]], &[]);
        assert!(sim.download::<u16>(to[0], n) == high && sim.download::<u16>(to[1], n) == low);
        let back = sim.alloc(4 * n);
        launch(&mut sim, "join_f32", n, grouped, &[to[0], to[1], back], &[]);
        assert!(bits(&sim.download(back, n)) == bits(&w));
    }
}

/// What an update begins with.
struct State {
    grad: Vec<f32>,
    w: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
}

/// Any numbers.
fn plain(n: usize) -> State {
    let v = numbers(4, n).iter().map(|v| v * v).collect();
    State { grad: numbers(1, n), w: numbers(2, n), m: numbers(3, n), v }
}

/// Gradients that become the first moment as they are, of every exponent and beside ties, and every second one 1/8, a little less or a little
/// more: with `ties()` a quarter of its square is half a unit of what three quarters of v are in bf16.
fn beside_ties(n: usize) -> State {
    let grad = |i: usize| match i % 2 {
        0 => f32::from_bits(((i * 97 % 0x7f80) << 16) as u32 | LOWER[i / 2 % 7] | ((i % 4) << 30) as u32),
        _ => f32::from_bits((0.125f32.to_bits() - 1) + (i / 2 % 3) as u32),
    };
    let v = (0..n).map(|i| (43 + i / 6 % 43) as f32 / 32.0).collect();
    State { grad: (0..n).map(grad).collect(), v, ..plain(n) }
}

fn step() -> AdamWStep {
    AdamWStep {
        lr: 3e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-3,
        weight_decay: 0.1,
        bias1: 0.271,
        bias2_sqrt: 0.377,
        grad_scale: 0.8,
    }
}

fn ties() -> AdamWStep {
    AdamWStep { beta1: 0.0, beta2: 0.75, weight_decay: 0.0, bias1: 1.0, bias2_sqrt: 1.0, grad_scale: 1.0, ..step() }
}

/// Weights stay as they are: every upper half, beside ties.
fn weights_beside_ties(n: usize) -> State {
    let w = (0..n as u32).map(|i| f32::from_bits((i * 127 % 0x7f80 + i % 2 * 0x8000) << 16 | LOWER[i as usize % 7]));
    State { w: w.collect(), ..plain(n) }
}

fn still() -> AdamWStep {
    AdamWStep { lr: 0.0, ..step() }
}

fn halves(values: &[f32]) -> Vec<u16> {
    values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()
}

fn wide(values: &[u16]) -> Vec<f32> {
    values.iter().map(|&x| bf16::from_bits(x).to_f32()).collect()
}

/// Which NaN arithmetic makes is the device's choice.
fn plain_bits(values: &[f32]) -> Vec<u32> {
    bits(&values.iter().map(|&x| if x.is_nan() { f32::NAN } else { x }).collect::<Vec<_>>())
}

/// Two updates by one kernel beside the definition.
fn check(is_split: bool, is_bf16: bool) {
    let starts = [(plain as fn(usize) -> State, step()), (beside_ties, ties()), (weights_beside_ties, still())];
    for (make, step) in starts {
        for (n, grouped) in [(1, true), (515, true), (515, false), (1030, true)] {
            let State { grad, mut w, m, v } = make(n);
            let round = |x: Vec<f32>| if is_bf16 { wide(&halves(&x)) } else { x };
            let (mut m, mut v) = (round(m), round(v));
            let mut sim = Sim::new();
            let mut moment = |x: &[f32]| if is_bf16 { sim.upload(&halves(x)) } else { sim.upload(x) };
            let moments = [moment(&m), moment(&v)];
            let weights = match is_split {
                true => {
                    let (high, low): (Vec<u16>, Vec<u16>) = w.iter().map(|&w| split(w)).unzip();
                    vec![sim.upload(&high), sim.upload(&low)]
                }
                false => vec![sim.upload(&w)],
            };
            let pointers = [&[sim.upload(&grad)], &weights[..], &moments].concat();
            let AdamWStep { lr, beta1, beta2, eps, weight_decay, bias1, bias2_sqrt, grad_scale } = step;
            let (decay, size) = (1.0 - lr * weight_decay, lr / bias1);
            let floats = [beta1, 1.0 - beta1, beta2, 1.0 - beta2, eps, decay, size, bias2_sqrt, grad_scale];
            let entry =
                format!("adamw_{}{}", if is_split { "split_" } else { "" }, if is_bf16 { "bf16" } else { "f32" });
            for _ in 0..2 {
                launch(&mut sim, &entry, n, grouped, &pointers, &floats);
                adamw_update(&mut w, &mut m, &mut v, &grad, &step);
                (m, v) = (round(m), round(v));
                let got = |at: u64| if is_bf16 { wide(&sim.download(at, n)) } else { sim.download(at, n) };
                assert_eq!(plain_bits(&got(moments[0])), plain_bits(&m), "{entry}: m");
                assert_eq!(plain_bits(&got(moments[1])), plain_bits(&v), "{entry}: v");
                if is_split {
                    let (high, low): (Vec<u16>, Vec<u16>) = (sim.download(weights[0], n), sim.download(weights[1], n));
                    for (i, w) in w.iter().enumerate().filter(|(_, w)| !w.is_nan()) {
                        assert_eq!((high[i], low[i]), split(*w), "{entry}: w");
                    }
                } else {
                    assert_eq!(plain_bits(&sim.download(weights[0], n)), plain_bits(&w), "{entry}: w");
                }
            }
        }
    }
}

#[test]
fn adamw_f32() {
    check(false, false);
}

#[test]
fn adamw_bf16() {
    check(false, true);
}

#[test]
fn adamw_split_f32() {
    check(true, false);
}

#[test]
fn adamw_split_bf16() {
    check(true, true);
}
