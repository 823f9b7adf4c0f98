//! What a run found: the kinds of mistakes the checkers know, and one finding for each place in the program.

use std::fmt;

use crate::counters::Counters;

/// A kind of mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FindingKind {
    /// An access outside every live allocation (global) or outside the CTA's shared memory.
    OutOfBounds,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// A read of memory that nobody has written.
    Uninitialised,
    /// A warp reads shared memory that another warp wrote, with no barrier between.
    SharedReadAfterWrite,
    /// A warp overwrites shared memory that another warp read, with no barrier between.
    SharedWriteAfterRead,
    /// Two warps write the same shared memory, with no barrier between.
    SharedWriteAfterWrite,
    /// An access to bytes that a `cp.async` is still writing.
    InFlight,
    /// A thread left the kernel with a `cp.async` that it never waited for.
    NeverWaited,
    /// Two CTAs touch the same global bytes in one launch and at least one writes.
    GlobalRace,
    /// Threads that wait at a barrier which cannot complete.
    Deadlock,
    /// A warp-wide instruction with lanes missing (`bar.sync`, `mma`, `ldmatrix`, `shfl` ...).
    Divergence,
    /// A floating-point `atom` or `red`: the sum depends on the order of the threads.
    FloatAtomic,
    /// The kernel ran `trap`.
    Trap,
    /// The launch does not fit the kernel: threads, parameters, grid.
    BadLaunch,
    /// The instruction limit of the options was reached.
    InstructionLimit,
    /// A warp ran past the last instruction or the interpreter met an operand it cannot use.
    Malformed,
}

impl FindingKind {
    /// A short name in lower case, stable enough for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::OutOfBounds => "out of bounds",
            Self::Misaligned => "misaligned",
            Self::Uninitialised => "uninitialised read",
            Self::SharedReadAfterWrite => "shared race (read after write)",
            Self::SharedWriteAfterRead => "shared race (write after read)",
            Self::SharedWriteAfterWrite => "shared race (write after write)",
            Self::InFlight => "cp.async in flight",
            Self::NeverWaited => "cp.async never waited for",
            Self::GlobalRace => "global race between CTAs",
            Self::Deadlock => "deadlock",
            Self::Divergence => "divergence",
            Self::FloatAtomic => "float atomic",
            Self::Trap => "trap",
            Self::BadLaunch => "bad launch",
            Self::InstructionLimit => "instruction limit",
            Self::Malformed => "malformed program",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One mistake. A kind is reported once for each PTX line; `count` says how often it happened there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Line of the PTX text, from 1; 0 where no instruction is to blame.
    pub line: u32,
    /// The instruction as the PTX text writes it; empty where no instruction is to blame.
    pub instruction: String,
    /// CTA (block index) where it happened first.
    pub cta: [u32; 3],
    /// Thread index within the CTA where it happened first.
    pub thread: [u32; 3],
    /// What happened, in a sentence, with addresses.
    pub message: String,
    /// How many lanes met it before the run ended.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)?;
        if self.line > 0 {
            write!(f, " (PTX line {}: `{}`", self.line, self.instruction)?;
        } else {
            write!(f, " (")?;
        }
        let [x, y, z] = self.cta;
        let [tx, ty, tz] = self.thread;
        write!(f, " CTA {x},{y},{z} thread {tx},{ty},{tz}")?;
        if self.count > 1 {
            write!(f, ", {} times", self.count)?;
        }
        write!(f, ")")
    }
}

/// The outcome of one launch.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was executed and moved.
    pub counters: Counters,
    /// What is wrong, in the order found; empty for a kernel that passed every checker.
    pub findings: Vec<Finding>,
    /// Lines of the PTX text whose instructions some warp came to, ascending.
    pub covered: Vec<u32>,
}

impl Report {
    /// True when no checker found anything.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// The findings of one kind.
    pub fn of_kind(&self, kind: FindingKind) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |f| f.kind == kind)
    }
}
