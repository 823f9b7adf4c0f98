//! Names and operands: registers, immediates, addresses, vectors.

use std::collections::HashMap;

use super::ParseError;
use super::cursor::Cursor;
use super::lexer::{Kind, Token};
use crate::ir::{Operand, Special, Type};

/// What a register name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reg {
    P(u32),
    R(u32),
    D(u32),
}

/// Most registers of one kernel: ptxas gives up far earlier, and a mistyped count must not fill memory.
const MAX_REGISTERS: u32 = 1 << 16;

/// Everything that names can mean inside one kernel.
#[derive(Default)]
pub(crate) struct Names<'a> {
    /// Blocks `{ ... }` open scopes for registers; the innermost is last.
    scopes: Vec<HashMap<&'a str, Reg>>,
    /// Register families `%r<9>`: prefix, class and first index, count; the innermost scope is last.
    families: Vec<(usize, &'a str, Reg, u32)>,
    pub(crate) predicates: u32,
    pub(crate) r: u32,
    pub(crate) d: u32,
    pub(crate) labels: HashMap<&'a str, u32>,
    pub(crate) params: HashMap<&'a str, u32>,
    /// Offsets in shared memory.
    pub(crate) shared: HashMap<&'a str, u64>,
}

impl<'a> Names<'a> {
    pub(crate) fn open(&mut self) {
        self.scopes.push(HashMap::new());
    }

    pub(crate) fn close(&mut self) {
        self.scopes.pop();
        let depth = self.scopes.len();
        self.families.retain(|f| f.0 <= depth);
    }

    /// Declares `count` registers; a family (`%r<9>`) if `family`.
    pub(crate) fn declare(&mut self, ty: Type, name: &Token<'a>, family: bool, count: u32) -> Result<(), ParseError> {
        let counter = match ty {
            Type::Pred => &mut self.predicates,
            t if t.bytes() == 8 => &mut self.d,
            _ => &mut self.r,
        };
        let first = *counter;
        *counter = first
            .checked_add(count)
            .filter(|&n| n <= MAX_REGISTERS)
            .ok_or_else(|| ParseError::new(name.line, name.text, "too many registers"))?;
        let reg = match ty {
            Type::Pred => Reg::P(first),
            t if t.bytes() == 8 => Reg::D(first),
            _ => Reg::R(first),
        };
        if family {
            self.families.push((self.scopes.len(), name.text, reg, count));
        } else if let Some(s) = self.scopes.last_mut() {
            s.insert(name.text, reg);
        }
        Ok(())
    }

    fn register(&self, name: &str) -> Option<Reg> {
        for s in self.scopes.iter().rev() {
            if let Some(&r) = s.get(name) {
                return Some(r);
            }
        }
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        // A prefix may itself end in digits, so each split is tried, the usual one first.
        for split in name.len() - digits..name.len() {
            let (prefix, number) = name.split_at(split);
            let Ok(n) = number.parse::<u32>() else { continue };
            if let Some(&(_, _, first, _)) =
                self.families.iter().rev().find(|(_, p, _, count)| *p == prefix && n < *count)
            {
                return Some(match first {
                    Reg::P(i) => Reg::P(i + n),
                    Reg::R(i) => Reg::R(i + n),
                    Reg::D(i) => Reg::D(i + n),
                });
            }
        }
        None
    }

    /// A name or a number.
    fn simple(&self, t: &Token<'a>) -> Result<Operand, ParseError> {
        let s = t.text;
        if s == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(r) = self.register(s) {
            return Ok(match r {
                Reg::P(i) => Operand::P(i, false),
                Reg::R(i) => Operand::R(i),
                Reg::D(i) => Operand::D(i),
            });
        }
        if s == "WARP_SZ" {
            return Ok(Operand::Imm(32));
        }
        if s.starts_with('%') {
            return special(s).map(Operand::Special).ok_or_else(|| ParseError::new(t.line, s, "unknown register"));
        }
        if s.starts_with(|c: char| c.is_ascii_digit()) {
            return immediate(s)
                .map(Operand::Imm)
                .ok_or_else(|| ParseError::new(t.line, s, "not a number that PTX knows"));
        }
        if let Some(&o) = self.params.get(s) {
            return Ok(Operand::Param(o));
        }
        if let Some(&o) = self.shared.get(s) {
            return Ok(Operand::Imm(o));
        }
        if let Some(&l) = self.labels.get(s) {
            return Ok(Operand::Label(l));
        }
        Err(ParseError::new(
            t.line,
            s,
            "unknown name (only parameters, registers, labels and shared variables are known)",
        ))
    }

    /// One operand, up to the next `,` or `;`.
    pub(crate) fn operand(&self, c: &mut Cursor<'_, 'a>) -> Result<Operand, ParseError> {
        self.nested(c, 0)
    }

    fn nested(&self, c: &mut Cursor<'_, 'a>, depth: u32) -> Result<Operand, ParseError> {
        let t = c.next()?;
        if depth > 2 {
            return Err(ParseError::new(t.line, t.text, "operands are nested too deeply"));
        }
        match t.kind {
            Kind::Word => {
                let first = self.simple(&t)?;
                if c.eat(b'|') {
                    let second = c.next()?;
                    let second = self.simple(&second)?;
                    return Ok(Operand::Pair(Box::new((first, second))));
                }
                Ok(first)
            }
            Kind::Punct(b'-') => {
                let n = c.next()?;
                let v = immediate(n.text).ok_or_else(|| ParseError::new(n.line, n.text, "not a number"))?;
                // A minus before the bits of a float flips its sign; before an integer it negates.
                Ok(Operand::Imm(match n.text.as_bytes() {
                    [b'0', b'f' | b'F', ..] => v ^ 0x8000_0000,
                    [b'0', b'd' | b'D', ..] => v ^ (1 << 63),
                    _ => v.wrapping_neg(),
                }))
            }
            Kind::Punct(b'!') => {
                let n = c.next()?;
                match self.simple(&n)? {
                    Operand::P(i, neg) => Ok(Operand::P(i, !neg)),
                    _ => Err(ParseError::new(n.line, n.text, "only a predicate can be negated")),
                }
            }
            Kind::Punct(b'{') => {
                let mut parts = Vec::new();
                loop {
                    parts.push(self.nested(c, depth + 1)?);
                    if c.eat(b'}') {
                        break;
                    }
                    c.expect(b',')?;
                }
                Ok(Operand::Vector(parts.into()))
            }
            Kind::Punct(b'[') => {
                let base = c.next()?;
                let base = self.simple(&base)?;
                let mut offset = 0i64;
                while !c.eat(b']') {
                    let sign = c.next()?;
                    let mut negative = sign.is(b'-');
                    if !negative && !sign.is(b'+') {
                        return Err(ParseError::new(sign.line, sign.text, "expected `]` or an offset"));
                    }
                    if c.eat(b'-') {
                        negative = !negative;
                    }
                    let n = c.next()?;
                    let v = immediate(n.text).ok_or_else(|| ParseError::new(n.line, n.text, "not an offset"))? as i64;
                    offset = offset.wrapping_add(if negative { v.wrapping_neg() } else { v });
                }
                Ok(Operand::Address(Box::new(base), offset))
            }
            _ => Err(ParseError::new(t.line, t.text, "not the start of an operand")),
        }
    }
}

/// The bits of an immediate: decimal, hexadecimal, octal, binary, `0f` and `0d` floats.
pub(crate) fn immediate(s: &str) -> Option<u64> {
    let t = s.strip_suffix('U').unwrap_or(s);
    let hex = |h: &str| if h.is_ascii() { u64::from_str_radix(h, 16).ok() } else { None };
    match t.as_bytes() {
        [b'0', b'f' | b'F', ..] if t.len() == 10 => hex(&t[2..]),
        [b'0', b'd' | b'D', ..] if t.len() == 18 => hex(&t[2..]),
        [b'0', b'x' | b'X', ..] => hex(&t[2..]),
        [b'0', b'b' | b'B', ..] => u64::from_str_radix(&t[2..], 2).ok(),
        [b'0', _, ..] if t.bytes().all(|b| b.is_ascii_digit()) => u64::from_str_radix(t, 8).ok(),
        _ if t.bytes().all(|b| b.is_ascii_digit()) => t.parse().ok(),
        // Plain decimal floats are f64, as the PTX manual says.
        _ => t.parse::<f64>().ok().map(f64::to_bits),
    }
}

fn special(s: &str) -> Option<Special> {
    let (name, axis) = match s.rsplit_once('.') {
        Some((n, "x")) => (n, Some(0)),
        Some((n, "y")) => (n, Some(1)),
        Some((n, "z")) => (n, Some(2)),
        _ => (s, None),
    };
    Some(match (name, axis) {
        ("%tid", Some(a)) => Special::Tid(a),
        ("%ntid", Some(a)) => Special::Ntid(a),
        ("%ctaid", Some(a)) => Special::Ctaid(a),
        ("%nctaid", Some(a)) => Special::Nctaid(a),
        ("%laneid", None) => Special::LaneId,
        ("%warpid", None) => Special::WarpId,
        ("%nwarpid", None) => Special::NWarpId,
        ("%smid", None) => Special::SmId,
        ("%gridid", None) => Special::GridId,
        ("%lanemask_eq", None) => Special::LaneMaskEq,
        ("%lanemask_le", None) => Special::LaneMaskLe,
        ("%lanemask_lt", None) => Special::LaneMaskLt,
        ("%lanemask_ge", None) => Special::LaneMaskGe,
        ("%lanemask_gt", None) => Special::LaneMaskGt,
        ("%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo", None) => Special::Clock,
        ("%dynamic_smem_size", None) => Special::DynamicShared,
        ("%total_smem_size", None) => Special::TotalShared,
        ("WARP_SZ", None) => Special::WarpSize,
        _ => return None,
    })
}
