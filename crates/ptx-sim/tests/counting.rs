//! The counters on accesses whose cost is known by hand.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{launch, module};
use paring_ptx_sim::{Class, Counters, Memory, Options};

const START: &str = "ld.param.u64 %d1, [p0];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, buffer;\n";

fn count(body: &str, grid: u32, block: u32) -> Counters {
    let mut memory = Memory::new();
    let a = memory.alloc(65536);
    memory.fill(a, 0, 65536).unwrap();
    let source = module(1, ".shared .align 16 .b8 buffer[8192];", &format!("{START}{body}"));
    let options = Options { uninitialised: false, ..Options::default() };
    let r = launch(&source, grid, block, &[a], &mut memory, &options);
    assert!(r.is_clean(), "{:?}", r.findings);
    r.counters
}

/// Sectors, ideal sectors and distinct sectors of one warp-wide load of 4 bytes at a stride in bytes.
fn strided(stride: u32) -> (u64, u64, u64) {
    let c =
        count(&format!("mul.wide.u32 %d2, %r1, {stride};\nadd.s64 %d2, %d2, %d1;\nld.global.u32 %r3, [%d2];"), 1, 32);
    assert_eq!((c.global_requests, c.global_bytes_read, c.global_bytes_written), (1, 128, 0));
    (c.global_sectors, c.global_ideal_sectors, c.unique_sectors_read)
}

#[test]
fn sectors_of_strided_loads() {
    assert_eq!(strided(4), (4, 4, 4));
    assert_eq!(strided(8), (8, 4, 8));
    assert_eq!(strided(32), (32, 4, 32));
    assert_eq!(strided(512), (32, 4, 32));
    // Everybody reads the same word.
    assert_eq!(strided(0), (1, 1, 1));
    // Lanes in an order that jumps between sectors.
    let c = count(
        "shl.b32 %r3, %r1, 4;\nand.b32 %r3, %r3, 31;\ncvt.u64.u32 %d2, %r3;\nadd.s64 %d2, %d2, %d1;\nand.b32 %r4, %r1, 2;\n\
         mad.wide.u32 %d2, %r4, 64, %d2;\nld.global.u32 %r3, [%d2];",
        1,
        32,
    );
    assert_eq!(c.global_sectors, 2);
}

#[test]
fn wide_and_misplaced_accesses() {
    let c =
        count("mul.wide.u32 %d2, %r1, 16;\nadd.s64 %d2, %d2, %d1;\nst.global.v4.u32 [%d2], {%r1,%r1,%r1,%r1};", 1, 32);
    assert_eq!((c.global_sectors, c.global_ideal_sectors, c.unique_sectors_written), (16, 16, 16));
    assert_eq!((c.global_bytes_written, c.compulsory_bytes()), (512, 512));
    assert_eq!(c.coalescing(), 1.0);
    // 4 bytes past a sector boundary: one sector more.
    let c = count("mul.wide.u32 %d2, %r1, 4;\nadd.s64 %d2, %d2, %d1;\nld.global.u32 %r3, [%d2+4];", 1, 32);
    assert_eq!((c.global_sectors, c.global_ideal_sectors), (5, 4));
    let worst = c.worst_lines(3);
    assert_eq!((worst.len(), worst[0].1.extra_sectors, worst[0].1.executed), (1, 1, 1));
}

#[test]
fn repeated_reads_are_compulsory_once() {
    let c = count(
        "mul.wide.u32 %d2, %r1, 4;\nadd.s64 %d2, %d2, %d1;\nld.global.u32 %r3, [%d2];\nld.global.u32 %r3, [%d2];",
        3,
        64,
    );
    assert_eq!((c.global_bytes_read, c.global_sectors, c.unique_sectors_read), (2 * 3 * 256, 48, 8));
    assert_eq!(c.ctas, 3);
}

/// Wavefronts of one warp-wide shared store at a stride in bytes.
fn wavefronts(stride: u32, width: &str) -> (u64, u64) {
    let value = match width {
        "v4.u32" => "{%r1,%r1,%r1,%r1}",
        "v2.u32" => "{%r1,%r1}",
        "u16" => "%h1",
        _ => "%r1",
    };
    let c = count(&format!("mad.lo.u32 %r3, %r1, {stride}, %r2;\nst.shared.{width} [%r3], {value};"), 1, 32);
    assert_eq!(c.shared_requests, 1);
    (c.shared_wavefronts, c.shared_ideal_wavefronts)
}

#[test]
fn bank_conflicts() {
    assert_eq!(wavefronts(4, "u32"), (1, 1));
    assert_eq!(wavefronts(8, "u32"), (2, 1));
    assert_eq!(wavefronts(128, "u32"), (32, 1));
    assert_eq!(wavefronts(132, "u32"), (1, 1));
    assert_eq!(wavefronts(0, "u32"), (1, 1));
    assert_eq!(wavefronts(2, "u16"), (1, 1));
    assert_eq!(wavefronts(8, "v2.u32"), (2, 2));
    assert_eq!(wavefronts(16, "v4.u32"), (4, 4));
    // Rows of 64 bytes: 8 lanes of a phase fall on two groups of banks, so each phase takes 4.
    assert_eq!(wavefronts(64, "v4.u32"), (16, 4));
    assert_eq!(wavefronts(144, "v4.u32"), (4, 4));
}

#[test]
fn matrix_loads_count_by_rows() {
    let rows = |stride: u32| {
        let body = format!(
            "mad.lo.u32 %r3, %r1, {stride}, %r2;\nldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r4,%r5,%r6,%r7}}, [%r3];"
        );
        let c = count(&body, 1, 32);
        (c.shared_wavefronts, c.shared_ideal_wavefronts, c.warp(Class::Ldmatrix))
    };
    assert_eq!(rows(16), (4, 4, 1));
    assert_eq!(rows(128), (32, 4, 1));
    assert_eq!(rows(80), (4, 4, 1));
}

#[test]
fn instructions_by_class() {
    let c = count(
        "add.f32 %f1, %f2, %f3;\nfma.rn.f32 %f1, %f2, %f3, %f1;\nex2.approx.f32 %f1, %f1;\nadd.f64 %d2, %d3, %d4;\n\
         add.s32 %r3, %r1, 1;\ncvt.rn.f32.s32 %f4, %r3;\nbar.sync 0;\nshfl.sync.bfly.b32 %r4, %r1, 1, 31, -1;\n\
         setp.lt.u32 %p1, %r1, 8;\n@%p1 bra L;\nadd.s32 %r3, %r1, 1;\nL:\nred.global.add.u32 [%d1], 1;",
        1,
        64,
    );
    let classes = |k| (c.warp(k), c.lanes(k));
    assert_eq!(classes(Class::F32), (4, 128));
    assert_eq!(classes(Class::F64), (2, 64));
    assert_eq!(classes(Class::Sfu), (2, 64));
    assert_eq!(classes(Class::Convert), (2, 64));
    assert_eq!(classes(Class::Barrier), (2, 64));
    assert_eq!(classes(Class::Lanes), (2, 64));
    assert_eq!(classes(Class::Atomic), (2, 64));
    // One of the two additions is skipped by 8 lanes.
    assert_eq!(classes(Class::Integer), (2 * 3, 2 * 64 + 56));
    assert_eq!(c.f32_flops, 3 * 64);
    assert_eq!((c.barriers, c.divergent_branches), (1, 1));
    assert_eq!(c.warp_by_class.iter().sum::<u64>(), c.warp_instructions);
    assert_eq!(c.lanes_by_class.iter().sum::<u64>(), c.lane_instructions);
    assert_eq!(c.lanes_by_class.len(), Class::ALL.len());
}
