//! The decoder against PyTorch and Transformers (`fixtures/golden`), on every backend: what comes out of every block, logits, losses, and
//! the gradient of every parameter.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{FAMILIES, Figures, Golden, backends, bits, gradients, hidden, logits, model, nmse};
use paring_exec::{Ctx, Observer, Site, Tap};
use paring_ops::{Backend, Result};
use paring_tensor::{DType, Shape, Tensor};

/// NMSE of f32 against f32. Both sides round every operation, each in its own order of sums: 5e-13 is what that leaves.
const FORWARD: f64 = 1e-11;
/// NMSE. Backward goes through every operation once more, and sums over tokens: 3e-12.
const BACKWARD: f64 = 1e-10;
/// Relative, of a mean that PyTorch gives in f32: 8e-8.
const LOSS: f64 = 1e-6;
/// Relative. The divergence is a hundredth of the logarithms whose differences it sums, so their rounding weighs more: 2e-6.
const KL: f64 = 1e-5;

/// Runs `test` for every model on every backend.
fn each(test: impl Fn(&Golden, &dyn Backend, &mut Figures)) {
    for family in FAMILIES {
        let golden = Golden::open(family);
        for (name, backend) in backends() {
            test(&golden, &*backend, &mut Figures::new(&format!("{family}, {name}")));
        }
    }
}

fn relative(got: f64, want: f64) -> f64 {
    ((got - want) / want).abs()
}

/// The residual stream into every block, and what the final norm makes of it.
#[derive(Default)]
struct Streams(Vec<(Site, Vec<f32>)>);

impl Observer for Streams {
    fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> Result<()> {
        if matches!(site.tap, Tap::BlockIn | Tap::FinalNorm) {
            self.0.push((site, backend.download(x)?));
        }
        Ok(())
    }
}

#[test]
fn logits_and_hidden_states_are_those_of_pytorch() {
    each(|golden, backend, figures| {
        let model = golden.model(backend);
        let mut streams = Streams::default();
        let x = model.hidden(&mut Ctx::infer(backend).observe(&mut streams), &golden.batch(), None).unwrap().tensor;
        let logits = backend.download(&model.logits(backend, &x).unwrap()).unwrap();
        figures.check("logits", "all", nmse(&logits, &golden.get("logits")), FORWARD);
        assert_eq!(streams.0.len(), golden.arch().layers.len() + 1);
        for (l, (site, stream)) in streams.0.iter().enumerate() {
            assert_eq!(site.layer, l);
            let name = format!("hidden.{l}");
            // The embedding is copied, not computed.
            let bound = if l == 0 { 0.0 } else { FORWARD };
            figures.check("hidden states", &name, nmse(stream, &golden.get(&name)), bound);
        }
    });
}

#[test]
fn loss_and_every_gradient_are_those_of_pytorch_with_and_without_recomputing() {
    each(|golden, backend, figures| {
        let model = golden.model(backend);
        let (loss, grads) = gradients(backend, &model, &golden.batch(), false);
        figures.check("loss", "relative", relative(loss, golden.scalar("loss")), LOSS);
        for (spec, grad) in model.specs().iter().zip(&grads) {
            let want = golden.get(&format!("grad.{}", spec.name));
            figures.check("gradients", &spec.name, nmse(grad, &want), BACKWARD);
        }
        let (again, recomputed) = gradients(backend, &model, &golden.batch(), true);
        assert_eq!(again.to_bits(), loss.to_bits());
        for ((spec, kept), recomputed) in model.specs().iter().zip(&grads).zip(&recomputed) {
            assert_eq!(bits(recomputed), bits(kept), "{}", spec.name);
        }
    });
}

#[test]
fn the_divergence_from_a_teacher_is_that_of_pytorch() {
    each(|golden, backend, figures| {
        let mut scaled = golden.values();
        scaled.iter_mut().flat_map(|(_, values)| values).for_each(|v| *v *= 1.05);
        let teacher = model(backend, golden.arch(), &scaled, DType::F32);
        let (student, batch) = (golden.model(backend), golden.batch());
        let (x, teacher_x) = (hidden(backend, &student, &batch), hidden(backend, &teacher, &batch));
        let rows = batch.n_tokens() as f64;
        let heads = (&student.head().tensor, &teacher.head().tensor);
        let fused = backend.head_kl(None, &x, heads.0, &teacher_x, heads.1, 1.0).unwrap() / rows;
        figures.check("KL", "fused with the head", relative(fused, golden.scalar("kd_loss")), KL);

        // The same from PyTorch's own logits of the student.
        let shape = Shape::new(&[batch.n_tokens(), golden.arch().vocab]).unwrap();
        let upload = |values: &[f32]| backend.upload(values, DType::F32, shape).unwrap();
        let teacher_logits = upload(&logits(backend, &teacher, &batch));
        let rowwise = backend.kl_rows(&mut upload(&golden.get("logits")), &teacher_logits, 1.0).unwrap() / rows;
        figures.check("KL", "of rows of logits", relative(rowwise, golden.scalar("kd_loss")), KL);
    });
}
