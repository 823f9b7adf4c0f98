//! Importances against PyTorch (`fixtures/golden`), on every backend, and what they must not depend on: how sequences are batched, and the
//! number of threads.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{FAMILIES, Figures, Golden, backends, config, cpu, model, nmse, random_ids, random_values};
use paring_calibrate::{Importance, geometry};
use paring_exec::Ctx;
use paring_importance::{Arrays, ImportanceSet};
use paring_model::{Arch, Batch, Model};
use paring_ops::Backend;
use paring_tensor::DType;

/// NMSE of statistics in f64 over f32 activations against PyTorch's, which are rounded to f32 at the end: 1e-13.
const BOUND: f64 = 1e-11;

fn observed(backend: &dyn Backend, model: &Model, batches: &[Batch]) -> ImportanceSet {
    let mut importance = Importance::new(model.arch()).unwrap();
    for batch in batches {
        importance.begin(batch);
        model.hidden(&mut Ctx::infer(backend).observe(&mut importance), batch, None).unwrap();
    }
    importance.into_set()
}

fn batches(sequences: &[Vec<u32>], size: usize) -> Vec<Batch> {
    sequences.chunks(size).map(|c| Batch::pack(c.iter().map(Vec::as_slice))).collect()
}

/// Every number of a set: scores and raw sums.
fn bits(set: &ImportanceSet) -> Vec<(String, Vec<u64>)> {
    let Arrays { scores, raw } = set.to_arrays().unwrap();
    let scores = scores.into_iter().map(|a| (a.name, a.values.iter().map(|v| v.to_bits()).collect()));
    scores.chain(raw.into_iter().map(|a| (a.name, a.values.iter().map(|v| v.cast_unsigned()).collect()))).collect()
}

#[test]
fn importances_are_those_of_pytorch() {
    for family in FAMILIES {
        let golden = Golden::open(family);
        for (name, backend) in backends() {
            let set = observed(&*backend, &golden.model(&*backend), &[golden.batch()]);
            assert_eq!((set.sequences(), set.tokens()), (2, 96));
            assert_eq!(set.geometry(), &geometry(golden.arch()));
            let mut figures = Figures::new(&format!("{family}, {name}"));
            let mut check = |quantity: &str, what: &str, got: &[f64]| {
                let got: Vec<f32> = got.iter().map(|&v| v as f32).collect();
                figures.check(quantity, what, nmse(&got, &golden.get(what)), BOUND);
            };
            check("imp.hidden", "imp.hidden", &set.hidden());
            check("imp.bi", "imp.bi", &set.block_influence());
            for l in 0..golden.arch().layers.len() {
                check("imp.ffn", &format!("imp.ffn.{l}"), &set.ffn(l).unwrap());
                check("imp.heads", &format!("imp.heads.{l}"), &set.heads(l).unwrap());
            }
        }
    }
}

#[test]
fn batches_and_threads_change_no_bit() {
    let arch = Arch::from_config(&config(true)).unwrap();
    // Products of up to sixteen rows are summed in an order of their own: a sequence that short depends on its company in the last bits.
    let sequences: Vec<Vec<u32>> = [90, 33, 128, 17, 64].iter().map(|&n| random_ids(arch.vocab, n, n as u64)).collect();
    let run = |threads, size| {
        let backend = cpu(threads);
        let model = model(&backend, &arch, &random_values(&arch, 2), DType::F32);
        bits(&observed(&backend, &model, &batches(&sequences, size)))
    };
    let want = run(1, 1);
    for threads in [1, 2, 3] {
        for size in [1, 2, 5] {
            for ((name, got), (_, want)) in run(threads, size).iter().zip(&want) {
                assert_eq!(got, want, "{name}, {threads} threads, {size} sequences at a time");
            }
        }
    }
    for family in FAMILIES {
        let golden = Golden::open(family);
        let run = |threads, size| {
            let backend = cpu(threads);
            bits(&observed(&backend, &golden.model(&backend), &batches(&golden.sequences, size)))
        };
        let want = run(1, 2);
        assert!(run(2, 2) == want && run(3, 2) == want && run(2, 1) == want, "{family}");
    }
}

#[test]
fn parts_of_the_calibration_text_add_up() {
    let golden = Golden::open("llama");
    let backend = cpu(2);
    let model = golden.model(&backend);
    let whole = observed(&backend, &model, &[golden.batch()]);
    let [first, second] = [0, 1].map(|i| observed(&backend, &model, &batches(&golden.sequences[i..=i], 1)));
    let mut sum = first;
    sum.merge(&second).unwrap();
    assert_eq!(bits(&sum), bits(&whole));
}

#[test]
fn a_broken_weight_stops_the_calibration_with_a_reason() {
    let golden = Golden::open("llama");
    let backend = cpu(1);
    let mut values = golden.values();
    let at = values.iter().position(|(p, _)| p.name == "model.layers.1.mlp.up_proj.weight").unwrap();
    values[at].1[0] = f32::NAN;
    let model = model(&backend, golden.arch(), &values, DType::F32);
    let mut importance = Importance::new(model.arch()).unwrap();
    importance.begin(&golden.batch());
    let error = model.hidden(&mut Ctx::infer(&backend).observe(&mut importance), &golden.batch(), None).unwrap_err();
    let is_kind = matches!(&error, paring_model::Error::Ops(paring_ops::Error::Observer { .. }));
    let says = "calibration: layer 1, input of down_proj: channel 0 is infinite or not a number";
    assert!(is_kind && error.to_string().starts_with(says), "{error:?}");
}
