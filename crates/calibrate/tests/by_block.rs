//! Calibration of a model that is shown block by block against one of the whole model, to the bit.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{backends, cpu, model, random_ids, random_values};
use paring_calibrate::{ByBlock, Measure};
use paring_importance::Extras;
use paring_model::{Arch, ParamSpec, params};
use paring_tensor::DType;

const LAYERS: usize = 3;

fn arch(layers: usize) -> Arch {
    let mut config = common::config(true);
    config["num_hidden_layers"] = layers.into();
    Arch::from_config(&config).unwrap()
}

/// The values of the model that has only block `layer`.
fn block_of(values: &[(ParamSpec, Vec<f32>)], layer: usize) -> Vec<(ParamSpec, Vec<f32>)> {
    let kept = values.iter().filter(|(p, _)| p.layer.is_none_or(|l| l == layer));
    params(&arch(1)).into_iter().zip(kept).map(|(p, (_, v))| (p, v.clone())).collect()
}

#[test]
fn block_by_block_measures_the_same_bits() {
    let values = random_values(&arch(LAYERS), 1);
    let windows: Vec<Vec<u32>> = [40, 17, 3].iter().enumerate().map(|(i, &n)| random_ids(301, n, i as u64)).collect();
    let documents = [vec![30, 10], vec![17], vec![1, 2]];
    for (name, backend) in backends() {
        let b = &*backend;
        for (extras, documents) in
            [(Extras::default(), None), (Extras { contribution: true, ..Extras::default() }, Some(&documents[..]))]
        {
            let whole = model(b, &arch(LAYERS), &values, DType::F32);
            let mut measure = Measure::new(b, &whole, extras).unwrap();
            for (i, window) in windows.iter().enumerate() {
                measure.window(window, documents.map(|d| &d[i][..])).unwrap();
            }
            let table = whole.weight(paring_exec::ParamId(0)).tensor.clone();
            let mut pass = ByBlock::new(b, &arch(LAYERS), extras, &table, &windows, documents).unwrap();
            for layer in 0..LAYERS {
                let block = model(b, &arch(1), &block_of(&values, layer), DType::F32);
                let mut seen = Vec::new();
                assert!(
                    pass.block(&block, &mut |done| {
                        seen.push(done);
                        true
                    })
                    .unwrap()
                );
                assert_eq!((seen, pass.seen()), (vec![1, 2, 3], layer + 1));
            }
            assert!(pass.into_set().unwrap() == measure.into_set(), "{name}, {extras:?}");
        }
    }
}

#[test]
fn what_is_no_walk_through_the_model_is_refused() {
    let backend = cpu(1);
    let (b, values) = (&backend, random_values(&arch(LAYERS), 1));
    let (windows, wrong) = ([random_ids(301, 9, 1)], [vec![4]]);
    let table = model(b, &arch(LAYERS), &values, DType::F32).weight(paring_exec::ParamId(0)).tensor.clone();
    let pass = |extras, documents| ByBlock::new(b, &arch(LAYERS), extras, &table, &windows, documents);
    let says = |e: paring_model::Error, what: &str| assert!(e.to_string().contains(what), "{e}");
    says(pass(Extras { taylor: true, ..Extras::default() }, None).unwrap_err(), "need a backward pass");
    says(pass(Extras::default(), Some(&wrong)).unwrap_err(), "documents of [4] tokens in a window of 9");
    says(pass(Extras::default(), None).unwrap().into_set().unwrap_err(), "0 of 3 blocks were seen");
    let whole = model(b, &arch(LAYERS), &values, DType::F32);
    let mut good = pass(Extras::default(), None).unwrap();
    says(good.block(&whole, &mut |_| true).unwrap_err(), "a model of 3 blocks after 0 of 3");
    let block = model(b, &arch(1), &block_of(&values, 0), DType::F32);
    assert!(!good.block(&block, &mut |_| false).unwrap(), "stopped");
    assert_eq!(good.seen(), 0);
}
