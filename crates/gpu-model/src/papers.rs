//! The students of Llama 3.1 8B against their teacher: predicted speed-ups beside the published ones (arXiv 2408.11796, figure 10).
use crate::{
    gemm::Weights,
    gpu::Gpu,
    predict::{Work, predict},
    shape::{Error, Preset, Shape},
};

/// A published speed-up over the teacher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// The student, one of [`crate::PRESETS`].
    pub student: &'static str,
    /// How much faster.
    pub speed_up: f64,
}

/// The teacher of both.
pub const TEACHER: &str = "llama-3.1-8b";

/// Throughput over the teacher's, as the paper prints it.
pub const PUBLISHED: [Published; 2] = [
    Published { student: "llama-3.1-minitron-4b-width", speed_up: 1.8 },
    Published { student: "llama-3.1-minitron-4b-depth", speed_up: 2.7 },
];

/// Sequences at once in the paper's setting: more for the students.
pub const TEACHER_BATCH: u32 = 32;
/// The students' batch.
pub const STUDENT_BATCH: u32 = 64;

/// What the paper measured, and how the prediction differs.
pub const DIFFERENCES: [&str; 6] = [
    "published: TensorRT-LLM in FP8 on one H100 80 GB, batch 32 for the teacher and 64 for the students, throughput of requests",
    "predicted: Paring's kernels, whose tensor products are mma.sync in bf16; bf16 is the nearer setting, since it has tensor cores for many rows",
    "predicted: q8_0 has FP8's bytes, but its kernels pass over a weight again for every eight rows: long prompts and batches are slow",
    "predicted: keys and values are kept in f32, four times FP8's bytes, which weighs on students with twice the batch",
    "predicted: all sequences in step, no scheduling and no sampling; Paring itself decodes one sequence at a time so far",
    "the lengths that the paper averages over are not known here: four pairs of prompt and answer are taken, and their geometric mean",
];

/// One setting: throughput of teacher and students.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Tokens of each prompt.
    pub prompt: u32,
    /// Tokens made after it.
    pub made: u32,
    /// Type of the weights.
    pub weights: Weights,
    /// The teacher's batch.
    pub teacher_batch: u32,
    /// The students' batch.
    pub student_batch: u32,
    /// Made tokens per second of the teacher, then of the students of [`PUBLISHED`].
    pub tokens_per_second: [f64; 3],
    /// Whether each fits the GPU's memory.
    pub fits: [bool; 3],
}

impl Comparison {
    /// Of the students over the teacher.
    pub fn speed_ups(&self) -> [f64; 2] {
        let [teacher, a, b] = self.tokens_per_second;
        [a / teacher, b / teacher]
    }
}

/// Made tokens per second when `batch` prompts are read and then continued in step, and whether they fit.
///
/// # Errors
/// Those of [`predict`].
pub fn throughput(
    gpu: &Gpu,
    shape: &Shape,
    weights: Weights,
    batch: u32,
    prompt: u32,
    made: u32,
) -> Result<(f64, bool), Error> {
    let prefill = predict(gpu, shape, weights, &Work::Prefill { sequences: batch, tokens: prompt })?;
    // Time grows linearly with what is in the cache, so the middle is the mean.
    let middle = prompt.saturating_add(made / 2);
    let decode = predict(gpu, shape, weights, &Work::Decode { sequences: batch, context: middle })?;
    let last = predict(gpu, shape, weights, &Work::Decode { sequences: batch, context: prompt.saturating_add(made) })?;
    let seconds = prefill.seconds + f64::from(made) * decode.seconds;
    Ok((f64::from(batch) * f64::from(made) / seconds, last.memory.fits(gpu)))
}

/// The paper's batches at several lengths, the same batch for all, and single sequences; in bf16 and in q8_0.
///
/// # Errors
/// Those of [`predict`].
pub fn compare_papers(gpu: &Gpu) -> Result<Vec<Comparison>, Error> {
    let shapes: Vec<Shape> = std::iter::once(TEACHER)
        .chain(PUBLISHED.map(|p| p.student))
        .filter_map(Preset::named)
        .map(|p| p.shape())
        .collect();
    let mut rows = Vec::new();
    for weights in [Weights::Bf16, Weights::Q8_0] {
        for (teacher_batch, student_batch) in [(TEACHER_BATCH, STUDENT_BATCH), (TEACHER_BATCH, TEACHER_BATCH), (1, 1)] {
            for (prompt, made) in LENGTHS {
                let mut row = Comparison {
                    prompt,
                    made,
                    weights,
                    teacher_batch,
                    student_batch,
                    tokens_per_second: [0.0; 3],
                    fits: [false; 3],
                };
                for (i, shape) in shapes.iter().enumerate().take(3) {
                    let batch = if i == 0 { teacher_batch } else { student_batch };
                    let (tokens, fits) = throughput(gpu, shape, weights, batch, prompt, made)?;
                    (row.tokens_per_second[i], row.fits[i]) = (tokens, fits);
                }
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// Geometric means of [`Comparison::speed_ups`] over the lengths, one for each type of weights and batch, in the order of `rows`.
pub fn mean_speed_ups(rows: &[Comparison]) -> Vec<(Comparison, [f64; 2])> {
    let setting = |r: &Comparison| (r.weights, r.teacher_batch, r.student_batch);
    let groups = rows.chunk_by(|a, b| setting(a) == setting(b));
    groups
        .filter_map(|group| {
            let logs = group.iter().map(|r| r.speed_ups().map(f64::ln));
            let [a, b] = logs.fold([0.0; 2], |[a, b], [x, y]| [a + x, b + y]);
            let n = group.len() as f64;
            group.first().map(|first| (first.clone(), [(a / n).exp(), (b / n).exp()]))
        })
        .collect()
}

/// Prompts and what is made after them.
const LENGTHS: [(u32, u32); 4] = [(128, 128), (128, 2048), (2048, 128), (2048, 2048)];
