//! Decoding of warp-wide instructions and of control flow.

use super::data::HINTS;
use super::{Args, Decoded, Mods};
use crate::counters::Class;
use crate::ir::*;

pub(super) fn tensor(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    m.ignore(&["sync", "aligned"]);
    if base == "ldmatrix" {
        let n: u8 = m.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)]).ok_or("needs .x1, .x2 or .x4")?;
        let trans = m.take("trans");
        if !m.take("m8n8") || m.space()? != Space::Shared || m.ty()? != Type::B16 {
            return Err("needs .m8n8, .shared and .b16".to_owned());
        }
        a.count(2)?;
        a.vector(0, n.into(), Type::B32, true)?;
        a.address(1)?;
        return Ok((Op::Ldmatrix { n, trans }, Class::Ldmatrix));
    }
    if base == "mma" {
        return product(m, a);
    }
    if !m.take("async") {
        return Err("unsupported instruction".to_owned());
    }
    if m.take("commit_group") {
        a.count(0)?;
        return Ok((Op::CpCommit, Class::CpAsync));
    }
    if m.take("wait_all") {
        a.count(0)?;
        return Ok((Op::CpWaitAll, Class::CpAsync));
    }
    if m.take("wait_group") {
        a.count(1)?;
        return match a.0[0] {
            Operand::Imm(_) => Ok((Op::CpWait, Class::CpAsync)),
            _ => Err("the number of groups must be an immediate".to_owned()),
        };
    }
    let only_16 = m.take("cg");
    let any = m.take("ca");
    m.ignore(&["L2::64B", "L2::128B", "L2::256B"]);
    if !(m.take("shared") || m.take("shared::cta")) || !m.take("global") || !(only_16 || any) {
        return Err("needs .ca or .cg, .shared and .global".to_owned());
    }
    if !matches!(a.0.len(), 3 | 4) {
        return Err("takes 3 or 4 operands".to_owned());
    }
    a.address(0)?;
    a.address(1)?;
    match a.0[2] {
        Operand::Imm(16) => {}
        Operand::Imm(4 | 8) if !only_16 => {}
        _ => return Err("the size must be 16, or with .ca also 4 or 8".to_owned()),
    }
    if a.0.len() == 4 {
        a.src(3, Type::U32)?;
    }
    Ok((Op::CpAsync, Class::CpAsync))
}

fn product(m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let shape = m.one_of(&[("m16n8k16", 16), ("m16n8k8", 8), ("m16n8k32", 32)]).ok_or("this shape is not supported")?;
    if !m.take("row") || !m.take("col") {
        return Err("needs .row.col".to_owned());
    }
    let sat = m.take("satfinite");
    let types = [m.ty()?, m.ty()?, m.ty()?, m.ty()?];
    let (kind, na, nb) = match (shape, types) {
        (16, [Type::F32, x @ (Type::Bf16 | Type::F16), y, Type::F32]) if x == y => (MmaKind::M16n8k16(x), 4, 2),
        (8, [Type::F32, x @ (Type::Bf16 | Type::F16), y, Type::F32]) if x == y => (MmaKind::M16n8k8Half(x), 2, 1),
        (8, [Type::F32, Type::Tf32, Type::Tf32, Type::F32]) => (MmaKind::M16n8k8Tf32, 4, 2),
        (32, [Type::S32, x @ (Type::S8 | Type::U8), y @ (Type::S8 | Type::U8), Type::S32]) => {
            (MmaKind::M16n8k32 { a_signed: x.is_signed(), b_signed: y.is_signed(), sat }, 4, 2)
        }
        _ => return Err("these types are not supported".to_owned()),
    };
    if sat && shape != 32 {
        return Err(".satfinite is for integers".to_owned());
    }
    a.count(4)?;
    a.vector(0, 4, Type::B32, true)?;
    a.vector(1, na, Type::B32, false)?;
    a.vector(2, nb, Type::B32, false)?;
    a.vector(3, 4, Type::B32, false)?;
    Ok((Op::Mma(kind), Class::Mma))
}

pub(super) fn control(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let found = match base {
        "bra" => {
            m.ignore(&["uni"]);
            a.count(1)?;
            if !matches!(a.0[0], Operand::Label(_)) {
                return Err("the target must be a label".to_owned());
            }
            (Op::Bra, Class::Control)
        }
        "ret" | "exit" => {
            m.ignore(&["uni"]);
            a.count(0)?;
            (Op::Exit, Class::Control)
        }
        "trap" | "brkpt" => {
            a.count(0)?;
            (Op::Trap, Class::Control)
        }
        "bar" | "barrier" => {
            m.ignore(&["cta", "aligned"]);
            if m.take("warp") {
                m.ignore(&["sync"]);
                a.count(1)?;
                a.src(0, Type::B32)?;
                return Ok((Op::BarWarp, Class::Barrier));
            }
            let arrive = m.take("arrive");
            if !arrive && !m.take("sync") {
                return Err("only .sync and .arrive are supported".to_owned());
            }
            if !(1 + usize::from(arrive)..=2).contains(&a.0.len()) {
                return Err("takes a barrier and a number of threads".to_owned());
            }
            (0..a.0.len()).try_for_each(|i| a.src(i, Type::B32))?;
            (if arrive { Op::BarArrive } else { Op::Bar }, Class::Barrier)
        }
        "membar" | "fence" => {
            m.ignore(&HINTS);
            m.ignore(&["gl", "sc", "proxy"]);
            (Op::Fence, Class::Barrier)
        }
        "nanosleep" => {
            m.ignore(&["u32"]);
            (Op::Nop, Class::Control)
        }
        "shfl" => {
            let mode = m
                .one_of(&[
                    ("up", ShflMode::Up),
                    ("down", ShflMode::Down),
                    ("bfly", ShflMode::Bfly),
                    ("idx", ShflMode::Idx),
                ])
                .ok_or("the mode is missing")?;
            if !m.take("sync") {
                return Err("needs .sync".to_owned());
            }
            if m.ty()? != Type::B32 {
                return Err("needs b32".to_owned());
            }
            a.count(5)?;
            match &a.0[0] {
                Operand::Pair(p) if matches!(**p, (Operand::R(_) | Operand::Sink, Operand::P(_, false))) => {}
                _ => a.dst(0, Type::B32)?,
            }
            (1..5).try_for_each(|i| a.src(i, Type::B32))?;
            (Op::Shfl(mode), Class::Lanes)
        }
        "vote" => {
            let mode = m
                .one_of(&[
                    ("ballot", VoteMode::Ballot),
                    ("any", VoteMode::Any),
                    ("all", VoteMode::All),
                    ("uni", VoteMode::Uni),
                ])
                .ok_or("the mode is missing")?;
            if !m.take("sync") {
                return Err("needs .sync".to_owned());
            }
            let ty = m.ty()?;
            a.count(3)?;
            if ty != if mode == VoteMode::Ballot { Type::B32 } else { Type::Pred } {
                return Err("this type does not fit the mode".to_owned());
            }
            a.dst(0, ty)?;
            a.src(1, Type::Pred)?;
            a.src(2, Type::B32)?;
            (Op::Vote(mode), Class::Lanes)
        }
        "match" => {
            if !m.take("any") || !m.take("sync") {
                return Err("only match.any.sync is supported".to_owned());
            }
            let ty = m.ty()?;
            a.count(3)?;
            a.dst(0, Type::B32)?;
            a.src(1, ty)?;
            a.src(2, Type::B32)?;
            (Op::MatchAny(ty), Class::Lanes)
        }
        "activemask" => {
            if m.ty()? != Type::B32 {
                return Err("needs b32".to_owned());
            }
            a.count(1)?;
            a.dst(0, Type::B32)?;
            (Op::ActiveMask, Class::Lanes)
        }
        "redux" => {
            if !m.take("sync") {
                return Err("needs .sync".to_owned());
            }
            let op = m
                .one_of(&[
                    ("add", Redux::Add),
                    ("min", Redux::Min),
                    ("max", Redux::Max),
                    ("and", Redux::And),
                    ("or", Redux::Or),
                    ("xor", Redux::Xor),
                ])
                .ok_or("the operation is missing")?;
            let ty = m.ty()?;
            if !ty.is_integer() || ty.bytes() != 4 {
                return Err("needs a 32-bit integer type".to_owned());
            }
            a.uniform(3, ty)?;
            (Op::Redux(op, ty), Class::Lanes)
        }
        _ => return Err("unknown instruction".to_owned()),
    };
    Ok(found)
}
