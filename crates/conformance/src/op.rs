//! The operations of `Backend` with the shapes of their operands. Legend: `t` tokens, `n`/`k` outputs/inputs of a linear map, `d` model
//! width, `e` the teacher's, `v` vocabulary, `h` head width.
use paring_ops::{Accum, Activation, AttnSpec};
use paring_tensor::DType;

/// An operation and its shapes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "fields are the shapes of the legend")]
pub enum Op {
    /// A new tensor, then filled: its contents are nobody's business.
    Alloc {
        n: usize,
        dtype: DType,
    },
    Zeros {
        n: usize,
        dtype: DType,
    },
    /// Upload and download.
    Upload {
        n: usize,
        dtype: DType,
    },
    /// Upload of bytes and download.
    UploadBytes {
        n: usize,
        dtype: DType,
    },
    Convert {
        n: usize,
        from: DType,
        to: DType,
    },
    Fill {
        n: usize,
    },
    /// `src_rows` rows into `rows` rows, from row `at` on.
    WriteRows {
        rows: usize,
        cols: usize,
        at: usize,
        src_rows: usize,
    },
    Add {
        n: usize,
    },
    Accumulate {
        n: usize,
        accum: Accum,
    },
    Scale {
        n: usize,
    },
    SumSquares {
        n: usize,
    },
    Gated {
        n: usize,
        act: Activation,
    },
    GatedBackward {
        n: usize,
        act: Activation,
    },
    Activation {
        n: usize,
        act: Activation,
    },
    ActivationBackward {
        n: usize,
        act: Activation,
    },
    Embed {
        t: usize,
        v: usize,
        d: usize,
        dtype: DType,
    },
    EmbedBackward {
        t: usize,
        v: usize,
        d: usize,
    },
    Linear {
        t: usize,
        k: usize,
        n: usize,
        dtype: DType,
    },
    /// The table is a view of a matrix with `gap` columns more.
    EmbedView {
        t: usize,
        v: usize,
        d: usize,
        gap: usize,
        dtype: DType,
    },
    /// The weight is a view of a matrix with `gap` columns more.
    LinearView {
        t: usize,
        k: usize,
        n: usize,
        gap: usize,
        dtype: DType,
    },
    LinearDx {
        t: usize,
        k: usize,
        n: usize,
        dtype: DType,
        accum: Accum,
    },
    /// `dtype` is the type to compute in.
    LinearDw {
        t: usize,
        k: usize,
        n: usize,
        dtype: DType,
    },
    RmsNorm {
        t: usize,
        d: usize,
        dtype: DType,
    },
    RmsNormBackward {
        t: usize,
        d: usize,
        dtype: DType,
        accum: Accum,
    },
    AddRmsNorm {
        t: usize,
        d: usize,
        dtype: DType,
    },
    Rope {
        t: usize,
        heads: usize,
        h: usize,
        inverse: bool,
    },
    /// `spare` rows of keys and values behind those that the queries see: a cache that is not full.
    Attention {
        spec: AttnSpec,
        spare: usize,
    },
    AttentionBackward {
        spec: AttnSpec,
    },
    /// Every `ignore_every`-th target is `IGNORE`; 0 for none. Likewise below.
    CrossEntropyRows {
        t: usize,
        v: usize,
        ignore_every: usize,
    },
    KlRows {
        t: usize,
        v: usize,
    },
    CompareRows {
        t: usize,
        v: usize,
        ignore_every: usize,
    },
    HeadCrossEntropy {
        t: usize,
        d: usize,
        v: usize,
        dtype: DType,
        wanted: Wanted,
        ignore_every: usize,
    },
    HeadKl {
        t: usize,
        d: usize,
        e: usize,
        v: usize,
        dtype: DType,
        wanted: Wanted,
    },
    HeadCompare {
        t: usize,
        d: usize,
        e: usize,
        v: usize,
        dtype: DType,
        ignore_every: usize,
    },
    Split {
        n: usize,
    },
    /// Of what the case split.
    Join {
        n: usize,
    },
    AdamW {
        n: usize,
        moments: DType,
    },
    /// On halves, which the case splits before and joins after.
    AdamWSplit {
        n: usize,
        moments: DType,
    },
}

/// Which gradients a fused head is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// The loss alone.
    Loss,
    /// The gradient of the activations: the head is frozen.
    Dx,
    /// Both.
    DxDw,
}

impl Op {
    /// The method's name.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Alloc { .. } => "alloc",
            Op::Zeros { .. } => "zeros",
            Op::Upload { .. } => "upload",
            Op::UploadBytes { .. } => "upload_bytes",
            Op::Convert { .. } => "convert",
            Op::Fill { .. } => "fill",
            Op::WriteRows { .. } => "write_rows",
            Op::Add { .. } => "add",
            Op::Accumulate { .. } => "accumulate",
            Op::Scale { .. } => "scale",
            Op::SumSquares { .. } => "sum_squares",
            Op::Gated { .. } => "gated",
            Op::GatedBackward { .. } => "gated_backward",
            Op::Activation { .. } => "activation",
            Op::ActivationBackward { .. } => "activation_backward",
            Op::Embed { .. } | Op::EmbedView { .. } => "embed",
            Op::EmbedBackward { .. } => "embed_backward",
            Op::Linear { .. } | Op::LinearView { .. } => "linear",
            Op::LinearDx { .. } => "linear_dx",
            Op::LinearDw { .. } => "linear_dw",
            Op::RmsNorm { .. } => "rms_norm",
            Op::RmsNormBackward { .. } => "rms_norm_backward",
            Op::AddRmsNorm { .. } => "add_rms_norm",
            Op::Rope { .. } => "rope",
            Op::Attention { .. } => "attention",
            Op::AttentionBackward { .. } => "attention_backward",
            Op::CrossEntropyRows { .. } => "cross_entropy_rows",
            Op::KlRows { .. } => "kl_rows",
            Op::CompareRows { .. } => "compare_rows",
            Op::HeadCrossEntropy { .. } => "head_cross_entropy",
            Op::HeadKl { .. } => "head_kl",
            Op::HeadCompare { .. } => "head_compare",
            Op::Split { .. } => "split",
            Op::Join { .. } => "join",
            Op::AdamW { .. } => "adamw",
            Op::AdamWSplit { .. } => "adamw_split",
        }
    }

    /// Floating-point operations of the usual algorithm: additions and multiplications, and an exponential as one. 0 for operations that
    /// only move numbers.
    pub fn flops(&self) -> f64 {
        let product = |a: usize, b: usize, c: usize| 2.0 * a as f64 * b as f64 * c as f64;
        let head = |wanted: &Wanted| match wanted {
            Wanted::Loss => 1.0,
            Wanted::Dx => 2.0,
            Wanted::DxDw => 3.0,
        };
        match self {
            Op::Alloc { .. } | Op::Zeros { .. } | Op::Upload { .. } | Op::UploadBytes { .. } => 0.0,
            Op::Convert { .. } | Op::Fill { .. } | Op::WriteRows { .. } => 0.0,
            Op::Embed { .. } | Op::EmbedView { .. } | Op::Accumulate { accum: Accum::Set, .. } => 0.0,
            Op::Add { n } | Op::Accumulate { n, .. } | Op::Scale { n } => *n as f64,
            Op::SumSquares { n } => 2.0 * *n as f64,
            // Of SiLU; the others differ by a few.
            Op::Activation { n, .. } => 4.0 * *n as f64,
            Op::Gated { n, .. } => 5.0 * *n as f64,
            Op::ActivationBackward { n, .. } => 9.0 * *n as f64,
            Op::GatedBackward { n, .. } => 11.0 * *n as f64,
            Op::EmbedBackward { t, d, .. } => (t * d) as f64,
            Op::Linear { t, k, n, .. }
            | Op::LinearView { t, k, n, .. }
            | Op::LinearDx { t, k, n, .. }
            | Op::LinearDw { t, k, n, .. } => product(*t, *k, *n),
            Op::RmsNorm { t, d, .. } => 4.0 * (t * d) as f64,
            Op::AddRmsNorm { t, d, .. } => 5.0 * (t * d) as f64,
            Op::RmsNormBackward { t, d, .. } => 10.0 * (t * d) as f64,
            Op::Rope { t, heads, h, .. } => 3.0 * (t * heads * h) as f64,
            // Two products forward; five backward, the scores once more among them.
            Op::Attention { spec, .. } => 2.0 * 2.0 * (spec.heads * spec.head_dim) as f64 * pairs(spec),
            Op::AttentionBackward { spec } => 5.0 * 2.0 * (spec.heads * spec.head_dim) as f64 * pairs(spec),
            Op::CrossEntropyRows { t, v, .. } => 5.0 * (t * v) as f64,
            Op::KlRows { t, v } => 12.0 * (t * v) as f64,
            Op::CompareRows { t, v, .. } => 10.0 * (t * v) as f64,
            Op::HeadCrossEntropy { t, d, v, wanted, .. } => head(wanted) * product(*t, *d, *v),
            Op::HeadKl { t, d, e, v, wanted, .. } => head(wanted) * product(*t, *d, *v) + product(*t, *e, *v),
            Op::HeadCompare { t, d, e, v, .. } => product(*t, *d, *v) + product(*t, *e, *v),
            Op::Split { .. } | Op::Join { .. } => 0.0,
            Op::AdamW { n, .. } | Op::AdamWSplit { n, .. } => 14.0 * *n as f64,
        }
    }
}

/// Pairs of a query and a key that it sees, in one head.
fn pairs(spec: &AttnSpec) -> f64 {
    let seen = |len: usize| {
        let positions = spec.past..spec.past + len;
        positions.map(|p| (p + 1 - spec.first_key(p)) as f64).sum::<f64>()
    };
    spec.cu_len.windows(2).map(|w| seen(w[1].saturating_sub(w[0]))).sum()
}
