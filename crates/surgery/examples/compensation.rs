//! Every compensation against plain slicing, as a table: `compensation [--windows 64] [--eval-windows 24] [--only "CUT: METHOD"]... MODEL
//! CALIBRATION EVAL...`. Perplexity over the first windows of 512 tokens of every text, calibrated on the first windows of the calibration text.
//! `--only "CUT:"` takes all methods of a cut; `FITS=1` prints every fit to stderr.
#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]
use paring_calibrate::Importance;
use paring_cpu::Cpu;
use paring_exec::Ctx;
use paring_importance::ImportanceSet;
use paring_model::{Batch, Model, Opened};
use paring_prune::{Anchor, KvGroups, Options as Choice, Plan, Residual, Ridge, Scores, Target};
use paring_surgery::{
    Aim, Bench, Checkpoint, Cut, Fitted, Mode, Options, Readers, Rotated, Text, Weighting, Weights, basis, compensate,
    dims, keep_energy, model, sizes,
};
use paring_tensor::DType;
use paring_text::{Tokenizer, pack};
use std::{path::Path, time::Instant};

const CONTEXT: usize = 512;
const GROUP: usize = 4;
/// The ridge of the specification's measurements.
const FIXED: Ridge = Ridge { strength: 0.01, anchor: Anchor::Zero };

struct Setting<'a> {
    cpu: &'a Cpu,
    opened: &'a Opened,
    text: Text,
    scores: Scores,
    evals: Vec<Vec<Vec<u32>>>,
    windows: usize,
}

/// How the hidden axis is cut.
#[derive(Clone, Copy, PartialEq)]
enum Axis {
    Channels,
    Rotated(Weighting),
}

fn perplexity(cpu: &Cpu, model: &Model, windows: &[Vec<u32>]) -> f64 {
    let slices: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
    paring_eval::likelihood(cpu, model, &slices, GROUP, &mut |_| ()).unwrap().perplexity
}

fn importance(cpu: &Cpu, model: &Model, windows: &[Vec<u32>]) -> ImportanceSet {
    let mut importance = Importance::new(model.arch()).unwrap();
    for chunk in windows.chunks(GROUP) {
        let batch = Batch::pack(chunk.iter().map(Vec::as_slice));
        importance.begin(&batch);
        model.hidden(&mut Ctx::infer(cpu).observe(&mut importance), &batch, None).unwrap();
    }
    importance.into_set()
}

fn scores(set: &ImportanceSet) -> Scores {
    let layers = || 0..set.geometry().layers.len();
    Scores {
        hidden: set.hidden(),
        ffn: layers().map(|l| set.ffn(l).unwrap()).collect(),
        heads: layers().map(|l| set.heads(l).unwrap()).collect(),
        kv_groups: layers().map(|l| set.kv_groups(l).unwrap()).collect(),
        block_influence: set.block_influence(),
    }
}

/// What a row of the table does.
#[derive(Clone, Copy)]
struct Method {
    name: &'static str,
    axis: Axis,
    gains: bool,
    options: Option<Options>,
    residual: Residual,
    kv_groups: KvGroups,
}

impl Method {
    /// Heads and groups go, nothing is merged.
    const fn new(name: &'static str, axis: Axis, gains: bool, options: Option<Options>) -> Self {
        Method { name, axis, gains, options, residual: Residual::None, kv_groups: KvGroups::Drop }
    }
}

fn finish<W: Weights>(s: &Setting<'_>, cut: &mut Cut<'_, W>, m: &Method) -> (Model, Vec<Fitted>) {
    let bench = Bench { backend: s.cpu, dtype: DType::F32, threads: s.cpu.threads(), text: &s.text };
    if m.gains {
        keep_energy(cut, &bench, &mut |_| Ok(())).unwrap();
    }
    let fits = m.options.map(|o| compensate(cut, &bench, &o, &mut |_| Ok(())).unwrap()).unwrap_or_default();
    (model(cut, s.cpu, DType::F32).unwrap(), fits)
}

fn run(s: &Setting<'_>, target: &Target, m: &Method) -> (Model, Vec<Fitted>) {
    let teacher = Checkpoint(s.opened);
    let bench = Bench { backend: s.cpu, dtype: DType::F32, threads: s.cpu.threads(), text: &s.text };
    match m.axis {
        Axis::Channels => {
            let choice = Choice { residual: m.residual, kv_groups: m.kv_groups, ..Choice::default() };
            let plan = Plan::choose_with(&sizes(&s.opened.arch), &s.scores, target, &choice).unwrap();
            finish(s, &mut Cut::new(teacher, &plan), m)
        }
        Axis::Rotated(weighting) => {
            let basis = basis(teacher, &bench, weighting, &mut |_| Ok(())).unwrap();
            let rotated = Rotated::new(teacher, &basis, s.cpu).unwrap();
            let hidden = (0..basis.size()).map(|i| -(i as f64)).collect();
            let scores = Scores { hidden, ..s.scores.clone() };
            let plan = Plan::choose(&dims(rotated.arch()).unwrap(), &scores, target).unwrap();
            finish(s, &mut Cut::new(rotated, &plan), m)
        }
    }
}

fn main() {
    let mut only = Vec::new();
    let mut files = Vec::new();
    let (mut windows, mut eval_windows) = (64, 24);
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        match a.as_str() {
            "--only" => only.push(args.next().unwrap()),
            "--eval-windows" => eval_windows = args.next().unwrap().parse().unwrap(),
            "--windows" => windows = args.next().unwrap().parse().unwrap(),
            _ => files.push(a),
        }
    }
    let cpu = Cpu::new(None).unwrap();
    let opened = paring_model::open(Path::new(&files[0])).unwrap();
    let tokenizer = Tokenizer::from_dir(&opened.path).unwrap();
    let text = |file: &String, n: usize| pack(&tokenizer, &[file.into()], CONTEXT, Some(n)).unwrap();
    let calibration = text(&files[1], windows);
    let evals: Vec<Vec<Vec<u32>>> = files[2..].iter().map(|f| text(f, eval_windows)).collect();
    let teacher = Model::load(&opened.arch, opened.source(), &cpu, DType::F32).unwrap();
    let begin = Instant::now();
    let set = importance(&cpu, &teacher, &calibration);
    eprintln!("importance: {:.0} s", begin.elapsed().as_secs_f64());
    let slices: Vec<&[u32]> = calibration.iter().map(Vec::as_slice).collect();
    let s = Setting {
        cpu: &cpu,
        opened: &opened,
        text: Text::new(&slices, GROUP),
        scores: scores(&set),
        evals,
        windows: calibration.len(),
    };
    println!("| cut | method | tokens | seconds | parameters | perplexity A / B | of slicing |");
    println!("|---|---|---|---|---|---|---|");
    let of: Vec<f64> = s.evals.iter().map(|e| perplexity(&cpu, &teacher, e)).collect();
    println!("| none | teacher | | | {} | {} | |", opened.arch.n_params(), figures(&of));
    drop(teacher);

    let sequential =
        Options { mode: Mode::Sequential, aim: Aim::Stream, readers: Readers::Slice, block_map: true, ridge: None };
    let once = Options { mode: Mode::Teacher, aim: Aim::Map, ..sequential };
    let fit = Options { readers: Readers::Fit, ..sequential };
    let method = Method::new;
    let channels = Axis::Channels;
    let width = [
        method("slicing", channels, false, None),
        method("least squares, ridge 0.01", channels, false, Some(Options { ridge: Some(FIXED), ..once })),
        method("least squares", channels, false, Some(once)),
        method("sequential, to the map", channels, false, Some(Options { aim: Aim::Map, ..sequential })),
        method("sequential, to the stream", channels, false, Some(sequential)),
        method("sequential, to the stream, readers", channels, false, Some(fit)),
    ];
    let energy = Axis::Rotated(Weighting::Energy);
    let readers = Axis::Rotated(Weighting::Readers);
    let hidden = [
        method("slicing", channels, false, None),
        method("channels, norm gains", channels, true, None),
        method("channels, sequential, gains", channels, true, Some(Options { readers: Readers::Gains, ..sequential })),
        method("channels, sequential, readers", channels, true, Some(fit)),
        method("rotated", energy, false, None),
        method("rotated, norm gains", energy, true, None),
        method("rotated, sequential", energy, true, Some(sequential)),
        method("rotated, sequential, to the map, readers", energy, true, Some(Options { aim: Aim::Map, ..fit })),
        method("rotated, sequential, readers", energy, true, Some(fit)),
        method("rotated by readers, sequential, readers", readers, true, Some(fit)),
    ];
    let merged = |name, residual, options| Method { residual, ..method(name, channels, false, options) };
    let heads = [
        &width[..],
        &[
            merged("residuals as in the paper", Residual::Paper, None),
            merged("residuals as in LaCo", Residual::Laco, None),
            merged("residuals, outputs summed", Residual::Sum, None),
            merged("outputs summed, sequential, to the stream", Residual::Sum, Some(sequential)),
        ],
    ]
    .concat();
    let mean = |name, options| Method { kv_groups: KvGroups::Mean, ..method(name, channels, false, options) };
    let groups = [
        method("slicing", channels, false, None),
        method("sequential, to the stream", channels, false, Some(sequential)),
        mean("mean of neighbours", None),
        mean("mean of neighbours, sequential, to the stream", Some(sequential)),
    ];
    let depth = [
        method("slicing", channels, false, None),
        method("block map", channels, false, Some(once)),
        method("sequential, to the stream", channels, false, Some(sequential)),
        method("sequential, to the stream, readers", channels, false, Some(fit)),
    ];
    let mut cuts: Vec<(String, Target, &[Method])> = Vec::new();
    for ffn in [1024, 896, 768] {
        cuts.push((format!("FFN {ffn}"), Target { ffn: Some(ffn), ..Target::default() }, &width));
    }
    for n in [6, 3] {
        cuts.push((format!("heads {n}"), Target { heads: Some(n), ..Target::default() }, &heads));
    }
    // The mean keeps all query heads, dropping keeps those of the groups that stay.
    cuts.push(("groups 1".into(), Target { kv_groups: Some(1), ..Target::default() }, &groups));
    cuts.push(("groups 2".into(), Target { kv_groups: Some(2), ..Target::default() }, &groups[..2]));
    for h in [540, 504, 450] {
        cuts.push((format!("hidden {h}"), Target { hidden: Some(h), ..Target::default() }, &hidden));
    }
    for drop in [3, 6, 10] {
        let layers = Some(opened.arch.layers.len().saturating_sub(drop));
        cuts.push((format!("depth -{drop}"), Target { layers, ..Target::default() }, &depth));
    }
    for (cut, target, methods) in cuts {
        let mut plain: Option<Vec<f64>> = None;
        for m in methods {
            let label = format!("{cut}: {}", m.name);
            if !only.is_empty()
                && !only.iter().any(|o| label == *o || (o.ends_with(':') && label.starts_with(o.as_str())))
            {
                continue;
            }
            let begin = Instant::now();
            let (student, fits) = run(&s, &target, m);
            let seconds = begin.elapsed().as_secs_f64();
            let values: Vec<f64> = s.evals.iter().map(|e| perplexity(&cpu, &student, e)).collect();
            let part = plain.as_ref().map_or(String::new(), |p| {
                values.iter().zip(p).map(|(v, p)| format!("{:.3}", v / p)).collect::<Vec<_>>().join(" / ")
            });
            let tokens = if m.axis == channels && !m.gains && m.options.is_none() { 0 } else { s.windows * CONTEXT };
            println!(
                "| {cut} | {} | {tokens} | {seconds:.0} | {} | {} | {part} |",
                m.name,
                student.arch().n_params(),
                figures(&values)
            );
            for f in fits.iter().filter(|_| std::env::var_os("FITS").is_some()) {
                eprintln!("{}: {:?} sliced {:.4} fitted {:.4}", f.name, f.ridge, f.sliced, f.fitted);
            }
            plain.get_or_insert(values);
        }
    }
}

fn figures(values: &[f64]) -> String {
    values.iter().map(|v| format!("{v:.2}")).collect::<Vec<_>>().join(" / ")
}
