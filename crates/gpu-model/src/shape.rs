//! The shape of a decoder, as far as work and memory depend on it, and the published models of the Minitron papers by name.

/// One block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LayerShape {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Neurons of the MLP.
    pub ffn: u32,
}

/// A decoder. Layers may differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows of the embedding.
    pub vocab: u32,
    /// Channels of the residual stream.
    pub hidden: u32,
    /// Channels of a head.
    pub head_dim: u32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Whether the MLP has a gate (three matrices: Llama), or not (two: Nemotron).
    pub gated: bool,
    /// The blocks, first to last.
    pub layers: Vec<LayerShape>,
}

/// Numbers of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// All; a tied head counts once.
    pub total: u64,
    /// All but the embedding and an untied head; norms are included.
    pub non_embedding: u64,
}

/// Why a shape cannot be predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A size is zero or beyond any model.
    Size {
        /// Which.
        what: &'static str,
        /// What it is.
        got: u64,
        /// The largest that is taken.
        max: u64,
    },
    /// Query heads do not divide among key/value heads.
    Heads {
        /// Query heads.
        heads: u32,
        /// Key/value heads.
        kv_heads: u32,
    },
    /// Work that the kernels cannot do with these weights.
    Weights {
        /// What was wrong.
        what: &'static str,
    },
    /// Teacher and student read different vocabularies.
    Vocab {
        /// The teacher's.
        teacher: u32,
        /// The student's.
        student: u32,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Size { what, got, max } => write!(f, "{what} is {got}, expected 1 to {max}"),
            Error::Heads { heads, kv_heads } => {
                write!(f, "{heads} query heads, expected a multiple of the {kv_heads} key/value heads")
            }
            Error::Weights { what } => f.write_str(what),
            Error::Vocab { teacher, student } => {
                write!(
                    f,
                    "the teacher has {teacher} tokens in its vocabulary and the student {student}, expected the same"
                )
            }
        }
    }
}

impl std::error::Error for Error {}

/// The largest size of any axis: far above any model, and small enough for every product below to be exact enough.
const MAX_SIZE: u64 = 1 << 24;

pub(crate) fn check_size(what: &'static str, got: u64, max: u64) -> Result<(), Error> {
    if got == 0 || max < got { Err(Error::Size { what, got, max }) } else { Ok(()) }
}

impl Shape {
    /// A decoder of equal layers.
    pub fn uniform(
        layers: u32,
        hidden: u32,
        layer: LayerShape,
        head_dim: u32,
        vocab: u32,
        tied: bool,
        gated: bool,
    ) -> Shape {
        Shape { vocab, hidden, head_dim, tied, gated, layers: vec![layer; layers as usize] }
    }

    /// # Errors
    /// [`Error::Size`] for a zero or a size beyond any model, [`Error::Heads`] for heads that do not divide.
    pub fn check(&self) -> Result<(), Error> {
        check_size("vocab", self.vocab.into(), MAX_SIZE)?;
        check_size("hidden", self.hidden.into(), MAX_SIZE)?;
        check_size("head_dim", self.head_dim.into(), MAX_SIZE)?;
        check_size("the number of layers", self.layers.len() as u64, MAX_SIZE)?;
        for layer in &self.layers {
            check_size("heads", layer.heads.into(), MAX_SIZE)?;
            check_size("kv_heads", layer.kv_heads.into(), MAX_SIZE)?;
            check_size("ffn", layer.ffn.into(), MAX_SIZE)?;
            if !layer.heads.is_multiple_of(layer.kv_heads) {
                return Err(Error::Heads { heads: layer.heads, kv_heads: layer.kv_heads });
            }
        }
        Ok(())
    }

    /// Values of one block's matrices.
    pub(crate) fn layer_matrices(&self, layer: &LayerShape) -> f64 {
        let [h, d] = [self.hidden, self.head_dim].map(f64::from);
        let mlp = if self.gated { 3.0 } else { 2.0 };
        2.0 * h * d * f64::from(layer.heads + layer.kv_heads) + mlp * h * f64::from(layer.ffn)
    }

    /// Parameters: `V H (tied ? 1 : 2) + sum over layers (2 H Nq d + 2 H Nkv d + m H F + 2 H) + H`, m = 3 with a gate and 2 without;
    /// biases are not counted. Saturates where u64 ends.
    pub fn params(&self) -> Params {
        let [h, d, v] = [self.hidden, self.head_dim, self.vocab].map(u128::from);
        let mlp = if self.gated { 3 } else { 2 };
        let layer = |l: &LayerShape| {
            2 * h * d * (u128::from(l.heads) + u128::from(l.kv_heads)) + mlp * h * u128::from(l.ffn) + 2 * h
        };
        let non_embedding = self.layers.iter().map(layer).sum::<u128>() + h;
        let embedding = v * h * if self.tied { 1 } else { 2 };
        let clamp = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        Params { total: clamp(non_embedding + embedding), non_embedding: clamp(non_embedding) }
    }
}

/// A published model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// What a user calls it.
    pub name: &'static str,
    /// Who published it.
    pub source: &'static str,
    layers: u32,
    hidden: u32,
    heads: u32,
    kv_heads: u32,
    ffn: u32,
    vocab: u32,
    gated: bool,
}

const P1: &str = "Muralidharan et al., arXiv 2407.14679";
const P2: &str = "Sreenivas et al., arXiv 2408.11796";

/// Llama 3.1 and Nemotron read different vocabularies.
const LLAMA: u32 = 128_256;
const NEMO: u32 = 131_072;
const NEMOTRON: u32 = 256_000;

const fn preset(
    name: &'static str,
    source: &'static str,
    [layers, hidden, heads, kv_heads, ffn, vocab]: [u32; 6],
    gated: bool,
) -> Preset {
    Preset { name, source, layers, hidden, heads, kv_heads, ffn, vocab, gated }
}

/// Teachers and students of the two Minitron papers. All have heads of 128 channels and a head of their own.
pub const PRESETS: [Preset; 9] = [
    preset("llama-3.1-8b", "Meta, Llama 3.1 8B", [32, 4096, 32, 8, 14336, LLAMA], true),
    preset("llama-3.1-minitron-4b-width", P2, [32, 3072, 32, 8, 9216, LLAMA], true),
    preset("llama-3.1-minitron-4b-depth", P2, [16, 4096, 32, 8, 14336, LLAMA], true),
    preset("mistral-nemo-12b", "Mistral AI and NVIDIA, Mistral NeMo 12B", [40, 5120, 32, 8, 14336, NEMO], true),
    preset("mistral-nemo-minitron-8b", P2, [40, 4096, 32, 8, 11520, NEMO], true),
    preset("nemotron-4-15b", P1, [32, 6144, 48, 8, 24576, NEMOTRON], false),
    preset("nemotron-3-8b", P1, [32, 4096, 32, 32, 16384, NEMOTRON], false),
    preset("minitron-8b", P1, [32, 4096, 48, 8, 16384, NEMOTRON], false),
    preset("minitron-4b", P1, [32, 3072, 24, 8, 9216, NEMOTRON], false),
];

impl Preset {
    /// The preset of that name, in any case.
    pub fn named(name: &str) -> Option<Preset> {
        PRESETS.into_iter().find(|p| p.name.eq_ignore_ascii_case(name))
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        let layer = LayerShape { heads: self.heads, kv_heads: self.kv_heads, ffn: self.ffn };
        Shape::uniform(self.layers, self.hidden, layer, 128, self.vocab, false, self.gated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Billions of parameters, rounded as they are printed.
    fn billions(name: &str, digits: i32) -> Option<[f64; 2]> {
        let unit = 1e9 / 10f64.powi(digits);
        let params = Preset::named(name)?.shape().params();
        Some([params.total, params.non_embedding].map(|n| (n as f64 / unit).round() / 10f64.powi(digits)))
    }

    /// arXiv 2407.14679, table 1 of its models, and arXiv 2408.11796, table 1. For the depth-pruned student the latter prints 3.7 beside the
    /// 3.5 of its table 3; the formula gives 3.49.
    #[test]
    fn parameters_are_those_of_the_papers() {
        for (name, total, non_embedding) in [
            ("llama-3.1-8b", 8.0, 7.0),
            ("llama-3.1-minitron-4b-width", 4.5, 3.7),
            ("llama-3.1-minitron-4b-depth", 4.5, 3.5),
            ("mistral-nemo-12b", 12.2, 10.9),
            ("mistral-nemo-minitron-8b", 8.4, 7.3),
            ("nemotron-4-15b", 15.6, 12.5),
            ("nemotron-3-8b", 8.5, 6.4),
            ("minitron-8b", 8.3, 6.2),
            ("minitron-4b", 4.2, 2.6),
        ] {
            assert_eq!(billions(name, 1), Some([total, non_embedding]), "{name}");
        }
        for (name, total) in [
            ("llama-3.1-minitron-4b-width", 4.513),
            ("llama-3.1-minitron-4b-depth", 4.540),
            ("mistral-nemo-minitron-8b", 8.414),
            ("minitron-4b", 4.190),
            ("minitron-8b", 8.271),
        ] {
            assert_eq!(billions(name, 3).map(|[total, _]| total), Some(total), "{name}");
        }
    }

    #[test]
    fn shapes_that_are_none_are_refused() {
        let mut shape = PRESETS[0].shape();
        assert_eq!(shape.check(), Ok(()));
        shape.layers[3].kv_heads = 5;
        assert_eq!(shape.check(), Err(Error::Heads { heads: 32, kv_heads: 5 }));
        shape.layers.clear();
        assert!(shape.check().is_err_and(|e| e.to_string().contains("layers is 0")));
    }
}
