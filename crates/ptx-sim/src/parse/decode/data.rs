//! Decoding of moves, comparisons, conversions and memory accesses.

use super::{Args, Decoded, Mods, arithmetic_class, compare};
use crate::counters::Class;
use crate::ir::*;

pub(super) fn moves(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    Ok(match base {
        "mov" => {
            let ty = m.ty()?;
            a.count(2)?;
            let op = match (&a.0[0], &a.0[1]) {
                (Operand::Vector(v), _) => {
                    a.src(1, ty)?;
                    parts(v, ty, true)?;
                    Op::Unpack(ty)
                }
                (_, Operand::Vector(v)) => {
                    a.dst(0, ty)?;
                    parts(v, ty, false)?;
                    Op::Pack(ty)
                }
                _ => {
                    a.uniform(2, ty)?;
                    Op::Mov(ty)
                }
            };
            (op, Class::Move)
        }
        "setp" => {
            let cmp = compare(m)?;
            let combine = m.one_of(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
            let ftz = m.take("ftz");
            let ty = m.ty()?;
            a.count(if combine.is_some() { 4 } else { 3 })?;
            match &a.0[0] {
                Operand::Pair(p)
                    if matches!(**p, (Operand::P(_, false) | Operand::Sink, Operand::P(_, false) | Operand::Sink)) => {}
                _ => a.dst(0, Type::Pred)?,
            }
            comparable(cmp, ty)?;
            a.src(1, ty)?;
            a.src(2, ty)?;
            if combine.is_some() {
                a.src(3, Type::Pred)?;
            }
            (Op::Setp { cmp, ty, combine, ftz }, arithmetic_class(ty))
        }
        "set" => {
            let cmp = compare(m)?;
            let ftz = m.take("ftz");
            let (to, ty) = (m.ty()?, m.ty()?);
            a.count(3)?;
            if !matches!(to, Type::U32 | Type::S32 | Type::F32) && !to.is_half() {
                return Err("this result type is not supported".to_owned());
            }
            if to.is_half() && to != ty {
                return Err("the types must agree".to_owned());
            }
            comparable(cmp, if ty.is_half() { Type::F32 } else { ty })?;
            a.dst(0, to)?;
            a.src(1, ty)?;
            a.src(2, ty)?;
            (Op::Set { cmp, to, ty, ftz }, arithmetic_class(ty))
        }
        "selp" => {
            let ty = m.ty()?;
            a.count(4)?;
            a.dst(0, ty)?;
            a.src(1, ty)?;
            a.src(2, ty)?;
            a.src(3, Type::Pred)?;
            (Op::Selp(ty), Class::Move)
        }
        "slct" => {
            let (ty, by) = (m.ty()?, m.ty()?);
            a.count(4)?;
            if !matches!(by, Type::S32 | Type::F32) {
                return Err("the selector must be s32 or f32".to_owned());
            }
            a.dst(0, ty)?;
            a.src(1, ty)?;
            a.src(2, ty)?;
            a.src(3, by)?;
            (Op::Slct(ty, by), Class::Move)
        }
        "cvt" => conversion(m, a)?,
        _ => {
            let to = m.take("to");
            let space = m.space()?;
            let ty = m.ty()?;
            if ty.bytes() != 8 || !matches!(space, Space::Global | Space::Shared) {
                return Err("only 64-bit global and shared addresses are supported".to_owned());
            }
            a.uniform(2, ty)?;
            (Op::Cvta { to, space }, Class::Integer)
        }
    })
}

fn comparable(cmp: Compare, ty: Type) -> Result<(), String> {
    let unordered = !matches!(cmp, Compare::Eq | Compare::Ne | Compare::Lt | Compare::Le | Compare::Gt | Compare::Ge);
    if ty == Type::Pred || ty.bytes() == 1 || ty == Type::Tf32 || matches!(ty, Type::F16x2 | Type::Bf16x2) {
        return Err("this type is not compared here".to_owned());
    }
    if unordered && !ty.is_float() {
        return Err("only floats have unordered comparisons".to_owned());
    }
    Ok(())
}

/// The parts of a packed register: 2 or 4 of equal width.
fn parts(v: &[Operand], ty: Type, result: bool) -> Result<(), String> {
    let width = ty.bytes() / v.len().max(1);
    let part = match width {
        1 => Type::B8,
        2 => Type::B16,
        4 => Type::B32,
        _ => return Err("the vector does not fit the type".to_owned()),
    };
    let good = |o: &Operand| {
        if result { *o == Operand::Sink || Args::fits(o, part, false) } else { Args::is_value(o, part, false) }
    };
    if v.len() * width == ty.bytes() && v.len() >= 2 && v.iter().all(good) {
        Ok(())
    } else {
        Err("the vector does not fit the type".to_owned())
    }
}

fn conversion(m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let integer = m.one_of(&[("rni", Round::Nearest), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)]);
    let rna = m.take("rna");
    let rounded = m.left.iter().any(|r| matches!(*r, "rn" | "rz" | "rm" | "rp"));
    let mut mods = m.float();
    if mods.nan {
        return Err("cvt has no .NaN".to_owned());
    }
    if let Some(r) = integer {
        mods.round = r;
    }
    let (to, from) = (m.ty()?, m.ty()?);
    let packed = matches!(to, Type::Bf16x2 | Type::F16x2);
    a.count(if packed { 3 } else { 2 })?;
    let wide = |i: usize, ty: Type| match a.0[i] {
        Operand::R(_) if ty.bytes() <= 4 && ty != Type::Pred => Ok(()),
        Operand::D(_) if ty.is_integer() || ty.bytes() == 8 => Ok(()),
        _ => a.src(i, ty),
    };
    match a.0[0] {
        Operand::R(_) | Operand::D(_) => wide(0, to)?,
        Operand::Sink => {}
        _ => return Err("the result register does not fit the type".to_owned()),
    }
    (1..a.0.len()).try_for_each(|i| wide(i, from))?;
    if packed && from != Type::F32 {
        return Err("packed halves come from two f32".to_owned());
    }
    if from == Type::Pred || to == Type::Pred || matches!(from, Type::Bf16x2 | Type::F16x2 | Type::Tf32) {
        return Err("this pair of types is not supported".to_owned());
    }
    let narrowing = match (to, from) {
        (Type::Tf32, Type::F32) => {
            if !rna && !rounded {
                return Err("needs a rounding".to_owned());
            }
            false
        }
        (Type::Tf32, _) => return Err("tf32 comes from f32".to_owned()),
        (t, f) if t.is_float() && f.is_float() => t.bytes() < f.bytes(),
        (t, f) if t.is_float() && f.is_integer() => true,
        _ => false,
    };
    if narrowing && !rounded && !packed {
        return Err("this conversion needs a rounding".to_owned());
    }
    if to.is_integer() && from.is_float() && integer.is_none() {
        return Err("a conversion from float to integer needs .rni, .rzi, .rmi or .rpi".to_owned());
    }
    if rna && to != Type::Tf32 {
        return Err(".rna is for tf32".to_owned());
    }
    if rna {
        // Nearest with ties away from zero; marked by the flag that tf32 has no other use for.
        mods.nan = true;
    }
    Ok((Op::Cvt { to, from, mods, integer: integer.is_some() }, Class::Convert))
}

/// Cache hints and scopes that change no result here.
pub(super) const HINTS: [&str; 22] = [
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "weak",
    "volatile",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "cta",
    "gpu",
    "sys",
    "cluster",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];

pub(super) fn memory(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    m.ignore(&HINTS);
    m.ignore(&[
        "nc",
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L2::evict_last",
        "L2::evict_first",
    ]);
    if base.starts_with("prefetch") || base == "discard" {
        m.ignore(&["global", "L1", "L2", "L2::evict_normal"]);
        a.count(1)?;
        a.address(0)?;
        return Ok((Op::Nop, Class::Global));
    }
    let space = m.space()?;
    let n: u8 = m.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    if base == "atom" || base == "red" {
        let op = m
            .one_of(&[
                ("add", AtomOp::Add),
                ("min", AtomOp::Min),
                ("max", AtomOp::Max),
                ("and", AtomOp::And),
                ("or", AtomOp::Or),
                ("xor", AtomOp::Xor),
                ("exch", AtomOp::Exch),
                ("cas", AtomOp::Cas),
                ("inc", AtomOp::Inc),
                ("dec", AtomOp::Dec),
            ])
            .ok_or("the operation is missing")?;
        m.ignore(&["noftz"]);
        let ty = m.ty()?;
        let result = base == "atom";
        let at = usize::from(result);
        a.count(at + if op == AtomOp::Cas { 3 } else { 2 })?;
        if n != 1 || space == Space::Param || ty.bytes() < 4 || ty.is_half() || (ty.is_float() && op != AtomOp::Add) {
            return Err("this atomic is not supported".to_owned());
        }
        if result {
            a.dst(0, ty)?;
        }
        a.address(at)?;
        (at + 1..a.0.len()).try_for_each(|i| a.src(i, ty))?;
        return Ok((Op::Atom { op, space, ty, result }, Class::Atomic));
    }
    let ty = m.ty()?;
    a.count(2)?;
    if ty == Type::Pred || usize::from(n) * ty.bytes() > 16 {
        return Err("this access is wider than 16 bytes".to_owned());
    }
    let class = match space {
        Space::Shared => Class::Shared,
        Space::Param => Class::Param,
        _ => Class::Global,
    };
    let (value, address) = if base == "st" { (1, 0) } else { (0, 1) };
    a.vector(value, n.into(), ty, base != "st")?;
    if space == Space::Param {
        match &a.0[address] {
            Operand::Address(b, _) if base != "st" && matches!(**b, Operand::Param(_)) => {}
            _ => return Err("only a load from a named parameter is supported".to_owned()),
        }
        return Ok((Op::LdParam { ty, n }, class));
    }
    a.address(address)?;
    Ok((if base == "st" { Op::St { space, ty, n } } else { Op::Ld { space, ty, n } }, class))
}
