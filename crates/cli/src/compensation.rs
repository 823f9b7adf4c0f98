//! `--compensate`, `--sequential`, `--ridge`, `--block-map`, `--basis`: what is done, without training, about what a cut breaks.
use crate::{
    args::{Compensate, MergeHeads, MergeKv, Target as Flags},
    error::{Failure, Result},
    progress::Progress,
    session::Session,
    signals::Stop,
    target::rotated,
};
use paring_model::Arch;
use paring_prune::{Anchor, Basis, Dims, KvGroups, Plan, Residual, Ridge, Scores, Target, check_loadable};
use paring_surgery::{
    Aim, Bench, Cut, Error, Fitted, Mode, Options, Readers, Text, Weighting, Weights, basis, basis_cost, compensate,
    flops, keep_energy, memory_bytes,
};
use paring_tensor::DType;
use serde_json::{Value, json};

/// What the flags ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Compensation {
    /// How maps are fitted, if they are.
    options: Option<Options>,
    /// Whether the residual stream is cut in a rotated basis.
    pub(crate) rotated: bool,
}

impl Compensation {
    /// `default` is the command's.
    pub(crate) fn new(flags: &Flags, default: Compensate) -> Result<Self> {
        let wanted = flags.compensate.unwrap_or(default) == Compensate::LeastSquares;
        let sequential = flags.sequential.unwrap_or(true);
        let strength = flags.ridge.as_deref().map_or(Ok(None), ridge)?;
        for (given, flag) in [
            (flags.sequential.is_some(), "sequential"),
            (flags.ridge.is_some(), "ridge"),
            (flags.block_map.is_some(), "block-map"),
        ] {
            if given && !wanted {
                return Err(Failure::input(format!("--{flag} says how to fit; it needs --compensate least-squares")));
            }
        }
        let options = Options {
            mode: if sequential { Mode::Sequential } else { Mode::Teacher },
            aim: if sequential { Aim::Stream } else { Aim::Map },
            readers: if sequential { Readers::Fit } else { Readers::Slice },
            block_map: flags.block_map.unwrap_or(true),
            // On the teacher's activations the specification's ridge pulls to zero. A sequential fit has every map to make better, those
            // that lose nothing too: pulled to zero they would shrink.
            ridge: strength
                .map(|strength| Ridge { strength, anchor: if sequential { Anchor::Teacher } else { Anchor::Zero } }),
        };
        if wanted && !sequential && merging(flags) != (Residual::None, KvGroups::Drop) {
            let what = "--merge-heads and --merge-kv change what o_proj reads, which only sequential least squares sees; leave --sequential=false \
                        out";
            return Err(Failure::input(what));
        }
        Ok(Compensation { options: wanted.then_some(options), rotated: rotated(flags)? })
    }

    /// Whether it looks at text.
    pub(crate) fn needs_text(&self) -> bool {
        self.rotated || self.options.is_some()
    }

    /// The teacher as the cut sees it: in a rotated basis its head is untied.
    pub(crate) fn teacher(&self, arch: &Arch) -> Arch {
        Arch { tied: arch.tied && !self.rotated, ..arch.clone() }
    }

    /// Bytes beside the weights, and operations.
    pub(crate) fn cost(&self, teacher: &Arch, student: &Arch, tokens: u64, context: usize) -> (u64, f64) {
        let mut cost = (0, 0.0);
        if self.rotated {
            cost = basis_cost(teacher, tokens, context);
        }
        if let Some(options) = &self.options {
            cost.0 = cost.0.max(memory_bytes(teacher, student, tokens, options));
            cost.1 += flops(teacher, student, tokens, context, options);
        }
        cost
    }

    /// As a student's provenance tells it.
    pub(crate) fn json(&self) -> Value {
        let fits = self.options.map(|o| {
            json!({
                "sequential": o.mode == Mode::Sequential,
                "ridge": o.ridge.map_or(json!("auto"), |r| json!(r.strength)),
                "block_map": o.block_map,
            })
        });
        json!({"basis": if self.rotated { "rotated" } else { "channels" }, "least_squares": fits})
    }
}

/// `--merge-heads` and `--merge-kv`.
fn merging(flags: &Flags) -> (Residual, KvGroups) {
    let heads = match flags.merge_heads {
        None | Some(MergeHeads::None) => Residual::None,
        Some(MergeHeads::Paper) => Residual::Paper,
        Some(MergeHeads::Laco) => Residual::Laco,
        Some(MergeHeads::Sum) => Residual::Sum,
    };
    (heads, if flags.merge_kv == Some(MergeKv::Mean) { KvGroups::Mean } else { KvGroups::Drop })
}

/// Sizes of the student that the flags describe. Groups that are merged keep their query heads.
pub(crate) fn student(flags: &Flags, teacher: &Dims, target: &Target) -> Result<Dims> {
    let mut student = target.student(teacher)?;
    if merging(flags).1 == KvGroups::Mean {
        student.heads = target.heads.unwrap_or(teacher.heads);
    }
    Ok(student)
}

/// The plan that the flags describe: the best by score, heads and groups merged where that is asked for, and the residual stream by
/// direction instead of by channel in a rotated basis.
pub(crate) fn plan(flags: &Flags, rotated: bool, teacher: &Dims, scores: Scores, target: &Target) -> Result<Plan> {
    let scores = match rotated {
        // Directions are sorted: the first are worth most.
        true => Scores { hidden: (0..teacher.hidden).map(|i| -(i as f64)).collect(), ..scores },
        false => scores,
    };
    let (residual, kv_groups) = merging(flags);
    if (residual, kv_groups) == (Residual::None, KvGroups::Drop) {
        return Ok(Plan::choose(teacher, &scores, target)?);
    }
    let options = paring_prune::Options { residual, kv_groups, ..Default::default() };
    let plan = Plan::choose_with(&(*teacher).into(), &scores, target, &options)?;
    // Of the plan and not of the target: merged groups keep their query heads.
    check_loadable(teacher, &plan.student()?)?;
    Ok(plan)
}

/// `auto`, or a strength.
fn ridge(text: &str) -> Result<Option<f64>> {
    if text == "auto" {
        return Ok(None);
    }
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && 0.0 <= *n);
    number.map(Some).ok_or_else(|| {
        let text = paring_checkpoint::shown(text);
        Failure::input(format!("--ridge {text}: expected auto, or a number that is not negative, as in 0.01"))
    })
}

/// Where compensation happens.
pub(crate) struct Bed<'a> {
    pub(crate) session: &'a Session,
    pub(crate) dtype: DType,
    pub(crate) windows: &'a [Vec<u32>],
    pub(crate) stop: &'a Stop,
}

impl Bed<'_> {
    /// The basis in which `teacher` is to be cut.
    pub(crate) fn basis(&self, teacher: &dyn Weights) -> Result<Basis> {
        self.watched("basis", teacher.arch(), |bench, tell| basis(teacher, bench, Weighting::Energy, tell))
    }

    /// Fits what `how` asks for, and says what came of it.
    pub(crate) fn apply(&self, how: &Compensation, cut: &mut Cut<'_, &dyn Weights>) -> Result<Vec<Fitted>> {
        let teacher = cut.teacher().arch().clone();
        if how.rotated && cut.arch().hidden < teacher.hidden {
            self.watched("norm gains", &teacher, |bench, tell| keep_energy(cut, bench, tell))?;
        }
        let Some(mut options) = how.options else { return Ok(Vec::new()) };
        if cut.arch().hidden == teacher.hidden {
            // Norms are whole, and what reads them reads what it did but for what other cuts changed: a fit there was not measured to help.
            options.readers = Readers::Slice;
        }
        self.too_few(cut.arch());
        let student = cut.arch().clone();
        let fits = self.watched("least squares", &student, |bench, tell| compensate(cut, bench, &options, tell))?;
        say(&fits);
        Ok(fits)
    }

    /// Says so when there are too few tokens for what is to be fitted on them.
    fn too_few(&self, student: &Arch) {
        let tokens: usize = self.windows.iter().map(Vec::len).sum();
        let inputs = student.layers.iter().map(|l| l.ffn).max().unwrap_or(0).max(student.hidden);
        if tokens < 8 * inputs {
            tell!(
                "note: {tokens} calibration tokens are few for least squares over {inputs} inputs; expect little of it below {}",
                8 * inputs
            );
        }
    }

    fn watched<T>(
        &self,
        name: &str,
        arch: &Arch,
        work: impl FnOnce(&Bench<'_>, &mut dyn FnMut(usize) -> paring_surgery::Result<()>) -> paring_surgery::Result<T>,
    ) -> Result<T> {
        let slices: Vec<&[u32]> = self.windows.iter().map(Vec::as_slice).collect();
        let longest = slices.iter().map(|w| w.len()).max().unwrap_or(1);
        let text = Text::new(&slices, paring_train::micro_windows(arch, longest));
        let (backend, threads) = (self.session.backend(), self.session.device.threads());
        let bench = Bench { backend, dtype: self.dtype, threads, text: &text };
        let mut progress = Progress::new(name, "layers", arch.layers.len() as u64, 0);
        let done = work(&bench, &mut |layers| {
            progress.set(layers as u64, "");
            if self.stop.asked() { Err(Error::Stopped) } else { Ok(()) }
        });
        progress.finish();
        match done {
            Err(Error::Stopped) => Err(self.stop.failure("nothing was written")),
            done => Ok(done?),
        }
    }
}

/// What came of the fits, in a line or two.
fn say(fits: &[Fitted]) {
    if fits.is_empty() {
        tell!("least squares: nothing to fit, nothing that a map reads was cut");
        return;
    }
    let mean = |of: fn(&Fitted) -> f64| 100.0 * fits.iter().map(of).sum::<f64>() / fits.len() as f64;
    let kept = fits.iter().filter(|f| f.ridge.is_none()).count();
    tell!(
        "least squares: {} maps miss {:.2} % of their target on held-out tokens, {:.2} % sliced; {kept} stay sliced",
        fits.len(),
        mean(|f| f.fitted),
        mean(|f| f.sliced),
    );
    for f in fits {
        if let Some(from) = f.raised_from {
            let now = f.ridge.map_or("the map stays sliced".into(), |r| format!("raised to {:e}", r.strength));
            tell!("note: {}: its Gram matrix is singular with a ridge of {from}; {now}", f.name);
        }
    }
}

/// The fits as `compensation.json`.
pub(crate) fn fits_json(fits: &[Fitted]) -> Value {
    let one = |f: &Fitted| {
        let anchor = |a: Anchor| if a == Anchor::Zero { "zero" } else { "teacher" };
        json!({
            "name": f.name, "inputs": f.inputs, "ridge": f.ridge.map(|r| r.strength), "anchor": f.ridge.map(|r| anchor(r.anchor)),
            "raised_from": f.raised_from, "sliced_error": f.sliced, "fitted_error": f.fitted,
        })
    };
    fits.iter().map(one).collect()
}
