//! Filters in their customary order, then one draw.
use crate::rng::Rng;
use std::fmt;

/// How to choose a token. Filters work in this order: temperature, top-k, top-p, min-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Logits are divided by this; 0 takes the highest, the lowest id among equals.
    pub temperature: f32,
    /// Only the `k` highest; 0 keeps all.
    pub top_k: usize,
    /// Only the smallest set of highest whose probability reaches this (Holtzman et al., arXiv 1904.09751); 1 keeps all.
    pub top_p: f32,
    /// Only those with at least this part of the highest probability (arXiv 2407.01082); 0 keeps all.
    pub min_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

/// Why no token was chosen.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A setting outside its range.
    Setting {
        /// Which one.
        name: &'static str,
        /// Its value.
        got: f32,
        /// What it may be.
        want: &'static str,
    },
    /// A logit is NaN or positive infinity.
    NotFinite {
        /// The token.
        token: usize,
    },
    /// There is nothing to choose from: no logits, or all are negative infinity.
    Empty,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Setting { name, got, want } => write!(f, "{name} is {got}, expected {want}"),
            Error::NotFinite { token } => {
                write!(f, "the logit of token {token} is not a number: the model's weights are broken")
            }
            Error::Empty => write!(f, "there is no token to choose from"),
        }
    }
}

impl std::error::Error for Error {}

impl Sampler {
    /// Always the most probable token.
    pub const fn greedy() -> Self {
        Sampler { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }

    /// The same, if every setting is in its range.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn checked(self) -> Result<Self, Error> {
        let setting = |name, got, want| Err(Error::Setting { name, got, want });
        if !(self.temperature.is_finite() && 0.0 <= self.temperature) {
            return setting("temperature", self.temperature, "a number from 0");
        }
        if !(0.0 < self.top_p && self.top_p <= 1.0) {
            return setting("top-p", self.top_p, "above 0 and at most 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return setting("min-p", self.min_p, "from 0 to 1");
        }
        Ok(self)
    }

    /// One token. `position` is the counter of the draw.
    ///
    /// # Errors
    /// [`Error::NotFinite`] or [`Error::Empty`].
    pub fn sample(&self, logits_v: &[f32], position: u64) -> Result<u32, Error> {
        // A fold without an early end, which vectorises: a token is looked for only when there is one.
        if !logits_v.iter().fold(true, |good, &l| good & (l < f32::INFINITY)) {
            let token = logits_v.iter().position(|l| l.is_nan() || *l == f32::INFINITY).unwrap_or(0);
            return Err(Error::NotFinite { token });
        }
        let best = highest(logits_v).ok_or(Error::Empty)?;
        if self.temperature == 0.0 {
            return Ok(best as u32);
        }
        let mut order: Vec<usize> = (0..logits_v.len()).filter(|&i| logits_v[i] != f32::NEG_INFINITY).collect();
        // Highest first, lowest id among equals: a total order, so the draw does not depend on the sort.
        let by_logit = |&a: &usize, &b: &usize| logits_v[b].total_cmp(&logits_v[a]).then(a.cmp(&b));
        if 0 < self.top_k && self.top_k < order.len() {
            order.select_nth_unstable_by(self.top_k - 1, by_logit);
            order.truncate(self.top_k);
        }
        order.sort_unstable_by(by_logit);
        let t = f64::from(self.temperature);
        let mut weights: Vec<f64> =
            order.iter().map(|&i| ((f64::from(logits_v[i]) - f64::from(logits_v[best])) / t).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut reached = 0.0;
        let keep = weights.iter().position(|w| {
            reached += w / sum;
            f64::from(self.top_p) <= reached
        });
        weights.truncate(keep.map_or(weights.len(), |k| k + 1));
        // The highest weight is 1, so min-p is a bound on the weights themselves.
        weights.retain(|&w| f64::from(self.min_p) <= w);
        let draw = Rng::new(self.seed).uniform(0, position) * weights.iter().sum::<f64>();
        let mut passed = 0.0;
        let chosen = weights.iter().position(|w| {
            passed += w;
            draw < passed
        });
        Ok(order[chosen.unwrap_or(weights.len() - 1)] as u32)
    }
}

/// Where the highest logit is, the first of equals in the order of [`f32::total_cmp`]; `None` when there is none above negative infinity.
fn highest(logits_v: &[f32]) -> Option<usize> {
    // Whole numbers in the order of `total_cmp`: their maximum vectorises.
    let key = |l: f32| {
        let bits = l.to_bits() as i32;
        bits ^ (((bits >> 31) as u32) >> 1) as i32
    };
    let max = logits_v.iter().fold(i32::MIN, |max, &l| max.max(key(l)));
    if max <= key(f32::NEG_INFINITY) {
        return None;
    }
    logits_v.iter().position(|&l| key(l) == max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(sampler: Sampler, logits: &[f32], n: u64) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        (0..n).for_each(|p| counts[sampler.sample(logits, p).unwrap() as usize] += 1.0);
        counts
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [1.0f32, 0.0, -1.0, 2.0];
        let sampler = Sampler { temperature: 1.5, seed: 11, ..Sampler::greedy() };
        let n = 20_000.0;
        let weights: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / 1.5).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let chi2: f64 = counts(sampler, &logits, n as u64)
            .iter()
            .zip(&weights)
            .map(|(c, w)| (c - n * w / sum).powi(2) / (n * w / sum))
            .sum();
        assert!(chi2 < 16.3, "chi-square with 3 degrees of freedom exceeds its 99.9 % point: {chi2}");
    }

    #[test]
    fn filters_keep_what_they_say() {
        // Probabilities 0.5, 0.25, 0.125, 0.125.
        let logits = [8f32.ln(), 4f32.ln(), 2f32.ln(), 2f32.ln()];
        let base = Sampler { temperature: 1.0, ..Sampler::greedy() };
        let kept = |s: Sampler| counts(s, &logits, 2000).iter().filter(|&&c| 0.0 < c).count();
        assert_eq!(kept(base), 4);
        assert_eq!(kept(Sampler { top_k: 2, ..base }), 2);
        assert_eq!(kept(Sampler { top_p: 0.7, ..base }), 2);
        assert_eq!(kept(Sampler { top_p: 0.4, ..base }), 1);
        assert_eq!(kept(Sampler { min_p: 0.3, ..base }), 2);
        assert_eq!(kept(Sampler { min_p: 1.0, ..base }), 1);
    }

    #[test]
    fn settings_and_logits_are_checked() {
        let base = Sampler::greedy();
        for bad in [
            Sampler { temperature: -1.0, ..base },
            Sampler { temperature: f32::NAN, ..base },
            Sampler { top_p: 0.0, ..base },
            Sampler { top_p: 1.5, ..base },
            Sampler { min_p: f32::NAN, ..base },
        ] {
            assert!(matches!(bad.checked(), Err(Error::Setting { .. })), "{bad:?}");
        }
        assert_eq!(base.sample(&[0.0, f32::NAN], 0), Err(Error::NotFinite { token: 1 }));
        assert_eq!(base.sample(&[], 0), Err(Error::Empty));
        assert_eq!(base.sample(&[f32::NEG_INFINITY], 0), Err(Error::Empty));
        assert_eq!(base.sample(&[2.0, 5.0, 5.0], 0), Ok(1));
    }

    /// What the order of all logits says: highest first, lowest id among equals.
    fn sorted(logits: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        order
    }

    proptest! {
        #[test]
        fn the_highest_and_the_k_highest_are_those_of_the_whole_order(
            ties in proptest::collection::vec(-3i8..3, 1..40), top_k in 1usize..8, position: u64) {
            let logits: Vec<f32> = ties.iter().map(|&t| if t == 2 { -0.0 } else { f32::from(t) }).collect();
            let order = sorted(&logits);
            prop_assert_eq!(Sampler::greedy().sample(&logits, position), Ok(order[0] as u32));
            let sampler = Sampler { temperature: 1.0, top_k, ..Sampler::greedy() };
            let token = sampler.sample(&logits, position).unwrap() as usize;
            prop_assert!(order[..top_k.min(order.len())].contains(&token));
        }

        #[test]
        fn any_logits_give_a_token_or_an_error(logits in proptest::collection::vec(-200f32..200.0, 0..40),
            temperature in 0f32..4.0, top_k in 0usize..5, top_p in 0.01f32..=1.0, min_p in 0f32..=1.0, position: u64) {
            let sampler = Sampler { temperature, top_k, top_p, min_p, seed: 1 };
            match sampler.sample(&logits, position) {
                Ok(token) => prop_assert!((token as usize) < logits.len()),
                Err(e) => prop_assert_eq!(e, Error::Empty),
            }
        }
    }
}
