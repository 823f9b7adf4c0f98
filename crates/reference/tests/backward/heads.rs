//! The fused heads of `paring_ops`, which are made of this backend's operations, against differences; and AdamW against its formula.
use crate::common::{assert_gradient, f32s, grid, rubbish, tensor, values};
use paring_ops::{AdamWStep, Backend, HeadGrads, IGNORE};
use paring_reference::Reference;
use paring_tensor::DType;

const B: Reference = Reference;
const T: usize = 5;
const D: usize = 3;
const V: usize = 7;
/// Width of the teacher, which need not be the student's.
const E: usize = 4;
const TARGETS: [u32; T] = [6, IGNORE, 0, 3, IGNORE];
const SCALE: f32 = 0.5;

/// Three times the grid: logits that are not all alike.
fn wide(n: usize, seed: u64) -> Vec<f32> {
    grid(n, seed).iter().map(|x| 3.0 * x).collect()
}

/// A loss of `x` and `w`, and where its gradients go.
type Head<'a> = dyn Fn(Option<HeadGrads<'_>>, &[f32], &[f32]) -> f64 + 'a;

fn check(what: &str, head: &Head<'_>) {
    let (x, w, old) = (grid(T * D, 1), wide(V * D, 2), grid(V * D, 3));
    let (mut dx, mut dw) = (rubbish(&[T, D]), f32s(&[0.0; V * D], &[V, D]));
    let loss = head(Some(HeadGrads { dx_td: &mut dx, dw_vd: Some(&mut dw) }), &x, &w);
    assert_eq!(loss, head(None, &x, &w), "{what}: the loss with gradients and without");
    assert_gradient(&format!("{what} dx"), &values(&dx), &x, |x| f64::from(SCALE) * head(None, x, &w));
    assert_gradient(&format!("{what} dw"), &values(&dw), &w, |w| f64::from(SCALE) * head(None, &x, w));
    // dw accumulates; a frozen head has none, and dx is the same.
    let (mut dx_again, mut dw_sum, mut dx_alone) = (rubbish(&[T, D]), f32s(&old, &[V, D]), rubbish(&[T, D]));
    head(Some(HeadGrads { dx_td: &mut dx_again, dw_vd: Some(&mut dw_sum) }), &x, &w);
    head(Some(HeadGrads { dx_td: &mut dx_alone, dw_vd: None }), &x, &w);
    assert_eq!(values(&dx), values(&dx_again), "{what}");
    assert_eq!(values(&dx), values(&dx_alone), "{what}");
    for ((sum, old), g) in values(&dw_sum).iter().zip(&old).zip(values(&dw)) {
        assert!((sum - (old + g)).abs() <= 1e-6, "{what}: {sum} is not {old} + {g}");
    }
}

#[test]
fn head_cross_entropy() {
    check("head_cross_entropy", &|grads, x, w| {
        B.head_cross_entropy(grads, &f32s(x, &[T, D]), &f32s(w, &[V, D]), &TARGETS, SCALE).unwrap()
    });
}

#[test]
fn head_kl() {
    let (teacher_x, teacher_w) = (f32s(&grid(T * E, 5), &[T, E]), f32s(&wide(V * E, 6), &[V, E]));
    check("head_kl", &|grads, x, w| {
        B.head_kl(grads, &f32s(x, &[T, D]), &f32s(w, &[V, D]), &teacher_x, &teacher_w, SCALE).unwrap()
    });
}

#[test]
fn head_compare_is_the_losses_and_the_argmax() {
    let (x, w) = (f32s(&grid(T * D, 1), &[T, D]), f32s(&wide(V * D, 2), &[V, D]));
    let (teacher_x, teacher_w) = (f32s(&grid(T * E, 5), &[T, E]), f32s(&wide(V * E, 6), &[V, E]));
    let got = B.head_compare(&x, &w, &teacher_x, &teacher_w, &TARGETS).unwrap();
    assert_eq!(got.rows, 3);
    let nll = |x, w| B.head_cross_entropy(None, x, w, &TARGETS, 1.0).unwrap();
    assert_eq!((got.student_nll, got.teacher_nll), (nll(&x, &w), nll(&teacher_x, &teacher_w)));
    let rows = [0, 2, 3].map(|t: usize| (x.rows(t..t + 1).unwrap(), teacher_x.rows(t..t + 1).unwrap()));
    let kl: f64 = rows.iter().map(|(x, tx)| B.head_kl(None, x, &w, tx, &teacher_w, 1.0).unwrap()).sum();
    assert!((got.kl - kl).abs() < 1e-12);
    // Ties go to the lowest id on both sides: a head of equal rows agrees with one that puts token 0 first, not with another.
    let equal = f32s(&[1.0; V * D], &[V, D]);
    let mut picks = vec![0.0; V];
    for (favourite, agree) in [(0, 3), (4, 0)] {
        picks.fill(0.0);
        picks[favourite] = 1.0;
        let one = f32s(&[1.0; T], &[T, 1]);
        let got = B.head_compare(&x, &equal, &one, &f32s(&picks, &[V, 1]), &TARGETS).unwrap();
        assert_eq!(got.agree, agree, "favourite {favourite}");
    }
    // A head agrees with itself, at no divergence.
    let same = B.head_compare(&x, &w, &x, &w, &TARGETS).unwrap();
    assert_eq!((same.agree, same.rows), (3, 3));
    assert!(same.kl.abs() < 1e-12 && same.student_nll == same.teacher_nll);
}

#[test]
fn adamw_is_its_formula() {
    let n = 9;
    let step = AdamWStep {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        bias1: 0.271,
        bias2_sqrt: 0.377,
        grad_scale: 0.5,
    };
    let (w, m, grad) = (grid(n, 1), grid(n, 2), grid(n, 4));
    let v: Vec<f32> = grid(n, 3).iter().map(|v| v * v).collect();
    let f = f64::from;
    let mut want = [vec![], vec![], vec![]];
    for i in 0..n {
        let g = f(grad[i]) * f(step.grad_scale);
        let m = f(step.beta1) * f(m[i]) + (1.0 - f(step.beta1)) * g;
        let v = f(step.beta2) * f(v[i]) + (1.0 - f(step.beta2)) * g * g;
        let (m_hat, v_hat_sqrt) = (m / f(step.bias1), v.sqrt() / f(step.bias2_sqrt));
        let decayed = f(w[i]) - f(step.lr) * f(step.weight_decay) * f(w[i]);
        want[0].push(decayed - f(step.lr) * m_hat / (v_hat_sqrt + f(step.eps)));
        want[1].push(m);
        want[2].push(v);
    }
    let [mut wt, mut mt, mut vt] = [&w, &m, &v].map(|x| f32s(x, &[n]));
    B.adamw(&mut wt, &mut mt, &mut vt, &f32s(&grad, &[n]), &step).unwrap();
    for (what, got, want) in [("w", &wt, &want[0]), ("m", &mt, &want[1]), ("v", &vt, &want[2])] {
        for (got, want) in values(got).iter().zip(want) {
            assert!((f(*got) - want).abs() < 1e-6 * (0.1 + want.abs()), "{what}: {got} against {want}");
        }
    }

    // The same of halves, with moments that are rounded on the way out.
    let [mut high, mut low] = [(); 2].map(|()| tensor(&vec![7.0; n], DType::BF16, &[n]));
    let [mut short_m, mut short_v] = [&m, &v].map(|x| tensor(x, DType::BF16, &[n]));
    let [mut mt, mut vt] = [&short_m, &short_v].map(|x| f32s(&values(x), &[n]));
    let mut wt = f32s(&w, &[n]);
    B.split(&mut high, &mut low, &wt).unwrap();
    B.adamw(&mut wt, &mut mt, &mut vt, &f32s(&grad, &[n]), &step).unwrap();
    B.adamw_split(&mut high, &mut low, &mut short_m, &mut short_v, &f32s(&grad, &[n]), &step).unwrap();
    let round = |x: &paring_tensor::Tensor| {
        values(x).iter().map(|&x| paring_tensor::round_to(x, DType::BF16)).collect::<Vec<f32>>()
    };
    assert_eq!(values(&high), round(&wt));
    assert_eq!((values(&short_m), values(&short_v)), (round(&mt), round(&vt)));
    let mut joined = f32s(&vec![7.0; n], &[n]);
    B.join(&mut joined, &high, &low).unwrap();
    assert_eq!(values(&joined), values(&wt));
}
