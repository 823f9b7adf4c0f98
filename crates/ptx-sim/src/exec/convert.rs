//! `cvt`: conversions between integers and floats of all widths.

use super::warp::Warp;
use crate::ir::{FloatMods, Instruction, Op, Operand, Round, Type};
use crate::numeric::*;

/// Runs a conversion; false if the instruction is not one.
pub(crate) fn run(w: &mut Warp, i: &Instruction, m: u32) -> bool {
    let Op::Cvt { to, from, mods, integer } = i.op else { return false };
    let a = &*i.args;
    match (to, from) {
        (Type::Bf16x2 | Type::F16x2, _) => {
            w.map2(a, m, |x, y| u32::from(narrow(x, to, mods)) << 16 | u32::from(narrow(y, to, mods)))
        }
        (Type::Bf16, Type::F32) if mods.is_plain() => w.map1(a, m, |x| f32_to_bf16(f32::from_bits(x)).into()),
        (Type::Bf16 | Type::F16, Type::F32) => w.map1(a, m, |x| narrow(x, to, mods).into()),
        (Type::F32, Type::Bf16) if mods.is_plain() => w.map1(a, m, |x| canonical(bf16_to_f32(x as u16))),
        (Type::Tf32, _) => w.map1(a, m, |x| to_tf32(f32::from_bits(x), mods.round, mods.nan)),
        _ => convert(w, a, m, to, from, mods, integer),
    }
    true
}

/// f32 to a half.
fn narrow(x: u32, ty: Type, mods: FloatMods) -> u16 {
    let r = to_half(f32::from_bits(x).into(), ty, mods.round);
    if mods.relu && (r >> 15 == 1) {
        return 0;
    }
    if mods.sat { to_half(saturate(half_to_f32(r, ty)).into(), ty, Round::Nearest) } else { r }
}

/// A value on its way: PTX has no conversion that loses anything in one of these.
enum Value {
    Int(i128),
    Float(f64),
}

fn convert(w: &mut Warp, a: &[Operand], m: u32, to: Type, from: Type, mods: FloatMods, integer: bool) {
    let mut buffer = [0; 32];
    let x = w.get64(&a[1], &mut buffer);
    let mut out = [0; 32];
    for l in 0..32 {
        if m >> l & 1 == 1 {
            out[l] = one(x[l], to, from, mods, integer);
        }
    }
    w.set64(&a[0], &out, m);
}

fn one(x: u64, to: Type, from: Type, mods: FloatMods, integer: bool) -> u64 {
    let value = match from {
        Type::F32 => {
            let v = f32::from_bits(x as u32);
            Value::Float(if mods.ftz { flush(v) } else { v }.into())
        }
        Type::F64 => Value::Float(f64::from_bits(x)),
        t if t.is_half() => Value::Float(half_to_f32(x as u16, t).into()),
        Type::S8 => Value::Int((x as i8).into()),
        Type::S16 => Value::Int((x as i16).into()),
        Type::S32 => Value::Int((x as i32).into()),
        Type::S64 => Value::Int((x as i64).into()),
        Type::U8 | Type::B8 => Value::Int((x as u8).into()),
        Type::U16 | Type::B16 => Value::Int((x as u16).into()),
        Type::U32 | Type::B32 => Value::Int((x as u32).into()),
        _ => Value::Int(x.into()),
    };
    match value {
        Value::Int(v) if to.is_integer() => clamp_int(v, to, mods.sat),
        Value::Float(v) if to.is_integer() => {
            if v.is_nan() {
                let wide = from == Type::F64 || to.bytes() == 8;
                return if wide { 1 << (8 * to.bytes() - 1) } else { 0 };
            }
            clamp_int(to_integer(v, mods.round) as i128, to, true)
        }
        Value::Float(v) => {
            let v = if integer { to_integer(v, mods.round) } else { v };
            float_bits(v, to, mods)
        }
        Value::Int(v) => match to {
            Type::F64 => int_to_f64(v, mods.round).to_bits(),
            // Integers of 64 bits do not fit f64: round to odd first, so that the second rounding is correct.
            _ => float_bits(odd_f64(v), to, mods),
        },
    }
}

fn to_integer(v: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => v.round_ties_even(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
    }
}

/// The bits of an integer in a narrower type; `sat` clamps, otherwise high bits are dropped. Signed results are
/// sign-extended, as registers may be wider than the type.
fn clamp_int(v: i128, to: Type, sat: bool) -> u64 {
    let bits = 8 * to.bytes() as u32;
    let v = if sat {
        let (low, high) =
            if to.is_signed() { (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1) } else { (0, (1i128 << bits) - 1) };
        v.clamp(low, high)
    } else {
        v
    };
    match to {
        Type::S8 => v as i8 as i64 as u64,
        Type::S16 => v as i16 as i64 as u64,
        Type::S32 => v as i32 as i64 as u64,
        Type::U8 | Type::B8 => (v as u8).into(),
        Type::U16 | Type::B16 => (v as u16).into(),
        Type::U32 | Type::B32 => (v as u32).into(),
        _ => v as u64,
    }
}

fn float_bits(v: f64, to: Type, mods: FloatMods) -> u64 {
    match to {
        Type::F64 => {
            let v = if mods.sat { if v > 0.0 { v.min(1.0) } else { 0.0 } } else { v };
            v.to_bits()
        }
        Type::F32 => finish(v, mods).into(),
        t => {
            let r = to_half(v, t, mods.round);
            let r = if mods.sat { to_half(saturate(half_to_f32(r, t)).into(), t, Round::Nearest) } else { r };
            r.into()
        }
    }
}

fn int_to_f64(v: i128, round: Round) -> f64 {
    let near = v as f64;
    let back = near as i128;
    let step = |up: bool| {
        let b = near.to_bits();
        f64::from_bits(if up == (near > 0.0) { b + 1 } else { b - 1 })
    };
    match round {
        Round::Nearest => near,
        Round::Zero if back.abs() > v.abs() => step(near < 0.0),
        Round::Down if back > v => step(false),
        Round::Up if back < v => step(true),
        _ => near,
    }
}

fn odd_f64(v: i128) -> f64 {
    let down = int_to_f64(v, Round::Zero);
    if down as i128 != v && down.to_bits() & 1 == 0 { f64::from_bits(down.to_bits() + 1) } else { down }
}
