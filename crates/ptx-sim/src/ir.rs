//! The decoded program: types, operands and operations. Everything a warp needs is resolved here, so that running
//! an instruction looks at no text.

use crate::counters::Class;

/// A PTX type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
}

impl Type {
    pub(crate) fn parse(s: &str) -> Option<Type> {
        Some(match s {
            "pred" => Type::Pred,
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::Bf16,
            "bf16x2" => Type::Bf16x2,
            "tf32" => Type::Tf32,
            "f32" => Type::F32,
            "f64" => Type::F64,
            _ => return None,
        })
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Type::Pred | Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 | Type::Bf16x2 | Type::Tf32 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
        }
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    /// Integers and untyped bits.
    pub(crate) fn is_integer(self) -> bool {
        !matches!(self, Type::Pred) && !self.is_float()
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 | Type::Tf32 | Type::F32 | Type::F64)
    }

    pub(crate) fn is_bf16(self) -> bool {
        matches!(self, Type::Bf16 | Type::Bf16x2)
    }

    pub(crate) fn is_half(self) -> bool {
        matches!(self, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2)
    }
}

/// Special registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// `%tid`, axis 0 to 2.
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    GridId,
    /// Masks of the lanes below, at or below ... this one.
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    /// Clocks and timers: the number of instructions run so far.
    Clock,
    DynamicShared,
    TotalShared,
    WarpSize,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// Register of 8, 16 or 32 bits.
    R(u32),
    /// Register of 64 bits.
    D(u32),
    /// Predicate register, perhaps negated.
    P(u32, bool),
    Imm(u64),
    Special(Special),
    /// Index of an instruction.
    Label(u32),
    /// Offset of a kernel parameter.
    Param(u32),
    Vector(Box<[Operand]>),
    /// `[base + offset]`
    Address(Box<Operand>, i64),
    /// `d|p`
    Pair(Box<(Operand, Operand)>),
    /// `_`
    Sink,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Param,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

/// Modifiers of floating-point arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloatMods {
    pub(crate) round: Round,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    pub(crate) relu: bool,
    /// `min.NaN` and `max.NaN`: a NaN operand gives NaN.
    pub(crate) nan: bool,
}

impl FloatMods {
    /// Round to nearest and nothing else: the fast path.
    pub(crate) fn is_plain(self) -> bool {
        self.round == Round::Nearest && !self.ftz && !self.sat && !self.relu
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// Integer operations of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Int2 {
    Add,
    AddSat,
    Sub,
    SubSat,
    MulLo,
    MulHi,
    Div,
    Rem,
    Min,
    Max,
    Shl,
    Shr,
}

/// Integer operations of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Int1 {
    Neg,
    Abs,
    Popc,
    Clz,
    Brev,
    /// `bfind`; with `shiftamt` if true.
    Bfind(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float2 {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Copysign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float1 {
    Neg,
    Abs,
    Rcp,
    Sqrt,
}

/// Functions that the hardware only approximates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approx {
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Sin,
    Cos,
    Tanh,
    /// Exact zero for divisors beyond 2^126, as the ISA allows.
    Div,
    /// `div.full`: the whole range.
    DivFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShflMode {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    Ballot,
    Any,
    All,
    Uni,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redux {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
}

/// Tensor-core shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MmaKind {
    /// m16n8k16 with f32 sums; factors bf16 or f16.
    M16n8k16(Type),
    /// m16n8k8 with f32 sums; factors bf16 or f16.
    M16n8k8Half(Type),
    /// m16n8k8 tf32 with f32 sums.
    M16n8k8Tf32,
    /// m16n8k32 with s32 sums; signedness of a and b; saturating.
    M16n8k32 { a_signed: bool, b_signed: bool, sat: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Mov(Type),
    /// A vector of registers from one register.
    Unpack(Type),
    /// One register from a vector.
    Pack(Type),
    Int2(Int2, Type),
    Int1(Int1, Type),
    MadLo(Type),
    /// Type; saturating.
    MadHi(Type, bool),
    MulWide(Type),
    MadWide(Type),
    /// Sum of absolute differences.
    Sad(Type),
    Logic(Logic, Type),
    Not(Type),
    /// `lop3` with its table.
    Lop3(u8),
    /// Left or right; wrapping or clamped.
    Shf {
        left: bool,
        wrap: bool,
    },
    Bfi(Type),
    Bfe(Type),
    Prmt,
    /// Signedness of a and b.
    Dp4a {
        a_signed: bool,
        b_signed: bool,
    },
    Float2(Float2, Type, FloatMods),
    Float1(Float1, Type, FloatMods),
    Fma(Type, FloatMods),
    /// `ftz`
    Approx(Approx, bool),
    /// Half-precision `ex2` and `tanh`.
    ApproxHalf(Approx, Type),
    Setp {
        cmp: Compare,
        ty: Type,
        combine: Option<Logic>,
        ftz: bool,
    },
    /// `set`: result type, compared type.
    Set {
        cmp: Compare,
        to: Type,
        ty: Type,
        ftz: bool,
    },
    Selp(Type),
    /// Types of the values and of the selector.
    Slct(Type, Type),
    /// `integer`: round to an integer in the floating-point type.
    Cvt {
        to: Type,
        from: Type,
        mods: FloatMods,
        integer: bool,
    },
    /// To a specific space or to generic.
    Cvta {
        to: bool,
        space: Space,
    },
    LdParam {
        ty: Type,
        n: u8,
    },
    Ld {
        space: Space,
        ty: Type,
        n: u8,
    },
    St {
        space: Space,
        ty: Type,
        n: u8,
    },
    /// `red` if there is no result.
    Atom {
        op: AtomOp,
        space: Space,
        ty: Type,
        result: bool,
    },
    Bra,
    Exit,
    Bar,
    /// `bar.arrive`
    BarArrive,
    BarWarp,
    Fence,
    /// Prefetches and hints.
    Nop,
    Trap,
    Shfl(ShflMode),
    Vote(VoteMode),
    ActiveMask,
    MatchAny(Type),
    Redux(Redux, Type),
    Ldmatrix {
        n: u8,
        trans: bool,
    },
    Mma(MmaKind),
    CpAsync,
    CpCommit,
    CpWait,
    CpWaitAll,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub(crate) op: Op,
    pub(crate) class: Class,
    /// Predicate register and whether it is negated.
    pub(crate) guard: Option<(u32, bool)>,
    pub(crate) args: Box<[Operand]>,
    pub(crate) line: u32,
    pub(crate) text: Box<str>,
}
