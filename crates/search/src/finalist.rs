//! The last rung: a candidate is really cut, learns for a short while, and is measured on a text that nobody has seen.
use crate::{Error, Nested, Result};
use paring_eval::likelihood;
use paring_model::{Axis, params};
use paring_prune::Dims;
use paring_surgery::{Cut, Weights, model, student_arch};
use paring_train::{Control, DataOrder, Monitor, Objective, Outcome, StepReport, TrainConfig, Trainer, run};
use serde::{Deserialize, Serialize};

/// How finalists learn.
#[derive(Clone, Debug)]
pub struct Distillation {
    /// Learning rates, precision and so on.
    pub config: TrainConfig,
    /// Steps; 0 for none.
    pub steps: u64,
    /// Windows of a step.
    pub per_step: usize,
    /// Windows that run at once.
    pub micro: usize,
    /// Of the order of windows.
    pub seed: u64,
}

/// What a finalist is worth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finalist {
    /// Negative log-likelihood of the held-out text before it learned, nats per predicted token.
    pub zero_shot_nll: f64,
    /// And after.
    pub nll: f64,
    /// Tokens that it learned on.
    pub tokens: u64,
}

/// Asks after each step whether to go on.
struct Asked<'f>(&'f mut dyn FnMut(u64) -> bool);

impl Monitor for Asked<'_> {
    fn step(&mut self, _: &Trainer<'_>, report: &StepReport) -> paring_train::Result<Control> {
        Ok(if (self.0)(report.step) { Control::Continue } else { Control::Stop })
    }
}

/// Cuts a student of these sizes from `teacher`, with the repairs of `nested`, and distils it on `windows`. `go_on` is asked after every step;
/// `None` when it said no.
///
/// The teacher that it learns from is the sorted one, which is the same function and in memory already. `teacher` is what was sorted; of a rotated
/// one the head is untied, and learns on its own, also in students whose width asks for no rotation.
///
/// # Errors
/// [`Error::NoWindows`], those of cutting, training and the model.
pub fn distil(
    nested: &mut Nested<'_>,
    teacher: &dyn Weights,
    student: &Dims,
    windows: &Vec<Vec<u32>>,
    heldout: &[&[u32]],
    settings: &Distillation,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<Finalist>> {
    if heldout.is_empty() {
        return Err(Error::NoWindows { what: "of held-out text" });
    }
    let backend = nested.backend();
    let plan = nested.ranking().plan(student)?;
    let arch = student_arch(teacher.arch(), &plan);
    let mut cut = Cut::new(teacher, &plan);
    for spec in params(&arch) {
        if let (Some(layer), [Axis::Hidden, Axis::Ffn]) = (spec.layer, &spec.axes[..])
            && let Some(values) = nested.repaired(plan.layers()[layer].layer, student)?
        {
            cut.set(&spec, values)?;
        }
        if spec.axes == [Axis::Hidden] {
            let layer = spec.layer.map(|l| plan.layers()[l].layer);
            let gain = nested.gain(&spec, layer, student.hidden);
            let values = cut.read(&spec)?.into_iter().map(|g| (f64::from(g) * gain) as f32).collect();
            cut.set(&spec, values)?;
        }
    }
    let measure = |m: &paring_model::Model| likelihood(backend, m, heldout, settings.micro, &mut |_| {}).map(|l| l.nll);
    if settings.steps == 0 {
        let zero_shot_nll = measure(&model(&cut, backend, settings.config.dtype)?)?;
        return Ok(Some(Finalist { zero_shot_nll, nll: zero_shot_nll, tokens: 0 }));
    }
    let sorted = nested.model(&nested.ranking().teacher().clone())?;
    let mut trainer = Trainer::new(backend, arch, settings.config.clone(), |spec| cut.read(spec).map_err(Error::from))?;
    let zero_shot_nll = measure(trainer.model())?;
    let order = DataOrder::new(windows.len(), settings.per_step, settings.seed);
    let objective = Objective::ForwardKl(&sorted);
    let mut asked = Asked(go_on);
    let outcome = run(&mut trainer, windows, &order, settings.micro, settings.steps, objective, None, &mut asked)?;
    if outcome == Outcome::Stopped {
        return Ok(None);
    }
    Ok(Some(Finalist { zero_shot_nll, nll: measure(trainer.model())?, tokens: trainer.token_count() }))
}
