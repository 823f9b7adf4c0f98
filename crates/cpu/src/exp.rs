//! An exponential that the compiler can vectorise: no branches, no calls.
//!
//! Functions of a constant `FUSED` multiply and add in one step where that is one instruction; without, in two that are the same bits
//! everywhere. The bounds of their errors hold for both.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts: the first has few digits, so that `n * LN2_HI` is exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;
/// Adding and subtracting this rounds to a whole number (1.5 * 2^23).
const ROUND: f32 = 12_582_912.0;

/// `(e^r - 1 - r) / r^2` for `|r| <= ln(2) / 2`, highest power first: fitted for the smallest largest error of `e^r` (3e-9, relative, before
/// the coefficients are rounded) by Lawson's iteration.
const POLYNOMIAL: [f32; 5] = [0.001_381_432, 0.008_368_851, 0.041_668_4, 0.166_665_2, 0.499_999_94];

/// `a * b + c`.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `x = n ln(2) + r`: `r`, and `n` as the float `ROUND + n`.
#[inline(always)]
fn reduce<const FUSED: bool>(x: f32) -> (f32, f32) {
    let rounded = multiply_add::<FUSED>(x, LOG2_E, ROUND);
    let n = rounded - ROUND;
    (multiply_add::<FUSED>(-n, LN2_LO, multiply_add::<FUSED>(-n, LN2_HI, x)), rounded)
}

/// `2^n` from the low bits of `ROUND + n`, `-127 <= n <= 128`: 0 at the lower end and infinity at the upper one.
#[inline(always)]
fn two_to(rounded: f32) -> f32 {
    f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23))
}

#[inline(always)]
fn polynomial<const FUSED: bool>(r: f32) -> f32 {
    let [first, rest @ ..] = POLYNOMIAL;
    rest.into_iter().fold(first, |p, c| multiply_add::<FUSED>(p, r, c))
}

/// `e^x`, relative error below 2e-7; 0 below -87.7, infinity above 88.4, NaN for NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    exp_of::<false>(x)
}

/// [`exp`].
#[inline(always)]
pub(crate) fn exp_of<const FUSED: bool>(x: f32) -> f32 {
    // So written that each is one instruction and lets NaN through.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -88.0 { -88.0 } else { x };
    let (r, rounded) = reduce::<FUSED>(x);
    let tail = multiply_add::<FUSED>(polynomial::<FUSED>(r), r, 1.0);
    multiply_add::<FUSED>(tail, r, 1.0) * two_to(rounded)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp_of::<FUSED>(-x))
}

/// `e^x - 1` for `0 <= x <= 88`, with a small relative error near zero too: [`exp`] without its last 1.
#[inline(always)]
fn exp_m1(x: f32) -> f32 {
    let (r, rounded) = reduce::<false>(x);
    let scale = two_to(rounded);
    (polynomial::<false>(r) * r * r + r) * scale + (scale - 1.0)
}

/// `tanh(x)` and its derivative `1 - tanh(x)^2`, neither of which cancels: with `m = e^2|x| - 1` and `r = 2 / (m + 2)`, they are `m r / 2`
/// and `r (2 - r)`.
#[inline(always)]
pub(crate) fn tanh_and_slope(x: f32) -> (f32, f32) {
    let a = x.abs();
    let a = if a > 43.0 { 43.0 } else { a };
    let m = exp_m1(2.0 * a);
    let r = 2.0 / (m + 2.0);
    ((m * (0.5 * r)).copysign(x), r * (2.0 - r))
}

/// `e^(x^2) erfc(x)` over `t` as a polynomial in `t = 1 / (1 + x / 2)`, `x >= 0`, lowest power first: fitted for the smallest largest relative
/// error (6e-9 before the coefficients are rounded) on `0.11 <= t <= 1` by Lawson's iteration.
const ERFCX: [f32; 11] = [
    0.282_093_82,
    0.282_121_48,
    0.246_561_23,
    0.177_367_72,
    0.085_540_56,
    -0.039_588_99,
    0.100_345_05,
    -0.421_348_27,
    0.471_428_45,
    -0.226_345_9,
    0.041_824_833,
];

/// The normal distribution `Phi(x) = erfc(-x / sqrt(2)) / 2` and its density `phi(x) = e^(-x^2 / 2) / sqrt(2 pi)`, relative error of both
/// below `5e-7 + x^2 4e-8`, that of the exponential's argument.
#[inline(always)]
pub(crate) fn normal<const FUSED: bool>(x: f32) -> (f32, f32) {
    let e = exp_of::<FUSED>(-0.5 * x * x);
    let t = 1.0 / (1.0 + x.abs() * (0.5 * std::f32::consts::FRAC_1_SQRT_2));
    let mut q = 0.0;
    for c in ERFCX.into_iter().rev() {
        q = multiply_add::<FUSED>(q, t, c);
    }
    let tail = 0.5 * e * t * q;
    // 1 / sqrt(2 pi) = (2 / sqrt(pi)) / (2 sqrt(2)).
    let density = e * (0.5 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2);
    (if x > 0.0 { 1.0 - tail } else { tail }, density)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest relative error over steps of 1e-4.
    fn worst(range: std::ops::Range<i32>, f: impl Fn(f32) -> f32, want: impl Fn(f64) -> f64) -> f64 {
        let error = |i: i32| {
            let x = i as f32 * 1e-4;
            let want = want(f64::from(x));
            ((f64::from(f(x)) - want) / want).abs()
        };
        range.map(error).fold(0.0, f64::max)
    }

    #[test]
    fn agrees_with_f64_over_the_whole_range() {
        for exp in [exp_of::<false>, exp_of::<true>] {
            let error = worst(-872_000..883_000, exp, f64::exp);
            assert!(error < 2e-7, "worst relative error {error:e}");
        }
    }

    #[test]
    fn tanh_and_its_slope_do_not_cancel() {
        let error = worst(1..400_000, |x| tanh_and_slope(x).0, f64::tanh);
        assert!(error < 5e-7, "tanh: worst relative error {error:e}");
        let error = worst(-400_000..400_000, |x| tanh_and_slope(x).1, |x| x.cosh().powi(-2));
        assert!(error < 8e-7, "its slope: worst relative error {error:e}");
        assert_eq!(tanh_and_slope(f32::INFINITY).0, 1.0);
        assert_eq!(tanh_and_slope(-0.0), (-0.0, 1.0));
        assert_eq!(tanh_and_slope(-1e30).0, -1.0);
        assert!(tanh_and_slope(f32::NAN).0.is_nan());
    }

    #[test]
    fn the_normal_distribution_is_the_integral_of_its_density() {
        // Simpson's rule from far below, where it is known to vanish: no other implementation of erf is at hand.
        let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let (step, mut sum) = (1.0 / 512.0, 0.0);
        for i in 0..(22.0 / step) as i32 {
            let x = -16.0 + f64::from(i) * step;
            sum += step / 6.0 * (density(x) + 4.0 * density(x + step / 2.0) + density(x + step));
            let end = (x + step) as f32;
            if end < -12.0 {
                continue;
            }
            let (got, got_density) = normal::<false>(end);
            let bound = 5e-7 + x * x * 4e-8;
            assert!((f64::from(got) - sum).abs() <= bound * sum, "Phi({end}) is {got:e}, expected {sum:e}");
            let want = density(f64::from(end));
            assert!((f64::from(got_density) - want).abs() <= bound * want, "phi({end})");
        }
        assert_eq!(normal::<false>(f32::INFINITY).0, 1.0);
        assert_eq!((normal::<true>(f32::NEG_INFINITY).0, normal::<true>(-1e30).0), (0.0, 0.0));
    }

    #[test]
    fn specials() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(1e30), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!([200.0, -200.0, 0.0].map(sigmoid::<false>), [1.0, 0.0, 0.5]);
        assert_eq!([200.0, -200.0, 0.0].map(sigmoid::<true>), [1.0, 0.0, 0.5]);
    }
}
