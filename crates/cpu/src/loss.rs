//! Losses of rows of logits: each row by one thread, the rows' losses added in their order.
use crate::{
    exp::exp,
    isa::{Isa, vectorised},
};
use paring_ops::{Compared, IGNORE};
use rayon::prelude::*;

/// The largest value, or negative infinity. NaN loses every comparison, but then shows up in the sum that follows.
#[inline(always)]
fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (head, tail) = row.as_chunks::<16>();
    for x in head {
        for i in 0..16 {
            lanes[i] = if x[i] > lanes[i] { x[i] } else { lanes[i] };
        }
    }
    lanes.iter().chain(tail).copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// Sum of `exp(x - shift)`.
#[inline(always)]
fn sum_exp(row: &[f32], shift: f32) -> f64 {
    let mut lanes = [0.0f32; 16];
    let (head, tail) = row.as_chunks::<16>();
    for x in head {
        for i in 0..16 {
            lanes[i] += exp(x[i] - shift);
        }
    }
    lanes.iter().map(|&l| f64::from(l)).sum::<f64>() + tail.iter().map(|&x| f64::from(exp(x - shift))).sum::<f64>()
}

/// The maximum and the log of the sum of `exp(x - max)`.
#[inline(always)]
fn normaliser(row: &[f32]) -> (f32, f64) {
    let m = max(row);
    // A row of negative infinities has no distribution: NaN says so, where `inf - inf` would only happen to.
    if m == f32::NEG_INFINITY { (m, f64::NAN) } else { (m, sum_exp(row, m).ln()) }
}

vectorised! {
    fn cross_entropy_row(row: &mut [f32], target: usize, scale: f32) -> f64 {
        let (m, log_sum) = normaliser(row);
        let loss = f64::from(m) + log_sum - f64::from(row[target]);
        let inverse = (-log_sum).exp() as f32 * scale;
        for x in row.iter_mut() {
            *x = exp(*x - m) * inverse;
        }
        row[target] -= scale;
        loss
    }
}

pub(crate) fn cross_entropy(isa: Isa, logits: &mut [f32], v: usize, targets: &[u32], scale: f32) -> f64 {
    let one = |(row, &target): (&mut [f32], &u32)| {
        if target == IGNORE {
            row.fill(0.0);
            return 0.0;
        }
        cross_entropy_row(isa, row, target as usize, scale)
    };
    logits.par_chunks_mut(v.max(1)).zip(targets).map(one).collect::<Vec<f64>>().iter().sum()
}

vectorised! {
    fn kl_row(student: &mut [f32], teacher: &[f32], scale: f32) -> f64 {
        let ((student_max, student_log), (teacher_max, teacher_log)) = (normaliser(student), normaliser(teacher));
        let (q_scale, p_scale) = ((-student_log).exp() as f32, (-teacher_log).exp() as f32);
        // log p - log q = (t - t_max) - (s - s_max) + (log of the normalisers' ratio).
        let shift = (student_log - teacher_log) as f32;
        let mut lanes = [0.0f64; 8];
        let mut step = |lane: usize, s: &mut f32, t: f32| {
            let (s_shifted, t_shifted) = (*s - student_max, t - teacher_max);
            let p = exp(t_shifted) * p_scale;
            let term = p * ((t_shifted - s_shifted) + shift);
            // Where p is zero the logarithm may be infinite; the term is zero all the same.
            lanes[lane] += f64::from(if p == 0.0 { 0.0 } else { term });
            *s = (exp(s_shifted) * q_scale - p) * scale;
        };
        let ((s_head, s_tail), (t_head, t_tail)) = (student.as_chunks_mut::<8>(), teacher.as_chunks::<8>());
        for (s, t) in s_head.iter_mut().zip(t_head) {
            for i in 0..8 {
                step(i, &mut s[i], t[i]);
            }
        }
        for (i, (s, &t)) in s_tail.iter_mut().zip(t_tail).enumerate() {
            step(i, s, t);
        }
        lanes.iter().sum::<f64>()
    }
}

pub(crate) fn kl(isa: Isa, student: &mut [f32], teacher: &[f32], v: usize, scale: f32) -> f64 {
    let rows = student.par_chunks_mut(v.max(1)).zip(teacher.par_chunks(v.max(1)));
    rows.map(|(s, t)| kl_row(isa, s, t, scale)).collect::<Vec<f64>>().iter().sum()
}

/// The first index of the largest value.
fn argmax(row: &[f32]) -> Option<usize> {
    let m = max(row);
    row.iter().position(|&x| x == m)
}

vectorised! {
    fn compare_row(student: &[f32], teacher: &[f32], target: usize) -> (f64, f64, f64) {
        let ((student_max, student_log), (teacher_max, teacher_log)) = (normaliser(student), normaliser(teacher));
        let p_scale = (-teacher_log).exp() as f32;
        let shift = (student_log - teacher_log) as f32;
        let mut lanes = [0.0f64; 8];
        let term = |s: f32, t: f32| {
            let p = exp(t - teacher_max) * p_scale;
            let term = p * (((t - teacher_max) - (s - student_max)) + shift);
            f64::from(if p == 0.0 { 0.0 } else { term })
        };
        let ((s_head, s_tail), (t_head, t_tail)) = (student.as_chunks::<8>(), teacher.as_chunks::<8>());
        for (s, t) in s_head.iter().zip(t_head) {
            for i in 0..8 {
                lanes[i] += term(s[i], t[i]);
            }
        }
        let tail: f64 = s_tail.iter().zip(t_tail).map(|(&s, &t)| term(s, t)).sum();
        let nll = |max: f32, log: f64, logit: f32| f64::from(max) + log - f64::from(logit);
        (nll(student_max, student_log, student[target]), nll(teacher_max, teacher_log, teacher[target]), lanes.iter().sum::<f64>() + tail)
    }
}

pub(crate) fn compare(isa: Isa, student: &[f32], teacher: &[f32], v: usize, targets: &[u32]) -> Compared {
    let v = v.max(1);
    let one = |((s, t), &target): ((&[f32], &[f32]), &u32)| {
        if target == IGNORE {
            return Compared::default();
        }
        let (student_nll, teacher_nll, kl) = compare_row(isa, s, t, target as usize);
        Compared { rows: 1, student_nll, teacher_nll, kl, agree: u64::from(argmax(s) == argmax(t)) }
    };
    let rows: Vec<Compared> = student.par_chunks(v).zip(teacher.par_chunks(v)).zip(targets).map(one).collect();
    rows.into_iter().fold(Compared::default(), |mut sum, row| {
        sum += row;
        sum
    })
}
