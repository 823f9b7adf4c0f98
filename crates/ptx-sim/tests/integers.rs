//! Integer, bit and move instructions against plain Rust, on all pairs of small, extreme and random operands.

mod common;

use common::{INTS, Random, eval};

type Oracle = fn(u64, u64, u64) -> u64;

/// One instruction and what it computes; the result is compared in its low `bits` bits.
struct Case(&'static str, u32, Oracle);

fn rows() -> Vec<[u64; 3]> {
    let mut random = Random(7);
    let mut rows: Vec<[u64; 3]> = Vec::new();
    for x in INTS {
        for y in INTS {
            rows.push([x, y, random.next()]);
            rows.push([x, y, INTS[(random.next() % 16) as usize]]);
        }
    }
    rows.extend((0..192).map(|_| [random.next(), random.next(), random.next()]));
    rows
}

fn check(cases: &[Case]) {
    let rows = rows();
    for Case(instruction, bits, oracle) in cases {
        let mask = u64::MAX >> (64 - bits);
        for (row, got) in rows.iter().zip(eval(instruction, &rows)) {
            let want = oracle(row[0], row[1], row[2]);
            assert_eq!(got & mask, want & mask, "{instruction} of {row:x?}");
        }
    }
}

fn s32(x: u64) -> i64 {
    i64::from(x as i32)
}

fn u32_(x: u64) -> u64 {
    x & 0xffff_ffff
}

#[test]
fn arithmetic() {
    check(&[
        Case("add.s32 %r0, %r1, %r2;", 32, |x, y, _| x.wrapping_add(y)),
        Case("add.u16 %h0, %h1, %h2;", 16, |x, y, _| x.wrapping_add(y)),
        Case("add.s64 %d0, %d1, %d2;", 64, |x, y, _| x.wrapping_add(y)),
        Case("add.s64 %d0, %d1, -8;", 64, |x, _, _| x.wrapping_sub(8)),
        Case("add.sat.s32 %r0, %r1, %r2;", 32, |x, y, _| {
            (s32(x) + s32(y)).clamp(i32::MIN.into(), i32::MAX.into()) as u64
        }),
        Case("sub.sat.s32 %r0, %r1, %r2;", 32, |x, y, _| {
            (s32(x) - s32(y)).clamp(i32::MIN.into(), i32::MAX.into()) as u64
        }),
        Case("sub.u32 %r0, %r1, %r2;", 32, |x, y, _| x.wrapping_sub(y)),
        Case("sub.s16 %h0, %h1, %h2;", 16, |x, y, _| x.wrapping_sub(y)),
        Case("sub.u64 %d0, %d1, %d2;", 64, |x, y, _| x.wrapping_sub(y)),
        Case("mul.lo.s32 %r0, %r1, %r2;", 32, |x, y, _| x.wrapping_mul(y)),
        Case("mul.lo.u16 %h0, %h1, %h2;", 16, |x, y, _| x.wrapping_mul(y)),
        Case("mul.lo.s64 %d0, %d1, %d2;", 64, |x, y, _| x.wrapping_mul(y)),
        Case("mul.hi.s32 %r0, %r1, %r2;", 32, |x, y, _| ((s32(x) * s32(y)) >> 32) as u64),
        Case("mul.hi.u32 %r0, %r1, %r2;", 32, |x, y, _| (u32_(x) * u32_(y)) >> 32),
        Case("mul.hi.s64 %d0, %d1, %d2;", 64, |x, y, _| ((i128::from(x as i64) * i128::from(y as i64)) >> 64) as u64),
        Case("mul.hi.u64 %d0, %d1, %d2;", 64, |x, y, _| ((u128::from(x) * u128::from(y)) >> 64) as u64),
        Case("mul.hi.s16 %h0, %h1, %h2;", 16, |x, y, _| ((i32::from(x as i16) * i32::from(y as i16)) >> 16) as u64),
        Case("mul.wide.s32 %d0, %r1, %r2;", 64, |x, y, _| (s32(x) * s32(y)) as u64),
        Case("mul.wide.u32 %d0, %r1, %r2;", 64, |x, y, _| u32_(x) * u32_(y)),
        Case("mul.wide.u16 %r0, %h1, %h2;", 32, |x, y, _| (x & 0xffff) * (y & 0xffff)),
        Case("mul.wide.s16 %r0, %h1, %h2;", 32, |x, y, _| (i32::from(x as i16) * i32::from(y as i16)) as u64),
        Case("mad.lo.s32 %r0, %r1, %r2, %r3;", 32, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        Case("mad.lo.u16 %h0, %h1, %h2, %h3;", 16, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        Case("mad.lo.u64 %d0, %d1, %d2, %d3;", 64, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        Case("mad.hi.s32 %r0, %r1, %r2, %r3;", 32, |x, y, z| (((s32(x) * s32(y)) >> 32) as u64).wrapping_add(z)),
        Case("mad.hi.u32 %r0, %r1, %r2, %r3;", 32, |x, y, z| ((u32_(x) * u32_(y)) >> 32).wrapping_add(z)),
        Case("mad.wide.s32 %d0, %r1, %r2, %d3;", 64, |x, y, z| ((s32(x) * s32(y)) as u64).wrapping_add(z)),
        Case("mad.wide.u32 %d0, %r1, %r2, %d3;", 64, |x, y, z| (u32_(x) * u32_(y)).wrapping_add(z)),
        Case("mad.wide.u16 %r0, %h1, %h2, %r3;", 32, |x, y, z| ((x & 0xffff) * (y & 0xffff)).wrapping_add(z)),
        Case("sad.s32 %r0, %r1, %r2, %r3;", 32, |x, y, z| (s32(x) - s32(y)).unsigned_abs().wrapping_add(z)),
        Case("min.s32 %r0, %r1, %r2;", 32, |x, y, _| s32(x).min(s32(y)) as u64),
        Case("max.s32 %r0, %r1, %r2;", 32, |x, y, _| s32(x).max(s32(y)) as u64),
        Case("min.u32 %r0, %r1, %r2;", 32, |x, y, _| u32_(x).min(u32_(y))),
        Case("max.u16 %h0, %h1, %h2;", 16, |x, y, _| (x as u16).max(y as u16).into()),
        Case("min.s16 %h0, %h1, %h2;", 16, |x, y, _| (x as i16).min(y as i16) as u64),
        Case("max.s64 %d0, %d1, %d2;", 64, |x, y, _| (x as i64).max(y as i64) as u64),
        Case("min.u64 %d0, %d1, %d2;", 64, |x, y, _| x.min(y)),
        Case("neg.s32 %r0, %r1;", 32, |x, _, _| x.wrapping_neg()),
        Case("neg.s16 %h0, %h1;", 16, |x, _, _| x.wrapping_neg()),
        Case("neg.s64 %d0, %d1;", 64, |x, _, _| x.wrapping_neg()),
        Case("abs.s32 %r0, %r1;", 32, |x, _, _| s32(x).unsigned_abs()),
        Case("abs.s64 %d0, %d1;", 64, |x, _, _| (x as i64).unsigned_abs()),
        Case("dp4a.s32.s32 %r0, %r1, %r2, %r3;", 32, |x, y, z| {
            let b = |v: u64, i: usize| i64::from(v.to_le_bytes()[i] as i8);
            ((0..4).map(|i| b(x, i) * b(y, i)).sum::<i64>() as u64).wrapping_add(z)
        }),
        Case("dp4a.u32.s32 %r0, %r1, %r2, %r3;", 32, |x, y, z| {
            let b = |i: usize| i64::from(x.to_le_bytes()[i]) * i64::from(y.to_le_bytes()[i] as i8);
            ((0..4).map(b).sum::<i64>() as u64).wrapping_add(z)
        }),
    ]);
}

#[test]
fn division() {
    // By zero, and the smallest number by -1, there is no right answer: only that nothing breaks is checked there.
    check(&[
        Case("div.s32 %r0, %r1, %r2;", 32, |x, y, _| {
            if y as i32 == 0 { u64::MAX } else { (x as i32).wrapping_div(y as i32) as u64 }
        }),
        Case("div.u32 %r0, %r1, %r2;", 32, |x, y, _| u32_(x).checked_div(u32_(y)).unwrap_or(u64::MAX)),
        Case("div.u16 %h0, %h1, %h2;", 16, |x, y, _| (x & 0xffff).checked_div(y & 0xffff).unwrap_or(u64::MAX)),
        Case(
            "div.s64 %d0, %d1, %d2;",
            64,
            |x, y, _| {
                if y == 0 { u64::MAX } else { (x as i64).wrapping_div(y as i64) as u64 }
            },
        ),
        Case("div.u64 %d0, %d1, %d2;", 64, |x, y, _| x.checked_div(y).unwrap_or(u64::MAX)),
        Case(
            "rem.s32 %r0, %r1, %r2;",
            32,
            |x, y, _| {
                if y as i32 == 0 { x } else { (x as i32).wrapping_rem(y as i32) as u64 }
            },
        ),
        Case("rem.u32 %r0, %r1, %r2;", 32, |x, y, _| u32_(x).checked_rem(u32_(y)).unwrap_or(x)),
        Case("rem.u64 %d0, %d1, %d2;", 64, |x, y, _| x.checked_rem(y).unwrap_or(x)),
        Case(
            "rem.s16 %h0, %h1, %h2;",
            16,
            |x, y, _| {
                if y as i16 == 0 { x } else { (x as i16).wrapping_rem(y as i16) as u64 }
            },
        ),
    ]);
}

#[test]
fn logic_and_shifts() {
    check(&[
        Case("and.b32 %r0, %r1, %r2;", 32, |x, y, _| x & y),
        Case("and.b16 %h0, %h1, %h2;", 16, |x, y, _| x & y),
        Case("or.b64 %d0, %d1, %d2;", 64, |x, y, _| x | y),
        Case("xor.b32 %r0, %r1, 0xff;", 32, |x, _, _| x ^ 0xff),
        Case("not.b32 %r0, %r1;", 32, |x, _, _| !x),
        Case("not.b16 %h0, %h1;", 16, |x, _, _| !x),
        Case("not.b64 %d0, %d1;", 64, |x, _, _| !x),
        Case("and.pred %p0, %p1, %p2;", 64, |x, y, _| x & y & 1),
        Case("or.pred %p0, %p1, %p2;", 64, |x, y, _| (x | y) & 1),
        Case("xor.pred %p0, %p1, %p2;", 64, |x, y, _| (x ^ y) & 1),
        Case("not.pred %p0, %p1;", 64, |x, _, _| !x & 1),
        Case("mov.pred %p0, %p1;", 64, |x, _, _| x & 1),
        Case("shl.b32 %r0, %r1, %r2;", 32, |x, y, _| if u32_(y) > 31 { 0 } else { x << (y & 31) }),
        Case("shl.b16 %h0, %h1, %r2;", 16, |x, y, _| if u32_(y) > 15 { 0 } else { x << (y & 15) }),
        Case("shl.b64 %d0, %d1, %r2;", 64, |x, y, _| if u32_(y) > 63 { 0 } else { x << (y & 63) }),
        Case("shr.u32 %r0, %r1, %r2;", 32, |x, y, _| if u32_(y) > 31 { 0 } else { u32_(x) >> (y & 31) }),
        Case("shr.s32 %r0, %r1, %r2;", 32, |x, y, _| (s32(x) >> u32_(y).min(31)) as u64),
        Case("shr.b64 %d0, %d1, %r2;", 64, |x, y, _| if u32_(y) > 63 { 0 } else { x >> (y & 63) }),
        Case("shr.s64 %d0, %d1, %r2;", 64, |x, y, _| ((x as i64) >> u32_(y).min(63)) as u64),
        Case("shr.u16 %h0, %h1, %r2;", 16, |x, y, _| if u32_(y) > 15 { 0 } else { (x & 0xffff) >> (y & 15) }),
        Case("shr.s16 %h0, %h1, %r2;", 16, |x, y, _| (x as i16 >> u32_(y).min(15)) as u64),
        Case("shf.l.wrap.b32 %r0, %r1, %r2, %r3;", 32, |x, y, z| ((u32_(y) << 32 | u32_(x)) << (z & 31)) >> 32),
        Case("shf.r.wrap.b32 %r0, %r1, %r2, %r3;", 32, |x, y, z| (u32_(y) << 32 | u32_(x)) >> (z & 31)),
        Case("shf.l.clamp.b32 %r0, %r1, %r2, %r3;", 32, |x, y, z| {
            ((u128::from(u32_(y) << 32 | u32_(x)) << u32_(z).min(32)) >> 32) as u64
        }),
        Case("shf.r.clamp.b32 %r0, %r1, %r2, %r3;", 32, |x, y, z| (u32_(y) << 32 | u32_(x)) >> u32_(z).min(32)),
        Case("lop3.b32 %r0, %r1, %r2, %r3, 0x96;", 32, |x, y, z| x ^ y ^ z),
        Case("lop3.b32 %r0, %r1, %r2, %r3, 0xea;", 32, |x, y, z| (x & y) | z),
        Case("lop3.b32 %r0, %r1, %r2, %r3, 0xb8;", 32, |x, y, z| (x & !y) | (y & z)),
        Case("popc.b32 %r0, %r1;", 32, |x, _, _| u32_(x).count_ones().into()),
        Case("popc.b64 %r0, %d1;", 32, |x, _, _| x.count_ones().into()),
        Case("clz.b32 %r0, %r1;", 32, |x, _, _| (x as u32).leading_zeros().into()),
        Case("clz.b64 %r0, %d1;", 32, |x, _, _| x.leading_zeros().into()),
        Case("brev.b32 %r0, %r1;", 32, |x, _, _| (x as u32).reverse_bits().into()),
        Case("brev.b64 %d0, %d1;", 64, |x, _, _| x.reverse_bits()),
        Case("bfind.u32 %r0, %r1;", 32, |x, _, _| (x as u32).checked_ilog2().map_or(u64::MAX, u64::from)),
        Case("bfind.shiftamt.u32 %r0, %r1;", 32, |x, _, _| {
            (x as u32).checked_ilog2().map_or(u64::MAX, |p| u64::from(31 - p))
        }),
        Case("bfind.s32 %r0, %r1;", 32, |x, _, _| {
            let x = x as i32;
            (if x < 0 { !x } else { x } as u32).checked_ilog2().map_or(u64::MAX, u64::from)
        }),
        Case("bfind.u64 %r0, %d1;", 32, |x, _, _| x.checked_ilog2().map_or(u64::MAX, u64::from)),
    ]);
}

/// The manual's own pseudo-code for `bfe`.
fn bfe_oracle(x: u64, p: u64, n: u64, bits: u64, signed: bool) -> u64 {
    let (p, n, msb) = (p & 255, n & 255, bits - 1);
    let bit = |i: u64| x >> i & 1;
    let sign = if !signed || n == 0 { 0 } else { bit((p + n - 1).min(msb)) };
    (0..bits).fold(0, |d, i| d | (if i < n && p + i <= msb { bit(p + i) } else { sign }) << i)
}

#[test]
fn bit_fields_and_bytes() {
    check(&[
        Case("bfe.u32 %r0, %r1, %r2, %r3;", 32, |x, y, z| bfe_oracle(x, y, z, 32, false)),
        Case("bfe.s32 %r0, %r1, %r2, %r3;", 32, |x, y, z| bfe_oracle(x, y, z, 32, true)),
        Case("bfe.u64 %d0, %d1, %r2, %r3;", 64, |x, y, z| bfe_oracle(x, y, z, 64, false)),
        Case("bfe.s64 %d0, %d1, %r2, %r3;", 64, |x, y, z| bfe_oracle(x, y, z, 64, true)),
        Case("bfe.s32 %r0, %r1, 4, 8;", 32, |x, _, _| i64::from((x >> 4) as i8) as u64),
        Case("bfi.b32 %r0, %r1, %r2, %r3, 5;", 32, |x, y, z| {
            (0..5).fold(y, |f, i| {
                let p = i + (z & 255);
                if p < 32 { f & !(1 << p) | (x >> i & 1) << p } else { f }
            })
        }),
        Case("bfi.b64 %d0, %d1, %d2, 8, %r3;", 64, |x, y, z| {
            (0..(z & 255)).fold(y, |f, i| if i + 8 < 64 { f & !(1 << (i + 8)) | (x >> i & 1) << (i + 8) } else { f })
        }),
        Case("prmt.b32 %r0, %r1, %r2, %r3;", 32, |x, y, z| {
            let v = u32_(y) << 32 | u32_(x);
            (0..4).fold(0, |d, i| {
                let s = z >> (4 * i) & 15;
                let b = v >> (8 * (s & 7)) & 0xff;
                let b = if s & 8 == 0 {
                    b
                } else if b & 0x80 != 0 {
                    0xff
                } else {
                    0
                };
                d | b << (8 * i)
            })
        }),
        Case("prmt.b32 %r0, %r1, %r2, 0x5410;", 32, |x, y, _| y << 16 | x & 0xffff),
    ]);
}

#[test]
fn moves_and_selects() {
    check(&[
        Case("mov.u32 %r0, %r1;", 32, |x, _, _| x),
        Case("mov.u64 %d0, %d1;", 64, |x, _, _| x),
        Case("mov.b16 %h0, %h1;", 16, |x, _, _| x),
        Case("mov.u32 %r0, %laneid;\nmov.u32 %r4, %tid.x;\nxor.b32 %r0, %r0, %r4;", 32, |_, _, _| 0),
        Case("mov.b64 %d0, {%r1, %r2};", 64, |x, y, _| u32_(y) << 32 | u32_(x)),
        Case("mov.b32 %r0, {%h1, %h2};", 32, |x, y, _| (y & 0xffff) << 16 | x & 0xffff),
        Case("mov.b64 %d0, {%h1, %h2, %h3, %h1};", 64, |x, y, z| {
            (x & 0xffff) << 48 | (z & 0xffff) << 32 | (y & 0xffff) << 16 | x & 0xffff
        }),
        Case("mov.b64 {%r5, %r0}, %d1;", 32, |x, _, _| x >> 32),
        Case("mov.b64 {%r0, _}, %d1;", 32, |x, _, _| x),
        Case("mov.b32 {%h5, %h0}, %r1;", 16, |x, _, _| x >> 16),
        Case("selp.b32 %r0, %r1, %r2, %p3;", 32, |x, y, z| if z & 1 == 1 { x } else { y }),
        Case("selp.u64 %d0, %d1, %d2, !%p3;", 64, |x, y, z| if z & 1 == 0 { x } else { y }),
        Case("slct.u32.s32 %r0, %r1, %r2, %r3;", 32, |x, y, z| if z as i32 >= 0 { x } else { y }),
        Case("slct.u64.f32 %d0, %d1, %d2, %r3;", 64, |x, y, z| if f32::from_bits(z as u32) >= 0.0 { x } else { y }),
        Case("@%p3 mov.u32 %r0, %r1;", 32, |x, _, z| if z & 1 == 1 { x } else { 0 }),
        Case("@!%p3 mov.u32 %r0, %r1;", 32, |x, _, z| if z & 1 == 0 { x } else { 0 }),
    ]);
}

#[test]
fn comparisons() {
    check(&[
        Case("setp.eq.s32 %p0, %r1, %r2;", 64, |x, y, _| u64::from(x as u32 == y as u32)),
        Case("setp.ne.b16 %p0, %h1, %h2;", 64, |x, y, _| u64::from(x as u16 != y as u16)),
        Case("setp.lt.s32 %p0, %r1, %r2;", 64, |x, y, _| u64::from((x as i32) < y as i32)),
        Case("setp.lo.u32 %p0, %r1, %r2;", 64, |x, y, _| u64::from((x as u32) < y as u32)),
        Case("setp.le.s16 %p0, %h1, %h2;", 64, |x, y, _| u64::from(x as i16 <= y as i16)),
        Case("setp.gt.u16 %p0, %h1, %h2;", 64, |x, y, _| u64::from(x as u16 > y as u16)),
        Case("setp.ge.s64 %p0, %d1, %d2;", 64, |x, y, _| u64::from(x as i64 >= y as i64)),
        Case("setp.hs.u64 %p0, %d1, %d2;", 64, |x, y, _| u64::from(x >= y)),
        Case("setp.lt.and.s32 %p0, %r1, %r2, %p3;", 64, |x, y, z| u64::from((x as i32) < y as i32) & z & 1),
        Case("setp.lt.or.s32 %p0, %r1, %r2, !%p3;", 64, |x, y, z| u64::from((x as i32) < y as i32) | !z & 1),
        Case("setp.lt.xor.s32 %p0, %r1, %r2, %p3;", 64, |x, y, z| u64::from((x as i32) < y as i32) ^ z & 1),
        Case("setp.eq.s32 %p4|%p0, %r1, %r2;", 64, |x, y, _| u64::from(x as u32 != y as u32)),
        Case("setp.lt.and.s32 %p4|%p0, %r1, %r2, %p3;", 64, |x, y, z| u64::from(x as i32 >= y as i32) & z & 1),
        Case("set.lt.u32.s32 %r0, %r1, %r2;", 32, |x, y, _| if (x as i32) < y as i32 { u64::MAX } else { 0 }),
        Case("set.eq.f32.u32 %r0, %r1, %r2;", 32, |x, y, _| if x as u32 == y as u32 { 0x3f80_0000 } else { 0 }),
    ]);
}

#[test]
fn conversions_between_integers() {
    check(&[
        Case("cvt.u64.u32 %d0, %r1;", 64, |x, _, _| u32_(x)),
        Case("cvt.s64.s32 %d0, %r1;", 64, |x, _, _| s32(x) as u64),
        Case("cvt.u32.u64 %r0, %d1;", 32, |x, _, _| x),
        Case("cvt.u32.u16 %r0, %h1;", 32, |x, _, _| x & 0xffff),
        Case("cvt.s32.s16 %r0, %h1;", 32, |x, _, _| i64::from(x as i16) as u64),
        Case("cvt.u32.u8 %r0, %r1;", 32, |x, _, _| x & 0xff),
        Case("cvt.s32.s8 %r0, %r1;", 32, |x, _, _| i64::from(x as i8) as u64),
        Case("cvt.s16.s8 %h0, %r1;", 16, |x, _, _| i64::from(x as i8) as u64),
        Case("cvt.u16.u32 %h0, %r1;", 16, |x, _, _| x),
        Case("cvt.sat.u8.s32 %r0, %r1;", 32, |x, _, _| s32(x).clamp(0, 255) as u64),
        Case("cvt.sat.s8.s32 %r0, %r1;", 32, |x, _, _| s32(x).clamp(-128, 127) as u64),
        Case("cvt.sat.u32.s64 %r0, %d1;", 32, |x, _, _| (x as i64).clamp(0, u32::MAX.into()) as u64),
        Case("cvta.to.global.u64 %d0, %d1;", 64, |x, _, _| x),
        Case("cvta.shared.u64 %d4, %d1;\ncvta.to.shared.u64 %d0, %d4;", 64, |x, _, _| x),
    ]);
}
