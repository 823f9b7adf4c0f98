//! Inputs: each a function of (seed, operand, index), so a case is the same on every machine and in every order.
use paring_sampling::rng::Rng;

/// What kind of numbers a case computes with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Standard normal.
    Normal,
    /// Standard normal, one in 64 (and the middle one) this many times larger, as the activations of real models have them.
    Outliers(f32),
    /// All zero.
    Zeros,
    /// All the same: ties everywhere.
    Equal,
    /// Around 1e-39: below the smallest normal f32.
    Tiny,
    /// NaN, infinities, both zeros, ties of rounding, the largest and the smallest: for operations that move numbers.
    Special,
    /// Logits of which one in five is negative infinity, but never a target, nor the student's where the teacher's is not.
    Masked,
    /// Logits of which one in five of the student's is negative infinity, whatever the target and the teacher: infinite losses.
    Excluded,
    /// Logits whose first row is all negative infinity: it has no distribution, and whatever is made of it is NaN.
    Undefined,
}

const SPECIAL: [f32; 20] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    0.0,
    -0.0,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    1e-40,
    1e-45,
    1.0 + 1.0 / 256.0, // half way between two bf16
    1.0 + 3.0 / 256.0,
    -1.0 - 1.0 / 256.0,
    1.0 + 1.0 / 2048.0, // half way between two f16
    1.0 + 3.0 / 2048.0,
    65504.0, // the largest f16
    65520.0, // rounds to infinity in f16
    65519.0,
    5.96e-8, // the smallest f16
    -1.0,
];

impl Values {
    /// `n` numbers for operand number `operand`.
    pub(crate) fn take(self, seed: u64, operand: u64, n: usize) -> Vec<f32> {
        let rng = Rng::new(seed);
        let normal = |i: u64| rng.normal(operand, i) as f32;
        // Streams of choices lie apart from those of numbers.
        let choice = |i: u64, n: u64| rng.below(operand + (1 << 32), i, n);
        let one = |i: u64| match self {
            Values::Normal => normal(i),
            Values::Outliers(factor) => normal(i) * if choice(i, 64) == 0 || i == n as u64 / 2 { factor } else { 1.0 },
            Values::Zeros => 0.0,
            Values::Equal => 0.5,
            Values::Tiny => normal(i) * 1e-39,
            Values::Special => SPECIAL[choice(i, SPECIAL.len() as u64) as usize],
            Values::Masked | Values::Excluded | Values::Undefined => 3.0 * normal(i),
        };
        (0..n as u64).map(one).collect()
    }
}

/// `t` indices below `v`, the largest among them.
pub(crate) fn indices(seed: u64, t: usize, v: usize) -> Vec<u32> {
    let rng = Rng::new(seed);
    let last = v.saturating_sub(1) as u32;
    (0..t as u64).map(|i| if i == 0 { last } else { rng.below(1 << 33, i, v as u64) as u32 }).collect()
}

/// [`indices`], every `ignore_every`-th of them [`paring_ops::IGNORE`]; 0 for none.
pub(crate) fn targets(seed: u64, t: usize, v: usize, ignore_every: usize) -> Vec<u32> {
    let mut targets = indices(seed, t, v);
    if ignore_every > 0 {
        targets.iter_mut().skip(ignore_every - 1).step_by(ignore_every).for_each(|t| *t = paring_ops::IGNORE);
    }
    targets
}

/// Logits of a student and of a teacher, `[t, v]` both.
pub(crate) fn logits(values: Values, seed: u64, t: usize, v: usize, targets: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let rng = Rng::new(seed);
    let (mut student, mut teacher) = (values.take(seed, 0, t * v), values.take(seed, 1, t * v));
    let masked = |i: usize| rng.below(1 << 34, i as u64, 5) == 0;
    for i in 0..t * v {
        let (row, column) = (i / v, i % v);
        // Each row keeps one entry, so that it has a distribution.
        let kept = column == row % v || targets.get(row) == Some(&(column as u32));
        match values {
            Values::Masked if masked(i) && !kept => (student[i], teacher[i]) = (f32::NEG_INFINITY, f32::NEG_INFINITY),
            // Ruled out by the teacher alone: finite.
            Values::Masked if masked(i + t * v) && !kept => teacher[i] = f32::NEG_INFINITY,
            Values::Excluded if masked(i) && column != (row + 1) % v => student[i] = f32::NEG_INFINITY,
            Values::Undefined if row == 0 => (student[i], teacher[i]) = (f32::NEG_INFINITY, f32::NEG_INFINITY),
            _ => {}
        }
    }
    (student, teacher)
}
