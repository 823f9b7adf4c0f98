//! Parameters in another order of their channels, neurons, heads and groups: another model by its numbers, the same by its function. Whatever
//! cuts along an axis has to agree with an order of that axis, so this is what finds a parameter whose axes are labelled wrongly.
use crate::{Error, Result, Weights};
use paring_model::{Arch, Axis, ParamSpec};
use paring_prune::Selection;
use paring_sampling::rng::Rng;

/// The order of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerOrder {
    /// Neurons: place `i` gets the old neuron `ffn[i]`.
    pub ffn: Vec<usize>,
    /// Key/value groups.
    pub kv_groups: Vec<usize>,
    /// Query heads; those of one group stay together, where their group goes.
    pub heads: Vec<usize>,
}

/// An order of everything that a model's function does not depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Channels of the residual stream.
    pub hidden: Vec<usize>,
    /// Layer by layer.
    pub layers: Vec<LayerOrder>,
}

impl Order {
    /// A random order, a function of the seed.
    pub fn random(arch: &Arch, seed: u64) -> Self {
        let rng = Rng::new(seed);
        let layer = |(l, of): (usize, &paring_model::LayerArch)| {
            let stream = 4 * (l as u64 + 1);
            let kv_groups = rng.permutation(stream, of.kv_heads);
            let per_group = of.heads / of.kv_heads.max(1);
            let inside = |&g: &usize| {
                let order = rng.permutation((stream + 2) << 32 | g as u64, per_group);
                order.into_iter().map(move |h| g * per_group + h)
            };
            let heads = kv_groups.iter().flat_map(inside).collect();
            LayerOrder { ffn: rng.permutation(stream + 1, of.ffn), heads, kv_groups }
        };
        Order { hidden: rng.permutation(0, arch.hidden), layers: arch.layers.iter().enumerate().map(layer).collect() }
    }
}

/// `of` in another order.
#[derive(Debug)]
pub struct Permuted<W> {
    of: W,
    order: Order,
}

impl<W: Weights> Permuted<W> {
    /// # Errors
    /// [`Error::Values`] when `order` is not of this model.
    pub fn new(of: W, order: Order) -> Result<Self> {
        let arch = of.arch();
        let check = |name: String, list: &[usize], want: usize| {
            let mut sorted = list.to_vec();
            sorted.sort_unstable();
            if sorted.iter().copied().eq(0..want) { Ok(()) } else { Err(Error::Values { name, got: list.len(), want }) }
        };
        check("the order of channels".into(), &order.hidden, arch.hidden)?;
        if order.layers.len() != arch.layers.len() {
            let (got, want) = (order.layers.len(), arch.layers.len());
            return Err(Error::Values { name: "the order of layers".into(), got, want });
        }
        for (l, (order, layer)) in order.layers.iter().zip(&arch.layers).enumerate() {
            check(format!("the order of neurons of layer {l}"), &order.ffn, layer.ffn)?;
            check(format!("the order of groups of layer {l}"), &order.kv_groups, layer.kv_heads)?;
            check(format!("the order of heads of layer {l}"), &order.heads, layer.heads)?;
            let per_group = layer.heads / layer.kv_heads.max(1);
            let astray = |&(i, h): &(usize, &usize)| h / per_group != order.kv_groups[i / per_group];
            if let Some((got, _)) = order.heads.iter().enumerate().find(astray) {
                let name = format!("the order of heads of layer {l}, whose place {got} leaves its group,");
                return Err(Error::Values { name, got, want: per_group });
            }
        }
        Ok(Permuted { of, order })
    }

    fn indices(&self, axis: Axis, layer: Option<usize>) -> Option<Vec<usize>> {
        let d = self.of.arch().head_dim;
        let rows = |heads: &[usize]| heads.iter().flat_map(|&h| h * d..(h + 1) * d).collect();
        let layer = layer.and_then(|l| self.order.layers.get(l));
        match (axis, layer) {
            (Axis::Hidden, _) => Some(self.order.hidden.clone()),
            (Axis::Ffn, Some(l)) => Some(l.ffn.clone()),
            (Axis::QHeads, Some(l)) => Some(rows(&l.heads)),
            (Axis::KvHeads, Some(l)) => Some(rows(&l.kv_groups)),
            _ => None,
        }
    }
}

impl<W: Weights> Weights for Permuted<W> {
    fn arch(&self) -> &Arch {
        self.of.arch()
    }

    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        let keep = spec.axes.iter().map(|&a| self.indices(a, spec.layer)).collect();
        let selection = Selection::new(&spec.name, &spec.shape, keep)?;
        Ok(selection.select(&self.of.read(spec)?)?)
    }
}
