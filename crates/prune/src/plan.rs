//! What a student keeps of its teacher: chosen by score, or read from a file; valid in either case.
use crate::{Axis, Dims, Error, LayerDims, Mix, Result, Selection, Sizes, loadable::lost};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What is kept of one layer. All lists ascend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerPlan {
    /// The layer's number in the teacher, from 0.
    pub layer: usize,
    /// Neurons of the MLP.
    pub ffn: Vec<usize>,
    /// Query heads, the same number in every kept group.
    pub heads: Vec<usize>,
    /// Key/value groups; one that is merged out of several stands here with the first of them.
    pub kv_groups: Vec<usize>,
    /// Kept query heads whose query rows are combinations of the teacher's, of heads that read the same kept group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixed_queries: Vec<Mix>,
    /// Kept query heads whose output columns are combinations of the teacher's, of heads that read the same kept group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixed_outputs: Vec<Mix>,
    /// Kept groups that are combinations of the teacher's, with positive weights. No group lies in two, and groups stay in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixed_kv_groups: Vec<Mix>,
}

impl LayerPlan {
    /// Sizes of the student's layer.
    pub fn dims(&self) -> LayerDims {
        LayerDims { ffn: self.ffn.len(), heads: self.heads.len(), kv_groups: self.kv_groups.len() }
    }

    /// The teacher's groups in the kept group `kv_groups[i]`, ascending: several if it is merged.
    pub fn members(&self, i: usize) -> Vec<usize> {
        let group = self.kv_groups[i];
        match self.mixed_kv_groups.binary_search_by_key(&group, |m| m.to) {
            Ok(at) => self.mixed_kv_groups[at].of.iter().map(|&(g, _)| g).collect(),
            Err(_) => vec![group],
        }
    }

    fn check(&self, teacher: &LayerDims) -> Result<()> {
        let fail = |what: String| Err(Error::Plan { what });
        let name = |what: &str| format!("{what} of layer {}", self.layer);
        ascending(&name("neurons"), &self.ffn, teacher.ffn)?;
        ascending(&name("query heads"), &self.heads, teacher.heads)?;
        ascending(&name("KV groups"), &self.kv_groups, teacher.kv_groups)?;
        let (heads, groups) = (self.heads.len(), self.kv_groups.len());
        if !heads.is_multiple_of(groups) {
            let what = name("query heads");
            return fail(format!("{heads} {what}, expected a multiple of its {groups} KV groups"));
        }
        let mixes = |what: &str, mixes: &[Mix], kept: &[usize]| -> Result<()> {
            let numbers: Vec<usize> = mixes.iter().map(|m| m.to).collect();
            if mixes.is_empty() {
                return Ok(());
            }
            ascending(&name(what), &numbers, usize::MAX)?;
            for m in mixes {
                m.check()?;
                if kept.binary_search(&m.to).is_err() {
                    let what = name(what);
                    return Err(Error::Plan { what: format!("{what}: {} is not kept, expected a kept one", m.to) });
                }
            }
            Ok(())
        };
        mixes("mixed queries", &self.mixed_queries, &self.heads)?;
        mixes("mixed outputs", &self.mixed_outputs, &self.heads)?;
        mixes("mixed KV groups", &self.mixed_kv_groups, &self.kv_groups)?;
        let mut free = 0; // the first group of the teacher that no kept group has yet
        for i in 0..groups {
            let members = self.members(i);
            let (first, last) = (members[0], members[members.len() - 1]);
            if first != self.kv_groups[i] || first < free || last >= teacher.kv_groups {
                return fail(format!(
                    "KV group {} of layer {} is merged out of {members:?}, expected groups from {} to {} that no other one has",
                    self.kv_groups[i],
                    self.layer,
                    self.kv_groups[i],
                    teacher.kv_groups - 1
                ));
            }
            free = last + 1;
        }
        if self.mixed_kv_groups.iter().any(|m| m.of.iter().any(|&(_, w)| w < 0)) {
            return fail(format!("{}: a weight is negative, expected a mean", name("mixed KV groups")));
        }
        let per_group = heads / groups;
        for (i, kept) in self.heads.chunks(per_group).enumerate() {
            let members = self.members(i);
            let inside = |head: usize| head < teacher.heads && members.contains(&(head / teacher.heads_per_group()));
            // Attention maps query head h to group h / per_group, so the kept heads must line up with the kept groups.
            if let Some(head) = kept.iter().find(|&&h| !inside(h)) {
                return fail(format!(
                    "query head {head} of layer {} is not in KV group {}, expected {per_group} heads in each kept group",
                    self.layer, self.kv_groups[i]
                ));
            }
        }
        for mix in self.mixed_queries.iter().chain(&self.mixed_outputs) {
            let i = self.heads.binary_search(&mix.to).unwrap_or_default() / per_group;
            let members = self.members(i);
            if let Some((head, _)) = mix.of.iter().find(|&&(h, _)| !members.contains(&(h / teacher.heads_per_group())))
            {
                return fail(format!(
                    "query head {} of layer {} is mixed out of head {head}, expected heads of KV group {}",
                    mix.to, self.layer, self.kv_groups[i]
                ));
            }
        }
        Ok(())
    }
}

/// What a student keeps of its teacher. Its lists ascend, are in range and fit together: there is no other way to make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    teacher: Sizes,
    hidden: Vec<usize>,
    layers: Vec<LayerPlan>,
}

impl Plan {
    /// A plan from its parts: what a reader of plan files needs, or whoever chooses in another way. Layers may differ in size.
    ///
    /// # Errors
    /// [`Error::Dims`]; [`Error::Plan`] when a list is empty, does not ascend or leaves its range, when the query heads are not the same
    /// number in every kept group, or when a combination leaves its group.
    pub fn new(teacher: impl Into<Sizes>, hidden: Vec<usize>, layers: Vec<LayerPlan>) -> Result<Plan> {
        let teacher = teacher.into();
        teacher.check()?;
        ascending("hidden channels", &hidden, teacher.hidden)?;
        let numbers: Vec<usize> = layers.iter().map(|l| l.layer).collect();
        ascending("layers", &numbers, teacher.layers.len())?;
        for l in &layers {
            l.check(&teacher.layers[l.layer])?;
        }
        Ok(Plan { teacher, hidden, layers })
    }

    /// The plan that keeps everything.
    ///
    /// # Errors
    /// [`Error::Dims`].
    pub fn everything(teacher: impl Into<Sizes>) -> Result<Plan> {
        let teacher = teacher.into();
        teacher.check()?;
        let all = |n: usize| (0..n).collect::<Vec<_>>();
        let layer = |(layer, l): (usize, &LayerDims)| LayerPlan {
            layer,
            ffn: all(l.ffn),
            heads: all(l.heads),
            kv_groups: all(l.kv_groups),
            ..LayerPlan::default()
        };
        let (hidden, layers) = (all(teacher.hidden), teacher.layers.iter().enumerate().map(layer).collect());
        Plan::new(teacher, hidden, layers)
    }

    /// This plan and then `next`, a plan of this one's student, as one plan of this one's teacher: what pruning in rounds comes to.
    ///
    /// What it cuts is what cutting twice leaves, bit for bit; combinations of heads are the same up to the rounding of the round in between.
    ///
    /// # Errors
    /// [`Error::Then`] when `next` is a plan of another model, [`Error::Plan`] for combinations with too large weights.
    pub fn then(&self, next: &Plan) -> Result<Plan> {
        let student = self.sizes();
        if student != next.teacher {
            return Err(Error::Then { got: Box::new(next.teacher.clone()), want: Box::new(student) });
        }
        let map = |list: &[usize], through: &[usize]| list.iter().map(|&i| through[i]).collect::<Vec<_>>();
        let mixes = |kept: &[usize], second: &[Mix], through: &[usize], first: &[Mix]| -> Result<Vec<Mix>> {
            let of = |mixes: &[Mix], to: usize| {
                let at = mixes.binary_search_by_key(&to, |m| m.to);
                at.map_or_else(|_| Mix::same(to), |at| mixes[at].clone())
            };
            let mut out = Vec::new();
            for &to in kept {
                let outer = of(second, to);
                let inner: Vec<(i64, Mix)> = outer.of.iter().map(|&(h, w)| (w, of(first, through[h]))).collect();
                // Over one common divisor: the product of all of them.
                let all: Option<i128> =
                    inner.iter().try_fold(1i128, |n, (_, m)| n.checked_mul(m.over.into()).filter(|n| *n < 1 << 60));
                let Some(all) = all else {
                    return Err(Error::Plan { what: format!("the combination for head {to} has too large weights") });
                };
                let terms = inner.iter().flat_map(|(w, m)| {
                    m.of.iter().map(move |&(h, v)| (h, i128::from(*w) * i128::from(v) * (all / i128::from(m.over))))
                });
                let mix = Mix::sum(through[to], terms, all * i128::from(outer.over))?;
                out.extend((!mix.is_same()).then_some(mix));
            }
            Ok(out)
        };
        let layer = |second: &LayerPlan| -> Result<LayerPlan> {
            let first = &self.layers[second.layer];
            Ok(LayerPlan {
                layer: first.layer,
                ffn: map(&second.ffn, &first.ffn),
                heads: map(&second.heads, &first.heads),
                kv_groups: map(&second.kv_groups, &first.kv_groups),
                mixed_queries: mixes(&second.heads, &second.mixed_queries, &first.heads, &first.mixed_queries)?,
                mixed_outputs: mixes(&second.heads, &second.mixed_outputs, &first.heads, &first.mixed_outputs)?,
                mixed_kv_groups: mixes(
                    &second.kv_groups,
                    &second.mixed_kv_groups,
                    &first.kv_groups,
                    &first.mixed_kv_groups,
                )?,
            })
        };
        let layers = next.layers.iter().map(layer).collect::<Result<_>>()?;
        Plan::new(self.teacher.clone(), map(&next.hidden, &self.hidden), layers)
    }

    /// Sizes of the teacher.
    pub fn teacher(&self) -> &Sizes {
        &self.teacher
    }

    /// Sizes of the student. `head_dim` is the teacher's, so it has to be explicit in the student's config.
    pub fn sizes(&self) -> Sizes {
        let layers = self.layers.iter().map(LayerPlan::dims).collect();
        Sizes { hidden: self.hidden.len(), layers, ..self.teacher.clone() }
    }

    /// Sizes of the student, if its layers are all alike: what a Hugging Face Llama config can say.
    ///
    /// # Errors
    /// [`Error::Uneven`] names the layers that differ; [`Plan::sizes`] takes them as they are.
    pub fn student(&self) -> Result<Dims> {
        self.sizes().uniform()
    }

    /// Whether the student has heads or groups that are combinations of the teacher's, so that slicing alone does not make it.
    pub fn mixes(&self) -> bool {
        let mixed =
            |l: &LayerPlan| [&l.mixed_queries, &l.mixed_outputs, &l.mixed_kv_groups].iter().any(|m| !m.is_empty());
        self.layers.iter().any(mixed)
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
        (0..self.teacher.layers.len()).filter(|&l| self.student_layer(l).is_none()).collect()
    }

    /// What a user should know before taking this plan: see [`crate::warnings`].
    pub fn warnings(&self) -> Vec<String> {
        lost(&self.teacher, &self.sizes())
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
            want.extend(axes.iter().zip(shape).map(|(&axis, &size)| self.teacher_size(axis, layer).unwrap_or(size)));
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

    fn teacher_size(&self, axis: Axis, layer: Option<usize>) -> Option<usize> {
        let t = &self.teacher;
        // Without a layer that the teacher has, `indices` says what is wrong.
        let of_layer = |size: fn(&LayerDims) -> usize| layer.and_then(|l| t.layers.get(l)).map(size);
        match axis {
            Axis::Fixed => None,
            Axis::Vocab => Some(t.vocab),
            Axis::Hidden => Some(t.hidden),
            Axis::Ffn => of_layer(|l| l.ffn),
            Axis::QHeads => of_layer(|l| l.heads).map(|n| n * t.head_dim),
            Axis::KvHeads => of_layer(|l| l.kv_groups).map(|n| n * t.head_dim),
        }
    }
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
