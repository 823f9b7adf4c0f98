//! Sums of f64 that are the same bits in any order and however they are split, so that calibration can be sharded.
//!
//! A sum is a fixed-point number of 192 bits, two's complement, in units of 2^-104: three additions with carry for a term, no rounding after
//! the term's own. Other ways to sum without an order: expansions of f64 (Shewchuk 1997) are exact too, but as long as their terms make
//! them, and one value has many until they are normalised; binned sums (Demmel and Nguyen 2013) take four f64, 32 bytes against 24 here, and
//! round at the width of their bins; f64 alone depends on the order. 256 bits would be a third larger on disk for values that no activation
//! has: 192 hold sums up to 7e25, squares of variances of activations in the millions, and keep a square of 1e-12 to 24 bits.
use std::fmt;

/// Bits behind the binary point.
const FRACTION: i32 = 104;
/// Bits of the mantissa of an f64.
const MANTISSA: i32 = 53;

/// A sum in units of 2^-104: see the module.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ExactSum([u64; ExactSum::LIMBS]);

impl ExactSum {
    /// 64-bit limbs, the lowest first.
    pub const LIMBS: usize = 3;

    /// `v` rounded to a multiple of 2^-104, ties to even; `None` for what is not finite or beyond about 3.8e25.
    pub fn new(v: f64) -> Option<ExactSum> {
        if !v.is_finite() {
            return None;
        }
        let bits = v.to_bits();
        let (exponent, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        // |v| = mantissa * 2^power
        let (mantissa, power) = if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) };
        let shift = power + FRACTION;
        let mut limbs = [0u64; ExactSum::LIMBS];
        if 0 <= shift {
            // The sign's bit stays free.
            if 64 * ExactSum::LIMBS as i32 - 1 < shift + MANTISSA {
                return None;
            }
            let (at, wide) = ((shift / 64) as usize, u128::from(mantissa) << (shift % 64));
            limbs[at] = wide as u64;
            if let Some(next) = limbs.get_mut(at + 1) {
                *next = (wide >> 64) as u64;
            }
        } else if -shift <= MANTISSA + 1 {
            let (down, rest) = (mantissa >> -shift, mantissa & ((1 << -shift) - 1));
            let half = 1 << (-shift - 1);
            limbs[0] = down + u64::from(half < rest || half == rest && down % 2 == 1);
        }
        let sum = ExactSum(limbs);
        Some(if v < 0.0 { sum.negated() } else { sum })
    }

    /// The sum of both; `None` when it does not fit.
    pub fn checked_add(self, other: ExactSum) -> Option<ExactSum> {
        let mut limbs = [0u64; ExactSum::LIMBS];
        let mut carry = false;
        for ((to, a), b) in limbs.iter_mut().zip(self.0).zip(other.0) {
            let (sum, one) = a.overflowing_add(b);
            let (sum, two) = sum.overflowing_add(u64::from(carry));
            (*to, carry) = (sum, one | two);
        }
        let sum = ExactSum(limbs);
        let overflow = self.is_negative() == other.is_negative() && sum.is_negative() != self.is_negative();
        (!overflow).then_some(sum)
    }

    /// The f64 that is nearest, ties to even.
    pub fn value(self) -> f64 {
        let ExactSum(limbs) = if self.is_negative() { self.negated() } else { self };
        let Some(top) = limbs.iter().rposition(|&l| l != 0) else { return 0.0 };
        // The highest 64 bits, and whether any is set below them: enough to round once.
        let zeros = limbs[top].leading_zeros();
        let mut head = limbs[top] << zeros;
        let mut below = false;
        if 0 < zeros && 0 < top {
            head |= limbs[top - 1] >> (64 - zeros);
            below |= limbs[top - 1] << zeros != 0;
        } else if 0 < top {
            below |= limbs[top - 1] != 0;
        }
        below |= limbs[..top.saturating_sub(1)].iter().any(|&l| l != 0);
        let power = 64 * top as i32 - zeros as i32 - FRACTION;
        // A power of two, far from the smallest and the largest: the product is exact.
        let scale = f64::from_bits(((1023 + power) as u64) << 52);
        let magnitude = (head | u64::from(below)) as f64 * scale;
        if self.is_negative() { -magnitude } else { magnitude }
    }

    /// The limbs as they are stored, the lowest first, the highest with the sign.
    pub fn to_limbs(self) -> [i64; ExactSum::LIMBS] {
        self.0.map(u64::cast_signed)
    }

    /// The sum that [`ExactSum::to_limbs`] gave.
    pub fn from_limbs(limbs: [i64; ExactSum::LIMBS]) -> ExactSum {
        ExactSum(limbs.map(i64::cast_unsigned))
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.0[ExactSum::LIMBS - 1].cast_signed() < 0
    }

    fn negated(self) -> ExactSum {
        let mut limbs = self.0.map(|l| !l);
        for limb in &mut limbs {
            let (sum, carry) = limb.overflowing_add(1);
            *limb = sum;
            if !carry {
                break;
            }
        }
        ExactSum(limbs)
    }
}

impl fmt::Debug for ExactSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:e}", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[f64]) -> ExactSum {
        values.iter().fold(ExactSum::default(), |s, &v| s.checked_add(ExactSum::new(v).unwrap()).unwrap())
    }

    /// Values of every size that fits, and of either sign.
    fn value() -> impl Strategy<Value = f64> {
        (-1.0f64..1.0, -130i32..80).prop_map(|(m, e)| m * 2f64.powi(e))
    }

    #[test]
    fn what_an_f64_holds_exactly_comes_back() {
        for v in [
            0.0,
            1.0,
            -1.0,
            0.1,
            1e25,
            -1e25,
            2f64.powi(-104),
            -3.0 * 2f64.powi(-104),
            123_456.789,
            2f64.powi(63),
            2f64.powi(64),
        ] {
            assert_eq!(ExactSum::new(v).unwrap().value(), v, "{v}");
        }
        // Below the resolution: to the nearest multiple, ties to even.
        let unit = 2f64.powi(-104);
        for (v, want) in [(0.5, 0.0), (0.75, 1.0), (1.5, 2.0), (2.5, 2.0), (1e-30, 0.0), (-1.5, -2.0)] {
            assert_eq!(ExactSum::new(v * unit).unwrap().value(), want * unit, "{v}");
        }
        assert_eq!(ExactSum::new(f64::from_bits(1)).unwrap(), ExactSum::default());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for v in [f64::NAN, f64::INFINITY, -f64::INFINITY, f64::MAX, 2f64.powi(87)] {
            assert_eq!(ExactSum::new(v), None, "{v}");
        }
        let mut total = ExactSum::new(2f64.powi(85)).unwrap();
        total = total.checked_add(total).unwrap();
        assert_eq!(total.checked_add(total), None);
        let lowest = ExactSum::from_limbs([0, 0, i64::MIN]);
        assert_eq!((lowest.value(), lowest.checked_add(lowest)), (-2f64.powi(87), None));
    }

    #[test]
    fn a_sum_rounds_once() {
        // 2^53 + 1 lies between two f64; half a unit more decides.
        let two53 = 2f64.powi(53);
        assert_eq!(sum(&[two53, 1.0]).value(), two53);
        assert_eq!(sum(&[two53, 1.0, 2f64.powi(-100)]).value(), two53 + 2.0);
        assert_eq!(sum(&[two53, 1.0, 2f64.powi(-100), -two53]).value(), 1.0);
        assert_eq!(sum(&[1.0, 2f64.powi(-100), -1.0]).value(), 2f64.powi(-100), "nothing was lost on the way");
    }

    proptest! {
        #[test]
        fn order_and_grouping_change_no_bit(values in proptest::collection::vec(value(), 0..40), seed in any::<u64>(), cut in 0usize..40) {
            let whole = sum(&values);
            let mut shuffled = values.clone();
            let mut state = seed | 1;
            for i in (1..shuffled.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                shuffled.swap(i, (state >> 33) as usize % (i + 1));
            }
            prop_assert_eq!(sum(&shuffled), whole);
            let (left, right) = values.split_at(cut.min(values.len()));
            prop_assert_eq!(sum(left).checked_add(sum(right)).unwrap(), whole);
            prop_assert_eq!(ExactSum::from_limbs(whole.to_limbs()), whole);
        }

        /// Against integers: multiples of 2^-40 below 2^20 sum up exactly in i128.
        #[test]
        fn sums_are_those_of_integers(values in proptest::collection::vec(-(1i64 << 52)..1i64 << 52, 0..50)) {
            let unit = 2f64.powi(-40);
            let got = sum(&values.iter().map(|&v| v as f64 * unit).collect::<Vec<_>>()).value();
            let want: i128 = values.iter().map(|&v| i128::from(v)).sum();
            prop_assert_eq!(got, want as f64 * unit);
        }

        #[test]
        fn one_value_is_rounded_to_the_unit(v in value()) {
            let got = ExactSum::new(v).unwrap().value();
            prop_assert!((got - v).abs() <= 2f64.powi(-105), "{v} became {got}");
        }
    }
}
