//! Every backward against differences of its forward.
use crate::common::{assert_gradient, f32s, grid, rubbish, tensor, values, weighted};
use paring_ops::{Accum, AttnSpec, Backend, IGNORE};
use paring_reference::Reference;
use paring_tensor::DType;

const B: Reference = Reference;

#[test]
fn embed() {
    let (t, v, d) = (5, 4, 3);
    // Token 2 comes three times, token 0 never.
    let ids = [2, 1, 2, 3, 2];
    let (w, dy, old) = (grid(v * d, 1), grid(t * d, 2), grid(v * d, 3));
    let forward = |w: &[f32]| {
        let mut y = rubbish(&[t, d]);
        B.embed(&mut y, &ids, &f32s(w, &[v, d])).unwrap();
        weighted(&values(&y), &dy)
    };
    let mut dw = f32s(&vec![0.0; v * d], &[v, d]);
    B.embed_backward(&mut dw, &f32s(&dy, &[t, d]), &ids).unwrap();
    assert_gradient("dw", &values(&dw), &w, forward);
    let mut sum = f32s(&old, &[v, d]);
    B.embed_backward(&mut sum, &f32s(&dy, &[t, d]), &ids).unwrap();
    assert_added("dw", &values(&sum), &old, &values(&dw));
}

/// Sums on the grid are exact; others are rounded once more.
fn assert_added(what: &str, got: &[f32], old: &[f32], gradient: &[f32]) {
    for ((got, old), g) in got.iter().zip(old).zip(gradient) {
        assert!((got - (old + g)).abs() <= 1e-6 * (1.0 + got.abs()), "{what}: {got} is not {old} + {g}");
    }
}

#[test]
fn linear() {
    let (t, n, k) = (4, 5, 3);
    let (x, w, dy) = (grid(t * k, 1), grid(n * k, 2), grid(t * n, 3));
    for dtype in [DType::F32, DType::BF16] {
        // The grid is exact in bf16: what is rounded here is nothing, and the gradients are those of a product of reals.
        let forward = |x: &[f32], w: &[f32]| {
            let mut y = rubbish(&[t, n]);
            B.linear(&mut y, &f32s(x, &[t, k]), &tensor(w, dtype, &[n, k])).unwrap();
            weighted(&values(&y), &dy)
        };
        let (xt, wt, dyt) = (f32s(&x, &[t, k]), tensor(&w, dtype, &[n, k]), f32s(&dy, &[t, n]));
        let (mut dx, mut dw) = (rubbish(&[t, k]), f32s(&vec![0.0; n * k], &[n, k]));
        B.linear_dx(&mut dx, Accum::Set, &dyt, &wt).unwrap();
        B.linear_dw(&mut dw, &dyt, &xt, dtype).unwrap();
        assert_gradient("dx", &values(&dx), &x, |x| forward(x, &w));
        assert_gradient("dw", &values(&dw), &w, |w| forward(&x, w));
        let (old_x, old_w) = (grid(t * k, 4), grid(n * k, 5));
        let (mut dx_sum, mut dw_sum) = (f32s(&old_x, &[t, k]), f32s(&old_w, &[n, k]));
        B.linear_dx(&mut dx_sum, Accum::Add, &dyt, &wt).unwrap();
        B.linear_dw(&mut dw_sum, &dyt, &xt, dtype).unwrap();
        assert_added("dx", &values(&dx_sum), &old_x, &values(&dx));
        assert_added("dw", &values(&dw_sum), &old_w, &values(&dw));
    }
}

#[test]
fn products_round_both_factors_to_the_type_they_compute_in() {
    // 1 + 2^-9 is 1 in bf16, 1 + 2^-8 + 2^-12 is 1 + 2^-7.
    let (x, rounded) = ([1.0 + 2f32.powi(-9), 1.0 + 2f32.powi(-8) + 2f32.powi(-12)], [1.0, 1.0 + 2f32.powi(-7)]);
    let (mut y, one) = (rubbish(&[2, 1]), |dtype| tensor(&[1.0], dtype, &[1, 1]));
    let column = f32s(&x, &[2, 1]);
    for (dtype, want) in [(DType::F32, x), (DType::BF16, rounded)] {
        B.linear(&mut y, &column, &one(dtype)).unwrap();
        assert_eq!(values(&y), want);
        B.linear_dx(&mut y, Accum::Set, &column, &one(dtype)).unwrap();
        assert_eq!(values(&y), want);
        // Both factors are activations here: x^T x.
        let mut gram = f32s(&[0.0], &[1, 1]);
        B.linear_dw(&mut gram, &column, &column, dtype).unwrap();
        let sum: f64 = want.iter().map(|&x| f64::from(x).powi(2)).sum();
        assert_eq!(values(&gram), [sum as f32]);
    }
}

#[test]
fn rms_norm() {
    let (t, d, eps) = (3, 7, 0.1);
    let (x, w, dy) = (grid(t * d, 1), grid(d, 2), grid(t * d, 3));
    let forward = |x: &[f32], w: &[f32]| {
        let (mut y, mut rstd) = (rubbish(&[t, d]), rubbish(&[t]));
        B.rms_norm(&mut y, &mut rstd, &f32s(x, &[t, d]), &f32s(w, &[d]), eps).unwrap();
        (weighted(&values(&y), &dy), rstd)
    };
    let (xt, wt, dyt, rstd) = (f32s(&x, &[t, d]), f32s(&w, &[d]), f32s(&dy, &[t, d]), forward(&x, &w).1);
    let (mut dx, mut dw) = (rubbish(&[t, d]), f32s(&vec![0.0; d], &[d]));
    B.rms_norm_backward(&mut dx, Accum::Set, &mut dw, &dyt, &xt, &wt, &rstd).unwrap();
    assert_gradient("dx", &values(&dx), &x, |x| forward(x, &w).0);
    assert_gradient("dw", &values(&dw), &w, |w| forward(&x, w).0);
    let (old_x, old_w) = (grid(t * d, 4), grid(d, 5));
    let (mut dx_sum, mut dw_sum) = (f32s(&old_x, &[t, d]), f32s(&old_w, &[d]));
    B.rms_norm_backward(&mut dx_sum, Accum::Add, &mut dw_sum, &dyt, &xt, &wt, &rstd).unwrap();
    assert_added("dx", &values(&dx_sum), &old_x, &values(&dx));
    assert_added("dw", &values(&dw_sum), &old_w, &values(&dw));
}

#[test]
fn add_rms_norm() {
    let (t, d, eps) = (3, 7, 0.1);
    let (a, b, w) = (grid(t * d, 1), grid(t * d, 2), grid(d, 3));
    // A loss of both outputs: of the sum, which goes on as the residual stream, and of the norm.
    let (dy, dsum) = (grid(t * d, 4), grid(t * d, 5));
    let dims = [t, d];
    let forward = |a: &[f32], b: &[f32], w: &[f32]| {
        let (mut sum, mut y, mut rstd) = (rubbish(&dims), rubbish(&dims), rubbish(&[t]));
        B.add_rms_norm(&mut sum, &mut y, &mut rstd, &f32s(a, &dims), &f32s(b, &dims), &f32s(w, &[d]), eps).unwrap();
        (weighted(&values(&y), &dy) + weighted(&values(&sum), &dsum), sum, rstd)
    };
    let (_, sum, rstd) = forward(&a, &b, &w);
    let (mut dx, mut dw) = (f32s(&dsum, &dims), f32s(&vec![0.0; d], &[d]));
    B.rms_norm_backward(&mut dx, Accum::Add, &mut dw, &f32s(&dy, &dims), &sum, &f32s(&w, &[d]), &rstd).unwrap();
    assert_gradient("da", &values(&dx), &a, |a| forward(a, &b, &w).0);
    assert_gradient("db", &values(&dx), &b, |b| forward(&a, b, &w).0);
    assert_gradient("dw", &values(&dw), &w, |w| forward(&a, &b, w).0);
}

#[test]
fn rope() {
    let (t, heads, h) = (3, 2, 6);
    let cols = heads * h;
    let positions = [4, 0, 2];
    let angle = |p: usize, i: usize| p as f64 * 0.7f64.powi(i as i32);
    let row = |p: usize| {
        let cos = (0..h / 2).map(move |i| angle(p, i).cos() as f32);
        cos.chain((0..h / 2).map(move |i| angle(p, i).sin() as f32))
    };
    let table = f32s(&(0..5).flat_map(row).collect::<Vec<f32>>(), &[5, h]);
    let (x, dy) = (grid(t * cols, 1), grid(t * cols, 2));
    let turn = |x: &[f32], inverse: bool| {
        let mut x = f32s(x, &[t, cols]);
        B.rope(&mut x, &table, &positions, inverse).unwrap();
        values(&x)
    };
    assert_gradient("dx", &turn(&dy, true), &x, |x| weighted(&turn(x, false), &dy));
    for (x, back) in x.iter().zip(turn(&turn(&x, false), true)) {
        assert!((x - back).abs() < 1e-6, "{x} came back as {back}");
    }
    // Position 0 turns nothing, and element 0 of position 2 goes by the angle of 2 rad with element 3.
    let y = turn(&x, false);
    assert_eq!(y[cols..2 * cols], x[cols..2 * cols]);
    let (a, b) = (f64::from(x[2 * cols]), f64::from(x[2 * cols + 3]));
    assert!((f64::from(y[2 * cols]) - (a * 2f64.cos() - b * 2f64.sin())).abs() < 1e-6);
}

#[test]
fn attention() {
    let packed = |heads, kv, cu: &[usize]| AttnSpec::packed(heads, kv, 3, cu.to_vec());
    let windowed = |window, spec| AttnSpec { window: Some(window), ..spec };
    let capped = |cap, spec| AttnSpec { softcap: Some(cap), scale: 1.0, ..spec };
    // One head; two groups of two with an empty sequence; one group of three in sequences of one token and of four.
    let plain = [packed(1, 1, &[0, 4]), packed(4, 2, &[0, 3, 3, 5]), packed(3, 1, &[0, 1, 5])];
    let windows = [windowed(2, packed(4, 2, &[0, 1, 5])), windowed(9, packed(1, 1, &[0, 4]))];
    // A cap that is felt, alone and within a window.
    let caps = [capped(2.0, packed(4, 2, &[0, 3, 5])), capped(2.0, windowed(2, packed(2, 1, &[0, 5])))];
    for spec in plain.into_iter().chain(windows).chain(caps) {
        let t = spec.n_tokens();
        let (q_dims, k_dims) = ([t, spec.q_cols()], [t, spec.kv_cols()]);
        let (q, dy) = (grid(t * spec.q_cols(), 1), grid(t * spec.q_cols(), 4));
        let (k, v) = (grid(t * spec.kv_cols(), 2), grid(t * spec.kv_cols(), 3));
        let forward = |q: &[f32], k: &[f32], v: &[f32]| {
            let (mut y, mut lse) = (rubbish(&q_dims), rubbish(&[t, spec.heads]));
            let (q, k, v) = (f32s(q, &q_dims), f32s(k, &k_dims), f32s(v, &k_dims));
            B.attention(&mut y, &mut lse, &q, &k, &v, &spec).unwrap();
            (y, lse)
        };
        let loss = |q: &[f32], k: &[f32], v: &[f32]| weighted(&values(&forward(q, k, v).0), &dy);
        let (y, lse) = forward(&q, &k, &v);
        let (mut dq, mut dk, mut dv) = (rubbish(&q_dims), rubbish(&k_dims), rubbish(&k_dims));
        let (qt, kt, vt, dyt) = (f32s(&q, &q_dims), f32s(&k, &k_dims), f32s(&v, &k_dims), f32s(&dy, &q_dims));
        B.attention_backward(&mut dq, &mut dk, &mut dv, &dyt, &y, &lse, &qt, &kt, &vt, &spec).unwrap();
        assert_gradient(&format!("dq {spec:?}"), &values(&dq), &q, |q| loss(q, &k, &v));
        assert_gradient(&format!("dk {spec:?}"), &values(&dk), &k, |k| loss(&q, k, &v));
        assert_gradient(&format!("dv {spec:?}"), &values(&dv), &v, |v| loss(&q, &k, v));
    }
}

/// What Transformers' `sliding_window` and `attn_logit_softcapping` say, written out for one head of width one.
#[test]
fn a_window_and_a_soft_cap_are_transformers() {
    let (q, k, v) = ([0.5f32, -1.0, 2.0, 1.5], [1.0f32, 0.25, -0.5, 2.0], [1.0f32, 2.0, 4.0, 8.0]);
    let (scale, cap, window) = (2.0, 3.0, 2);
    let spec = AttnSpec { scale, window: Some(window), softcap: Some(cap), ..AttnSpec::packed(1, 1, 1, vec![0, 4]) };
    let (mut y, mut lse) = (rubbish(&[4, 1]), rubbish(&[4, 1]));
    B.attention(&mut y, &mut lse, &f32s(&q, &[4, 1]), &f32s(&k, &[4, 1]), &f32s(&v, &[4, 1]), &spec).unwrap();
    for (i, y) in values(&y).iter().enumerate() {
        // `kv_idx <= q_idx` and `q_idx - sliding_window < kv_idx`.
        let seen = (0..4usize).filter(|&j| j <= i && i < j + window);
        let weight = |j: usize| {
            let score = f64::from(q[i] * k[j] * scale) / f64::from(cap);
            (score.tanh() * f64::from(cap)).exp()
        };
        let (sum, total) = seen.fold((0.0, 0.0), |(s, t), j| (s + weight(j) * f64::from(v[j]), t + weight(j)));
        assert!((f64::from(*y) - sum / total).abs() < 1e-6, "query {i}: {y} against {}", sum / total);
    }
}

#[test]
fn attention_with_a_cache_is_the_tail_of_attention_without() {
    let (heads, kv, h, t, past) = (4, 2, 3, 2, 3);
    let all = AttnSpec::packed(heads, kv, h, vec![0, past + t]);
    let (q, k, v) = (grid(5 * heads * h, 1), grid(5 * kv * h, 2), grid(5 * kv * h, 3));
    let (kt, vt) = (f32s(&k, &[5, kv * h]), f32s(&v, &[5, kv * h]));
    let run = |q: &[f32], spec: &AttnSpec| {
        let t = spec.n_tokens();
        let (mut y, mut lse) = (rubbish(&[t, heads * h]), rubbish(&[t, heads]));
        B.attention(&mut y, &mut lse, &f32s(q, &[t, heads * h]), &kt, &vt, spec).unwrap();
        (values(&y), values(&lse))
    };
    let ((y, lse), cut) = (run(&q, &all), past * heads * h);
    let (tail_y, tail_lse) = run(&q[cut..], &AttnSpec::cached(heads, kv, h, t, past));
    assert_eq!((&y[cut..], &lse[past * heads..]), (&tail_y[..], &tail_lse[..]));
}

#[test]
fn cross_entropy_rows() {
    let (t, v, scale) = (4, 6, 0.5);
    let logits: Vec<f32> = grid(t * v, 1).iter().map(|x| 4.0 * x).collect();
    let targets = [3, IGNORE, 0, 5];
    let forward = |logits: &[f32]| {
        let mut gradient = f32s(logits, &[t, v]);
        (B.cross_entropy_rows(&mut gradient, &targets, scale).unwrap(), values(&gradient))
    };
    let (loss, gradient) = forward(&logits);
    // Written out.
    let nll = |t: usize, target: usize| {
        let row = &logits[t * v..][..v];
        (row.iter().map(|&x| f64::from(x).exp()).sum::<f64>() / f64::from(row[target]).exp()).ln()
    };
    assert!((loss - (nll(0, 3) + nll(2, 0) + nll(3, 5))).abs() < 1e-12);
    assert_eq!(gradient[v..2 * v], [0.0; 6], "an ignored row");
    assert_gradient("dlogits", &gradient, &logits, |l| f64::from(scale) * forward(l).0);
}

#[test]
fn kl_rows() {
    let (t, v, scale) = (3, 5, 0.25);
    let student: Vec<f32> = grid(t * v, 1).iter().map(|x| 4.0 * x).collect();
    let mut teacher: Vec<f32> = grid(t * v, 2).iter().map(|x| 4.0 * x).collect();
    // A token that the teacher rules out.
    teacher[2] = f32::NEG_INFINITY;
    let forward = |student: &[f32]| {
        let mut gradient = f32s(student, &[t, v]);
        (B.kl_rows(&mut gradient, &f32s(&teacher, &[t, v]), scale).unwrap(), values(&gradient))
    };
    let (loss, gradient) = forward(&student);
    // Written out.
    let softmax = |row: &[f32]| {
        let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        row.iter().map(|&x| f64::from(x).exp() / total).collect::<Vec<f64>>()
    };
    let row = |t: usize| -> f64 {
        let (p, q) = (softmax(&teacher[t * v..][..v]), softmax(&student[t * v..][..v]));
        p.iter().zip(&q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum()
    };
    assert!((loss - (row(0) + row(1) + row(2))).abs() < 1e-12);
    assert_gradient("dstudent", &gradient, &student, |s| f64::from(scale) * forward(s).0);
}
