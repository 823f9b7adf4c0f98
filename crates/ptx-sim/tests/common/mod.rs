//! Runs single instructions and small kernels, for the tests.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "test code; each test file uses a part")]

use paring_ptx_sim::{Launch, Memory, Module, Options, Report, run};

/// A whole module around the body of a kernel `k` with parameters `p0` .. of type u64.
pub fn module(params: usize, shared: &str, body: &str) -> String {
    let list: Vec<String> = (0..params).map(|i| format!(".param .u64 p{i}")).collect();
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry k({})\n{{\n.reg .pred %p<10>;\n\
         .reg .b16 %h<10>;\n.reg .b32 %r<50>;\n.reg .f32 %f<50>;\n.reg .b64 %d<20>;\n{shared}\n{body}\nret;\n}}\n",
        list.join(", ")
    )
}

/// Parses a kernel `k` and runs it with u64 parameters.
pub fn launch(source: &str, grid: u32, block: u32, params: &[u64], memory: &mut Memory, options: &Options) -> Report {
    let module = Module::parse(source).unwrap();
    let launch = Launch {
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        dynamic_shared: 0,
        params: params.iter().flat_map(|p| p.to_le_bytes()).collect(),
    };
    run(module.kernel("k").unwrap(), &launch, memory, options)
}

/// Runs one instruction on up to 32 lanes. Inputs are in `%d1`..`%d3`, their low bits in `%r1`.., `%h1`.., `%p1`..;
/// the result is what the instruction leaves in `%d0`, `%r0`, `%h0` or `%p0`.
pub fn eval_with(instruction: &str, rows: &[[u64; 3]], options: &Options) -> (Vec<u64>, Report) {
    let take = if instruction.contains("%d0") {
        ""
    } else if instruction.contains("%r0") {
        "cvt.u64.u32 %d0, %r0;"
    } else if instruction.contains("%h0") {
        "cvt.u64.u16 %d0, %h0;"
    } else {
        "selp.b64 %d0, 1, 0, %p0;"
    };
    let body = format!(
        "mov.u32 %r40, %tid.x;\nld.param.u64 %d10, [p0];\nld.param.u64 %d11, [p1];\n\
         mad.wide.u32 %d12, %r40, 24, %d10;\nmad.wide.u32 %d13, %r40, 8, %d11;\n\
         ld.global.u64 %d1, [%d12];\nld.global.u64 %d2, [%d12+8];\nld.global.u64 %d3, [%d12+16];\n\
         cvt.u32.u64 %r1, %d1;\ncvt.u32.u64 %r2, %d2;\ncvt.u32.u64 %r3, %d3;\n\
         cvt.u16.u64 %h1, %d1;\ncvt.u16.u64 %h2, %d2;\ncvt.u16.u64 %h3, %d3;\n\
         and.b32 %r41, %r1, 1;\nsetp.ne.s32 %p1, %r41, 0;\nand.b32 %r41, %r2, 1;\nsetp.ne.s32 %p2, %r41, 0;\n\
         and.b32 %r41, %r3, 1;\nsetp.ne.s32 %p3, %r41, 0;\n\
         mov.u64 %d0, 0;\nmov.u32 %r0, 0;\nmov.u16 %h0, 0;\nsetp.ne.s32 %p0, 0, 0;\n\
         {instruction}\n{take}\nst.global.u64 [%d13], %d0;"
    );
    let mut memory = Memory::new();
    let input = memory.alloc(24 * rows.len());
    let output = memory.alloc(8 * rows.len());
    let bytes: Vec<u8> = rows.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
    memory.write(input, &bytes).unwrap();
    let source = module(2, "", &body);
    let report = launch(&source, 1, rows.len() as u32, &[input, output], &mut memory, options);
    let mut raw = vec![0; 8 * rows.len()];
    memory.read(output, &mut raw).unwrap();
    (raw.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect(), report)
}

/// As [`eval_with`], with every check on and none of them finding anything.
pub fn eval(instruction: &str, rows: &[[u64; 3]]) -> Vec<u64> {
    let mut out = Vec::new();
    for part in rows.chunks(32) {
        let (values, report) = eval_with(instruction, part, &Options::default());
        assert!(report.is_clean(), "{instruction}: {:?}", report.findings);
        out.extend(values);
    }
    out
}

/// A fixed stream of numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

pub const F32S: [f32; 22] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    3.0,
    0.1,
    1e-40,
    -1e-40,
    f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    16_777_217.0,
    2_147_483_648.0,
    1e20,
    -7.25e-3,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

pub const F64S: [f64; 12] =
    [0.0, -0.0, 1.0, -1.5, 0.1, 1e300, -1e300, 5e-324, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];

pub const INTS: [u64; 16] = [
    0,
    1,
    2,
    3,
    7,
    31,
    32,
    63,
    64,
    0x7f,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
];

/// Two float results agree: same bits, or both NaN.
pub fn same32(a: u64, b: f32) -> bool {
    let a = f32::from_bits(a as u32);
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}
