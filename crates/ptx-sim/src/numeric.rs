//! Floating-point rules that Rust's own operators do not give: formats narrower than f32, directed rounding, exact
//! fused multiply-add without hardware support, and what PTX says about NaN and signed zeros.

use crate::ir::{FloatMods, Round, Type};

/// The NaN that PTX arithmetic produces.
pub(crate) const NAN: u32 = 0x7fff_ffff;

pub(crate) fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// To nearest, ties to even; NaN becomes 0x7fff.
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let b = x.to_bits();
    (b.wrapping_add(0x7fff + (b >> 16 & 1)) >> 16) as u16
}

pub(crate) fn f16_to_f32(x: u16) -> f32 {
    let sign = u32::from(x & 0x8000) << 16;
    let (e, m) = (u32::from(x >> 10 & 31), u32::from(x & 0x3ff));
    match (e, m) {
        (31, 0) => f32::from_bits(sign | 0x7f80_0000),
        (31, _) => f32::from_bits(NAN),
        (0, _) => {
            let v = m as f32 * f32::from_bits(0x3380_0000); // 2^-24
            f32::from_bits(sign | v.to_bits())
        }
        _ => f32::from_bits(sign | (e + 112) << 23 | m << 13),
    }
}

/// A floating-point format: explicit mantissa bits, smallest exponent, largest finite value.
struct Format {
    mantissa: i32,
    min_exponent: i32,
    max: f64,
}

const BF16: Format = Format { mantissa: 7, min_exponent: -126, max: 3.389_531_389_251_535_5e38 };
const F16: Format = Format { mantissa: 10, min_exponent: -14, max: 65504.0 };
const TF32: Format = Format { mantissa: 10, min_exponent: -126, max: 3.401_162_134_214_653e38 };
const F32: Format = Format { mantissa: 23, min_exponent: -126, max: f32::MAX as f64 };

fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

/// Rounds to a format; the result is exact in f64.
fn round_to(x: f64, f: &Format, round: Round) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).clamp(f.min_exponent, 1000);
    let quantum = exponent - f.mantissa;
    let scaled = x * power(-quantum);
    let r = match round {
        Round::Nearest => scaled.round_ties_even(),
        Round::Zero => scaled.trunc(),
        Round::Down => scaled.floor(),
        Round::Up => scaled.ceil(),
    };
    // A result of zero keeps the sign of the operand.
    let r = (r * power(quantum)).copysign(x);
    if r.abs() <= f.max {
        return r;
    }
    let to_infinity = match round {
        Round::Nearest => true,
        Round::Zero => false,
        Round::Down => x < 0.0,
        Round::Up => x > 0.0,
    };
    if to_infinity { f64::INFINITY.copysign(x) } else { f.max.copysign(x) }
}

pub(crate) fn to_f16(x: f64, round: Round) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let r = round_to(x, &F16, round);
    let sign = if r.is_sign_negative() { 0x8000 } else { 0 };
    let a = r.abs();
    if a.is_infinite() {
        return sign | 0x7c00;
    }
    if a < power(-14) {
        return sign | (a * power(24)) as u16;
    }
    let b = a.to_bits();
    let e = (b >> 52) as i32 - 1023 + 15;
    sign | (e as u16) << 10 | (b >> 42 & 0x3ff) as u16
}

pub(crate) fn to_bf16(x: f64, round: Round) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    ((round_to(x, &BF16, round) as f32).to_bits() >> 16) as u16
}

/// To f32 in any rounding mode.
pub(crate) fn to_f32(x: f64, round: Round) -> f32 {
    if round == Round::Nearest {
        return x as f32;
    }
    round_to(x, &F32, round) as f32
}

/// To tf32 kept in an f32; `away` rounds ties away from zero (`.rna`).
pub(crate) fn to_tf32(x: f32, round: Round, away: bool) -> u32 {
    if x.is_nan() {
        return NAN;
    }
    if away {
        let b = x.to_bits();
        if x.is_infinite() {
            return b;
        }
        return b.wrapping_add(0x1000) & !0x1fff;
    }
    (round_to(f64::from(x), &TF32, round) as f32).to_bits()
}

/// Widens a half of either kind.
pub(crate) fn half_to_f32(x: u16, ty: Type) -> f32 {
    if matches!(ty, Type::Bf16 | Type::Bf16x2) { bf16_to_f32(x) } else { f16_to_f32(x) }
}

/// Rounds to a half of either kind.
pub(crate) fn to_half(x: f64, ty: Type, round: Round) -> u16 {
    if matches!(ty, Type::Bf16 | Type::Bf16x2) { to_bf16(x, round) } else { to_f16(x, round) }
}

pub(crate) fn flush(x: f32) -> f32 {
    if x.is_subnormal() { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

pub(crate) fn canonical(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

/// `a + b` in f64, rounded to odd: a later rounding to f32 in any mode is then correct.
fn add_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    let t = s - a;
    let error = (a - (s - t)) + (b - t);
    to_odd(s, error)
}

/// Rounds a result to odd, given the sign of what was lost.
fn to_odd(s: f64, error: f64) -> f64 {
    let bits = s.to_bits();
    let away = (error > 0.0) == (s > 0.0);
    let moved = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    // A comparison with NaN is false, so infinities and NaN stay as they are.
    let inexact = error.abs() > 0.0 && bits & 1 == 0 && s.is_finite();
    f64::from_bits(if inexact { moved } else { bits })
}

/// `a * b + c` before the one rounding to f32: exact enough for every rounding mode.
pub(crate) fn fma_wide(a: f32, b: f32, c: f32) -> f64 {
    // The product of two f32 has 48 bits: exact in f64.
    add_odd(f64::from(a) * f64::from(b), f64::from(c))
}

pub(crate) fn add_wide(a: f32, b: f32) -> f64 {
    add_odd(f64::from(a), f64::from(b))
}

/// A sum of opposite numbers is +0, but -0 when rounding down.
pub(crate) fn zero_sum(sum: f64, a: f64, b: f64, round: Round) -> f64 {
    let opposite = a.is_sign_negative() != b.is_sign_negative();
    if sum == 0.0 && opposite && round == Round::Down { -0.0 } else { sum }
}

pub(crate) fn div_wide(a: f32, b: f32) -> f64 {
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    if !q.is_finite() || b.is_infinite() {
        return q;
    }
    let rest = (-q).mul_add(b, a);
    to_odd(q, if b < 0.0 { -rest } else { rest })
}

pub(crate) fn sqrt_wide(a: f32) -> f64 {
    let a = f64::from(a);
    let q = a.sqrt();
    if !q.is_finite() || q == 0.0 {
        return q;
    }
    to_odd(q, (-q).mul_add(q, a))
}

/// Rounding, then the modifiers.
pub(crate) fn finish(x: f64, m: FloatMods) -> u32 {
    let mut r = to_f32(x, m.round);
    if m.ftz {
        r = flush(r);
    }
    if m.sat {
        r = saturate(r);
    }
    if m.relu && r < 0.0 {
        r = 0.0;
    }
    canonical(r)
}

/// To [0, 1]; NaN becomes 0.
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

/// PTX minimum: a number wins over NaN (unless `nan`), -0 is below +0.
pub(crate) fn min_f32(a: f32, b: f32, nan: bool) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (false, false) if a == b => f32::from_bits(a.to_bits() | b.to_bits()),
        (false, false) => a.min(b),
        (true, false) if !nan => b,
        (false, true) if !nan => a,
        _ => f32::from_bits(NAN),
    }
}

/// PTX maximum: a number wins over NaN (unless `nan`), +0 is above -0.
pub(crate) fn max_f32(a: f32, b: f32, nan: bool) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (false, false) if a == b => f32::from_bits(a.to_bits() & b.to_bits()),
        (false, false) => a.max(b),
        (true, false) if !nan => b,
        (false, true) if !nan => a,
        _ => f32::from_bits(NAN),
    }
}

pub(crate) fn min_f64(a: f64, b: f64) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (false, false) if a == b => f64::from_bits(a.to_bits() | b.to_bits()),
        (false, false) => a.min(b),
        (true, false) => b,
        (false, true) => a,
        (true, true) => f64::NAN,
    }
}

pub(crate) fn max_f64(a: f64, b: f64) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (false, false) if a == b => f64::from_bits(a.to_bits() & b.to_bits()),
        (false, false) => a.max(b),
        (true, false) => b,
        (false, true) => a,
        (true, true) => f64::NAN,
    }
}

/// Moves a finite, non-zero value by `n` units in the last place.
pub(crate) fn nudge(x: f32, n: i32) -> f32 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let b = x.to_bits();
    let up = (n > 0) == (x > 0.0);
    let magnitude = b & 0x7fff_ffff;
    let moved = if up { magnitude + n.unsigned_abs() } else { magnitude.saturating_sub(n.unsigned_abs()) };
    f32::from_bits(b & 0x8000_0000 | moved.min(0x7f7f_ffff))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn fma_without_hardware_is_fma() {
        let mut s = 88_172_645_463_325_252;
        let special = [0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-45, 1.0];
        for i in 0..300_000 {
            let mut v = [0.0f32; 3];
            for x in &mut v {
                let r = random(&mut s);
                *x = match i % 4 {
                    // Any bits; near values that cancel; special values.
                    0 => f32::from_bits(r as u32),
                    1 => f32::from_bits((r as u32 & 0x80ff_ffff) | 0x3f00_0000),
                    2 => f32::from_bits((r as u32 & 0x83ff_ffff) | 0x2000_0000),
                    _ => special[(r % 9) as usize],
                };
            }
            let [a, b, c] = v;
            let (want, got) = (a.mul_add(b, c), fma_wide(a, b, c) as f32);
            assert!(
                want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(),
                "{a:e} {b:e} {c:e}: {want:e} {got:e}"
            );
        }
    }

    #[test]
    fn every_half_survives_the_round_trip() {
        for x in 0..=u16::MAX {
            let f = f16_to_f32(x);
            assert!(f.is_nan() || to_f16(f64::from(f), Round::Nearest) == x, "{x:#x}");
            let b = bf16_to_f32(x);
            assert!(b.is_nan() || to_bf16(f64::from(b), Round::Nearest) == x && f32_to_bf16(b) == x, "{x:#x}");
        }
    }

    #[test]
    fn directed_rounding_brackets_the_value() {
        let third = div_wide(1.0, 3.0);
        assert_eq!(to_f32(third, Round::Down), to_f32(third, Round::Zero));
        assert_eq!(nudge(to_f32(third, Round::Down), 1), to_f32(third, Round::Up));
        assert_eq!(to_f32(-third, Round::Up), -to_f32(third, Round::Zero));
        assert_eq!(to_f32(1e300, Round::Zero), f32::MAX);
        assert_eq!(to_f32(1e300, Round::Down), f32::MAX);
        assert_eq!(to_f32(1e300, Round::Up), f32::INFINITY);
        assert_eq!(to_f16(65519.0, Round::Nearest), 0x7bff);
        assert_eq!(to_f16(65520.0, Round::Nearest), 0x7c00);
        assert_eq!(to_f16(1e-9, Round::Up), 1);
    }

    #[test]
    fn bfloat_ties_go_to_even() {
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
    }
}
