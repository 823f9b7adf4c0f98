//! An [`ImportanceSet`] as named arrays and back. Which file holds them is the caller's business.
//!
//! | name | shape | |
//! |---|---|---|
//! | `hidden`, `ffn.L`, `heads.L`, `kv_groups.L`, `block_influence` | `[H]`, `[F]`, `[Nq]`, `[Nkv]`, `[layers]` | scores, default aggregation |
//! | `raw.attn_norm.L.A.S`, `raw.mlp_norm.L.A.S` | `[H]` | sums `S` in `sum_abs`, `sum_sq` of the aggregate `A` in `mean`, `l2`, `var` |
//! | `raw.ffn.L.A.S`, `raw.heads.L.A.S` | `[F]`, `[Nq * d]` | the same |
//! | `raw.block_influence` | `[layers]` | sum over sequences |
//! | `raw.counts` | `[2]` | tokens, sequences |
//!
//! The sizes of the model follow from the shapes. Reading recomputes the scores from the sums and refuses a file in which they disagree.
use crate::{Agg, Aggregation, Error, Geometry, ImportanceSet, LayerGeometry, Moments, Result};
use std::collections::HashMap;

/// Scores may have been stored in f32.
const SCORE_TOLERANCE: f64 = 1e-5;

/// One array of an importance file.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedArray {
    /// Its name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Vec<f64>,
}

impl ImportanceSet {
    /// Scores and raw sums as arrays. The sums survive the round trip only if they are stored as f64.
    ///
    /// # Errors
    /// [`Error::NoSequences`], or [`Error::Uneven`] when some site did not see every sequence.
    pub fn to_arrays(&self) -> Result<Vec<NamedArray>> {
        if self.sequences == 0 {
            return Err(Error::NoSequences);
        }
        let uneven = |site: String, got: u64| Err(Error::Uneven { site, got, want: self.sequences });
        for (name, site) in self.sites() {
            if site.sequences != self.sequences {
                return uneven(name, site.sequences);
            }
        }
        for (l, &got) in self.blocks.sequences.iter().enumerate() {
            if got != self.sequences {
                return uneven(format!("block_influence.{l}"), got);
            }
        }
        let mut out = self.score_arrays()?;
        for (name, site) in self.sites() {
            for (agg, sums) in Agg::ALL.into_iter().zip(&site.sums) {
                out.push(vector(format!("raw.{name}.{}.sum_abs", agg.name()), sums.sum_abs.clone()));
                out.push(vector(format!("raw.{name}.{}.sum_sq", agg.name()), sums.sum_sq.clone()));
            }
        }
        out.push(vector("raw.block_influence".into(), self.blocks.sums.clone()));
        // Exact: neither count will reach 2^53.
        out.push(vector("raw.counts".into(), vec![self.tokens as f64, self.sequences as f64]));
        Ok(out)
    }

    /// The set that [`ImportanceSet::to_arrays`] wrote. Arrays with other names are passed over.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Twice`], [`Error::Shape`], [`Error::Length`] or [`Error::Value`], each with the array's name, and
    /// [`Error::Geometry`] when the shapes fit no model.
    pub fn from_arrays(arrays: Vec<NamedArray>) -> Result<Self> {
        let mut arrays = Arrays::new(arrays)?;
        let counts = arrays.take("raw.counts", Some(2), Check::Count)?;
        let blocks = arrays.take("raw.block_influence", None, Check::Finite)?;
        let mut geometry = Geometry { hidden: arrays.len("hidden")?, head_dim: 0, layers: Vec::new() };
        for l in 0..blocks.len() {
            let (ffn, heads) = (arrays.len(&format!("ffn.{l}"))?, arrays.len(&format!("heads.{l}"))?);
            geometry.layers.push(LayerGeometry { ffn, heads, kv_heads: arrays.len(&format!("kv_groups.{l}"))? });
            if l == 0 {
                // The other layers' arrays are checked against this when they are taken.
                geometry.head_dim = arrays.len("raw.heads.0.mean.sum_abs")? / heads.max(1);
            }
        }
        let mut set = ImportanceSet::new(geometry)?;
        (set.tokens, set.sequences) = (counts[0] as u64, counts[1] as u64);
        let names: Vec<String> = set.sites().map(|(name, _)| name).collect();
        let sites = set.hidden.iter_mut().chain(&mut set.ffn).chain(&mut set.heads);
        for (name, site) in names.into_iter().zip(sites) {
            for (agg, sums) in Agg::ALL.into_iter().zip(&mut site.sums) {
                let mut sum = |kind: &str| {
                    arrays.take(&format!("raw.{name}.{}.{kind}", agg.name()), Some(site.channels), Check::NotNegative)
                };
                sums.sum_abs = sum("sum_abs")?;
                sums.sum_sq = sum("sum_sq")?;
            }
            site.sequences = set.sequences;
        }
        set.blocks.sequences = vec![set.sequences; blocks.len()];
        set.blocks.sums = blocks;
        for NamedArray { name, values, .. } in set.score_arrays()? {
            let stored = arrays.take(&name, Some(values.len()), Check::Finite)?;
            let scale = values.iter().fold(0f64, |m, v| m.max(v.abs()));
            for (index, (&got, want)) in stored.iter().zip(values).enumerate() {
                if (got - want).abs() > SCORE_TOLERANCE * scale {
                    return Err(Error::Value { name, index, got, want: "the score that the file's raw sums give" });
                }
            }
        }
        Ok(set)
    }

    /// The sites in the order in which they are stored: hidden, ffn, heads.
    fn sites(&self) -> impl Iterator<Item = (String, &Moments)> {
        let norms = self.hidden.iter().enumerate().map(|(i, m)| {
            let norm = if i % 2 == 0 { "attn_norm" } else { "mlp_norm" };
            (format!("{norm}.{}", i / 2), m)
        });
        let ffn = self.ffn.iter().enumerate().map(|(l, m)| (format!("ffn.{l}"), m));
        let heads = self.heads.iter().enumerate().map(|(l, m)| (format!("heads.{l}"), m));
        norms.chain(ffn).chain(heads)
    }

    fn score_arrays(&self) -> Result<Vec<NamedArray>> {
        let set = self.clone().with_aggregation(Aggregation::default());
        let mut out = vec![vector("hidden".into(), set.hidden())];
        for l in 0..set.geometry.layers.len() {
            out.push(vector(format!("ffn.{l}"), set.ffn(l)?));
            out.push(vector(format!("heads.{l}"), set.heads(l)?));
            out.push(vector(format!("kv_groups.{l}"), set.kv_groups(l)?));
        }
        out.push(vector("block_influence".into(), set.block_influence()));
        Ok(out)
    }
}

fn vector(name: String, values: Vec<f64>) -> NamedArray {
    NamedArray { name, shape: vec![values.len()], values }
}

/// What the values of an array may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    Finite,
    NotNegative,
    Count,
}

/// Arrays by name, each taken once.
struct Arrays(HashMap<String, NamedArray>);

impl Arrays {
    fn new(arrays: Vec<NamedArray>) -> Result<Self> {
        let mut map = HashMap::with_capacity(arrays.len());
        for array in arrays {
            // A shape whose product overflows has some other number of values for certain.
            let elements = array.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            if elements != Some(array.values.len()) {
                return Err(Error::Length { name: array.name, got: array.values.len(), shape: array.shape });
            }
            if let Some(first) = map.insert(array.name.clone(), array) {
                return Err(Error::Twice { name: first.name });
            }
        }
        Ok(Arrays(map))
    }

    /// The length of a vector that stays.
    fn len(&self, name: &str) -> Result<usize> {
        let array = self.0.get(name).ok_or_else(|| Error::Missing { name: name.into() })?;
        match array.shape[..] {
            [n] => Ok(n),
            _ => Err(Error::Shape { name: name.into(), got: array.shape.clone(), want: vec![array.values.len()] }),
        }
    }

    fn take(&mut self, name: &str, want: Option<usize>, check: Check) -> Result<Vec<f64>> {
        let len = self.len(name)?;
        let NamedArray { name, shape, values } =
            self.0.remove(name).ok_or_else(|| Error::Missing { name: name.into() })?;
        if let Some(want) = want
            && want != len
        {
            return Err(Error::Shape { name, got: shape, want: vec![want] });
        }
        for (index, &got) in values.iter().enumerate() {
            let want = match check {
                _ if !got.is_finite() => "a finite number",
                Check::NotNegative if got < 0.0 => "a number that is not negative",
                Check::Count if got < 1.0 || got.fract() != 0.0 => "a whole number above zero",
                _ => continue,
            };
            return Err(Error::Value { name, index, got, want });
        }
        Ok(values)
    }
}
