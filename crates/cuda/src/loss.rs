//! Losses over rows of logits. Kernels give back what each row amounts to, in f64; logarithms and the sum over rows, in their order, are here.
use crate::{
    device::Device,
    driver::Address,
    grid::{aligned, row_threads, size},
    kernel::{Arguments, Launch, Signature, arguments},
};
use paring_ops::{Compared, IGNORE, Result, want_2d, want_indices, want_len};
use paring_tensor::{DType::F32, Tensor};

arguments! {
    /// Rows of logits become rows of gradients; `sums` is `[T, 3]`.
    struct CrossEntropy in "loss" for ["cross_entropy_rows_f32"] {
        logits: Address, targets: Address, sums: Address, v: u32, vector: u32, scale: f32,
    }
}
arguments! {
    /// The student's logits become gradients; `sums` is `[T, 5]`.
    struct Kl in "loss" for ["kl_rows_f32"] { student: Address, teacher: Address, sums: Address, v: u32, vector: u32, scale: f32 }
}
arguments! {
    /// Compares rows; `sums` is `[T, 8]`.
    struct Compare in "loss" for ["compare_rows_f32"] {
        student: Address, teacher: Address, targets: Address, sums: Address, v: u32, vector: u32,
    }
}

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[CrossEntropy::SIGNATURE, Kl::SIGNATURE, Compare::SIGNATURE];

/// Threads of a block at most: rows are long.
const THREADS: u32 = 512;

/// Whether rows of `v` f32 that begin at these addresses can be read 16 bytes at a time, and a launch of a block a row.
fn rows(entry: &'static str, rows: u32, v: usize, addresses: &[Address]) -> (bool, Launch) {
    let vector = v.is_multiple_of(4) && addresses.iter().all(|&address| aligned(&[(address, 16)]));
    (vector, Launch::linear(entry, rows, row_threads(v, if vector { 4 } else { 1 }, THREADS)))
}

/// `KL(p || q)` of a row: see `divergence` in `kernels/loss.cu`.
fn divergence(student_sum: f64, teacher_sum: f64, products: f64) -> f64 {
    products / teacher_sum + (student_sum.ln() - teacher_sum.ln())
}

pub(crate) fn cross_entropy_rows(device: &Device, logits_tv: &mut Tensor, targets: &[u32], scale: f32) -> Result<f64> {
    let op = "cross_entropy_rows";
    let (t, v) = (logits_tv.n_rows(), logits_tv.n_cols());
    want_len(op, "targets", targets.len(), t)?;
    want_indices(op, targets, v, true)?;
    let logits = device.write(op, logits_tv, F32)?;
    let (row_count, columns) = (size(op, t)?, size(op, v)?);
    if t == 0 || v == 0 {
        return Ok(0.0);
    }
    let (vector, launch) = rows("cross_entropy_rows_f32", row_count, v, &[logits]);
    let on_device = device.upload_slice(op, targets)?;
    let sums = device.scratch(op, t * 3 * size_of::<f64>())?;
    let arguments = CrossEntropy {
        logits,
        targets: on_device.address(),
        sums: sums.address(),
        v: columns,
        vector: u32::from(vector),
        scale,
    };
    device.launch(op, launch, arguments)?;
    let sums: Vec<[f64; 3]> = device.download_slice(op, sums.address(), t)?;
    let counted = sums.iter().zip(targets).filter(|(_, target)| **target != IGNORE);
    Ok(counted.map(|([max, sum, logit], _)| max + sum.ln() - logit).sum())
}

pub(crate) fn kl_rows(device: &Device, student_tv: &mut Tensor, teacher_tv: &Tensor, scale: f32) -> Result<f64> {
    let op = "kl_rows";
    let (t, v) = (student_tv.n_rows(), student_tv.n_cols());
    want_2d(op, "teacher", teacher_tv, t, v)?;
    let (teacher, student) = (device.read(op, teacher_tv, F32)?, device.write(op, student_tv, F32)?);
    let (row_count, columns) = (size(op, t)?, size(op, v)?);
    if t == 0 || v == 0 {
        return Ok(0.0);
    }
    let (vector, launch) = rows("kl_rows_f32", row_count, v, &[student, teacher]);
    let sums = device.scratch(op, t * 3 * size_of::<f64>())?;
    let vector = u32::from(vector);
    device.launch(op, launch, Kl { student, teacher, sums: sums.address(), v: columns, vector, scale })?;
    let sums: Vec<[f64; 3]> = device.download_slice(op, sums.address(), t)?;
    Ok(sums.iter().map(|[student, teacher, products]| divergence(*student, *teacher, *products)).sum())
}

pub(crate) fn compare_rows(
    device: &Device,
    student_tv: &Tensor,
    teacher_tv: &Tensor,
    targets: &[u32],
) -> Result<Compared> {
    let op = "compare_rows";
    let (t, v) = (student_tv.n_rows(), student_tv.n_cols());
    want_2d(op, "teacher", teacher_tv, t, v)?;
    want_len(op, "targets", targets.len(), t)?;
    want_indices(op, targets, v, true)?;
    let (student, teacher) = (device.read(op, student_tv, F32)?, device.read(op, teacher_tv, F32)?);
    let (row_count, columns) = (size(op, t)?, size(op, v)?);
    if t == 0 || v == 0 {
        return Ok(Compared::default());
    }
    let (vector, launch) = rows("compare_rows_f32", row_count, v, &[student, teacher]);
    let on_device = device.upload_slice(op, targets)?;
    let sums = device.scratch(op, t * 8 * size_of::<f64>())?;
    let arguments = Compare {
        student,
        teacher,
        targets: on_device.address(),
        sums: sums.address(),
        v: columns,
        vector: u32::from(vector),
    };
    device.launch(op, launch, arguments)?;
    let sums: Vec<[f64; 8]> = device.download_slice(op, sums.address(), t)?;
    let mut total = Compared::default();
    for (row, _) in sums.iter().zip(targets).filter(|(_, target)| **target != IGNORE) {
        let [student_max, student, teacher_max, teacher, products, student_logit, teacher_logit, agree] = *row;
        total += Compared {
            rows: 1,
            student_nll: student_max + student.ln() - student_logit,
            teacher_nll: teacher_max + teacher.ln() - teacher_logit,
            kl: divergence(student, teacher, products),
            agree: u64::from(agree == 1.0),
        };
    }
    Ok(total)
}
