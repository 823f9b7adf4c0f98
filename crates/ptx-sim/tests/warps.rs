//! Instructions across lanes, memory instructions, atomics, asynchronous copies and tensor-core products.

#![allow(clippy::unwrap_used, clippy::type_complexity, reason = "test code with tables")]

mod common;

use common::{Random, eval, launch, module};
use paring_ptx_sim::{Memory, Options, Rounding};

fn lanes() -> Vec<[u64; 3]> {
    (0..32).map(|l| [100 + l, l, 1]).collect()
}

#[test]
fn registers_that_nobody_wrote_are_not_numbers() {
    assert_eq!(
        eval("add.f32 %r0, %r1, %r9;\nsetp.nan.f32 %p4, %r0, %r0;\nselp.b32 %r0, 1, 0, %p4;", &lanes()),
        [1; 32]
    );
}

#[test]
fn shuffles() {
    let get = |t: &str| eval(t, &lanes());
    let all = |f: fn(u64) -> u64| (0..32).map(f).collect::<Vec<_>>();
    assert_eq!(get("shfl.sync.bfly.b32 %r0, %r1, 5, 31, -1;"), all(|l| 100 + (l ^ 5)));
    assert_eq!(get("shfl.sync.idx.b32 %r0, %r1, 7, 31, -1;"), all(|_| 107));
    assert_eq!(get("shfl.sync.down.b32 %r0, %r1, 3, 31, -1;"), all(|l| 100 + if l + 3 < 32 { l + 3 } else { l }));
    assert_eq!(get("shfl.sync.up.b32 %r0, %r1, 3, 0, -1;"), all(|l| 100 + if l >= 3 { l - 3 } else { l }));
    assert_eq!(
        get("shfl.sync.down.b32 %r0|%p4, %r1, 3, 31, -1;\nselp.b32 %r0, 1, 0, %p4;"),
        all(|l| u64::from(l + 3 < 32))
    );
    assert_eq!(get("shfl.sync.up.b32 _|%p0, %r1, 3, 0, -1;"), all(|l| u64::from(l >= 3)));
    // Segments of 8 lanes: the mask in bits 8 to 12 is 0x18.
    assert_eq!(get("shfl.sync.idx.b32 %r0, %r1, 2, 0x181f, -1;"), all(|l| 100 + (l & 24) + 2));
    assert_eq!(get("shfl.sync.down.b32 %r0, %r1, 1, 0x1807, -1;"), all(|l| 100 + if l % 8 == 7 { l } else { l + 1 }));
    assert_eq!(get("shfl.sync.up.b32 %r0, %r1, 1, 0x1800, -1;"), all(|l| 100 + if l % 8 == 0 { l } else { l - 1 }));
    // Every lane names its own source.
    assert_eq!(get("xor.b32 %r4, %r2, 31;\nshfl.sync.idx.b32 %r0, %r1, %r4, 31, -1;"), all(|l| 131 - l));
}

#[test]
fn votes_and_reductions() {
    let get = |t: &str| eval(t, &lanes());
    // %p2 is true in odd lanes, %p3 everywhere.
    assert_eq!(get("vote.sync.ballot.b32 %r0, %p2, -1;"), [0xaaaa_aaaa; 32]);
    assert_eq!(get("vote.sync.any.pred %p0, %p2, -1;"), [1; 32]);
    assert_eq!(get("vote.sync.all.pred %p0, %p2, -1;"), [0; 32]);
    assert_eq!(get("vote.sync.all.pred %p0, %p3, -1;"), [1; 32]);
    assert_eq!(get("vote.sync.all.pred %p0, !%p2, -1;"), [0; 32]);
    assert_eq!(get("vote.sync.uni.pred %p0, %p3, -1;"), [1; 32]);
    assert_eq!(get("vote.sync.uni.pred %p0, %p2, -1;"), [0; 32]);
    assert_eq!(get("activemask.b32 %r0;"), [0xffff_ffff; 32]);
    assert_eq!(get("@%p2 activemask.b32 %r0;")[1], 0xaaaa_aaaa);
    assert_eq!(get("redux.sync.add.u32 %r0, %r2, -1;"), [496; 32]);
    assert_eq!(get("redux.sync.max.s32 %r0, %r1, -1;"), [131; 32]);
    assert_eq!(get("neg.s32 %r4, %r2;\nredux.sync.min.s32 %r0, %r4, -1;"), [u64::from(-31i32 as u32); 32]);
    assert_eq!(get("redux.sync.min.u32 %r0, %r1, -1;"), [100; 32]);
    assert_eq!(get("redux.sync.or.b32 %r0, %r2, -1;"), [31; 32]);
    assert_eq!(get("redux.sync.and.b32 %r0, %r3, -1;"), [1; 32]);
    assert_eq!(get("redux.sync.xor.b32 %r0, %r3, -1;"), [0; 32]);
    assert_eq!(get("and.b32 %r4, %r2, 1;\nmatch.any.sync.b32 %r0, %r4, -1;")[3], 0xaaaa_aaaa);
    assert_eq!(get("bar.warp.sync -1;\nmov.u32 %r0, %r1;")[4], 104);
}

#[test]
fn special_registers() {
    let body = "mov.u32 %r1, %tid.x;\nmov.u32 %r2, %tid.y;\nmov.u32 %r3, %ntid.x;\nmov.u32 %r4, %ctaid.x;\n\
                mov.u32 %r5, %nctaid.x;\nmov.u32 %r6, %laneid;\nmov.u32 %r7, %warpid;\nmov.u32 %r8, %lanemask_lt;\n\
                mad.lo.u32 %r9, %r2, %r3, %r1;\nmad.lo.u32 %r9, %r4, 40, %r9;\nld.param.u64 %d1, [p0];\n\
                mad.wide.u32 %d1, %r9, 16, %d1;\nst.global.v4.u32 [%d1], {%r5, %r6, %r7, %r8};";
    let mut memory = Memory::new();
    let out = memory.alloc(80 * 16);
    let source = module(1, "", body);
    let parsed = paring_ptx_sim::Module::parse(&source).unwrap();
    let l = paring_ptx_sim::Launch {
        grid: [2, 1, 1],
        block: [10, 4, 1],
        dynamic_shared: 0,
        params: out.to_le_bytes().to_vec(),
    };
    let r = paring_ptx_sim::run(parsed.kernel("k").unwrap(), &l, &mut memory, &Options::default());
    assert!(r.is_clean(), "{:?}", r.findings);
    let mut raw = vec![0; 80 * 16];
    memory.read(out, &mut raw).unwrap();
    let words: Vec<u32> = raw.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
    for thread in 0..80u32 {
        let t = thread % 40;
        let want = [2, t % 32, t / 32, (1 << (t % 32)) - 1];
        assert_eq!(words[thread as usize * 4..][..4], want, "{thread}");
    }
}

/// Runs a body with one buffer of known bytes in `%d1` and returns the buffer.
fn memory_after(body: &str, block: u32, bytes: &[u8]) -> Vec<u8> {
    let mut memory = Memory::new();
    let a = memory.alloc(bytes.len());
    memory.write(a, bytes).unwrap();
    let shared = ".shared .align 16 .b8 buffer[1024];";
    let source = module(1, shared, &format!("ld.param.u64 %d1, [p0];\nmov.u32 %r1, %tid.x;\n{body}"));
    let r = launch(&source, 1, block, &[a], &mut memory, &Options::default());
    assert!(r.is_clean(), "{:?}", r.findings);
    let mut out = vec![0; bytes.len()];
    memory.read(a, &mut out).unwrap();
    out
}

#[test]
fn loads_and_stores_of_every_width() {
    let bytes: Vec<u8> = (0..64).map(|i| 0xf0u8.wrapping_add(i)).collect();
    let after = |body: &str| memory_after(body, 1, &bytes);
    // Signed loads extend to the register.
    assert_eq!(after("ld.global.s8 %r2, [%d1];\nst.global.u32 [%d1+32], %r2;")[32..36], [0xf0, 0xff, 0xff, 0xff]);
    assert_eq!(after("ld.global.u8 %r2, [%d1];\nst.global.u32 [%d1+32], %r2;")[32..36], [0xf0, 0, 0, 0]);
    assert_eq!(after("ld.global.s16 %r2, [%d1];\nst.global.u32 [%d1+32], %r2;")[32..36], [0xf0, 0xf1, 0xff, 0xff]);
    assert_eq!(after("ld.global.nc.u16 %h1, [%d1+2];\nst.global.u16 [%d1+32], %h1;")[32..34], bytes[2..4]);
    assert_eq!(after("ld.global.s32 %d2, [%d1];\nst.global.u64 [%d1+32], %d2;")[36..40], [0xff; 4]);
    for t in ["v4.u32 {%r2,%r3,%r4,%r5}", "v2.u64 {%d2,%d3}", "v4.f32 {%f1,%f2,%f3,%f4}", "v2.b64 {%d2,%d3}"] {
        let (ty, regs) = t.split_once(' ').unwrap();
        let body =
            format!("ld.global.nc.L1::no_allocate.L2::128B.{ty} {regs}, [%d1];\nst.global.{ty} [%d1+32], {regs};");
        assert_eq!(after(&body)[32..48], bytes[..16], "{t}");
    }
    for t in ["v4.u8 {%h1,%h2,%h3,%h4}", "v4.u16 {%h1,%h2,%h3,%h4}", "v2.f32 {%f1,%f2}", "f64 %d4", "b8 %h1"] {
        let (ty, regs) = t.split_once(' ').unwrap();
        let body = format!(
            "ld.volatile.global.{ty} {regs}, [%d1];\nst.shared.{ty} [buffer+16], {regs};\nmov.u32 %r9, buffer;\n\
             ld.shared.{ty} {regs}, [%r9+16];\nst.global.wb.{ty} [%d1+32], {regs};"
        );
        let n = if ty == "b8" {
            1
        } else if ty == "v4.u8" {
            4
        } else {
            8
        };
        assert_eq!(after(&body)[32..32 + n], bytes[..n], "{t}");
    }
    // Generic addresses reach shared memory through the window.
    let body = "mov.u64 %d2, buffer;\ncvta.shared.u64 %d2, %d2;\nst.u32 [%d2+4], 77;\nld.shared.u32 %r2, [buffer+4];\n\
                ld.u32 %r3, [%d2+4];\nadd.u32 %r2, %r2, %r3;\ncvta.to.global.u64 %d3, %d1;\nst.u32 [%d3+32], %r2;\n\
                prefetch.global.L2 [%d1];\nmembar.gl;\nfence.acq_rel.gpu;";
    assert_eq!(after(body)[32], 154);
}

#[test]
fn atomics() {
    let words = |v: &[u32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let run = |op: &str, start: u32| {
        let b = memory_after(&format!("{op};"), 32, &words(&[start, 0]));
        u32::from_le_bytes(b[..4].try_into().unwrap())
    };
    assert_eq!(run("red.global.add.u32 [%d1], %r1", 5), 5 + 496);
    assert_eq!(run("atom.global.min.s32 %r2, [%d1], -3", 5), -3i32 as u32);
    assert_eq!(run("atom.global.min.u32 %r2, [%d1], -3", 5), 5);
    assert_eq!(run("atom.global.max.s32 %r2, [%d1], %r1", 5), 31);
    assert_eq!(run("atom.relaxed.gpu.global.or.b32 %r2, [%d1], %r1", 32), 63);
    assert_eq!(run("atom.global.and.b32 %r2, [%d1], 6", 5), 4);
    assert_eq!(run("atom.global.xor.b32 %r2, [%d1], %r1", 5), 5);
    assert_eq!(run("atom.global.exch.b32 %r2, [%d1], %r1", 5), 31);
    assert_eq!(run("atom.global.cas.b32 %r2, [%d1], %r1, 9", 5), 9);
    assert_eq!(run("atom.global.inc.u32 %r2, [%d1], 9", 5), (5 + 32) % 10);
    assert_eq!(run("atom.global.dec.u32 %r2, [%d1], 9", 5), 3);
    // The old values are handed out one after the other.
    let b = memory_after(
        "atom.global.add.u32 %r2, [%d1], 1;\nmul.wide.u32 %d2, %r1, 4;\nadd.s64 %d2, %d2, %d1;\nst.global.u32 [%d2+4], %r2;",
        32,
        &words(&[0; 33]),
    );
    let old: Vec<u32> = b[4..].chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
    assert_eq!(old, (0..32).collect::<Vec<_>>());
    let b = memory_after("atom.global.add.u64 %d2, [%d1], -1;", 32, &[0; 8]);
    assert_eq!(i64::from_le_bytes(b.try_into().unwrap()), -32);
}

#[test]
fn asynchronous_copies_of_every_size() {
    let bytes: Vec<u8> = (1..65).collect();
    for (form, n) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for taken in [n, n / 2, 0] {
            let body = format!(
                "cp.async.{form}.shared.global.L2::128B [buffer], [%d1], {n}, {taken};\ncp.async.commit_group;\n\
                 cp.async.commit_group;\ncp.async.wait_group 1;\nld.shared.b32 %r2, [buffer+{}];\nst.global.b32 [%d1+32], %r2;",
                n - 4
            );
            let body = if n - 4 < taken { body } else { body.clone() };
            let got = memory_after(&body, 1, &bytes);
            let want: Vec<u8> = (n - 4..n).map(|i| if i < taken { bytes[i] } else { 0 }).collect();
            assert_eq!(got[32..36], want, "{form} {n} {taken}");
        }
    }
}

/// `ldmatrix` against its definition: lane `l` gets elements `2 * (l % 4)` and the next of row `l / 4`.
#[test]
fn matrix_loads() {
    let mut bytes = Vec::new();
    for i in 0..256u16 {
        bytes.extend(i.to_le_bytes());
    }
    bytes.extend([0; 512]);
    let copy = "mul.wide.u32 %d2, %r1, 16;\nadd.s64 %d2, %d2, %d1;\nshl.b32 %r2, %r1, 4;\nmov.u32 %r3, buffer;\n\
                add.u32 %r2, %r2, %r3;\nld.global.v4.u32 {%r4,%r5,%r6,%r7}, [%d2];\n\
                st.shared.v4.u32 [%r2], {%r4,%r5,%r6,%r7};\nbar.warp.sync -1;\n";
    for (n, trans) in [(4, false), (4, true), (2, false), (1, true)] {
        let regs = ["%r10", "%r11", "%r12", "%r13"][..n].join(",");
        let t = if trans { ".trans" } else { "" };
        let body = format!(
            "{copy}mov.u32 %r10, 0;\nmov.u32 %r11, 0;\nmov.u32 %r12, 0;\nmov.u32 %r13, 0;\n\
             ldmatrix.sync.aligned.m8n8.x{n}{t}.shared.b16 {{{regs}}}, [%r2];\n\
             st.global.v4.u32 [%d2+512], {{%r10,%r11,%r12,%r13}};"
        );
        let got = memory_after(&body, 32, &bytes);
        for l in 0..32 {
            for q in 0..4 {
                let at = 512 + 16 * l + 4 * q;
                let pair = [0, 2].map(|b| u16::from_le_bytes([got[at + b], got[at + b + 1]]));
                let element = |r: usize, c: usize| (64 * q + 8 * r + c) as u16;
                let (r, c) = (l / 4, l % 4 * 2);
                let want = match (q < n, trans) {
                    (false, _) => [0, 0],
                    (true, false) => [element(r, c), element(r, c + 1)],
                    (true, true) => [element(c, r), element(c + 1, r)],
                };
                assert_eq!(pair, want, "x{n} trans {trans} lane {l} matrix {q}");
            }
        }
    }
}

/// One product of fragments that were gathered from whole matrices, scattered back to a whole matrix.
struct Product {
    instruction: &'static str,
    k: usize,
    /// Elements of a 32-bit register.
    packed: usize,
}

impl Product {
    /// Coordinates (row, k) of element `e` of register `q` of lane `l` of A, by the tables of the PTX manual.
    fn a(&self, l: usize, q: usize, e: usize) -> (usize, usize) {
        (l / 4 + 8 * (q % 2), (l % 4) * self.packed + e + 4 * self.packed * (q / 2))
    }

    fn b(&self, l: usize, q: usize, e: usize) -> (usize, usize) {
        ((l % 4) * self.packed + e + 4 * self.packed * q, l / 4)
    }

    fn run(
        &self,
        a: &dyn Fn(usize, usize) -> u32,
        b: &dyn Fn(usize, usize) -> u32,
        c: &[u32; 128],
        o: &Options,
    ) -> Vec<u32> {
        let bits = 32 / self.packed;
        let registers = 16 * self.k / self.packed / 32;
        let mut words = Vec::new();
        for l in 0..32 {
            let pack = |f: &dyn Fn(usize) -> u32| (0..self.packed).fold(0, |w, e| w | f(e) << (bits * e));
            for q in 0..4 {
                words.push(if q < registers {
                    pack(&|e| {
                        let (r, k) = self.a(l, q, e);
                        a(r, k)
                    })
                } else {
                    0
                });
            }
            for q in 0..2 {
                words.push(if 2 * q < registers {
                    pack(&|e| {
                        let (k, n) = self.b(l, q, e);
                        b(k, n)
                    })
                } else {
                    0
                });
            }
            words.extend([0, 0]);
            for q in 0..4 {
                words.push(c[8 * (l / 4 + 8 * (q / 2)) + l % 4 * 2 + q % 2]);
            }
        }
        let (ra, rb) = if registers == 4 { ("%r2,%r3,%r4,%r5", "%r6,%r7") } else { ("%r2,%r3", "%r6") };
        let body = format!(
            "ld.param.u64 %d1, [p0];\nld.param.u64 %d4, [p1];\nmov.u32 %r1, %tid.x;\nmad.wide.u32 %d2, %r1, 48, %d1;\n\
             mad.wide.u32 %d3, %r1, 16, %d4;\nld.global.v4.u32 {{%r2,%r3,%r4,%r5}}, [%d2];\n\
             ld.global.v2.u32 {{%r6,%r7}}, [%d2+16];\nld.global.v4.u32 {{%r10,%r11,%r12,%r13}}, [%d2+32];\n\
             {} {{%r20,%r21,%r22,%r23}}, {{{ra}}}, {{{rb}}}, {{%r10,%r11,%r12,%r13}};\n\
             st.global.v4.u32 [%d3], {{%r20,%r21,%r22,%r23}};",
            self.instruction
        );
        // The lane's block is 12 words: a, b with padding, c.
        let mut memory = Memory::new();
        let input = memory.alloc(4 * words.len());
        memory.write(input, &words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>()).unwrap();
        let output = memory.alloc(512);
        let r = launch(&module(2, "", &body), 1, 32, &[input, output], &mut memory, o);
        assert!(r.is_clean(), "{:?}", r.findings);
        assert_eq!(r.counters.tensor_flops, 2 * 16 * 8 * self.k as u64);
        let mut raw = [0; 512];
        memory.read(output, &mut raw).unwrap();
        let mut out = vec![0; 128];
        for l in 0..32 {
            for q in 0..4 {
                let at = 16 * l + 4 * q;
                out[8 * (l / 4 + 8 * (q / 2)) + l % 4 * 2 + q % 2] =
                    u32::from_le_bytes(raw[at..at + 4].try_into().unwrap());
            }
        }
        out
    }
}

#[test]
fn tensor_products_of_floats() {
    let cases: [(&str, usize, usize, fn(u32) -> f32); 5] = [
        ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 16, 2, |x| f32::from_bits(x << 16)),
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 16, 2, |x| (x & 0x3ff) as f32 / 1024.0 + 1.0),
        ("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 8, 2, |x| f32::from_bits(x << 16)),
        ("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32", 8, 2, |x| (x & 0x3ff) as f32 / 1024.0 + 1.0),
        ("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 8, 1, |x| f32::from_bits(x & !0x1fff)),
    ];
    for (instruction, k, packed, value) in cases {
        let p = Product { instruction, k, packed };
        let mut random = Random(3);
        // Factors between 1 and 2 in each format: f16 has exponent 15 there, bf16 and f32 127.
        let mut draw = |n: usize| -> Vec<u32> {
            (0..n)
                .map(|_| {
                    let r = random.next() as u32;
                    if packed == 1 {
                        0x3f80_0000 | r & 0x7f_ffff
                    } else if instruction.contains("bf16") {
                        0x3f80 | r & 0x7f
                    } else {
                        0x3c00 | r & 0x3ff
                    }
                })
                .collect()
        };
        let (a, b) = (draw(16 * k), draw(8 * k));
        let mut c = [0; 128];
        for (i, v) in c.iter_mut().enumerate() {
            *v = (i as f32 * 0.37 - 20.0).to_bits();
        }
        let get = |o: &Options| p.run(&|r, i| a[r * k + i], &|i, n| b[i * 8 + n], &c, o);
        let exact = |r: usize, n: usize| -> f64 {
            (0..k).map(|i| f64::from(value(a[r * k + i])) * f64::from(value(b[i * 8 + n]))).sum::<f64>()
                + f64::from(f32::from_bits(c[8 * r + n]))
        };
        let near = get(&Options::default());
        let cut = get(&Options { rounding: Rounding::TruncateAccumulate, ..Options::default() });
        let mut moved = 0;
        for r in 0..16 {
            for n in 0..8 {
                let e = exact(r, n);
                let (near, cut) = (f32::from_bits(near[8 * r + n]), f32::from_bits(cut[8 * r + n]));
                assert_eq!(near, e as f32, "{instruction} row {r} column {n}");
                assert!(
                    f64::from(cut).abs() <= e.abs()
                        && (cut == near || (near.next_up() == cut) || (near.next_down() == cut))
                );
                moved += u32::from(cut != near);
            }
        }
        assert!(moved > 10 || packed == 2, "{instruction}: truncation shows");
    }
}

#[test]
fn tensor_products_of_integers() {
    let p = Product { instruction: "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", k: 32, packed: 4 };
    let mut random = Random(5);
    let mut draw = |n: usize| (0..n).map(|_| random.next() as u32 & 255).collect::<Vec<_>>();
    let (a, b) = (draw(16 * 32), draw(8 * 32));
    let c = [7u32; 128];
    let got = p.run(&|r, i| a[r * 32 + i], &|i, n| b[i * 8 + n], &c, &Options::default());
    for r in 0..16 {
        for n in 0..8 {
            let want: i32 =
                (0..32).map(|i| i32::from(a[r * 32 + i] as i8) * i32::from(b[i * 8 + n] as i8)).sum::<i32>() + 7;
            assert_eq!(got[8 * r + n] as i32, want);
        }
    }
    let sat = Product { instruction: "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.u8.u8.s32", k: 32, packed: 4 };
    let got = sat.run(&|_, _| 255, &|_, _| 255, &[i32::MAX as u32; 128], &Options::default());
    assert_eq!(got, [i32::MAX as u32; 128]);
}
