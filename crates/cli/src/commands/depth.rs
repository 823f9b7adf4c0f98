//! What `paring importance --depth` measures: the model without some of its layers, by loss and on a task; the papers' figures 8 and 9 as
//! data (arXiv 2408.11796).
use crate::{
    args_depth::{DepthFlags, DepthSweep},
    data::{Windows, spread},
    describe::table,
    error::{Failure, Result},
    progress::Progress,
    session::Session,
    signals::Stop,
    source::Source,
    tasks::{self, NamedTask},
    workplace::refuse_existing,
};
use paring_calibrate::depth::{self, Blocks, Cost, Depth, DepthResults, Greedy, block_removals, cost, greedy_cost};
use paring_checkpoint::atomic;
use paring_eval::{Criterion, LmLoss, TaskScore};
use paring_importance::SpanInfluence;
use paring_model::{Arch, Model, split_documents};
use serde_json::{Map, Value, json};
use std::{path::PathBuf, time::Instant};

/// Windows of the sweeps unless `--depth-windows` says otherwise.
const WINDOWS: usize = 16;

/// The flags, checked against the model before any work.
#[derive(Debug)]
pub(crate) struct DepthPlan {
    /// Sizes of blocks whose loss is measured; empty for none.
    loss: Vec<usize>,
    /// Sizes of blocks of which it is measured how far they turn the residual stream.
    influence: Vec<usize>,
    greedy: Option<usize>,
    windows: Windows,
    /// Tokens of every window's documents, where these do not see one another.
    documents: Option<Vec<Vec<usize>>>,
    task: Option<(NamedTask, Vec<usize>)>,
    out: Option<PathBuf>,
}

/// What was measured: for the importance file, for `--json`, for people.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) results: DepthResults,
    pub(crate) json: Value,
    pub(crate) text: String,
}

impl DepthPlan {
    /// What `flags` ask for; `None` when they ask for nothing. `documents` has the tokens of every window's documents, which do not see one
    /// another then.
    pub(crate) fn new(
        flags: &DepthFlags,
        source: &Source,
        windows: &Windows,
        documents: Option<&[Vec<usize>]>,
    ) -> Result<Option<Self>> {
        let asked = |sweep| flags.depth.contains(&sweep);
        if flags.depth.is_empty() && flags.depth_task.is_none() {
            let given = [
                (flags.block_sizes.is_some(), "--block-sizes"),
                (flags.depth_greedy.is_some(), "--depth-greedy"),
                (flags.depth_windows.is_some(), "--depth-windows"),
                (flags.depth_task_rows.is_some(), "--depth-task-rows"),
                (flags.depth_out.is_some(), "--depth-out"),
            ];
            return match given.iter().find(|(given, _)| *given) {
                Some((_, flag)) => Err(Failure::input(format!(
                    "{flag} says how to sweep over layers, but not what to measure; give --depth lm-loss,blocks,greedy or --depth-task FILE"
                ))),
                None => Ok(None),
            };
        }
        let layers = source.opened.arch.layers.len();
        let sizes = match &flags.block_sizes {
            Some(list) => size_list(list)?,
            None => (1..layers).collect(),
        };
        block_removals(layers, &sizes).map_err(|e| Failure::input(e).at("--block-sizes"))?;
        let mut loss = if asked(DepthSweep::Blocks) { sizes.clone() } else { Vec::new() };
        if asked(DepthSweep::LmLoss) && !loss.contains(&1) {
            block_removals(layers, &[1]).map_err(|e| Failure::input(e).at("--depth lm-loss"))?;
            loss.insert(0, 1);
        }
        let greedy = asked(DepthSweep::Greedy).then(|| flags.depth_greedy.unwrap_or((layers / 2).max(1)));
        if let Some(n) = greedy.filter(|&n| n == 0 || layers <= n) {
            let e = depth::Error::Size { got: n, layers };
            return Err(Failure::input(e).at("--depth-greedy"));
        }
        if greedy.is_none() && flags.depth_greedy.is_some() {
            return Err(Failure::input("--depth-greedy is for --depth greedy"));
        }
        if flags.depth_windows == Some(0) {
            return Err(Failure::input("--depth-windows 0: expected at least 1"));
        }
        if let Some(out) = &flags.depth_out {
            refuse_existing(out)?;
        }
        let task =
            flags.depth_task.as_ref().map(|file| tasks::load(file, source, flags.depth_task_rows)).transpose()?;
        let influence = if asked(DepthSweep::Influence) { sizes.clone() } else { loss.clone() };
        let most = flags.depth_windows.unwrap_or(WINDOWS);
        Ok(Some(DepthPlan {
            loss,
            influence,
            greedy,
            windows: windows.spread(most),
            documents: documents.map(|d| spread(d, most)),
            task: task.map(|task| (task, sizes)),
            out: flags.depth_out.clone(),
        }))
    }

    /// Layer runs over the windows, and over the task.
    fn costs(&self, layers: usize) -> (Cost, Cost) {
        let removals = |sizes: &[usize]| block_removals(layers, sizes).unwrap_or_default();
        let mut loss = Cost::default();
        if !self.loss.is_empty() {
            loss += cost(layers, &removals(&self.loss), true);
        } else if !self.influence.is_empty() {
            loss += Cost { layer_runs: layers as u64, naive_layer_runs: layers as u64, judged: 0 };
        }
        if let Some(n) = self.greedy {
            loss += greedy_cost(layers, n, self.loss.contains(&1));
        }
        let task = self.task.as_ref().map(|(_, sizes)| cost(layers, &removals(sizes), true));
        (loss, task.unwrap_or_default())
    }

    /// Floating-point operations, for the forecast.
    pub(crate) fn flops(&self, arch: &Arch) -> f64 {
        let head = 2.0 * (arch.vocab * arch.hidden) as f64;
        let layer = (arch.forward_flops_per_token(self.windows.longest()) - head) / arch.layers.len().max(1) as f64;
        let (loss, task) = self.costs(arch.layers.len());
        let asked: usize = self.task.iter().map(|(t, _)| tokens(&t.task)).sum();
        let of =
            |tokens: f64, cost: Cost, head: f64| tokens * (cost.layer_runs as f64 * layer + cost.judged as f64 * head);
        // Only the rows of the choices go through the head.
        of(self.windows.tokens() as f64, loss, head) + of(asked as f64, task, 0.0)
    }

    /// Bytes beside the model, for the forecast.
    pub(crate) fn bytes(&self) -> u64 {
        depth::MEMORY
    }

    /// Measures.
    pub(crate) fn run(&self, session: &Session, model: &Model, stop: &Stop) -> Result<Measured> {
        let begin = Instant::now();
        let layers = model.arch().layers.len();
        let (loss_cost, task_cost) = self.costs(layers);
        let windows = &self.windows.windows;
        let loss = match &self.documents {
            Some(documents) => {
                let apart = windows.iter().zip(documents).map(|(w, d)| split_documents(w, d)).collect::<Option<_>>();
                let wrong = || Failure::work("documents do not add up to their windows; please report this");
                LmLoss::of_documents(apart.ok_or_else(wrong)?)
            }
            None => LmLoss::new(&self.windows.slices()),
        };
        let mut results = DepthResults::default();
        let mut progress = Progress::new("depth", "layer runs", loss_cost.layer_runs * windows.len() as u64, 0);
        {
            let mut tell = |done| {
                progress.set(done, "");
                !stop.asked()
            };
            let mut depth = Depth::new(session.backend(), model, &loss).progress(&mut tell);
            let failed = |e| failure(e, stop);
            let mut spans = SpanInfluence::new(layers, &self.influence)?;
            if !self.loss.is_empty() {
                results.loss = Some(depth.blocks(&self.loss, Some(&mut spans)).map_err(failed)?);
            } else if !self.influence.is_empty() {
                depth.influence(&mut spans).map_err(failed)?;
            }
            results.influence = (!self.influence.is_empty()).then_some(spans);
            if let Some(n) = self.greedy {
                let single = results.loss.as_ref().and_then(|l| l.of_size(1));
                results.greedy = Some(depth.greedy(n, single).map_err(failed)?);
            }
        }
        progress.finish();
        if let Some((task, sizes)) = &self.task {
            let total = task_cost.layer_runs * task.task.len() as u64;
            let mut progress = Progress::new(&task.name, "layer runs", total, 0);
            let mut tell = |done| {
                progress.set(done, "");
                !stop.asked()
            };
            let mut depth = Depth::new(session.backend(), model, &task.task).progress(&mut tell);
            results.task = Some(depth.blocks(sizes, None).map_err(|e| failure(e, stop))?);
            progress.finish();
        }
        let mut total = loss_cost;
        total += task_cost;
        let json = self.json(&results, &loss, total, begin.elapsed().as_secs_f64());
        if let Some(out) = &self.out {
            atomic::write_file(out, |file| file.write_all(format!("{json:#}\n").as_bytes()))?;
        }
        Ok(Measured { text: text(&results, self.task.as_ref().map(|(t, _)| t.name.as_str())), results, json })
    }

    fn json(&self, results: &DepthResults, loss: &LmLoss<'_>, cost: Cost, seconds: f64) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| map.insert(name.into(), value);
        put("counted", "layers from 0; `first` and `last` are both removed; `x` is the figures' axis: the last removed layer, from 1".into());
        put("windows", loss.units().into());
        put("predicted_tokens", loss.predicted().into());
        if let Some(blocks) = &results.loss {
            let nll = |scores: &[f64]| first(scores, &["nll"]);
            put("baseline", nll(&blocks.baseline).into());
            put("figure8", by_size(blocks, &nll));
        }
        if let Some(greedy) = &results.greedy {
            put("greedy", greedy_json(greedy));
        }
        if let (Some(blocks), Some((task, _))) = (&results.task, &self.task) {
            let n = task.task.len() as u64;
            let scores = |scores: &[f64]| match serde_json::to_value(TaskScore::new(scores, n)) {
                Ok(Value::Object(fields)) => fields,
                _ => Map::new(),
            };
            let figure =
                json!({"task": task.name, "baseline": scores(&blocks.baseline), "blocks": by_size(blocks, &scores)});
            put("figure9", figure);
        }
        if let Some(spans) = &results.influence {
            let of = |(i, &size): (usize, &usize)| json!({"size": size, "points": turns(spans, i, size)});
            put("influence", spans.sizes().iter().enumerate().map(of).collect());
        }
        put("layer_runs", cost.layer_runs.into());
        put("naive_layer_runs", cost.naive_layer_runs.into());
        put("seconds", seconds.into());
        Value::Object(map)
    }
}

/// Tokens that run for a task.
fn tokens(task: &dyn Criterion) -> usize {
    (0..task.units()).flat_map(|unit| task.sequences(unit)).map(<[u32]>::len).sum()
}

fn failure(e: depth::Error, stop: &Stop) -> Failure {
    match e {
        depth::Error::Stopped => stop.failure("nothing was written"),
        depth::Error::Model(e) => e.into(),
        depth::Error::NotFinite { .. } => Failure::work(e),
        e => Failure::input(e),
    }
}

/// The first scores under their names.
fn first(scores: &[f64], names: &[&str]) -> Map<String, Value> {
    names.iter().zip(scores).map(|(name, score)| ((*name).to_string(), json!(score))).collect()
}

/// `first`, `last` and `x` of a block, with `more`.
fn point(first: usize, size: usize, more: Map<String, Value>) -> Value {
    let mut map = Map::new();
    map.insert("first".into(), first.into());
    map.insert("last".into(), (first + size - 1).into());
    map.insert("x".into(), (first + size).into());
    map.extend(more);
    Value::Object(map)
}

fn by_size(blocks: &Blocks, fields: &dyn Fn(&[f64]) -> Map<String, Value>) -> Value {
    let of = |(size, scores): &(usize, Vec<Vec<f64>>)| {
        let points: Vec<Value> = scores.iter().enumerate().map(|(i, s)| point(i, *size, fields(s))).collect();
        json!({"size": size, "points": points})
    };
    blocks.sizes.iter().map(of).collect()
}

fn turns(spans: &SpanInfluence, i: usize, size: usize) -> Vec<Value> {
    let pairs = spans.cosine(i).into_iter().zip(spans.angular(i)).enumerate();
    pairs.map(|(at, (cosine, angular))| point(at, size, first(&[cosine, angular], &["cosine", "angular"]))).collect()
}

fn greedy_json(greedy: &Greedy) -> Value {
    let step = |(i, scores): (usize, &Vec<f64>)| {
        let mut gone = greedy.order[..=i].to_vec();
        gone.sort_unstable();
        json!({"layer": greedy.order[i], "removed": gone, "nll": scores.first()})
    };
    greedy.scores.iter().enumerate().map(step).collect()
}

/// What people want to see: each layer, the best block of each size, the greedy order.
fn text(results: &DepthResults, task: Option<&str>) -> String {
    let mut out = String::new();
    let nll = |scores: &[f64]| scores.first().map_or(String::new(), |nll| format!("{:.4}", nll));
    let span = |first: usize, size: usize| match size {
        1 => first.to_string(),
        _ => format!("{first}..={}", first + size - 1),
    };
    if let Some(blocks) = &results.loss {
        if let Some(single) = blocks.of_size(1) {
            let mut rows =
                vec![vec!["without layer".to_string(), "nll".into()], vec!["none".into(), nll(&blocks.baseline)]];
            rows.extend(single.iter().enumerate().map(|(l, s)| vec![l.to_string(), nll(s)]));
            out += &table(&rows);
        }
        let mut rows = vec![vec!["least missed block".to_string(), "layers".into(), "nll".into()]];
        for (size, scores) in &blocks.sizes {
            let best = (0..scores.len()).min_by(|&a, &b| scores[a][0].total_cmp(&scores[b][0])).unwrap_or(0);
            rows.push(vec![size.to_string(), span(best, *size), nll(&scores[best])]);
        }
        out += &table(&rows);
    }
    if let Some(greedy) = &results.greedy {
        let mut rows = vec![vec!["greedily gone".to_string(), "layer".into(), "nll".into()]];
        let steps = greedy.order.iter().zip(&greedy.scores).enumerate();
        rows.extend(steps.map(|(i, (layer, s))| vec![(i + 1).to_string(), layer.to_string(), nll(s)]));
        out += &table(&rows);
    }
    if let (Some(blocks), Some(name)) = (&results.task, task) {
        let accuracy = |s: &[f64]| s.first().map_or(String::new(), |a| format!("{a:.4}"));
        let mut rows = vec![
            vec![format!("{name}: best block"), "layers".into(), "accuracy".into()],
            vec!["none".into(), String::new(), accuracy(&blocks.baseline)],
        ];
        for (size, scores) in &blocks.sizes {
            // The first of the highest.
            let best = (0..scores.len()).fold(0, |b, i| if scores[b][0] < scores[i][0] { i } else { b });
            rows.push(vec![size.to_string(), span(best, *size), accuracy(&scores[best])]);
        }
        out += &table(&rows);
    }
    out
}

/// `1..=8,16`: numbers and inclusive ranges, ascending and each once.
fn size_list(text: &str) -> Result<Vec<usize>> {
    let mut sizes = crate::target::number_list("--block-sizes", "size", "1..=8,16", text)?;
    sizes.sort_unstable();
    sizes.dedup();
    Ok(sizes)
}
