//! Statistics of the channels of one site: aggregated over a sequence first, then over sequences (arXiv 2407.14679, section 2.2).
//! Only sums are kept, so that any of the nine pairs of aggregations can be asked for later and shards add up exactly.
use crate::{Error, Result};
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

    /// The name used in stored arrays.
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
    /// The sums of `x`, `[T, C]`, in f64 and in the order of tokens.
    pub fn of(x: ArrayView2<'_, f32>) -> ChannelSums {
        let (tokens, channels) = x.dim();
        let (mut abs, mut sq) = (vec![0f64; channels], vec![0f64; channels]);
        let (mut dev, mut dev_sq) = (vec![0f64; channels], vec![0f64; channels]);
        let first: Vec<f64> = x.rows().into_iter().next().iter().flatten().map(|&v| f64::from(v)).collect();
        let standard = x.as_standard_layout();
        for row in standard.as_slice().unwrap_or_default().chunks_exact(channels.max(1)) {
            // Slices of one length, or the loop does not vectorise: it sees every activation of the calibration.
            let row = &row[..channels];
            let (abs, sq, first) = (&mut abs[..channels], &mut sq[..channels], &first[..channels]);
            let (dev, dev_sq) = (&mut dev[..channels], &mut dev_sq[..channels]);
            for c in 0..channels {
                let v = f64::from(row[c]);
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

/// Sums over calibration sequences, for one aggregation over the sequence.
///
/// Every aggregate `m` of a sequence is at least zero, so `sum |m|` is also `sum m`, and one array serves both.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    /// `sum_b |m_b[c]|`, `[C]`.
    pub(crate) sum_abs: Vec<f64>,
    /// `sum_b m_b[c]^2`, `[C]`.
    pub(crate) sum_sq: Vec<f64>,
}

/// Statistics of one site of `C` channels.
///
/// Per sequence `b` and channel `c` three aggregates over tokens are taken: `mean_t |x|`, `sqrt(sum_t x^2)` and the population
/// variance of the signed `x`. Over sequences `sum |m|` and `sum m^2` are accumulated in f64.
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
        let zero = || Sums { sum_abs: vec![0.0; channels], sum_sq: vec![0.0; channels] };
        Moments { channels, sequences: 0, sums: [zero(), zero(), zero()] }
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
    /// [`Error::Channels`], [`Error::EmptySequence`] or [`Error::NotFinite`].
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
            return Err(Error::NotFinite { index });
        }
        let n = *tokens as f64;
        for c in 0..self.channels {
            let mean = deviation[c] / n;
            // Rounding may leave a variance of zero a hair below it.
            let var = (deviation_square[c] / n - mean * mean).max(0.0);
            for (sums, m) in self.sums.iter_mut().zip([absolute[c] / n, square[c].sqrt(), var]) {
                sums.sum_abs[c] += m;
                sums.sum_sq[c] += m * m;
            }
        }
        self.sequences += 1;
        Ok(())
    }

    /// One score per channel: `seq` over the tokens of a sequence, then `batch` over sequences; `[C]`.
    ///
    /// `score(Agg::Mean, Agg::L2)` is the paper's choice and ModelOpt's: `sqrt(sum_b (mean_t |x|)^2)`, not divided by the number of
    /// sequences. Before the first sequence all scores are zero.
    pub fn score(&self, seq: Agg, batch: Agg) -> Vec<f64> {
        let sums = &self.sums[seq as usize];
        let n = self.sequences.max(1) as f64;
        (0..self.channels)
            .map(|c| match batch {
                Agg::Mean => sums.sum_abs[c] / n,
                Agg::L2 => sums.sum_sq[c].sqrt(),
                Agg::Var => (sums.sum_sq[c] / n - (sums.sum_abs[c] / n).powi(2)).max(0.0),
            })
            .collect()
    }

    /// Adds the sequences that `other` saw.
    ///
    /// # Errors
    /// [`Error::Channels`].
    pub fn merge(&mut self, other: &Moments) -> Result<()> {
        if other.channels != self.channels {
            return Err(Error::Channels { got: other.channels, want: self.channels });
        }
        for (a, b) in self.sums.iter_mut().zip(&other.sums) {
            add(&mut a.sum_abs, &b.sum_abs);
            add(&mut a.sum_sq, &b.sum_sq);
        }
        self.sequences += other.sequences;
        Ok(())
    }
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
