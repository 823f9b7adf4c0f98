//! The kernels of a forward, a backward and an update, in the order in which Paring's tape calls them.
use crate::{
    attention::{Attention, TENSOR_WIDTH},
    cost::{Counts, GRAPH_GAP, HOST_LAUNCH, Launch, Limit, STREAM_GAP},
    gemm::{LANE_TILES, Product, TILES, VECTOR_ROWS, Weights, lanes, tiled, vectors},
    gpu::{Gpu, WARP},
    shape::{LayerShape, Shape},
};

const F32: f64 = 4.0;
const BF16: f64 = 2.0;

/// Bytes of f32 logits that are in memory at a time when a loss is fused with its head: `head_chunk_rows` of `paring-ops`.
pub const HEAD_CHUNK_BYTES: f64 = 64.0 * 1024.0 * 1024.0;

/// What a kernel is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The forward of a distillation's teacher.
    Teacher,
    /// The forward.
    Forward,
    /// The vocabulary head, with the loss where there is one.
    Head,
    /// The backward.
    Backward,
    /// Gradient norm and AdamW.
    Update,
}

impl Part {
    /// A word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Part::Teacher => "teacher",
            Part::Forward => "forward",
            Part::Head => "head",
            Part::Backward => "backward",
            Part::Update => "update",
        }
    }
}

/// Equal launches of one kernel for one operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// What it is a part of.
    pub part: Part,
    /// The operation: `gate_proj`.
    pub op: &'static str,
    /// The kernel: `gemm 128x256`.
    pub kernel: &'static str,
    /// How many launches.
    pub launches: f64,
    /// Work of all launches.
    pub counts: Counts,
    /// Seconds of all launches on the GPU, without the gaps between them.
    pub seconds: f64,
    /// What they wait for.
    pub limit: Limit,
}

/// Kernels that run one after the other.
pub(crate) struct Plan<'a> {
    gpu: &'a Gpu,
    weights: Weights,
    graph: bool,
    pub(crate) part: Part,
    pub(crate) kernels: Vec<Kernel>,
    /// How often the processor waits for a number.
    pub(crate) waits: f64,
}

/// What a product is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// `y = x w^T`.
    Forward,
    /// `dx (+)= dy w`.
    Dx { accumulate: bool },
    /// `dw += dy^T x`.
    Dw,
}

/// Equal sequences that go through together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pass {
    pub(crate) sequences: f64,
    pub(crate) queries: f64,
    pub(crate) past: f64,
    /// Whether keys and values go through a cache.
    pub(crate) cache: bool,
}

impl Pass {
    fn tokens(&self) -> f64 {
        self.sequences * self.queries
    }
}

impl<'a> Plan<'a> {
    pub(crate) fn new(gpu: &'a Gpu, weights: Weights, graph: bool) -> Plan<'a> {
        Plan { gpu, weights, graph, part: Part::Forward, kernels: Vec::new(), waits: 0.0 }
    }

    /// Between two kernels.
    pub(crate) fn gap(&self) -> f64 {
        if self.graph { GRAPH_GAP } else { STREAM_GAP }
    }

    fn push(&mut self, op: &'static str, kernel: &'static str, launch: &Launch, times: f64) {
        let (seconds, limit) = launch.seconds(self.gpu);
        let counts = launch.counts.scaled(times);
        self.kernels.push(Kernel {
            part: self.part,
            op,
            kernel,
            launches: times,
            counts,
            seconds: seconds * times,
            limit,
        });
    }

    /// A kernel that reads and writes so many bytes and does a few instructions for each f32 value.
    fn band(&mut self, op: &'static str, kernel: &'static str, values: f64, bytes: f64, flops_per_value: f64) {
        self.push(op, kernel, &band(values, bytes, flops_per_value), 1.0);
    }

    /// A kernel that has a row of `width` values a block, passes over memory so often in all, and reduces in between.
    fn rows(
        &mut self,
        op: &'static str,
        kernel: &'static str,
        [rows, width]: [f64; 2],
        passes: f64,
        flops_per_value: f64,
    ) {
        let launch = band(rows * width, passes * F32 * rows * width, flops_per_value);
        self.push(op, kernel, &Launch { blocks: rows.max(1.0), trips: 2.0, ..launch }, 1.0);
    }

    /// A product, by whichever kernel the model finds quickest; casts of its f32 factors included.
    fn product(&mut self, op: &'static str, rows: f64, outputs: f64, inputs: f64, role: Role) {
        let p = match role {
            Role::Forward => Product { m: rows, n: outputs, k: inputs, accumulate: false },
            Role::Dx { accumulate } => Product { m: rows, n: inputs, k: outputs, accumulate },
            Role::Dw => Product { m: outputs, n: inputs, k: rows, accumulate: true },
        };
        let mut ways: Vec<Vec<(&'static str, Launch)>> = Vec::new();
        let [bf16_rows, other_rows] = VECTOR_ROWS.map(f64::from);
        let few = if self.weights == Weights::Bf16 { bf16_rows } else { other_rows };
        if role == Role::Forward && (rows <= few || self.weights.is_quantised()) {
            // The host takes no tiles then, and has none for quantised weights.
            if self.weights.is_quantised() {
                self.band(op, "quantise_rows", p.m * p.k, p.m * p.k * (F32 + 1.25), 6.0);
            }
            let (kernel, launch) = vectors(self.gpu, self.weights, &p);
            return self.push(op, kernel, &launch, 1.0);
        }
        let splits = [1.0, 2.0, 4.0, 8.0, 16.0];
        for splits in splits.into_iter().filter(|s| *s == 1.0 || 256.0 * s <= p.k) {
            let reduce = |mut way: Vec<(&'static str, Launch)>| {
                if splits > 1.0 {
                    let values = p.m * p.n;
                    let passes = splits + if p.accumulate { 2.0 } else { 1.0 };
                    way.push(("gemm_reduce", band(values, passes * F32 * values, splits)));
                }
                way
            };
            if self.weights == Weights::F32 {
                for tile in &LANE_TILES {
                    ways.push(reduce(vec![(tile.name, lanes(self.gpu, tile, &p, splits))]));
                }
            } else {
                for tile in &TILES {
                    let mut way = self.casts(&p, role);
                    way.push((tile.name, tiled(self.gpu, tile, &p, splits)));
                    ways.push(reduce(way));
                }
            }
        }
        // A kernel that is shorter than its launch costs its launch.
        let (gap, launch) = (self.gap(), if self.graph { 0.0 } else { HOST_LAUNCH });
        let time =
            |way: &[(&str, Launch)]| way.iter().map(|(_, l)| (l.seconds(self.gpu).0 + gap).max(launch)).sum::<f64>();
        let best = ways.into_iter().min_by(|a, b| time(a).total_cmp(&time(b)));
        for (kernel, launch) in best.into_iter().flatten() {
            self.push(op, kernel, &launch, 1.0);
        }
    }

    /// The factors of a tensor-core product that are not bf16 yet.
    fn casts(&self, p: &Product, role: Role) -> Vec<(&'static str, Launch)> {
        let cast = |values: f64| ("cast_rows", band(values, values * (F32 + BF16), 1.0));
        match role {
            Role::Forward | Role::Dx { .. } => vec![cast(p.m * p.k)],
            Role::Dw => vec![cast(p.m * p.k), cast(p.n * p.k)],
        }
    }

    pub(crate) fn embed(&mut self, shape: &Shape, tokens: f64) {
        let values = tokens * f64::from(shape.hidden);
        self.band("embed", "embed", values, values * (self.weights.bytes() + F32), 0.0);
    }

    fn rms_norm(&mut self, op: &'static str, rows: f64, width: f64) {
        self.rows(op, "rms_norm", [rows, width], 2.0, 4.0);
    }

    /// dx, and the gain's gradient: a row of partial sums for each of at most 512 blocks, added by a second kernel.
    fn rms_norm_backward(&mut self, op: &'static str, rows: f64, width: f64) {
        self.rows(op, "rms_norm_backward", [rows, width], 4.0, 10.0);
        let parts = rows.min(512.0) * width;
        self.band(op, "add_columns", parts, F32 * parts, 1.0);
    }

    /// One block's forward.
    pub(crate) fn layer(&mut self, shape: &Shape, layer: &LayerShape, pass: &Pass) {
        let t = pass.tokens();
        let [h, d, f] = [shape.hidden, shape.head_dim, layer.ffn].map(f64::from);
        let (q, kv) = (d * f64::from(layer.heads), d * f64::from(layer.kv_heads));
        self.rms_norm("input_layernorm", t, h);
        for (op, out) in [("q_proj", q), ("k_proj", kv), ("v_proj", kv)] {
            self.product(op, t, out, h, Role::Forward);
        }
        self.band("rope q", "rope", t * q, 2.0 * F32 * t * q, 3.0);
        self.band("rope k", "rope", t * kv, 2.0 * F32 * t * kv, 3.0);
        self.attention(shape, layer, pass);
        self.product("o_proj", t, h, q, Role::Forward);
        // x + o and its norm: two read, two written.
        self.rows("post_attention_layernorm", "add_rms_norm", [t, h], 4.0, 5.0);
        if shape.gated {
            self.product("gate_proj", t, f, h, Role::Forward);
            self.product("up_proj", t, f, h, Role::Forward);
            self.band("gated", "gated", t * f, 3.0 * F32 * t * f, 8.0);
        } else {
            self.product("up_proj", t, f, h, Role::Forward);
            self.band("activation", "activation", t * f, 2.0 * F32 * t * f, 4.0);
        }
        self.product("down_proj", t, h, f, Role::Forward);
        self.band("residual", "add", t * h, 3.0 * F32 * t * h, 1.0);
    }

    fn spec(&self, shape: &Shape, layer: &LayerShape, pass: &Pass) -> Attention {
        Attention {
            tensor: self.weights != Weights::F32 && shape.head_dim <= TENSOR_WIDTH,
            sequences: pass.sequences,
            queries: pass.queries,
            past: pass.past,
            heads: layer.heads.into(),
            kv_heads: layer.kv_heads.into(),
            head_dim: shape.head_dim.into(),
        }
    }

    fn attention(&mut self, shape: &Shape, layer: &LayerShape, pass: &Pass) {
        let spec = self.spec(shape, layer, pass);
        let kv = f64::from(layer.kv_heads) * f64::from(shape.head_dim);
        if pass.cache {
            let values = 2.0 * pass.tokens() * kv;
            self.push("cache", "write_rows", &band(values / 2.0, F32 * values, 0.0), 2.0);
        }
        if pass.queries < 2.0 {
            self.push("attention", "attention_decode", &spec.decode(), 1.0);
            let out = pass.sequences * f64::from(layer.heads * shape.head_dim);
            self.band("attention", "attention_combine", out, 4.0 * F32 * out, 4.0);
            return;
        }
        if !spec.tensor {
            return self.push("attention", "attention_f32", &spec.forward(), 1.0);
        }
        let keys = pass.sequences * (pass.past + pass.queries) * kv;
        self.push("attention", "attention_cast", &band(keys, keys * (F32 + BF16), 1.0), 2.0);
        let queries = pass.tokens() * f64::from(layer.heads) * f64::from(shape.head_dim);
        self.band("attention", "attention_cast", queries, queries * (F32 + BF16), 1.0);
        self.push("attention", "attention_mma", &spec.forward(), 1.0);
    }

    /// One block's backward.
    pub(crate) fn layer_backward(&mut self, shape: &Shape, layer: &LayerShape, pass: &Pass) {
        let t = pass.tokens();
        let [h, d, f] = [shape.hidden, shape.head_dim, layer.ffn].map(f64::from);
        let (q, kv) = (d * f64::from(layer.heads), d * f64::from(layer.kv_heads));
        // Outputs of norms and gates are made again.
        if shape.gated {
            self.band("gated", "gated", t * f, 3.0 * F32 * t * f, 8.0);
        }
        self.linear_backward("down_proj", t, h, f, false);
        if shape.gated {
            self.band("gated", "gated_backward", t * f, 5.0 * F32 * t * f, 16.0);
            self.rms_norm("post_attention_layernorm", t, h);
            self.linear_backward("up_proj", t, f, h, false);
            self.linear_backward("gate_proj", t, f, h, true);
        } else {
            self.band("activation", "activation_backward", t * f, 3.0 * F32 * t * f, 6.0);
            self.rms_norm("post_attention_layernorm", t, h);
            self.linear_backward("up_proj", t, f, h, false);
        }
        self.rms_norm_backward("post_attention_layernorm", t, h);
        self.linear_backward("o_proj", t, h, q, false);
        let spec = self.spec(shape, layer, pass);
        if spec.tensor {
            // q, k, v and dy to bf16.
            self.push("attention", "attention_cast", &band(t * q, t * q * (F32 + BF16), 1.0), 2.0);
            self.push("attention", "attention_cast", &band(t * kv, t * kv * (F32 + BF16), 1.0), 2.0);
        }
        // delta = sum of dy y.
        self.band("attention", "attention_delta", t * q, 2.0 * F32 * t * q, 2.0);
        let [kv_name, q_name] = if spec.tensor {
            ["attention_backward_kv_mma", "attention_backward_q_mma"]
        } else {
            ["attention_backward_kv_f32", "attention_backward_q_f32"]
        };
        self.push("attention", kv_name, &spec.backward_kv(), 1.0);
        self.push("attention", q_name, &spec.backward_q(), 1.0);
        self.band("rope q", "rope", t * q, 2.0 * F32 * t * q, 3.0);
        self.band("rope k", "rope", t * kv, 2.0 * F32 * t * kv, 3.0);
        self.rms_norm("input_layernorm", t, h);
        self.linear_backward("v_proj", t, kv, h, false);
        self.linear_backward("k_proj", t, kv, h, true);
        self.linear_backward("q_proj", t, q, h, true);
        self.rms_norm_backward("input_layernorm", t, h);
    }

    fn linear_backward(&mut self, op: &'static str, rows: f64, outputs: f64, inputs: f64, accumulate: bool) {
        self.product(op, rows, outputs, inputs, Role::Dw);
        self.product(op, rows, outputs, inputs, Role::Dx { accumulate });
    }

    pub(crate) fn final_norm(&mut self, shape: &Shape, tokens: f64) {
        self.rms_norm("norm", tokens, shape.hidden.into());
    }

    /// The final norm and the logits of `rows` tokens.
    pub(crate) fn logits(&mut self, shape: &Shape, tokens: f64, rows: f64) {
        self.final_norm(shape, tokens);
        let [h, v] = [shape.hidden, shape.vocab].map(f64::from);
        self.product("lm_head", rows, v, h, Role::Forward);
    }

    /// Forward KL between two heads over `tokens`, with gradients, a chunk of tokens at a time.
    pub(crate) fn head_kl(&mut self, shape: &Shape, teacher: &Shape, tokens: f64) {
        let [h, v, e] = [shape.hidden, shape.vocab, teacher.hidden].map(f64::from);
        let chunk = (HEAD_CHUNK_BYTES / (F32 * v)).floor().clamp(16.0, 4096.0).min(tokens);
        let chunks = (tokens / chunk).ceil();
        let at = self.kernels.len();
        self.product("lm_head", chunk, v, h, Role::Forward);
        self.product("teacher's lm_head", chunk, v, e, Role::Forward);
        // Both rows are read for their maxima and sums, and again for the gradient, which is written. The sums go to the processor.
        self.rows("kl_rows", "kl_rows", [chunk, v], 5.0, 40.0);
        self.waits += chunks;
        self.linear_backward("lm_head", chunk, v, h, false);
        self.band("lm_head", "write_rows", chunk * h, 2.0 * F32 * chunk * h, 0.0);
        for kernel in &mut self.kernels[at..] {
            kernel.launches *= chunks;
            kernel.counts = kernel.counts.scaled(chunks);
            kernel.seconds *= chunks;
        }
    }

    /// The embedding's gradient, and the final norm's.
    pub(crate) fn ends_backward(&mut self, shape: &Shape, tokens: f64) {
        let values = tokens * f64::from(shape.hidden);
        self.rms_norm_backward("norm", tokens, shape.hidden.into());
        self.band("embed", "embed_backward", values, 3.0 * F32 * values, 1.0);
    }

    /// Gradients set to zero, their norm, and AdamW on every tensor: f32 moments, weights in two halves where they are bf16.
    pub(crate) fn update(&mut self, shape: &Shape) {
        let per_layer = 9.0 - if shape.gated { 0.0 } else { 1.0 };
        let tensors = shape.layers.len() as f64 * per_layer + 2.0 + if shape.tied { 0.0 } else { 1.0 };
        let values = shape.params().total as f64 / tensors;
        self.push("gradients", "fill", &band(values, F32 * values, 0.0), tensors);
        self.push("gradients", "sum_squares", &band(values, F32 * values, 2.0), tensors);
        self.push("gradients", "sum_parts", &band(values / 1024.0, F32 * values / 1024.0, 1.0), tensors);
        self.waits += tensors;
        // Weight, both moments: read and written; the gradient: read.
        self.push("adamw", "adamw", &band(values, 7.0 * F32 * values, 16.0), tensors);
    }
}

/// A kernel over f32 values in 16-byte accesses: it moves its bytes and does little else.
fn band(values: f64, bytes: f64, per_value: f64) -> Launch {
    let accesses = bytes / 16.0 / WARP;
    let lanes = values / WARP;
    let counts = Counts {
        flops: values * per_value,
        dram_bytes: bytes,
        l2_bytes: bytes,
        // An access with its address, and the arithmetic.
        issue_clocks: 3.0 * accesses + lanes * per_value,
        fp32: lanes * per_value,
        ..Counts::default()
    };
    // Blocks of 256 threads with four values each.
    Launch::even(counts, (values / 1024.0).ceil(), 8.0)
}
