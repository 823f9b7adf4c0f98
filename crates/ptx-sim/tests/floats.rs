//! Floating-point instructions on NaN, infinities, signed zeros, subnormals and ordinary values.

#![allow(clippy::type_complexity, reason = "tables of instructions and oracles")]

mod common;

use common::{F32S, F64S, eval, eval_with, same32};
use paring_ptx_sim::{Options, Rounding};

type Oracle32 = fn(f32, f32, f32) -> f32;

fn rows32() -> Vec<[u64; 3]> {
    let mut rows = Vec::new();
    for x in F32S {
        for y in F32S {
            rows.push([x, y, F32S[rows.len() * 7 % 22]].map(|v| v.to_bits().into()));
        }
    }
    rows
}

fn floats(row: &[u64; 3]) -> [f32; 3] {
    row.map(|v| f32::from_bits(v as u32))
}

fn check32(cases: &[(&str, Oracle32)]) {
    let rows = rows32();
    for (instruction, oracle) in cases {
        for (row, got) in rows.iter().zip(eval(instruction, &rows)) {
            let [x, y, z] = floats(row);
            let want = oracle(x, y, z);
            assert!(
                same32(got, want),
                "{instruction} of {x:e} {y:e} {z:e}: {want:e}, not {:e}",
                f32::from_bits(got as u32)
            );
            assert!(
                !want.is_nan() || instruction.contains("mov") || got == 0x7fff_ffff,
                "{instruction}: NaN is canonical"
            );
        }
    }
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

#[test]
fn f32_to_nearest() {
    check32(&[
        ("add.f32 %r0, %r1, %r2;", |x, y, _| x + y),
        ("add.rn.f32 %r0, %r1, 0f3F800000;", |x, _, _| x + 1.0),
        ("sub.f32 %r0, %r1, %r2;", |x, y, _| x - y),
        ("mul.f32 %r0, %r1, %r2;", |x, y, _| x * y),
        ("div.rn.f32 %r0, %r1, %r2;", |x, y, _| x / y),
        ("fma.rn.f32 %r0, %r1, %r2, %r3;", f32::mul_add),
        ("mad.rn.f32 %r0, %r1, %r2, %r3;", f32::mul_add),
        ("rcp.rn.f32 %r0, %r1;", |x, _, _| 1.0 / x),
        ("sqrt.rn.f32 %r0, %r1;", |x, _, _| x.sqrt()),
        ("neg.f32 %r0, %r1;", |x, _, _| -x),
        ("abs.f32 %r0, %r1;", |x, _, _| x.abs()),
    ]);
}

#[test]
fn f32_minimum_and_maximum() {
    // A number wins over NaN; -0 is below +0.
    fn less(x: f32, y: f32) -> bool {
        x < y || x == y && x.is_sign_negative()
    }
    check32(&[
        ("min.f32 %r0, %r1, %r2;", |x, y, _| if x.is_nan() || !y.is_nan() && less(y, x) { y } else { x }),
        ("max.f32 %r0, %r1, %r2;", |x, y, _| if x.is_nan() || !y.is_nan() && less(x, y) { y } else { x }),
        ("max.NaN.f32 %r0, %r1, %r2;", |x, y, _| {
            if x.is_nan() || y.is_nan() {
                f32::NAN
            } else if less(x, y) {
                y
            } else {
                x
            }
        }),
    ]);
}

#[test]
fn f32_flushes_and_saturates() {
    check32(&[
        ("add.ftz.f32 %r0, %r1, %r2;", |x, y, _| flush(flush(x) + flush(y))),
        ("mul.ftz.f32 %r0, %r1, %r2;", |x, y, _| flush(flush(x) * flush(y))),
        ("fma.rn.ftz.f32 %r0, %r1, %r2, %r3;", |x, y, z| flush(flush(x).mul_add(flush(y), flush(z)))),
        ("add.sat.f32 %r0, %r1, %r2;", |x, y, _| if x + y > 0.0 { (x + y).min(1.0) } else { 0.0 }),
        ("fma.rn.sat.f32 %r0, %r1, %r2, %r3;", |x, y, z| {
            let v = x.mul_add(y, z);
            if v > 0.0 { v.min(1.0) } else { 0.0 }
        }),
        ("abs.ftz.f32 %r0, %r1;", |x, _, _| flush(x).abs()),
        ("div.rn.ftz.f32 %r0, %r1, %r2;", |x, y, _| flush(flush(x) / flush(y))),
    ]);
}

/// Directed rounding brackets the exact value: down <= exact <= up, one step apart unless exact, and zero is the one
/// of the two nearer to zero.
#[test]
fn f32_directed_rounding() {
    let rows = rows32();
    let exact: [(&str, fn(f64, f64, f64) -> f64); 3] = [
        ("add.R.f32 %r0, %r1, %r2;", |x, y, _| x + y),
        ("mul.R.f32 %r0, %r1, %r2;", |x, y, _| x * y),
        ("div.R.f32 %r0, %r1, %r2;", |x, y, _| x / y),
    ];
    for (text, oracle) in exact {
        let get = |r: &str| eval(&text.replace(".R", r), &rows);
        let (near, zero, down, up) = (get(".rn"), get(".rz"), get(".rm"), get(".rp"));
        for (i, row) in rows.iter().enumerate() {
            let [x, y, z] = floats(row).map(f64::from);
            let e = oracle(x, y, z);
            let value = |v: &Vec<u64>| f32::from_bits(v[i] as u32);
            let (n, t, d, u) = (value(&near), value(&zero), value(&down), value(&up));
            if e.is_nan() {
                assert!(n.is_nan() && t.is_nan() && d.is_nan() && u.is_nan());
                continue;
            }
            assert!(f64::from(d) <= e && e <= f64::from(u), "{text} of {x:e} {y:e}: {d:e} {e:e} {u:e}");
            assert!(d == u || d.next_up() == u, "{text} of {x:e} {y:e}: {d:e} {u:e}");
            assert!(n == d || n == u, "{text}");
            assert_eq!(t, if e > 0.0 { d } else { u }, "{text} of {x:e} {y:e}");
        }
    }
    let one = |t: &str, x: f32| f32::from_bits(eval(t, &[[x.to_bits().into(), 0, 0]])[0] as u32);
    assert_eq!(one("sub.rm.f32 %r0, %r1, %r1;", 3.0).to_bits(), (-0f32).to_bits());
    assert_eq!(one("sub.rp.f32 %r0, %r1, %r1;", 3.0).to_bits(), 0);
    assert!(one("sqrt.rm.f32 %r0, %r1;", 2.0) < one("sqrt.rp.f32 %r0, %r1;", 2.0));
    assert_eq!(one("sqrt.rp.f32 %r0, %r1;", 4.0), 2.0);
    assert!(one("rcp.rz.f32 %r0, %r1;", 3.0) < one("rcp.rp.f32 %r0, %r1;", 3.0));
    assert_eq!(one("fma.rz.f32 %r0, %r1, 0f3F800000, 0f33000000;", 1.0), 1.0);
    assert_eq!(one("fma.rp.f32 %r0, %r1, 0f3F800000, 0f33000000;", 1.0), 1f32.next_up());
}

#[test]
fn f64_arithmetic() {
    let mut rows = Vec::new();
    for x in F64S {
        for y in F64S {
            rows.push([x, y, 0.75].map(f64::to_bits));
        }
    }
    let cases: [(&str, fn(f64, f64, f64) -> f64); 10] = [
        ("add.f64 %d0, %d1, %d2;", |x, y, _| x + y),
        ("sub.rn.f64 %d0, %d1, %d2;", |x, y, _| x - y),
        ("mul.f64 %d0, %d1, %d2;", |x, y, _| x * y),
        ("div.rn.f64 %d0, %d1, %d2;", |x, y, _| x / y),
        ("fma.rn.f64 %d0, %d1, %d2, %d3;", f64::mul_add),
        ("rcp.rn.f64 %d0, %d1;", |x, _, _| 1.0 / x),
        ("sqrt.rn.f64 %d0, %d1;", |x, _, _| x.sqrt()),
        ("neg.f64 %d0, %d1;", |x, _, _| -x),
        ("abs.f64 %d0, %d1;", |x, _, _| x.abs()),
        ("max.f64 %d0, %d1, %d2;", |x, y, _| {
            if x.is_nan() {
                y
            } else if y.is_nan() {
                x
            } else if x == 0.0 && y == 0.0 {
                x + y
            } else {
                x.max(y)
            }
        }),
    ];
    for (instruction, oracle) in cases {
        for (row, got) in rows.iter().zip(eval(instruction, &rows)) {
            let [x, y, z] = row.map(f64::from_bits);
            let (want, got) = (oracle(x, y, z), f64::from_bits(got));
            assert!(
                want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(),
                "{instruction} of {x:e} {y:e}: {want:e}, not {got:e}"
            );
        }
    }
}

#[test]
fn unordered_comparisons() {
    let rows = rows32();
    let cases: [(&str, fn(f32, f32) -> bool); 14] = [
        ("eq", |x, y| x == y),
        ("ne", |x, y| x.partial_cmp(&y).is_some_and(|o| o.is_ne())),
        ("lt", |x, y| x < y),
        ("le", |x, y| x <= y),
        ("gt", |x, y| x > y),
        ("ge", |x, y| x >= y),
        ("equ", |x, y| x.partial_cmp(&y).is_none_or(|o| o.is_eq())),
        ("neu", |x, y| x != y),
        ("ltu", |x, y| x.partial_cmp(&y).is_none_or(|o| o.is_lt())),
        ("leu", |x, y| x.partial_cmp(&y).is_none_or(|o| o.is_le())),
        ("gtu", |x, y| x.partial_cmp(&y).is_none_or(|o| o.is_gt())),
        ("geu", |x, y| x.partial_cmp(&y).is_none_or(|o| o.is_ge())),
        ("num", |x, y| !x.is_nan() && !y.is_nan()),
        ("nan", |x, y| x.is_nan() || y.is_nan()),
    ];
    for (name, oracle) in cases {
        for (row, got) in rows.iter().zip(eval(&format!("setp.{name}.f32 %p0, %r1, %r2;"), &rows)) {
            let [x, y, _] = floats(row);
            assert_eq!(got == 1, oracle(x, y), "setp.{name} of {x:e} {y:e}");
        }
        let wide: Vec<[u64; 3]> = rows.iter().map(|r| floats(r).map(|v| f64::from(v).to_bits())).collect();
        for (row, got) in rows.iter().zip(eval(&format!("setp.{name}.f64 %p0, %d1, %d2;"), &wide)) {
            let [x, y, _] = floats(row);
            assert_eq!(got == 1, oracle(x, y), "setp.{name}.f64 of {x:e} {y:e}");
        }
    }
    let tiny = [1e-40f32, 0.0, 0.0].map(|v| v.to_bits().into());
    assert_eq!(eval("setp.eq.ftz.f32 %p0, %r1, %r2;", &[tiny]), [1]);
    assert_eq!(eval("setp.eq.f32 %p0, %r1, %r2;", &[tiny]), [0]);
}

#[test]
fn conversions_with_floats() {
    check32(&[
        ("cvt.rni.f32.f32 %r0, %r1;", |x, _, _| x.round_ties_even()),
        ("cvt.rzi.f32.f32 %r0, %r1;", |x, _, _| x.trunc()),
        ("cvt.rmi.f32.f32 %r0, %r1;", |x, _, _| x.floor()),
        ("cvt.rpi.f32.f32 %r0, %r1;", |x, _, _| x.ceil()),
        ("cvt.sat.f32.f32 %r0, %r1;", |x, _, _| if x > 0.0 { x.min(1.0) } else { 0.0 }),
        ("cvt.rn.f32.s32 %r0, %r1;", |x, _, _| x.to_bits() as i32 as f32),
        ("cvt.rn.f32.u32 %r0, %r1;", |x, _, _| x.to_bits() as f32),
        ("cvt.f64.f32 %d4, %r1;\ncvt.rn.f32.f64 %r0, %d4;", |x, _, _| x),
        ("cvt.rn.f32.s16 %r0, %h1;", |x, _, _| f32::from(x.to_bits() as i16)),
        ("cvt.rzi.s32.f32 %r4, %r1;\ncvt.rn.f32.s32 %r0, %r4;", |x, _, _| x as i32 as f32),
        ("cvt.rzi.u32.f32 %r4, %r1;\ncvt.rn.f32.u32 %r0, %r4;", |x, _, _| x as u32 as f32),
    ]);
    let to_int = |t: &str, x: f32| eval(t, &[[x.to_bits().into(), 0, 0]])[0] as u32 as i32;
    for (x, near, down, up) in
        [(2.5f32, 2, 2, 3), (-2.5, -2, -3, -2), (3.5, 4, 3, 4), (1e20, i32::MAX, i32::MAX, i32::MAX)]
    {
        assert_eq!(to_int("cvt.rni.s32.f32 %r0, %r1;", x), near);
        assert_eq!(to_int("cvt.rmi.s32.f32 %r0, %r1;", x), down);
        assert_eq!(to_int("cvt.rpi.s32.f32 %r0, %r1;", x), up);
    }
    assert_eq!(to_int("cvt.rni.s32.f32 %r0, %r1;", f32::NAN), 0);
    // Integers of 64 bits are rounded once, not twice.
    for v in [u64::MAX, (1 << 63) + (1 << 39) + 1, (1 << 53) + 1, 0x8000_0080_0000_0001] {
        assert_eq!(eval("cvt.rn.f32.u64 %r0, %d1;", &[[v, 0, 0]])[0], u64::from((v as f32).to_bits()), "{v:#x}");
        assert_eq!(eval("cvt.rn.f64.s64 %d0, %d1;", &[[v, 0, 0]])[0], (v as i64 as f64).to_bits());
    }
    let d = |t: &str, x: f64| eval(t, &[[x.to_bits(), 0, 0]])[0];
    assert_eq!(d("cvt.rzi.s64.f64 %d0, %d1;", -1.9), -1i64 as u64);
    assert_eq!(d("cvt.rzi.u32.f64 %r0, %d1;", 4e9), 4_000_000_000);
    assert_eq!(d("cvt.rz.f32.f64 %r0, %d1;", 0.1), u64::from(0.099_999_994f32.to_bits()));
    assert_eq!(d("cvt.rp.f32.f64 %r0, %d1;", 0.1), u64::from(0.1f32.to_bits()));
}

#[test]
fn halves() {
    let one = |t: &str, row: [u64; 3]| eval(t, &[row])[0];
    let f = |x: f32| u64::from(x.to_bits());
    // bf16: ties to even, overflow to infinity, NaN.
    for (x, want) in [
        (1.0f32, 0x3f80),
        (-0.0, 0x8000),
        (f32::from_bits(0x3f80_8000), 0x3f80),
        (f32::MAX, 0x7f80),
        (f32::NAN, 0x7fff),
    ] {
        assert_eq!(one("cvt.rn.bf16.f32 %h0, %r1;", [f(x), 0, 0]), want, "{x:e}");
    }
    assert_eq!(one("cvt.rz.bf16.f32 %h0, %r1;", [f(f32::MAX), 0, 0]), 0x7f7f);
    assert_eq!(one("cvt.rn.relu.bf16.f32 %h0, %r1;", [f(-3.0), 0, 0]), 0);
    assert_eq!(one("cvt.rn.bf16x2.f32 %r0, %r1, %r2;", [f(1.0), f(2.0), 0]), 0x3f80_4000);
    // f16: 65504 is the largest, 2^-24 the smallest.
    for (x, want) in [
        (1.0f32, 0x3c00),
        (65504.0, 0x7bff),
        (65520.0, 0x7c00),
        (5.960_464_5e-8, 1),
        (2.980_232_2e-8, 0),
        (f32::NAN, 0x7fff),
    ] {
        assert_eq!(one("cvt.rn.f16.f32 %h0, %r1;", [f(x), 0, 0]), want, "{x:e}");
    }
    assert_eq!(one("cvt.rn.f16x2.f32 %r0, %r1, %r2;", [f(1.0), f(-2.0), 0]), 0x3c00_c000);
    assert_eq!(one("cvt.f32.f16 %r0, %h1;", [0x3555, 0, 0]), f(0.333_251_95));
    assert_eq!(one("cvt.f32.f16 %r0, %h1;", [0x8001, 0, 0]), f(-5.960_464_5e-8));
    assert_eq!(one("cvt.f32.bf16 %r0, %h1;", [0xc040, 0, 0]), f(-3.0));
    assert_eq!(one("cvt.rn.f16.s32 %h0, %r1;", [3, 0, 0]), 0x4200);
    assert_eq!(one("cvt.rzi.s32.f16 %r0, %h1;", [0xc500, 0, 0]) as u32 as i32, -5);
    // tf32 keeps 10 bits; .rna rounds ties away from zero.
    assert_eq!(one("cvt.rna.tf32.f32 %r0, %r1;", [0x3f80_1000, 0, 0]), 0x3f80_2000);
    assert_eq!(one("cvt.rna.tf32.f32 %r0, %r1;", [0x3f80_0fff, 0, 0]), 0x3f80_0000);
    // 1.5 and -0.25 as f16 pairs and bf16 pairs.
    assert_eq!(one("add.f16 %h0, %h1, %h2;", [0x3e00, 0xb400, 0]), 0x3d00);
    assert_eq!(one("mul.f16x2 %r0, %r1, %r2;", [0x3e00_b400, 0x4000_4000, 0]), 0x4200_b800);
    assert_eq!(one("fma.rn.f16x2 %r0, %r1, %r2, %r3;", [0x3e00_b400, 0x4000_4000, 0x3c00_3c00]), 0x4400_3800);
    assert_eq!(one("fma.rn.bf16 %h0, %h1, %h2, %h3;", [0x3fc0, 0x4000, 0x3f80]), 0x4080);
    assert_eq!(one("fma.rn.bf16x2 %r0, %r1, %r2, %r3;", [0x3fc0_be80, 0x4000_4000, 0x3f80_3f80]), 0x4080_3f00);
    assert_eq!(one("fma.rn.relu.bf16 %h0, %h1, %h2, %h3;", [0x3fc0, 0xc000, 0x3f80]), 0);
    assert_eq!(one("max.bf16x2 %r0, %r1, %r2;", [0x3f80_be80, 0x7fff_4000, 0]), 0x3f80_4000);
    assert_eq!(one("min.f16 %h0, %h1, %h2;", [0x8000, 0x0000, 0]), 0x8000);
    assert_eq!(one("neg.bf16x2 %r0, %r1;", [0x3f80_be80, 0, 0]), 0xbf80_3e80);
    assert_eq!(one("abs.f16 %h0, %h1;", [0xbe00, 0, 0]), 0x3e00);
    assert_eq!(one("setp.lt.bf16 %p0, %h1, %h2;", [0xbf80, 0x3f80, 0]), 1);
    assert_eq!(one("set.gt.f16x2.f16x2 %r0, %r1, %r2;", [0x3e00_b400, 0x0000_0000, 0]), 0x3c00_0000);
    assert_eq!(one("ex2.approx.f16 %h0, %h1;", [0x4000, 0, 0]), 0x4400);
    assert_eq!(one("ex2.approx.ftz.bf16 %h0, %h1;", [0xbf80, 0, 0]), 0x3f00);
    assert_eq!(one("ex2.approx.ftz.bf16 %h0, %h1;", [0xc300, 0, 0]), 0);
    assert_eq!(one("tanh.approx.bf16x2 %r0, %r1;", [0x0000_7f80, 0, 0]), 0x0000_3f80);
}

type Function = (&'static str, fn(f64) -> f64);

const FUNCTIONS: [Function; 8] = [
    ("ex2.approx.f32", f64::exp2),
    ("lg2.approx.f32", f64::log2),
    ("rcp.approx.f32", |x| 1.0 / x),
    ("rsqrt.approx.f32", |x| 1.0 / x.sqrt()),
    ("sqrt.approx.f32", f64::sqrt),
    ("sin.approx.f32", f64::sin),
    ("cos.approx.f32", f64::cos),
    ("tanh.approx.f32", f64::tanh),
];

#[test]
fn approximate_functions() {
    let rows = rows32();
    for (name, exact) in FUNCTIONS {
        for (row, got) in rows.iter().zip(eval(&format!("{name} %r0, %r1;"), &rows)) {
            let x = floats(row)[0];
            let want = exact(f64::from(x)) as f32;
            assert!(same32(got, want), "{name} of {x:e}: {want:e}, not {:e}", f32::from_bits(got as u32));
        }
    }
    let tiny = [1e-40f32.to_bits().into(), 0, 0];
    assert_eq!(eval("rcp.approx.ftz.f32 %r0, %r1;", &[tiny]), [0x7f80_0000]);
    assert_eq!(eval("lg2.approx.ftz.f32 %r0, %r1;", &[tiny]), [0xff80_0000]);
    let divided = |how: &str, x: f32, y: f32| {
        let row = [x.to_bits().into(), y.to_bits().into(), 0];
        f32::from_bits(eval(&format!("div.{how}.f32 %r0, %r1, %r2;"), &[row])[0] as u32)
    };
    let div = |x, y| divided("approx", x, y);
    assert_eq!(div(1.0, 4.0), 0.25);
    assert_eq!(divided("full", 1e38, 2e38), 0.5);
    // Above 2^126 the manual lets the quotient be 0.
    assert_eq!(div(1e38, 2e38), 0.0);
    assert!(div(f32::INFINITY, 2e38).is_nan());
}

#[test]
fn adversarial_rounding_moves_results_within_the_bound() {
    let xs = [0.3f32, 0.7, 1.7, 3.0, 5.5];
    let rows: Vec<[u64; 3]> = xs.iter().map(|x| [x.to_bits().into(), 0, 0]).collect();
    for (name, exact) in FUNCTIONS {
        let text = format!("{name} %r0, %r1;");
        let run = |rounding, seed| {
            let (v, _) = eval_with(&text, &rows, &Options { rounding, seed, ..Options::default() });
            v.iter().map(|&b| f32::from_bits(b as u32)).collect::<Vec<_>>()
        };
        let (near, up, down) = (run(Rounding::Nearest, 0), run(Rounding::ApproxUp, 0), run(Rounding::ApproxDown, 0));
        for i in 0..xs.len() {
            assert!(down[i] < near[i] && near[i] < up[i], "{name}({})", xs[i]);
            let bound = match name {
                "tanh.approx.f32" => exact(xs[i].into()).abs() * 2f64.powi(-10),
                "sin.approx.f32" | "cos.approx.f32" => 2f64.powf(-20.8),
                "lg2.approx.f32" => 2f64.powf(-21.0),
                _ => f64::from(near[i].abs()) * 2f64.powi(-21),
            };
            assert!((f64::from(up[i]) - f64::from(near[i])).abs() <= bound, "{name}({})", xs[i]);
        }
        let mixes: Vec<_> = (1..20).map(|s| run(Rounding::Mixed, s)).collect();
        assert!(mixes.iter().any(|m| *m != mixes[0]), "{name}: seeds differ");
        assert_eq!(run(Rounding::Mixed, 3), run(Rounding::Mixed, 3), "{name}: a seed repeats");
    }
    // Exact operations stay exact.
    let row = [[0x3f99_999a, 0x4010_0000, 0]];
    let options = Options { rounding: Rounding::ApproxUp, ..Options::default() };
    assert_eq!(eval_with("div.rn.f32 %r0, %r1, %r2;", &row, &options).0, eval("div.rn.f32 %r0, %r1, %r2;", &row));
}
