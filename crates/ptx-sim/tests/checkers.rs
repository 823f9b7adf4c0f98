//! Each checker on a pair of kernels: a right one that passes and a broken one that is found, where and as what.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::{launch, module};
use paring_ptx_sim::{Finding, FindingKind, Launch, Memory, Module, Options, run};

const THREAD: &str = "mov.u32 %r1, %tid.x;\nmov.u32 %r2, %ctaid.x;\nld.param.u64 %d1, [p0];\nld.param.u64 %d2, [p1];\n\
                      shl.b32 %r3, %r1, 2;\nmul.wide.u32 %d3, %r1, 4;\nadd.s64 %d4, %d1, %d3;\nadd.s64 %d5, %d2, %d3;\n\
                      mov.u32 %r10, buffer;\nadd.u32 %r11, %r10, %r3;\n";
const SHARED: &str = ".shared .align 16 .b8 buffer[4096];";

/// Runs a body with two buffers of 1024 words: the first is written, the second is fresh.
fn findings_with(body: &str, grid: u32, block: u32, options: &Options) -> Vec<Finding> {
    let mut memory = Memory::new();
    let (a, b) = (memory.alloc(4096), memory.alloc(4096));
    memory.fill(a, 1, 4096).unwrap();
    let source = module(2, SHARED, &format!("{THREAD}{body}"));
    let findings = launch(&source, grid, block, &[a, b], &mut memory, options).findings;
    for f in &findings {
        // The line is that of the instruction in the text.
        let line = source.lines().nth(f.line as usize - 1).unwrap();
        assert!(line.contains(f.instruction.as_str()) && !f.instruction.is_empty(), "{f}: `{line}`");
        assert!(f.message.len() > 10, "{f}");
    }
    findings
}

fn findings(body: &str, grid: u32, block: u32) -> Vec<Finding> {
    findings_with(body, grid, block, &Options::default())
}

#[track_caller]
fn clean(body: &str, grid: u32, block: u32) {
    let found = findings(body, grid, block);
    assert!(found.is_empty(), "{}", found[0]);
}

/// Exactly one finding, of this kind, at an instruction that starts so.
#[track_caller]
fn found(body: &str, grid: u32, block: u32, kind: FindingKind, instruction: &str) -> Finding {
    let found = findings(body, grid, block);
    assert_eq!(found.iter().map(|f| f.kind).collect::<Vec<_>>(), [kind], "{found:?}");
    assert!(found[0].instruction.starts_with(instruction), "{}", found[0]);
    found[0].clone()
}

/// A finding of this kind at an instruction that starts so, perhaps among others.
#[track_caller]
fn among(body: &str, grid: u32, block: u32, kind: FindingKind, instruction: &str) -> Finding {
    let found = findings(body, grid, block);
    let f = found.iter().find(|f| f.kind == kind && f.instruction.starts_with(instruction));
    f.unwrap_or_else(|| panic!("{found:?}")).clone()
}

#[test]
fn global_bounds() {
    clean("ld.global.u32 %r4, [%d4];\nst.global.u32 [%d5], %r4;", 1, 1024);
    let f = found("ld.global.u32 %r4, [%d4+4];", 1, 1024, FindingKind::OutOfBounds, "ld.global.u32");
    assert_eq!((f.thread, f.count), ([1023, 0, 0], 1));
    found("st.global.u32 [%d5+-4], %r1;", 1, 32, FindingKind::OutOfBounds, "st.global.u32");
    found("mov.u64 %d6, 0;\nld.global.u32 %r4, [%d6];", 1, 1, FindingKind::OutOfBounds, "ld.global.u32");
}

#[test]
fn freed_memory_is_out_of_bounds() {
    let mut memory = Memory::new();
    let (a, b) = (memory.alloc(64), memory.alloc(64));
    assert!(memory.free(a) && !memory.free(a) && !memory.free(b + 4));
    let source = module(1, "", "ld.param.u64 %d1, [p0];\nst.global.u32 [%d1], 1;");
    assert_eq!(
        launch(&source, 1, 1, &[a], &mut memory, &Options::default()).findings[0].kind,
        FindingKind::OutOfBounds
    );
    assert!(launch(&source, 1, 1, &[b], &mut memory, &Options::default()).is_clean());
}

#[test]
fn shared_bounds() {
    clean("st.shared.u32 [%r11], %r1;", 1, 1024);
    let f = found("st.shared.u32 [%r11+4], %r1;", 1, 1024, FindingKind::OutOfBounds, "st.shared.u32");
    assert_eq!(f.thread, [1023, 0, 0]);
    found("ld.shared.u32 %r4, [buffer+4096];", 1, 1, FindingKind::OutOfBounds, "ld.shared.u32");
}

#[test]
fn alignment() {
    clean("ld.global.v4.u32 {%r4,%r5,%r6,%r7}, [%d1+16];", 1, 1);
    found("ld.global.v4.u32 {%r4,%r5,%r6,%r7}, [%d1+8];", 1, 1, FindingKind::Misaligned, "ld.global.v4");
    found("st.shared.u32 [buffer+2], %r1;", 1, 1, FindingKind::Misaligned, "st.shared");
    found("st.global.u64 [%d2+4], %d1;", 1, 1, FindingKind::Misaligned, "st.global");
}

#[test]
fn uninitialised_reads() {
    found("ld.global.u32 %r4, [%d5];", 1, 4, FindingKind::Uninitialised, "ld.global");
    clean("st.global.u32 [%d5], %r1;\nld.global.u32 %r4, [%d5];", 1, 4);
    // Half a word is written.
    found("st.global.u16 [%d5], %h1;\nld.global.u32 %r4, [%d5];", 1, 1, FindingKind::Uninitialised, "ld.global");
    found("ld.shared.u32 %r4, [%r11];", 1, 1, FindingKind::Uninitialised, "ld.shared");
    // What one CTA left in shared memory is not there for the next.
    let f = found(
        "setp.ne.s32 %p1, %r2, 0;\n@!%p1 st.shared.u32 [%r11], %r1;\nld.shared.u32 %r4, [%r11];",
        2,
        1,
        FindingKind::Uninitialised,
        "ld.shared",
    );
    assert_eq!(f.cta, [1, 0, 0]);
    let off = Options { uninitialised: false, ..Options::default() };
    assert!(findings_with("ld.global.u32 %r4, [%d5];\nld.shared.u32 %r4, [%r11];", 1, 1, &off).is_empty());
}

/// Each thread writes its word and reads the word of the next warp.
fn exchange(between: &str) -> String {
    format!(
        "st.shared.u32 [%r11], %r1;\n{between}\nadd.u32 %r5, %r3, 128;\nand.b32 %r5, %r5, 255;\nadd.u32 %r5, %r5, %r10;\n\
         ld.shared.u32 %r6, [%r5];\n"
    )
}

#[test]
fn shared_read_after_write() {
    clean(&exchange("bar.sync 0;"), 2, 64);
    clean(&exchange("barrier.sync 3, 64;"), 2, 64);
    let f = among(&exchange(""), 1, 64, FindingKind::SharedReadAfterWrite, "ld.shared");
    assert!(f.message.contains("warp 1") && f.message.contains("warp 0"), "{f}");
    // A fence is no barrier.
    among(&exchange("membar.cta;"), 1, 64, FindingKind::SharedReadAfterWrite, "ld.shared");
    let off = Options { shared_races: false, uninitialised: false, ..Options::default() };
    assert!(findings_with(&exchange(""), 1, 64, &off).is_empty());
}

#[test]
fn shared_write_after_read() {
    let body = |between: &str| format!("{}{between}\nst.shared.u32 [%r11], %r1;", exchange("bar.sync 0;"));
    clean(&body("bar.sync 0;"), 1, 64);
    among(&body(""), 1, 64, FindingKind::SharedWriteAfterRead, "st.shared");
}

#[test]
fn shared_write_after_write() {
    let body = |between: &str| {
        format!(
            "setp.lt.u32 %p1, %r1, 32;\n@%p1 st.shared.u32 [buffer], %r1;\n{between}\n@!%p1 st.shared.u32 [buffer], %r1;"
        )
    };
    clean(&body("bar.sync 0;"), 1, 64);
    found(&body(""), 1, 64, FindingKind::SharedWriteAfterWrite, "@!%p1 st.shared");
    // Lanes of one warp run in step here; only warps race.
    clean("st.shared.u32 [buffer], %r1;", 1, 32);
}

#[test]
fn a_barrier_orders_only_those_that_meet_at_it() {
    // Warps 0 and 1 meet at barrier 1, warps 2 and 3 at barrier 2; warp 0 then reads what warp 2 wrote.
    let body = "st.shared.u32 [%r11], %r1;\nsetp.lt.u32 %p1, %r1, 64;\n@%p1 bar.sync 1, 64;\n@!%p1 bar.sync 2, 64;\n\
                xor.b32 %r5, %r3, OFFSET;\nadd.u32 %r5, %r5, %r10;\nld.shared.u32 %r6, [%r5];";
    clean(&body.replace("OFFSET", "128"), 1, 128);
    found(&body.replace("OFFSET", "256"), 1, 128, FindingKind::SharedReadAfterWrite, "ld.shared");
}

#[test]
fn shared_atomics_do_not_race_with_each_other() {
    let start = "setp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [buffer], 0;\nbar.sync 0;\n";
    clean(&format!("{start}atom.shared.add.u32 %r5, [buffer], 1;\nbar.sync 0;\nld.shared.u32 %r6, [buffer];"), 1, 128);
    // A plain read among the atomics does, whoever comes first.
    let mixed = findings(&format!("{start}red.shared.add.u32 [buffer], 1;\nld.shared.u32 %r6, [buffer];"), 1, 128);
    assert_eq!(mixed[0].kind, FindingKind::SharedWriteAfterRead);
}

/// Copies 16 bytes a thread with `cp.async`, then reads them.
fn copy(wait: &str) -> String {
    format!(
        "shl.b32 %r5, %r1, 4;\nadd.u32 %r6, %r5, %r10;\ncvt.u64.u32 %d6, %r5;\nadd.s64 %d6, %d6, %d1;\n\
         cp.async.cg.shared.global [%r6], [%d6], 16;\ncp.async.commit_group;\n{wait}\nld.shared.u32 %r7, [%r6];\n"
    )
}

#[test]
fn asynchronous_copies() {
    clean(&copy("cp.async.wait_group 0;"), 1, 64);
    clean(&copy("cp.async.wait_all;"), 1, 64);
    // The wait leaves the last group in flight.
    let f = findings(&copy("cp.async.wait_group 1;"), 1, 64);
    assert_eq!(f.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::InFlight, FindingKind::NeverWaited]);
    let f = findings(&copy("bar.sync 0;"), 1, 64);
    assert_eq!(f[0].kind, FindingKind::InFlight);
    // Overwriting bytes in flight.
    let f = findings(&copy("st.shared.u32 [%r6], %r1;\ncp.async.wait_all;"), 1, 32);
    assert_eq!((f[0].kind, &f[0].instruction[..2]), (FindingKind::InFlight, "st"));
}

#[test]
fn a_wait_covers_only_the_own_copies() {
    // Each warp reads what the other copied.
    let body =
        |sync: &str| copy(&format!("cp.async.wait_all;\n{sync}\nxor.b32 %r5, %r5, 512;\nadd.u32 %r6, %r5, %r10;"));
    clean(&body("bar.sync 0;"), 1, 64);
    among(&body(""), 1, 64, FindingKind::SharedReadAfterWrite, "ld.shared");
    among(&body(""), 1, 64, FindingKind::SharedWriteAfterRead, "cp.async");
    // The barrier comes before the wait: the bytes arrive after it.
    let early = copy("bar.sync 0;\ncp.async.wait_all;\nxor.b32 %r5, %r5, 512;\nadd.u32 %r6, %r5, %r10;");
    among(&early, 1, 64, FindingKind::SharedReadAfterWrite, "ld.shared");
}

#[test]
fn copies_are_checked_like_loads() {
    found(
        "cp.async.ca.shared.global [buffer], [%d1+4096], 4;\ncp.async.wait_all;",
        1,
        1,
        FindingKind::OutOfBounds,
        "cp.async",
    );
    found(
        "cp.async.ca.shared.global [buffer], [%d1+2], 4;\ncp.async.wait_all;",
        1,
        1,
        FindingKind::Misaligned,
        "cp.async",
    );
    found(
        "cp.async.ca.shared.global [buffer+4], [%d1], 8;\ncp.async.wait_all;",
        1,
        1,
        FindingKind::Misaligned,
        "cp.async",
    );
    found(
        "cp.async.cg.shared.global [buffer], [%d2], 16;\ncp.async.wait_all;",
        1,
        1,
        FindingKind::Uninitialised,
        "cp.async",
    );
    found(
        "cp.async.cg.shared.global [buffer], [%d1], 16, 17;\ncp.async.wait_all;",
        1,
        1,
        FindingKind::Malformed,
        "cp.async",
    );
    // A copy of no bytes fills zeros and reads nothing.
    clean(
        "cp.async.cg.shared.global [buffer], [%d1+4096], 16, 0;\ncp.async.wait_all;\nld.shared.u32 %r4, [buffer];",
        1,
        1,
    );
}

#[test]
fn conflicts_between_ctas() {
    let own =
        "mad.lo.u32 %r5, %r2, 128, %r3;\nand.b32 %r5, %r5, 4095;\ncvt.u64.u32 %d6, %r5;\nadd.s64 %d6, %d6, %d2;\n";
    clean(&format!("{own}st.global.u32 [%d6], %r1;"), 4, 32);
    found("st.global.u32 [%d5], %r1;", 2, 32, FindingKind::GlobalRace, "st.global");
    // The second CTA reads what the first wrote; writes what the first read.
    let first = "setp.eq.u32 %p1, %r2, 0;\n";
    let read = format!("{first}@%p1 st.global.u32 [%d4], %r1;\n@!%p1 ld.global.u32 %r4, [%d4];");
    assert_eq!(found(&read, 2, 32, FindingKind::GlobalRace, "@!%p1 ld").cta, [1, 0, 0]);
    let write = format!("{first}@%p1 ld.global.u32 %r4, [%d4];\n@!%p1 st.global.u32 [%d4], %r1;");
    found(&write, 2, 32, FindingKind::GlobalRace, "@!%p1 st");
    // Everybody reads: no conflict. Neighbouring halves of a word: no conflict.
    clean("ld.global.u32 %r4, [%d4];", 8, 32);
    clean("mul.wide.u32 %d6, %r2, 2;\nadd.s64 %d6, %d6, %d2;\nst.global.u16 [%d6], %h1;", 8, 1);
    // Integer atomics of all CTAs are in order, a plain read among them is not.
    clean("atom.global.add.u32 %r4, [%d1], 1;", 8, 32);
    let mixed = "atom.global.add.u32 %r4, [%d1], 1;\nld.global.u32 %r5, [%d1];";
    among(mixed, 2, 1, FindingKind::GlobalRace, "ld.global");
    clean(mixed, 1, 1);
    // The next launch starts afresh.
    let mut memory = Memory::new();
    let a = memory.alloc(4);
    let source = module(1, "", "ld.param.u64 %d1, [p0];\nst.global.u32 [%d1], 1;");
    for _ in 0..3 {
        assert!(launch(&source, 1, 1, &[a], &mut memory, &Options::default()).is_clean());
    }
    assert!(!launch(&source, 3, 1, &[a], &mut memory, &Options::default()).is_clean());
}

#[test]
fn float_atomics() {
    clean("red.global.add.u32 [%d1], 1;\natom.global.max.s32 %r4, [%d1], 5;", 2, 32);
    found("red.global.add.f32 [%d1], 0f3F800000;", 1, 32, FindingKind::FloatAtomic, "red.global.add.f32");
}

#[test]
fn barriers_in_divergent_code() {
    clean("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nbar.sync 0;\nbra B;\nA:\nbar.sync 0;\nB:", 1, 64);
    found("setp.lt.u32 %p1, %r1, 16;\n@%p1 bar.sync 0;", 1, 32, FindingKind::Divergence, "@%p1 bar.sync");
    // Lanes that left do not count.
    clean("setp.lt.u32 %p1, %r1, 16;\n@%p1 ret;\nbar.sync 0;", 1, 64);
    clean("setp.lt.u32 %p1, %r1, 40;\n@%p1 exit;\nbar.sync 0;", 1, 96);
}

#[test]
fn barriers_that_cannot_complete() {
    let f = found("setp.lt.u32 %p1, %r1, 32;\n@%p1 bar.sync 1, 64;", 1, 64, FindingKind::Deadlock, "@%p1 bar.sync");
    assert!(f.message.contains("warp 0 at barrier 1"), "{f}");
    found(
        "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nbar.sync 0;\nbra B;\nA:\nbar.sync 1;\nB:",
        1,
        64,
        FindingKind::Deadlock,
        "bar.sync",
    );
}

#[test]
fn arriving_without_waiting() {
    // Warp 0 produces, warp 1 consumes.
    let body = |arrive: &str| {
        format!(
            "setp.lt.u32 %p1, %r1, 32;\n@!%p1 bra C;\nst.shared.u32 [%r11], %r1;\n{arrive}\nbra E;\nC:\nbar.sync 1, 64;\n\
             ld.shared.u32 %r4, [%r11+-128];\nE:"
        )
    };
    clean(&body("bar.arrive 1, 64;"), 1, 64);
    found(&body(""), 1, 64, FindingKind::Deadlock, "bar.sync");
}

#[test]
fn warp_instructions_need_their_lanes() {
    clean("shfl.sync.bfly.b32 %r4, %r1, 1, 31, -1;", 1, 32);
    found(
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 shfl.sync.bfly.b32 %r4, %r1, 1, 31, -1;",
        1,
        32,
        FindingKind::Divergence,
        "@%p1 shfl",
    );
    clean("setp.lt.u32 %p1, %r1, 16;\n@%p1 shfl.sync.bfly.b32 %r4, %r1, 1, 31, 0xffff;", 1, 32);
    // A mask without the lane that runs it.
    found("shfl.sync.bfly.b32 %r4, %r1, 0, 31, 0xfffe;", 1, 16, FindingKind::Divergence, "shfl");
    // Lanes in two branches that meet at one instruction: the early ones wait.
    clean(
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra A;\nadd.u32 %r5, %r1, 1;\nadd.u32 %r5, %r5, 1;\nbra B;\nA:\nadd.u32 %r5, %r1, 7;\nB:\n\
         vote.sync.ballot.b32 %r6, %p1, -1;",
        1,
        32,
    );
    // A shuffle from a lane that does not take part.
    found(
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 shfl.sync.idx.b32 %r4, %r1, 20, 31, 0xffff;",
        1,
        32,
        FindingKind::Divergence,
        "@%p1 shfl",
    );
    found("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r4}, [buffer];", 1, 16, FindingKind::Divergence, "ldmatrix");
}

#[test]
fn a_parked_group_waits_for_code_above_it() {
    // The lanes of the first branch jump to a barrier that lies before the code of the others in the text.
    clean(
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra MEET;\nbra OTHER;\nMEET:\nbar.sync 0;\nbra END;\nOTHER:\nadd.u32 %r5, %r1, 1;\n\
         bra MEET;\nEND:",
        1,
        64,
    );
}

#[test]
fn endless_loops_end() {
    let options = Options { max_instructions: 10_000, ..Options::default() };
    let f = findings_with("L:\nbra L;", 1, 64, &options);
    assert_eq!(f[0].kind, FindingKind::InstructionLimit);
    // A warp that waits for another in a loop gets its answer.
    clean(
        "setp.eq.u32 %p2, %r1, 0;\n@%p2 st.shared.u32 [buffer], 0;\nbar.sync 0;\nsetp.lt.u32 %p1, %r1, 32;\n@!%p1 bra W;\n\
         L:\natom.shared.add.u32 %r4, [buffer], 0;\nsetp.eq.u32 %p2, %r4, 0;\n@%p2 bra L;\nbra E;\nW:\n\
         atom.shared.exch.b32 %r4, [buffer], 1;\nE:",
        1,
        64,
    );
}

#[test]
fn traps_and_ends() {
    found("trap;", 1, 1, FindingKind::Trap, "trap");
    // A kernel without `ret` runs past its end.
    let source = ".version 7.8\n.target sm_80\n.address_size 64\n.entry k()\n{\n.reg .b32 %r<2>;\nmov.u32 %r1, 1;\n}";
    let r = launch(source, 1, 1, &[], &mut Memory::new(), &Options::default());
    assert_eq!(r.findings[0].kind, FindingKind::Malformed);
}

#[test]
fn launches_that_do_not_fit() {
    let source =
        ".version 7.8\n.target sm_80\n.address_size 64\n.entry k(.param .u64 p0)\n.maxntid 64, 1, 1\n{\nret;\n}";
    let module = Module::parse(source).unwrap();
    let kernel = module.kernel("k").unwrap();
    let good = Launch { grid: [1, 1, 1], block: [64, 1, 1], dynamic_shared: 0, params: vec![0; 8] };
    let kind = |l: &Launch| run(kernel, l, &mut Memory::new(), &Options::default()).findings.first().map(|f| f.kind);
    assert_eq!(kind(&good), None);
    for bad in [
        Launch { block: [65, 1, 1], ..good.clone() },
        Launch { block: [0, 1, 1], ..good.clone() },
        Launch { block: [u32::MAX; 3], ..good.clone() },
        Launch { grid: [0, 1, 1], ..good.clone() },
        Launch { grid: [u32::MAX; 3], ..good.clone() },
        Launch { params: vec![0; 7], ..good.clone() },
        Launch { dynamic_shared: 1 << 20, ..good.clone() },
        Launch { dynamic_shared: usize::MAX, ..good.clone() },
    ] {
        assert_eq!(kind(&bad), Some(FindingKind::BadLaunch), "{bad:?}");
    }
}

#[test]
fn findings_are_bounded_and_grouped() {
    let body = "ld.global.u32 %r4, [%d5];\nld.shared.u32 %r4, [%r11];\nst.shared.u32 [buffer+2], %r1;\ntrap;";
    assert_eq!(findings(body, 1, 32).len(), 4);
    assert_eq!(findings(body, 1, 32)[0].count, 32);
    assert_eq!(findings_with(body, 1, 32, &Options { max_findings: 2, ..Options::default() }).len(), 2);
    assert_eq!(findings_with(body, 1, 32, &Options { max_findings: 0, ..Options::default() }).len(), 1);
}

#[test]
fn orders_by_seed_visit_everything_once() {
    for seed in 0..20 {
        let mut memory = Memory::new();
        let out = memory.alloc(4 * 37);
        memory.fill(out, 0, 4 * 37).unwrap();
        let body = "ld.param.u64 %d1, [p0];\nmov.u32 %r1, %ctaid.x;\nmul.wide.u32 %d2, %r1, 4;\nadd.s64 %d1, %d1, %d2;\n\
                    red.global.add.u32 [%d1], 1;";
        let r = launch(&module(1, "", body), 37, 96, &[out], &mut memory, &Options { seed, ..Options::default() });
        assert!(r.is_clean(), "{:?}", r.findings);
        let mut raw = [0; 4 * 37];
        memory.read(out, &mut raw).unwrap();
        assert!(raw.chunks(4).all(|c| c == [96, 0, 0, 0]), "seed {seed}");
    }
}
