//! What heads and key/value groups add to the residual stream: `||attn_out_h W_o||`, token by token (ModelOpt's
//! `IndependentKvHeadContribution`). One product with `o_proj`, head by head.
use paring_exec::ParamId;
use paring_model::Model;
use paring_ops::{Accum, Backend, Error, Result};
use paring_tensor::{DType, Shape, Tensor};

/// The `o_proj` of every layer of a model.
#[derive(Debug)]
pub(crate) struct Contributions(Vec<Tensor>);

impl Contributions {
    pub(crate) fn new(model: &Model) -> Self {
        let ids: Vec<ParamId> =
            model.specs().iter().filter(|s| s.name.ends_with("o_proj.weight")).map(|s| s.id).collect();
        Contributions(ids.into_iter().map(|id| model.weight(id).tensor.clone()).collect())
    }

    /// `||x_h W_o,h^T||^2` of every token of `x` `[T, Nq * d]`: for each of the query heads, `[T * Nq]`, and for each of the groups, whose
    /// heads' products are added before, `[T * Nkv]`.
    pub(crate) fn squares(
        &self,
        backend: &dyn Backend,
        layer: usize,
        [heads, groups]: [usize; 2],
        x: &Tensor,
    ) -> Result<[Vec<f64>; 2]> {
        let op = "contribution";
        let lost = || Error::Observer { message: format!("calibration: no o_proj of layer {layer}") };
        let w = self.0.get(layer).ok_or_else(lost)?;
        let (tokens, hidden, head_dim) = (x.n_rows(), w.n_rows(), x.n_cols() / heads);
        let (x, values) = (backend.download(x)?, backend.download(w)?);
        let shape = |rows, columns| Shape::new(&[rows, columns]).map_err(Error::in_op(op));
        let (mut of_heads, mut of_groups) = (vec![0.0; tokens * heads], vec![0.0; tokens * groups]);
        let store = |to: &mut [f64], columns: usize, column: usize, y: &Tensor| -> Result<()> {
            for (t, products) in backend.row_products(y, y)?.iter().enumerate() {
                to[t * columns + column] = products.xx;
            }
            Ok(())
        };
        for group in 0..groups {
            let mut sum: Option<Tensor> = None;
            for head in group * heads / groups..(group + 1) * heads / groups {
                let part = |values: &[f32]| -> Vec<f32> {
                    let rows = values.chunks(heads * head_dim);
                    rows.flat_map(|row| &row[head * head_dim..(head + 1) * head_dim]).copied().collect()
                };
                let x = backend.upload(&part(&x), DType::F32, shape(tokens, head_dim)?)?;
                let w = backend.upload(&part(&values), w.dtype(), shape(hidden, head_dim)?)?;
                let mut y = backend.alloc(DType::F32, shape(tokens, hidden)?)?;
                backend.linear(&mut y, &x, &w)?;
                store(&mut of_heads, heads, head, &y)?;
                match &mut sum {
                    Some(sum) => backend.accumulate(sum, Accum::Add, &y)?,
                    None => sum = Some(y),
                }
            }
            if let Some(sum) = &sum {
                store(&mut of_groups, groups, group, sum)?;
            }
        }
        Ok([of_heads, of_groups])
    }
}
