//! Sweeps over layers against models that are built without those layers, to the bit; and the layer runs that they take.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{backends, cpu, model, random_ids, random_values};
use paring_calibrate::depth::{Cost, Depth, Error, Scores, block_removals, cost, greedy_cost};
use paring_eval::{Choice, Criterion, LmLoss, Question, Task};
use paring_exec::{Ctx, Observer, Site, Tap};
use paring_importance::{BlockInfluence, Distance, RowProducts, SpanInfluence};
use paring_model::{Arch, Batch, Model, ParamSpec, params};
use paring_ops::Backend;
use paring_tensor::{DType, Tensor};
use std::ops::Range;

const LAYERS: usize = 5;

fn arch(layers: usize) -> Arch {
    let mut config = common::config(true);
    config["num_hidden_layers"] = layers.into();
    Arch::from_config(&config).unwrap()
}

/// The values of a model, less those of some layers, and what it is made of then.
fn without(values: &[(ParamSpec, Vec<f32>)], removed: &[usize]) -> (Arch, Vec<(ParamSpec, Vec<f32>)>) {
    let arch = arch(LAYERS - removed.len());
    let kept = values.iter().filter(|(p, _)| p.layer.is_none_or(|l| !removed.contains(&l)));
    let values = params(&arch).into_iter().zip(kept).map(|(p, (_, v))| (p, v.clone())).collect();
    (arch, values)
}

/// What a criterion says of a whole model, one unit after the other.
fn judge(backend: &dyn Backend, model: &Model, criterion: &dyn Criterion) -> Vec<f64> {
    let mut sums: Vec<f64> = Vec::new();
    for unit in 0..criterion.units() {
        let batch = Batch::pack(criterion.sequences(unit));
        let x = model.hidden(&mut Ctx::infer(backend), &batch, None).unwrap().tensor;
        let values = criterion.measure(backend, model, unit, &x).unwrap();
        sums.resize(values.len(), 0.0);
        sums.iter_mut().zip(values).for_each(|(s, v)| *s += v);
    }
    criterion.scores(&sums)
}

/// What a criterion says of a model that is built without some layers.
fn brute(backend: &dyn Backend, values: &[(ParamSpec, Vec<f32>)], gone: &[usize], by: &dyn Criterion) -> Vec<f64> {
    let (arch, values) = without(values, gone);
    judge(backend, &model(backend, &arch, &values, DType::F32), by)
}

fn bits(scores: &[f64]) -> Vec<u64> {
    scores.iter().map(|v| v.to_bits()).collect()
}

/// Windows of several lengths, some so short that they have to run alone.
fn windows() -> Vec<Vec<u32>> {
    [40, 33, 3, 70, 17, 28, 16, 2].iter().enumerate().map(|(i, &n)| random_ids(301, n, i as u64)).collect()
}

/// A few questions, with contexts of several lengths.
fn task() -> Task {
    let question = |i: usize, context: usize| {
        let shared = random_ids(301, context, 50 + i as u64);
        let choice = |c: usize| {
            let rest = random_ids(301, 1 + (i + c) % 4, (100 + 10 * i + c) as u64);
            Choice { ids: [&shared[..], &rest].concat(), context, characters: 3 + c }
        };
        Question::new(&arch(LAYERS), (0..3).map(choice).collect(), i % 3).unwrap()
    };
    let contexts = [20, 1, 60, 7, 33, 5, 28, 40];
    Task::new(contexts.iter().enumerate().map(|(i, &n)| question(i, n)).collect()).unwrap()
}

#[test]
fn shared_prefixes_give_what_models_without_the_layers_give() {
    let values = random_values(&arch(LAYERS), 1);
    let (windows, task) = (windows(), task());
    let slices: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
    let loss = LmLoss::new(&slices);
    for (name, backend) in backends() {
        let backend = &*backend;
        let model = model(backend, &arch(LAYERS), &values, DType::F32);
        for (what, by) in [("loss", &loss as &dyn Criterion), ("task", &task)] {
            let mut depth = Depth::new(backend, &model, by);
            let all: Vec<usize> = (1..LAYERS).collect();
            let blocks = depth.blocks(&all, None).unwrap();
            assert_eq!(bits(&blocks.baseline), bits(&judge(backend, &model, by)), "{name}, {what}");
            for n in all {
                for (first, got) in blocks.of_size(n).unwrap().iter().enumerate() {
                    let gone: Vec<usize> = (first..first + n).collect();
                    let want = brute(backend, &values, &gone, by);
                    assert_eq!(bits(got), bits(&want), "{name}, {what} without {gone:?}");
                }
            }
            // Greedy, by trying everything.
            let greedy = depth.greedy(LAYERS - 1, None).unwrap();
            let mut gone: Vec<usize> = Vec::new();
            for (&layer, got) in greedy.order.iter().zip(&greedy.scores) {
                let tries: Vec<(usize, Vec<f64>)> = (0..LAYERS)
                    .filter(|l| !gone.contains(l))
                    .map(|l| (l, brute(backend, &values, &[&gone[..], &[l]].concat(), by)))
                    .collect();
                let mut best = &tries[0];
                for t in &tries[1..] {
                    if by.better(&t.1, &best.1) {
                        best = t;
                    }
                }
                assert_eq!((layer, bits(got)), (best.0, bits(&best.1)), "{name}, {what} without {gone:?}");
                gone.push(layer);
            }
            assert_eq!(gone.len(), LAYERS - 1);
            // The first step may be known.
            assert_eq!(depth.greedy(3, blocks.of_size(1)).unwrap().scores, greedy.scores[..3]);
        }
    }
}

/// Documents of a window are judged as texts of their own.
#[test]
fn documents_of_a_window_do_not_see_one_another() {
    let values = random_values(&arch(LAYERS), 1);
    let windows = windows();
    let documents: Vec<Vec<&[u32]>> = windows.iter().map(|w| vec![&w[..w.len() / 3], &w[w.len() / 3..]]).collect();
    let apart: Vec<&[u32]> = documents.iter().flatten().copied().collect();
    let whole: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
    let masked = LmLoss::of_documents(documents);
    assert_eq!(masked.units(), windows.len());
    for (name, backend) in backends() {
        let model = model(&*backend, &arch(LAYERS), &values, DType::F32);
        let nll = |loss: &LmLoss<'_>| -> Vec<f64> {
            let scores = Depth::new(&*backend, &model, loss).removals(&[1..2, 0..3]).unwrap();
            scores.baseline.into_iter().chain(scores.removed).map(|s| s[0]).collect()
        };
        let (got, want, seen) = (nll(&masked), nll(&LmLoss::new(&apart)), nll(&LmLoss::new(&whole)));
        for ((got, want), seen) in got.iter().zip(&want).zip(&seen) {
            assert!((got - want).abs() < 1e-5, "{name}: {got}, apart {want}");
            assert!(1e-4 < (got - seen).abs(), "{name}: {got}, and {seen} with documents in sight of one another");
        }
    }
}

#[test]
fn neither_the_memory_nor_the_threads_change_a_bit() {
    let values = random_values(&arch(LAYERS), 1);
    let (windows, task) = (windows(), task());
    let slices: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
    let loss = LmLoss::new(&slices);
    for by in [&loss as &dyn Criterion, &task] {
        let run = |threads, memory| {
            let backend = cpu(threads);
            let model = model(&backend, &arch(LAYERS), &values, DType::F32);
            let mut runs = Runs::default();
            let mut spans = SpanInfluence::new(LAYERS, &[1, 3]).unwrap();
            let blocks = {
                let mut depth = Depth::new(&backend, &model, by).memory(memory).observe(&mut runs);
                depth.blocks(&[1, 2], Some(&mut spans)).unwrap()
            };
            (blocks, spans, runs.0)
        };
        let (want, want_spans, most) = run(1, 0);
        let mut forwards = vec![most];
        for memory in [0, 400_000, 560_000, u64::MAX] {
            for threads in [1, 2, 3] {
                let (got, spans, runs) = run(threads, memory);
                assert_eq!(got, want, "{threads} threads, {memory} bytes");
                assert_eq!(spans, want_spans, "{threads} threads, {memory} bytes");
                forwards.push(runs);
            }
        }
        // They did run together.
        forwards.sort_unstable();
        forwards.dedup();
        assert!(3 <= forwards.len() && forwards.last() == Some(&most), "{forwards:?}");
    }
}

/// Counts layer runs.
#[derive(Default)]
struct Runs(u64);

impl Observer for Runs {
    fn activation(&mut self, _: &dyn Backend, site: Site, _: &Tensor) -> paring_ops::Result<()> {
        self.0 += u64::from(site.tap == Tap::BlockIn);
        Ok(())
    }
}

#[test]
fn layer_runs_are_as_many_as_the_account_says() {
    let backend = cpu(1);
    let model = model(&backend, &arch(LAYERS), &random_values(&arch(LAYERS), 1), DType::F32);
    let windows = [random_ids(301, 20, 1), random_ids(301, 30, 2)];
    let slices: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
    let loss = LmLoss::new(&slices);
    // Both windows run together; then each on its own.
    for (memory, chunks) in [(u64::MAX, 1), (0, 2)] {
        let count = |work: &mut dyn FnMut(&mut Depth<'_>)| {
            let (mut runs, mut told) = (Runs::default(), 0);
            let mut tell = |done| {
                told = done;
                true
            };
            work(&mut Depth::new(&backend, &model, &loss).memory(memory).observe(&mut runs).progress(&mut tell));
            assert_eq!(told, runs.0 * 2 / chunks, "as many as were told");
            runs.0 / chunks
        };
        let l = LAYERS as u64;
        let single = block_removals(LAYERS, &[1]).unwrap();
        let got = count(&mut |d| drop(d.blocks(&[1], None).unwrap()));
        let want = Cost { layer_runs: l + l * (l - 1) / 2, naive_layer_runs: l + l * (l - 1), judged: l + 1 };
        assert_eq!((got, cost(LAYERS, &single, true)), (want.layer_runs, want));

        let all: Vec<usize> = (1..LAYERS).collect();
        let blocks = cost(LAYERS, &block_removals(LAYERS, &all).unwrap(), true);
        assert_eq!(count(&mut |d| drop(d.blocks(&all, None).unwrap())), blocks.layer_runs);
        // 5 + (4+3+2+1+0) + (3+2+1+0) + (2+1+0) + (1+0) against 5 + 5 * 4 + 4 * 3 + 3 * 2 + 2 * 1.
        assert_eq!((blocks.layer_runs, blocks.naive_layer_runs, blocks.judged), (25, 45, 15));

        // Streams cost nothing beside a loss, and a forward alone.
        let mut spans = SpanInfluence::new(LAYERS, &[1, 2, 4]).unwrap();
        assert_eq!(count(&mut |d| drop(d.blocks(&all, Some(&mut spans)).unwrap())), blocks.layer_runs);
        assert_eq!(count(&mut |d| d.influence(&mut spans).unwrap()), l);

        for n in 1..LAYERS {
            let want = greedy_cost(LAYERS, n, false).layer_runs;
            assert_eq!(count(&mut |d| drop(d.greedy(n, None).unwrap())), want, "{n} layers");
            let known = vec![vec![1.0]; LAYERS];
            let want = greedy_cost(LAYERS, n, true).layer_runs;
            assert_eq!(count(&mut |d| drop(d.greedy(n, Some(&known)).unwrap())), want, "{n} layers, first known");
        }
        // 4 + 10, then 3 + 6.
        assert_eq!(greedy_cost(LAYERS, 2, false).layer_runs, 23);
        assert_eq!(greedy_cost(LAYERS, 2, false).naive_layer_runs, 5 * 4 + 4 * 3);
        // Only what is in front of the last removal runs, when the whole model is not asked for.
        assert_eq!(cost(LAYERS, std::slice::from_ref(&(1..3)), false).layer_runs, 1 + 2);
    }
}

#[test]
fn streams_turn_as_whole_forwards_say() {
    /// Keeps the residual stream into every layer, and out of the last one.
    #[derive(Default)]
    struct Streams(Vec<Vec<f32>>);
    impl Observer for Streams {
        fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> paring_ops::Result<()> {
            if site.tap == Tap::BlockIn || (site.tap == Tap::BlockOut && site.layer == LAYERS - 1) {
                self.0.push(backend.download(x)?);
            }
            Ok(())
        }
    }
    let windows = [random_ids(301, 20, 1), random_ids(301, 33, 2), random_ids(301, 5, 3)];
    let slices: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
    let sizes = [1, 2, 4, 3];
    for (name, backend) in backends() {
        let backend = &*backend;
        let model = model(backend, &arch(LAYERS), &random_values(&arch(LAYERS), 1), DType::F32);
        let mut got = SpanInfluence::new(LAYERS, &sizes).unwrap();
        Depth::new(backend, &model, &LmLoss::new(&slices)).influence(&mut got).unwrap();
        let mut want = vec![vec![(0.0, 0.0); LAYERS]; LAYERS];
        let mut single = BlockInfluence::new(LAYERS);
        for ids in &slices {
            let mut streams = Streams::default();
            model.hidden(&mut Ctx::infer(backend).observe(&mut streams), &Batch::pack([*ids]), None).unwrap();
            let hidden = model.arch().hidden;
            for n in sizes {
                for first in 0..=LAYERS - n {
                    let (x, y) = (&streams.0[first], &streams.0[first + n]);
                    let dot = |a: &[f32], b: &[f32]| -> f64 {
                        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                    };
                    let rows: Vec<f64> = x
                        .chunks(hidden)
                        .zip(y.chunks(hidden))
                        .map(|(x, y)| dot(x, y) / (dot(x, x) * dot(y, y)).sqrt())
                        .collect();
                    let mean = |f: &dyn Fn(f64) -> f64| rows.iter().map(|&c| f(c)).sum::<f64>() / rows.len() as f64;
                    want[n][first].0 += mean(&|c| 1.0 - c) / 3.0;
                    want[n][first].1 += mean(&|c| c.min(1.0).acos() / std::f64::consts::PI) / 3.0;
                    if n == 1 {
                        let products: Vec<RowProducts> = x
                            .chunks(hidden)
                            .zip(y.chunks(hidden))
                            .map(|(x, y)| RowProducts { xy: dot(x, y), xx: dot(x, x), yy: dot(y, y) })
                            .collect();
                        single.observe_products(first, &products).unwrap();
                    }
                }
            }
        }
        for (i, n) in sizes.into_iter().enumerate() {
            let (cosine, angular) = (got.cosine(i), got.angular(i));
            assert_eq!((cosine.len(), angular.len()), (LAYERS - n + 1, LAYERS - n + 1));
            for first in 0..=LAYERS - n {
                let want = want[n][first];
                let off = (cosine[first] - want.0).abs().max((angular[first] - want.1).abs());
                assert!(off < 1e-9, "{name}: {n} layers from {first}: {off}");
            }
        }
        for (got, want) in got.cosine(0).iter().zip(single.scores(Distance::Cosine)) {
            assert!((got - want).abs() < 1e-12, "{name}");
        }
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    let backend = cpu(1);
    let values = random_values(&arch(LAYERS), 1);
    let model_of = |values: &[(ParamSpec, Vec<f32>)]| model(&backend, &arch(LAYERS), values, DType::F32);
    let model = model_of(&values);
    let windows = [random_ids(301, 20, 1)];
    let slices: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
    let loss = LmLoss::new(&slices);
    let mut depth = Depth::new(&backend, &model, &loss);
    for n in [0, LAYERS, LAYERS + 1] {
        assert!(matches!(depth.blocks(&[n], None), Err(Error::Size { got, layers: LAYERS }) if got == n));
        assert!(matches!(depth.greedy(n, None), Err(Error::Size { got, layers: LAYERS }) if got == n));
    }
    let removal = |first: usize, end: usize| Range { start: first, end };
    for r in [removal(2, 2), removal(3, 2), removal(4, 6), removal(0, LAYERS), removal(9, 10)] {
        assert!(matches!(depth.removals(std::slice::from_ref(&r)), Err(Error::Removal { .. })), "{r:?}");
    }
    let none = LmLoss::new(&[]);
    assert!(matches!(Depth::new(&backend, &model, &none).removals(&[]), Err(Error::NoUnits)));
    // Stopped by the caller, at once and later.
    for stop in [1, 7] {
        let mut calls = 0;
        let mut go_on = |_| {
            calls += 1;
            calls < stop
        };
        let got = Depth::new(&backend, &model, &loss).progress(&mut go_on).blocks(&[1], None);
        assert!(matches!(got, Err(Error::Stopped)));
        assert_eq!(calls, stop);
    }
    // A broken weight is found by the baseline, and a sweep without one says which layers were gone.
    let mut values = values;
    let at = values.iter().position(|(p, _)| p.name == "model.layers.1.mlp.up_proj.weight").unwrap();
    values[at].1[0] = f32::NAN;
    let broken = model_of(&values);
    let error = Depth::new(&backend, &broken, &loss).greedy(1, None).unwrap_err();
    assert!(matches!(&error, Error::NotFinite { removed, unit: 0, .. } if *removed == [0]), "{error}");
    assert!(error.to_string().contains("without layers [0], window or question 0 scores NaN"), "{error}");
    let scores = Depth::new(&backend, &model, &loss).removals(&[]).unwrap();
    assert_eq!(scores, Scores { baseline: Some(judge(&backend, &model, &loss)), removed: vec![] });
}
