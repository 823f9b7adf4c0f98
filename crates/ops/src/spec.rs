//! Arguments of operations that are more than a tensor.
use paring_tensor::DType;

/// Whether an output is overwritten or added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accum {
    /// Overwrite.
    Set,
    /// Add to what is there.
    Add,
}

/// A target that takes part in no loss: the last token of a window has nothing to predict.
pub const IGNORE: u32 = u32::MAX;

/// The non-linearity of an MLP. Each is a function of one element; which one a model has is the `hidden_act` of its Hugging Face config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `silu(x) = x sigmoid(x) = x / (1 + exp(-x))`, `silu` there (Elfwing et al., arXiv 1702.03118): Llama, Mistral, Qwen.
    Silu,
    /// `gelu(x) = x / 2 (1 + erf(x / sqrt(2)))`, `gelu` there (Hendrycks and Gimpel, arXiv 1606.08415).
    Gelu,
    /// Its approximation `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, `gelu_pytorch_tanh` there (section 2 of the same paper):
    /// Gemma.
    GeluTanh,
    /// `relu2(x) = max(x, 0)^2`, `relu2` there (So et al., "Primer", arXiv 2109.08668): Nemotron, without a gate.
    Relu2,
}

impl Activation {
    /// All of them.
    pub const ALL: [Activation; 4] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu2];
}

/// What causal attention needs besides q, k and v.
#[derive(Clone, Debug, PartialEq)]
pub struct AttnSpec {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`. Query head `h` reads key/value head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Multiplied into every score.
    pub scale: f32,
    /// Boundaries of the packed sequences: `[0, .., T]`, ascending. A query sees keys of its own sequence only.
    pub cu_len: Vec<usize>,
    /// Keys that came before the first query (a KV cache); only with a single sequence. Row `past + t` of k and v belongs to query `t`.
    pub past: usize,
    /// A query sees at most this many keys, itself the last of them: the one at position `p` sees `p - window + 1..=p`, as Transformers'
    /// `sliding_window` does (Jiang et al., "Mistral 7B", arXiv 2310.06825). `None`: all that came before.
    pub window: Option<usize>,
    /// Scores `s`, scaled, become `softcap * tanh(s / softcap)` before the softmax (Gemma 2, arXiv 2408.00118, section 2).
    pub softcap: Option<f32>,
    /// The least precise type that q, k, v, dy and probabilities may be rounded to before they are multiplied: f32 for none, bf16 to let a
    /// backend use tensor cores. It is a permission: sums are f32 in any case, and a backend may multiply in f32 always.
    pub compute: DType,
}

impl AttnSpec {
    /// Packed sequences without a cache, scaled by `1 / sqrt(head_dim)`; no window, no soft cap, in f32.
    pub fn packed(heads: usize, kv_heads: usize, head_dim: usize, cu_len: Vec<usize>) -> Self {
        let scale = 1.0 / (head_dim as f32).sqrt();
        AttnSpec { heads, kv_heads, head_dim, scale, cu_len, past: 0, window: None, softcap: None, compute: DType::F32 }
    }

    /// One sequence of `tokens` queries after `past` cached keys.
    pub fn cached(heads: usize, kv_heads: usize, head_dim: usize, tokens: usize, past: usize) -> Self {
        AttnSpec { past, ..AttnSpec::packed(heads, kv_heads, head_dim, vec![0, tokens]) }
    }

    /// Columns of q and of the output.
    pub fn q_cols(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of k and of v.
    pub fn kv_cols(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Queries.
    pub fn n_tokens(&self) -> usize {
        self.cu_len.last().copied().unwrap_or(0)
    }

    /// The first position that a query at `position` of its sequence sees; the last is its own.
    pub fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }
}

/// What `Backend::head_compare` sums over the rows that have a target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compared {
    /// Rows counted.
    pub rows: u64,
    /// Sum of the student's negative log-likelihoods, nats.
    pub student_nll: f64,
    /// Sum of the teacher's negative log-likelihoods, nats.
    pub teacher_nll: f64,
    /// Sum of KL(teacher || student), nats.
    pub kl: f64,
    /// Rows on which both put the same token first (the lowest id among equals).
    pub agree: u64,
}

impl std::ops::AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.student_nll += other.student_nll;
        self.teacher_nll += other.teacher_nll;
        self.kl += other.kl;
        self.agree += other.agree;
    }
}
