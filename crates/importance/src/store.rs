//! An [`ImportanceSet`] as named arrays and back. Which file holds them is the caller's business.
//!
//! | name | type, shape | |
//! |---|---|---|
//! | `hidden`, `ffn.L`, `heads.L`, `kv_groups.L`, `block_influence` | f64 `[H]`, `[F]`, `[Nq]`, `[Nkv]`, `[layers]` | scores by the default definitions |
//! | `block_influence.angular` | f64 `[layers]` | the angle instead of the cosine |
//! | `weights.down_proj.L` | f64 `[F]` | L2 norms of the columns of `down_proj` |
//! | `raw.STAT.L` | i64 `[3, 2, C, 3]` | of a [`Stat`]: mean, l2, var over tokens; sum and sum of squares over sequences; limbs of an [`ExactSum`] |
//! | `raw.block_influence` | i64 `[2, layers, 3]` | cosine, angle; sum over sequences |
//! | `raw.taylor.hidden`, `raw.taylor.ffn.L`, `raw.taylor.heads.L`, `raw.taylor.kv_groups.L` | i64 `[2, C, 3]` | sum and sum of squares over sequences; only with [`Extras::taylor`] |
//! | `raw.counts` | i64 `[2]` | tokens, sequences |
//!
//! The sizes of the model follow from the shapes. Reading recomputes the scores from the sums and refuses a file in which they disagree.
use crate::{
    Distance, Error, ExactSum, Extras, Geometry, ImportanceSet, LayerGeometry, Moments, Result, Stat, moments::Sums,
};
use std::collections::HashMap;

/// Scores may have been stored in f32.
const SCORE_TOLERANCE: f64 = 1e-5;

/// One array of f64 in an importance file.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedArray {
    /// Its name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Vec<f64>,
}

/// One array of integers in an importance file: sums that are kept exactly, or counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawArray {
    /// Its name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Vec<i64>,
}

/// All arrays of a set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arrays {
    /// Scores, and what is known of the weights.
    pub scores: Vec<NamedArray>,
    /// What scores are made from.
    pub raw: Vec<RawArray>,
}

impl ImportanceSet {
    /// Scores and raw sums as arrays.
    ///
    /// # Errors
    /// [`Error::NoSequences`], or [`Error::Uneven`] when some site did not see every sequence.
    pub fn to_arrays(&self) -> Result<Arrays> {
        if self.sequences == 0 {
            return Err(Error::NoSequences);
        }
        let uneven = |site: String, got: u64| Err(Error::Uneven { site, got, want: self.sequences });
        let mut raw = Vec::new();
        for (name, site) in self.named_sites() {
            if site.sequences != self.sequences {
                return uneven(name, site.sequences);
            }
            let sums = site.sums.iter().flat_map(|s| s.sum.iter().chain(&s.square));
            raw.push(exact(format!("raw.{name}"), vec![3, 2, site.channels], sums));
        }
        for (l, &got) in self.blocks.sequences.iter().enumerate() {
            if got != self.sequences {
                return uneven(format!("block_influence.{l}"), got);
            }
        }
        let layers = self.geometry.layers.len();
        raw.push(exact("raw.block_influence".into(), vec![2, layers], self.blocks.sums.iter().flatten()));
        if let Some(mut taylor) = self.taylor.clone() {
            if taylor.sequences != self.sequences {
                return uneven("taylor".into(), taylor.sequences);
            }
            for (name, sums) in taylor.named() {
                let shape = vec![2, sums.sum.len()];
                raw.push(exact(format!("raw.taylor.{name}"), shape, sums.sum.iter().chain(&sums.square)));
            }
        }
        let count = |n: u64| i64::try_from(n).map_err(|_| Error::TooLarge { index: 0, value: n as f64 });
        let values = vec![count(self.tokens)?, count(self.sequences)?];
        raw.push(RawArray { name: "raw.counts".into(), shape: vec![2], values });
        let mut scores = self.score_arrays()?;
        let norms = self.down_norms.iter().enumerate();
        scores.extend(norms.map(|(l, n)| vector(format!("weights.down_proj.{l}"), n.clone())));
        Ok(Arrays { scores, raw })
    }

    /// The set that [`ImportanceSet::to_arrays`] wrote. Arrays with other names are passed over.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Twice`], [`Error::Shape`], [`Error::Length`] or [`Error::Value`], each with the array's name, and
    /// [`Error::Geometry`] when the shapes fit no model.
    pub fn from_arrays(arrays: Arrays) -> Result<Self> {
        let mut scores = Named::new(arrays.scores.into_iter().map(|a| (a.name, a.shape, a.values)))?;
        let mut raw = Named::new(arrays.raw.into_iter().map(|a| (a.name, a.shape, a.values)))?;
        let counts = raw.take("raw.counts", &[2])?;
        if let Some(index) = counts.iter().position(|&n| n < 1) {
            let (name, got) = ("raw.counts".into(), counts[index] as f64);
            return Err(Error::Value { name, index, got, want: "a whole number above zero" });
        }
        let layers = raw.dimension("raw.block_influence", 3, 1)?;
        let mut geometry = Geometry { hidden: scores.dimension("hidden", 1, 0)?, head_dim: 0, layers: Vec::new() };
        for l in 0..layers {
            let len = |name: &str| scores.dimension(&format!("{name}.{l}"), 1, 0);
            let (ffn, heads, kv_heads) = (len("ffn")?, len("heads")?, len("kv_groups")?);
            geometry.layers.push(LayerGeometry { ffn, heads, kv_heads });
            if l == 0 {
                // The other layers' arrays are checked against this when they are taken.
                geometry.head_dim = raw.dimension("raw.heads.0", 4, 2)? / heads.max(1);
            }
        }
        let extras = Extras {
            contribution: raw.has(&format!("raw.{}.0", Stat::HeadOutputs.name())),
            taylor: raw.has("raw.taylor.hidden"),
        };
        let mut set = ImportanceSet::new(geometry, extras)?;
        (set.tokens, set.sequences) = (counts[0].cast_unsigned(), counts[1].cast_unsigned());
        let names: Vec<String> = set.named_sites().map(|(name, _)| format!("raw.{name}")).collect();
        for (name, site) in names.into_iter().zip(set.sites.iter_mut().flatten()) {
            let all = raw.exact(&name, &[3, 2, site.channels], true)?;
            for (sums, values) in site.sums.iter_mut().zip(all.chunks(2 * site.channels)) {
                let (sum, square) = values.split_at(site.channels);
                *sums = Sums { sum: sum.to_vec(), square: square.to_vec() };
            }
            site.sequences = set.sequences;
        }
        let all = raw.exact("raw.block_influence", &[2, layers], false)?;
        for (sums, values) in set.blocks.sums.iter_mut().zip(all.chunks(layers)) {
            *sums = values.to_vec();
        }
        set.blocks.sequences = vec![set.sequences; layers];
        if let Some(taylor) = &mut set.taylor {
            taylor.sequences = set.sequences;
            for (name, sums) in taylor.named() {
                let channels = sums.sum.len();
                let all = raw.exact(&format!("raw.taylor.{name}"), &[2, channels], true)?;
                let (sum, square) = all.split_at(channels);
                *sums = Sums { sum: sum.to_vec(), square: square.to_vec() };
            }
        }
        if scores.has("weights.down_proj.0") {
            let norms = set.geometry.layers.iter().enumerate();
            let norms = norms.map(|(l, layer)| scores.finite(&format!("weights.down_proj.{l}"), layer.ffn));
            set.down_norms = norms.collect::<Result<_>>()?;
        }
        for NamedArray { name, values, .. } in set.score_arrays()? {
            let stored = scores.finite(&name, values.len())?;
            let scale = values.iter().fold(0f64, |m, v| m.max(v.abs()));
            for (index, (&got, want)) in stored.iter().zip(values).enumerate() {
                if (got - want).abs() > SCORE_TOLERANCE * scale {
                    return Err(Error::Value { name, index, got, want: "the score that the file's raw sums give" });
                }
            }
        }
        Ok(set)
    }

    /// The sites that were measured, in the order in which they are stored.
    fn named_sites(&self) -> impl Iterator<Item = (String, &Moments)> {
        let layers = |stat: Stat| self.sites[stat as usize].iter().enumerate();
        Stat::ALL.into_iter().flat_map(move |stat| layers(stat).map(move |(l, m)| (format!("{}.{l}", stat.name()), m)))
    }

    fn score_arrays(&self) -> Result<Vec<NamedArray>> {
        let mut out = vec![vector("hidden".into(), self.hidden())];
        for l in 0..self.geometry.layers.len() {
            out.push(vector(format!("ffn.{l}"), self.ffn(l)?));
            out.push(vector(format!("heads.{l}"), self.heads(l)?));
            out.push(vector(format!("kv_groups.{l}"), self.kv_groups(l)?));
        }
        out.push(vector("block_influence".into(), self.blocks.scores(Distance::Cosine)));
        out.push(vector("block_influence.angular".into(), self.blocks.scores(Distance::Angular)));
        Ok(out)
    }
}

fn vector(name: String, values: Vec<f64>) -> NamedArray {
    NamedArray { name, shape: vec![values.len()], values }
}

/// Exact sums of shape `shape`; their limbs are one more dimension.
fn exact<'a>(name: String, mut shape: Vec<usize>, sums: impl Iterator<Item = &'a ExactSum>) -> RawArray {
    shape.push(ExactSum::LIMBS);
    RawArray { name, shape, values: sums.flat_map(|s| s.to_limbs()).collect() }
}

/// Arrays by name, each taken once.
struct Named<T>(HashMap<String, (Vec<usize>, Vec<T>)>);

impl<T> Named<T> {
    fn new(arrays: impl Iterator<Item = (String, Vec<usize>, Vec<T>)>) -> Result<Self> {
        let mut map = HashMap::new();
        for (name, shape, values) in arrays {
            // A shape whose product overflows has some other number of values for certain.
            let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            if elements != Some(values.len()) {
                return Err(Error::Length { name, got: values.len(), shape });
            }
            if map.insert(name.clone(), (shape, values)).is_some() {
                return Err(Error::Twice { name });
            }
        }
        Ok(Named(map))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Dimension `at` of an array that stays, which has to have `rank` of them.
    fn dimension(&self, name: &str, rank: usize, at: usize) -> Result<usize> {
        let (shape, values) = self.0.get(name).ok_or_else(|| Error::Missing { name: name.into() })?;
        match shape.get(at) {
            Some(&n) if shape.len() == rank => Ok(n),
            _ => Err(Error::Shape { name: name.into(), got: shape.clone(), want: vec![values.len()] }),
        }
    }

    fn take(&mut self, name: &str, want: &[usize]) -> Result<Vec<T>> {
        let (shape, values) = self.0.remove(name).ok_or_else(|| Error::Missing { name: name.into() })?;
        if shape == want {
            Ok(values)
        } else {
            Err(Error::Shape { name: name.into(), got: shape, want: want.to_vec() })
        }
    }
}

impl Named<f64> {
    fn finite(&mut self, name: &str, want: usize) -> Result<Vec<f64>> {
        let values = self.take(name, &[want])?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(Error::Value { name: name.into(), index, got: values[index], want: "a finite number" }),
            None => Ok(values),
        }
    }
}

impl Named<i64> {
    /// Exact sums of this shape.
    fn exact(&mut self, name: &str, shape: &[usize], not_negative: bool) -> Result<Vec<ExactSum>> {
        let want: Vec<usize> = shape.iter().copied().chain([ExactSum::LIMBS]).collect();
        let limbs = self.take(name, &want)?;
        let sums: Vec<ExactSum> = limbs.as_chunks().0.iter().map(|&l| ExactSum::from_limbs(l)).collect();
        if not_negative && let Some(index) = sums.iter().position(|s| s.is_negative()) {
            let (name, got) = (name.into(), sums[index].value());
            return Err(Error::Value { name, index, got, want: "a number that is not negative" });
        }
        Ok(sums)
    }
}
