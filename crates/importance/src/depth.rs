//! Which layers to drop, from what was measured of them.
//!
//! | array | shape | |
//! |---|---|---|
//! | `block_influence` | `[L]` | `1 - cos` of the residual stream into and out of a layer |
//! | `depth.block_cosine.N`, `depth.block_angular.N` | `[L - N + 1]` | the same over contiguous blocks of `N` layers, by first layer |
//! | `depth.nll` | `[1]` | loss of the whole model, nats per predicted token |
//! | `depth.layer_nll` | `[L]` | loss without each layer |
//! | `depth.block_nll.N` | `[L - N + 1]` | loss without each contiguous block of `N` layers, by first layer |
//! | `depth.greedy.order`, `depth.greedy.nll` | `[K]` | layers in the order in which greedy search removes them, and the loss after each |
//! | `depth.task.accuracy`, `depth.task.accuracy_norm`, `depth.task.gold_nll` | `[1]` | of the whole model: accuracy, by length, mean loss of right choices |
//! | `depth.block_accuracy.N`, `depth.block_gold_nll.N` | `[L - N + 1]` | the same without each contiguous block of `N` layers |
use crate::{Error, NamedArray, Result};

/// By what layers are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DepthRanking {
    /// Single layers that turn the residual stream least (ShortGPT, arXiv 2403.03853).
    BlockInfluence,
    /// The contiguous block over which the residual stream turns least, as an angle (Gromov et al., arXiv 2403.17887).
    Angular,
    /// Single layers without which the loss is lowest (arXiv 2407.14679, section 2.2).
    LmLoss,
    /// The contiguous block without which the loss is lowest.
    Blocks,
    /// Layers removed one after the other, each time the one without which the loss is lowest.
    Greedy,
    /// The contiguous block without which the accuracy on a task is highest (arXiv 2408.11796, section 3); of blocks with one accuracy the
    /// one that leaves the right choices most likely.
    Task,
}

impl DepthRanking {
    /// The `n` layers to drop, ascending. Of layers or blocks that are alike, the first goes.
    ///
    /// # Errors
    /// [`Error::Drop`] unless some layers go and some stay; [`Error::NotSwept`], [`Error::Shape`] or [`Error::Value`] about the array
    /// that this ranking reads.
    pub fn choose(self, arrays: &[NamedArray], n: usize) -> Result<Vec<usize>> {
        let layers = vector(arrays, "block_influence", "--out FILE")?.len();
        if n == 0 || layers <= n {
            return Err(Error::Drop { got: n, layers });
        }
        let by_layer = |name: &str, flags: &str| {
            let values = sized(arrays, name, flags, layers)?;
            let mut order: Vec<usize> = (0..layers).collect();
            order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
            Ok(order[..n].to_vec())
        };
        let sizes = format!("--block-sizes {n}");
        let by_block = |name: &str, flags: &str, second: Option<&str>| {
            let at = |name: &str| sized(arrays, &format!("{name}.{n}"), &format!("{flags} {sizes}"), layers - n + 1);
            let (values, ties) = (at(name)?, second.map(at).transpose()?);
            // Higher is better where there is a second array: it is an accuracy.
            let key = |i: usize| match ties {
                Some(ties) => (-values[i], ties[i]),
                None => (values[i], 0.0),
            };
            let less = |a: (f64, f64), b: (f64, f64)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).is_lt();
            let first = (0..values.len()).fold(0, |best, i| if less(key(i), key(best)) { i } else { best });
            Ok((first..first + n).collect())
        };
        let mut chosen: Vec<usize> = match self {
            DepthRanking::BlockInfluence => by_layer("block_influence", "--out FILE"),
            DepthRanking::LmLoss => by_layer("depth.layer_nll", "--depth lm-loss"),
            DepthRanking::Angular => by_block("depth.block_angular", "--depth influence", None),
            DepthRanking::Blocks => by_block("depth.block_nll", "--depth blocks", None),
            DepthRanking::Task => by_block("depth.block_accuracy", "--depth-task FILE", Some("depth.block_gold_nll")),
            DepthRanking::Greedy => greedy(arrays, layers, n),
        }?;
        chosen.sort_unstable();
        Ok(chosen)
    }
}

/// The first `n` of the layers that greedy search removed.
fn greedy(arrays: &[NamedArray], layers: usize, n: usize) -> Result<Vec<usize>> {
    let (name, flags) = ("depth.greedy.order", format!("--depth greedy --depth-greedy {n}"));
    let order = vector(arrays, name, &flags)?;
    if order.len() < n {
        return Err(Error::NotSwept { name: format!("{name} of {n} layers"), flags });
    }
    let mut seen = vec![false; layers];
    let layer = |(index, &got): (usize, &f64)| {
        let whole = (0.0..layers as f64).contains(&got) && got.fract() == 0.0;
        let new = whole && !std::mem::replace(&mut seen[got as usize], true);
        if new {
            return Ok(got as usize);
        }
        Err(Error::Value { name: name.into(), index, got, want: "a layer of the model that is not named before" })
    };
    order.iter().take(n).enumerate().map(layer).collect()
}

/// A vector of finite numbers.
fn vector<'a>(arrays: &'a [NamedArray], name: &str, flags: &str) -> Result<&'a [f64]> {
    let missing = || Error::NotSwept { name: name.into(), flags: flags.into() };
    let array = arrays.iter().find(|a| a.name == name).ok_or_else(missing)?;
    if array.shape != [array.values.len()] {
        let (got, want) = (array.shape.clone(), vec![array.values.len()]);
        return Err(Error::Shape { name: name.into(), got, want });
    }
    match array.values.iter().position(|v| !v.is_finite()) {
        Some(index) => {
            Err(Error::Value { name: name.into(), index, got: array.values[index], want: "a finite number" })
        }
        None => Ok(&array.values),
    }
}

/// A vector of finite numbers of known length.
fn sized<'a>(arrays: &'a [NamedArray], name: &str, flags: &str, len: usize) -> Result<&'a [f64]> {
    let values = vector(arrays, name, flags)?;
    if values.len() == len {
        return Ok(values);
    }
    Err(Error::Shape { name: name.into(), got: vec![values.len()], want: vec![len] })
}
