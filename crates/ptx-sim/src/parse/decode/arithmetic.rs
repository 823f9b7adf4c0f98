//! Decoding of arithmetic, functions and bit operations.

use super::{Args, Decoded, Mods, arithmetic_class};
use crate::counters::Class;
use crate::ir::*;

pub(super) fn binary(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let f = m.float();
    let (approximate, full) = (m.take("approx"), m.take("full"));
    let approx = approximate | full;
    let wide = m.take("wide");
    let hi = m.take("hi");
    let lo = m.take("lo");
    let ty = m.ty()?;
    if ty == Type::Pred || ty.bytes() == 1 || ty == Type::Tf32 {
        return Err("no arithmetic on this type".to_owned());
    }
    if wide {
        if base != "mul" || !ty.is_integer() || ty.bytes() == 8 {
            return Err(".wide needs a 16-bit or 32-bit integer type".to_owned());
        }
        a.count(3)?;
        a.dst(0, double(ty))?;
        a.src(1, ty)?;
        a.src(2, ty)?;
        return Ok((Op::MulWide(ty), Class::Integer));
    }
    a.uniform(3, ty)?;
    if ty.is_float() {
        let picks = matches!(base, "min" | "max");
        if ty != Type::F32 && f.ftz || ty == Type::F64 && f.sat {
            return Err("only f32 is supported with .ftz, and f64 has no .sat".to_owned());
        }
        if f.relu || f.nan && !picks || picks && (f.sat || f.round != Round::Nearest) {
            return Err("a modifier that this operation does not have".to_owned());
        }
        if ty != Type::F32 && f.round != Round::Nearest {
            return Err("only f32 is supported with this rounding".to_owned());
        }
        let class = if base == "div" { Class::Sfu } else { arithmetic_class(ty) };
        if approx {
            if base != "div" || ty != Type::F32 {
                return Err("only div.f32 is approximate".to_owned());
            }
            let div = if full { Approx::DivFull } else { Approx::Div };
            return Ok((Op::Approx(div, f.ftz), class));
        }
        let op = match base {
            "add" => Float2::Add,
            "sub" => Float2::Sub,
            "mul" => Float2::Mul,
            "div" if !ty.is_half() => Float2::Div,
            "min" => Float2::Min,
            "max" => Float2::Max,
            "copysign" if !ty.is_half() => Float2::Copysign,
            _ => return Err("not a floating-point operation of this type".to_owned()),
        };
        return Ok((Op::Float2(op, ty, f), class));
    }
    let op = match base {
        "add" if f.sat => Int2::AddSat,
        "sub" if f.sat => Int2::SubSat,
        "add" => Int2::Add,
        "sub" => Int2::Sub,
        "mul" if hi => Int2::MulHi,
        "mul" if lo => Int2::MulLo,
        "mul" => return Err("an integer product needs .lo, .hi or .wide".to_owned()),
        "div" => Int2::Div,
        "rem" => Int2::Rem,
        "min" => Int2::Min,
        "max" => Int2::Max,
        _ => return Err("not an integer operation".to_owned()),
    };
    let saturates = matches!(op, Int2::AddSat | Int2::SubSat);
    if saturates && ty != Type::S32 || (f.sat && !saturates) || f.ftz || f.relu || f.nan || approx {
        return Err("a modifier that this integer operation does not have".to_owned());
    }
    if (hi || lo) && base != "mul" {
        return Err("only products have .lo and .hi".to_owned());
    }
    Ok((Op::Int2(op, ty), Class::Integer))
}

/// The integer type of twice the width.
fn double(ty: Type) -> Type {
    if ty.bytes() == 2 { Type::B32 } else { Type::B64 }
}

pub(super) fn ternary(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let f = m.float();
    let wide = m.take("wide");
    let hi = m.take("hi");
    let lo = m.take("lo");
    let ty = m.ty()?;
    if ty.is_float() {
        if base == "sad" || wide || hi || lo || ty == Type::Tf32 {
            return Err("not a floating-point operation".to_owned());
        }
        if ty != Type::F32 && (f.round != Round::Nearest || f.ftz) {
            return Err("only f32 is supported with this rounding or .ftz".to_owned());
        }
        if f.nan || f.relu && !ty.is_half() || f.sat && ty == Type::F64 {
            return Err("a modifier that this operation does not have".to_owned());
        }
        a.uniform(4, ty)?;
        return Ok((Op::Fma(ty, f), arithmetic_class(ty)));
    }
    if !ty.is_integer() || ty.bytes() == 1 || base == "fma" || f.ftz {
        return Err("not an operation of this type".to_owned());
    }
    if wide {
        if ty.bytes() == 8 {
            return Err(".wide needs a 16-bit or 32-bit integer type".to_owned());
        }
        a.count(4)?;
        a.dst(0, double(ty))?;
        a.src(1, ty)?;
        a.src(2, ty)?;
        a.src(3, double(ty))?;
        return Ok((Op::MadWide(ty), Class::Integer));
    }
    a.uniform(4, ty)?;
    let op = match base {
        "sad" => Op::Sad(ty),
        _ if hi => Op::MadHi(ty, f.sat),
        _ if lo => Op::MadLo(ty),
        _ => return Err("an integer product needs .lo, .hi or .wide".to_owned()),
    };
    if f.sat && (!hi || ty != Type::S32) {
        return Err(".sat needs mad.hi.s32".to_owned());
    }
    Ok((op, Class::Integer))
}

pub(super) fn unary(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let f = m.float();
    let shift = m.take("shiftamt");
    if f.sat || f.relu || f.nan || f.round != Round::Nearest {
        return Err("a modifier that this operation does not have".to_owned());
    }
    let ty = m.ty()?;
    a.count(2)?;
    a.src(1, ty)?;
    if ty.is_float() {
        a.dst(0, ty)?;
        if f.ftz && ty != Type::F32 {
            return Err("only f32 is supported with .ftz".to_owned());
        }
        let op = match base {
            "neg" => Float1::Neg,
            "abs" => Float1::Abs,
            _ => return Err("not a floating-point operation".to_owned()),
        };
        return Ok((Op::Float1(op, ty, f), arithmetic_class(ty)));
    }
    if !ty.is_integer() || ty.bytes() == 1 || f.ftz {
        return Err("not an operation of this type".to_owned());
    }
    let op = match base {
        "neg" => Int1::Neg,
        "abs" => Int1::Abs,
        "popc" => Int1::Popc,
        "clz" => Int1::Clz,
        "brev" => Int1::Brev,
        _ => Int1::Bfind(shift),
    };
    let to = if matches!(op, Int1::Popc | Int1::Clz | Int1::Bfind(_)) { Type::B32 } else { ty };
    a.dst(0, to)?;
    Ok((Op::Int1(op, ty), Class::Integer))
}

pub(super) fn function(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let approx = m.take("approx");
    let rounded = m.left.iter().any(|r| matches!(*r, "rn" | "rz" | "rm" | "rp"));
    let f = m.float();
    let ty = m.ty()?;
    a.uniform(2, ty)?;
    if f.sat || f.relu || f.nan {
        return Err("a modifier that this function does not have".to_owned());
    }
    let exact = match base {
        "rcp" => Some(Float1::Rcp),
        "sqrt" => Some(Float1::Sqrt),
        _ => None,
    };
    if let (Some(op), true) = (exact, rounded) {
        if approx || !matches!(ty, Type::F32 | Type::F64) || (ty == Type::F64 && f.round != Round::Nearest) {
            return Err("only f32, and f64 to nearest, is supported".to_owned());
        }
        return Ok((Op::Float1(op, ty, f), Class::Sfu));
    }
    let op = match base {
        "ex2" => Approx::Ex2,
        "lg2" => Approx::Lg2,
        "rcp" => Approx::Rcp,
        "sqrt" => Approx::Sqrt,
        "rsqrt" => Approx::Rsqrt,
        "sin" => Approx::Sin,
        "cos" => Approx::Cos,
        _ => Approx::Tanh,
    };
    if !approx || rounded {
        return Err("needs .approx or a rounding".to_owned());
    }
    match ty {
        Type::F32 => Ok((Op::Approx(op, f.ftz), Class::Sfu)),
        // `ex2` of bf16 is always written with .ftz, the others never.
        t if t.is_half() && (op == Approx::Tanh && !f.ftz || op == Approx::Ex2 && f.ftz == t.is_bf16()) => {
            Ok((Op::ApproxHalf(op, t), Class::Sfu))
        }
        _ => Err("only f32 is supported".to_owned()),
    }
}

pub(super) fn bits(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let class = Class::Integer;
    let op = match base {
        "and" | "or" | "xor" => {
            let ty = m.ty()?;
            a.uniform(3, ty)?;
            let l = match base {
                "and" => Logic::And,
                "or" => Logic::Or,
                _ => Logic::Xor,
            };
            Op::Logic(l, ty)
        }
        "not" => {
            let ty = m.ty()?;
            a.uniform(2, ty)?;
            Op::Not(ty)
        }
        "lop3" => {
            let ty = m.ty()?;
            a.count(5)?;
            if ty != Type::B32 {
                return Err("needs b32".to_owned());
            }
            a.dst(0, ty)?;
            (1..4).try_for_each(|i| a.src(i, ty))?;
            match a.0[4] {
                Operand::Imm(t) if t < 256 => Op::Lop3(t as u8),
                _ => return Err("the table must be an immediate below 256".to_owned()),
            }
        }
        "shl" | "shr" => {
            let ty = m.ty()?;
            if !ty.is_integer() || ty.bytes() == 1 {
                return Err("not an operation of this type".to_owned());
            }
            a.count(3)?;
            a.dst(0, ty)?;
            a.src(1, ty)?;
            a.src(2, Type::B32)?;
            Op::Int2(if base == "shl" { Int2::Shl } else { Int2::Shr }, ty)
        }
        "shf" => {
            let left = m.one_of(&[("l", true), ("r", false)]).ok_or("needs .l or .r")?;
            let wrap = m.one_of(&[("wrap", true), ("clamp", false)]).ok_or("needs .wrap or .clamp")?;
            if m.ty()? != Type::B32 {
                return Err("needs b32".to_owned());
            }
            a.uniform(4, Type::B32)?;
            Op::Shf { left, wrap }
        }
        "bfi" => {
            let ty = m.ty()?;
            a.count(5)?;
            a.dst(0, ty)?;
            a.src(1, ty)?;
            a.src(2, ty)?;
            a.src(3, Type::B32)?;
            a.src(4, Type::B32)?;
            if !matches!(ty, Type::B32 | Type::B64) {
                return Err("needs b32 or b64".to_owned());
            }
            Op::Bfi(ty)
        }
        "bfe" => {
            let ty = m.ty()?;
            a.count(4)?;
            a.dst(0, ty)?;
            a.src(1, ty)?;
            a.src(2, Type::B32)?;
            a.src(3, Type::B32)?;
            if !ty.is_integer() || ty.bytes() < 4 {
                return Err("needs a 32-bit or 64-bit integer type".to_owned());
            }
            Op::Bfe(ty)
        }
        "prmt" => {
            if m.ty()? != Type::B32 {
                return Err("needs b32".to_owned());
            }
            a.uniform(4, Type::B32)?;
            Op::Prmt
        }
        _ => {
            let (x, y) = (m.ty()?, m.ty()?);
            if !matches!((x, y), (Type::U32 | Type::S32, Type::U32 | Type::S32)) {
                return Err("needs u32 or s32".to_owned());
            }
            a.uniform(4, Type::B32)?;
            Op::Dp4a { a_signed: x.is_signed(), b_signed: y.is_signed() }
        }
    };
    Ok((op, class))
}
