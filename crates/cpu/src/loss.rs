//! Losses of rows of logits: each row by one thread, the rows' losses added in their order.
//!
//! A row of a large vocabulary is hundreds of kilobytes. It is read from memory once, for the maximum and the normaliser together; the
//! second time, when it becomes its gradient, it is in the core's cache.
use crate::{
    exp::exp,
    isa::{Isa, vectorised},
    pool::Threads,
};
use paring_ops::{Compared, IGNORE};

/// Elements that are looked at together: first for their maximum, then, out of the nearest cache, for their exponentials.
const BLOCK: usize = 512;

/// The largest value, or negative infinity. NaN loses every comparison, but then shows up in the sum that follows.
#[inline(always)]
fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 32];
    let (head, tail) = row.as_chunks::<32>();
    for x in head {
        for i in 0..32 {
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

/// The maximum so far and the sum of `exp(x - max)` so far (Milakov and Gimelshein, arXiv 1805.02867).
struct Online {
    max: f32,
    sum: f64,
}

impl Online {
    const NEW: Online = Online { max: f32::NEG_INFINITY, sum: 0.0 };

    #[inline(always)]
    fn add(&mut self, block: &[f32]) {
        let m = max(block);
        if m > self.max {
            self.sum *= (f64::from(self.max) - f64::from(m)).exp();
            self.max = m;
        }
        // Before the first finite value any shift will do: `-inf` adds zero, and NaN stays.
        self.sum += sum_exp(block, if self.max == f32::NEG_INFINITY { 0.0 } else { self.max });
    }

    /// The maximum and the log of the sum.
    #[inline(always)]
    fn finish(&self) -> (f32, f64) {
        // A row of negative infinities has no distribution: NaN says so, where `inf - inf` would only happen to.
        (self.max, if self.max == f32::NEG_INFINITY { f64::NAN } else { self.sum.ln() })
    }
}

#[inline(always)]
fn normaliser(row: &[f32]) -> (f32, f64) {
    let mut online = Online::NEW;
    row.chunks(BLOCK).for_each(|block| online.add(block));
    online.finish()
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

pub(crate) fn cross_entropy(isa: Isa, threads: &Threads, logits: &mut [f32], targets: &[u32], scale: f32) -> f64 {
    let mut losses = vec![0.0; targets.len()];
    threads.rows(targets.len(), 1, (logits, targets, &mut losses[..]), |_, (row, target, loss)| {
        if target[0] == IGNORE {
            row.fill(0.0);
        } else {
            loss[0] = cross_entropy_row(isa, row, target[0] as usize, scale);
        }
    });
    losses.iter().sum()
}

/// What two rows of logits have in common.
struct Pair {
    student_max: f32,
    student_log: f64,
    teacher_max: f32,
    teacher_log: f64,
    /// `1 / sum exp(t - max)`.
    p_scale: f32,
    /// log p - log q = (t - t_max) - (s - s_max) + this, the log of the normalisers' ratio.
    shift: f32,
}

impl Pair {
    #[inline(always)]
    fn of(student: &[f32], teacher: &[f32]) -> Pair {
        let ((student_max, student_log), (teacher_max, teacher_log)) = (normaliser(student), normaliser(teacher));
        let (p_scale, shift) = ((-teacher_log).exp() as f32, (student_log - teacher_log) as f32);
        Pair { student_max, student_log, teacher_max, teacher_log, p_scale, shift }
    }

    /// `p`, and `p (log p - log q)`.
    #[inline(always)]
    fn term(&self, s: f32, t: f32) -> (f32, f32) {
        let (s, t) = (s - self.student_max, t - self.teacher_max);
        let p = exp(t) * self.p_scale;
        // Where p is zero the logarithm may be infinite; the term is zero all the same.
        (p, if p == 0.0 { 0.0 } else { p * ((t - s) + self.shift) })
    }
}

vectorised! {
    fn kl_row(student: &mut [f32], teacher: &[f32], scale: f32) -> f64 {
        let pair = Pair::of(student, teacher);
        let q_scale = (-pair.student_log).exp() as f32;
        let mut lanes = [0.0f64; 8];
        let mut step = |lane: usize, s: &mut f32, t: f32| {
            let (p, term) = pair.term(*s, t);
            lanes[lane] += f64::from(term);
            *s = (exp(*s - pair.student_max) * q_scale - p) * scale;
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

pub(crate) fn kl(isa: Isa, threads: &Threads, student: &mut [f32], teacher: &[f32], v: usize, scale: f32) -> f64 {
    let rows = student.len().checked_div(v).unwrap_or(0);
    let mut losses = vec![0.0; rows];
    threads.rows(rows, 1, (student, teacher, &mut losses[..]), |_, (student, teacher, loss)| {
        loss[0] = kl_row(isa, student, teacher, scale);
    });
    losses.iter().sum()
}

/// The first index of the largest value.
#[inline(always)]
fn argmax(row: &[f32], max: f32) -> Option<usize> {
    let is_in = |block: &[f32]| block.iter().fold(false, |found, &x| found | (x == max));
    let block = row.chunks(BLOCK).position(is_in)? * BLOCK;
    Some(block + row[block..].iter().position(|&x| x == max)?)
}

vectorised! {
    fn compare_row(student: &[f32], teacher: &[f32], target: usize) -> Compared {
        let pair = Pair::of(student, teacher);
        let mut lanes = [0.0f64; 8];
        let ((s_head, s_tail), (t_head, t_tail)) = (student.as_chunks::<8>(), teacher.as_chunks::<8>());
        for (s, t) in s_head.iter().zip(t_head) {
            for i in 0..8 {
                lanes[i] += f64::from(pair.term(s[i], t[i]).1);
            }
        }
        let tail: f64 = s_tail.iter().zip(t_tail).map(|(&s, &t)| f64::from(pair.term(s, t).1)).sum();
        let nll = |max: f32, log: f64, logit: f32| f64::from(max) + log - f64::from(logit);
        Compared {
            rows: 1,
            student_nll: nll(pair.student_max, pair.student_log, student[target]),
            teacher_nll: nll(pair.teacher_max, pair.teacher_log, teacher[target]),
            kl: lanes.iter().sum::<f64>() + tail,
            agree: u64::from(argmax(student, pair.student_max) == argmax(teacher, pair.teacher_max)),
        }
    }
}

pub(crate) fn compare(
    isa: Isa,
    threads: &Threads,
    student: &[f32],
    teacher: &[f32],
    v: usize,
    targets: &[u32],
) -> Compared {
    let rows = threads.map(targets.len(), |t| match targets[t] {
        IGNORE => Compared::default(),
        target => compare_row(isa, &student[t * v..][..v], &teacher[t * v..][..v], target as usize),
    });
    rows.into_iter().fold(Compared::default(), |mut sum, row| {
        sum += row;
        sum
    })
}
