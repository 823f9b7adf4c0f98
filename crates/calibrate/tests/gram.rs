//! Gram matrices against `x^T x` in f64 of the very activations that the model shows.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{Figures, backends, config, model, nmse, random_ids, random_values};
use paring_calibrate::Gram;
use paring_exec::{Ctx, Observer, Site, Tap};
use paring_model::{Arch, Batch};
use paring_ops::{Backend, Result};
use paring_tensor::{DType, Tensor};

/// Keeps the input of every `down_proj`.
#[derive(Default)]
struct Activations(Vec<(usize, Vec<f32>)>);

impl Observer for Activations {
    fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> Result<()> {
        if site.tap == Tap::MlpHidden {
            self.0.push((site.layer, backend.download(x)?));
        }
        Ok(())
    }
}

/// `sum x^T x` over the activations of one layer.
fn direct(activations: &Activations, layer: usize, ffn: usize) -> Vec<f32> {
    let mut sum = vec![0f64; ffn * ffn];
    for (_, x) in activations.0.iter().filter(|(l, _)| *l == layer) {
        for row in x.chunks(ffn) {
            for (i, &a) in row.iter().enumerate() {
                for (j, &b) in row.iter().enumerate() {
                    sum[i * ffn + j] += f64::from(a) * f64::from(b);
                }
            }
        }
    }
    sum.into_iter().map(|v| v as f32).collect()
}

#[test]
fn gram_matrices_are_sums_of_products_of_activations() {
    let arch = Arch::from_config(&config(true)).unwrap();
    let ids: Vec<Vec<u32>> = [100, 37].iter().map(|&n| random_ids(arch.vocab, n, n as u64)).collect();
    for (name, backend) in backends() {
        let backend = &*backend;
        // A Gram matrix is f32 whatever the weights are.
        for dtype in [DType::F32, DType::BF16] {
            let model = model(backend, &arch, &random_values(&arch, 3), dtype);
            let (mut gram, mut second) =
                (Gram::new(backend, &arch, 0..2).unwrap(), Gram::new(backend, &arch, 1..2).unwrap());
            let mut activations = Activations::default();
            for ids in &ids {
                let batch = Batch::pack([ids.as_slice()]);
                let run = |observer: &mut dyn Observer| {
                    model.hidden(&mut Ctx::infer(backend).observe(observer), &batch, None).unwrap();
                };
                run(&mut gram);
                run(&mut second);
                run(&mut activations);
            }
            let mut figures = Figures::new(&format!("{name}, weights {dtype}"));
            for layer in 0..2 {
                let ffn = arch.layers[layer].ffn;
                let (got, want) = (gram.layer(backend, layer).unwrap().unwrap(), direct(&activations, layer, ffn));
                // Each entry sums 137 products in f32.
                figures.check("Gram matrix", &format!("layer {layer}"), nmse(&got, &want), 1e-12);
                for i in 0..ffn {
                    for j in 0..i {
                        assert_eq!(got[i * ffn + j].to_bits(), got[j * ffn + i].to_bits(), "{name}: not symmetric");
                    }
                }
            }
            // A part of the layers sees the same.
            assert_eq!(second.layer(backend, 1).unwrap(), gram.layer(backend, 1).unwrap());
            assert_eq!(second.layer(backend, 0).unwrap(), None);
            assert_eq!(second.layer(backend, 2).unwrap(), None);
        }
    }
}
