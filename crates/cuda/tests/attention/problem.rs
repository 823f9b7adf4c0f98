//! Operands whose numbers are bf16 already, so that kernels which round them change nothing and can be held to a bound of their own; what the
//! reference makes of them; and the kernels on tensor cores run as the backend runs them.
use crate::sim::{Sim, Value::*, text};
use paring_ops::{AttnSpec, Backend};
use paring_ptx_sim::Counters;
use paring_reference::Reference;
use paring_tensor::{DType, Shape, Tensor, round_to};

/// q, k, v and dy of a spec.
pub(crate) struct Problem {
    pub(crate) spec: AttnSpec,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) dy: Vec<f32>,
}

/// What attention gives.
pub(crate) struct Forward {
    pub(crate) y: Vec<f32>,
    pub(crate) lse: Vec<f32>,
}

/// Gradients.
pub(crate) struct Backward {
    pub(crate) dq: Vec<f32>,
    pub(crate) dk: Vec<f32>,
    pub(crate) dv: Vec<f32>,
}

/// `n` numbers between -2 and 2, always the same for a seed.
pub(crate) fn numbers(seed: u64, n: usize) -> Vec<f32> {
    crate::numbers::numbers(seed, n).into_iter().map(|x| 2.0 * x).collect()
}

fn tensor(values: &[f32], cols: usize) -> Tensor {
    let shape = Shape::new(&[values.len() / cols.max(1), cols]).unwrap();
    Reference.upload(values, DType::F32, shape).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    Reference.download(t).unwrap()
}

impl Problem {
    pub(crate) fn new(spec: AttnSpec) -> Problem {
        let (queries, keys) = (spec.n_tokens(), spec.past + spec.n_tokens());
        let rounded = |seed, n| numbers(seed, n).into_iter().map(|x| round_to(x, DType::BF16)).collect();
        let (q, dy) = (rounded(1, queries * spec.q_cols()), rounded(2, queries * spec.q_cols()));
        let (k, v) = (rounded(3, keys * spec.kv_cols()), rounded(4, keys * spec.kv_cols()));
        Problem { spec, q, k, v, dy }
    }

    fn tensors(&self) -> [Tensor; 4] {
        let (q_cols, kv_cols) = (self.spec.q_cols(), self.spec.kv_cols());
        [tensor(&self.q, q_cols), tensor(&self.k, kv_cols), tensor(&self.v, kv_cols), tensor(&self.dy, q_cols)]
    }

    pub(crate) fn reference(&self) -> Forward {
        let [q, k, v, _] = self.tensors();
        let mut y = tensor(&vec![0.0; self.q.len()], self.spec.q_cols());
        let mut lse = tensor(&vec![0.0; self.spec.n_tokens() * self.spec.heads], self.spec.heads);
        Reference.attention(&mut y, &mut lse, &q, &k, &v, &self.spec).unwrap();
        Forward { y: values(&y), lse: values(&lse) }
    }

    pub(crate) fn reference_backward(&self, forward: &Forward) -> Backward {
        let [q, k, v, dy] = self.tensors();
        let (y, lse) = (tensor(&forward.y, self.spec.q_cols()), tensor(&forward.lse, self.spec.heads));
        let [mut dq, mut dk, mut dv, _] = self.tensors();
        Reference.attention_backward(&mut dq, &mut dk, &mut dv, &dy, &y, &lse, &q, &k, &v, &self.spec).unwrap();
        Backward { dq: values(&dq), dk: values(&dk), dv: values(&dv) }
    }
}

/// The kernels on tensor cores over a problem in simulated memory, launched as the backend launches them.
pub(crate) struct TensorCores {
    pub(crate) sim: Sim,
    spec: AttnSpec,
    padded: usize,
    /// q, k, v and dy as f32.
    exact: [u64; 4],
    /// The same in bf16.
    rounded: [u64; 4],
    y: u64,
    lse: u64,
}

/// Smallest width of a kernel for a head.
fn padded(head_dim: usize) -> usize {
    [32, 64, 80, 96, 128].into_iter().find(|&d| head_dim <= d).unwrap()
}

impl TensorCores {
    /// Uploads and rounds.
    pub(crate) fn new(problem: &Problem, mut sim: Sim) -> TensorCores {
        let spec = problem.spec.clone();
        let padded = padded(spec.head_dim);
        let exact = [&problem.q, &problem.k, &problem.v, &problem.dy].map(|x| sim.upload(x));
        let (queries, keys) = (spec.n_tokens() * spec.heads, (spec.past + spec.n_tokens()) * spec.kv_heads);
        let mut rounded = exact;
        for (at, heads) in rounded.iter_mut().zip([queries, keys, keys, queries]) {
            let to = sim.memory.alloc(heads * padded * 2);
            let chunks = heads * padded / 8;
            let (head_dim, vectors) = (spec.head_dim as u32, u32::from(spec.head_dim.is_multiple_of(4)));
            let sizes = [U32(chunks as u32), U32(head_dim), U32(padded as u32), U32(vectors), F32(1.0)];
            let arguments = [&[Pointer(*at), Pointer(to)][..], &sizes].concat();
            let grid = [chunks.div_ceil(256), 1, 1];
            sim.launch(
                text("attention_cast"),
                "attention_cast_bf16",
                grid.map(|n| n as u32),
                [256, 1, 1],
                0,
                &arguments,
            );
            *at = to;
        }
        let (y, lse) = (sim.alloc(4 * (spec.n_tokens() * spec.q_cols())), sim.alloc(4 * queries));
        TensorCores { sim, spec, padded, exact, rounded, y, lse }
    }

    fn scores(&self) -> [f32; 2] {
        let log2_e = std::f32::consts::LOG2_E;
        self.spec.softcap.map_or([self.spec.scale * log2_e, 0.0], |cap| [cap * log2_e, self.spec.scale / cap])
    }

    fn sizes(&self) -> [u32; 4] {
        let spec = &self.spec;
        [spec.n_tokens(), spec.heads, spec.kv_heads, spec.head_dim].map(|n| n as u32)
    }

    fn window(&self) -> u32 {
        self.spec.window.map_or(i32::MAX as u32, |w| w as u32)
    }

    /// Only for a spec of one sequence.
    pub(crate) fn forward(&mut self) -> (Forward, Counters) {
        let ([q, k, v, _], [tokens, heads, kv_heads, head_dim]) = (self.rounded, self.sizes());
        let ([multiplier, inner], window, past) = (self.scores(), self.window(), self.spec.past as u32);
        let pointers = [q, k, v, 0, self.y, self.lse].map(Pointer);
        let sizes = [tokens, heads, kv_heads, head_dim, past, window].map(U32);
        let arguments = [&pointers[..], &sizes, &[F32(multiplier), F32(inner)]].concat();
        let queries = if self.padded == 128 { 64 } else { 128 };
        let grid = [self.spec.n_tokens().div_ceil(queries), self.spec.heads, 1];
        let entry = format!("attention_mma_{}", self.padded);
        let counters =
            self.sim.launch(text("attention_mma"), &entry, grid.map(|n| n as u32), [128, 1, 1], 0, &arguments);
        let rows = self.spec.n_tokens();
        let y = self.sim.download(self.y, rows * self.spec.q_cols());
        (Forward { y, lse: self.sim.download(self.lse, rows * self.spec.heads) }, counters)
    }

    /// After [`TensorCores::forward`]: gradients, and the counters of the kernels of keys and of queries.
    pub(crate) fn backward(&mut self) -> (Backward, [Counters; 2]) {
        let ([q, k, v, dy], [tokens, heads, kv_heads, head_dim]) = (self.rounded, self.sizes());
        let ([multiplier, inner], window) = (self.scores(), self.window());
        let (rows, spec) = (self.spec.n_tokens(), self.spec.clone());
        let (delta, lse) = (self.sim.alloc(4 * rows * spec.heads), self.sim.alloc(4 * rows * spec.heads));
        let pointers = [self.exact[3], self.y, self.lse, delta, lse].map(Pointer);
        let sizes = [tokens, heads, head_dim].map(U32);
        let arguments = [&pointers[..], &sizes, &[F32(std::f32::consts::LOG2_E)]].concat();
        let grid = [(rows * spec.heads).div_ceil(8), 1, 1];
        self.sim.launch(
            text("attention_cast"),
            "attention_delta_f32",
            grid.map(|n| n as u32),
            [256, 1, 1],
            0,
            &arguments,
        );

        let dq = self.sim.alloc(4 * rows * spec.q_cols());
        let [dk, dv] = [0; 2].map(|_| self.sim.alloc(4 * rows * spec.kv_cols()));
        let inputs = [q, k, v, dy, lse, delta, 0].map(Pointer);
        let sizes = [tokens, heads, kv_heads, head_dim, window].map(U32);
        let floats = [multiplier, inner, spec.scale].map(F32);
        let (module, pieces) = (text("attention_mma_backward"), rows.div_ceil(64));
        let arguments = [&inputs[..], &[Pointer(dk), Pointer(dv)], &sizes, &floats].concat();
        let shared = 2 * 64 * self.padded * 2 + 2 * (2 * 32 * self.padded * 2 + 2 * 32 * 4);
        let entry = format!("attention_backward_kv_mma_{}", self.padded);
        let of_keys = self.sim.launch(
            module,
            &entry,
            [pieces, spec.kv_heads, 1].map(|n| n as u32),
            [128, 1, 1],
            shared,
            &arguments,
        );
        let arguments = [&inputs[..], &[Pointer(dq)], &sizes, &floats].concat();
        let entry = format!("attention_backward_q_mma_{}", self.padded);
        let of_queries =
            self.sim.launch(module, &entry, [pieces, spec.heads, 1].map(|n| n as u32), [128, 1, 1], 0, &arguments);
        let backward = Backward {
            dq: self.sim.download(dq, rows * spec.q_cols()),
            dk: self.sim.download(dk, rows * spec.kv_cols()),
            dv: self.sim.download(dv, rows * spec.kv_cols()),
        };
        (backward, [of_keys, of_queries])
    }
}

/// The largest error of a row over its size, both as Euclidean norms; rows are `cols` long. One key too many or too few among a hundred moves
/// a row by a tenth of its size, where all of an output hides it.
pub(crate) fn distance(got: &[f32], want: &[f32], cols: usize) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let rows = (want.len() / cols).max(1) as f64;
    // Rows that are nearly zero, as terms cancel, are held to the size of the others.
    let least = (norm(&mut want.iter().map(|&x| f64::from(x))) / rows.sqrt() / 20.0).max(1e-2);
    let row = |(got, want): (&[f32], &[f32])| {
        let error = norm(&mut got.iter().zip(want).map(|(&g, &w)| f64::from(g) - f64::from(w)));
        error / norm(&mut want.iter().map(|&w| f64::from(w))).max(least)
    };
    // A NaN stays one.
    let larger = |most: f64, e: f64| if e.is_nan() || most < e { e } else { most };
    got.chunks(cols).zip(want.chunks(cols)).map(row).fold(0.0, larger)
}

impl Problem {
    /// Attention, and without a cache its gradients, on a backend that may round.
    pub(crate) fn run(&self, backend: &dyn Backend) -> (Forward, Option<Backward>) {
        let spec = &self.spec;
        let upload = |values: &[f32], cols: usize| {
            let shape = Shape::new(&[values.len() / cols, cols]).unwrap();
            backend.upload(values, DType::F32, shape).unwrap()
        };
        let (q_cols, kv_cols) = (spec.q_cols(), spec.kv_cols());
        let (q, k, v) = (upload(&self.q, q_cols), upload(&self.k, kv_cols), upload(&self.v, kv_cols));
        let alloc = |rows, cols| backend.alloc(DType::F32, Shape::new(&[rows, cols]).unwrap()).unwrap();
        let t = spec.n_tokens();
        let (mut y, mut lse) = (alloc(t, q_cols), alloc(t, spec.heads));
        backend.attention(&mut y, &mut lse, &q, &k, &v, spec).unwrap();
        let values = |t: &Tensor| backend.download(t).unwrap();
        let forward = Forward { y: values(&y), lse: values(&lse) };
        if spec.past != 0 {
            return (forward, None);
        }
        let dy = upload(&self.dy, q_cols);
        let (mut dq, mut dk, mut dv) = (alloc(t, q_cols), alloc(t, kv_cols), alloc(t, kv_cols));
        backend.attention_backward(&mut dq, &mut dk, &mut dv, &dy, &y, &lse, &q, &k, &v, spec).unwrap();
        (forward, Some(Backward { dq: values(&dq), dk: values(&dk), dv: values(&dv) }))
    }

    /// Holds results to what bf16 probabilities allow.
    pub(crate) fn check(&self, what: &str, forward: &Forward, backward: Option<&Backward>) {
        let (want, h) = (self.reference(), self.spec.head_dim);
        let mut parts = vec![("y", &forward.y, &want.y, FORWARD, h), ("lse", &forward.lse, &want.lse, LSE, 1)];
        let gradients = backward.map(|b| (b, self.reference_backward(&want)));
        if let Some((got, want)) = &gradients {
            let of = |name, got, want| (name, got, want, BACKWARD, h);
            parts.extend([of("dq", &got.dq, &want.dq), of("dk", &got.dk, &want.dk), of("dv", &got.dv, &want.dv)]);
        }
        for (name, got, want, bound, cols) in parts {
            let far = distance(got, want, cols);
            assert!(far < bound, "{name} of {:?}, {what}: {far:e}, expected less than {bound:e}", self.spec);
        }
    }
}

/// Of a row of y: probabilities are rounded by 2^-9 at most, in either direction.
const FORWARD: f64 = 1.0 / 256.0;
/// Of a row of gradients: ds and p are rounded, and terms of either sign cancel, in dq of the second query of a sequence most of all.
const BACKWARD: f64 = 1.0 / 50.0;
/// Of lse, which nothing is rounded for; a cap of 50 multiplies the units that a tanh is off by.
const LSE: f64 = 2e-5;
