//! Which instructions the kernels use: chosen once, when the backend is made.

/// A set of vector instructions. Each has its own kernels where it differs from the one before; what it lacks it takes from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What the target guarantees; runs everywhere.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// AVX2, FMA and the 256-bit dot products of bytes of AVX-VNNI.
    AvxVnni,
    /// AVX2, FMA and AVX-512 F, BW, DQ and VL.
    Avx512,
    /// These and the dot products of bytes of AVX512-VNNI.
    Avx512Vnni,
    /// These and the dot products of bf16 pairs of AVX512-BF16.
    Avx512Bf16,
}

impl Isa {
    /// All, slowest first.
    pub const ALL: [Isa; 6] = [Isa::Portable, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Vnni, Isa::Avx512Bf16];

    /// The best that this machine has.
    pub fn detect() -> Isa {
        Isa::all_available().last().copied().unwrap_or(Isa::Portable)
    }

    /// Whether this machine has it.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Isa::Portable => true,
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            Isa::AvxVnni => Isa::Avx2.available() && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => {
                Isa::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Isa::Avx512Vnni => Isa::Avx512.available() && is_x86_feature_detected!("avx512vnni"),
            Isa::Avx512Bf16 => Isa::Avx512Vnni.available() && is_x86_feature_detected!("avx512bf16"),
        };
        #[cfg(not(target_arch = "x86_64"))]
        return self == Isa::Portable;
    }

    /// All that this machine has, slowest first.
    pub fn all_available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.available()).collect()
    }

    /// Whether AVX-512 F, BW, DQ and VL are part of it.
    pub(crate) fn has_avx512(self) -> bool {
        Isa::Avx512 <= self
    }
}

/// Defines a function whose body is compiled for the target's baseline, for AVX2 and for AVX-512, and chosen by an [`Isa`] argument.
///
/// The body is plain Rust that the compiler can vectorise. It does not contract `a * b + c`, so all versions give the same bits, unless the
/// body hands the constant `FUSED` on, which says whether `f32::mul_add` is one instruction: see [`crate::exp`].
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            fn portable($($arg: $ty),*) $(-> $ret)? {
                #[allow(dead_code, reason = "most bodies do not ask")]
                const FUSED: bool = false;
                $body
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                #[allow(dead_code, reason = "most bodies do not ask")]
                const FUSED: bool = true;
                $body
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                #[allow(dead_code, reason = "most bodies do not ask")]
                const FUSED: bool = true;
                $body
            }
            match isa {
                // SAFETY: the machine has these instructions: `Cpu::with_isa` refuses an `Isa` that it lacks.
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code, reason = "calling a function compiled for instructions that were found at run time")]
                isa if isa.has_avx512() => unsafe { avx512($($arg),*) },
                // SAFETY: the only obligation is that the machine has AVX2 and FMA; `Cpu::with_isa` refuses an `Isa` that it lacks.
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code, reason = "calling a function compiled for instructions that were found at run time")]
                isa if $crate::isa::Isa::Avx2 <= isa => unsafe { avx2($($arg),*) },
                _ => portable($($arg),*),
            }
        }
    };
}
pub(crate) use vectorised;
