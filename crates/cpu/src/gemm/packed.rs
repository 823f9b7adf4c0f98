//! Weights that stay packed: models that only infer multiply the same matrix again and again.
use super::{Block, Blocks, Kernel, Mat, scratch::Line};
use crate::{isa::Isa, pool::Threads};

/// All panels of a right operand `[k, n]`, in the order that products pack them: block after block of the inner dimension, in each panel
/// after panel.
pub(crate) struct Packed {
    isa: Isa,
    bf16: bool,
    k: usize,
    n: usize,
    lines: Vec<Line>,
}

/// The right operand of a product.
#[derive(Clone, Copy)]
pub(crate) enum Columns<'a> {
    /// Packed by every product.
    Mat(Mat<'a>),
    /// Packed already.
    Packed(&'a Packed),
}

impl<'a> From<Mat<'a>> for Columns<'a> {
    fn from(mat: Mat<'a>) -> Self {
        Columns::Mat(mat)
    }
}

impl Packed {
    /// Packs `b` `[k, n]` for products on `isa`.
    ///
    /// # Panics
    /// If `b` is smaller than that.
    pub(crate) fn new(isa: Isa, threads: &Threads, b: Mat<'_>, k: usize, n: usize) -> Packed {
        assert!(b.covers(k, n), "the operand is smaller than the sizes say");
        let kernel = Kernel::of(isa, b.is_bf16());
        let width = n.div_ceil(kernel.nr) * kernel.nr;
        let mut lines = vec![Line::default(); (width * kernel.unit.units(k)).div_ceil(16)];
        let mut rest: &mut [f32] = bytemuck::cast_slice_mut(&mut lines);
        for block in Blocks::of(k, &kernel).each(&kernel) {
            let (out, behind) = rest.split_at_mut(width * block.units);
            rest = behind;
            threads.pieces(kernel.nr * block.units, out, |panel, out| {
                Columns::Mat(b).pack(isa, &kernel, out, &block, panel, 1, n);
            });
        }
        Packed { isa, bf16: b.is_bf16(), k, n, lines }
    }

    /// Whether this is what a product on `isa` with a weight `[n, k]` needs.
    pub(crate) fn fits(&self, isa: Isa, k: usize, n: usize) -> bool {
        (self.isa, self.k, self.n) == (isa, k, n)
    }
}

impl<'a> Columns<'a> {
    pub(super) fn is_bf16(&self) -> bool {
        match self {
            Columns::Mat(mat) => mat.is_bf16(),
            Columns::Packed(packed) => packed.bf16,
        }
    }

    pub(super) fn covers(&self, k: usize, n: usize) -> bool {
        match self {
            Columns::Mat(mat) => mat.covers(k, n),
            Columns::Packed(packed) => (packed.k, packed.n) == (k, n),
        }
    }

    /// `count` panels from `panel` on of `units` units from element `k0` on, if they are there: of one block, or all panels of several.
    pub(super) fn panels(
        &self,
        kernel: &Kernel,
        k0: usize,
        units: usize,
        panel: usize,
        count: usize,
    ) -> Option<&'a [f32]> {
        let Columns::Packed(packed) = self else { return None };
        let width = packed.n.div_ceil(kernel.nr) * kernel.nr;
        let values: &[f32] = bytemuck::cast_slice(&packed.lines);
        let before = width * (k0 / kernel.unit.elements()) + panel * kernel.nr * units;
        Some(&values[before..][..count * kernel.nr * units])
    }

    /// Packs `count` panels of a block from `panel` on; `n` columns are all there are.
    pub(super) fn pack(
        &self,
        isa: Isa,
        kernel: &Kernel,
        out: &mut [f32],
        block: &Block,
        panel: usize,
        count: usize,
        n: usize,
    ) {
        let (first, nr) = (panel * kernel.nr, kernel.nr);
        if let Columns::Mat(mat) = self {
            mat.t().pack_rows(isa, kernel.unit, out, block.k0, block.kb, first, (count * nr).min(n - first), nr);
        }
    }
}
