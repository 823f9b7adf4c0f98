//! Taylor scores: the first-order change of the loss when something is masked, `|sum_t a_t dL/da_t|` (Molchanov et al., arXiv 1906.10771,
//! as LLM-Pruner uses it, arXiv 2305.11627). Masking by a factor `1 - eps` changes the loss by `-eps * sum_t a_t dL/da_t`.
use crate::{
    Error, Geometry, Result,
    moments::{Sums, together},
    set::at,
};

/// One sequence's sums over tokens of activation times gradient, with their signs. The loss is the mean cross-entropy of the sequence's
/// predicted tokens, in nats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaylorSequence {
    /// Over the outputs of all norms, the final one among them: what is left when the channel is taken from all that read the residual
    /// stream; `[H]`.
    pub hidden: Vec<f64>,
    /// Input of `down_proj`, per layer `[F]`.
    pub ffn: Vec<Vec<f64>>,
    /// Input of `o_proj`, over the channels of each head, per layer `[Nq]`.
    pub heads: Vec<Vec<f64>>,
}

/// Sums over sequences of `|sum_t a g|`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Taylor {
    pub(crate) sequences: u64,
    pub(crate) hidden: Sums,
    pub(crate) ffn: Vec<Sums>,
    pub(crate) heads: Vec<Sums>,
    /// A group's heads are masked together: their sums are added before the absolute value is taken.
    pub(crate) kv_groups: Vec<Sums>,
}

/// Taylor scores that were not measured.
pub(crate) const NO_TAYLOR: Error = Error::NotMeasured { what: "Taylor sums", flag: "--taylor" };

impl Taylor {
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let sums = |n: fn(&crate::LayerGeometry) -> usize| geometry.layers.iter().map(|l| Sums::new(n(l))).collect();
        Taylor {
            sequences: 0,
            hidden: Sums::new(geometry.hidden),
            ffn: sums(|l| l.ffn),
            heads: sums(|l| l.heads),
            kv_groups: sums(|l| l.kv_heads),
        }
    }

    pub(crate) fn observe(&mut self, geometry: &Geometry, sequence: &TaylorSequence) -> Result<()> {
        let layers = geometry.layers.len();
        for got in [sequence.ffn.len(), sequence.heads.len()] {
            if got != layers {
                return Err(Error::Different { what: format!("Taylor sums of {got} layers and {layers}") });
            }
        }
        let with = |sums: &Sums, values: &[f64]| {
            if values.len() != sums.sum.len() {
                return Err(Error::Channels { got: values.len(), want: sums.sum.len() });
            }
            match values.iter().position(|v| !v.is_finite()) {
                Some(index) => Err(Error::NotFinite { unit: "channel", index }),
                None => sums.with(values.iter().map(|v| v.abs())),
            }
        };
        let hidden = with(&self.hidden, &sequence.hidden)
            .map_err(|e| Error::Site { site: "gradients at the norms".into(), error: Box::new(e) })?;
        let (mut ffn, mut heads, mut kv_groups) = (Vec::new(), Vec::new(), Vec::new());
        for (l, layer) in geometry.layers.iter().enumerate() {
            ffn.push(with(&self.ffn[l], &sequence.ffn[l]).map_err(at(l, "gradient of the input of down_proj"))?);
            let (place, of_heads) = ("gradient of the input of o_proj", &sequence.heads[l]);
            heads.push(with(&self.heads[l], of_heads).map_err(at(l, place))?);
            let groups: Vec<f64> = of_heads.chunks(layer.heads / layer.kv_heads).map(|g| g.iter().sum()).collect();
            kv_groups.push(with(&self.kv_groups[l], &groups).map_err(at(l, place))?);
        }
        *self = Taylor { sequences: self.sequences + 1, hidden, ffn, heads, kv_groups };
        Ok(())
    }

    /// Adds the sequences that `other` saw. The caller has checked that both are of one model.
    pub(crate) fn merge(&mut self, other: &Taylor) -> Result<()> {
        let all = |a: &[Sums], b: &[Sums]| a.iter().zip(b).map(|(a, b)| a.plus(b)).collect::<Result<_>>();
        *self = Taylor {
            sequences: together(self.sequences, other.sequences)?,
            hidden: self.hidden.plus(&other.hidden)?,
            ffn: all(&self.ffn, &other.ffn)?,
            heads: all(&self.heads, &other.heads)?,
            kv_groups: all(&self.kv_groups, &other.kv_groups)?,
        };
        Ok(())
    }

    /// All sums with the names that they are stored under.
    pub(crate) fn named(&mut self) -> Vec<(String, &mut Sums)> {
        let mut all = vec![("hidden".to_string(), &mut self.hidden)];
        for (name, layers) in [("ffn", &mut self.ffn), ("heads", &mut self.heads), ("kv_groups", &mut self.kv_groups)] {
            all.extend(layers.iter_mut().enumerate().map(|(l, sums)| (format!("{name}.{l}"), sums)));
        }
        all
    }
}
