//! Activations in 8 bits: blocks of 32 with an f32 scale, as `paring_ops::round_block` says, to the bit.
use super::LEN;
use crate::{
    isa::{Isa, vectorised},
    pool::Threads,
};
use paring_ops::round_block;
use paring_tensor::DType;
use std::cell::RefCell;

/// Values that are worth a task.
const TASK: usize = 16 << 10;

/// Blocks of a [`Group`].
#[cfg(target_arch = "x86_64")]
pub(super) const GROUP: usize = 4;

/// Four blocks of one row in the order in which vectors of 512 bits take the halves of bytes of as many blocks of weights.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only these machines multiply groups"))]
pub(super) struct Group {
    /// The first halves of the blocks, then the second ones.
    pub(super) q: [[i8; 64]; 2],
    /// What the sums of the lanes, four a block, begin with beside Q4_0: `-8` times the sum of what is multiplied in each.
    pub(super) offsets: [i32; 16],
    /// Scales, four times each.
    pub(super) scales: [f32; 16],
    /// `scale * sum` for each lane.
    pub(super) sums: [f32; 16],
}

/// Rows of rounded activations.
#[derive(Clone, Copy)]
pub(super) struct Rounded<'a> {
    pub(super) q: &'a [[i8; LEN]],
    pub(super) scales: &'a [f32],
    /// What a kernel adds to the eight partial sums of a block of Q4_0: its weights are stored plus 8. Empty beside other types.
    pub(super) offsets: &'a [[i32; 8]],
    /// A quarter of `scale * sum of q`, which the minimum of a block of Q4_1 is multiplied with. Empty beside other types.
    pub(super) sums: &'a [f32],
    /// The same in groups, as far as whole ones go: for one row beside Q4_0 and Q4_1, on machines that multiply so. Else empty.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "only these machines multiply groups"))]
    pub(super) groups: &'a [Group],
    /// Blocks of a row.
    row: usize,
}

impl<'a> Rounded<'a> {
    /// The rows from `row` on.
    pub(super) fn from(&self, row: usize) -> Rounded<'a> {
        let at = row * self.row;
        Rounded {
            q: &self.q[at..],
            scales: &self.scales[at..],
            offsets: self.offsets.get(at..).unwrap_or_default(),
            sums: self.sums.get(at..).unwrap_or_default(),
            groups: &[],
            row: self.row,
        }
    }

    /// Scale and integers of block `b` of row `r`.
    pub(super) fn block(&self, r: usize, b: usize) -> (f32, &'a [i8; LEN]) {
        let at = r * self.row + b;
        (self.scales[at], &self.q[at])
    }
}

/// The memory behind [`Rounded`].
#[derive(Default)]
struct Memory {
    q: Vec<[i8; LEN]>,
    scales: Vec<f32>,
    offsets: Vec<[i32; 8]>,
    sums: Vec<f32>,
    groups: Vec<Group>,
}

thread_local! {
    /// Kept from call to call: a decoded token makes some two hundred products.
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Blocks of which the memory is kept; more than that (2 MB) belongs to a long prefill.
const KEEP: usize = 1 << 15;

/// Calls `f` with rows of `k` values rounded for a product with weights of `dtype`.
pub(super) fn with_rounded<R>(
    isa: Isa,
    threads: &Threads,
    x: &[f32],
    k: usize,
    dtype: DType,
    f: impl FnOnce(Rounded<'_>) -> R,
) -> R {
    let (x, _) = x.as_chunks::<LEN>();
    let n = x.len();
    let mut memory = MEMORY.take();
    // Longer is well: what is not used now keeps its place.
    let grow = |len: usize, wanted: bool| if wanted { len.max(n) } else { len };
    memory.q.resize(grow(memory.q.len(), true), [0; LEN]);
    memory.scales.resize(grow(memory.scales.len(), true), 0.0);
    memory.offsets.resize(grow(memory.offsets.len(), dtype == DType::Q4_0), [0; 8]);
    memory.sums.resize(grow(memory.sums.len(), dtype == DType::Q4_1), 0.0);
    let (q, scales) = (&mut memory.q[..n], &mut memory.scales[..n]);
    match dtype {
        DType::Q4_0 => {
            let offsets = &mut memory.offsets[..n];
            threads.pieces(TASK / LEN, (x, q, scales, offsets), |_, (x, q, scales, offsets)| {
                round(isa, x, q, scales);
                offsets_of(isa, offsets, q);
            });
        }
        DType::Q4_1 => {
            let sums = &mut memory.sums[..n];
            threads.pieces(TASK / LEN, (x, q, scales, sums), |_, (x, q, scales, sums)| {
                round(isa, x, q, scales);
                quarters_of(isa, sums, q, scales);
            });
        }
        _ => threads.pieces(TASK / LEN, (x, q, scales), |_, (x, q, scales)| round(isa, x, q, scales)),
    }
    memory.groups.clear();
    #[cfg(target_arch = "x86_64")]
    if n == k / LEN && dtype != DType::Q8_0 && Isa::Avx512Vnni <= isa {
        let (q, scales) = (memory.q[..n].as_chunks().0, memory.scales[..n].as_chunks().0);
        super::x86::groups(isa, &mut memory.groups, q, scales);
    }
    let part = |wanted: bool| if wanted { n } else { 0 };
    let rounded = Rounded {
        q: &memory.q[..n],
        scales: &memory.scales[..n],
        offsets: &memory.offsets[..part(dtype == DType::Q4_0)],
        sums: &memory.sums[..part(dtype == DType::Q4_1)],
        groups: &memory.groups,
        row: k / LEN,
    };
    let result = f(rounded);
    if memory.q.len() <= KEEP {
        MEMORY.set(memory);
    }
    result
}

vectorised! {
    /// `-8` times the sums of four neighbours.
    fn offsets_of(offsets: &mut [[i32; 8]], q: &[[i8; LEN]]) {
        for (offsets, q) in offsets.iter_mut().zip(q) {
            for (offset, four) in offsets.iter_mut().zip(q.as_chunks::<4>().0) {
                *offset = -8 * four.iter().map(|&q| i32::from(q)).sum::<i32>();
            }
        }
    }
}

vectorised! {
    /// A quarter of scale times sum.
    fn quarters_of(sums: &mut [f32], q: &[[i8; LEN]], scales: &[f32]) {
        for ((q, scale), sum) in q.iter().zip(scales).zip(sums) {
            *sum = 0.25 * *scale * q.iter().map(|&q| i32::from(q)).sum::<i32>() as f32;
        }
    }
}

/// Blocks to integers and scales.
pub(super) fn round(isa: Isa, x: &[[f32; LEN]], q: &mut [[i8; LEN]], scales: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx2 <= isa {
        #[allow(unsafe_code, reason = "calling a function compiled for instructions that were found at run time")]
        // SAFETY: the machine has AVX2: `Cpu::with_isa` refuses an `Isa` that it lacks.
        unsafe {
            avx2(x, q, scales)
        };
        return;
    }
    let _ = isa;
    for ((x, q), scale) in x.iter().zip(q).zip(scales) {
        (*scale, *q) = round_block(x);
    }
}

/// The same bits as [`round_block`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code, reason = "vector loads and stores")]
fn avx2(x: &[[f32; LEN]], q: &mut [[i8; LEN]], scales: &mut [f32]) {
    use std::arch::x86_64::*;
    for ((x, q), scale) in x.iter().zip(q).zip(scales) {
        // SAFETY: four times eight values of a block of 32.
        let v: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) });
        // Without the sign, bits are ordered as numbers are.
        let magnitude = |v: __m256| _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(i32::MAX));
        let most = _mm256_max_epi32(
            _mm256_max_epi32(magnitude(v[0]), magnitude(v[1])),
            _mm256_max_epi32(magnitude(v[2]), magnitude(v[3])),
        );
        let most = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256::<1>(most));
        let most = _mm_max_epi32(most, _mm_shuffle_epi32::<0b01_00_11_10>(most));
        let most = _mm_max_epi32(most, _mm_shuffle_epi32::<0b10_11_00_01>(most));
        let largest = f32::from_bits(_mm_cvtsi128_si32(most) as u32);
        if !(largest.is_finite() && paring_ops::SMALLEST_BLOCK <= largest) {
            (*scale, *q) = round_block(x);
            continue;
        }
        *scale = largest / 127.0;
        let inverse = _mm256_set1_ps(127.0 / largest);
        // Conversion rounds to nearest, ties to even.
        let [a, b, c, d] = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)));
        let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        // Packing works within halves: put the fours in order.
        let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: 32 bytes of a block of 32.
        unsafe { _mm256_storeu_si256(q.as_mut_ptr().cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_give_the_bits_of_the_definition() {
        let special = [f32::NAN, f32::INFINITY, 0.0, -0.0, 1e-45, 1e-39, 7.8e-31, f32::MAX, -f32::MAX, 1.0];
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state
        };
        let mut x = vec![[0.0f32; LEN]; 600];
        for (i, x) in x.iter_mut().enumerate() {
            for v in x.iter_mut() {
                // Multiples of an eighth are ties often, any bits are anything.
                *v = match i % 4 {
                    0 => ((next() >> 20) as f32 - 2048.0) / 8.0,
                    1 => f32::from_bits(next()),
                    2 => special[(next() >> 16) as usize % if i % 8 == 2 { 7 } else { 2 } + 2 * (i % 8 / 4)],
                    _ => (next() >> 8) as f32 * 1e-7 - 0.8,
                };
            }
            if i % 4 == 0 {
                x[i % LEN] = [254.0, -127.0, 1016.0][i % 3];
            }
        }
        let bits = |(scale, q): (f32, [i8; LEN])| (scale.to_bits(), q);
        for isa in Isa::all_available() {
            let (mut q, mut scales) = (vec![[1; LEN]; x.len()], vec![1.0; x.len()]);
            round(isa, &x, &mut q, &mut scales);
            for (i, x) in x.iter().enumerate() {
                assert_eq!(bits((scales[i], q[i])), bits(round_block(x)), "{isa:?}: {x:?}");
            }
        }
    }
}
