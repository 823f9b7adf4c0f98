//! The question and the answer: how long some work takes on a GPU, and whether it fits its memory.
use crate::{
    cost::{GRAPH_CAPTURE, GRAPH_LAUNCH, HOST_LAUNCH, HOST_WAIT},
    gemm::Weights,
    gpu::Gpu,
    plan::{HEAD_CHUNK_BYTES, Kernel, Part, Pass, Plan},
    shape::{Error, Shape, check_size},
};

/// What every number of this crate is.
pub const LABEL: &str = "model, not a measurement";

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Read prompts: all tokens at once, logits of the last one of each sequence.
    Prefill {
        /// Sequences.
        sequences: u32,
        /// Tokens of each.
        tokens: u32,
    },
    /// Make one more token for each sequence.
    Decode {
        /// Sequences.
        sequences: u32,
        /// Tokens of each that are in the cache.
        context: u32,
    },
    /// One step of distillation: forward of the teacher, forward and backward of the student, forward KL of their heads, AdamW.
    Distill {
        /// Windows of the step.
        windows: u32,
        /// Tokens of each.
        context: u32,
        /// Windows that run at once; gradients of a step's windows are summed.
        micro: u32,
        /// Whether blocks run again in the backward instead of keeping their activations.
        recompute: bool,
        /// The teacher. Its weights are bf16 or f32 like the student's.
        teacher: Box<Shape>,
    },
}

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// The model.
    pub weights: f64,
    /// The teacher.
    pub teacher: f64,
    /// Gradients, moments and what bf16 weights lack of f32.
    pub training: f64,
    /// Keys and values, f32.
    pub cache: f64,
    /// Activations, logits, and what the tape keeps.
    pub activations: f64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.weights + self.teacher + self.training + self.cache + self.activations
    }

    /// Whether it fits, with [`RESERVED`] left over.
    pub fn fits(&self, gpu: &Gpu) -> bool {
        self.total() + RESERVED <= gpu.memory_bytes
    }
}

/// Device memory that a program cannot have: the driver's context, the kernels' code, what an allocator loses. Assumption: 1 GiB.
pub const RESERVED: f64 = 1024.0 * 1024.0 * 1024.0;

/// A prediction: a model, not a measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Seconds of the whole work: the GPU's, or the processor's if it launches more slowly than the GPU runs, and waits. For decoding, which is
    /// a graph that is made anew for each token, the sum of the three.
    pub seconds: f64,
    /// Seconds on the GPU, gaps between kernels included.
    pub gpu_seconds: f64,
    /// Seconds that the processor launches, or makes a graph.
    pub host_seconds: f64,
    /// Seconds that both lose where the processor waits for a number.
    pub wait_seconds: f64,
    /// Of [`Prediction::gpu_seconds`], the gaps between kernels.
    pub gap_seconds: f64,
    /// Seconds of each layer on the GPU, gaps included; its backward too where there is one.
    pub layers: Vec<f64>,
    /// Kernels by operation, in the order of their first launch.
    pub kernels: Vec<Kernel>,
    /// Tokens that come out: those of a prompt, of a decoded batch, of a step.
    pub tokens: f64,
    /// What it takes of device memory.
    pub memory: Memory,
}

impl Prediction {
    /// Launches of all kernels.
    pub fn launches(&self) -> f64 {
        self.kernels.iter().map(|k| k.launches).sum()
    }

    /// Operations of the work itself.
    pub fn flops(&self) -> f64 {
        self.kernels.iter().map(|k| k.counts.flops).sum()
    }

    /// Bytes of device memory that move.
    pub fn dram_bytes(&self) -> f64 {
        self.kernels.iter().map(|k| k.counts.dram_bytes).sum()
    }
}

/// Predicts how long `work` takes for a model of `shape`, its matrices stored as `weights`, by Paring's kernels on `gpu`.
///
/// A step of decoding is one CUDA graph, made anew for each token as the engine does; other work is launched kernel by kernel.
///
/// # Errors
/// [`Error::Size`] and [`Error::Heads`] for a shape or work that is none, [`Error::Weights`] for distillation with quantised weights,
/// [`Error::Vocab`] for a teacher that reads other tokens.
pub fn predict(gpu: &Gpu, shape: &Shape, weights: Weights, work: &Work) -> Result<Prediction, Error> {
    shape.check()?;
    let graph = matches!(work, Work::Decode { .. });
    let mut run = Run { plan: Plan::new(gpu, weights, graph), layers: vec![0.0; shape.layers.len()] };
    let (tokens, memory) = match *work {
        Work::Prefill { sequences, tokens } => {
            let (n, t) = (batch(sequences)?, length("tokens", tokens)?);
            let pass = Pass { sequences: n, queries: t, past: 0.0, cache: true };
            run.forward(shape, &pass);
            run.plan.part = Part::Head;
            run.plan.logits(shape, n * t, n);
            (n * t, inference(shape, weights, n, t, n * t))
        }
        Work::Decode { sequences, context } => {
            check_size("context", u64::from(context) + 1, MAX_TOKENS)?;
            let (n, past) = (batch(sequences)?, f64::from(context));
            run.forward(shape, &Pass { sequences: n, queries: 1.0, past, cache: true });
            run.plan.part = Part::Head;
            run.plan.logits(shape, n, n);
            (n, inference(shape, weights, n, past + 1.0, n))
        }
        Work::Distill { windows, context, micro, recompute, ref teacher } => {
            let (windows, context) = (batch(windows)?, length("context", context)?);
            let micro = batch(micro)?.min(windows);
            teacher.check()?;
            if weights.is_quantised() {
                return Err(Error::Weights { what: "there is no gradient of quantised weights: expected f32 or bf16" });
            }
            if teacher.vocab != shape.vocab {
                return Err(Error::Vocab { teacher: teacher.vocab, student: shape.vocab });
            }
            run.distill(shape, teacher, windows, context, micro, recompute);
            (windows * context, training(shape, teacher, weights, micro * context, recompute))
        }
    };
    let Run { mut plan, layers } = run;
    // What comes out is waited for.
    plan.waits += 1.0;
    let (gap, waits) = (plan.gap(), plan.waits);
    let kernels = merged(plan.kernels);
    let launches: f64 = kernels.iter().map(|k| k.launches).sum();
    let gap_seconds = launches * gap;
    let gpu_seconds = kernels.iter().map(|k| k.seconds).sum::<f64>() + gap_seconds;
    // Launches run beside the GPU; a graph is made between one token and the next, when nothing else runs.
    let host_seconds = launches * if graph { GRAPH_CAPTURE } else { HOST_LAUNCH };
    let wait_seconds = waits * HOST_WAIT + if graph { GRAPH_LAUNCH } else { 0.0 };
    let running = if graph { gpu_seconds + host_seconds } else { gpu_seconds.max(host_seconds) };
    let seconds = running + wait_seconds;
    Ok(Prediction { seconds, gpu_seconds, host_seconds, wait_seconds, gap_seconds, layers, kernels, tokens, memory })
}

/// Sequences and tokens beyond any GPU.
const MAX_BATCH: u64 = 1 << 20;
const MAX_TOKENS: u64 = 1 << 24;

fn batch(n: u32) -> Result<f64, Error> {
    check_size("the batch", n.into(), MAX_BATCH).map(|()| n.into())
}

fn length(what: &'static str, n: u32) -> Result<f64, Error> {
    check_size(what, n.into(), MAX_TOKENS).map(|()| n.into())
}

/// A plan, and the time of each layer so far.
struct Run<'a> {
    plan: Plan<'a>,
    layers: Vec<f64>,
}

impl Run<'_> {
    /// Runs `f` for each layer. Equal layers are planned once.
    fn each_layer(&mut self, shape: &Shape, timed: bool, f: impl Fn(&mut Plan<'_>, &crate::shape::LayerShape)) {
        let mut at = 0;
        while let Some(layer) = shape.layers.get(at) {
            let run = shape.layers[at..].iter().take_while(|l| *l == layer).count();
            let from = self.plan.kernels.len();
            f(&mut self.plan, layer);
            let gap = self.plan.gap();
            let seconds: f64 = self.plan.kernels[from..].iter().map(|k| k.seconds + gap * k.launches).sum();
            repeat(&mut self.plan.kernels[from..], run as f64);
            if timed {
                self.layers[at..at + run].iter_mut().for_each(|l| *l += seconds);
            }
            at += run;
        }
    }

    fn forward(&mut self, shape: &Shape, pass: &Pass) {
        self.plan.embed(shape, pass.sequences * pass.queries);
        self.each_layer(shape, true, |plan, layer| plan.layer(shape, layer, pass));
    }

    fn distill(&mut self, shape: &Shape, teacher: &Shape, windows: f64, context: f64, micro: f64, recompute: bool) {
        let rounds = (windows / micro).ceil();
        let pass = Pass { sequences: micro, queries: context, past: 0.0, cache: false };
        let tokens = micro * context;
        self.plan.part = Part::Teacher;
        self.plan.embed(teacher, tokens);
        self.each_layer(teacher, false, |plan, layer| plan.layer(teacher, layer, &pass));
        self.plan.final_norm(teacher, tokens);
        self.plan.part = Part::Forward;
        self.forward(shape, &pass);
        self.plan.final_norm(shape, tokens);
        self.plan.part = Part::Head;
        self.plan.head_kl(shape, teacher, tokens);
        self.plan.part = Part::Backward;
        self.plan.ends_backward(shape, tokens);
        self.each_layer(shape, true, |plan, layer| {
            if recompute {
                plan.layer(shape, layer, &pass);
            }
            plan.layer_backward(shape, layer, &pass);
        });
        // The last round may be smaller; all count as part of a whole one.
        let share = windows / micro / rounds;
        repeat(&mut self.plan.kernels, rounds);
        self.plan.waits *= rounds;
        for kernel in &mut self.plan.kernels {
            kernel.counts = kernel.counts.scaled(share);
            kernel.seconds *= share;
        }
        self.layers.iter_mut().for_each(|l| *l *= windows / micro);
        self.plan.part = Part::Update;
        self.plan.update(shape);
    }
}

fn repeat(kernels: &mut [Kernel], times: f64) {
    for kernel in kernels {
        kernel.launches *= times;
        kernel.counts = kernel.counts.scaled(times);
        kernel.seconds *= times;
    }
}

/// Kernels of the same operation together; the limit is that of the longest.
fn merged(kernels: Vec<Kernel>) -> Vec<Kernel> {
    let mut out: Vec<(Kernel, f64)> = Vec::new();
    for kernel in kernels {
        let same = out.iter_mut().find(|(k, _)| (k.part, k.op, k.kernel) == (kernel.part, kernel.op, kernel.kernel));
        match same {
            Some((k, longest)) => {
                k.launches += kernel.launches;
                k.counts = k.counts.plus(kernel.counts);
                k.seconds += kernel.seconds;
                if *longest < kernel.seconds {
                    (*longest, k.limit) = (kernel.seconds, kernel.limit);
                }
            }
            None => out.push((kernel.clone(), kernel.seconds)),
        }
    }
    out.into_iter().map(|(kernel, _)| kernel).collect()
}

/// Bytes of a model's parameters: matrices as stored, gains of norms in f32.
fn weight_bytes(shape: &Shape, weights: Weights) -> f64 {
    let layers: f64 = shape.layers.iter().map(|l| shape.layer_matrices(l)).sum();
    let embedding = f64::from(shape.vocab) * f64::from(shape.hidden) * if shape.tied { 1.0 } else { 2.0 };
    let norms = f64::from(shape.hidden) * (2.0 * shape.layers.len() as f64 + 1.0);
    weights.bytes() * (layers + embedding) + 4.0 * norms
}

/// Buffers of a forward that keeps nothing: a few of the widest activation.
fn buffers(shape: &Shape, tokens: f64) -> f64 {
    let widest = |l: &crate::shape::LayerShape| {
        3.0 * f64::from(l.ffn) + 4.0 * f64::from(shape.hidden) + 2.0 * f64::from(l.heads) * f64::from(shape.head_dim)
    };
    4.0 * tokens * shape.layers.iter().map(widest).fold(0.0, f64::max)
}

fn inference(shape: &Shape, weights: Weights, sequences: f64, length: f64, tokens: f64) -> Memory {
    let kv: f64 = shape.layers.iter().map(|l| f64::from(l.kv_heads) * f64::from(shape.head_dim)).sum();
    Memory {
        weights: weight_bytes(shape, weights),
        cache: 2.0 * 4.0 * sequences * length * kv,
        activations: buffers(shape, tokens) + 4.0 * sequences * f64::from(shape.vocab),
        ..Memory::default()
    }
}

/// What the tape keeps is `activation_bytes` of `paring-train`; with recomputation only what goes into each block, and one block's tape.
fn training(shape: &Shape, teacher: &Shape, weights: Weights, tokens: f64, recompute: bool) -> Memory {
    let kept = |l: &crate::shape::LayerShape| {
        let heads = (f64::from(l.heads) + f64::from(l.kv_heads)) * f64::from(shape.head_dim);
        2.0 * (f64::from(shape.hidden) + f64::from(l.ffn) + heads)
    };
    let widest = shape.layers.iter().map(kept).fold(0.0, f64::max);
    let tape = if recompute {
        shape.layers.len() as f64 * f64::from(shape.hidden) + widest
    } else {
        shape.layers.iter().map(kept).sum()
    };
    let params = shape.params().total as f64;
    // Gradient and two moments in f32, and what a bf16 weight lacks of its f32 master.
    let each = 12.0 + if weights == Weights::F32 { 0.0 } else { 2.0 };
    Memory {
        weights: weight_bytes(shape, weights),
        teacher: weight_bytes(teacher, weights),
        training: each * params,
        cache: 0.0,
        activations: 4.0 * tape * tokens
            + buffers(shape, tokens).max(buffers(teacher, tokens))
            + 2.0 * HEAD_CHUNK_BYTES,
    }
}
