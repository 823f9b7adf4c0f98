//! From scores to a plan: the best of each layer, or of all layers together.
use crate::{
    Dims, Error, KvGroups, LayerDims, LayerPlan, Mix, Plan, Residual, Result, Sizes, Target, Uneven, check_loadable,
    residual_pairs, uneven::Block,
};
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
    pub fn check(&self, teacher: &Sizes) -> Result<()> {
        let check = |scores: String, values: &[f64], want: usize| {
            if values.len() != want {
                return Err(Error::ScoreLength { scores, got: values.len(), want });
            }
            match values.iter().position(|v| !v.is_finite()) {
                Some(index) => Err(Error::ScoreValue { scores, index }),
                None => Ok(()),
            }
        };
        check("hidden".into(), &self.hidden, teacher.hidden)?;
        check("block influence".into(), &self.block_influence, teacher.layers.len())?;
        type Size = fn(&LayerDims) -> usize;
        let per_layer: [(&str, &[Vec<f64>], Size); 3] = [
            ("ffn", &self.ffn, |l| l.ffn),
            ("head", &self.heads, |l| l.heads),
            ("KV group", &self.kv_groups, |l| l.kv_groups),
        ];
        for (name, scores, want) in per_layer {
            if scores.len() != teacher.layers.len() {
                let scores_of = format!("layers of {name}");
                return Err(Error::ScoreLength { scores: scores_of, got: scores.len(), want: teacher.layers.len() });
            }
            for (l, (values, layer)) in scores.iter().zip(&teacher.layers).enumerate() {
                check(format!("{name} (layer {l})"), values, want(layer))?;
            }
        }
        Ok(())
    }
}

/// How a plan is chosen beyond its sizes. The default is Minitron: the same number in every layer, what goes is dropped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Which sizes may differ from layer to layer.
    pub uneven: Uneven,
    /// What becomes of pruned query heads.
    pub residual: Residual,
    /// What becomes of key/value groups when there are to be fewer.
    pub kv_groups: KvGroups,
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
        scores.check(&Sizes::from(*teacher))?;
        check_loadable(teacher, &student)?;
        Plan::choose_with(&Sizes::from(*teacher), scores, target, &Options::default())
    }

    /// As [`Plan::choose`], with [`Options`], from a teacher whose layers may differ. What the target gives is the size of every layer; what it
    /// does not give stays as it is in each.
    ///
    /// Whether a runtime loads the student is not asked here, because nothing of an uneven one loads: see [`crate::runtimes`].
    ///
    /// # Errors
    /// As [`Plan::choose`], without those of [`check_loadable`]; [`Error::Spread`] for a total that cannot be spread,
    /// [`Error::MeanGroups`] for a number of groups that does not divide the teacher's, [`Error::ResidualHeads`].
    pub fn choose_with(teacher: &Sizes, scores: &Scores, target: &Target, options: &Options) -> Result<Plan> {
        teacher.check()?;
        scores.check(teacher)?;
        let layers = chosen_layers(teacher, scores, target)?;
        let hidden = match target.hidden {
            Some(0) => return Err(Error::Zero { axis: "hidden" }),
            Some(got) if got > teacher.hidden => {
                return Err(Error::TooLarge { axis: "hidden", got, have: teacher.hidden });
            }
            asked => top(&scores.hidden, asked.unwrap_or(teacher.hidden)),
        };
        let Uneven { ffn, heads, kv_groups } = &options.uneven;
        if options.kv_groups == KvGroups::Mean && kv_groups.is_some() {
            let what = "groups are merged into the same number in every layer, or spread over layers, not both".into();
            return Err(Error::Spread { axis: "kv_groups", what });
        }
        let twice = [
            ("ffn", ffn.is_some() && target.ffn.is_some()),
            ("heads", heads.is_some() && target.heads.is_some()),
            ("kv_groups", kv_groups.is_some() && target.kv_groups.is_some()),
        ];
        if let Some((axis, _)) = twice.iter().find(|(_, twice)| *twice) {
            let what = "both a size for every layer and a total to spread were given, expected one of them".into();
            return Err(Error::Spread { axis, what });
        }
        let mut kept: Vec<Kept> =
            layers.iter().map(|&l| Kept::new(l, teacher, target, options.kv_groups)).collect::<Result<_>>()?;
        if let Some(spread) = kv_groups {
            let blocks = kept.iter().map(|k| Block::singles(&scores.kv_groups[k.layer])).collect();
            let counts = spread.share("kv_groups", blocks)?;
            kept.iter_mut().zip(counts).for_each(|(k, n)| k.keep_groups(n));
        }
        let groups: Vec<Vec<Vec<usize>>> = kept.iter().map(|k| k.groups(scores, options.kv_groups)).collect();
        if let Some(spread) = heads {
            // The r-th best heads of all groups of a layer go together, so that every group has as many.
            let blocks = kept.iter().zip(&groups).map(|(k, groups)| k.head_blocks(scores, groups)).collect();
            let counts = spread.share("heads", blocks)?;
            kept.iter_mut().zip(counts).for_each(|(k, n)| k.heads = n);
        }
        if let Some(spread) = ffn {
            let blocks = kept.iter().map(|k| Block::sorted(&scores.ffn[k.layer], spread.divisor)).collect();
            let counts = spread.share("ffn", blocks)?;
            kept.iter_mut().zip(counts).for_each(|(k, n)| k.ffn = n);
        }
        let plan = |(k, groups): (&Kept, &Vec<Vec<usize>>)| k.plan(scores, groups, options.residual);
        let layers = kept.iter().zip(&groups).map(plan).collect::<Result<_>>()?;
        Plan::new(teacher.clone(), hidden, layers)
    }
}

/// The layers that stay, ascending.
fn chosen_layers(teacher: &Sizes, scores: &Scores, target: &Target) -> Result<Vec<usize>> {
    let depth = Target { layers: target.layers, drop_layers: target.drop_layers.clone(), ..Target::default() };
    let n = depth.student(&teacher.with_all(teacher.layers[0]))?.layers;
    Ok(match &target.drop_layers {
        Some(drop) => (0..teacher.layers.len()).filter(|l| !drop.contains(l)).collect(),
        None => top(&scores.block_influence, n),
    })
}

/// How much of a layer stays.
struct Kept {
    layer: usize,
    teacher: LayerDims,
    ffn: usize,
    heads: usize,
    kv_groups: usize,
}

impl Kept {
    fn new(layer: usize, teacher: &Sizes, target: &Target, mode: KvGroups) -> Result<Self> {
        let of = teacher.layers[layer];
        let size = |axis: &'static str, asked: Option<usize>, have: usize| match asked {
            Some(0) => Err(Error::Zero { axis }),
            Some(got) if got > have => Err(Error::TooLarge { axis, got, have }),
            asked => Ok(asked.unwrap_or(have)),
        };
        let kv_groups = size("kv_groups", target.kv_groups, of.kv_groups)?;
        // Whole groups go with their query heads; merged ones leave all query heads there.
        let reach = match mode {
            KvGroups::Drop => kv_groups * of.heads_per_group(),
            KvGroups::Mean if of.kv_groups.is_multiple_of(kv_groups) => of.heads,
            KvGroups::Mean => return Err(Error::MeanGroups { layer, got: kv_groups, have: of.kv_groups }),
        };
        let heads = size("heads", target.heads, of.heads)?;
        let heads = if target.heads.is_none() { reach } else { heads };
        if !heads.is_multiple_of(kv_groups) {
            return Err(Error::HeadsPerGroup { heads, kv_groups });
        }
        if heads > reach {
            return Err(Error::TooLarge { axis: "heads", got: heads, have: reach });
        }
        Ok(Kept { layer, teacher: of, ffn: size("ffn", target.ffn, of.ffn)?, heads, kv_groups })
    }

    /// Fewer groups, as many query heads in each.
    fn keep_groups(&mut self, n: usize) {
        self.heads = self.heads / self.kv_groups * n;
        self.kv_groups = n;
    }

    /// The teacher's groups in each group of the student.
    fn groups(&self, scores: &Scores, mode: KvGroups) -> Vec<Vec<usize>> {
        let all: Vec<usize> = (0..self.teacher.kv_groups).collect();
        match mode {
            KvGroups::Drop => top(&scores.kv_groups[self.layer], self.kv_groups).into_iter().map(|g| vec![g]).collect(),
            KvGroups::Mean => all.chunks(self.teacher.kv_groups / self.kv_groups).map(<[usize]>::to_vec).collect(),
        }
    }

    /// Query heads of the teacher that read one of `groups`, best first.
    fn sorted_heads(&self, scores: &Scores, groups: &[usize]) -> Vec<usize> {
        let (per_group, scores) = (self.teacher.heads_per_group(), &scores.heads[self.layer]);
        let heads: Vec<usize> = groups.iter().flat_map(|g| g * per_group..(g + 1) * per_group).collect();
        let values: Vec<f64> = heads.iter().map(|&h| scores[h]).collect();
        order(&values).into_iter().map(|i| heads[i]).collect()
    }

    /// One block for the best head of every group, one for the second best, ..., as many as the target allows.
    fn head_blocks(&self, scores: &Scores, groups: &[Vec<usize>]) -> Vec<Block> {
        let sorted: Vec<Vec<usize>> = groups.iter().map(|g| self.sorted_heads(scores, g)).collect();
        let block = |r: usize| Block {
            size: groups.len(),
            score: sorted.iter().map(|heads| scores.heads[self.layer][heads[r]]).sum::<f64>() / groups.len() as f64,
        };
        (0..self.heads / self.kv_groups).map(block).collect()
    }

    fn plan(&self, scores: &Scores, groups: &[Vec<usize>], residual: Residual) -> Result<LayerPlan> {
        let per_group = self.heads / self.kv_groups;
        let (mut heads, mut mixed_queries, mut mixed_outputs, mut mixed_kv_groups) = (vec![], vec![], vec![], vec![]);
        for group in groups {
            let sorted = self.sorted_heads(scores, group);
            if residual != Residual::None {
                for (kept, pruned) in residual_pairs(&sorted, per_group)? {
                    let (queries, outputs) = residual.mixes(kept, pruned);
                    mixed_queries.extend(queries);
                    mixed_outputs.extend(outputs);
                }
            }
            let mut kept = sorted[..per_group].to_vec();
            kept.sort_unstable();
            heads.extend(kept);
            if group.len() > 1 {
                let over = group.len() as i128;
                mixed_kv_groups.push(Mix::sum(group[0], group.iter().map(|&g| (g, 1)), over)?);
            }
        }
        for mixes in [&mut mixed_queries, &mut mixed_outputs] {
            mixes.sort_unstable_by_key(|m: &Mix| m.to);
        }
        let kv_groups = groups.iter().map(|g| g[0]).collect();
        let ffn = top(&scores.ffn[self.layer], self.ffn);
        Ok(LayerPlan { layer: self.layer, ffn, heads, kv_groups, mixed_queries, mixed_outputs, mixed_kv_groups })
    }
}

/// The indices of all scores, highest first; of equal scores the lower index comes first.
pub(crate) fn order(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Not `total_cmp`: it puts -0 below 0, and they are equal scores. All scores are finite by now.
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal).then(a.cmp(&b)));
    order
}

/// The indices of the `k` highest scores, ascending; of equal scores the lower index wins.
fn top(scores: &[f64], k: usize) -> Vec<usize> {
    let mut order = order(scores);
    order.truncate(k);
    order.sort_unstable();
    order
}
