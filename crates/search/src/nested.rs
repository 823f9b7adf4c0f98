//! A sorted teacher, and candidates as views of it.
//!
//! The teacher's tensors are sorted once by a [`Ranking`]: channels of the residual stream everywhere alike, neurons within their layer, key/value
//! groups within their layer and query heads within their group. A student that keeps the best of every axis then is made of the first rows
//! and first columns of the teacher's matrices: views of the same memory ([`paring_tensor::Tensor::first_columns`]), no copies and no
//! second model. Two things are no views. The queries of a student with fewer heads in every group lie apart in the teacher; their matrices
//! (and their counterparts in o_proj) are copied once for each number of heads per group. And a `down_proj` that least squares has repaired
//! belongs to one number of neurons; those are kept per width ([`crate::repair`]).
use crate::{Ranking, Result};
use paring_exec::ParamId;
use paring_model::{Arch, Axis, Model, ParamSpec, params};
use paring_ops::{Backend, Error as OpsError};
use paring_prune::Dims;
use paring_surgery::{Weights, arch_of};
use paring_tensor::{DType, Shape, Tensor};
use std::collections::HashMap;

/// The sorted teacher.
#[derive(Debug)]
pub struct Nested<'b> {
    backend: &'b dyn Backend,
    arch: Arch,
    ranking: Ranking,
    /// In the order of [`params`] of the teacher.
    tensors: Vec<Tensor>,
    /// Heads per group and parameter: `q_proj` and `o_proj` on the best heads of every group.
    thinned: HashMap<(usize, usize), Tensor>,
    /// Neurons and layer: `down_proj`, `[hidden, neurons]`.
    repaired: HashMap<(usize, usize), Tensor>,
    /// Of every norm, the final one last: what the directions of the unit-RMS stream before it hold on average, summed up to each.
    energies: Option<Vec<Vec<f64>>>,
    /// The longest sequence that is run: a shorter table of angles.
    positions: usize,
}

impl<'b> Nested<'b> {
    /// Sorts `teacher`, one tensor at a time; matrices are kept in `dtype`. Sequences of at most `positions` tokens will be run.
    ///
    /// # Errors
    /// Those of the weights and of the backend.
    pub fn new(
        teacher: &dyn Weights,
        ranking: Ranking,
        backend: &'b dyn Backend,
        dtype: DType,
        positions: usize,
    ) -> Result<Nested<'b>> {
        let arch = teacher.arch().clone();
        let mut tensors = Vec::new();
        for spec in params(&arch) {
            let values = sorted(&ranking, &arch, &spec, &teacher.read(&spec)?);
            let shape = Shape::new(&spec.shape).map_err(OpsError::in_op("nested"))?;
            tensors.push(backend.upload(&values, spec.compute_dtype(dtype), shape)?);
        }
        let (thinned, repaired) = (HashMap::new(), HashMap::new());
        Ok(Nested { backend, arch, ranking, tensors, thinned, repaired, energies: None, positions })
    }

    /// The teacher's architecture.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// How it is sorted.
    pub fn ranking(&self) -> &Ranking {
        &self.ranking
    }

    /// What computes.
    pub fn backend(&self) -> &'b dyn Backend {
        self.backend
    }

    /// From now on students with so many neurons have this `down_proj`, `[teacher's hidden, neurons]`, in the teacher's `layer`; both axes
    /// sorted.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn set_repaired(&mut self, layer: usize, neurons: usize, values: &[f32]) -> Result<()> {
        let dtype = self.tensors[0].dtype();
        let shape = Shape::new(&[self.arch.hidden, neurons]).map_err(OpsError::in_op("nested"))?;
        self.repaired.insert((neurons, layer), self.backend.upload(values, dtype, shape)?);
        Ok(())
    }

    /// From now on the norms of narrower students return what the whole ones would have on average. `energies` are, for every norm in the
    /// order of the model, the mean squares of the sorted channels of the unit-RMS stream before it, `[2 L + 1][H]`.
    pub fn set_energies(&mut self, energies: Vec<Vec<f64>>) {
        let summed = |norm: Vec<f64>| {
            let mut sum = 0.0;
            let up_to = |e: f64| {
                sum += e;
                sum
            };
            norm.into_iter().map(up_to).collect()
        };
        self.energies = Some(energies.into_iter().map(summed).collect());
    }

    /// What the gain of a norm is multiplied by in a student of this width: the root of the mean square of what is kept of the unit-RMS
    /// stream (`spec/beyond.md`, section 2, 5). `layer` is the teacher's. 1 where nothing is known, or nothing is cut.
    pub fn gain(&self, spec: &ParamSpec, layer: Option<usize>, hidden: usize) -> f64 {
        let layers = self.arch.layers.len();
        let norm =
            layer.map_or(2 * layers, |l| 2 * l + usize::from(spec.name.ends_with("post_attention_layernorm.weight")));
        match self.energies.as_ref().and_then(|e| e.get(norm)?.get(hidden.checked_sub(1)?)) {
            Some(kept) if hidden < self.arch.hidden && 0.0 < *kept => (kept / hidden as f64).sqrt(),
            _ => 1.0,
        }
    }

    /// The repaired `down_proj` of a student's layer as a plan orders it: rows and columns ascending in the teacher's numbers. `None` where
    /// there is none.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn repaired(&self, layer: usize, student: &Dims) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.repaired.get(&(student.ffn, layer)) else { return Ok(None) };
        let values = self.backend.download(tensor)?;
        let ascending = |order: &[usize]| {
            let mut places: Vec<usize> = (0..order.len()).collect();
            places.sort_by_key(|&i| order[i]);
            places
        };
        let rows = ascending(&self.ranking.hidden()[..student.hidden]);
        let columns = ascending(&self.ranking.ffn(layer)[..student.ffn]);
        let value = |r: usize, c: usize| values[r * student.ffn + c];
        Ok(Some(rows.iter().flat_map(|&r| columns.iter().map(move |&c| value(r, c))).collect()))
    }

    /// A student of these sizes, made of views.
    ///
    /// # Errors
    /// Those of the model and of the backend.
    pub fn model(&mut self, student: &Dims) -> Result<Model> {
        let layers = self.ranking.layers(student.layers);
        let max_positions = self.positions.min(self.arch.max_positions);
        // The head is the sorted teacher's: of a rotated one it is no embedding, also for students that need no rotation.
        let arch = Arch { max_positions, tied: self.arch.tied, ..arch_of(&self.arch, student) };
        let per_layer = (params(&self.arch).len() - params(&Arch { layers: Vec::new(), ..self.arch.clone() }).len())
            / self.arch.layers.len().max(1);
        let mut tensors = Vec::new();
        for spec in params(&arch) {
            // Layers are whole runs of the table: the teacher's parameter lies as far behind as its layer.
            let id = match spec.layer {
                Some(layer) => spec.id.0 + (layers[layer] - layer) * per_layer,
                None if spec.id.0 == 0 => 0,
                None => spec.id.0 + (self.arch.layers.len() - student.layers) * per_layer,
            };
            tensors.push(self.view(&spec, id, spec.layer.map(|l| layers[l]), student)?);
        }
        Ok(Model::from_tensors(arch, self.backend, tensors)?)
    }

    /// The first rows and columns of the teacher's parameter `id` that have the shape of `spec`.
    fn view(&mut self, spec: &ParamSpec, id: usize, layer: Option<usize>, student: &Dims) -> Result<Tensor> {
        let view = |t: &Tensor| -> paring_ops::Result<Tensor> {
            let error = OpsError::in_op("nested");
            let rows = t.rows(0..spec.shape[0]).map_err(error)?;
            match spec.shape[..] {
                [_, columns] => rows.first_columns(columns).map_err(OpsError::in_op("nested")),
                _ => Ok(rows),
            }
        };
        if let (Some(layer), [Axis::Hidden, Axis::Ffn]) = (layer, &spec.axes[..])
            && let Some(repaired) = self.repaired.get(&(student.ffn, layer))
        {
            return Ok(view(repaired)?);
        }
        let gain = if spec.axes == [Axis::Hidden] { self.gain(spec, layer, student.hidden) } else { 1.0 };
        if gain != 1.0 {
            // A few hundred numbers: the only ones that are copied for every candidate.
            let values = self.backend.download(&view(&self.tensors[id])?)?;
            let scaled: Vec<f32> = values.into_iter().map(|g| (f64::from(g) * gain) as f32).collect();
            let shape = Shape::new(&spec.shape).map_err(OpsError::in_op("nested"))?;
            return Ok(self.backend.upload(&scaled, DType::F32, shape)?);
        }
        let per_group = student.heads_per_group();
        if per_group < self.ranking.teacher().heads_per_group() && spec.axes.contains(&Axis::QHeads) {
            if !self.thinned.contains_key(&(per_group, id)) {
                let thinned = self.thin(id, per_group, spec.axes[0] == Axis::QHeads)?;
                self.thinned.insert((per_group, id), thinned);
            }
            if let Some(thinned) = self.thinned.get(&(per_group, id)) {
                return Ok(view(thinned)?);
            }
        }
        Ok(view(&self.tensors[id])?)
    }

    /// A copy of a matrix with the first `per_group` heads of every group along its rows or its columns.
    fn thin(&self, id: usize, per_group: usize, along_rows: bool) -> Result<Tensor> {
        let (t, d) = (self.ranking.teacher(), self.arch.head_dim);
        let kept: Vec<usize> =
            (0..t.heads).filter(|h| h % t.heads_per_group() < per_group).flat_map(|h| h * d..(h + 1) * d).collect();
        let tensor = &self.tensors[id];
        let (values, columns) = (self.backend.download(tensor)?, tensor.n_cols());
        let (thin, shape): (Vec<f32>, _) = if along_rows {
            let rows = kept.iter().flat_map(|&r| &values[r * columns..(r + 1) * columns]);
            (rows.copied().collect(), [kept.len(), columns])
        } else {
            let row = |row: &[f32]| kept.iter().map(|&c| row[c]).collect::<Vec<f32>>();
            (values.chunks_exact(columns).flat_map(row).collect(), [tensor.n_rows(), kept.len()])
        };
        let shape = Shape::new(&shape).map_err(OpsError::in_op("nested"))?;
        Ok(self.backend.upload(&thin, tensor.dtype(), shape)?)
    }

    /// The sorted gain of every norm, in the order of the model.
    pub(crate) fn gains(&self) -> Result<Vec<Vec<f32>>> {
        let norms = params(&self.arch).into_iter().filter(|s| s.axes == [Axis::Hidden]);
        norms.map(|s| Ok(self.backend.download(&self.tensors[s.id.0])?)).collect()
    }

    /// The sorted `down_proj` of a layer of the teacher, `[hidden, F]`.
    pub(crate) fn down_proj(&self, layer: usize) -> Result<Vec<f32>> {
        let specs = params(&self.arch);
        let spec = specs.iter().find(|s| s.layer == Some(layer) && s.axes == [Axis::Hidden, Axis::Ffn]);
        let id = spec.map_or(ParamId(0), |s| s.id);
        Ok(self.backend.download(&self.tensors[id.0])?)
    }
}

/// The values of one parameter of the teacher with both axes sorted.
fn sorted(ranking: &Ranking, arch: &Arch, spec: &ParamSpec, values: &[f32]) -> Vec<f32> {
    let d = arch.head_dim;
    let expand = |heads: Vec<usize>| heads.into_iter().flat_map(|h| h * d..(h + 1) * d).collect::<Vec<_>>();
    let order = |axis: Axis| -> Option<Vec<usize>> {
        match (axis, spec.layer) {
            (Axis::Hidden, _) => Some(ranking.hidden().to_vec()),
            (Axis::Ffn, Some(l)) => Some(ranking.ffn(l).to_vec()),
            (Axis::QHeads, Some(l)) => Some(expand(ranking.heads(l, usize::MAX).collect())),
            (Axis::KvHeads, Some(l)) => Some(expand(ranking.groups(l).to_vec())),
            (Axis::Vocab | Axis::Ffn | Axis::QHeads | Axis::KvHeads, _) => None,
        }
    };
    let columns = spec.shape.get(1).copied();
    let rows = order(spec.axes[0]).unwrap_or_else(|| (0..spec.shape[0]).collect());
    match columns {
        None => rows.iter().map(|&r| values[r]).collect(),
        Some(columns) => {
            let order = order(spec.axes[1]).unwrap_or_else(|| (0..columns).collect());
            rows.iter().flat_map(|&r| order.iter().map(move |&c| values[r * columns + c])).collect()
        }
    }
}
