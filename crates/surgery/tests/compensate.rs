//! Cuts, rotations and fits on random models: what must not change does not, and what is fitted is the fit.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{bits, config, cpu, logits, nmse, random_ids, random_values};
use paring_cpu::Cpu;
use paring_exec::{Ctx, Observer, Site, Tap};
use paring_model::{Arch, Batch, params};
use paring_ops::Backend;
use paring_prune::{Anchor, Basis, LayerPlan, Moments, Plan, Ridge, fit_with};
use paring_surgery::{
    Aim, Bench, Cut, Error, Memory, Mode, Options, Readers, Rotated, Text, Weighting, Weights, basis, compensate,
    keep_energy, model, sizes,
};
use paring_tensor::{DType, Tensor};

fn arch(tied: bool, layers: usize) -> Arch {
    let mut config = config(tied);
    config["num_hidden_layers"] = layers.into();
    Arch::from_config(&config).unwrap()
}

fn teacher(arch: &Arch, seed: u64) -> Memory {
    let values = random_values(arch, seed);
    Memory::new(arch.clone(), |spec| Ok(values.iter().find(|(p, _)| p.name == spec.name).unwrap().1.clone())).unwrap()
}

/// Every `hidden`-th, `ffn`-th, ... is dropped; 0 keeps all.
fn plan(arch: &Arch, hidden: usize, ffn: usize, heads: bool, layers: &[usize]) -> Plan {
    let keep = |n: usize, every: usize| (0..n).filter(|i| every == 0 || i % every != 1).collect::<Vec<_>>();
    let all = Plan::everything(sizes(arch)).unwrap();
    let layer = |&layer: &usize| {
        let of = &all.layers()[layer];
        // The first two of three heads of each group.
        let heads = of.heads.iter().copied().filter(|h| !heads || h % 3 != 2).collect();
        LayerPlan { ffn: keep(of.ffn.len(), ffn), heads, ..of.clone() }
    };
    Plan::new(sizes(arch), keep(arch.hidden, hidden), layers.iter().map(layer).collect()).unwrap()
}

fn windows(arch: &Arch, n: usize) -> Vec<Vec<u32>> {
    (0..n).map(|i| random_ids(arch.vocab, 50 + i % 3, 40 + i as u64)).collect()
}

fn text(windows: &[Vec<u32>], group: usize) -> Text {
    Text::new(&windows.iter().map(Vec::as_slice).collect::<Vec<_>>(), group)
}

fn outputs(backend: &dyn Backend, weights: &dyn Weights, windows: &[Vec<u32>]) -> Vec<f32> {
    let model = model(weights, backend, DType::F32).unwrap();
    logits(backend, &model, &Batch::pack(windows.iter().map(Vec::as_slice)))
}

fn go(_: usize) -> paring_surgery::Result<()> {
    Ok(())
}

const RIDGE: Ridge = Ridge { strength: 0.01, anchor: Anchor::Zero };
const READERS: [Readers; 3] = [Readers::Slice, Readers::Gains, Readers::Fit];

#[test]
fn where_nothing_is_cut_nothing_changes_bit_for_bit() {
    let cpu = cpu(2);
    for tied in [true, false] {
        let arch = arch(tied, 3);
        let teacher = teacher(&arch, 1);
        let windows = windows(&arch, 5);
        let text = text(&windows, 2);
        let bench = Bench { backend: &cpu, dtype: DType::F32, threads: 2, text: &text };
        let plan = Plan::everything(sizes(&arch)).unwrap();
        let want = bits(&outputs(&cpu, &teacher, &windows));
        for mode in [Mode::Teacher, Mode::Sequential] {
            for aim in [Aim::Map, Aim::Stream] {
                for readers in READERS {
                    let mut cut = Cut::new(&teacher, &plan);
                    let options = Options { mode, aim, readers, block_map: true, ridge: None };
                    compensate(&mut cut, &bench, &options, &mut go).unwrap();
                    assert_eq!(bits(&outputs(&cpu, &cut, &windows)), want, "{options:?}");
                }
            }
        }
        let mut cut = Cut::new(&teacher, &plan);
        keep_energy(&mut cut, &bench, &mut go).unwrap();
        let error = nmse(&outputs(&cpu, &cut, &windows), &outputs(&cpu, &teacher, &windows));
        // The mean square of a stream behind a norm is 1 but for the eps of the norm, some thousandths of the embedding's.
        assert!(error < 2e-6, "gains of a whole stream: {error:e}");
    }
}

#[test]
fn a_rotation_that_removes_nothing_keeps_the_function() {
    let cpu = cpu(2);
    for tied in [true, false] {
        let arch = arch(tied, 2);
        // A gain of zero, which no division survives.
        let mut values = random_values(&arch, 2);
        values.iter_mut().filter(|(p, _)| p.shape.len() == 1).for_each(|(_, v)| v[5] = 0.0);
        let teacher =
            Memory::new(arch.clone(), |s| Ok(values.iter().find(|(p, _)| p.name == s.name).unwrap().1.clone()));
        let teacher = teacher.unwrap();
        let windows = windows(&arch, 5);
        let text = text(&windows, 2);
        let bench = Bench { backend: &cpu, dtype: DType::F32, threads: 2, text: &text };
        let want = outputs(&cpu, &teacher, &windows);
        let folded = Rotated::folded(&teacher, &cpu);
        assert!(!folded.arch().tied);
        assert_eq!(folded.arch().n_params(), arch.n_params() + if tied { arch.vocab * arch.hidden } else { 0 });
        let error = nmse(&outputs(&cpu, &folded, &windows), &want);
        assert!(error < 1e-11, "folded: {error:e}");
        for weighting in [Weighting::Energy, Weighting::Readers] {
            let basis = basis(&teacher, &bench, weighting, &mut go).unwrap();
            let rotated = Rotated::new(&teacher, &basis, &cpu).unwrap();
            let error = nmse(&outputs(&cpu, &rotated, &windows), &want);
            assert!(error < 1e-11, "{weighting:?}, tied {tied}: {error:e}");
        }
        let narrow = Basis::principal(&[1.0], 1).unwrap();
        assert!(matches!(Rotated::new(&teacher, &narrow, &cpu), Err(Error::Values { got: 1, want: 64, .. })));
    }
}

/// Keeps what one tap shows.
struct Seen(Site, Vec<f32>);

impl Observer for Seen {
    fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> paring_ops::Result<()> {
        if site == self.0 {
            self.1.extend(backend.download(x)?);
        }
        Ok(())
    }
}

fn seen(cpu: &Cpu, weights: &dyn Weights, site: Site, windows: &[Vec<u32>]) -> Vec<f32> {
    let model = model(weights, cpu, DType::F32).unwrap();
    let mut seen = Seen(site, Vec::new());
    let batch = Batch::pack(windows.iter().map(Vec::as_slice));
    model.hidden(&mut Ctx::infer(cpu).observe(&mut seen), &batch, None).unwrap();
    seen.1
}

fn value(weights: &dyn Weights, name: &str) -> Vec<f32> {
    let spec = params(weights.arch()).into_iter().find(|p| p.name == name).unwrap();
    weights.read(&spec).unwrap()
}

#[test]
fn o_proj_and_down_proj_are_the_least_squares_of_what_the_teacher_reads() {
    let cpu = cpu(2);
    let arch = arch(true, 2);
    let teacher = teacher(&arch, 3);
    let windows = windows(&arch, 8);
    let plan = plan(&arch, 0, 3, true, &[0, 1]);
    let text = text(&windows, 3);
    let bench = Bench { backend: &cpu, dtype: DType::F32, threads: 2, text: &text };
    let options =
        Options { mode: Mode::Teacher, aim: Aim::Map, readers: Readers::Slice, ridge: Some(RIDGE), block_map: true };
    let mut cut = Cut::new(&teacher, &plan);
    let report = compensate(&mut cut, &bench, &options, &mut go).unwrap();
    assert_eq!(report.len(), 4);
    for layer in 0..2 {
        for (part, tap) in [("self_attn.o_proj", Tap::AttnOut), ("mlp.down_proj", Tap::MlpHidden)] {
            let name = format!("model.layers.{layer}.{part}.weight");
            let l = &plan.layers()[layer];
            let kept: Vec<usize> = match tap {
                Tap::AttnOut => l.heads.iter().flat_map(|h| h * 16..(h + 1) * 16).collect(),
                _ => l.ffn.clone(),
            };
            let w = value(&teacher, &name);
            let inputs = w.len() / arch.hidden;
            let x = seen(&cpu, &teacher, Site { layer, tap }, &windows);
            let mut gram = vec![0f64; inputs * inputs];
            for row in x.chunks(inputs) {
                for (at, g) in gram.iter_mut().enumerate() {
                    *g += f64::from(row[at / inputs]) * f64::from(row[at % inputs]);
                }
            }
            let moments = Moments::of_cut(&gram, inputs, &w, &kept).unwrap();
            let sliced: Vec<f32> = w.chunks(inputs).flat_map(|row| kept.iter().map(|&i| row[i])).collect();
            let want = fit_with(&moments, &sliced, &RIDGE, 1).unwrap();
            let got = value(&cut, &name);
            let error = nmse(&got, &want.w);
            assert!(error < 1e-9, "{name}: {error:e}");
            let fitted = report.iter().find(|f| f.name == name).unwrap();
            assert!((fitted.fitted - want.fitted).abs() < 1e-4, "{fitted:?}, {want:?}");
            assert!(nmse(&sliced, &want.w) > 1e-4, "a fit that is the slice shows nothing");
        }
    }
}

#[test]
fn fits_bring_the_student_nearer_to_its_teacher() {
    let cpu = cpu(2);
    let (arch, seen) = (arch(true, 4), 40);
    let teacher = teacher(&arch, 4);
    let (windows, others) = (windows(&arch, seen), windows(&arch, seen + 4).split_off(seen));
    let text = text(&windows, 4);
    let bench = Bench { backend: &cpu, dtype: DType::F32, threads: 2, text: &text };
    let want = outputs(&cpu, &teacher, &others);
    let hidden = basis(&teacher, &bench, Weighting::Energy, &mut go).unwrap();
    let rotated = Rotated::new(&teacher, &hidden, &cpu).unwrap();
    let cuts: [(&dyn Weights, Plan, &str); 5] = [
        (&teacher, plan(&arch, 0, 3, false, &[0, 1, 2, 3]), "neurons"),
        (&teacher, plan(&arch, 0, 0, true, &[0, 1, 2, 3]), "heads"),
        (&teacher, plan(&arch, 8, 0, false, &[0, 1, 2, 3]), "channels"),
        (&rotated, plan(rotated.arch(), 8, 0, false, &[0, 1, 2, 3]), "directions"),
        (&teacher, plan(&arch, 0, 3, true, &[0, 1, 3]), "neurons, heads and a layer"),
    ];
    for (weights, plan, what) in &cuts {
        let error = |options: Option<Options>| {
            let mut cut = Cut::new(*weights, plan);
            let fits = options.map(|o| compensate(&mut cut, &bench, &o, &mut go).unwrap()).unwrap_or_default();
            assert!(fits.iter().all(|f| f.fitted <= f.sliced * 1.001), "{what}: {fits:?}");
            nmse(&outputs(&cpu, &cut, &others), &want)
        };
        let sliced = error(None);
        let best = error(Some(Options::default()));
        println!("{what}: {sliced:.4} sliced, {best:.4} fitted");
        assert!(best < 0.95 * sliced, "{what}: {sliced} sliced, {best} fitted");
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let arch = arch(false, 2);
    let teacher = teacher(&arch, 5);
    let windows = windows(&arch, 6);
    let plan = plan(&arch, 8, 3, true, &[0, 1]);
    let run = |threads: usize| -> Vec<u32> {
        let cpu = cpu(threads);
        let text = text(&windows, 2);
        let bench = Bench { backend: &cpu, dtype: DType::F32, threads, text: &text };
        let mut cut = Cut::new(&teacher, &plan);
        keep_energy(&mut cut, &bench, &mut go).unwrap();
        compensate(&mut cut, &bench, &Options::default(), &mut go).unwrap();
        params(cut.arch()).iter().flat_map(|p| bits(&cut.read(p).unwrap())).collect()
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn one_block_of_a_dropped_pair_is_mapped_into_the_layer_in_front() {
    let cpu = cpu(2);
    let arch = arch(true, 4);
    let teacher = teacher(&arch, 6);
    let windows = windows(&arch, 40);
    let text = text(&windows, 4);
    let bench = Bench { backend: &cpu, dtype: DType::F32, threads: 2, text: &text };
    let plan = plan(&arch, 0, 0, false, &[0, 3]);
    let stream = |weights: &dyn Weights, layer| seen(&cpu, weights, Site { layer, tap: Tap::BlockIn }, &windows);
    let want = stream(&teacher, 3);
    let error = |block_map: bool| {
        let mut cut = Cut::new(&teacher, &plan);
        let options = Options { mode: Mode::Teacher, aim: Aim::Map, readers: Readers::Slice, block_map, ridge: None };
        compensate(&mut cut, &bench, &options, &mut go).unwrap();
        nmse(&stream(&cut, 1), &want)
    };
    let (without, with) = (error(false), error(true));
    assert!(with < 0.9 * without, "{without} without the map, {with} with it");
}

#[test]
fn what_cannot_be_fitted_is_refused_or_left() {
    let cpu = cpu(2);
    let arch = arch(true, 2);
    let good = teacher(&arch, 7);
    let plan = plan(&arch, 0, 3, false, &[0, 1]);
    let run = |teacher: &Memory, windows: &[Vec<u32>], ridge| {
        let text = text(windows, 2);
        let bench = Bench { backend: &cpu, dtype: DType::F32, threads: 2, text: &text };
        let mut cut = Cut::new(teacher, &plan);
        compensate(&mut cut, &bench, &Options { ridge, ..Options::default() }, &mut go)
    };
    assert!(matches!(run(&good, &[], None), Err(Error::NoText)));
    // Activations that are not numbers, from weights that are.
    let huge = Memory::new(arch.clone(), |s| {
        let scale = if s.name.ends_with("1.mlp.up_proj.weight") { 1e38 } else { 1.0 };
        Ok(good.read(s)?.into_iter().map(|v| v * scale).collect())
    });
    let error = run(&huge.unwrap(), &windows(&arch, 4), None).unwrap_err().to_string();
    assert!(error.contains("model.layers.1.mlp.down_proj.weight") && error.contains("not a finite number"), "{error}");
    // Two tokens, and a model whose neurons never fire: nothing to fit, and said so.
    assert!(run(&good, &[vec![1, 2]], None).is_ok());
    let dead = Memory::new(arch.clone(), |s| {
        let scale = if s.name.ends_with("up_proj.weight") { 0.0 } else { 1.0 };
        Ok(good.read(s)?.into_iter().map(|v| v * scale).collect())
    });
    let report =
        run(&dead.unwrap(), &windows(&arch, 4), Some(Ridge { strength: 0.0, anchor: Anchor::Teacher })).unwrap();
    let down: Vec<_> = report.iter().filter(|f| f.name.ends_with("down_proj.weight")).collect();
    assert!(down.iter().all(|f| f.ridge.is_none() && f.raised_from == Some(0.0)), "{down:?}");
    // Whoever watches may end it.
    let windows = windows(&arch, 4);
    let text = text(&windows, 2);
    let bench = Bench { backend: &cpu, dtype: DType::F32, threads: 2, text: &text };
    let mut cut = Cut::new(&good, &plan);
    let stopped = compensate(&mut cut, &bench, &Options::default(), &mut |_| Err(Error::Stopped));
    assert!(matches!(stopped, Err(Error::Stopped)));
}
