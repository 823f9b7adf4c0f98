//! The first proxy: how much importance a candidate keeps, and what it costs to lose some of it.
//!
//! On every axis the mass is the kept part of the sum of scores: of hidden channels over the model, of neurons and heads on average over
//! the kept layers, of layers by block influence. A candidate's predicted rise of the loss is
//!
//! `sum over axes of price * -ln(mass)`
//!
//! which is additive over axes and grows without bound as nothing is left. The scores of the axes are not of one kind (a tenth of the
//! neurons' scores is not worth a tenth of the channels'), so the prices are measured: each axis alone is cut to a middle width, and the
//! price is the rise of the loss over `-ln(mass)` there.
use paring_prune::Dims;
use serde::{Deserialize, Serialize};

/// Kept parts of the importance of every axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mass {
    /// Channels of the residual stream.
    pub hidden: f64,
    /// Neurons, on average over kept layers.
    pub ffn: f64,
    /// Query heads, those of lost key/value groups among them; on average over kept layers.
    pub heads: f64,
    /// Layers, by block influence.
    pub layers: f64,
}

impl Mass {
    fn lost(&self) -> [f64; 4] {
        [self.hidden, self.ffn, self.heads, self.layers].map(|m| -m.max(f64::MIN_POSITIVE).ln().min(0.0))
    }
}

/// Nats per `-ln(mass)` of every axis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prices {
    /// Channels of the residual stream.
    pub hidden: f64,
    /// Neurons.
    pub ffn: f64,
    /// Query heads and their groups.
    pub heads: f64,
    /// Layers.
    pub layers: f64,
}

impl Default for Prices {
    /// All axes alike.
    fn default() -> Self {
        Prices { hidden: 1.0, ffn: 1.0, heads: 1.0, layers: 1.0 }
    }
}

impl Prices {
    /// The predicted rise of the loss: see the module's text.
    pub fn loss(&self, mass: &Mass) -> f64 {
        let prices = [self.hidden, self.ffn, self.heads, self.layers];
        prices.iter().zip(mass.lost()).map(|(price, lost)| price * lost).sum()
    }

    /// The shapes that are measured for the prices: of those in `candidates`, for each axis the one that its middle width makes of the
    /// teacher. An axis that no candidate cuts has none.
    pub fn probes(teacher: &Dims, candidates: &[Dims]) -> [Option<Dims>; 4] {
        let middle = |of: &dyn Fn(&Dims) -> usize, make: &dyn Fn(&Dims) -> Dims| {
            let mut cut: Vec<&Dims> = candidates.iter().filter(|d| of(d) < of(teacher)).collect();
            cut.sort_by_key(|d| of(d));
            cut.dedup_by_key(|d| of(d));
            cut.get(cut.len() / 2).map(|d| make(d))
        };
        [
            middle(&|d| d.hidden, &|d| Dims { hidden: d.hidden, ..*teacher }),
            middle(&|d| d.ffn, &|d| Dims { ffn: d.ffn, ..*teacher }),
            middle(&|d| d.heads, &|d| Dims { heads: d.heads, kv_groups: d.kv_groups, ..*teacher }),
            middle(&|d| d.layers, &|d| Dims { layers: d.layers, ..*teacher }),
        ]
    }

    /// Prices from the rises of the loss that [`Prices::probes`] showed and the masses that they keep, in the order of the probes. An axis
    /// that was not cut, or whose cut did no harm, is free.
    pub fn measured(rises: [Option<(f64, Mass)>; 4]) -> Prices {
        let price = |axis: usize| match &rises[axis] {
            Some((rise, mass)) if rise.is_finite() && mass.lost()[axis] > 0.0 => rise.max(0.0) / mass.lost()[axis],
            // So bad that the loss is no number: the dearest there is.
            Some((rise, _)) if !rise.is_finite() => 1e6,
            _ => 0.0,
        };
        Prices { hidden: price(0), ffn: price(1), heads: price(2), layers: price(3) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Mass = Mass { hidden: 1.0, ffn: 1.0, heads: 1.0, layers: 1.0 };

    #[test]
    fn prices_are_those_that_were_measured_and_add_up() {
        let half = Mass { ffn: 0.5, ..WHOLE };
        let most = Mass { hidden: 0.9, ..WHOLE };
        let prices = Prices::measured([Some((2.0, most)), Some((0.7, half)), None, Some((-0.1, WHOLE))]);
        assert_eq!(prices.loss(&WHOLE), 0.0);
        assert!((prices.loss(&half) - 0.7).abs() < 1e-12);
        assert!((prices.loss(&Mass { ffn: 0.5, ..most }) - 2.7).abs() < 1e-12);
        assert_eq!((prices.heads, prices.layers), (0.0, 0.0));
        assert!(prices.loss(&Mass { ffn: 0.0, ..WHOLE }).is_finite());
        assert_eq!(Prices::measured([Some((f64::NAN, most)), None, None, None]).hidden, 1e6);
    }

    #[test]
    fn probes_cut_one_axis_each() {
        let teacher = Dims { layers: 4, hidden: 8, ffn: 16, heads: 4, kv_groups: 2, head_dim: 4, vocab: 9, tied: true };
        let candidates =
            [Dims { layers: 3, ..teacher }, Dims { ffn: 12, ..teacher }, Dims { ffn: 8, layers: 2, ..teacher }];
        let [hidden, ffn, heads, layers] = Prices::probes(&teacher, &candidates);
        assert_eq!((hidden, heads), (None, None));
        assert_eq!(ffn, Some(Dims { ffn: 12, ..teacher }));
        assert_eq!(layers, Some(Dims { layers: 3, ..teacher }));
    }
}
