//! Floating-point arithmetic, comparisons and the approximate functions.

use super::alu::combine;
use super::warp::{ALL, Lanes32, Warp};
use crate::Rounding;
use crate::ir::{Approx, Compare, Float1, Float2, FloatMods, Instruction, Op, Operand, Type};
use crate::numeric::*;

/// How approximate functions and tensor-core sums deviate in this run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deviation {
    pub(crate) rounding: Rounding,
    /// State of the seeded mix.
    pub(crate) state: u64,
}

impl Deviation {
    /// -1, 0 or +1: where in its error interval an approximate result shall lie.
    fn direction(&mut self) -> i32 {
        match self.rounding {
            Rounding::Nearest | Rounding::TruncateAccumulate => 0,
            Rounding::ApproxUp => 1,
            Rounding::ApproxDown => -1,
            Rounding::Mixed => {
                self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (self.state >> 33) as i32 % 3 - 1
            }
        }
    }

    pub(crate) fn truncates(&mut self) -> bool {
        match self.rounding {
            Rounding::TruncateAccumulate => true,
            Rounding::Mixed => self.direction() != 0,
            _ => false,
        }
    }

    /// Two units in the last place, or the absolute or relative error of the PTX manual where that is larger.
    fn apply(&mut self, f: Approx, argument: f32, exact: f64) -> f32 {
        let near = exact as f32;
        let direction = self.direction();
        if direction == 0 || !near.is_finite() {
            return near;
        }
        let d = f64::from(direction);
        match f {
            Approx::Lg2 if argument > 0.5 && argument < 2.0 => (exact + d * 2f64.powf(-22.6)) as f32,
            Approx::Sin | Approx::Cos => (exact + d * 2f64.powf(-20.9)) as f32,
            Approx::Tanh => (exact * (1.0 + d * 2f64.powi(-11))) as f32,
            _ => nudge(near, 2 * direction),
        }
    }
}

/// Runs an operation of this file; false if it is not one.
pub(crate) fn run(w: &mut Warp, i: &Instruction, m: u32, deviation: &mut Deviation) -> bool {
    let a = &*i.args;
    match i.op {
        Op::Float2(op, Type::F32, f) => float2(w, a, m, op, f),
        Op::Float2(op, Type::F64, _) => double2(w, a, m, op),
        Op::Float2(op, ty, f) => half2(w, a, m, op, ty, f),
        Op::Fma(Type::F32, f) if f.is_plain() => {
            w.map3(a, m, |x, y, z| canonical(fma_wide(f32::from_bits(x), f32::from_bits(y), f32::from_bits(z)) as f32))
        }
        Op::Fma(Type::F32, f) => w.map3(a, m, |x, y, z| {
            let [x, y, z] = [x, y, z].map(|v| input(v, f));
            finish(zero_sum(fma_wide(x, y, z), f64::from(x) * f64::from(y), z.into(), f.round), f)
        }),
        Op::Fma(Type::F64, _) => {
            w.map3_wide(a, m, |x, y, z| f64::from_bits(x).mul_add(f64::from_bits(y), f64::from_bits(z)).to_bits())
        }
        Op::Fma(ty, f) => w.map3(a, m, |x, y, z| {
            halves(ty, |s| {
                let [x, y, z] = [x, y, z].map(|v| half_to_f32((v >> s) as u16, ty));
                finish_half(fma_wide(x, y, z), ty, f)
            })
        }),
        Op::Float1(op, Type::F32, f) => match op {
            Float1::Neg => w.map1(a, m, |x| canonical(-input(x, f))),
            Float1::Abs => w.map1(a, m, |x| canonical(input(x, f).abs())),
            Float1::Rcp => w.map1(a, m, |x| finish(div_wide(1.0, input(x, f)), f)),
            Float1::Sqrt => w.map1(a, m, |x| finish(sqrt_wide(input(x, f)), f)),
        },
        Op::Float1(op, Type::F64, _) => w.map1_wide(a, m, |x| {
            let x = f64::from_bits(x);
            match op {
                Float1::Neg => -x,
                Float1::Abs => x.abs(),
                Float1::Rcp => 1.0 / x,
                Float1::Sqrt => x.sqrt(),
            }
            .to_bits()
        }),
        Op::Float1(op, ty, _) => w.map1(a, m, |x| {
            halves(ty, |s| {
                let x = (x >> s) as u16;
                if op == Float1::Neg { x ^ 0x8000 } else { x & 0x7fff }
            })
        }),
        Op::Approx(f, ftz) => approximate(w, a, m, f, ftz, deviation),
        Op::ApproxHalf(f, ty) => w.map1(a, m, |x| {
            halves(ty, |s| {
                let x = half_to_f32((x >> s) as u16, ty);
                let y = exact(f, x, 0.0);
                // The bf16 form of `ex2` flushes subnormal results.
                let y = if f == Approx::Ex2 && ty.is_bf16() { flush(y as f32).into() } else { y };
                to_half(y, ty, crate::ir::Round::Nearest)
            })
        }),
        Op::Setp { cmp, ty, combine: with, ftz } => {
            let p = compare(w, a, cmp, ty, ftz);
            let (yes, no) = match with {
                None => (p, !p),
                Some(l) => {
                    let c = w.pred(&a[3]);
                    (combine(l, p, c), combine(l, !p, c))
                }
            };
            if let Operand::Pair(both) = &a[0] {
                w.set_pred(&both.0, yes, m);
                w.set_pred(&both.1, no, m);
            } else {
                w.set_pred(&a[0], yes, m);
            }
        }
        Op::Set { cmp, to, ty, ftz } => set(w, a, m, cmp, to, ty, ftz),
        _ => return false,
    }
    true
}

fn input(bits: u32, f: FloatMods) -> f32 {
    let x = f32::from_bits(bits);
    if f.ftz { flush(x) } else { x }
}

/// Applies a function to one half or to both of a packed pair; it is given the shift of its half.
fn halves(ty: Type, f: impl Fn(u32) -> u16) -> u32 {
    if matches!(ty, Type::F16x2 | Type::Bf16x2) { u32::from(f(0)) | u32::from(f(16)) << 16 } else { f(0).into() }
}

fn finish_half(x: f64, ty: Type, f: FloatMods) -> u16 {
    let r = to_half(x, ty, f.round);
    let v = half_to_f32(r, ty);
    if f.sat {
        return to_half(saturate(v).into(), ty, f.round);
    }
    if f.relu && (v < 0.0 || r == 0x8000) { 0 } else { r }
}

fn float2(w: &mut Warp, a: &[Operand], m: u32, op: Float2, f: FloatMods) {
    if f.is_plain() {
        macro_rules! plain {
            ($e:expr) => {
                w.map2(a, m, |x, y| canonical($e(f32::from_bits(x), f32::from_bits(y))))
            };
        }
        match op {
            Float2::Add => plain!(|x: f32, y: f32| x + y),
            Float2::Sub => plain!(|x: f32, y: f32| x - y),
            Float2::Mul => plain!(|x: f32, y: f32| x * y),
            Float2::Div => plain!(|x: f32, y: f32| x / y),
            Float2::Min => plain!(|x, y| min_f32(x, y, f.nan)),
            Float2::Max => plain!(|x, y| max_f32(x, y, f.nan)),
            // The sign comes from the first operand.
            Float2::Copysign => w.map2(a, m, |x, y| x & 0x8000_0000 | y & 0x7fff_ffff),
        }
        return;
    }
    w.map2(a, m, |x, y| {
        let (x, y) = (input(x, f), input(y, f));
        let wide = match op {
            Float2::Add => zero_sum(add_wide(x, y), x.into(), y.into(), f.round),
            Float2::Sub => zero_sum(add_wide(x, -y), x.into(), (-y).into(), f.round),
            Float2::Mul => f64::from(x) * f64::from(y),
            Float2::Div => div_wide(x, y),
            Float2::Min => min_f32(x, y, f.nan).into(),
            Float2::Max => max_f32(x, y, f.nan).into(),
            Float2::Copysign => y.copysign(x).into(),
        };
        finish(wide, f)
    });
}

fn double2(w: &mut Warp, a: &[Operand], m: u32, op: Float2) {
    w.map2_wide(a, m, |x, y| {
        let (x, y) = (f64::from_bits(x), f64::from_bits(y));
        match op {
            Float2::Add => x + y,
            Float2::Sub => x - y,
            Float2::Mul => x * y,
            Float2::Div => x / y,
            Float2::Min => min_f64(x, y),
            Float2::Max => max_f64(x, y),
            Float2::Copysign => y.copysign(x),
        }
        .to_bits()
    });
}

fn half2(w: &mut Warp, a: &[Operand], m: u32, op: Float2, ty: Type, f: FloatMods) {
    w.map2(a, m, |x, y| {
        halves(ty, |s| {
            let (x, y) = (half_to_f32((x >> s) as u16, ty), half_to_f32((y >> s) as u16, ty));
            let wide = match op {
                Float2::Add => add_wide(x, y),
                Float2::Sub => add_wide(x, -y),
                Float2::Min => min_f32(x, y, f.nan).into(),
                Float2::Max => max_f32(x, y, f.nan).into(),
                _ => f64::from(x) * f64::from(y),
            };
            finish_half(wide, ty, f)
        })
    });
}

/// The function to f64 accuracy.
fn exact(f: Approx, x: f32, y: f32) -> f64 {
    let v = f64::from(x);
    match f {
        Approx::Ex2 => v.exp2(),
        Approx::Lg2 => v.log2(),
        Approx::Rcp => 1.0 / v,
        Approx::Rsqrt => 1.0 / v.sqrt(),
        Approx::Sqrt => v.sqrt(),
        Approx::Sin => v.sin(),
        Approx::Cos => v.cos(),
        Approx::Tanh => v.tanh(),
        Approx::Div | Approx::DivFull => v / f64::from(y),
    }
}

fn approximate(w: &mut Warp, a: &[Operand], m: u32, f: Approx, ftz: bool, deviation: &mut Deviation) {
    let mut bx: Lanes32 = [0; 32];
    let mut by: Lanes32 = [0; 32];
    let mut out = [0; 32];
    let x = w.get32(&a[1], &mut bx);
    let y = if matches!(f, Approx::Div | Approx::DivFull) { w.get32(&a[2], &mut by) } else { &by };
    for l in 0..32 {
        if m >> l & 1 == 0 {
            continue;
        }
        let (mut x, mut y) = (f32::from_bits(x[l]), f32::from_bits(y[l]));
        if ftz {
            (x, y) = (flush(x), flush(y));
        }
        // `div.approx` may give 0 for huge divisors; so it does here.
        let huge = f == Approx::Div && y.is_finite() && y.abs() > 8.507_059e37;
        let r = if huge {
            if x.is_infinite() { f32::NAN } else { 0f32.copysign(x) * 1f32.copysign(y) }
        } else {
            deviation.apply(f, x, exact(f, x, y))
        };
        out[l] = canonical(if ftz { flush(r) } else { r });
    }
    w.set32(&a[0], &out, m);
}

/// Compares lane by lane; a mask.
fn compare(w: &Warp, a: &[Operand], cmp: Compare, ty: Type, ftz: bool) -> u32 {
    macro_rules! ordered {
        ($x:expr, $y:expr) => {
            match cmp {
                Compare::Eq => $x == $y,
                Compare::Ne => $x != $y,
                Compare::Lt => $x < $y,
                Compare::Le => $x <= $y,
                Compare::Gt => $x > $y,
                Compare::Ge => $x >= $y,
                _ => false,
            }
        };
    }
    macro_rules! float {
        ($x:expr, $y:expr) => {{
            let (x, y) = ($x, $y);
            let unordered = x.is_nan() || y.is_nan();
            match cmp {
                Compare::Ne => !unordered && x != y,
                Compare::Equ => unordered || x == y,
                Compare::Neu => unordered || x != y,
                Compare::Ltu => unordered || x < y,
                Compare::Leu => unordered || x <= y,
                Compare::Gtu => unordered || x > y,
                Compare::Geu => unordered || x >= y,
                Compare::Num => !unordered,
                Compare::Nan => unordered,
                _ => ordered!(x, y),
            }
        }};
    }
    macro_rules! mask {
        ($get:ident, $x:ident, $y:ident, $e:expr) => {{
            let (mut bx, mut by) = ([0; 32], [0; 32]);
            let (xs, ys) = (w.$get(&a[1], &mut bx), w.$get(&a[2], &mut by));
            let mut out = 0u32;
            for l in 0..32 {
                let ($x, $y) = (xs[l], ys[l]);
                out |= u32::from($e) << l;
            }
            out
        }};
    }
    match ty {
        Type::F32 if ftz => mask!(get32, x, y, float!(flush(f32::from_bits(x)), flush(f32::from_bits(y)))),
        Type::F32 => mask!(get32, x, y, float!(f32::from_bits(x), f32::from_bits(y))),
        Type::F64 => mask!(get64, x, y, float!(f64::from_bits(x), f64::from_bits(y))),
        t if t.is_half() => mask!(get32, x, y, float!(half_to_f32(x as u16, t), half_to_f32(y as u16, t))),
        Type::S16 => mask!(get32, x, y, ordered!(x as i16, y as i16)),
        Type::U16 | Type::B16 => mask!(get32, x, y, ordered!(x as u16, y as u16)),
        Type::S64 => mask!(get64, x, y, ordered!(x as i64, y as i64)),
        Type::U64 | Type::B64 => mask!(get64, x, y, ordered!(x, y)),
        Type::S32 => mask!(get32, x, y, ordered!(x as i32, y as i32)),
        _ => mask!(get32, x, y, ordered!(x, y)),
    }
}

fn set(w: &mut Warp, a: &[Operand], m: u32, cmp: Compare, to: Type, ty: Type, ftz: bool) {
    let one: u32 = match to {
        Type::F32 => 1f32.to_bits(),
        Type::Bf16 | Type::Bf16x2 => 0x3f80,
        Type::F16 | Type::F16x2 => 0x3c00,
        _ => ALL,
    };
    let mut out = [0; 32];
    if matches!(ty, Type::F16x2 | Type::Bf16x2) {
        let (mut bx, mut by) = ([0; 32], [0; 32]);
        let (x, y) = (*w.get32(&a[1], &mut bx), *w.get32(&a[2], &mut by));
        let single = if ty == Type::F16x2 { Type::F16 } else { Type::Bf16 };
        for shift in [0, 16] {
            let part = |v: [u32; 32]| v.map(|v| v >> shift & 0xffff);
            let p = compare_values(&part(x), &part(y), cmp, single);
            for l in 0..32 {
                out[l] |= if p >> l & 1 == 1 { one << shift } else { 0 };
            }
        }
    } else {
        let p = compare(w, a, cmp, ty, ftz);
        for l in 0..32 {
            out[l] = if p >> l & 1 == 1 { one } else { 0 };
        }
    }
    w.set32(&a[0], &out, m);
}

/// Compares halves that are not in registers.
fn compare_values(x: &Lanes32, y: &Lanes32, cmp: Compare, ty: Type) -> u32 {
    let mut w = Warp::new(0, 0, 2, 0);
    w.r[0] = *x;
    w.r[1] = *y;
    compare(&w, &[Operand::Sink, Operand::R(0), Operand::R(1)], cmp, ty, false)
}
