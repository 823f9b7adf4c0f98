//! `--params`, `--memory`, `--latency`, `--speedup`, `--preset`: which candidates there are.
use crate::{
    args_search::{Budget, LatencyOf, Search},
    describe::count,
    error::{Failure, Result},
    target,
};
use paring_gpu_model::{Gpu, LABEL, LayerShape, Shape, Weights, Work, predict};
use paring_prune::{Dims, Mutable, Space, Widths, count_params, kv_bytes, weight_bytes};
use paring_search::{Latency, Phase};
use paring_tensor::DType;
use serde_json::{Value, json};

/// Seconds of a shape, measured or modelled.
pub(super) enum Clock {
    Measured { latency: Latency, device: String },
    Gpu { gpu: Gpu, weights: Weights, of: LatencyOf, context: u32 },
}

impl Clock {
    /// The model of a GPU that the flags name.
    pub(super) fn gpu(name: &str, dtype: DType, of: LatencyOf, context: usize) -> Result<Clock> {
        let gpu = Gpu::named(name).ok_or_else(|| {
            let known = paring_gpu_model::GPUS.map(|g| g.name).join(", ");
            Failure::input(format!("--model-gpu {}: expected {known}", paring_checkpoint::shown(name)))
        })?;
        let weights = if dtype == DType::F32 { Weights::F32 } else { Weights::Bf16 };
        let context = u32::try_from(context).map_err(|_| Failure::input(format!("--context {context} is too long")))?;
        Ok(Clock::Gpu { gpu, weights, of, context })
    }

    /// Not a number for a shape that the model refuses, which no candidate has.
    pub(super) fn seconds(&self, d: &Dims) -> f64 {
        match self {
            Clock::Measured { latency, .. } => latency.seconds(d),
            Clock::Gpu { gpu, weights, of, context } => {
                let [hidden, head_dim, vocab, heads, kv_heads, ffn, layers] =
                    [d.hidden, d.head_dim, d.vocab, d.heads, d.kv_groups, d.ffn, d.layers].map(|n| n as u32);
                let layer = LayerShape { heads, kv_heads, ffn };
                let shape = Shape::uniform(layers, hidden, layer, head_dim, vocab, d.tied, true);
                let work = match of {
                    LatencyOf::Decode => Work::Decode { sequences: 1, context: *context },
                    LatencyOf::Prefill => Work::Prefill { sequences: 1, tokens: *context },
                };
                predict(gpu, &shape, *weights, &work).map_or(f64::NAN, |p| p.seconds)
            }
        }
    }

    /// Where the seconds are from.
    pub(super) fn label(&self) -> String {
        match self {
            Clock::Measured { latency, device } => {
                let of = if latency.phase == Phase::Decode { "a decoded token after" } else { "a prompt of" };
                format!(
                    "{of} {} tokens, measured on {device}: fitted to {} timed shapes, at most {:.0} % off",
                    latency.context,
                    latency.shapes,
                    100.0 * latency.worst_error
                )
            }
            Clock::Gpu { gpu, of, context, .. } => {
                let of = if *of == LatencyOf::Decode { "a decoded token after" } else { "a prompt of" };
                format!("{of} {context} tokens on {}: {LABEL}", gpu.name)
            }
        }
    }

    pub(super) fn json(&self) -> Value {
        match self {
            Clock::Measured { latency, .. } => json!({"source": self.label(), "fit": latency}),
            Clock::Gpu { .. } => json!({"source": self.label()}),
        }
    }
}

/// A budget that is one number of one kind.
pub(super) struct Limit {
    /// The flag and what it says.
    pub(super) name: String,
    budget: f64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Total,
    NonEmbedding,
    Memory { bytes: usize, context: usize },
    Seconds,
}

impl Limit {
    /// The one that the flags give.
    pub(super) fn new(flags: &Budget, teacher: &Dims, dtype: DType, context: usize, clock: &Clock) -> Result<Limit> {
        let given = [
            flags.params.is_some(),
            flags.memory.is_some(),
            flags.latency.is_some(),
            flags.speedup.is_some(),
            flags.preset.is_some(),
        ];
        match given.iter().filter(|g| **g).count() {
            1 => {}
            0 => {
                return Err(Failure::input(
                    "what may the student take? give one of --params 0.6, --memory 150MB, --latency MS, --speedup 2, --preset NAME",
                ));
            }
            _ => {
                return Err(Failure::input(
                    "--params, --memory, --latency, --speedup and --preset are one budget each; give one of them",
                ));
            }
        }
        let positive = |flag: &str, value: f64, above: f64| match value.is_finite() && above < value {
            true => Ok(value),
            false => Err(Failure::input(format!("--{flag} {value}: expected a number above {above}"))),
        };
        Ok(if let Some(text) = &flags.params {
            let (budget, count) = target::param_target(text, flags.params_kind)?.budget(teacher)?;
            let total = count(teacher) == count_params(teacher).total;
            let kind = if total { Kind::Total } else { Kind::NonEmbedding };
            Limit { name: format!("--params {text}"), budget: budget.floor(), kind }
        } else if let Some(text) = &flags.memory {
            let kind = Kind::Memory { bytes: dtype.bytes(1), context };
            Limit { name: format!("--memory {text}"), budget: bytes(text)?, kind }
        } else if let Some(ms) = flags.latency {
            Limit { name: format!("--latency {ms}"), budget: positive("latency", ms, 0.0)? / 1e3, kind: Kind::Seconds }
        } else if let Some(factor) = flags.speedup {
            let budget = clock.seconds(teacher) / positive("speedup", factor, 1.0)?;
            Limit { name: format!("--speedup {factor}"), budget, kind: Kind::Seconds }
        } else {
            let name = flags.preset.as_deref().unwrap_or_default();
            let params = target::preset(name)?.shape().params().total;
            Limit { name: format!("--preset {name}"), budget: params as f64, kind: Kind::Total }
        })
    }

    /// What of the budget's kind a shape takes.
    fn of(&self, d: &Dims, clock: &Clock) -> f64 {
        match self.kind {
            Kind::Total => count_params(d).total as f64,
            Kind::NonEmbedding => count_params(d).non_embedding as f64,
            Kind::Memory { bytes, context } => (weight_bytes(d, bytes) + kv_bytes(d, context, 4)) as f64,
            Kind::Seconds => clock.seconds(d),
        }
    }

    fn show(&self, n: f64) -> String {
        match self.kind {
            Kind::Total => format!("{} parameters", count(n as u64)),
            Kind::NonEmbedding => format!("{} non-embedding parameters", count(n as u64)),
            Kind::Memory { .. } => format!("{} bytes", count(n as u64)),
            Kind::Seconds => format!("{:.3} ms", 1e3 * n),
        }
    }

    /// The candidates within the budget, of `space`.
    pub(super) fn within(&self, space: &Space, unused: f64, enough: usize, clock: &Clock) -> Result<Vec<Dims>> {
        let cost = |d: &Dims| self.of(d, clock);
        Ok(space.within(self.budget, unused, enough, &self.name, cost, |n| self.show(n))?)
    }

    /// Of every axis alone, the largest student within the budget: what a search has to beat. An axis that cannot reach it has none.
    pub(super) fn single_axis(
        &self,
        teacher: &Dims,
        mutable: Mutable,
        rotated: bool,
        clock: &Clock,
    ) -> Vec<(&'static str, Dims)> {
        let none = Mutable { layers: false, hidden: false, ffn: false, heads: false, kv_groups: false };
        let axes = [
            ("hidden", mutable.hidden, Mutable { hidden: true, ..none }),
            ("ffn", mutable.ffn, Mutable { ffn: true, ..none }),
            ("heads", mutable.heads || mutable.kv_groups, Mutable { heads: true, kv_groups: true, ..none }),
            ("layers", mutable.layers, Mutable { layers: true, ..none }),
        ];
        let largest = |mutable: Mutable| {
            let space = Space::new(teacher, mutable, Widths::fine(1)).ok()?;
            let space = if rotated { space.rotated() } else { space };
            let all = self.within(&space, 1.0, 1, clock).ok()?;
            all.into_iter().max_by(|a, b| self.of(a, clock).total_cmp(&self.of(b, clock)))
        };
        axes.into_iter().filter(|a| a.1).filter_map(|(name, _, m)| Some((name, largest(m)?))).collect()
    }
}

/// What the flags let change.
pub(super) fn mutable(args: &Search) -> Result<Mutable> {
    let Some(list) = &args.searching.axes else {
        return Ok(Mutable { layers: true, hidden: true, ffn: true, heads: true, kv_groups: true });
    };
    let mut m = Mutable { layers: false, hidden: false, ffn: false, heads: false, kv_groups: false };
    for axis in list.split(',').map(str::trim) {
        match axis {
            "layers" => m.layers = true,
            "hidden" => m.hidden = true,
            "ffn" => m.ffn = true,
            "heads" => m.heads = true,
            "kv-groups" => m.kv_groups = true,
            other => {
                let other = paring_checkpoint::shown(other);
                return Err(Failure::input(format!(
                    "--axes: `{other}` is no axis; expected a list of hidden, ffn, heads, kv-groups, layers"
                )));
            }
        }
    }
    Ok(m)
}

/// `150MB`, `2GiB`, `4096`.
fn bytes(text: &str) -> Result<f64> {
    const UNITS: [(&str, f64); 9] = [
        ("KiB", 1024.0),
        ("MiB", 1048576.0),
        ("GiB", 1073741824.0),
        ("TiB", 1099511627776.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("B", 1.0),
    ];
    let plain = text.trim();
    let ends = |unit: &str| {
        let at = plain.len().checked_sub(unit.len())?;
        plain.get(at..)?.eq_ignore_ascii_case(unit).then(|| &plain[..at])
    };
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((ends(name)?, *unit))).unwrap_or((plain, 1.0));
    let value = number.trim().parse::<f64>().ok().filter(|v| v.is_finite() && 0.0 < *v && v * unit < 1e18);
    value.map(|v| (v * unit).floor()).ok_or_else(|| {
        let text = paring_checkpoint::shown(text);
        Failure::input(format!("--memory {text}: expected bytes, like 150MB, 2GiB or 1200000"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEACHER: Dims =
        Dims { layers: 8, hidden: 192, ffn: 576, heads: 6, kv_groups: 2, head_dim: 32, vocab: 4096, tied: true };

    fn clock() -> Clock {
        let latency = Latency {
            phase: Phase::Decode,
            context: 16,
            layer: [1e-5, 1e-10, 1e-10, 0.0],
            head: [0.0, 1e-10],
            worst_error: 0.1,
            shapes: 10,
        };
        Clock::Measured { latency, device: "cpu".into() }
    }

    fn limit(flags: Budget) -> Result<Limit> {
        Limit::new(&flags, &TEACHER, DType::BF16, 128, &clock())
    }

    #[test]
    fn bytes_are_read_as_written() {
        for (text, want) in
            [("4096", 4096.0), ("1.5KiB", 1536.0), ("2 GiB", 2147483648.0), ("150mb", 150e6), ("7B", 7.0)]
        {
            assert_eq!(bytes(text).unwrap(), want, "{text}");
        }
        for bad in ["", "x", "-1", "0", "GiB", "1e30", "5 apples", "nan"] {
            assert_eq!(bytes(bad).unwrap_err().code, 2, "{bad}");
        }
    }

    #[test]
    fn exactly_one_budget_is_wanted_and_it_has_to_be_below_the_model() {
        assert!(limit(Budget::default()).is_err_and(|e| e.code == 2 && e.message.contains("--memory")));
        let both = Budget { params: Some("0.5".into()), latency: Some(3.0), ..Budget::default() };
        assert!(limit(both).is_err_and(|e| e.message.contains("one of them")));
        for flags in [
            Budget { speedup: Some(1.0), ..Budget::default() },
            Budget { speedup: Some(f64::NAN), ..Budget::default() },
            Budget { latency: Some(-3.0), ..Budget::default() },
            Budget { preset: Some("no-such".into()), ..Budget::default() },
        ] {
            assert_eq!(limit(flags).err().map(|e| e.code), Some(2));
        }
        let all = Mutable { layers: true, hidden: true, ffn: true, heads: true, kv_groups: true };
        let space = Space::new(&TEACHER, all, Widths::fine(64)).unwrap();
        let refused = |flags: Budget| limit(flags).unwrap().within(&space, 0.03, 1, &clock()).unwrap_err();
        for flags in [
            Budget { params: Some("1B".into()), ..Budget::default() },
            Budget { memory: Some("1GB".into()), ..Budget::default() },
            Budget { latency: Some(1e4), ..Budget::default() },
            Budget { preset: Some("minitron-4b".into()), ..Budget::default() },
        ] {
            let error = refused(flags);
            assert!(error.code == 2 && error.message.contains("leaves nothing to cut"), "{error}");
        }
        for flags in [
            Budget { params: Some("0.0001".into()), ..Budget::default() },
            Budget { memory: Some("9KB".into()), ..Budget::default() },
            Budget { speedup: Some(1e6), ..Budget::default() },
        ] {
            let error = refused(flags);
            assert!(error.code == 2 && error.message.contains("smallest candidate"), "{error}");
        }
    }

    #[test]
    fn a_speed_up_is_relative_to_the_teacher_and_single_axes_reach_it() {
        let limit = limit(Budget { speedup: Some(2.0), ..Budget::default() }).unwrap();
        let all = Mutable { layers: true, hidden: true, ffn: true, heads: true, kv_groups: true };
        let space = Space::new(&TEACHER, all, Widths::fine(64)).unwrap();
        let half = clock().seconds(&TEACHER) / 2.0;
        let found = limit.within(&space, 0.05, 1, &clock()).unwrap();
        assert!(!found.is_empty() && found.iter().all(|d| clock().seconds(d) <= half));
        let single = limit.single_axis(&TEACHER, all, false, &clock());
        assert!(single.iter().any(|(axis, d)| *axis == "layers" && d.layers < 5), "{single:?}");
        assert!(single.iter().all(|(_, d)| clock().seconds(d) <= half));
    }

    #[test]
    fn a_modelled_gpu_says_that_it_is_a_model() {
        let clock = Clock::gpu("h100", DType::BF16, LatencyOf::Decode, 512).unwrap();
        assert!(clock.label().contains(LABEL));
        assert!(clock.seconds(&Dims { layers: 4, ..TEACHER }) < clock.seconds(&TEACHER));
        assert!(Clock::gpu("abacus", DType::BF16, LatencyOf::Decode, 512).is_err_and(|e| e.code == 2));
    }
}
