//! What one step does, and what many do: accumulation, divergence, masters, and that a student learns.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{
    Log, STEPS, arch, batches, cpu, identity, lively, names, part, state, teacher, train, train_config, trainer,
    windows,
};
use paring_cpu::{Cpu, Isa};
use paring_model::ParamSpec;
use paring_ops::Backend;
use paring_optim::{AdamW, Schedule};
use paring_reference::Reference;
use paring_tensor::{DType, round_to};
use paring_train::{
    CheckpointPolicy, DataOrder, Error, Objective, TrainConfig, Trainer, initial_values, micro_windows, run,
};

/// A constant rate, nothing else.
fn plain(lr: f32, dtype: DType) -> TrainConfig {
    TrainConfig {
        schedule: Schedule { peak: lr, floor: lr, warmup: 0, total: 1 },
        adamw: AdamW { weight_decay: 0.0, ..AdamW::default() },
        clip: 0.0,
        ..train_config(dtype)
    }
}

fn nmse(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
    error / want.iter().map(|&w| square(w.into())).sum::<f64>()
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let backend = cpu(2);
    let teacher = teacher(&backend);
    // Windows of different lengths: a mean of means would be another number.
    let mut windows = windows(4, 12);
    windows[1].truncate(3);
    windows[2].truncate(7);
    for objective in [Objective::ForwardKl(&teacher), Objective::NextToken] {
        let step = |micro| {
            let mut trainer = trainer(&backend, plain(1e-2, DType::F32), 1);
            let report = trainer.train_step(&batches(&windows, micro), objective).unwrap();
            // After one step the first moment is a tenth of the gradient.
            (report, part(&trainer, "m"))
        };
        let (want, gradients) = step(4);
        for micro in [1, 2, 3] {
            let (got, moments) = step(micro);
            let close = |a: f64, b: f64| ((a - b) / b).abs() < 1e-6;
            assert!(close(got.loss, want.loss), "{micro}: {} and {}", got.loss, want.loss);
            assert!(close(got.grad_norm, want.grad_norm), "{micro}: {} and {}", got.grad_norm, want.grad_norm);
            assert_eq!((got.tokens, got.step), (34, 1));
            let mut worst = 0f64;
            for ((name, got), (_, want)) in moments.iter().zip(&gradients) {
                let off = nmse(got, want);
                assert!(off <= 1e-11, "{micro} at a time, {name}: NMSE {off:e}");
                worst = worst.max(off);
            }
            println!("accumulation, {micro} windows at a time: gradients NMSE {worst:.1e}");
        }
    }
}

#[test]
fn a_weight_that_is_not_a_number_stops_before_anything_changed() {
    let backend = cpu(1);
    let teacher = teacher(&backend);
    for objective in [Objective::ForwardKl(&teacher), Objective::NextToken] {
        for dtype in [DType::F32, DType::BF16] {
            let read = |p: &ParamSpec| {
                let mut values = lively(p, 1);
                if p.name == "model.layers.1.mlp.down_proj.weight" {
                    values[5] = f32::NAN;
                }
                Ok::<_, Error>(values)
            };
            let mut trainer = Trainer::new(&backend, arch(16), train_config(dtype), read).unwrap();
            let before = state(&trainer);
            let error = trainer.train_step(&batches(&windows(2, 9), 2), objective).unwrap_err();
            let Error::Diverged { step: 1, what: "loss", value } = error else { panic!("{error:?}") };
            assert!(value.is_nan());
            assert!(error.to_string().starts_with("step 1: the loss is NaN"), "{error}");
            assert!(state(&trainer) == before, "something changed");
            assert_eq!((trainer.step_count(), trainer.token_count()), (0, 0));
        }
    }
}

#[test]
fn a_rate_that_is_far_too_high_is_noticed_at_its_step() {
    let backend = cpu(1);
    let tmp = tempfile::tempdir().unwrap();
    let mut trainer = trainer(&backend, plain(1e30, DType::F32), 1);
    let policy = CheckpointPolicy { dir: tmp.path().into(), every: 1, identity: identity() };
    let mut log = Log::default();
    let order = DataOrder::new(7, 3, 5);
    let error =
        run(&mut trainer, &windows(7, 9), &order, 2, STEPS, Objective::NextToken, Some(&policy), &mut log).unwrap_err();
    let Error::Diverged { step, .. } = error else { panic!("{error:?}") };
    assert_eq!((log.reports.len() as u64, trainer.step_count()), (step - 1, step - 1));
    assert!(1 < step && error.to_string().contains("--lr"), "{error}");
    assert_eq!(names(tmp.path()).len(), log.reports.len().min(2), "the steps before it were saved");
}

#[test]
fn without_windows_there_is_no_training() {
    let backend = cpu(1);
    let mut trainer = trainer(&backend, train_config(DType::F32), 1);
    let (none, order) = (Vec::<Vec<u32>>::new(), DataOrder::new(0, 3, 5));
    let error =
        run(&mut trainer, &none, &order, 2, STEPS, Objective::NextToken, None, &mut Log::default()).unwrap_err();
    assert!(matches!(error, Error::NoData { windows: 0 }), "{error:?}");
    assert_eq!(trainer.step_count(), 0);
}

#[test]
fn steps_below_the_resolution_of_bf16_add_up_in_the_masters() {
    let backend = cpu(1);
    // Magnitudes in [1/2, 1): neighbours in bf16 are 2^-8 apart, and a weight moves when its master has gone half of that, 2^-9. Adam's
    // step is the rate at most as long as gradients keep their size: here a quarter of 2^-9.
    let values = |p: &ParamSpec| {
        let magnitude = |v: f32| round_to(v.signum() * (0.5 + 0.49 * v.abs().fract()), DType::BF16);
        Ok::<_, Error>(lively(p, 3).into_iter().map(magnitude).collect())
    };
    let mut trainer = Trainer::new(&backend, arch(16), plain(0.25 / 512.0, DType::BF16), values).unwrap();
    let matrices: Vec<ParamSpec> = trainer.model().specs().iter().filter(|p| p.shape.len() == 2).cloned().collect();
    let batch = batches(&windows(2, 9), 2);
    let computing = |t: &Trainer<'_>, p: &ParamSpec| backend.download(&t.model().weight(p.id).tensor).unwrap();
    let start: Vec<Vec<f32>> = matrices.iter().map(|p| computing(&trainer, p)).collect();

    trainer.train_step(&batch, Objective::NextToken).unwrap();
    for (p, start) in matrices.iter().zip(&start) {
        assert_eq!(trainer.model().weight(p.id).tensor.dtype(), DType::BF16);
        assert_eq!(&computing(&trainer, p), start, "{}: a step this small does not show in bf16", p.name);
        let masters = trainer.values(p.id).unwrap();
        let moved = masters.iter().zip(start).filter(|(m, s)| m != s).count();
        assert!(0 < moved, "{}: the masters did not move", p.name);
    }
    for _ in 1..12 {
        trainer.train_step(&batch, Objective::NextToken).unwrap();
    }
    let mut moved = 0;
    for (p, start) in matrices.iter().zip(&start) {
        let (now, masters) = (computing(&trainer, p), trainer.values(p.id).unwrap());
        moved += now.iter().zip(start).filter(|(n, s)| n != s).count();
        // What computes is the master, rounded.
        let rounded = |&m: &f32| f32::from_bits(u32::from(paring_optim::split(m).0) << 16);
        assert_eq!(now, masters.iter().map(rounded).collect::<Vec<_>>(), "{}", p.name);
    }
    assert!(500 < moved, "only {moved} weights moved in twelve steps");
}

#[test]
fn a_student_that_is_the_teacher_has_nothing_to_learn() {
    let isas = Isa::all_available().into_iter().map(|isa| Cpu::with_isa(Some(2), isa).unwrap());
    let mut all: Vec<Box<dyn Backend>> = vec![Box::new(Reference)];
    all.extend(isas.map(|b| Box::new(b) as Box<dyn Backend>));
    for backend in all {
        let teacher = teacher(&*backend);
        let read = |p: &ParamSpec| Ok::<_, Error>(lively(p, 77));
        let mut trainer = Trainer::new(&*backend, arch(24), plain(1e-2, DType::F32), read).unwrap();
        let before = state(&trainer);
        let report = trainer.train_step(&batches(&windows(3, 9), 2), Objective::ForwardKl(&teacher)).unwrap();
        assert_eq!((report.loss, report.grad_norm), (0.0, 0.0), "{}", backend.name());
        assert!(state(&trainer) == before, "{}: weights moved without a gradient", backend.name());
        assert_eq!(trainer.step_count(), 1);
    }
}

#[test]
fn a_tiny_student_learns_from_its_teacher() {
    let backend = cpu(2);
    let teacher = teacher(&backend);
    for dtype in [DType::F32, DType::BF16] {
        let student = arch(16);
        let read = |p: &ParamSpec| Ok::<_, Error>(initial_values(&student, p, 1));
        let mut trainer = Trainer::new(&backend, arch(16), plain(1e-2, dtype), read).unwrap();
        let (windows, order) = (windows(7, 9), DataOrder::new(7, 7, 5));
        let mut log = Log::default();
        run(&mut trainer, &windows, &order, 4, 60, Objective::ForwardKl(&teacher), None, &mut log).unwrap();
        let (first, last) = (log.reports[0].loss, log.reports[59].loss);
        println!("a tiny student, {dtype}: KL {first:.4} before, {last:.4} after 60 steps");
        // All windows in every step, so losses can be compared.
        assert!(last < 0.7 * first, "{dtype}: KL {first} before, {last} after 60 steps");
    }
}

#[test]
fn recomputing_and_threads_change_no_bit() {
    for dtype in [DType::F32, DType::BF16] {
        let run = |threads, recompute| {
            let backend = cpu(threads);
            let teacher = teacher(&backend);
            let config = TrainConfig { recompute, ..train_config(dtype) };
            let mut trainer = trainer(&backend, config, 1);
            let mut log = Log::default();
            train(&mut trainer, Objective::ForwardKl(&teacher), None, 1, &mut log);
            let reports: Vec<_> = log.reports.iter().map(|r| (r.loss.to_bits(), r.grad_norm.to_bits())).collect();
            (reports, state(&trainer))
        };
        let want = run(1, false);
        for (threads, recompute) in [(2, false), (3, false), (1, true), (2, true)] {
            assert!(run(threads, recompute) == want, "{dtype}, {threads} threads, recompute {recompute}");
        }
    }
}

#[test]
fn clipping_bounds_the_gradient_and_decay_spares_gains() {
    let backend = cpu(1);
    let step = |config: TrainConfig| {
        let mut trainer = trainer(&backend, config, 1);
        let report = trainer.train_step(&batches(&windows(2, 9), 2), Objective::NextToken).unwrap();
        let norm: f64 = part(&trainer, "m").iter().flat_map(|(_, m)| m).map(|&m| f64::from(m).powi(2)).sum();
        // A tenth of the gradient that was used.
        (report.grad_norm, 10.0 * norm.sqrt(), part(&trainer, "master"))
    };
    let free = plain(1e-2, DType::F32);
    let (norm, used, _) = step(free.clone());
    assert!(((used - norm) / norm).abs() < 1e-5 && 0.1 < norm, "{used} and {norm}");
    let (same, clipped, _) = step(TrainConfig { clip: 0.1, ..free.clone() });
    assert_eq!(same, norm, "the norm that is reported is the one before clipping");
    assert!((clipped - 0.1).abs() < 1e-5, "{clipped}");

    let decay = AdamW { weight_decay: 0.5, ..free.adamw };
    let with = |decay_vectors| step(TrainConfig { adamw: decay, decay_vectors, ..free.clone() }).2;
    let (spared, all, (_, _, none)) = (with(false), with(true), step(free.clone()));
    for ((spec, spared), (all, none)) in arch_specs().iter().zip(&spared).zip(all.iter().zip(&none)) {
        let is_vector = spec.shape.len() == 1;
        assert_eq!(spared.1 == none.1, is_vector, "{}", spec.name);
        assert_ne!(all.1, none.1, "{}", spec.name);
    }
}

fn arch_specs() -> Vec<ParamSpec> {
    paring_model::params(&arch(16))
}

#[test]
fn the_number_of_windows_at_a_time_depends_on_the_architecture_alone() {
    let tiny = micro_windows(&arch(16), 9);
    assert_eq!(tiny, 16);
    assert!(micro_windows(&arch(16), 1 << 20) == 1 && micro_windows(&arch(16), 0) == 16);
    let mut wide = arch(16);
    wide.hidden = 1 << 14;
    assert!(micro_windows(&wide, 256) < 16);
}
