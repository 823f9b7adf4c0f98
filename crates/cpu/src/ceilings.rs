//! What this machine can do at most: multiplications in registers and reading from memory, measured as the kernels use them. Roofline tables
//! are drawn from these (Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009).
use crate::{
    Cpu,
    isa::{Isa, vectorised},
};
use std::{hint::black_box, time::Instant};

/// Limits of a machine with a backend's instructions and threads, each per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceilings {
    /// Multiplications and additions of f32.
    pub f32_ops: f64,
    /// The same of bf16 with sums in f32; those of f32 where there is no such instruction.
    pub bf16_ops: f64,
    /// The same of bytes with sums in i32; those of f32 where there is no such instruction.
    pub int8_ops: f64,
    /// Bytes read from memory.
    pub read_bytes: f64,
}

/// Accumulators: more than a multiplication's latency times the multiplications of a cycle.
const SUMS: usize = 12;
/// Rounds over all accumulators that are timed together: about a millisecond.
const ROUNDS: usize = 200_000;
/// Measurements, of which the best counts: what disturbs only ever slows down.
const REPEATS: usize = 5;
/// Values that are read: 256 MB, more than any cache.
const READ: usize = 64 << 20;
/// Values of a task.
const TASK: usize = 1 << 20;

impl Cpu {
    /// Measures the limits; takes about a second and 256 MB.
    pub fn ceilings(&self) -> Ceilings {
        let f32_ops = self.most(f32_round(self.isa()));
        let own = |round: Option<Round>| round.map_or(f32_ops, |round| self.most(round));
        let values = vec![1.0f32; READ];
        let pieces: Vec<&[f32]> = values.chunks(TASK).collect();
        let read = || self.threads.map(pieces.len(), |i| sum(self.isa(), pieces[i])).len();
        let seconds = best(|| {
            black_box(read());
        });
        Ceilings {
            f32_ops,
            bf16_ops: own(bf16_round(self.isa())),
            int8_ops: own(int8_round(self.isa())),
            read_bytes: (READ * size_of::<f32>()) as f64 / seconds,
        }
    }

    fn most(&self, (ops, run): Round) -> f64 {
        let threads = self.threads();
        let seconds = best(|| {
            self.threads.for_each(threads, |_| run(ROUNDS));
        });
        (threads * ROUNDS * SUMS * ops) as f64 / seconds
    }
}

/// Operations of one instruction, and a loop over so many rounds of [`SUMS`] of them.
type Round = (usize, fn(usize));

fn best(mut f: impl FnMut()) -> f64 {
    let seconds = (0..REPEATS).map(|_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

vectorised! {
    /// In as many lanes as four of the widest vectors have.
    fn sum(x: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 64];
        for x in x.as_chunks::<64>().0 {
            for (lane, x) in lanes.iter_mut().zip(x) {
                *lane += x;
            }
        }
        lanes.iter().sum()
    }
}

/// A loop of one instruction on [`SUMS`] accumulators, which depend on nothing else.
#[cfg(target_arch = "x86_64")]
macro_rules! rounds {
    ($name:ident, $features:literal, $zero:expr, $x:expr, |$sum:ident, $v:ident| $step:expr) => {
        fn $name(rounds: usize) {
            #[target_feature(enable = $features)]
            fn run(rounds: usize) {
                use std::arch::x86_64::*;
                // The compiler must not know that all sums are equal.
                let (mut sums, $v) = black_box(([$zero; SUMS], $x));
                for _ in 0..rounds {
                    for sum in &mut sums {
                        let $sum = *sum;
                        *sum = $step;
                    }
                }
                black_box(sums);
            }
            // SAFETY: the functions below give this one out only for an `Isa` that has the instructions, and `Cpu::with_isa` refuses one
            // that the machine lacks.
            #[allow(unsafe_code, reason = "calling a function compiled for instructions that were found at run time")]
            unsafe {
                run(rounds)
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
rounds!(avx2, "avx2,fma", _mm256_setzero_ps(), _mm256_set1_ps(0.5), |sum, x| _mm256_fmadd_ps(x, x, sum));
#[cfg(target_arch = "x86_64")]
rounds!(avx512, "avx512f", _mm512_setzero_ps(), _mm512_set1_ps(0.5), |sum, x| _mm512_fmadd_ps(x, x, sum));
#[cfg(target_arch = "x86_64")]
rounds!(
    avx512_bf16,
    "avx512f,avx512bw,avx512bf16",
    _mm512_setzero_ps(),
    _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(0.5)),
    |sum, x| _mm512_dpbf16_ps(sum, x, x)
);
#[cfg(target_arch = "x86_64")]
rounds!(avx512_vnni, "avx512f,avx512vnni", _mm512_setzero_si512(), _mm512_set1_epi8(1), |sum, x| {
    _mm512_dpbusd_epi32(sum, x, x)
});
#[cfg(target_arch = "x86_64")]
rounds!(avx_vnni, "avx2,avxvnni", _mm256_setzero_si256(), _mm256_set1_epi8(1), |sum, x| {
    _mm256_dpbusd_avx_epi32(sum, x, x)
});

/// What the compiler makes of plain Rust.
fn portable(rounds: usize) {
    let (mut sums, x) = black_box(([[0.0f32; 4]; SUMS], 0.5f32));
    for _ in 0..rounds {
        for lane in sums.as_flattened_mut() {
            *lane += x * x;
        }
    }
    black_box(sums);
}

fn f32_round(isa: Isa) -> Round {
    match isa {
        #[cfg(target_arch = "x86_64")]
        isa if isa.has_avx512() => (32, avx512),
        #[cfg(target_arch = "x86_64")]
        isa if Isa::Avx2 <= isa => (16, avx2),
        _ => (8, portable),
    }
}

fn bf16_round(isa: Isa) -> Option<Round> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => Some((64, avx512_bf16)),
        _ => None,
    }
}

fn int8_round(isa: Isa) -> Option<Round> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => Some((64, avx_vnni)),
        #[cfg(target_arch = "x86_64")]
        isa if Isa::Avx512Vnni <= isa => Some((128, avx512_vnni)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_read_every_value() {
        let x: Vec<f32> = (0..640).map(|i| (i % 7) as f32).collect();
        for isa in Isa::all_available() {
            assert_eq!(sum(isa, &x), x.iter().sum::<f32>(), "{isa:?}");
        }
    }

    /// Ten thousand operations in a nanosecond would be a loop that the compiler took away.
    #[test]
    fn loops_are_not_optimised_away() {
        for isa in Isa::all_available() {
            let cpu = Cpu::with_isa(Some(1), isa).unwrap();
            for (ops, run) in [Some(f32_round(isa)), bf16_round(isa), int8_round(isa)].into_iter().flatten() {
                let ops = cpu.most((ops, run));
                assert!(ops.is_finite() && 0.0 < ops && ops < 1e13, "{isa:?}: {ops}");
            }
        }
    }
}
