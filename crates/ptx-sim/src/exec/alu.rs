//! Integer arithmetic, logic, shifts, bit fields, moves and selects.

use super::warp::{ALL, Warp};
use crate::ir::{Instruction, Int1, Int2, Logic, Op, Operand, Type};

/// Expands to the call of `$f!` with the Rust type of a PTX type: `$f!(type, signed)`.
macro_rules! by_type {
    ($ty:expr, $narrow:ident, $wide:ident) => {
        match $ty {
            Type::S16 => $narrow!(i16),
            Type::U16 | Type::B16 => $narrow!(u16),
            Type::S32 => $narrow!(i32),
            Type::S64 => $wide!(i64),
            Type::U64 | Type::B64 => $wide!(u64),
            _ => $narrow!(u32),
        }
    };
}

/// Runs an operation of this file; false if it is not one.
pub(crate) fn run(w: &mut Warp, i: &Instruction, m: u32) -> bool {
    let a = &*i.args;
    match i.op {
        Op::Int2(op, ty) => int2(w, a, m, op, ty),
        Op::Int1(op, ty) => int1(w, a, m, op, ty),
        Op::MadLo(ty) => {
            if ty.bytes() == 8 {
                w.map3_wide(a, m, |x, y, z| x.wrapping_mul(y).wrapping_add(z));
            } else {
                w.map3(a, m, |x, y, z| x.wrapping_mul(y).wrapping_add(z));
            }
        }
        Op::MadHi(ty, sat) => {
            macro_rules! wide {
                ($t:ty) => {
                    w.map3_wide(a, m, |x, y, z| {
                        (((x as $t as i128).wrapping_mul(y as $t as i128) >> 64) as u64).wrapping_add(z)
                    })
                };
            }
            macro_rules! narrow {
                ($t:ty) => {
                    w.map3(a, m, |x, y, z| {
                        let hi = ((x as $t as i64).wrapping_mul(y as $t as i64) >> <$t>::BITS) as $t;
                        if sat { hi.saturating_add(z as $t) as u32 } else { hi.wrapping_add(z as $t) as u32 }
                    })
                };
            }
            by_type!(ty, narrow, wide);
        }
        Op::MulWide(ty) | Op::MadWide(ty) => product_wide(w, a, m, ty, matches!(i.op, Op::MadWide(_))),
        Op::Sad(ty) => {
            macro_rules! wide {
                ($t:ty) => {
                    w.map3_wide(a, m, |x, y, z| (x as $t).abs_diff(y as $t).wrapping_add(z))
                };
            }
            macro_rules! narrow {
                ($t:ty) => {
                    w.map3(a, m, |x, y, z| u32::from((x as $t).abs_diff(y as $t)).wrapping_add(z))
                };
            }
            by_type!(ty, narrow, wide);
        }
        Op::Logic(op, Type::Pred) => {
            let (x, y) = (w.pred(&a[1]), w.pred(&a[2]));
            w.set_pred(&a[0], combine(op, x, y), m);
        }
        Op::Logic(op, ty) if ty.bytes() == 8 => match op {
            Logic::And => w.map2_wide(a, m, |x, y| x & y),
            Logic::Or => w.map2_wide(a, m, |x, y| x | y),
            Logic::Xor => w.map2_wide(a, m, |x, y| x ^ y),
        },
        Op::Logic(op, _) => match op {
            Logic::And => w.map2(a, m, |x, y| x & y),
            Logic::Or => w.map2(a, m, |x, y| x | y),
            Logic::Xor => w.map2(a, m, |x, y| x ^ y),
        },
        Op::Not(Type::Pred) => {
            let v = !w.pred(&a[1]);
            w.set_pred(&a[0], v, m);
        }
        Op::Not(ty) if ty.bytes() == 8 => w.map1_wide(a, m, |x| !x),
        Op::Not(_) => w.map1(a, m, |x| !x),
        Op::Lop3(table) => w.map3(a, m, |x, y, z| lop3(table, x, y, z)),
        Op::Shf { left, wrap } => w.map3(a, m, |x, y, n| {
            let n = if wrap { n & 31 } else { n.min(32) };
            let v = u64::from(y) << 32 | u64::from(x);
            if left { (v << n >> 32) as u32 } else { (v >> n) as u32 }
        }),
        Op::Bfi(ty) => bfi(w, a, m, ty),
        Op::Bfe(ty) => {
            macro_rules! wide {
                ($t:ty) => {
                    w.map3_wide(a, m, |x, p, n| bfe(x as $t as i128, p, n, <$t>::BITS, <$t>::MIN != 0) as u64)
                };
            }
            macro_rules! narrow {
                ($t:ty) => {
                    w.map3(a, m, |x, p, n| bfe(x as $t as i128, p.into(), n.into(), <$t>::BITS, <$t>::MIN != 0) as u32)
                };
            }
            by_type!(ty, narrow, wide);
        }
        Op::Prmt => w.map3(a, m, prmt),
        Op::Dp4a { a_signed, b_signed } => w.map3(a, m, |x, y, z| {
            let byte = |v: u32, i: usize, signed: bool| {
                let b = v.to_le_bytes()[i];
                if signed { i32::from(b as i8) } else { i32::from(b) }
            };
            (0..4).fold(z, |s, i| s.wrapping_add((byte(x, i, a_signed) * byte(y, i, b_signed)) as u32))
        }),
        Op::Mov(Type::Pred) => {
            let v = w.pred(&a[1]);
            w.set_pred(&a[0], v, m);
        }
        Op::Mov(ty) if ty.bytes() == 8 => w.map1_wide(a, m, |x| x),
        Op::Mov(_) => w.map1(a, m, |x| x),
        Op::Unpack(ty) => unpack(w, a, m, ty),
        Op::Pack(ty) => pack(w, a, m, ty),
        Op::Selp(ty) => select(w, a, m, ty, w.pred(&a[3])),
        Op::Slct(ty, by) => {
            let mut buffer = [0; 32];
            let s = w.get32(&a[3], &mut buffer);
            let first = (0..32).fold(0u32, |p, l| {
                let yes = if by == Type::F32 { f32::from_bits(s[l]) >= 0.0 } else { s[l] as i32 >= 0 };
                p | u32::from(yes) << l
            });
            select(w, a, m, ty, first);
        }
        _ => return false,
    }
    true
}

/// A logical operation on masks.
pub(crate) fn combine(op: Logic, x: u32, y: u32) -> u32 {
    match op {
        Logic::And => x & y,
        Logic::Or => x | y,
        Logic::Xor => x ^ y,
    }
}

fn int2(w: &mut Warp, a: &[Operand], m: u32, op: Int2, ty: Type) {
    macro_rules! wide {
        ($t:ty) => {
            match op {
                Int2::Add => w.map2_wide(a, m, |x, y| x.wrapping_add(y)),
                Int2::Sub => w.map2_wide(a, m, |x, y| x.wrapping_sub(y)),
                Int2::MulLo => w.map2_wide(a, m, |x, y| x.wrapping_mul(y)),
                Int2::MulHi => w.map2_wide(a, m, |x, y| ((x as $t as i128).wrapping_mul(y as $t as i128) >> 64) as u64),
                // Division by zero is unspecified; GPUs give all ones.
                Int2::Div => {
                    w.map2_wide(a, m, |x, y| if y == 0 { u64::MAX } else { (x as $t).wrapping_div(y as $t) as u64 })
                }
                Int2::Rem => w.map2_wide(a, m, |x, y| if y == 0 { x } else { (x as $t).wrapping_rem(y as $t) as u64 }),
                Int2::Min => w.map2_wide(a, m, |x, y| (x as $t).min(y as $t) as u64),
                Int2::Max => w.map2_wide(a, m, |x, y| (x as $t).max(y as $t) as u64),
                Int2::Shl => w.map2_wide(a, m, |x, n| if n as u32 > 63 { 0 } else { x << (n as u32) }),
                Int2::Shr if <$t>::MIN != 0 => w.map2_wide(a, m, |x, n| (x as $t >> (n as u32).min(63)) as u64),
                Int2::Shr => w.map2_wide(a, m, |x, n| if n as u32 > 63 { 0 } else { x >> (n as u32) }),
                Int2::AddSat | Int2::SubSat => {}
            }
        };
    }
    macro_rules! narrow {
        ($t:ty) => {
            match op {
                Int2::Add => w.map2(a, m, |x, y| x.wrapping_add(y)),
                Int2::Sub => w.map2(a, m, |x, y| x.wrapping_sub(y)),
                Int2::AddSat => w.map2(a, m, |x, y| (x as $t).saturating_add(y as $t) as u32),
                Int2::SubSat => w.map2(a, m, |x, y| (x as $t).saturating_sub(y as $t) as u32),
                Int2::MulLo => w.map2(a, m, |x, y| x.wrapping_mul(y)),
                Int2::MulHi => {
                    w.map2(a, m, |x, y| ((x as $t as i64).wrapping_mul(y as $t as i64) >> <$t>::BITS) as u32)
                }
                Int2::Div => {
                    w.map2(a, m, |x, y| if y as $t == 0 { u32::MAX } else { (x as $t).wrapping_div(y as $t) as u32 })
                }
                Int2::Rem => w.map2(a, m, |x, y| if y as $t == 0 { x } else { (x as $t).wrapping_rem(y as $t) as u32 }),
                Int2::Min => w.map2(a, m, |x, y| (x as $t).min(y as $t) as u32),
                Int2::Max => w.map2(a, m, |x, y| (x as $t).max(y as $t) as u32),
                Int2::Shl => w.map2(a, m, |x, n| if n >= <$t>::BITS { 0 } else { x << n }),
                Int2::Shr if <$t>::MIN != 0 => w.map2(a, m, |x, n| (x as $t >> n.min(<$t>::BITS - 1)) as u32),
                Int2::Shr => w.map2(a, m, |x, n| if n >= <$t>::BITS { 0 } else { (x as $t >> n) as u32 }),
            }
        };
    }
    by_type!(ty, narrow, wide);
}

fn int1(w: &mut Warp, a: &[Operand], m: u32, op: Int1, ty: Type) {
    // The most significant bit that differs from the sign, or all ones.
    fn find(x: u64, bits: u32, signed: bool, shift: bool) -> u32 {
        let top = 64 - bits;
        let x = if signed && (x << top) as i64 >> 63 != 0 { !x } else { x } << top >> top;
        match (x.checked_ilog2(), shift) {
            (None, _) => u32::MAX,
            (Some(p), false) => p,
            (Some(p), true) => bits - 1 - p,
        }
    }
    macro_rules! wide {
        ($t:ty) => {
            match op {
                Int1::Neg => w.map1_wide(a, m, |x| x.wrapping_neg()),
                Int1::Abs => w.map1_wide(a, m, |x| (x as i64).wrapping_abs() as u64),
                Int1::Popc => w.map1_wide(a, m, |x| x.count_ones().into()),
                Int1::Clz => w.map1_wide(a, m, |x| x.leading_zeros().into()),
                Int1::Brev => w.map1_wide(a, m, |x| x.reverse_bits()),
                Int1::Bfind(s) => w.map1_wide(a, m, |x| find(x, 64, <$t>::MIN != 0, s).into()),
            }
        };
    }
    macro_rules! narrow {
        ($t:ty) => {
            match op {
                Int1::Neg => w.map1(a, m, |x| (x as $t).wrapping_neg() as u32),
                Int1::Abs => w.map1(a, m, |x| if (x as $t) < <$t>::default() { x.wrapping_neg() } else { x }),
                Int1::Popc => w.map1(a, m, |x| (x as $t).count_ones()),
                Int1::Clz => w.map1(a, m, |x| (x as $t).leading_zeros()),
                Int1::Brev => w.map1(a, m, |x| (x as $t).reverse_bits() as u32),
                Int1::Bfind(s) => w.map1(a, m, |x| find(x.into(), <$t>::BITS, <$t>::MIN != 0, s)),
            }
        };
    }
    by_type!(ty, narrow, wide);
}

fn product_wide(w: &mut Warp, a: &[Operand], m: u32, ty: Type, add: bool) {
    let (mut bx, mut by) = ([0; 32], [0; 32]);
    let x = *w.get32(&a[1], &mut bx);
    let y = *w.get32(&a[2], &mut by);
    if ty.bytes() == 2 {
        let signed = ty.is_signed();
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = if signed {
                (i32::from(x[l] as i16) * i32::from(y[l] as i16)) as u32
            } else {
                (x[l] & 0xffff) * (y[l] & 0xffff)
            };
        }
        if add {
            let mut bz = [0; 32];
            let z = w.get32(&a[3], &mut bz);
            for l in 0..32 {
                out[l] = out[l].wrapping_add(z[l]);
            }
        }
        w.set32(&a[0], &out, m);
        return;
    }
    let mut out = [0; 32];
    if ty.is_signed() {
        for l in 0..32 {
            out[l] = (i64::from(x[l] as i32) * i64::from(y[l] as i32)) as u64;
        }
    } else {
        for l in 0..32 {
            out[l] = u64::from(x[l]) * u64::from(y[l]);
        }
    }
    if add {
        let mut bz = [0; 32];
        let z = w.get64(&a[3], &mut bz);
        for l in 0..32 {
            out[l] = out[l].wrapping_add(z[l]);
        }
    }
    w.set64(&a[0], &out, m);
}

fn lop3(table: u8, x: u32, y: u32, z: u32) -> u32 {
    (0..8).filter(|i| table >> i & 1 == 1).fold(0, |out, i| {
        let pick = |v: u32, bit: u32| if i >> bit & 1 == 1 { v } else { !v };
        out | (pick(x, 2) & pick(y, 1) & pick(z, 0))
    })
}

fn prmt(x: u32, y: u32, selector: u32) -> u32 {
    let v = (u64::from(y) << 32 | u64::from(x)).to_le_bytes();
    (0..4).fold(0, |out, i| {
        let s = selector >> (4 * i) & 15;
        let b = v[(s & 7) as usize];
        let b = match (s & 8 != 0, b & 0x80 != 0) {
            (false, _) => b,
            (true, true) => 0xff,
            (true, false) => 0,
        };
        out | u32::from(b) << (8 * i)
    })
}

/// Bit field of `n` bits from bit `p`; the sign bit is the last bit of the field or of the value.
fn bfe(x: i128, p: u64, n: u64, bits: u32, signed: bool) -> i128 {
    let (p, n) = (p as u32 & 0xff, n as u32 & 0xff);
    if n == 0 {
        return 0;
    }
    let last = (p + n - 1).min(bits - 1);
    let sign = signed && x >> last & 1 == 1;
    let x = x & ((1i128 << bits) - 1);
    let n = n.min(bits);
    let field = if p >= bits { 0 } else { x >> p & ((1i128 << n) - 1) };
    let held = if p >= bits { 0 } else { n.min(bits - p) };
    if sign { field | -1i128 << held } else { field }
}

fn bfi(w: &mut Warp, a: &[Operand], m: u32, ty: Type) {
    let bits = 8 * ty.bytes() as u32;
    let (mut bf, mut bb, mut bp, mut bn) = ([0; 32], [0; 32], [0; 32], [0; 32]);
    let (from, base) = (w.get64(&a[1], &mut bf), w.get64(&a[2], &mut bb));
    let (p, n) = (w.get32(&a[3], &mut bp), w.get32(&a[4], &mut bn));
    let mut out = [0; 32];
    for l in 0..32 {
        let (p, n) = (p[l] & 0xff, (n[l] & 0xff).min(bits));
        out[l] = if p >= bits || n == 0 {
            base[l]
        } else {
            let mask = (u64::MAX >> (64 - n)) << p;
            base[l] & !mask | from[l] << p & mask
        };
    }
    w.set64(&a[0], &out, m);
}

fn select(w: &mut Warp, a: &[Operand], m: u32, ty: Type, first: u32) {
    if ty.bytes() == 8 {
        let (mut bx, mut by) = ([0; 32], [0; 32]);
        let x = w.get64(&a[1], &mut bx);
        let mut out = *w.get64(&a[2], &mut by);
        for l in 0..32 {
            out[l] = if first >> l & 1 == 1 { x[l] } else { out[l] };
        }
        w.set64(&a[0], &out, m);
    } else {
        let (mut bx, mut by) = ([0; 32], [0; 32]);
        let x = w.get32(&a[1], &mut bx);
        let mut out = *w.get32(&a[2], &mut by);
        for l in 0..32 {
            out[l] = if first >> l & 1 == 1 { x[l] } else { out[l] };
        }
        w.set32(&a[0], &out, m);
    }
}

fn unpack(w: &mut Warp, a: &[Operand], m: u32, ty: Type) {
    let Operand::Vector(parts) = &a[0] else { return };
    let mut buffer = [0; 32];
    let x = *w.get64(&a[1], &mut buffer);
    let bits = 8 * ty.bytes() / parts.len();
    for (i, part) in parts.iter().enumerate() {
        let mut out = [0; 32];
        for l in 0..32 {
            out[l] = (x[l] >> (bits * i)) as u32 & (ALL >> (32 - bits));
        }
        w.set32(part, &out, m);
    }
}

fn pack(w: &mut Warp, a: &[Operand], m: u32, ty: Type) {
    let Operand::Vector(parts) = &a[1] else { return };
    let bits = 8 * ty.bytes() / parts.len();
    let mut out = [0; 32];
    for (i, part) in parts.iter().enumerate() {
        let mut buffer = [0; 32];
        let x = w.get32(part, &mut buffer);
        for l in 0..32 {
            out[l] |= u64::from(x[l] & (ALL >> (32 - bits))) << (bits * i);
        }
    }
    w.set64(&a[0], &out, m);
}
