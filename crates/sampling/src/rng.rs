//! A counter-based random generator: every number is a hash of (seed, stream, index).
//!
//! Nothing has to be saved for a run to go on, and neither threads nor the order of asking can change a number. The hash is the
//! finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17), applied
//! to the three words in turn.

/// A generator; a seed and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    seed: u64,
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of `seed`.
    pub const fn new(seed: u64) -> Self {
        Rng { seed }
    }

    /// 64 random bits.
    pub fn bits(&self, stream: u64, index: u64) -> u64 {
        let key = mix(self.seed.wrapping_add(GOLDEN_GAMMA));
        let key = mix(key ^ stream.wrapping_mul(GOLDEN_GAMMA).wrapping_add(1));
        mix(key.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA)))
    }

    /// A number in `[0, 1)`, 53 random bits.
    pub fn uniform(&self, stream: u64, index: u64) -> f64 {
        (self.bits(stream, index) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number from the standard normal distribution (Box and Muller 1958).
    pub fn normal(&self, stream: u64, index: u64) -> f64 {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform(stream, index.wrapping_mul(2))).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(stream, index.wrapping_mul(2).wrapping_add(1))).cos()
    }

    /// A number below `n`; 0 when `n` is 0. The bias of `n / 2^64` is far below what any use here could show.
    pub fn below(&self, stream: u64, index: u64, n: u64) -> u64 {
        ((u128::from(self.bits(stream, index)) * u128::from(n)) >> 64) as u64
    }

    /// A random order of `0..n` (Fisher and Yates, in Durstenfeld's form).
    pub fn permutation(&self, stream: u64, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(stream, i as u64, i as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_and_normal_have_the_right_moments() {
        let rng = Rng::new(3);
        let n = 40_000u64;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        assert!((mean(&|i| rng.uniform(1, i)) - 0.5).abs() < 0.01);
        assert!(mean(&|i| rng.normal(2, i)).abs() < 0.02);
        assert!((mean(&|i| rng.normal(2, i).powi(2)) - 1.0).abs() < 0.03);
        assert!((mean(&|i| rng.normal(2, i).powi(4)) - 3.0).abs() < 0.3);
        // Neighbouring indices and streams are not correlated.
        assert!(mean(&|i| rng.normal(2, i) * rng.normal(2, i + 1)).abs() < 0.02);
        assert!(mean(&|i| rng.normal(2, i) * rng.normal(3, i)).abs() < 0.02);
    }

    #[test]
    fn permutations_are_complete_and_differ_by_stream_and_seed() {
        let order = Rng::new(1).permutation(0, 100);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(order, Rng::new(1).permutation(1, 100));
        assert_ne!(order, Rng::new(2).permutation(0, 100));
        assert_eq!(order, Rng::new(1).permutation(0, 100));
        // Every value is equally often first.
        let mut first = [0u32; 5];
        (0..5000).for_each(|s| first[Rng::new(9).permutation(s, 5)[0]] += 1);
        assert!(first.iter().all(|&c| (850..1150).contains(&c)), "{first:?}");
    }
}
