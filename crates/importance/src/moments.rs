//! Statistics of the channels of one site: aggregated over a sequence first, then over sequences (arXiv 2407.14679, section 2.2).
//! Only sums are kept, and exactly: any of the nine pairs of aggregations can be asked for later, and shards add up to the same bits.
use crate::{Error, ExactSum, Result};
use ndarray::ArrayView2;

/// How a list of `n` values becomes one (arXiv 2407.14679, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Agg {
    /// `1/n sum |x|`: the mean of absolute values.
    Mean,
    /// `sqrt(sum x^2)`, without `1/n`.
    L2,
    /// `1/n sum (x - mean(x))^2`, where `mean(x)` is the mean of the signed values.
    Var,
}

impl Agg {
    /// All three, in the order in which they are stored.
    pub const ALL: [Agg; 3] = [Agg::Mean, Agg::L2, Agg::Var];

    /// Its name in options.
    pub const fn name(self) -> &'static str {
        match self {
            Agg::Mean => "mean",
            Agg::L2 => "l2",
            Agg::Var => "var",
        }
    }
}

/// Sums over the tokens of one sequence, channel by channel: all that [`Moments`] needs of it. A device can make them where the activations
/// are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelSums {
    /// Tokens of the sequence.
    pub tokens: usize,
    /// `sum_t |x|`, `[C]`.
    pub absolute: Vec<f64>,
    /// `sum_t x^2`, `[C]`.
    pub square: Vec<f64>,
    /// `sum_t (x_t - x_0)`, `[C]`: the variance of a large constant would drown in rounding without a shift.
    pub deviation: Vec<f64>,
    /// `sum_t (x_t - x_0)^2`, `[C]`.
    pub deviation_square: Vec<f64>,
}

impl ChannelSums {
    /// The sums of `x`, `[T, C]` of f32 or f64, in f64 and in the order of tokens.
    pub fn of<T: Copy + Into<f64>>(x: ArrayView2<'_, T>) -> ChannelSums {
        let (tokens, channels) = x.dim();
        let (mut abs, mut sq) = (vec![0f64; channels], vec![0f64; channels]);
        let (mut dev, mut dev_sq) = (vec![0f64; channels], vec![0f64; channels]);
        let first: Vec<f64> = x.rows().into_iter().next().iter().flatten().map(|&v| v.into()).collect();
        let standard = x.as_standard_layout();
        for row in standard.as_slice().unwrap_or_default().chunks_exact(channels.max(1)) {
            // Slices of one length, or the loop does not vectorise: it sees every activation of the calibration.
            let row = &row[..channels];
            let (abs, sq, first) = (&mut abs[..channels], &mut sq[..channels], &first[..channels]);
            let (dev, dev_sq) = (&mut dev[..channels], &mut dev_sq[..channels]);
            for c in 0..channels {
                let v: f64 = row[c].into();
                let d = v - first[c];
                abs[c] += v.abs();
                sq[c] += v * v;
                dev[c] += d;
                dev_sq[c] += d * d;
            }
        }
        ChannelSums { tokens, absolute: abs, square: sq, deviation: dev, deviation_square: dev_sq }
    }
}

/// Sums over calibration sequences of one aggregate per channel, which is never below zero: `sum m` is `sum |m|` as well, and one array
/// serves both.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    /// `sum_b m_b[c]`, `[C]`.
    pub(crate) sum: Vec<ExactSum>,
    /// `sum_b m_b[c]^2`, `[C]`; a square is rounded to f64 before it is added.
    pub(crate) square: Vec<ExactSum>,
}

impl Sums {
    pub(crate) fn new(channels: usize) -> Self {
        Sums { sum: vec![ExactSum::default(); channels], square: vec![ExactSum::default(); channels] }
    }

    /// These sums and one sequence's `values`, `[C]`.
    pub(crate) fn with(&self, values: impl Iterator<Item = f64> + Clone) -> Result<Sums> {
        let add = |to: &[ExactSum], values: &mut dyn Iterator<Item = f64>| {
            let one = |(index, (sum, v)): (usize, (&ExactSum, f64))| {
                ExactSum::new(v).and_then(|v| sum.checked_add(v)).ok_or(Error::TooLarge { index, value: v })
            };
            to.iter().zip(values).enumerate().map(one).collect::<Result<_>>()
        };
        Ok(Sums { sum: add(&self.sum, &mut values.clone())?, square: add(&self.square, &mut values.map(|v| v * v))? })
    }

    /// These sums and those of other sequences.
    pub(crate) fn plus(&self, other: &Sums) -> Result<Sums> {
        Ok(Sums { sum: plus(&self.sum, &other.sum)?, square: plus(&self.square, &other.square)? })
    }

    /// One score per channel over `n` sequences; zero before the first.
    pub(crate) fn score(&self, batch: Agg, n: u64) -> Vec<f64> {
        let n = n.max(1) as f64;
        let one = |(sum, square): (&ExactSum, &ExactSum)| match batch {
            Agg::Mean => sum.value() / n,
            Agg::L2 => square.value().sqrt(),
            Agg::Var => (square.value() / n - (sum.value() / n).powi(2)).max(0.0),
        };
        self.sum.iter().zip(&self.square).map(one).collect()
    }
}

/// Sums of two shards.
pub(crate) fn plus(a: &[ExactSum], b: &[ExactSum]) -> Result<Vec<ExactSum>> {
    let one = |(index, (a, b)): (usize, (&ExactSum, &ExactSum))| {
        a.checked_add(*b).ok_or(Error::TooLarge { index, value: b.value() })
    };
    a.iter().zip(b).enumerate().map(one).collect()
}

/// Statistics of one site of `C` channels.
///
/// Per sequence `b` and channel `c` three aggregates over tokens are taken: `mean_t |x|`, `sqrt(sum_t x^2)` and the population
/// variance of the signed `x`. Over sequences `sum m` and `sum m^2` are accumulated exactly ([`ExactSum`]): sequences may come in any order,
/// and in parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub(crate) channels: usize,
    pub(crate) sequences: u64,
    /// In the order of [`Agg::ALL`].
    pub(crate) sums: [Sums; 3],
}

impl Moments {
    /// No sequence yet, of `channels` channels.
    pub fn new(channels: usize) -> Self {
        Moments { channels, sequences: 0, sums: [(); 3].map(|()| Sums::new(channels)) }
    }

    /// Channels of the site.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Sequences observed.
    pub fn sequences(&self) -> u64 {
        self.sequences
    }

    /// Adds one calibration sequence. After an error nothing was added.
    ///
    /// # Shapes
    /// - `x`: `[T, C]`, the activations of one sequence without padding.
    ///
    /// # Errors
    /// [`Error::Channels`], [`Error::EmptySequence`], [`Error::NotFinite`] or [`Error::TooLarge`].
    pub fn observe_sequence(&mut self, x: ArrayView2<'_, f32>) -> Result<()> {
        self.observe_sums(&ChannelSums::of(x))
    }

    /// Adds one calibration sequence, of which only the sums are at hand. After an error nothing was added.
    ///
    /// # Errors
    /// Those of [`Moments::observe_sequence`].
    pub fn observe_sums(&mut self, sequence: &ChannelSums) -> Result<()> {
        let ChannelSums { tokens, absolute, square, deviation, deviation_square } = sequence;
        for sums in [absolute, square, deviation, deviation_square] {
            if sums.len() != self.channels {
                return Err(Error::Channels { got: sums.len(), want: self.channels });
            }
        }
        if *tokens == 0 {
            return Err(Error::EmptySequence);
        }
        if let Some(index) = square.iter().position(|v| !v.is_finite()) {
            return Err(Error::NotFinite { unit: "channel", index });
        }
        let n = *tokens as f64;
        // Rounding may leave a variance of zero a hair below it.
        let var = |(d, d2): (&f64, &f64)| (d2 / n - (d / n) * (d / n)).max(0.0);
        let [mean_sums, l2_sums, var_sums] = &self.sums;
        self.sums = [
            mean_sums.with(absolute.iter().map(|a| a / n))?,
            l2_sums.with(square.iter().map(|s| s.sqrt()))?,
            var_sums.with(deviation.iter().zip(deviation_square).map(var))?,
        ];
        self.sequences += 1;
        Ok(())
    }

    /// One score per channel: `seq` over the tokens of a sequence, then `batch` over sequences; `[C]`.
    ///
    /// `score(Agg::Mean, Agg::L2)` is the paper's choice and ModelOpt's: `sqrt(sum_b (mean_t |x|)^2)`, not divided by the number of
    /// sequences. Before the first sequence all scores are zero.
    pub fn score(&self, seq: Agg, batch: Agg) -> Vec<f64> {
        self.sums[seq as usize].score(batch, self.sequences)
    }

    /// Adds the sequences that `other` saw. After an error nothing was added.
    ///
    /// # Errors
    /// [`Error::Channels`] or [`Error::TooLarge`].
    pub fn merge(&mut self, other: &Moments) -> Result<()> {
        if other.channels != self.channels {
            return Err(Error::Channels { got: other.channels, want: self.channels });
        }
        let ([a, b, c], [x, y, z]) = (&self.sums, &other.sums);
        let sums = [a.plus(x)?, b.plus(y)?, c.plus(z)?];
        (self.sums, self.sequences) = (sums, together(self.sequences, other.sequences)?);
        Ok(())
    }
}

/// Sequences of two shards.
pub(crate) fn together(a: u64, b: u64) -> Result<u64> {
    a.checked_add(b).ok_or(Error::TooLarge { index: 0, value: b as f64 })
}

/// `a += b`.
pub(crate) fn add(a: &mut [f64], b: &[f64]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

/// Scores of heads from the scores of their channels: the L2 norm over the `head_dim` channels of each head, as in ModelOpt.
///
/// A last, incomplete head is scored by the channels it has; a `head_dim` of zero counts as one.
pub fn head_scores(channel_scores: &[f64], head_dim: usize) -> Vec<f64> {
    channel_scores.chunks(head_dim.max(1)).map(|head| head.iter().map(|s| s * s).sum::<f64>().sqrt()).collect()
}

/// Scores of key/value groups: the L2 norm over the scores of the `heads / kv_heads` query heads that read the group.
///
/// That is the norm over all channels of the group. No published pruner ranks groups this way: it is [`head_scores`] one level up.
pub fn kv_group_scores(head_scores: &[f64], kv_heads: usize) -> Vec<f64> {
    self::head_scores(head_scores, head_scores.len() / kv_heads.max(1))
}
