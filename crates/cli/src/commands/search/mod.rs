//! `paring search`: candidates under a budget, scored as views of the sorted teacher, halved down to a few that learn for a while.
mod budget; // what the student may take
mod report; // what was found, and why
mod rungs; // the rounds of a search over models

pub(crate) use report::{Choice, VERSION};

use crate::{
    args::{Basis, Compensate},
    args_search::{LatencyOf, Score, Search},
    calibration::Calibration,
    compensation::Bed,
    coverage::Shard,
    data::{Windows, windows},
    embedded::Part,
    error::{Failure, Result},
    importance_file::{self, Loaded},
    origin::{Conditions, Origin},
    preflight::{Forecast, block_bytes, inference_bytes, training_bytes, weight_bytes},
    progress::Progress,
    recipe,
    session::Session,
    signals::Stop,
    source::Source,
    workplace::{Workplace, refuse_existing},
};
use budget::{Clock, Limit};
use paring_checkpoint::{atomic, read_text};
use paring_importance::{Extras, ImportanceSet, NamedArray};
use paring_optim::{AdamW, Schedule};
use paring_prune::{Dims, Space, Widths};
use paring_search::{
    Distillation, End, Latency, Losses, Nested, Phase, Prices, Proxy, Ranking, RepairWidths, Rung, dims_of, halve,
    repair,
};
use paring_surgery::{Checkpoint, Rotated, Weights, arch_of, basis_cost};
use paring_tensor::DType;
use paring_train::{TrainConfig, micro_windows};
use report::Found;
use rungs::{Kind, Models, Saved, Watch};
use serde_json::json;
use std::{cell::RefCell, path::PathBuf, time::Instant};

const CALIBRATION_WINDOWS: usize = 64;
const EVAL_WINDOWS: usize = 24;
const RUNGS: &str = "512x512,128x2048,32x8192";
const FINALISTS: usize = 4;
const DISTILL_TOKENS: u64 = 32_768;
const TOLERANCE: f64 = 0.05;
const DIVISOR: usize = 128;
/// Windows of a step of the finalists' distillation.
const PER_STEP: usize = 8;
/// One in so many windows is held out when no held-out text is given.
const HELD_OUT: usize = 20;

/// Memory that Gram matrices may take at a time: those of a small model are gathered in one pass.
const GRAM_BYTES: u64 = 1 << 30;

/// Bytes of the Gram matrices of all layers.
fn gram_bytes(arch: &paring_model::Arch) -> u64 {
    arch.layers.iter().map(|l| 4 * (l.ffn as u64).pow(2)).sum()
}

/// The parts of the text: none of what finalists are measured on is seen before.
struct Texts {
    calibration: Windows,
    scoring: Windows,
    training: Windows,
    heldout: Windows,
}

impl Texts {
    fn new(args: &Search, source: &Source, scoring_tokens: u64) -> Result<Texts> {
        let calibration = args.calibration_windows.unwrap_or(CALIBRATION_WINDOWS);
        let evaluated = args.eval_windows.unwrap_or(EVAL_WINDOWS);
        for (flag, n) in [("eval-windows", evaluated), ("calibration-windows", calibration)] {
            if n == 0 {
                return Err(Failure::input(format!("--{flag} 0: expected at least 1")));
            }
        }
        let mut training = windows(&args.data, source, Part::Distillation, None)?;
        let heldout = match &args.heldout {
            Some(file) => {
                let data =
                    crate::args::Data { text: vec![file.clone()], context: args.data.context, ..Default::default() };
                windows(&data, source, Part::Heldout, None)?
            }
            None if training.windows.len() < 2 => {
                return Err(Failure::input(
                    "the text gives one window, too few to search on one and measure on another; give more text, a smaller --context, or \
                     --heldout FILE",
                ));
            }
            None => {
                let all = training.windows.len();
                let last = training.windows.split_off(all - (all / HELD_OUT).max(1));
                Windows { windows: last, hash: training.hash.clone() }
            }
        };
        let calibration = training.spread(calibration);
        // Candidates are repaired on the calibration windows, so they are scored on others, as long as there are any.
        let others: Vec<Vec<u32>> =
            training.windows.iter().filter(|w| !calibration.windows.contains(w)).cloned().collect();
        let others = Windows { windows: others, hash: training.hash.clone() };
        let pool = if others.windows.is_empty() { &calibration } else { &others };
        let needed = scoring_tokens.div_ceil(pool.longest() as u64) as usize;
        let scoring = pool.spread(needed.max(1));
        Ok(Texts { scoring, calibration, training, heldout: heldout.spread(evaluated) })
    }
}

/// Everything that a search knows before it starts.
struct Job<'a> {
    args: &'a Search,
    session: &'a Session,
    source: &'a Source,
    dims: Dims,
    dtype: DType,
    context: usize,
    loss_rungs: Vec<(usize, u64)>,
    finalists: usize,
    distill_tokens: u64,
    texts: Texts,
    repaired: bool,
    /// Whether the residual stream is cut in a rotated basis.
    rotated: bool,
    hash: String,
    /// Importance that was measured before.
    given: Option<ImportanceSet>,
    /// Layers that go before others.
    first_to_go: Option<Vec<usize>>,
}

pub(crate) fn run(args: &Search) -> Result<()> {
    let begin = Instant::now();
    let session = Session::new(&args.common)?;
    let dtype = session.dtype(DType::BF16)?;
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("search.json"));
    refuse_existing(&out)?;
    let source = Source::open(args.model.as_deref())?;
    let dims = dims_of(&source.opened.arch).map_err(Failure::from)?;
    let loss_rungs = rungs::parse(args.searching.rungs.as_deref().unwrap_or(RUNGS))?;
    let finalists = args.searching.finalists.unwrap_or(FINALISTS);
    let tolerance = args.searching.tolerance.unwrap_or(TOLERANCE);
    if !(0.0..1.0).contains(&tolerance) {
        return Err(Failure::input(format!("--tolerance {tolerance}: expected a part from 0 to below 1")));
    }
    let divisor = args.searching.divisor.unwrap_or(DIVISOR);
    if divisor == 0 {
        return Err(Failure::input("--divisor 0: expected at least 1"));
    }
    if let Some(lr) = args.searching.lr.filter(|lr| !(0.0 < *lr && *lr <= 1.0)) {
        return Err(Failure::input(format!("--lr {lr}: expected above 0 and at most 1")));
    }
    let mutable = budget::mutable(args)?;
    let texts = Texts::new(args, &source, loss_rungs.last().map_or(0, |r| r.1))?;
    let context = texts.training.longest();
    let distill_tokens = args.searching.distill_tokens.unwrap_or(DISTILL_TOKENS);
    let repaired = args.searching.compensate.unwrap_or(Compensate::LeastSquares) != Compensate::None;
    let hash = source.hash()?;
    let given = args.importance.as_ref().map(|file| importance(file, &hash)).transpose()?;
    let first_to_go = match (&args.searching.drop_order, &given) {
        (Some(text), _) => Some(drop_order(text, dims.layers)?),
        (None, Some((_, depth))) => greedy_order(depth, dims.layers)?,
        (None, None) => None,
    };
    let given = given.map(|(set, _)| set);
    let job = Job {
        args,
        session: &session,
        source: &source,
        dims,
        dtype,
        context,
        loss_rungs,
        finalists,
        distill_tokens,
        texts,
        repaired,
        rotated: args.searching.basis == Some(Basis::Rotated),
        hash,
        given,
        first_to_go,
    };
    // The same clock when a search goes on: another one would have other candidates.
    let clock_file = crate::workplace::beside(&out)?.join("latency.json");
    let clock = job.clock(&clock_file)?;
    let limit = Limit::new(&args.budget, &dims, dtype, context, &clock)?;
    let mut space = Space::new(&dims, mutable, Widths::fine(divisor))?;
    if job.rotated {
        space = space.rotated();
    }
    let enough = job.loss_rungs.first().map_or(1, |r| r.0);
    let candidates = limit.within(&space, tolerance, enough, &clock)?;
    let single = limit.single_axis(&dims, mutable, job.rotated, &clock);

    let forecast = job.forecast(&candidates, &single);
    if args.work.dry_run {
        let seconds = forecast.seconds(&session)?;
        let mut json = forecast.json(seconds);
        json["candidates_in_budget"] = json!(candidates.len());
        json["latency"] = clock.json();
        let text = format!(
            "{}{} candidates within {}\n{}\n",
            forecast.text(seconds),
            candidates.len(),
            limit.name,
            clock.label()
        );
        return session.print(&json, &text);
    }
    forecast.check(&session, &out, args.work.force)?;
    let stop = Stop::listen()?;
    let place = Workplace::open(&out, &recipe::identity(args)?)?;
    if let Clock::Measured { latency, .. } = &clock
        && !clock_file.exists()
    {
        let text = serde_json::to_string(latency).map_err(|e| Failure::work(format!("latency: {e}")))?;
        atomic::write_bytes(&clock_file, text.as_bytes())?;
    }
    session.say(format!("{} candidates within {}; {}", candidates.len(), limit.name, clock.label()));
    job.run(begin, place, &stop, &limit, &clock, &candidates, &single)
}

/// The file of `--importance`, which has to be of the model with this hash, and what it says about layers.
fn importance(file: &std::path::Path, hash: &str) -> Result<(ImportanceSet, Vec<NamedArray>)> {
    let (set, _) = importance_file::load(file, hash)?;
    let Loaded { depth, .. } = importance_file::read(file)?;
    Ok((set, depth))
}

/// `--drop-order`: layers of a model that has `layers`, each once.
fn drop_order(text: &str, layers: usize) -> Result<Vec<usize>> {
    let mut order = Vec::new();
    for part in text.split(',') {
        let wrong = || {
            let part = paring_checkpoint::shown(part);
            let want = format!("expected numbers below {layers}, each once");
            Failure::input(format!("--drop-order: `{part}` is no layer that is left; {want}"))
        };
        let layer: usize = part.trim().parse().map_err(|_| wrong())?;
        if layers <= layer || order.contains(&layer) {
            return Err(wrong());
        }
        order.push(layer);
    }
    Ok(order)
}

/// The order in which greedy search removed layers, if `paring importance --depth greedy` left one in the file.
fn greedy_order(depth: &[NamedArray], layers: usize) -> Result<Option<Vec<usize>>> {
    let Some(found) = depth.iter().find(|a| a.name == "depth.greedy.order") else { return Ok(None) };
    let list: Vec<String> = found.values.iter().map(ToString::to_string).collect();
    Ok(Some(drop_order(&list.join(","), layers)?))
}

/// All layers: first those that go first, then the others by block influence.
fn completed(first: &[usize], block_influence: &[f64]) -> Vec<usize> {
    let mut rest: Vec<usize> = (0..block_influence.len()).filter(|l| !first.contains(l)).collect();
    rest.sort_by(|&a, &b| block_influence[a].total_cmp(&block_influence[b]).then(b.cmp(&a)));
    [first, &rest].concat()
}

impl Job<'_> {
    /// Seconds of shapes: of a GPU that is modelled, measured by an earlier start, or measured now.
    fn clock(&self, file: &std::path::Path) -> Result<Clock> {
        let of = self.args.budget.latency_of.unwrap_or(LatencyOf::Decode);
        if let Some(gpu) = &self.args.budget.model_gpu {
            return Clock::gpu(gpu, self.dtype, of, self.context);
        }
        let device = format!("{} in {}", self.session.device.describe(), self.dtype);
        if file.exists() {
            let shown = paring_checkpoint::shown_path(file);
            let latency = serde_json::from_str(&read_text(file, 1 << 16)?)
                .map_err(|e| Failure::input(format!("{shown}: {e}; remove it to begin again")))?;
            return Ok(Clock::Measured { latency, device });
        }
        let phase = if of == LatencyOf::Decode { Phase::Decode } else { Phase::Prefill };
        let arch = &self.source.opened.arch;
        let latency = Latency::measure(self.session.backend(), arch, &self.dims, self.dtype, phase, self.context)?;
        Ok(Clock::Measured { latency, device })
    }

    /// Widths of `down_proj` that are repaired: all that candidates have.
    fn repaired_widths(&self, candidates: &[Dims], single: &[(&'static str, Dims)]) -> Vec<usize> {
        let all = candidates.iter().chain(single.iter().map(|(_, d)| d)).map(|d| d.ffn);
        let mut widths: Vec<usize> = all.filter(|f| *f < self.dims.ffn).collect();
        widths.sort_unstable();
        widths.dedup();
        widths
    }

    fn forecast(&self, candidates: &[Dims], single: &[(&'static str, Dims)]) -> Forecast {
        let teacher = &self.source.opened.arch;
        let average = |f: &dyn Fn(&paring_model::Arch) -> f64| {
            let sample: Vec<f64> =
                candidates.iter().step_by((candidates.len() / 32).max(1)).map(|d| f(&arch_of(teacher, d))).collect();
            sample.iter().sum::<f64>() / sample.len().max(1) as f64
        };
        let student = average(&|a| a.forward_flops_per_token(self.context));
        let scored: u64 = self.loss_rungs.iter().map(|r| r.0.min(candidates.len()) as u64 * r.1).sum();
        let finalists = self.finalists as u64;
        let evaluated = 2 * finalists * self.texts.heldout.tokens();
        let calibrated = if self.repaired { 2 } else { 1 } * self.texts.calibration.tokens();
        let trained = finalists * self.distill_tokens;
        let gram = if self.repaired { gram_bytes(teacher) } else { 0 };
        let t = teacher.forward_flops_per_token(self.context);
        let widths = if self.repaired { self.repaired_widths(candidates, single) } else { Vec::new() };
        let repaired: usize =
            widths.iter().map(|f| f * self.dims.hidden * self.dims.layers * self.dtype.bytes(1)).sum();
        let largest = candidates.iter().max_by_key(|d| paring_prune::count_params(d).total);
        let micro = micro_windows(teacher, self.context).min(PER_STEP);
        let training = match (largest, self.distill_tokens) {
            (Some(d), 1..) => training_bytes(&arch_of(teacher, d), self.dtype, self.context, micro),
            _ => 0,
        };
        let mut forecast = Forecast {
            params: average(&|a| a.n_params() as f64) as u64,
            disk: 64 << 20,
            tokens: calibrated + scored + trained + evaluated,
            flops: calibrated as f64 * (t + gram as f64 / 2.0)
                + scored as f64 * student
                + trained as f64 * (t + 3.0 * student)
                + evaluated as f64 * student,
            ..Forecast::default()
        };
        let turned = paring_model::Arch { tied: teacher.tied && !self.rotated, ..teacher.clone() };
        let sorted = weight_bytes(&turned, self.dtype) + repaired as u64;
        let run = inference_bytes(teacher, self.context * micro_windows(teacher, self.context));
        // A factor in f64 for each thread that solves a layer.
        let solve = self.session.device.threads() as u64 * gram / teacher.layers.len().max(1) as u64 * 5;
        let mut stages = vec![sorted + run + gram.min(GRAM_BYTES) + solve, sorted + run + training];
        if self.rotated {
            let (bytes, flops) = basis_cost(teacher, self.texts.calibration.tokens(), self.context);
            forecast.flops += flops;
            stages.push(bytes + run + block_bytes(teacher));
        }
        forecast.memory(&stages);
        forecast
    }

    fn importance(&self, place: &Workplace, stop: &Stop, hash: &str) -> Result<ImportanceSet> {
        let path = place.path("importance.safetensors");
        if path.exists() {
            return Ok(importance_file::load(&path, hash)?.0);
        }
        let model = self.source.load(self.session.backend(), self.dtype)?;
        let windows = &self.texts.calibration.windows;
        let calibration = Calibration { session: self.session, model: &model, windows, stop };
        let set = calibration.run(Extras::default(), None)?;
        let texts = &self.texts.calibration;
        let settings = Conditions::new(texts.longest(), "spread", false, self.dtype, Extras::default());
        let origin = Origin::new(hash.into(), texts.hash.clone(), settings, Shard::WHOLE, texts.windows.len());
        importance_file::save(&path, &set, &origin, &[])?;
        Ok(set)
    }

    fn distillation(&self) -> Distillation {
        let per_step = PER_STEP.min(self.texts.training.windows.len().max(1));
        let steps = self.distill_tokens.div_ceil((per_step * self.context) as u64);
        let lr = self.args.searching.lr.unwrap_or(1e-4);
        let config = TrainConfig {
            schedule: Schedule { peak: lr, floor: 0.1 * lr, warmup: (steps / 20).min(100), total: steps },
            adamw: AdamW::default(),
            decay_vectors: false,
            clip: 1.0,
            dtype: self.dtype,
            moments: DType::F32,
            recompute: false,
        };
        let micro = micro_windows(&self.source.opened.arch, self.context).clamp(1, per_step);
        Distillation { config, steps, per_step, micro, seed: self.session.seed }
    }

    /// The sorted teacher, repaired for all widths.
    fn nested<'b>(
        &'b self,
        teacher: &dyn Weights,
        ranking: &Ranking,
        widths: Vec<usize>,
        stop: &Stop,
    ) -> Result<Nested<'b>> {
        let longest = self.context.max(self.texts.heldout.longest());
        let mut nested = Nested::new(teacher, ranking.clone(), self.session.backend(), self.dtype, longest)?;
        if !self.repaired {
            return Ok(nested);
        }
        let layers = self.dims.layers as u64;
        let mut progress = Progress::new("least squares", "layers", layers, 0);
        let widths = RepairWidths {
            ffn: widths,
            strength: 0.01,
            gram_bytes: GRAM_BYTES as usize,
            threads: self.session.device.threads(),
        };
        let windows = &self.texts.calibration.windows;
        let batch = micro_windows(&self.source.opened.arch, self.context);
        let done = repair(&mut nested, windows, batch, &widths, &mut |layers| {
            // The passes over the text before the first layer say nothing of how long the rest will take.
            if 0 < layers {
                progress.set(layers as u64, "");
            }
            !stop.asked()
        })?;
        progress.finish();
        if done { Ok(nested) } else { Err(stop.failure("the search goes on with the same command")) }
    }

    fn run(
        &self,
        begin: Instant,
        place: Workplace,
        stop: &Stop,
        limit: &Limit,
        clock: &Clock,
        candidates: &[Dims],
        single: &[(&'static str, Dims)],
    ) -> Result<()> {
        let hash = self.hash.clone();
        let measured = if self.given.is_none() { Some(self.importance(&place, stop, &hash)?) } else { None };
        let set = self.given.as_ref().or(measured.as_ref()).ok_or_else(|| Failure::work("no importance"))?;
        let mut scores = importance_file::scores(set, &self.args.scores.options()?)?;
        let checkpoint = Checkpoint(&self.source.opened);
        let rotated = match self.rotated {
            true => {
                let windows = &self.texts.calibration.windows[..];
                let basis = Bed { session: self.session, dtype: self.dtype, windows, stop }.basis(&checkpoint)?;
                // A direction is worth its energy.
                scores.hidden = basis.values().to_vec();
                Some(Rotated::new(&checkpoint, &basis, self.session.backend())?)
            }
            false => None,
        };
        let teacher: &dyn Weights = rotated.as_ref().map_or(&checkpoint, |r| r);
        let of = Dims { tied: teacher.arch().tied, ..self.dims };
        let dropping = self.first_to_go.as_ref().map(|first| completed(first, &scores.block_influence));
        let ranking = Ranking::new(&of, scores, dropping)?;
        let widths = self.repaired_widths(candidates, single);
        let nested = self.nested(teacher, &ranking, widths, stop)?;
        let proxy = if self.args.searching.score == Some(Score::Kl) { Proxy::Kl } else { Proxy::Nll };
        let mut losses = Losses::new(nested, self.texts.scoring.windows.clone(), proxy)?;

        let state_file = place.path("state.json");
        let saved = Saved::load(&state_file)?;
        let first_windows = losses.windows_of(self.loss_rungs.first().map_or(0, |r| r.1));
        let prices = match &saved {
            Some(saved) => saved.prices,
            None => self.prices(&mut losses, &ranking, candidates, first_windows)?,
        };
        let saved = saved.unwrap_or_default();
        let mut kinds = vec![Kind::Mass];
        let mut list = vec![Rung { name: rungs::MASS.into(), candidates: candidates.len() }];
        for &(n, tokens) in &self.loss_rungs {
            kinds.push(Kind::Loss(losses.windows_of(tokens)));
            list.push(Rung { name: format!("{tokens} tokens"), candidates: n });
        }
        let last_loss = list.last().map(|r| r.name.clone()).unwrap_or_default();
        if 0 < self.finalists {
            kinds.push(Kind::Distil);
            list.push(Rung { name: rungs::DISTILLED.into(), candidates: self.finalists });
        }
        let (finalists, mut state) = (RefCell::new(saved.finalists), saved.state);
        let mut watch = Watch {
            path: state_file,
            rungs: &list,
            begin,
            before: saved.seconds,
            budget: self.args.searching.budget_seconds.map(|s| s as f64),
            stop,
            prices,
            finalists: &finalists,
            progress: None,
        };
        let mut models = Models {
            losses,
            candidates,
            kinds,
            prices,
            finalists: &finalists,
            teacher,
            training: &self.texts.training,
            heldout: &self.texts.heldout,
            distillation: self.distillation(),
            stop,
        };
        let end = halve(candidates.len(), &list, &mut state, &mut models, &mut |state| watch.look(state))?;
        if let Some((_, progress)) = watch.progress.take() {
            progress.finish();
        }
        if end == End::Stopped {
            return Err(stop.failure("the search goes on with the same command"));
        }
        // Time that is up is up for these too.
        let last_windows = models.losses.windows_of(self.loss_rungs.last().map_or(0, |r| r.1));
        let mut baselines = Vec::new();
        for (axis, d) in single.iter().filter(|_| state.cut_off.is_none()) {
            baselines.push(((*axis).to_string(), *d, models.losses.loss(d, last_windows)?));
        }
        let finalists = finalists.borrow();
        let found = Found {
            teacher: &self.source.opened.arch,
            dims: &self.dims,
            rotated: self.rotated,
            teacher_hash: &hash,
            limit: &limit.name,
            dtype: self.dtype,
            context: self.context,
            candidates,
            state: &state,
            finalists: &finalists,
            single_axis: &baselines,
            last_loss: &last_loss,
            prices: &prices,
            clock,
            ranking: &ranking,
            score: if proxy == Proxy::Kl { "KL to the teacher, nats" } else { "loss, nats per token" },
            seconds: watch.seconds(),
        };
        let json = found.json();
        atomic::write_bytes(place.out(), format!("{json:#}\n").as_bytes())?;
        let text = found.text(&place.out().display().to_string());
        place.close()?;
        self.session.print(&json, &text)
    }

    /// What importance costs on every axis: each alone is cut to a middle width.
    fn prices(
        &self,
        losses: &mut Losses<'_>,
        ranking: &Ranking,
        candidates: &[Dims],
        windows: usize,
    ) -> Result<Prices> {
        let teacher = losses.loss(&self.dims, windows)?;
        let mut rises = [None; 4];
        for (rise, probe) in rises.iter_mut().zip(Prices::probes(&self.dims, candidates)) {
            if let Some(probe) = probe {
                *rise = Some((losses.loss(&probe, windows)? - teacher, ranking.mass(&probe)));
            }
        }
        Ok(Prices::measured(rises))
    }
}
