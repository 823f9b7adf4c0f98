//! What a student keeps of its teacher: chosen by score, or read from a file; valid in either case.
use crate::{Axis, Dims, Error, Result, Selection, Target, check_loadable, warnings};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cmp::Ordering;

/// Scores to choose by: the higher, the sooner kept. Per layer where there are two levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Channels of the residual stream, `[H]`.
    pub hidden: Vec<f64>,
    /// Neurons, `[L][F]`.
    pub ffn: Vec<Vec<f64>>,
    /// Query heads, `[L][Nq]`.
    pub heads: Vec<Vec<f64>>,
    /// Key/value groups, `[L][Nkv]`.
    pub kv_groups: Vec<Vec<f64>>,
    /// Layers, `[L]`.
    pub block_influence: Vec<f64>,
}

impl Scores {
    /// # Errors
    /// [`Error::ScoreLength`] or [`Error::ScoreValue`].
    pub fn check(&self, dims: &Dims) -> Result<()> {
        let check = |scores: String, values: &[f64], want: usize| {
            if values.len() != want {
                return Err(Error::ScoreLength { scores, got: values.len(), want });
            }
            match values.iter().position(|v| !v.is_finite()) {
                Some(index) => Err(Error::ScoreValue { scores, index }),
                None => Ok(()),
            }
        };
        check("hidden".into(), &self.hidden, dims.hidden)?;
        check("block influence".into(), &self.block_influence, dims.layers)?;
        let per_layer = [
            ("ffn", &self.ffn, dims.ffn),
            ("head", &self.heads, dims.heads),
            ("KV group", &self.kv_groups, dims.kv_groups),
        ];
        for (name, scores, want) in per_layer {
            if scores.len() != dims.layers {
                let scores_of = format!("layers of {name}");
                return Err(Error::ScoreLength { scores: scores_of, got: scores.len(), want: dims.layers });
            }
            for (l, values) in scores.iter().enumerate() {
                check(format!("{name} (layer {l})"), values, want)?;
            }
        }
        Ok(())
    }
}

/// What is kept of one layer. All lists ascend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerPlan {
    /// The layer's number in the teacher, from 0.
    pub layer: usize,
    /// Neurons of the MLP.
    pub ffn: Vec<usize>,
    /// Query heads, the same number in every kept group.
    pub heads: Vec<usize>,
    /// Key/value groups.
    pub kv_groups: Vec<usize>,
}

/// What a student keeps of its teacher. Its lists ascend, are in range and fit together: there is no other way to make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    teacher: Dims,
    hidden: Vec<usize>,
    layers: Vec<LayerPlan>,
}

impl Plan {
    /// Keeps the best by score; of equals, the one with the lower index. Every list of the plan ascends.
    ///
    /// Hidden channels are chosen once for the model, neurons and heads per layer, query heads within their key/value group
    /// (arXiv 2407.14679, section 2.2). The layers with the lowest block influence go.
    ///
    /// # Errors
    /// Those of [`Target::student`], [`Scores::check`] and [`check_loadable`].
    pub fn choose(teacher: &Dims, scores: &Scores, target: &Target) -> Result<Plan> {
        let student = target.student(teacher)?;
        scores.check(teacher)?;
        check_loadable(teacher, &student)?;
        let kept_layers = match &target.drop_layers {
            Some(drop) => (0..teacher.layers).filter(|l| !drop.contains(l)).collect(),
            None => top(&scores.block_influence, student.layers),
        };
        let per_group = teacher.heads_per_group();
        let layers = kept_layers
            .into_iter()
            .map(|layer| {
                let kv_groups = top(&scores.kv_groups[layer], student.kv_groups);
                let heads = kv_groups.iter().flat_map(|&g| {
                    let first = g * per_group;
                    let best = top(&scores.heads[layer][first..first + per_group], student.heads_per_group());
                    best.into_iter().map(move |h| first + h)
                });
                LayerPlan { layer, ffn: top(&scores.ffn[layer], student.ffn), heads: heads.collect(), kv_groups }
            })
            .collect();
        Plan::new(*teacher, top(&scores.hidden, student.hidden), layers)
    }

    /// A plan from its parts: what a reader of plan files needs, or whoever chooses in another way.
    ///
    /// # Errors
    /// [`Error::Dims`]; [`Error::Plan`] when a list is empty, does not ascend or leaves its range, when layers differ in size, or
    /// when the query heads are not the same number in every kept group.
    pub fn new(teacher: Dims, hidden: Vec<usize>, layers: Vec<LayerPlan>) -> Result<Plan> {
        teacher.check()?;
        let fail = |what: String| Err(Error::Plan { what });
        ascending("hidden channels", &hidden, teacher.hidden)?;
        let numbers: Vec<usize> = layers.iter().map(|l| l.layer).collect();
        ascending("layers", &numbers, teacher.layers)?;
        for l in &layers {
            let name = |what: &str| format!("{what} of layer {}", l.layer);
            ascending(&name("neurons"), &l.ffn, teacher.ffn)?;
            ascending(&name("query heads"), &l.heads, teacher.heads)?;
            ascending(&name("KV groups"), &l.kv_groups, teacher.kv_groups)?;
            if !l.heads.len().is_multiple_of(l.kv_groups.len()) {
                let what = name("query heads");
                return fail(format!(
                    "{} {what}, expected a multiple of its {} KV groups",
                    l.heads.len(),
                    l.kv_groups.len()
                ));
            }
            let per_group = l.heads.len() / l.kv_groups.len();
            for (heads, &group) in l.heads.chunks(per_group).zip(&l.kv_groups) {
                // Attention maps query head h to group h / per_group, so the kept heads must line up with the kept groups.
                if let Some(head) = heads.iter().find(|&h| h / teacher.heads_per_group() != group) {
                    return fail(format!(
                        "query head {head} of layer {} is not in KV group {group}, expected {per_group} heads in each kept group",
                        l.layer
                    ));
                }
            }
            let size = |l: &LayerPlan| [l.ffn.len(), l.heads.len(), l.kv_groups.len()];
            if size(l) != size(&layers[0]) {
                let (got, want) = (size(l), size(&layers[0]));
                return fail(format!(
                    "layer {} keeps {got:?} neurons, heads and groups, expected {want:?} as in layer {}",
                    l.layer, layers[0].layer
                ));
            }
        }
        Ok(Plan { teacher, hidden, layers })
    }

    /// The plan that keeps everything.
    ///
    /// # Errors
    /// [`Error::Dims`].
    pub fn everything(teacher: Dims) -> Result<Plan> {
        teacher.check()?;
        let all = |n: usize| (0..n).collect::<Vec<_>>();
        let layer = |layer| LayerPlan {
            layer,
            ffn: all(teacher.ffn),
            heads: all(teacher.heads),
            kv_groups: all(teacher.kv_groups),
        };
        Plan::new(teacher, all(teacher.hidden), (0..teacher.layers).map(layer).collect())
    }

    /// Sizes of the teacher.
    pub fn teacher(&self) -> &Dims {
        &self.teacher
    }

    /// Sizes of the student. `head_dim` is the teacher's, so it has to be explicit in the student's config.
    pub fn student(&self) -> Dims {
        let first = &self.layers[0]; // never empty: checked when the plan was made
        Dims {
            layers: self.layers.len(),
            hidden: self.hidden.len(),
            ffn: first.ffn.len(),
            heads: first.heads.len(),
            kv_groups: first.kv_groups.len(),
            ..self.teacher
        }
    }

    /// Kept channels of the residual stream, ascending.
    pub fn hidden(&self) -> &[usize] {
        &self.hidden
    }

    /// What is kept of the kept layers, in the order of both models.
    pub fn layers(&self) -> &[LayerPlan] {
        &self.layers
    }

    /// The student's number of a layer of the teacher; `None` if the layer is dropped.
    pub fn student_layer(&self, teacher_layer: usize) -> Option<usize> {
        self.layers.binary_search_by_key(&teacher_layer, |l| l.layer).ok()
    }

    /// Layers of the teacher that the student lacks, ascending.
    pub fn dropped_layers(&self) -> Vec<usize> {
        (0..self.teacher.layers).filter(|&l| self.student_layer(l).is_none()).collect()
    }

    /// What a user should know before taking this plan: see [`warnings`].
    pub fn warnings(&self) -> Vec<String> {
        warnings(&self.teacher, &self.student())
    }

    /// Indices to keep along a dimension of a teacher's tensor; `None` keeps all. Heads are expanded to rows of `head_dim`.
    ///
    /// `layer` is the teacher's number of the tensor's layer; axes that all layers share ignore it.
    ///
    /// # Errors
    /// [`Error::DroppedLayer`]; [`Error::Plan`] for an axis of a layer without one.
    pub fn indices(&self, axis: Axis, layer: Option<usize>) -> Result<Option<Cow<'_, [usize]>>> {
        let of_layer = || match layer {
            None => Err(Error::Plan { what: format!("{axis:?} is an axis of a layer, expected the layer's number") }),
            Some(layer) => self.student_layer(layer).map(|i| &self.layers[i]).ok_or(Error::DroppedLayer { layer }),
        };
        let rows = |heads: &[usize]| -> Vec<usize> {
            let d = self.teacher.head_dim;
            heads.iter().flat_map(|&h| h * d..(h + 1) * d).collect()
        };
        Ok(match axis {
            Axis::Vocab | Axis::Fixed => None,
            Axis::Hidden => Some(Cow::Borrowed(&self.hidden)),
            Axis::Ffn => Some(Cow::Borrowed(&of_layer()?.ffn)),
            Axis::QHeads => Some(Cow::Owned(rows(&of_layer()?.heads))),
            Axis::KvHeads => Some(Cow::Owned(rows(&of_layer()?.kv_groups))),
        })
    }

    /// How to slice a tensor of the teacher.
    ///
    /// `axes` says what each dimension of `shape` counts, `layer` is the teacher's number of the tensor's layer.
    ///
    /// # Errors
    /// [`Error::TensorShape`] with the tensor's name, else those of [`Plan::indices`].
    pub fn selection(&self, tensor: &str, shape: &[usize], axes: &[Axis], layer: Option<usize>) -> Result<Selection> {
        let mut want = Vec::new();
        if axes.len() == shape.len() {
            want.extend(axes.iter().zip(shape).map(|(&axis, &size)| self.teacher_size(axis).unwrap_or(size)));
        }
        if want != shape {
            return Err(Error::TensorShape { tensor: tensor.into(), got: shape.to_vec(), want });
        }
        let keep = axes
            .iter()
            .zip(shape)
            // A complete list is no list: whole dimensions are copied in one piece.
            .map(|(&axis, &size)| Ok(self.indices(axis, layer)?.filter(|kept| kept.len() < size).map(Cow::into_owned)))
            .collect::<Result<Vec<_>>>()?;
        Selection::new(tensor, shape, keep)
    }

    fn teacher_size(&self, axis: Axis) -> Option<usize> {
        let t = &self.teacher;
        match axis {
            Axis::Fixed => None,
            Axis::Vocab => Some(t.vocab),
            Axis::Hidden => Some(t.hidden),
            Axis::Ffn => Some(t.ffn),
            Axis::QHeads => Some(t.heads * t.head_dim),
            Axis::KvHeads => Some(t.kv_groups * t.head_dim),
        }
    }
}

/// The indices of the `k` highest scores, ascending; of equal scores the lower index wins.
fn top(scores: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Not `total_cmp`: it puts -0 below 0, and they are equal scores. All scores are finite by now.
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal).then(a.cmp(&b)));
    order.truncate(k);
    order.sort_unstable();
    order
}

pub(crate) fn ascending(what: &str, list: &[usize], len: usize) -> Result<()> {
    let fail = |what: String| Err(Error::Plan { what });
    if list.is_empty() {
        return fail(format!("no {what} are kept, expected at least 1"));
    }
    if let Some(w) = list.windows(2).find(|w| w[0] >= w[1]) {
        return fail(format!("{what} are not ascending: {} is followed by {}", w[0], w[1]));
    }
    match list.last() {
        Some(&last) if last >= len => fail(format!("{what} end with {last}, expected less than {len}")),
        _ => Ok(()),
    }
}
