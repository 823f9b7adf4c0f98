//! Every operation gives the same bits with any number of threads.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_cpu::{Cpu, Isa};
use paring_ops::{Accum, Activation, AdamWStep, AttnSpec, Backend, HeadGrads, IGNORE};
use paring_tensor::{DType, Shape, Tensor};

/// Values in -1..1 that look random and are the same everywhere.
fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

struct Run {
    cpu: Cpu,
    seed: u32,
    /// Name and bits of every output.
    outputs: Vec<(String, Vec<u64>)>,
}

impl Run {
    fn tensor(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        self.seed += 1;
        let shape = Shape::new(dims).unwrap();
        self.cpu.upload(&values(shape.elements(), self.seed), dtype, shape).unwrap()
    }

    fn keep(&mut self, name: &str, tensors: &[&Tensor], numbers: &[f64]) {
        let mut bits: Vec<u64> = numbers.iter().map(|x| x.to_bits()).collect();
        for t in tensors {
            bits.extend(self.cpu.download(t).unwrap().iter().map(|x| u64::from(x.to_bits())));
        }
        self.outputs.push((name.into(), bits));
    }
}

fn elementwise(run: &mut Run) {
    // Larger than one piece of work, and no multiple of anything.
    let dims = [211, 317];
    let [a, b, dy] = [0; 3].map(|_| run.tensor(DType::F32, &dims));
    let [mut y, mut z] = [0; 2].map(|_| run.tensor(DType::F32, &dims));
    run.cpu.add(&mut y, &a, &b).unwrap();
    run.cpu.accumulate(&mut z, Accum::Add, &y).unwrap();
    run.cpu.scale(&mut z, 0.37).unwrap();
    run.keep("add, accumulate, scale", &[&y, &z], &[]);
    let squares = run.cpu.sum_squares(&z).unwrap();
    run.keep("sum_squares", &[], &[squares]);
    for act in Activation::ALL {
        run.cpu.gated(&mut y, act, &a, &b).unwrap();
        run.keep(&format!("gated {act:?}"), &[&y], &[]);
        run.cpu.gated_backward(&mut y, &mut z, act, &dy, &a, &b).unwrap();
        run.keep(&format!("gated_backward {act:?}"), &[&y, &z], &[]);
        run.cpu.activation(&mut y, act, &a).unwrap();
        run.cpu.activation_backward(&mut z, act, &dy, &a).unwrap();
        run.keep(&format!("activation {act:?}"), &[&y, &z], &[]);
    }
    let mut short = run.tensor(DType::BF16, &dims);
    run.cpu.convert(&mut short, &y).unwrap();
    run.cpu.convert(&mut z, &short).unwrap();
    run.keep("convert", &[&short, &z], &[]);
    let step = AdamWStep {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        bias1: 0.1,
        bias2_sqrt: 0.3,
        grad_scale: 0.5,
    };
    let [mut w, mut m, mut v] = [0; 3].map(|_| run.tensor(DType::F32, &dims));
    run.cpu.fill(&mut v, 0.25).unwrap();
    run.cpu.adamw(&mut w, &mut m, &mut v, &dy, &step).unwrap();
    run.keep("adamw", &[&w, &m, &v], &[]);
    let mut low = run.tensor(DType::BF16, &dims);
    run.cpu.split(&mut short, &mut low, &w).unwrap();
    run.cpu.adamw_split(&mut short, &mut low, &mut m, &mut v, &dy, &step).unwrap();
    run.cpu.join(&mut w, &short, &low).unwrap();
    run.keep("adamw_split", &[&w, &m, &v, &short], &[]);
}

fn rows(run: &mut Run) {
    let (t, d, vocab) = (403, 72, 131);
    let ids: Vec<u32> = (0..t as u32).map(|i| (i * 37) % vocab).collect();
    let [x, dy] = [0; 2].map(|_| run.tensor(DType::F32, &[t, d]));
    let (w, mut dw, mut rstd) =
        (run.tensor(DType::F32, &[d]), run.tensor(DType::F32, &[d]), run.tensor(DType::F32, &[t]));
    let [mut y, mut dx] = [0; 2].map(|_| run.tensor(DType::F32, &[t, d]));
    run.cpu.rms_norm(&mut y, &mut rstd, &x, &w, 1e-5).unwrap();
    run.cpu.rms_norm_backward(&mut dx, Accum::Add, &mut dw, &dy, &x, &w, &rstd).unwrap();
    run.keep("rms_norm", &[&y, &rstd, &dx, &dw], &[]);
    run.cpu.add_rms_norm(&mut dx, &mut y, &mut rstd, &x, &dy, &w, 1e-5).unwrap();
    run.keep("add_rms_norm", &[&dx, &y, &rstd], &[]);
    for dtype in [DType::F32, DType::BF16] {
        let table = run.tensor(dtype, &[vocab as usize, d]);
        run.cpu.embed(&mut y, &ids, &table).unwrap();
        run.keep("embed", &[&y], &[]);
    }
    let mut table = run.tensor(DType::F32, &[vocab as usize, d]);
    run.cpu.embed_backward(&mut table, &dy, &ids).unwrap();
    run.keep("embed_backward", &[&table], &[]);
    let turns = run.tensor(DType::F32, &[vocab as usize, 12]);
    run.cpu.rope(&mut y, &turns, &ids, false).unwrap();
    run.cpu.rope(&mut dx, &turns, &ids, true).unwrap();
    run.keep("rope", &[&y, &dx], &[]);
    let mut all = run.tensor(DType::F32, &[t + 9, d]);
    run.cpu.write_rows(&mut all, 5, &x).unwrap();
    run.keep("write_rows", &[&all], &[]);
}

fn products(run: &mut Run) {
    for (t, k, n) in [(1, 300, 411), (3, 300, 411), (130, 301, 77), (259, 65, 2063), (37, 513, 33)] {
        for dtype in [DType::F32, DType::BF16] {
            let (x, w, dy) =
                (run.tensor(DType::F32, &[t, k]), run.tensor(dtype, &[n, k]), run.tensor(DType::F32, &[t, n]));
            let (mut y, mut dx, mut dw) =
                (run.tensor(DType::F32, &[t, n]), run.tensor(DType::F32, &[t, k]), run.tensor(DType::F32, &[n, k]));
            run.cpu.linear(&mut y, &x, &w).unwrap();
            run.cpu.linear_dx(&mut dx, Accum::Add, &dy, &w).unwrap();
            run.cpu.linear_dw(&mut dw, &dy, &x, dtype).unwrap();
            run.keep(&format!("linear {t} {k} {n} {dtype}"), &[&y, &dx, &dw], &[]);
        }
    }
}

fn quantised(run: &mut Run) {
    let (k, n) = (288, 901);
    for (t, dtype) in [1, 7, 200].into_iter().flat_map(|t| DType::QUANTISED.map(|dtype| (t, dtype))) {
        let (x, w) = (run.tensor(DType::F32, &[t, k]), run.tensor(dtype, &[n, k]));
        let mut y = run.tensor(DType::F32, &[t, n]);
        run.cpu.linear(&mut y, &x, &w).unwrap();
        run.keep(&format!("linear, {t} rows, {dtype}"), &[&y], &[]);
    }
}

fn attention(run: &mut Run) {
    for (heads, kv, h, cu_len) in
        [(6, 2, 16, vec![0, 7, 7, 150, 290]), (2, 2, 5, vec![0, 101]), (4, 1, 32, vec![0, 70]), (2, 1, 8, vec![0, 300])]
    {
        // The longest in several chunks of keys, of which a window leaves some rows out.
        let window = (heads == 2 && kv == 1).then_some(90);
        let spec = AttnSpec { window, ..AttnSpec::packed(heads, kv, h, cu_len) };
        let t = spec.n_tokens();
        let [q, dy] = [0; 2].map(|_| run.tensor(DType::F32, &[t, heads * h]));
        let [k, v] = [0; 2].map(|_| run.tensor(DType::F32, &[t, kv * h]));
        let [mut y, mut dq] = [0; 2].map(|_| run.tensor(DType::F32, &[t, heads * h]));
        let [mut dk, mut dv] = [0; 2].map(|_| run.tensor(DType::F32, &[t, kv * h]));
        let mut lse = run.tensor(DType::F32, &[t, heads]);
        run.cpu.attention(&mut y, &mut lse, &q, &k, &v, &spec).unwrap();
        run.cpu.attention_backward(&mut dq, &mut dk, &mut dv, &dy, &y, &lse, &q, &k, &v, &spec).unwrap();
        run.keep(&format!("attention {heads}/{kv} of {h}"), &[&y, &lse, &dq, &dk, &dv], &[]);
    }
    for tokens in [1, 3, 20] {
        let spec = AttnSpec::cached(6, 2, 16, tokens, 333);
        let q = run.tensor(DType::F32, &[tokens, 96]);
        let [k, v] = [0; 2].map(|_| run.tensor(DType::F32, &[400, 32]));
        let (mut y, mut lse) = (run.tensor(DType::F32, &[tokens, 96]), run.tensor(DType::F32, &[tokens, 6]));
        run.cpu.attention(&mut y, &mut lse, &q, &k, &v, &spec).unwrap();
        run.keep(&format!("cached attention of {tokens}"), &[&y, &lse], &[]);
    }
}

fn losses(run: &mut Run) {
    let (t, d, v) = (67, 24, 1501);
    let mut targets: Vec<u32> = (0..t as u32).map(|i| (i * 997) % v as u32).collect();
    targets[3] = IGNORE;
    let (x, w) = (run.tensor(DType::F32, &[t, d]), run.tensor(DType::F32, &[v, d]));
    let (teacher_x, teacher_w) = (run.tensor(DType::F32, &[t, d]), run.tensor(DType::F32, &[v, d]));
    let (mut dx_td, mut dw) = (run.tensor(DType::F32, &[t, d]), run.tensor(DType::F32, &[v, d]));
    let grads = HeadGrads { dx_td: &mut dx_td, dw_vd: Some(&mut dw) };
    let loss = run.cpu.head_cross_entropy(Some(grads), &x, &w, &targets, 0.1).unwrap();
    run.keep("head_cross_entropy", &[&dx_td, &dw], &[loss]);
    let grads = HeadGrads { dx_td: &mut dx_td, dw_vd: Some(&mut dw) };
    let loss = run.cpu.head_kl(Some(grads), &x, &w, &teacher_x, &teacher_w, 0.1).unwrap();
    run.keep("head_kl", &[&dx_td, &dw], &[loss]);
    let c = run.cpu.head_compare(&x, &w, &teacher_x, &teacher_w, &targets).unwrap();
    assert_eq!(c.rows, t as u64 - 1);
    run.keep("head_compare", &[], &[c.student_nll, c.teacher_nll, c.kl, c.agree as f64]);
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for isa in Isa::all_available() {
        let mut first: Option<Vec<(String, Vec<u64>)>> = None;
        for threads in [1, 2, 3, 5] {
            let mut run = Run { cpu: Cpu::with_isa(Some(threads), isa).unwrap(), seed: 0, outputs: Vec::new() };
            for part in [elementwise, rows, products, quantised, attention, losses] {
                part(&mut run);
            }
            let Some(first) = &first else {
                first = Some(run.outputs);
                continue;
            };
            for ((name, want), (_, got)) in first.iter().zip(&run.outputs) {
                assert!(want == got, "{name}: {isa:?} with {threads} threads differs from one thread");
            }
        }
    }
}

/// A weight that is kept packed gives the same bits, also to views of it and after it was written.
#[test]
fn packed_weights_change_no_bit() {
    for dtype in [DType::F32, DType::BF16] {
        for (t, k, n) in [(17, 64, 32), (70, 131, 45), (40, 1700, 33), (150, 40, 100)] {
            let product = |cpu: &Cpu, x: &Tensor, w: &Tensor| {
                let mut y = cpu.zeros(DType::F32, Shape::new(&[x.n_rows(), w.n_rows()]).unwrap()).unwrap();
                cpu.linear(&mut y, x, w).unwrap();
                cpu.download(&y).unwrap().iter().map(|y| y.to_bits()).collect::<Vec<_>>()
            };
            for isa in Isa::all_available() {
                let cpu = Cpu::with_isa(Some(2), isa).unwrap();
                let upload = |seed: u32, dtype, dims: [usize; 2]| {
                    cpu.upload(&values(dims[0] * dims[1], seed), dtype, Shape::new(&dims).unwrap()).unwrap()
                };
                let (x, mut w) = (upload(1, DType::F32, [t, k]), upload(2, dtype, [n, k]));
                let part = 1..n - 1;
                let want = (product(&cpu, &x, &w), product(&cpu, &x, &w.rows(part.clone()).unwrap()));
                cpu.keep_packed(&w).unwrap();
                let got = (product(&cpu, &x, &w), product(&cpu, &x, &w.rows(part).unwrap()));
                assert_eq!(got, want, "{isa:?} {dtype} {t}x{k}x{n}");
                cpu.convert(&mut w, &cpu.zeros(DType::F32, Shape::new(&[n, k]).unwrap()).unwrap()).unwrap();
                assert_eq!(product(&cpu, &x, &w), vec![0; t * n], "written: {isa:?} {dtype} {t}x{k}x{n}");
            }
        }
    }
}
