//! The golden models of `fixtures/golden` on the CUDA backend: against PyTorch within the bounds that every backend is held to, and against
//! the CPU backend; forward, backward, ten steps of AdamW, importances, generation.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../common/mod.rs"]
mod common;
#[path = "../../../model/tests/common/mod.rs"]
mod models;

use models::{FAMILIES, Figures, Golden, cpu, gradients, hidden, nmse};
use paring_calibrate::Importance;
use paring_cuda::{Allocation, Cuda};
use paring_engine::{Request, generate};
use paring_exec::Ctx;
use paring_ops::Backend;
use paring_optim::{AdamW, Schedule};
use paring_sampling::Sampler;
use paring_tensor::DType;
use paring_train::{Error, Objective, TrainConfig, Trainer};
use ptx_sim_driver::Config;
use std::time::Instant;

/// NMSE against PyTorch and against the CPU backend: both sides round every operation, each in its own order of sums.
const FORWARD: f64 = 1e-11;
/// NMSE of gradients: backward goes through every operation once more, and sums over tokens.
const BACKWARD: f64 = 1e-10;
/// Relative, of a mean that PyTorch gives in f32.
const LOSS: f64 = 1e-6;
/// Relative. Adam turns the rounding of gradients that are nearly zero into steps of full size.
const STEPS: f64 = 5e-6;
/// NMSE of importances.
const IMPORTANCE: f64 = 1e-11;

/// Runs `test` on every golden model; nothing may be found on the device.
fn each(what: &str, test: impl Fn(&Golden, &Cuda, &mut Figures)) {
    for family in FAMILIES {
        let start = Instant::now();
        // From the pool, as programs run.
        let opened = common::open_with(&Config::default(), Allocation::Pooled);
        test(&Golden::open(family), &opened.cuda, &mut Figures::new(&format!("{family}, cuda")));
        if let Some(report) = opened.report() {
            assert!(report.findings.is_empty(), "{}", report.findings.join("\n"));
            println!("{what}, {family}: {} launches in {:.1} s", report.launches, start.elapsed().as_secs_f64());
        }
    }
}

fn relative(got: f64, want: f64) -> f64 {
    ((got - want) / want).abs()
}

fn logits(backend: &dyn Backend, golden: &Golden) -> Vec<f32> {
    models::logits(backend, &golden.model(backend), &golden.batch())
}

#[test]
fn logits_are_those_of_pytorch_and_of_the_cpu() {
    each("forward", |golden, cuda, figures| {
        let got = logits(cuda, golden);
        figures.check("logits", "PyTorch", nmse(&got, &golden.get("logits")), FORWARD);
        figures.check("logits", "CPU", nmse(&got, &logits(&cpu(1), golden)), FORWARD);
        let last = format!("hidden.{}", golden.arch().layers.len());
        let x = cuda.download(&hidden(cuda, &golden.model(cuda), &golden.batch())).unwrap();
        figures.check("final norm", "PyTorch", nmse(&x, &golden.get(&last)), FORWARD);
    });
}

#[test]
fn loss_and_every_gradient_are_those_of_pytorch_and_of_the_cpu() {
    each("backward", |golden, cuda, figures| {
        let (loss, grads) = gradients(cuda, &golden.model(cuda), &golden.batch(), false);
        let cpu = cpu(1);
        let (cpu_loss, cpu_grads) = gradients(&cpu, &golden.model(&cpu), &golden.batch(), false);
        figures.check("loss", "PyTorch", relative(loss, golden.scalar("loss")), LOSS);
        figures.check("loss", "CPU", relative(loss, cpu_loss), LOSS);
        for ((spec, grad), of_cpu) in golden.model(&cpu).specs().iter().zip(&grads).zip(&cpu_grads) {
            figures.check(
                "gradients, PyTorch",
                &spec.name,
                nmse(grad, &golden.get(&format!("grad.{}", spec.name))),
                BACKWARD,
            );
            figures.check("gradients, CPU", &spec.name, nmse(grad, of_cpu), BACKWARD);
        }
    });
}

/// Settings of make_golden.py: decay on every parameter, no clipping, a constant rate.
fn config() -> TrainConfig {
    TrainConfig {
        schedule: Schedule { peak: 1e-3, floor: 1e-3, warmup: 0, total: 10 },
        adamw: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 },
        decay_vectors: true,
        clip: 0.0,
        dtype: DType::F32,
        moments: DType::F32,
        recompute: false,
    }
}

#[test]
fn ten_steps_of_adamw_have_the_losses_of_pytorch() {
    each("ten steps", |golden, cuda, figures| {
        let read = |p: &paring_model::ParamSpec| {
            golden.opened.source().read_checked(&p.name).map_err(|e| Error::Model(e.into()))
        };
        let mut trainer = Trainer::new(cuda, golden.arch().clone(), config(), read).unwrap();
        for (i, &want) in golden.get("adamw_losses").iter().enumerate() {
            let report = trainer.train_step(&[golden.batch()], Objective::NextToken).unwrap();
            figures.check("AdamW losses", &format!("step {i}"), relative(report.loss, want.into()), STEPS);
        }
    });
}

#[test]
fn importances_are_those_of_pytorch() {
    each("importances", |golden, cuda, figures| {
        let mut importance = Importance::new(golden.arch()).unwrap();
        importance.begin(&golden.batch());
        golden.model(cuda).hidden(&mut Ctx::infer(cuda).observe(&mut importance), &golden.batch(), None).unwrap();
        let set = importance.into_set();
        let mut check = |what: &str, got: &[f64]| {
            let got: Vec<f32> = got.iter().map(|&v| v as f32).collect();
            figures.check("importances", what, nmse(&got, &golden.get(what)), IMPORTANCE);
        };
        check("imp.hidden", &set.hidden());
        check("imp.bi", &set.block_influence());
        for l in 0..golden.arch().layers.len() {
            check(&format!("imp.ffn.{l}"), &set.ffn(l).unwrap());
            check(&format!("imp.heads.{l}"), &set.heads(l).unwrap());
        }
    });
}

#[test]
fn thirty_two_greedy_tokens_are_those_of_the_cpu() {
    each("32 tokens", |golden, cuda, _| {
        let prompt = golden.sequences[1][..20].to_vec();
        let request = Request { prompt, max_tokens: 32, sampler: Sampler::greedy(), stop: vec![] };
        let run =
            |backend: &dyn Backend| generate(backend, &golden.model(backend), &request, &mut |_| true).unwrap().tokens;
        let got = run(cuda);
        assert_eq!(got.len(), 32);
        assert_eq!(got, run(&cpu(1)));
    });
}
