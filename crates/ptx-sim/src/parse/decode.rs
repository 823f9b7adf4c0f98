//! Opcode and operands to one operation. Each modifier must be used up and each operand must fit; what is left over
//! is an error, so no modifier is ever ignored by accident.

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

fn binary(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let f = m.float();
    let approx = m.take("approx") | m.take("full");
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
        if f.sat && ty == Type::F64 || ty == Type::F64 && f.ftz {
            return Err("f64 has no .sat and no .ftz".to_owned());
        }
        if ty != Type::F32 && f.round != Round::Nearest {
            return Err("only f32 is supported with this rounding".to_owned());
        }
        let class = if base == "div" { Class::Sfu } else { arithmetic_class(ty) };
        if approx {
            if base != "div" || ty != Type::F32 {
                return Err("only div.f32 is approximate".to_owned());
            }
            return Ok((Op::Approx(Approx::Div, f.ftz), class));
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

fn ternary(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let f = m.float();
    let wide = m.take("wide");
    let hi = m.take("hi");
    let lo = m.take("lo");
    let ty = m.ty()?;
    if ty.is_float() {
        if base == "sad" || wide || hi || lo || ty == Type::Tf32 {
            return Err("not a floating-point operation".to_owned());
        }
        if ty != Type::F32 && f.round != Round::Nearest {
            return Err("only f32 is supported with this rounding".to_owned());
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

fn unary(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let f = m.float();
    let shift = m.take("shiftamt");
    let ty = m.ty()?;
    a.count(2)?;
    a.src(1, ty)?;
    if ty.is_float() {
        a.dst(0, ty)?;
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

fn function(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
    let approx = m.take("approx");
    let rounded = m.left.iter().any(|r| matches!(*r, "rn" | "rz" | "rm" | "rp"));
    let f = m.float();
    let ty = m.ty()?;
    a.uniform(2, ty)?;
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
        t if t.is_half() && matches!(op, Approx::Ex2 | Approx::Tanh) => Ok((Op::ApproxHalf(op, t), Class::Sfu)),
        _ => Err("only f32 is supported".to_owned()),
    }
}

fn bits(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
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

fn moves(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
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
            m.ignore(&["ftz"]);
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
const HINTS: [&str; 22] = [
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

fn memory(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
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

fn tensor(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
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

fn control(base: &str, m: &mut Mods<'_>, a: &Args<'_>) -> Decoded {
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
