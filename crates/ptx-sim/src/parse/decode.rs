//! Opcode and operands to one operation. Each modifier must be used up and each operand must fit; what is left over
//! is an error, so no modifier is ever ignored by accident.

mod arithmetic;
mod data;
mod warp;

use self::arithmetic::{binary, bits, function, ternary, unary};
use self::data::{memory, moves};
use self::warp::{control, tensor};
use crate::counters::Class;
use crate::ir::*;

type Decoded = Result<(Op, Class), String>;

/// The modifiers of an opcode that nobody has claimed yet.
struct Mods<'a> {
    left: Vec<&'a str>,
}

impl<'a> Mods<'a> {
    fn take(&mut self, name: &str) -> bool {
        match self.left.iter().position(|m| *m == name) {
            Some(i) => {
                self.left.remove(i);
                true
            }
            None => false,
        }
    }

    /// Drops hints that change no result.
    fn ignore(&mut self, names: &[&str]) {
        self.left.retain(|m| !names.contains(m));
    }

    /// The first type among the modifiers.
    fn ty(&mut self) -> Result<Type, String> {
        let i = self.left.iter().position(|m| Type::parse(m).is_some()).ok_or("the type is missing")?;
        let name = self.left.remove(i);
        Type::parse(name).ok_or_else(|| "the type is missing".to_owned())
    }

    fn one_of<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        table.iter().find(|(n, _)| self.take(n)).map(|(_, v)| *v)
    }

    fn float(&mut self) -> FloatMods {
        let round = self
            .one_of(&[("rn", Round::Nearest), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)])
            .unwrap_or(Round::Nearest);
        FloatMods {
            round,
            ftz: self.take("ftz"),
            sat: self.take("sat"),
            relu: self.take("relu"),
            nan: self.take("NaN"),
        }
    }

    fn space(&mut self) -> Result<Space, String> {
        if self.take("local") {
            return Err("unsupported: local memory (spills or arrays with dynamic indices)".to_owned());
        }
        let table = [
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("param", Space::Param),
            ("param::entry", Space::Param),
        ];
        Ok(self.one_of(&table).unwrap_or(Space::Generic))
    }

    fn done(self) -> Result<(), String> {
        match self.left.first() {
            None => Ok(()),
            Some(m) => Err(format!("unsupported modifier or type `.{m}`")),
        }
    }
}

/// Checks operands against what an operation takes.
struct Args<'a>(&'a [Operand]);

impl Args<'_> {
    fn count(&self, n: usize) -> Result<(), String> {
        if self.0.len() == n { Ok(()) } else { Err(format!("takes {n} operands, has {}", self.0.len())) }
    }

    fn fits(o: &Operand, ty: Type, wide: bool) -> bool {
        match o {
            Operand::P(..) => ty == Type::Pred,
            Operand::D(_) => ty != Type::Pred && (ty.bytes() == 8 || wide),
            Operand::R(_) => ty != Type::Pred && ty.bytes() <= 4,
            _ => false,
        }
    }

    fn is_value(o: &Operand, ty: Type, wide: bool) -> bool {
        match o {
            Operand::Imm(_) => true,
            Operand::Special(_) => ty != Type::Pred,
            _ => Self::fits(o, ty, wide),
        }
    }

    /// Operand `i` is a register that can take a result of this type.
    fn dst(&self, i: usize, ty: Type) -> Result<(), String> {
        match &self.0[i] {
            Operand::P(_, true) => Err("a negated predicate cannot take a result".to_owned()),
            Operand::Sink => Ok(()),
            o if Self::fits(o, ty, false) => Ok(()),
            _ => Err("the result register does not fit the type".to_owned()),
        }
    }

    fn src(&self, i: usize, ty: Type) -> Result<(), String> {
        if Self::is_value(&self.0[i], ty, false) {
            Ok(())
        } else {
            Err(format!("operand {} does not fit the type", i + 1))
        }
    }

    /// A result and sources of one type.
    fn uniform(&self, n: usize, ty: Type) -> Result<(), String> {
        self.count(n)?;
        self.dst(0, ty)?;
        (1..n).try_for_each(|i| self.src(i, ty))
    }

    fn address(&self, i: usize) -> Result<(), String> {
        match &self.0[i] {
            Operand::Address(base, _) if matches!(**base, Operand::R(_) | Operand::D(_) | Operand::Imm(_)) => Ok(()),
            _ => Err(format!("operand {} is not an address in brackets with a register as its base", i + 1)),
        }
    }

    /// Operand `i` is a vector of `n` values (or results) of this type; a bare operand counts as a vector of one.
    fn vector(&self, i: usize, n: usize, ty: Type, result: bool) -> Result<(), String> {
        let one = std::slice::from_ref(&self.0[i]);
        let parts: &[Operand] = if let Operand::Vector(v) = &self.0[i] { v } else { one };
        let good = |o: &Operand| {
            if result { *o == Operand::Sink || Self::fits(o, ty, true) } else { Self::is_value(o, ty, true) }
        };
        if parts.len() != n {
            return Err(format!("operand {} is a vector of {}, not {n}", i + 1, parts.len()));
        }
        if parts.iter().all(good) { Ok(()) } else { Err(format!("operand {} does not fit the type", i + 1)) }
    }
}

fn arithmetic_class(ty: Type) -> Class {
    match ty {
        Type::F32 => Class::F32,
        Type::F64 => Class::F64,
        t if t.is_half() => Class::Half,
        _ => Class::Integer,
    }
}

fn compare(m: &mut Mods<'_>) -> Result<Compare, String> {
    m.one_of(&[
        ("eq", Compare::Eq),
        ("ne", Compare::Ne),
        ("lt", Compare::Lt),
        ("lo", Compare::Lt),
        ("le", Compare::Le),
        ("ls", Compare::Le),
        ("gt", Compare::Gt),
        ("hi", Compare::Gt),
        ("ge", Compare::Ge),
        ("hs", Compare::Ge),
        ("equ", Compare::Equ),
        ("neu", Compare::Neu),
        ("ltu", Compare::Ltu),
        ("leu", Compare::Leu),
        ("gtu", Compare::Gtu),
        ("geu", Compare::Geu),
        ("num", Compare::Num),
        ("nan", Compare::Nan),
    ])
    .ok_or_else(|| "the comparison is missing".to_owned())
}

/// Decodes an instruction.
pub(crate) fn decode(opcode: &str, operands: &[Operand]) -> Decoded {
    let mut words = opcode.split('.');
    let base = words.next().unwrap_or("");
    let mut m = Mods { left: words.collect() };
    let a = Args(operands);
    let found = match base {
        "add" | "sub" | "mul" | "div" | "min" | "max" | "rem" | "copysign" => binary(base, &mut m, &a)?,
        "mad" | "fma" | "sad" => ternary(base, &mut m, &a)?,
        "neg" | "abs" | "popc" | "clz" | "brev" | "bfind" => unary(base, &mut m, &a)?,
        "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => function(base, &mut m, &a)?,
        "and" | "or" | "xor" | "not" | "lop3" | "shl" | "shr" | "shf" | "bfi" | "bfe" | "prmt" | "dp4a" => {
            bits(base, &mut m, &a)?
        }
        "mov" | "setp" | "set" | "selp" | "slct" | "cvt" | "cvta" => moves(base, &mut m, &a)?,
        "ld" | "ldu" | "st" | "atom" | "red" | "prefetch" | "prefetchu" | "discard" => memory(base, &mut m, &a)?,
        "cp" | "ldmatrix" | "mma" => tensor(base, &mut m, &a)?,
        _ => control(base, &mut m, &a)?,
    };
    m.done()?;
    Ok(found)
}
