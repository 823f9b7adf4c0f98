//! Products and attention against plain loops in f64, for every instruction set that this machine has. The other operations are compared
//! with the reference backend by the conformance test.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_cpu::{Cpu, Isa};
use paring_ops::{Accum, AttnSpec, Backend, Error};
use paring_tensor::{DType, Shape, Tensor, round_to};

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

fn tensor(cpu: &Cpu, values: &[f32], dtype: DType, dims: &[usize]) -> Tensor {
    cpu.upload(values, dtype, Shape::new(dims).unwrap()).unwrap()
}

/// Mean squared error over mean square.
fn assert_close(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let error: f64 = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
    let size: f64 = want.iter().map(|w| w * w).sum();
    assert!(error <= 1e-11 * size, "{what}: normalised squared error {:e}", error / size);
}

#[test]
fn products_agree_with_plain_loops() {
    // Around the sizes of tiles and blocks, and none of them a multiple.
    let shapes = [
        (1, 1, 1),
        (1, 7, 130),
        (2, 64, 65),
        (4, 33, 16),
        (5, 8, 16),
        (6, 16, 16),
        (7, 289, 17),
        (13, 577, 5),
        (121, 3, 33),
        (170, 20, 2050),
        (3, 2049, 9),
        (48, 300, 64),
    ];
    for isa in Isa::all_available() {
        let cpu = Cpu::with_isa(Some(2), isa).unwrap();
        for (t, k, n) in shapes {
            for dtype in [DType::F32, DType::BF16] {
                let what = format!("{isa:?} {t} {k} {n} {dtype}");
                let round = |v: &[f32]| v.iter().map(|&x| f64::from(round_to(x, dtype))).collect::<Vec<f64>>();
                let (x, w, dy, old) = (values(t * k, 1), values(n * k, 2), values(t * n, 3), values(t * k + n * k, 4));
                let (rx, rw, rdy) = (round(&x), round(&w), round(&dy));
                let (mut y, mut dx) = (vec![0.0; t * n], vec![0.0; t * k]);
                let mut dw: Vec<f64> = old[..n * k].iter().map(|&x| f64::from(x)).collect();
                for i in 0..t {
                    for j in 0..n {
                        for l in 0..k {
                            y[i * n + j] += rx[i * k + l] * rw[j * k + l];
                            dx[i * k + l] += rdy[i * n + j] * rw[j * k + l];
                            dw[j * k + l] += rdy[i * n + j] * rx[i * k + l];
                        }
                    }
                }
                let (xt, wt) = (tensor(&cpu, &x, DType::F32, &[t, k]), tensor(&cpu, &w, dtype, &[n, k]));
                let dyt = tensor(&cpu, &dy, DType::F32, &[t, n]);
                // What is overwritten holds garbage first.
                let mut yt = tensor(&cpu, &vec![f32::NAN; t * n], DType::F32, &[t, n]);
                cpu.linear(&mut yt, &xt, &wt).unwrap();
                assert_close(&format!("linear {what}"), &cpu.download(&yt).unwrap(), &y);
                let mut dxt = tensor(&cpu, &vec![f32::NAN; t * k], DType::F32, &[t, k]);
                cpu.linear_dx(&mut dxt, Accum::Set, &dyt, &wt).unwrap();
                assert_close(&format!("linear_dx {what}"), &cpu.download(&dxt).unwrap(), &dx);
                let mut dxt = tensor(&cpu, &old[..t * k], DType::F32, &[t, k]);
                cpu.linear_dx(&mut dxt, Accum::Add, &dyt, &wt).unwrap();
                let added: Vec<f64> = dx.iter().zip(&old).map(|(d, &o)| d + f64::from(o)).collect();
                assert_close(&format!("linear_dx, added {what}"), &cpu.download(&dxt).unwrap(), &added);
                let mut dwt = tensor(&cpu, &old[..n * k], DType::F32, &[n, k]);
                cpu.linear_dw(&mut dwt, &dyt, &xt, dtype).unwrap();
                assert_close(&format!("linear_dw {what}"), &cpu.download(&dwt).unwrap(), &dw);
            }
        }
    }
}

/// y, lse and, from `dy`, the three gradients.
fn plain_attention(q: &[f64], k: &[f64], v: &[f64], dy: &[f64], s: &AttnSpec) -> [Vec<f64>; 5] {
    let (h, qc, kc) = (s.head_dim, s.q_cols(), s.kv_cols());
    let (mut y, mut lse) = (vec![0.0; q.len()], vec![0.0; s.n_tokens() * s.heads]);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let scale = f64::from(s.scale);
    for bounds in s.cu_len.windows(2) {
        for t in bounds[0]..bounds[1] {
            for head in 0..s.heads {
                let (at, kv) = (t * qc + head * h, head / s.group() * h);
                let keys = bounds[0]..s.past + t + 1;
                let dot = |a: &[f64], i: usize, b: &[f64], j: usize| (0..h).map(|c| a[i + c] * b[j + c]).sum::<f64>();
                let scores: Vec<f64> = keys.clone().map(|j| scale * dot(q, at, k, j * kc + kv)).collect();
                let total: f64 = scores.iter().map(|s| s.exp()).sum();
                lse[t * s.heads + head] = total.ln();
                let p: Vec<f64> = scores.iter().map(|s| s.exp() / total).collect();
                let dp: Vec<f64> = keys.clone().map(|j| dot(dy, at, v, j * kc + kv)).collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
                for (i, j) in keys.enumerate() {
                    let ds = p[i] * (dp[i] - delta) * scale;
                    for c in 0..h {
                        y[at + c] += p[i] * v[j * kc + kv + c];
                        dv[j * kc + kv + c] += p[i] * dy[at + c];
                        dq[at + c] += ds * k[j * kc + kv + c];
                        dk[j * kc + kv + c] += ds * q[at + c];
                    }
                }
            }
        }
    }
    [y, lse, dq, dk, dv]
}

#[test]
fn attention_agrees_with_plain_loops() {
    let packed = |heads, kv, h, cu: &[usize]| AttnSpec::packed(heads, kv, h, cu.to_vec());
    let specs = [
        packed(1, 1, 1, &[0, 1]),
        packed(2, 1, 8, &[0, 3, 3, 10]),
        packed(3, 3, 5, &[0, 130]),
        packed(6, 2, 32, &[0, 49, 50, 196]),
        packed(9, 3, 64, &[0, 100]),
        packed(4, 1, 17, &[0, 64, 161]),
        AttnSpec::cached(4, 2, 8, 1, 0),
        AttnSpec::cached(4, 2, 8, 1, 200),
        AttnSpec::cached(3, 1, 33, 3, 95),
        AttnSpec::cached(2, 2, 16, 60, 77),
    ];
    for isa in Isa::all_available() {
        let cpu = Cpu::with_isa(Some(2), isa).unwrap();
        for spec in &specs {
            let what = format!("{isa:?} {spec:?}");
            let (t, keys) = (spec.n_tokens(), spec.past + spec.n_tokens());
            // Large scores, so that the running maximum matters.
            let q: Vec<f32> = values(t * spec.q_cols(), 1).iter().map(|x| x * 6.0).collect();
            let dy = values(t * spec.q_cols(), 4);
            let (k, v) = (values(keys * spec.kv_cols(), 2), values(keys * spec.kv_cols(), 3));
            let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
            let [y, lse, dq, dk, dv] = plain_attention(&wide(&q), &wide(&k), &wide(&v), &wide(&dy), spec);
            let of_q = |v: &[f32]| tensor(&cpu, v, DType::F32, &[t, spec.q_cols()]);
            let of_k = |v: &[f32]| tensor(&cpu, v, DType::F32, &[keys, spec.kv_cols()]);
            let (qt, kt, vt, dyt) = (of_q(&q), of_k(&k), of_k(&v), of_q(&dy));
            let mut yt = of_q(&vec![f32::NAN; q.len()]);
            let mut lset = tensor(&cpu, &vec![f32::NAN; lse.len()], DType::F32, &[t, spec.heads]);
            cpu.attention(&mut yt, &mut lset, &qt, &kt, &vt, spec).unwrap();
            assert_close(&format!("y {what}"), &cpu.download(&yt).unwrap(), &y);
            assert_close(&format!("lse {what}"), &cpu.download(&lset).unwrap(), &lse);
            let mut dqt = of_q(&vec![f32::NAN; q.len()]);
            let (mut dkt, mut dvt) = (of_k(&vec![f32::NAN; k.len()]), of_k(&vec![f32::NAN; k.len()]));
            let back = cpu.attention_backward(&mut dqt, &mut dkt, &mut dvt, &dyt, &yt, &lset, &qt, &kt, &vt, spec);
            if spec.past > 0 {
                assert_eq!(back.unwrap_err(), Error::NotRecording { op: "attention_backward" });
                continue;
            }
            back.unwrap();
            // One key: the gradients of q and k are zero, and the error has nothing to be measured by.
            if keys > 1 {
                assert_close(&format!("dq {what}"), &cpu.download(&dqt).unwrap(), &dq);
                assert_close(&format!("dk {what}"), &cpu.download(&dkt).unwrap(), &dk);
            }
            assert_close(&format!("dv {what}"), &cpu.download(&dvt).unwrap(), &dv);
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    // What a packed batch computes for a sequence is what the sequence alone gives.
    let cpu = Cpu::new(Some(2)).unwrap();
    let (q, k, v) = (values(150 * 32, 1), values(150 * 16, 2), values(150 * 16, 3));
    let run = |from: usize, to: usize, cu: &[usize]| {
        let part = |x: &[f32], cols: usize| tensor(&cpu, &x[from * cols..to * cols], DType::F32, &[to - from, cols]);
        let spec = AttnSpec::packed(4, 2, 8, cu.to_vec());
        let mut y = tensor(&cpu, &vec![0.0; (to - from) * 32], DType::F32, &[to - from, 32]);
        let mut lse = tensor(&cpu, &vec![0.0; (to - from) * 4], DType::F32, &[to - from, 4]);
        cpu.attention(&mut y, &mut lse, &part(&q, 32), &part(&k, 16), &part(&v, 16), &spec).unwrap();
        cpu.download(&y).unwrap()
    };
    let (all, alone) = (run(0, 150, &[0, 43, 150]), run(43, 150, &[0, 107]));
    assert_eq!(all[43 * 32..], alone);
}

#[test]
fn empty_and_misfitting_operands() {
    let cpu = Cpu::new(Some(2)).unwrap();
    let empty = |dims: &[usize]| tensor(&cpu, &[], DType::F32, dims);
    let w = tensor(&cpu, &values(12, 1), DType::F32, &[3, 4]);
    cpu.linear(&mut empty(&[0, 3]), &empty(&[0, 4]), &w).unwrap();
    cpu.linear_dx(&mut empty(&[0, 4]), Accum::Set, &empty(&[0, 3]), &w).unwrap();
    let mut dw = w.clone();
    // Shared with `w`: refused before anything is written.
    assert!(matches!(cpu.linear_dw(&mut dw, &empty(&[0, 3]), &empty(&[0, 4]), DType::F32), Err(Error::Tensor { .. })));
    drop(dw);
    // An empty inner dimension is a sum of nothing.
    let mut y = tensor(&cpu, &[5.0; 6], DType::F32, &[2, 3]);
    cpu.linear(&mut y, &empty(&[2, 0]), &empty(&[3, 0])).unwrap();
    assert_eq!(cpu.download(&y).unwrap(), [0.0; 6]);
    let spec = AttnSpec::packed(2, 1, 4, vec![0]);
    cpu.attention(&mut empty(&[0, 8]), &mut empty(&[0, 2]), &empty(&[0, 8]), &empty(&[0, 4]), &empty(&[0, 4]), &spec)
        .unwrap();
    let half = tensor(&cpu, &[0.0; 12], DType::F16, &[3, 4]);
    let x = tensor(&cpu, &[0.0; 8], DType::F32, &[2, 4]);
    assert!(matches!(cpu.linear(&mut y, &x, &half), Err(Error::Unsupported { op: "linear", .. })));
    assert!(matches!(cpu.linear(&mut y, &half, &w), Err(Error::Shape { .. } | Error::Tensor { .. })));
    assert!(Cpu::new(Some(0)).is_err());
}
