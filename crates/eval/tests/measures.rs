//! Likelihood and agreement against the same figures made from logits in f64, and what they must not depend on.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{Figures, Golden, backends, config, cpu, logits, model, random_ids, random_values};
use paring_eval::{Agreement, compare, likelihood};
use paring_model::{Arch, Batch, Model};
use paring_ops::Backend;
use paring_tensor::DType;

fn windows(arch: &Arch) -> Vec<Vec<u32>> {
    [40, 40, 17, 1, 2, 40, 33].iter().enumerate().map(|(i, &n)| random_ids(arch.vocab, n, i as u64)).collect()
}

fn slices(windows: &[Vec<u32>]) -> Vec<&[u32]> {
    windows.iter().map(Vec::as_slice).collect()
}

/// Two random models that agree about as often as not, and windows.
fn pair(backend: &dyn Backend) -> (Model, Model, Vec<Vec<u32>>) {
    let arch = Arch::from_config(&config(true)).unwrap();
    let teacher = random_values(&arch, 1);
    let mut student = teacher.clone();
    for ((_, s), (_, noise)) in student.iter_mut().zip(random_values(&arch, 2)) {
        s.iter_mut().zip(noise).for_each(|(s, n)| *s += 0.2 * n);
    }
    let models = [teacher, student].map(|values| model(backend, &arch, &values, DType::F32));
    let [teacher, student] = models;
    (teacher, student, windows(&arch))
}

/// Logarithms of the probabilities of a row.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&l| (f64::from(l) - f64::from(max)).exp()).sum();
    row.iter().map(|&l| f64::from(l) - f64::from(max) - sum.ln()).collect()
}

/// What `compare` should say, from whole logits.
fn direct(backend: &dyn Backend, teacher: &Model, student: &Model, windows: &[Vec<u32>]) -> Agreement {
    let mut sum = Agreement::default();
    for ids in windows {
        let vocab = teacher.arch().vocab;
        let rows = |model: &Model| -> Vec<Vec<f64>> {
            logits(backend, model, &Batch::pack([ids.as_slice()])).chunks(vocab).map(log_softmax).collect()
        };
        for ((p, q), &target) in rows(teacher).iter().zip(&rows(student)).zip(&ids[1..]) {
            let first = |row: &[f64]| (0..vocab).fold(0, |best, i| if row[best] < row[i] { i } else { best });
            sum.teacher_nll -= p[target as usize];
            sum.student_nll -= q[target as usize];
            sum.kl += p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            sum.top1_agreement += f64::from(u8::from(first(p) == first(q)));
            sum.tokens += 1;
        }
    }
    let n = sum.tokens as f64;
    let mean = |x: f64| x / n;
    Agreement {
        teacher_nll: mean(sum.teacher_nll),
        student_nll: mean(sum.student_nll),
        kl: mean(sum.kl),
        top1_agreement: mean(sum.top1_agreement),
        tokens: sum.tokens,
    }
}

#[test]
fn figures_are_those_of_the_logits() {
    for (name, backend) in backends() {
        let backend = &*backend;
        let (teacher, student, windows) = pair(backend);
        let want = direct(backend, &teacher, &student, &windows);
        let got = compare(backend, &teacher, &student, &slices(&windows), 3, &mut |_| {}).unwrap();
        let mut figures = Figures::new(&name);
        let relative = |got: f64, want: f64| ((got - want) / want).abs();
        figures.check("likelihood", "of the teacher", relative(got.teacher_nll, want.teacher_nll), 1e-6);
        figures.check("likelihood", "of the student", relative(got.student_nll, want.student_nll), 1e-6);
        figures.check("KL", "relative", relative(got.kl, want.kl), 1e-5);
        assert_eq!((got.tokens, got.top1_agreement), (want.tokens, want.top1_agreement), "{name}");
        assert!(0.05 < got.top1_agreement && got.top1_agreement < 0.95, "nothing to tell apart: {got:?}");

        let alone = likelihood(backend, &student, &slices(&windows), 3, &mut |_| {}).unwrap();
        figures.check("likelihood", "of the student alone", relative(alone.nll, want.student_nll), 1e-6);
        assert_eq!((alone.tokens, alone.perplexity), (want.tokens, alone.nll.exp()), "{name}");
    }
}

#[test]
fn the_golden_loss_is_the_likelihood_of_its_windows() {
    for family in common::FAMILIES {
        let golden = Golden::open(family);
        for (name, backend) in backends() {
            let model = golden.model(&*backend);
            let got = likelihood(&*backend, &model, &slices(&golden.sequences), 1, &mut |_| {}).unwrap();
            let want = golden.scalar("loss");
            Figures::new(&format!("{family}, {name}")).check("loss", "relative", ((got.nll - want) / want).abs(), 1e-6);
            assert_eq!(got.tokens, 94);
        }
    }
}

#[test]
fn a_model_agrees_with_itself_exactly() {
    for (name, backend) in backends() {
        let (model, _, windows) = pair(&*backend);
        let got = compare(&*backend, &model, &model, &slices(&windows), 2, &mut |_| {}).unwrap();
        assert_eq!((got.kl, got.top1_agreement), (0.0, 1.0), "{name}");
        assert_eq!(got.teacher_nll.to_bits(), got.student_nll.to_bits(), "{name}");
        let alone = likelihood(&*backend, &model, &slices(&windows), 2, &mut |_| {}).unwrap();
        assert!((alone.nll - got.student_nll).abs() < 1e-6, "{name}: {} and {}", alone.nll, got.student_nll);
    }
}

/// Products of up to sixteen rows are summed in an order of their own, so short windows depend on their company: by roundings of f32,
/// which average out over a batch (measured: 4e-10).
const ORDER: f64 = 1e-8;

#[test]
fn batch_size_changes_no_figure_and_threads_no_bit() {
    let run = |threads, batch| {
        let backend = cpu(threads);
        let (teacher, student, windows) = pair(&backend);
        let mut done = Vec::new();
        let agreement = compare(&backend, &teacher, &student, &slices(&windows), batch, &mut |n| done.push(n)).unwrap();
        let alone = likelihood(&backend, &student, &slices(&windows), batch, &mut |_| {}).unwrap();
        assert!(done.is_sorted() && done.last() == Some(&windows.len()), "{done:?}");
        (agreement, alone)
    };
    let (want, alone) = run(1, 1);
    for batch in [1, 2, 3, 7, 100] {
        let (got, got_alone) = run(1, batch);
        assert_eq!(run(2, batch), (got, got_alone), "batches of {batch}");
        assert_eq!(run(3, batch), (got, got_alone), "batches of {batch}");
        for (got, want) in [
            (got.teacher_nll, want.teacher_nll),
            (got.student_nll, want.student_nll),
            (got.kl, want.kl),
            (got_alone.nll, alone.nll),
        ] {
            assert!(((got - want) / want).abs() <= ORDER, "batches of {batch}: {got} and {want}");
        }
        assert_eq!((got.top1_agreement, got.tokens), (want.top1_agreement, want.tokens));
    }
    // A batch of zero windows would never end; it counts as one.
    assert_eq!(run(1, 0), (want, alone));
}
