//! Every definition of importance against a brute force in f64 over the activations that the model shows, on every backend: the ones that
//! `fixtures/golden` has no values for. And what a window's statistics must not depend on.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{backends, config, cpu, model, random_ids, random_values};
use paring_calibrate::Measure;
use paring_exec::{Ctx, Observer, Site, Tap};
use paring_importance::{
    Agg, Aggregation, Arrays, Distance, Extras, FfnBy, HeadsBy, HiddenBy, ImportanceSet, ScoreOptions, Scores,
};
use paring_model::{Arch, Batch, Model, ParamSpec};
use paring_ops::{Backend, Result};
use paring_tensor::{DType, Tensor};
use std::collections::BTreeMap;

const ALL: Extras = Extras { contribution: true, taylor: true };

fn arch() -> Arch {
    Arch::from_config(&config(true)).unwrap()
}

fn windows(arch: &Arch) -> Vec<Vec<u32>> {
    [40, 23, 64, 31].iter().map(|&n| random_ids(arch.vocab, n, n as u64)).collect()
}

fn measured(
    backend: &dyn Backend,
    model: &Model,
    extras: Extras,
    windows: &[Vec<u32>],
    documents: Option<&[usize]>,
) -> ImportanceSet {
    let mut measure = Measure::new(backend, model, extras).unwrap();
    windows.iter().for_each(|w| measure.window(w, documents).unwrap());
    measure.into_set()
}

/// Everything that a run shows.
#[derive(Default)]
struct Shown(BTreeMap<(usize, Tap), Vec<f64>>);

impl Observer for Shown {
    fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> Result<()> {
        let values = backend.download(x)?.into_iter().map(f64::from);
        self.0.entry((site.layer, site.tap)).or_default().extend(values);
        Ok(())
    }
}

/// The activations of one window, whose documents are run one by one.
fn shown(backend: &dyn Backend, model: &Model, documents: &[&[u32]]) -> Shown {
    let mut shown = Shown::default();
    for &document in documents {
        model.hidden(&mut Ctx::infer(backend).observe(&mut shown), &Batch::pack([document]), None).unwrap();
    }
    shown
}

fn aggregate(agg: Agg, values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    match agg {
        Agg::Mean => values.iter().map(|v| v.abs()).sum::<f64>() / n,
        Agg::L2 => values.iter().map(|v| v * v).sum::<f64>().sqrt(),
        Agg::Var => values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n,
    }
}

/// The score of `value`, a function of a row, over the rows of every window.
fn over(runs: &[Shown], at: (usize, Tap), columns: usize, how: Aggregation, value: &dyn Fn(&[f64]) -> f64) -> f64 {
    let one = |run: &Shown| aggregate(how.seq, &run.0[&at].chunks(columns).map(value).collect::<Vec<_>>());
    aggregate(how.batch, &runs.iter().map(one).collect::<Vec<_>>())
}

fn norm(x: impl IntoIterator<Item = f64>) -> f64 {
    x.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Scores by the printed formulas. `weights` finds a matrix by its name.
fn brute(
    arch: &Arch,
    weights: &dyn Fn(&str) -> Vec<f64>,
    runs: &[Shown],
    how: Aggregation,
    heads_by: HeadsBy,
    ffn_by: FfnBy,
) -> Scores {
    let (h, d, layers) = (arch.hidden, arch.head_dim, 0..arch.layers.len());
    let sites = layers.clone().flat_map(|l| [(l, Tap::AttnNorm), (l, Tap::MlpNorm)]);
    let hidden = (0..h).map(|c| sites.clone().map(|at| over(runs, at, h, how, &|x| x[c])).sum()).collect();
    let ffn = layers.clone().map(|l| {
        let f = arch.layers[l].ffn;
        let down = weights(&format!("model.layers.{l}.mlp.down_proj.weight"));
        let one = |c: usize| match ffn_by {
            FfnBy::Paper => over(runs, (l, Tap::MlpGate), f, how, &|x| x[c]),
            FfnBy::WeightAware => {
                over(runs, (l, Tap::MlpHidden), f, how, &|x| x[c]) * norm((0..h).map(|r| down[r * f + c]))
            }
            _ => over(runs, (l, Tap::MlpHidden), f, how, &|x| x[c]),
        };
        (0..f).map(one).collect()
    });
    // Heads and groups are both ranges of the channels into o_proj.
    let part = |l: usize, channels: std::ops::Range<usize>| {
        let columns = arch.layers[l].heads * d;
        let o = weights(&format!("model.layers.{l}.self_attn.o_proj.weight"));
        let at = (l, Tap::AttnOut);
        match heads_by {
            HeadsBy::Paper => over(runs, at, columns, how, &|x| norm(x[channels.clone()].iter().copied())),
            HeadsBy::Contribution => over(runs, at, columns, how, &|x| {
                norm((0..h).map(|r| channels.clone().map(|c| x[c] * o[r * columns + c]).sum()))
            }),
            _ => norm(channels.map(|c| over(runs, at, columns, how, &|x| x[c]))),
        }
    };
    let heads = layers.clone().map(|l| (0..arch.layers[l].heads).map(|i| part(l, i * d..(i + 1) * d)).collect());
    let groups = layers.clone().map(|l| {
        let width = arch.layers[l].heads / arch.layers[l].kv_heads * d;
        (0..arch.layers[l].kv_heads).map(|g| part(l, g * width..(g + 1) * width)).collect()
    });
    let angle = |run: &Shown, l: usize| {
        let rows = run.0[&(l, Tap::BlockIn)].chunks(h).zip(run.0[&(l, Tap::BlockOut)].chunks(h));
        let angles = rows.map(|(x, y)| {
            let dot: f64 = x.iter().zip(y).map(|(a, b)| a * b).sum();
            (dot / (norm(x.iter().copied()) * norm(y.iter().copied()))).acos() / std::f64::consts::PI
        });
        aggregate(Agg::Mean, &angles.collect::<Vec<_>>())
    };
    let block_influence = layers.clone().map(|l| runs.iter().map(|r| angle(r, l)).sum::<f64>() / runs.len() as f64);
    Scores {
        hidden,
        block_influence: block_influence.collect(),
        ffn: ffn.collect(),
        heads: heads.collect(),
        kv_groups: groups.collect(),
    }
}

fn close(what: &str, got: &[f64], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= bound * want.abs(), "{what} {i}: {got} and not {want}");
    }
}

fn check(what: &str, set: &ImportanceSet, weights: &dyn Fn(&str) -> Vec<f64>, runs: &[Shown]) {
    let pairs = [
        (FfnBy::ModelOpt, HeadsBy::ModelOpt),
        (FfnBy::Paper, HeadsBy::Paper),
        (FfnBy::WeightAware, HeadsBy::Contribution),
    ];
    for (seq, batch) in [(Agg::Mean, Agg::L2), (Agg::Mean, Agg::Mean), (Agg::L2, Agg::Var), (Agg::Var, Agg::L2)] {
        for (ffn, heads) in pairs {
            let aggregation = Aggregation { seq, batch };
            let options = ScoreOptions { aggregation, ffn, heads, depth: Distance::Angular, hidden: HiddenBy::Norms };
            let got = set.scores(&options).unwrap();
            let want = brute(&arch(), weights, runs, aggregation, heads, ffn);
            // A variance is a small difference of large numbers; contributions are products in f32.
            let bound = if batch == Agg::Var { 1e-8 } else { 1e-11 };
            close(&format!("{what}: hidden"), &got.hidden, &want.hidden, bound);
            close(&format!("{what}: angular"), &got.block_influence, &want.block_influence, bound);
            for l in 0..got.ffn.len() {
                close(&format!("{what}: {ffn:?} ffn {l}"), &got.ffn[l], &want.ffn[l], bound);
                let bound = if heads == HeadsBy::Contribution { 1e-5 } else { bound };
                close(&format!("{what}: {heads:?} heads {l}"), &got.heads[l], &want.heads[l], bound);
                close(&format!("{what}: {heads:?} groups {l}"), &got.kv_groups[l], &want.kv_groups[l], bound);
            }
        }
    }
}

fn find(values: &[(ParamSpec, Vec<f32>)], name: &str) -> usize {
    values.iter().position(|(p, _)| p.name == name).unwrap()
}

#[test]
fn every_definition_is_that_of_a_brute_force() {
    let arch = arch();
    let values = random_values(&arch, 5);
    let weights = |name: &str| values[find(&values, name)].1.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let windows = windows(&arch);
    for (name, backend) in backends() {
        let model = model(&*backend, &arch, &values, DType::F32);
        let set = measured(&*backend, &model, Extras { contribution: true, taylor: false }, &windows, None);
        let runs: Vec<Shown> = windows.iter().map(|w| shown(&*backend, &model, &[w])).collect();
        check(&name, &set, &weights, &runs);
    }
}

#[test]
fn masked_documents_do_not_see_one_another_and_stay_one_sequence() {
    let arch = arch();
    let values = random_values(&arch, 5);
    let weights = |name: &str| values[find(&values, name)].1.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let backend = cpu(2);
    let model = model(&backend, &arch, &values, DType::F32);
    let windows: Vec<Vec<u32>> = (0..3).map(|i| random_ids(arch.vocab, 64, i)).collect();
    // Documents of more than sixteen tokens: products of fewer rows are summed in another order.
    let extras = Extras { contribution: true, taylor: false };
    let set = measured(&backend, &model, extras, &windows, Some(&[20, 25, 19]));
    assert_eq!((set.sequences(), set.tokens()), (3, 192));
    let alone = |w: &Vec<u32>| shown(&backend, &model, &[&w[..20], &w[20..45], &w[45..]]);
    check("masked", &set, &weights, &windows.iter().map(alone).collect::<Vec<_>>());
    let unmasked = measured(&backend, &model, ALL, &windows, None);
    assert_eq!(unmasked, measured(&backend, &model, ALL, &windows, Some(&[64])));
    assert_ne!(unmasked.hidden(), set.hidden());
    let error = Measure::new(&backend, &model, extras).unwrap().window(&windows[0], Some(&[20, 25])).unwrap_err();
    assert!(error.to_string().contains("[20, 25] tokens in a window of 64"), "{error}");
}

#[test]
fn shards_threads_and_extras_change_no_bit() {
    let arch = arch();
    let values = random_values(&arch, 7);
    // Down to two tokens: a window's products have an order of their own there, and a window is always alone.
    let windows: Vec<Vec<u32>> =
        [2, 90, 33, 5, 128, 17, 64].iter().map(|&n| random_ids(arch.vocab, n, n as u64)).collect();
    let run = |threads, extras, windows: &[Vec<u32>]| {
        let backend = cpu(threads);
        measured(&backend, &model(&backend, &arch, &values, DType::F32), extras, windows, None)
    };
    let whole = run(1, ALL, &windows);
    for n in [2, 3, 7] {
        let shard = |i: usize| run(1 + i % 3, ALL, &windows.iter().skip(i).step_by(n).cloned().collect::<Vec<_>>());
        let mut sum = shard(n - 1);
        (0..n - 1).for_each(|i| sum.merge(&shard(i)).unwrap());
        assert_eq!(sum, whole, "{n} shards");
        assert_eq!(sum.to_arrays().unwrap(), whole.to_arrays().unwrap(), "{n} shards");
    }
    // A recorded run shows the same activations as one that keeps nothing.
    let Arrays { scores, raw } = run(2, Extras { contribution: true, taylor: false }, &windows).to_arrays().unwrap();
    let all = whole.to_arrays().unwrap();
    assert_eq!(scores, all.scores);
    assert_eq!(raw, all.raw.into_iter().filter(|a| !a.name.contains("taylor")).collect::<Vec<_>>());
}

/// Masking a channel by `1 - eps` changes the loss by `eps` times its score: a central difference of the loss, where the mask is put into
/// the weights that read the channel.
#[test]
fn taylor_scores_are_first_order_changes_of_the_loss() {
    let arch = arch();
    let values = random_values(&arch, 11);
    let ids = random_ids(arch.vocab, 64, 3);
    let by = ScoreOptions {
        hidden: HiddenBy::Taylor,
        ffn: FfnBy::Taylor,
        heads: HeadsBy::Taylor,
        ..ScoreOptions::default()
    };
    for (name, backend) in backends() {
        for documents in [None, Some(&[30, 34][..])] {
            let backend = &*backend;
            let whole = model(backend, &arch, &values, DType::F32);
            let windows = [ids.clone()];
            let scores = measured(backend, &whole, ALL, &windows, documents).scores(&by).unwrap();
            let parts: Vec<&[u32]> = match documents {
                None => vec![&ids],
                Some(_) => vec![&ids[..30], &ids[30..]],
            };
            let batch = Batch::pack(parts);
            // `[parameter, row or all, columns]` scaled by 1 + eps.
            let loss = |masked: &[(String, std::ops::Range<usize>)], eps: f32| {
                let mut values = values.clone();
                for (name, columns) in masked {
                    let at = find(&values, name);
                    let (spec, values) = &mut values[at];
                    let width = *spec.shape.last().unwrap();
                    for row in values.chunks_mut(width) {
                        row[columns.clone()].iter_mut().for_each(|v| *v *= 1.0 + eps);
                    }
                }
                let model = model(backend, &arch, &values, DType::F32);
                let x = model.hidden(&mut Ctx::infer(backend), &batch, None).unwrap().tensor;
                let targets = batch.next_tokens();
                backend.head_cross_entropy(None, &x, &model.head().tensor, &targets, 1.0).unwrap()
                    / batch.n_targets() as f64
            };
            let check = |what: &str, score: f64, masked: &[(String, std::ops::Range<usize>)]| {
                let central = |eps: f32| (loss(masked, eps) - loss(masked, -eps)) / f64::from(2.0 * eps);
                // Richardson: the third derivative goes.
                let change = ((4.0 * central(1.0 / 32.0) - central(1.0 / 16.0)) / 3.0).abs();
                let off = (score - change).abs();
                assert!(off <= 2e-3 * change + 2e-6, "{name}, {what}: score {score:e}, loss {change:e}");
            };
            let largest = |scores: &[f64]| (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
            let d = arch.head_dim;
            for c in [largest(&scores.hidden), 0] {
                let mut norms = vec![("model.norm.weight".to_string(), c..c + 1)];
                for l in 0..arch.layers.len() {
                    norms.push((format!("model.layers.{l}.input_layernorm.weight"), c..c + 1));
                    norms.push((format!("model.layers.{l}.post_attention_layernorm.weight"), c..c + 1));
                }
                check("hidden", scores.hidden[c], &norms);
            }
            for l in 0..arch.layers.len() {
                let down = format!("model.layers.{l}.mlp.down_proj.weight");
                for c in [largest(&scores.ffn[l]), 1] {
                    check("ffn", scores.ffn[l][c], &[(down.clone(), c..c + 1)]);
                }
                let o = format!("model.layers.{l}.self_attn.o_proj.weight");
                for h in 0..arch.layers[l].heads {
                    check("head", scores.heads[l][h], &[(o.clone(), h * d..(h + 1) * d)]);
                }
                let width = arch.layers[l].heads / arch.layers[l].kv_heads * d;
                for g in 0..arch.layers[l].kv_heads {
                    check("group", scores.kv_groups[l][g], &[(o.clone(), g * width..(g + 1) * width)]);
                }
            }
        }
    }
}

#[test]
fn a_gradient_that_is_no_number_names_its_place() {
    let arch = arch();
    let mut values = random_values(&arch, 11);
    // The head overflows: activations are fine, the loss's gradient is not.
    let at = find(&values, "model.norm.weight");
    values[at].1[3] = 3e38;
    let backend = cpu(1);
    let model = model(&backend, &arch, &values, DType::F32);
    let mut measure = Measure::new(&backend, &model, ALL).unwrap();
    let error = measure.window(&random_ids(arch.vocab, 32, 1), None).unwrap_err().to_string();
    let says = "calibration: layer 2, activation times gradient at the output of the final norm: channel ";
    assert!(error.starts_with(says), "{error}");
}
