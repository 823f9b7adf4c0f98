//! A student beside its teacher on the same windows.
use paring_exec::Ctx;
use paring_model::{Batch, Model, Result};
use paring_ops::{Backend, Compared};
use serde::{Deserialize, Serialize};

/// What a student kept of its teacher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// The teacher's negative log-likelihood, nats per predicted token.
    pub teacher_nll: f64,
    /// The student's.
    pub student_nll: f64,
    /// Mean of KL(teacher || student) over predicted tokens, nats.
    pub kl: f64,
    /// Part of the predicted tokens on which both put the same token first.
    pub top1_agreement: f64,
    /// Predicted tokens.
    pub tokens: u64,
}

/// Compares two models on windows, `batch` of them at a time. `progress` is told the number of windows done.
///
/// # Errors
/// Those of the models.
pub fn compare(
    backend: &dyn Backend,
    teacher: &Model,
    student: &Model,
    windows: &[&[u32]],
    batch: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Agreement> {
    let (mut sum, mut done) = (Compared::default(), 0);
    for chunk in windows.chunks(batch.max(1)) {
        let batch = Batch::pack(chunk.iter().copied());
        let teacher_x = teacher.hidden(&mut Ctx::infer(backend), &batch, None)?.tensor;
        let student_x = student.hidden(&mut Ctx::infer(backend), &batch, None)?.tensor;
        let heads = (&student.head().tensor, &teacher.head().tensor);
        sum += backend.head_compare(&student_x, heads.0, &teacher_x, heads.1, &batch.next_tokens())?;
        done += chunk.len();
        progress(done);
    }
    let n = sum.rows.max(1) as f64;
    Ok(Agreement {
        teacher_nll: sum.teacher_nll / n,
        student_nll: sum.student_nll / n,
        kl: sum.kl / n,
        top1_agreement: sum.agree as f64 / n,
        tokens: sum.rows,
    })
}
