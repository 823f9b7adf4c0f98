//! Operands of a product, and how they are packed into panels that the micro-kernel reads from front to back.
//!
//! A panel is `[k][width]` units: `width` rows of A, or columns of B, side by side. Packing also converts: bf16 becomes f32, f32 is rounded
//! to bf16 where the product computes in bf16, and neighbours along k become pairs for a kernel that multiplies pairs.
#[cfg(target_arch = "x86_64")]
mod avx2; // vectors of 256 bits
#[cfg(target_arch = "x86_64")]
mod avx512; // vectors of 512 bits

use super::kernel::Unit;
use crate::isa::Isa;
use half::bf16;

/// A matrix in memory: element `(i, j)` is `data[i * rs + j * cs]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: Data<'a>,
    rs: usize,
    cs: usize,
}

#[derive(Clone, Copy)]
enum Data<'a> {
    F32(&'a [f32]),
    /// f32 values to be rounded to bf16.
    Rounded(&'a [f32]),
    BF16(&'a [bf16]),
}

/// Rounds to bf16 and back: to nearest, ties to even, NaN kept. Without branches, so that it vectorises.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if x.is_nan() { f32::from_bits((bits | 0x0040_0000) & 0xffff_0000) } else { f32::from_bits(rounded) }
}

impl<'a> Mat<'a> {
    /// Row-major f32 of `cols` columns; rounded to bf16 while packing if `round`.
    pub(crate) fn rows(data: &'a [f32], cols: usize, round: bool) -> Self {
        Mat { data: if round { Data::Rounded(data) } else { Data::F32(data) }, rs: cols, cs: 1 }
    }

    /// Row-major bf16.
    pub(crate) fn rows_bf16(data: &'a [bf16], cols: usize) -> Self {
        Mat { data: Data::BF16(data), rs: cols, cs: 1 }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Mat { rs: self.cs, cs: self.rs, ..self }
    }

    /// Whether all values are bf16.
    pub(crate) fn is_bf16(&self) -> bool {
        !matches!(self.data, Data::F32(_))
    }

    fn len(&self) -> usize {
        match self.data {
            Data::F32(d) | Data::Rounded(d) => d.len(),
            Data::BF16(d) => d.len(),
        }
    }

    /// Whether an `m` x `n` matrix lies inside the data.
    pub(crate) fn covers(&self, m: usize, n: usize) -> bool {
        m == 0 || n == 0 || (m - 1) * self.rs + (n - 1) * self.cs < self.len()
    }

    /// Rows `i0..i0 + rows`, inner `k0..k0 + kb`, as panels of width `mr`; rows that are missing in the last panel are zero.
    /// Columns are rows of the transpose.
    pub(crate) fn pack_rows(
        &self,
        isa: Isa,
        unit: Unit,
        out: &mut [f32],
        k0: usize,
        kb: usize,
        i0: usize,
        rows: usize,
        mr: usize,
    ) {
        let lanes = Lanes { first: i0, count: rows, width: mr, stride: self.rs };
        self.pack(isa, unit, out, lanes, k0, kb, self.cs);
    }

    fn get(&self, i: usize) -> f32 {
        match self.data {
            Data::F32(d) => d[i],
            Data::Rounded(d) => round_bf16(d[i]),
            Data::BF16(d) => d[i].to_f32(),
        }
    }

    fn pack(&self, isa: Isa, unit: Unit, out: &mut [f32], lanes: Lanes, k0: usize, kb: usize, ks: usize) {
        let units = unit.units(kb);
        let panels = lanes.count.div_ceil(lanes.width);
        if lanes.count == 0 || kb == 0 {
            return;
        }
        let last = (lanes.first + lanes.count - 1) * lanes.stride + (k0 + kb - 1) * ks;
        assert!(last < self.len() && panels * lanes.width * units <= out.len(), "outside of the operand or the panels");
        // Whole groups of units are packed by vectors; what is left along k, and everything where there are none, one by one.
        let done = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 if ks == 1 || lanes.stride == 1 => {
                #[allow(unsafe_code, reason = "vector loads and stores through pointers; bounds are asserted above")]
                // SAFETY: the machine has the instructions (`Cpu::with_isa` checked); the last element read and the last unit written
                // are inside.
                unsafe {
                    match self.data {
                        Data::F32(d) => avx512::pack::<f32, F32>(unit, out, d, lanes, k0, kb, ks),
                        Data::Rounded(d) => avx512::pack::<f32, ROUNDED>(unit, out, d, lanes, k0, kb, ks),
                        Data::BF16(d) => avx512::pack::<bf16, BF16>(unit, out, d, lanes, k0, kb, ks),
                    }
                }
            }
            #[cfg(target_arch = "x86_64")]
            isa if Isa::Avx2 <= isa && unit == Unit::F32 && (ks == 1 || lanes.stride == 1) => {
                #[allow(unsafe_code, reason = "vector loads and stores through pointers; bounds are asserted above")]
                // SAFETY: the machine has AVX2 (`Cpu::with_isa` checked); the last element read and the last unit written are inside.
                unsafe {
                    match self.data {
                        Data::F32(d) => avx2::pack::<f32, F32>(out, d, lanes, k0, kb, ks),
                        Data::Rounded(d) => avx2::pack::<f32, ROUNDED>(out, d, lanes, k0, kb, ks),
                        Data::BF16(d) => avx2::pack::<bf16, BF16>(out, d, lanes, k0, kb, ks),
                    }
                }
            }
            _ => 0,
        };
        for panel in 0..panels {
            let first = panel * lanes.width;
            for u in done..units {
                let row = &mut out[(panel * units + u) * lanes.width..][..lanes.width];
                for (lane, value) in row.iter_mut().enumerate() {
                    let lane = first + lane;
                    let at = |k: usize| {
                        if lane < lanes.count && k < kb {
                            self.get((lanes.first + lane) * lanes.stride + (k0 + k) * ks)
                        } else {
                            0.0
                        }
                    };
                    *value = match unit {
                        Unit::F32 => at(u),
                        Unit::Pair => {
                            f32::from_bits((at(2 * u).to_bits() >> 16) | (at(2 * u + 1).to_bits() & 0xffff_0000))
                        }
                    };
                }
            }
        }
    }
}

impl Unit {
    /// Elements of a unit.
    pub(crate) fn elements(self) -> usize {
        match self {
            Unit::F32 => 1,
            Unit::Pair => 2,
        }
    }

    /// Units of `k` elements, the last one padded with zero.
    pub(crate) fn units(self, k: usize) -> usize {
        k.div_ceil(self.elements())
    }
}

/// The rows of A, or columns of B, that are packed: lane `i` begins at element `(first + i) * stride`.
#[derive(Clone, Copy)]
struct Lanes {
    first: usize,
    count: usize,
    /// Lanes of a panel.
    width: usize,
    stride: usize,
}

/// What elements are, for packers that are chosen at compile time: f32, f32 to be rounded to bf16, bf16.
#[cfg(target_arch = "x86_64")]
const F32: u8 = 0;
#[cfg(target_arch = "x86_64")]
const ROUNDED: u8 = 1;
#[cfg(target_arch = "x86_64")]
const BF16: u8 = 2;
/// Units of lanes that lie side by side, before the next panel has its turn. Panels often are a multiple of 4096 bytes apart, and then share
/// a set of the first-level cache: one unit of all of them after the other would evict what it has just written. So may rows of the source.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 16;
