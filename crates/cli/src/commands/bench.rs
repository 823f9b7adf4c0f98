//! `paring bench --model-gpu`: how long a model would take on a GPU, as `paring-gpu-model` predicts it. Every line and every object says
//! that it is a model, not a measurement.
use crate::{
    describe::{count, table},
    error::{Failure, Result},
    session::print,
    source::Source,
};
use clap::{Args, ValueEnum};
use paring_gpu_model::{
    Comparison, DIFFERENCES, GPUS, Gpu, LABEL, LayerShape, PRESETS, PUBLISHED, Prediction, Preset, Shape, TEACHER,
    Weights, Work, assumptions, compare_papers, mean_speed_ups, predict,
};
use paring_model::Arch;
use serde_json::{Value, json};

/// Flags of `paring bench`. Nothing is computed, so there is no device, no seed and no recipe.
#[derive(Clone, Debug, Args)]
pub(crate) struct Bench {
    /// The GPU that is modelled: a100, h100, rtx4090
    #[arg(long, value_name = "GPU")]
    model_gpu: Option<String>,
    /// A checkpoint directory, a .gguf file, or a name that `paring fetch` knows [default: the embedded teacher]
    #[arg(long, value_name = "MODEL", conflicts_with = "preset")]
    model: Option<String>,
    /// A published model by name instead, such as llama-3.1-minitron-4b-width
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Teacher of the distillation step: a preset or a model [default: the model itself]
    #[arg(long, value_name = "NAME")]
    teacher: Option<String>,
    /// Sequences at once, and windows of the distillation step
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: u32,
    /// Tokens of a prompt, of a cache that is decoded from, of a window
    #[arg(long, value_name = "N", default_value_t = 2048)]
    context: u32,
    /// Tokens that are made after the prompt
    #[arg(long, value_name = "N", default_value_t = 128)]
    tokens: u32,
    /// How matrices are stored
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: Stored,
    /// Windows of the distillation step that run at once [default: as many as fit the memory]
    #[arg(long, value_name = "N")]
    micro_batch: Option<u32>,
    /// Distillation runs blocks again in the backward instead of keeping their activations
    #[arg(long)]
    recompute: bool,
    /// List the kernels with their work and what limits them
    #[arg(long)]
    kernels: bool,
    /// Say where every figure is from and what is assumed
    #[arg(long)]
    explain: bool,
    /// The students of Llama 3.1 8B against it, beside the speed-ups that their paper published
    #[arg(long)]
    compare_papers: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Stored {
    F32,
    Bf16,
    #[value(name = "q8_0")]
    Q8,
    #[value(name = "q4_0")]
    Q4,
    #[value(name = "q4_1")]
    Q4Min,
}

impl From<Stored> for Weights {
    fn from(stored: Stored) -> Weights {
        match stored {
            Stored::F32 => Weights::F32,
            Stored::Bf16 => Weights::Bf16,
            Stored::Q8 => Weights::Q8_0,
            Stored::Q4 => Weights::Q4_0,
            Stored::Q4Min => Weights::Q4_1,
        }
    }
}

pub(crate) fn run(args: &Bench) -> Result<()> {
    let Some(name) = &args.model_gpu else {
        return Err(Failure::input(format!(
            "`paring bench` predicts times on a GPU by a model: --model-gpu {}; times on this machine's processor are measured by `cargo \
             xtask bench`",
            gpu_names()
        )));
    };
    let gpu = Gpu::named(name).ok_or_else(|| {
        Failure::input(format!("--model-gpu {}: expected {}", paring_checkpoint::shown(name), gpu_names()))
    })?;
    let (json, mut lines) = if args.compare_papers { papers(&gpu)? } else { predictions(args, &gpu)? };
    if args.json {
        return print(&format!("{json}\n"));
    }
    if args.explain {
        lines += &explanation(&gpu);
    }
    print(&labelled(&lines))
}

fn gpu_names() -> String {
    GPUS.map(|g| g.name).join(", ")
}

/// Every line says what it is.
fn labelled(text: &str) -> String {
    text.lines().map(|line| format!("{LABEL} | {line}").trim_end().to_string() + "\n").collect()
}

fn refused(e: paring_gpu_model::Error) -> Failure {
    Failure::input(e)
}

/// A model's name and shape.
struct Subject {
    name: String,
    shape: Shape,
}

impl Subject {
    fn preset(name: &str) -> Option<Subject> {
        Preset::named(name).map(|p| Subject { name: p.name.to_string(), shape: p.shape() })
    }

    fn checkpoint(model: Option<&str>) -> Result<Subject> {
        let source = Source::open(model)?;
        Ok(Subject { name: source.name, shape: shape_of(&source.opened.arch)? })
    }

    fn of(args: &Bench) -> Result<Subject> {
        let Some(name) = &args.preset else { return Subject::checkpoint(args.model.as_deref()) };
        Subject::preset(name).ok_or_else(|| {
            let known = PRESETS.map(|p| p.name).join(", ");
            Failure::input(format!("--preset {}: expected one of {known}", paring_checkpoint::shown(name)))
        })
    }
}

fn shape_of(arch: &Arch) -> Result<Shape> {
    let size = |what: &str, n: usize| {
        u32::try_from(n).map_err(|_| Failure::input(format!("{what} is {n}, which is more than any GPU holds")))
    };
    let layers = arch.layers.iter().map(|l| {
        Ok(LayerShape {
            heads: size("heads", l.heads)?,
            kv_heads: size("kv_heads", l.kv_heads)?,
            ffn: size("ffn", l.ffn)?,
        })
    });
    Ok(Shape {
        vocab: size("vocab", arch.vocab)?,
        hidden: size("hidden", arch.hidden)?,
        head_dim: size("head_dim", arch.head_dim)?,
        tied: arch.tied,
        gated: true,
        layers: layers.collect::<Result<_>>()?,
    })
}

/// Prefill, decoding, generation and, where weights have gradients, a step of distillation.
fn predictions(args: &Bench, gpu: &Gpu) -> Result<(Value, String)> {
    let subject = Subject::of(args)?;
    let weights = Weights::from(args.dtype);
    let teacher = match &args.teacher {
        None => None,
        Some(name) => {
            let found = Subject::preset(name).map_or_else(|| Subject::checkpoint(Some(name)), Ok);
            Some(found.map_err(|e| e.at("--teacher"))?)
        }
    };
    let ask = |work: Work| -> Result<(Prediction, Work)> {
        Ok((predict(gpu, &subject.shape, weights, &work).map_err(refused)?, work))
    };
    let (batch, context) = (args.batch, args.context);
    if args.tokens == 0 {
        return Err(Failure::input("--tokens 0: expected at least 1"));
    }
    let mut all = vec![
        ask(Work::Prefill { sequences: batch, tokens: context })?,
        ask(Work::Decode { sequences: batch, context })?,
        // Time grows linearly with what is in the cache: the middle of what is made is the mean.
        ask(Work::Decode { sequences: batch, context: context.saturating_add(args.tokens / 2) })?,
    ];
    let middle = all.pop();
    if !weights.is_quantised() {
        all.push(distillation(args, gpu, &subject, teacher.as_ref(), weights)?);
    }
    let generate = all.first().zip(middle.as_ref()).map(|((prefill, _), (decode, _))| {
        let seconds = prefill.seconds + f64::from(args.tokens) * decode.seconds;
        (seconds, f64::from(batch) * f64::from(args.tokens) / seconds)
    });

    let params = subject.shape.params();
    let taught = teacher.as_ref().map_or("itself", |t| t.name.as_str());
    let mut text = format!(
        "{} ({}), {} parameters in {}, {} not embedding; teacher: {taught}; on {} ({})\n",
        paring_checkpoint::shown(&subject.name),
        plural(subject.shape.layers.len(), "layer"),
        count(params.total),
        weights.name(),
        count(params.non_embedding),
        gpu.product,
        gpu.name
    );
    let heading = ["work", "time", "tokens/s", "a layer", "of mma peak", "of DRAM", "launches", "memory"];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    rows.extend(all.iter().map(|(p, work)| row(gpu, p, &name_of(work))));
    if let Some((seconds, per_second)) = generate {
        let name = format!("prompt and {} tokens", args.tokens);
        rows.insert(3, vec![name, time(seconds), format!("{per_second:.0}")]);
    }
    text += &table(&rows);
    for (p, work) in all.iter().filter(|(p, _)| !p.memory.fits(gpu)) {
        let (need, have) = (gib(p.memory.total()), gib(gpu.memory_bytes));
        text += &format!("{} does not fit: it takes {need} and the {} has {have}\n", name_of(work), gpu.name);
    }
    if args.kernels {
        for (p, work) in &all {
            text += &format!("{}\n{}", name_of(work), kernels(p));
        }
    }
    let json = json!({
        "label": LABEL, "gpu": gpu.name, "product": gpu.product, "model": subject.name, "teacher": taught,
        "params": params.total, "params_non_embedding": params.non_embedding, "dtype": weights.name(),
        "batch": batch, "context": context, "tokens": args.tokens,
        "generate": generate.map(|(seconds, rate)| json!({"label": LABEL, "seconds": seconds, "tokens_per_second": rate})),
        "predictions": all.iter().map(|(p, work)| prediction_json(gpu, p, work)).collect::<Vec<_>>(),
        "assumptions": explained(gpu),
    });
    Ok((json, text))
}

/// A step of distillation with as many windows at once as fit, or as the flag says.
fn distillation(
    args: &Bench,
    gpu: &Gpu,
    subject: &Subject,
    teacher: Option<&Subject>,
    weights: Weights,
) -> Result<(Prediction, Work)> {
    let work = |micro: u32| Work::Distill {
        windows: args.batch,
        context: args.context,
        micro,
        recompute: args.recompute,
        teacher: Box::new(teacher.unwrap_or(subject).shape.clone()),
    };
    let ask = |micro: u32| -> Result<(Prediction, Work)> {
        Ok((predict(gpu, &subject.shape, weights, &work(micro)).map_err(refused)?, work(micro)))
    };
    if let Some(micro) = args.micro_batch {
        return ask(micro);
    }
    let mut micro = args.batch;
    loop {
        let answer = ask(micro)?;
        if answer.0.memory.fits(gpu) || micro <= 1 {
            return Ok(answer);
        }
        micro = micro.div_ceil(2);
    }
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn name_of(work: &Work) -> String {
    match work {
        Work::Prefill { sequences, tokens } => format!("prefill {sequences} x {tokens}"),
        Work::Decode { sequences, context } => format!("decode {sequences} after {context}"),
        Work::Distill { windows, context, micro, recompute, .. } => {
            let again = if *recompute { ", recomputed" } else { "" };
            format!("distil step {windows} x {context}, {micro} at once{again}")
        }
    }
}

fn row(gpu: &Gpu, p: &Prediction, name: &str) -> Vec<String> {
    let layer = p.layers.first().copied().unwrap_or_default();
    vec![
        name.to_string(),
        time(p.seconds),
        format!("{:.0}", p.tokens / p.seconds),
        time(layer),
        percent(p.flops() / p.seconds / gpu.mma_sync_flops()),
        percent(p.dram_bytes() / p.seconds / gpu.dram_bytes_per_second),
        format!("{:.0}", p.launches()),
        gib(p.memory.total()),
    ]
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn gib(bytes: f64) -> String {
    format!("{:.1} GiB", bytes / f64::from(1 << 30))
}

fn kernels(p: &Prediction) -> String {
    let heading =
        ["part", "operation", "kernel", "launches", "time", "GFLOP", "MB", "shared Mclk", "issue Mclk", "limit"];
    let mut rows = vec![heading.map(str::to_string).to_vec()];
    rows.extend(p.kernels.iter().map(|k| {
        vec![
            k.part.name().to_string(),
            k.op.to_string(),
            k.kernel.to_string(),
            format!("{:.0}", k.launches),
            time(k.seconds),
            format!("{:.2}", k.counts.flops / 1e9),
            format!("{:.1}", k.counts.dram_bytes / 1e6),
            format!("{:.2}", k.counts.shared_clocks / 1e6),
            format!("{:.2}", k.counts.issue_clocks / 1e6),
            k.limit.name().to_string(),
        ]
    }));
    table(&rows)
}

fn prediction_json(gpu: &Gpu, p: &Prediction, work: &Work) -> Value {
    let kernels = p.kernels.iter().map(|k| {
        json!({
            "part": k.part.name(), "operation": k.op, "kernel": k.kernel, "launches": k.launches, "seconds": k.seconds,
            "flops": k.counts.flops, "dram_bytes": k.counts.dram_bytes, "l2_bytes": k.counts.l2_bytes, "mma": k.counts.mma,
            "ldmatrix": k.counts.ldmatrix, "shared_clocks": k.counts.shared_clocks, "issue_clocks": k.counts.issue_clocks,
            "limit": k.limit.name(),
        })
    });
    json!({
        "label": LABEL, "work": name_of(work), "seconds": p.seconds, "gpu_seconds": p.gpu_seconds, "host_seconds": p.host_seconds,
        "wait_seconds": p.wait_seconds, "gap_seconds": p.gap_seconds, "layer_seconds": p.layers, "tokens_per_second": p.tokens / p.seconds, "flops": p.flops(),
        "dram_bytes": p.dram_bytes(), "launches": p.launches(), "fits": p.memory.fits(gpu),
        "memory_bytes": {
            "weights": p.memory.weights, "teacher": p.memory.teacher, "training": p.memory.training, "cache": p.memory.cache,
            "activations": p.memory.activations, "total": p.memory.total(),
        },
        "kernels": kernels.collect::<Vec<_>>(),
    })
}

fn batches(r: &Comparison) -> String {
    match (r.teacher_batch, r.student_batch) {
        (teacher, student) if teacher == student => teacher.to_string(),
        (teacher, student) => format!("{teacher}, students {student}"),
    }
}

/// The papers' students beside their teacher.
fn papers(gpu: &Gpu) -> Result<(Value, String)> {
    let rows = compare_papers(gpu).map_err(refused)?;
    let [width, depth] = PUBLISHED;
    let mut text = format!(
        "{} and {} against {TEACHER} on {}; made tokens per second of a batch that is read, then continued in step\n",
        width.student, depth.student, gpu.product
    );
    let heading = ["dtype", "batch", "prompt", "made", "teacher/s", "width/s", "depth/s", "width x", "depth x", "fits"];
    let mut cells = vec![heading.map(str::to_string).to_vec()];
    cells.extend(rows.iter().map(|r| {
        let [a, b] = r.speed_ups();
        let mut row = vec![r.weights.name().to_string(), batches(r), r.prompt.to_string(), r.made.to_string()];
        row.extend(r.tokens_per_second.map(|t| format!("{t:.0}")));
        row.extend([format!("{a:.2}"), format!("{b:.2}"), if r.fits == [true; 3] { "yes" } else { "no" }.into()]);
        row
    }));
    text += &table(&cells);
    let means = mean_speed_ups(&rows);
    let heading = ["geometric mean over the lengths", "batch", "width x", "depth x"].map(str::to_string).to_vec();
    let mean = |(r, [a, b]): &(Comparison, [f64; 2])| {
        vec![r.weights.name().to_string(), batches(r), format!("{a:.2}"), format!("{b:.2}")]
    };
    let mut cells: Vec<Vec<String>> = std::iter::once(heading).chain(means.iter().map(mean)).collect();
    let published = [width, depth].map(|p| format!("{:.1}", p.speed_up));
    cells.push(["published, FP8".into(), "32, students 64".into()].into_iter().chain(published).collect());
    text += &table(&cells);
    text += "`published` was measured by its authors (arXiv 2408.11796, figure 10); how the prediction differs:\n";
    text += &DIFFERENCES.map(|d| format!("- {d}\n")).concat();
    let object = |r: &Comparison| {
        let [a, b] = r.speed_ups();
        json!({
            "label": LABEL, "dtype": r.weights.name(), "teacher_batch": r.teacher_batch, "student_batch": r.student_batch,
            "prompt": r.prompt, "made": r.made, "tokens_per_second": r.tokens_per_second, "fits": r.fits,
            "speed_up_width": a, "speed_up_depth": b,
        })
    };
    let published = PUBLISHED.map(|p| json!({"student": p.student, "speed_up": p.speed_up}));
    let means = means.iter().map(|(r, [a, b])| {
        json!({
            "label": LABEL, "dtype": r.weights.name(), "teacher_batch": r.teacher_batch, "student_batch": r.student_batch,
            "speed_up_width": a, "speed_up_depth": b,
        })
    });
    let json = json!({
        "label": LABEL, "gpu": gpu.name, "product": gpu.product, "teacher": TEACHER, "published": published,
        "differences": DIFFERENCES, "means": means.collect::<Vec<_>>(), "rows": rows.iter().map(object).collect::<Vec<_>>(),
    });
    Ok((json, text))
}

fn explained(gpu: &Gpu) -> Value {
    let list = assumptions(gpu);
    let list = list.iter().map(|a| json!({"name": a.name, "value": a.value, "unit": a.unit, "reason": a.reason}));
    json!({"sources": gpu.sources, "constants": list.collect::<Vec<_>>()})
}

fn explanation(gpu: &Gpu) -> String {
    let mut text = format!("{}\n", gpu.product);
    for source in gpu.sources {
        text += &format!("- {source}\n");
    }
    text += "constants\n";
    for a in assumptions(gpu) {
        text += &format!("- {} = {} {}: {}\n", a.name, a.value, a.unit, a.reason);
    }
    text
}
