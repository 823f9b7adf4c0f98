//! Runs kernels: CTAs one after the other, the warps of a CTA in turns from barrier to barrier, 32 lanes at a time.

mod alu;
mod convert;
mod float;
mod memory;
mod sync;
mod tensor;
mod traffic;
mod warp;

use self::float::Deviation;
use self::warp::{Geometry, State, Warp};
use crate::counters::{Class, Counters, LineCost};
use crate::ir::{Instruction, Op, Operand};
use crate::memory::{Memory, Stamps};
use crate::parse::Kernel;
use crate::report::{Finding, FindingKind, Report};
use crate::shared::Shared;

/// Most shared memory of a block on any GPU so far (sm_90), in bytes.
const MAX_SHARED: usize = 232_448;
/// Instructions that a warp may run before the next warp gets a turn, so that a warp can wait for another in a loop.
const SLICE: u32 = 1 << 16;

/// A launch: the arguments of `cuLaunchKernel`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: usize,
    /// The parameter buffer, laid out as [`Kernel::params`] says.
    pub params: Vec<u8>,
}

/// How results that hardware does not define exactly are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rounding {
    /// Everything to nearest.
    #[default]
    Nearest,
    /// Sums of the tensor cores are truncated.
    TruncateAccumulate,
    /// Approximate functions err upwards, by 2 units in the last place or the manual's bound where that is larger.
    ApproxUp,
    /// Approximate functions err downwards.
    ApproxDown,
    /// A mix of all of these, drawn from the seed.
    Mixed,
}

/// What to check and how to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Find races of warps in shared memory and accesses to `cp.async` in flight.
    pub shared_races: bool,
    /// Find conflicts of CTAs in global memory.
    pub global_races: bool,
    /// Find reads of bytes that nobody wrote.
    pub uninitialised: bool,
    /// Count memory traffic. Instructions are counted always.
    pub counters: bool,
    /// Rounding of approximate functions and tensor-core sums.
    pub rounding: Rounding,
    /// Order of CTAs and warps: 0 is ascending, everything else a random order.
    pub seed: u64,
    /// The run ends after this many findings (at least one).
    pub max_findings: usize,
    /// The run ends after this many warp instructions, with a finding.
    pub max_instructions: u64,
}

impl Default for Options {
    /// All checks, rounding to nearest, ascending order, 16 findings, 4 billion warp instructions.
    fn default() -> Self {
        Self {
            shared_races: true,
            global_races: true,
            uninitialised: true,
            counters: true,
            rounding: Rounding::Nearest,
            seed: 0,
            max_findings: 16,
            max_instructions: 4_000_000_000,
        }
    }
}

/// Everything of one run.
struct Machine<'a> {
    kernel: &'a Kernel,
    launch: &'a Launch,
    memory: &'a mut Memory,
    options: Options,
    counters: Counters,
    tensor_flops: u64,
    findings: Vec<Finding>,
    shared: Shared,
    stamps: Stamps,
    deviation: Deviation,
    cta: [u32; 3],
    cta_index: u32,
    /// Instruction that runs now.
    pc: u32,
    /// Allocation of the last access: the next one is mostly there too.
    last: usize,
    /// Memory costs by instruction.
    costs: Vec<LineCost>,
    /// Warps and lanes by instruction.
    executed: Vec<(u64, u64)>,
    /// `bar.arrive` of warps, by barrier.
    arrivals: Vec<(u32, usize)>,
    total: u64,
    stopped: bool,
}

/// Runs a kernel to its end, or to the limits of the options, and reports what it did and what is wrong with it.
///
/// Nothing is executed if the launch does not fit the kernel; the report says so. Memory keeps what the kernel wrote.
pub fn run(kernel: &Kernel, launch: &Launch, memory: &mut Memory, options: &Options) -> Report {
    if let Some(message) = bad_launch(kernel, launch) {
        let finding = Finding {
            kind: FindingKind::BadLaunch,
            line: 0,
            instruction: String::new(),
            cta: [0; 3],
            thread: [0; 3],
            message,
            count: 1,
        };
        return Report { findings: vec![finding], ..Report::default() };
    }
    let [gx, gy, gz] = launch.grid;
    let ctas = u64::from(gx) * u64::from(gy) * u64::from(gz);
    let stamps = memory.start_launch(u32::try_from(ctas).unwrap_or(u32::MAX));
    let bytes = kernel.dynamic_base + launch.dynamic_shared;
    let n = kernel.instructions.len();
    let mut machine = Machine {
        kernel,
        launch,
        memory,
        options: *options,
        counters: Counters::default(),
        tensor_flops: 0,
        findings: Vec::new(),
        shared: Shared::new(bytes, options.shared_races || options.uninitialised),
        stamps,
        deviation: Deviation { rounding: options.rounding, state: options.seed },
        cta: [0; 3],
        cta_index: 0,
        pc: 0,
        last: 0,
        costs: vec![LineCost::default(); n],
        executed: vec![(0, 0); n],
        arrivals: Vec::new(),
        total: 0,
        stopped: false,
    };
    machine.grid(ctas);
    machine.report()
}

fn bad_launch(kernel: &Kernel, launch: &Launch) -> Option<String> {
    let product = |v: [u32; 3]| v.iter().try_fold(1u64, |p, &x| p.checked_mul(x.into()));
    let threads = product(launch.block).unwrap_or(u64::MAX);
    if threads == 0 || threads > 1024 {
        return Some(format!("a block has 1 to 1024 threads, not {:?}", launch.block));
    }
    if let Some(most) = kernel.max_threads()
        && (threads > most.into() || kernel.required_threads && threads != most.into())
    {
        return Some(format!("the block has {threads} threads; the kernel was compiled for {most}"));
    }
    if !matches!(product(launch.grid), Some(1..=0xffff_fff0)) {
        return Some(format!("the grid {:?} is empty or too large", launch.grid));
    }
    if launch.params.len() < kernel.param_bytes() {
        return Some(format!(
            "the parameters need {} bytes, the buffer has {}",
            kernel.param_bytes(),
            launch.params.len()
        ));
    }
    let shared = kernel.dynamic_base.saturating_add(launch.dynamic_shared);
    if shared > MAX_SHARED {
        return Some(format!("{shared} bytes of shared memory; no GPU has more than {MAX_SHARED} for a block"));
    }
    None
}

/// A permutation of `0..n` that needs no table: steps of a number that shares no factor with `n`.
struct Order {
    n: u64,
    start: u64,
    step: u64,
}

impl Order {
    fn new(n: u64, seed: u64) -> Self {
        if seed == 0 || n < 2 {
            return Self { n: n.max(1), start: 0, step: 1 };
        }
        let mix = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed >> 29;
        let mut step = (mix >> 17) % n;
        while gcd(step, n) != 1 {
            step += 1;
        }
        Self { n, start: (mix >> 3) % n, step }
    }

    fn at(&self, i: u64) -> u64 {
        ((u128::from(i) * u128::from(self.step) + u128::from(self.start)) % u128::from(self.n)) as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl<'a> Machine<'a> {
    fn grid(&mut self, ctas: u64) {
        let [gx, gy, _] = self.launch.grid.map(u64::from);
        let [bx, by, bz] = self.launch.block;
        let threads = bx * by * bz;
        let count = threads.div_ceil(32) as usize;
        let k = self.kernel;
        let mut warps: Vec<Warp> = (0..count).map(|i| Warp::new(i, k.predicates, k.r, k.d)).collect();
        let order = Order::new(ctas, self.options.seed);
        for n in 0..ctas {
            let index = order.at(n);
            self.cta_index = index as u32;
            self.cta = [index % gx, index / gx % gy, index / gx / gy].map(|v| v as u32);
            let geometry = Geometry {
                grid: self.launch.grid,
                block: self.launch.block,
                cta: self.cta,
                dynamic_shared: self.launch.dynamic_shared as u32,
                total_shared: self.shared.data.len() as u32,
                clock: 0,
            };
            for w in &mut warps {
                w.reset(threads - 32 * w.id as u32, geometry);
            }
            self.counters.ctas += 1;
            self.shared.start_cta(count);
            self.arrivals.clear();
            self.run_cta(&mut warps, n);
            if self.stopped {
                return;
            }
        }
    }

    fn run_cta(&mut self, warps: &mut [Warp], n: u64) {
        let mut turn = 0u64;
        loop {
            let seed =
                if self.options.seed == 0 { 0 } else { self.options.seed.wrapping_add(n << 20).wrapping_add(turn) };
            let order = Order::new(warps.len() as u64, seed);
            let mut ran = false;
            for i in 0..warps.len() as u64 {
                let w = &mut warps[order.at(i) as usize];
                if w.state == State::Running {
                    ran = true;
                    self.run_warp(w);
                    if self.stopped {
                        return;
                    }
                }
            }
            if warps.iter().all(|w| w.state == State::Done) {
                break;
            }
            let released = self.release(warps);
            if !ran && !released {
                self.deadlock(warps);
                return;
            }
            turn += 1;
        }
        for w in warps.iter() {
            if let Some(c) = w.in_flight.first() {
                let lane = usize::from(c.lane);
                let Some(i) = self.kernel.instructions.get(c.pc as usize) else { continue };
                self.find(FindingKind::NeverWaited, i, w, lane, || {
                    format!("{} copies of warp {} were still in flight when it ended", w.in_flight.len(), w.id)
                });
            }
        }
    }

    /// Completes the barriers that have everybody; false if there is none.
    fn release(&mut self, warps: &mut [Warp]) -> bool {
        let mut any = false;
        for id in 0..16 {
            let here = |w: &Warp| matches!(w.state, State::Waiting { id: b, .. } if b == id);
            let waiting: Vec<usize> = (0..warps.len()).filter(|&w| here(&warps[w])).collect();
            let Some(&first) = waiting.first() else { continue };
            let mut arrived: Vec<usize> = self.arrivals.iter().filter(|a| a.0 == id).map(|a| a.1).collect();
            arrived.extend(&waiting);
            let complete = match warps[first].state {
                State::Waiting { threads: Some(t), .. } => 32 * arrived.len() as u64 >= t.into(),
                _ => warps.iter().all(|w| w.state == State::Done || here(w)),
            };
            if !complete {
                continue;
            }
            any = true;
            self.counters.barriers += 1;
            self.arrivals.retain(|a| a.0 != id);
            self.shared.clocks.barrier(&arrived, &waiting);
            for w in waiting {
                warps[w].state = State::Running;
            }
        }
        any
    }

    fn deadlock(&mut self, warps: &[Warp]) {
        let stuck: Vec<String> = warps
            .iter()
            .filter_map(|w| match w.state {
                State::Waiting { id, pc, .. } => {
                    let line = self.kernel.instructions.get(pc as usize).map_or(0, |i| i.line);
                    Some(format!("warp {} at barrier {id} (line {line})", w.id))
                }
                _ => None,
            })
            .collect();
        let first = warps.iter().find_map(|w| match w.state {
            State::Waiting { pc, .. } => Some((w, pc)),
            _ => None,
        });
        if let Some((w, pc)) = first
            && let Some(i) = self.kernel.instructions.get(pc as usize)
        {
            self.find(FindingKind::Deadlock, i, w, 0, || format!("nobody can go on: {}", stuck.join(", ")));
        }
        self.stopped = true;
    }

    /// Runs a warp to a barrier, its end, or the end of its time slice.
    fn run_warp(&mut self, w: &mut Warp) {
        let instructions: &'a [Instruction] = &self.kernel.instructions;
        for _ in 0..SLICE {
            if w.groups.len() != 1 || w.groups[0].parked {
                w.regroup();
            }
            let Some(group) = w.groups.first_mut() else {
                w.state = State::Done;
                return;
            };
            let (pc, lanes) = (group.pc, group.mask);
            let Some(i) = instructions.get(pc as usize) else {
                w.live &= !lanes;
                group.mask = 0;
                w.regroup();
                if let Some(last) = instructions.last() {
                    self.find(FindingKind::Malformed, last, w, 0, || {
                        "the kernel runs past its last instruction".into()
                    });
                }
                continue;
            };
            group.pc = pc + 1;
            self.pc = pc;
            let m = match i.guard {
                None => lanes,
                Some((p, negated)) => lanes & (w.predicates[p as usize] ^ if negated { u32::MAX } else { 0 }),
            };
            if self.total >= self.options.max_instructions {
                self.find(FindingKind::InstructionLimit, i, w, 0, || "the kernel is endless or very long".into());
                self.stopped = true;
                return;
            }
            if !matches!(i.class, Class::Lanes | Class::Barrier | Class::Mma | Class::Ldmatrix) {
                self.count(pc, m);
                if self.step(w, i, m, lanes) {
                    return;
                }
                continue;
            }
            if m == 0 {
                self.count(pc, m);
                continue;
            }
            let required = Self::required(w, i, m);
            if required & !m != 0 && !self.gather(w, i, m, required) {
                continue;
            }
            self.count(pc, m);
            if self.step(w, i, m, lanes) {
                return;
            }
        }
    }

    fn count(&mut self, pc: u32, m: u32) {
        self.total += 1;
        let e = &mut self.executed[pc as usize];
        e.0 += 1;
        e.1 += u64::from(m.count_ones());
    }

    /// Runs one instruction for the lanes in `m` of a group of `lanes`; true if the warp has to stop.
    #[inline]
    fn step(&mut self, w: &mut Warp, i: &Instruction, m: u32, lanes: u32) -> bool {
        match i.op {
            Op::Bra => {
                let Operand::Label(target) = i.args[0] else { return false };
                if m == lanes {
                    w.groups[0].pc = target;
                } else if m != 0 {
                    self.counters.divergent_branches += 1;
                    w.groups[0].mask = lanes & !m;
                    w.groups.push(warp::Group { pc: target, mask: m, parked: false });
                }
                return false;
            }
            Op::Exit => {
                w.live &= !m;
                w.groups[0].mask &= !m;
                if w.groups[0].mask == 0 {
                    w.groups.swap_remove(0);
                }
                return false;
            }
            _ if m == 0 => return false,
            Op::Bar | Op::BarArrive => {
                let mut buffer = [0; 32];
                let lane = m.trailing_zeros() as usize % 32;
                let id = w.get32(&i.args[0], &mut buffer)[lane] & 15;
                let threads = i.args.get(1).map(|o| w.get32(o, &mut buffer)[lane]);
                if matches!(i.op, Op::BarArrive) {
                    self.arrivals.push((id, w.id));
                    return false;
                }
                w.state = State::Waiting { id, threads, pc: self.pc };
                return true;
            }
            _ => {}
        }
        let done = match i.class {
            Class::Global | Class::Shared | Class::Param | Class::CpAsync | Class::Atomic => self.run_memory(w, i, m),
            Class::Mma | Class::Ldmatrix => !self.needs_full_warp(w, i, m) || self.run_tensor(w, i, m),
            Class::Lanes | Class::Barrier | Class::Control => self.run_lanes(w, i, m),
            Class::F32 | Class::F64 | Class::Half | Class::Sfu => {
                float::run(w, i, m, &mut self.deviation) || alu::run(w, i, m)
            }
            Class::Convert => convert::run(w, i, m),
            Class::Integer | Class::Move => {
                w.geometry.clock = self.total;
                alu::run(w, i, m) || self.address_cast(w, i, m) || float::run(w, i, m, &mut self.deviation)
            }
        } || self.run_lanes(w, i, m);
        if !done {
            self.find(FindingKind::Malformed, i, w, 0, || "the interpreter cannot run this".to_owned());
        }
        self.stopped
    }

    fn address_cast(&mut self, w: &mut Warp, i: &Instruction, m: u32) -> bool {
        let Op::Cvta { to, space } = i.op else { return false };
        let window = if space == crate::ir::Space::Shared { crate::shared::WINDOW } else { 0 };
        let window = if to { window.wrapping_neg() } else { window };
        w.map1_wide(&i.args, m, |x| x.wrapping_add(window));
        true
    }

    /// Records a finding, once for each kind and line.
    fn find(&mut self, kind: FindingKind, i: &Instruction, w: &Warp, lane: usize, message: impl FnOnce() -> String) {
        if let Some(f) = self.findings.iter_mut().find(|f| f.kind == kind && f.line == i.line) {
            f.count += 1;
            return;
        }
        if self.findings.len() >= self.options.max_findings.max(1) {
            return;
        }
        let thread = (32 * w.id + lane) as u32;
        let [bx, by, _] = self.launch.block;
        self.findings.push(Finding {
            kind,
            line: i.line,
            instruction: i.text.to_string(),
            cta: self.cta,
            thread: [thread % bx, thread / bx % by, thread / bx / by],
            message: message(),
            count: 1,
        });
        if kind == FindingKind::Trap || self.findings.len() >= self.options.max_findings {
            self.stopped = true;
        }
    }

    fn report(self) -> Report {
        let mut c = self.counters;
        let mut covered = Vec::new();
        for (n, i) in self.kernel.instructions.iter().enumerate() {
            let (warps, lanes) = self.executed[n];
            if 0 < warps {
                covered.push(i.line);
            }
            c.warp_instructions += warps;
            c.lane_instructions += lanes;
            c.warp_by_class[i.class as usize] += warps;
            c.lanes_by_class[i.class as usize] += lanes;
            c.f32_flops += lanes
                * match i.op {
                    Op::Fma(crate::ir::Type::F32, _) => 2,
                    Op::Float2(_, crate::ir::Type::F32, _) => 1,
                    _ => 0,
                };
            let cost = self.costs[n];
            if cost.executed > 0 {
                let line = c.lines.entry(i.line).or_default();
                line.executed += cost.executed;
                line.extra_sectors += cost.extra_sectors;
                line.extra_wavefronts += cost.extra_wavefronts;
            }
        }
        c.tensor_flops = self.tensor_flops;
        covered.sort_unstable();
        covered.dedup();
        Report { counters: c, findings: self.findings, covered }
    }
}
