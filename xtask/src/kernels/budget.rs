//! `kernels/budget.toml`: what each kernel may take and must reach, and whether it does.
//!
//! Three rules need no entry, because no kernel is excused from them: nothing is spilled or kept in local memory, no float is added
//! atomically, and every kernel says how many threads a block has at most.
use super::{Measured, files::glob};
use crate::error::{Error, Result};
use serde::Deserialize;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budgets {
    #[serde(skip)]
    path: PathBuf,
    #[serde(default)]
    kernels: Vec<Entry>,
}

/// Limits of the kernels that a pattern names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Names of kernels; `*` stands for any characters.
    name: String,
    /// What is enforced.
    #[serde(default)]
    budget: Limits,
    /// What `spec` asks for where the kernel does not reach it yet: shown, not enforced.
    #[serde(default)]
    target: Limits,
}

/// Bounds of what is measured; see [`Measured`] and `Mix`. None is checked that is not given.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    max_registers: Option<f64>,
    /// Bytes of shared memory that the source declares with a size.
    max_shared: Option<f64>,
    min_hmma_per_ldsm: Option<f64>,
    min_hmma_share: Option<f64>,
    max_shared_over_tensor: Option<f64>,
    min_loads_in_flight: Option<f64>,
    min_wide_loads: Option<f64>,
    min_wide_stores: Option<f64>,
}

/// A bound that does not hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Violation {
    pub kernel: String,
    /// Where it does not hold.
    pub archs: Vec<u32>,
    pub what: &'static str,
    pub expected: String,
    pub got: f64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { kernel, archs, what, expected, got } = self;
        let archs: Vec<_> = archs.iter().map(ToString::to_string).collect();
        write!(
            f,
            "{kernel}, sm_{}: {what}: expected {expected}, got {}",
            archs.join("/"),
            (got * 1000.0).round() / 1000.0
        )
    }
}

impl Violation {
    /// The same failures, those that differ in nothing but the architecture as one.
    pub(super) fn joined(violations: Vec<Violation>) -> Vec<Violation> {
        let mut joined: Vec<Violation> = Vec::new();
        for mut one in violations {
            let same = |v: &&mut Violation| {
                (&v.kernel, v.what, &v.expected) == (&one.kernel, one.what, &one.expected) && v.got == one.got
            };
            match joined.iter_mut().find(same) {
                Some(known) => known.archs.append(&mut one.archs),
                None => joined.push(one),
            }
        }
        joined
    }
}

impl Limits {
    /// `other` where it says something, else `self`.
    fn or(self, other: Limits) -> Limits {
        Limits {
            max_registers: other.max_registers.or(self.max_registers),
            max_shared: other.max_shared.or(self.max_shared),
            min_hmma_per_ldsm: other.min_hmma_per_ldsm.or(self.min_hmma_per_ldsm),
            min_hmma_share: other.min_hmma_share.or(self.min_hmma_share),
            max_shared_over_tensor: other.max_shared_over_tensor.or(self.max_shared_over_tensor),
            min_loads_in_flight: other.min_loads_in_flight.or(self.min_loads_in_flight),
            min_wide_loads: other.min_wide_loads.or(self.min_wide_loads),
            min_wide_stores: other.min_wide_stores.or(self.min_wide_stores),
        }
    }

    /// The bounds that `measured` does not keep. What is not a number (no `ldmatrix` to compare with) keeps none.
    fn broken(&self, measured: &Measured) -> Vec<Violation> {
        let (resources, mix) = (&measured.resources, &measured.mix);
        let hot = &mix.hot;
        let at_most = [
            ("registers", self.max_registers, f64::from(resources.registers)),
            ("bytes of declared shared memory", self.max_shared, f64::from(resources.shared)),
            ("shared-memory clocks / tensor clocks", self.max_shared_over_tensor, hot.shared_over_tensor()),
        ];
        let at_least = [
            ("HMMA : LDSM.x4 in the hot loop", self.min_hmma_per_ldsm, hot.hmma_per_ldsm()),
            ("part of HMMA in the hot loop", self.min_hmma_share, hot.hmma_share()),
            ("16-byte loads in flight", self.min_loads_in_flight, mix.loads_in_flight as f64),
            ("16-byte loads", self.min_wide_loads, mix.wide_loads as f64),
            ("16-byte stores", self.min_wide_stores, mix.wide_stores as f64),
        ];
        let violation = |what, expected, got| Violation {
            kernel: measured.kernel.clone(),
            archs: vec![measured.arch],
            what,
            expected,
            got,
        };
        let high = at_most.into_iter().filter_map(|(what, limit, got)| {
            limit.filter(|l| got.is_nan() || *l < got).map(|l| violation(what, format!("at most {l}"), got))
        });
        let low = at_least.into_iter().filter_map(|(what, limit, got)| {
            limit.filter(|l| got.is_nan() || got < *l).map(|l| violation(what, format!("at least {l}"), got))
        });
        high.chain(low).collect()
    }
}

/// What no kernel may do.
fn forbidden(measured: &Measured) -> Vec<Violation> {
    let (resources, mix) = (&measured.resources, &measured.mix);
    let none = [
        ("bytes of spill stores", f64::from(resources.spill_stores)),
        ("bytes of spill loads", f64::from(resources.spill_loads)),
        ("bytes of stack", f64::from(resources.stack)),
        ("loads and stores of local memory", mix.local as f64),
        ("atomics on floats", mix.float_atomics as f64),
    ];
    let found = none.into_iter().filter(|(_, got)| 0.0 < *got);
    found
        .map(|(what, got)| Violation {
            kernel: measured.kernel.clone(),
            archs: vec![measured.arch],
            what,
            expected: "none".into(),
            got,
        })
        .collect()
}

impl Budgets {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Toml`].
    pub(super) fn read(path: &Path) -> Result<Budgets> {
        let toml = |source| Error::Toml { path: path.into(), source: Box::new(source) };
        let mut budgets: Budgets = toml::from_str(&crate::project::read(path)?).map_err(toml)?;
        budgets.path = path.into();
        Ok(budgets)
    }

    /// Sentences about kernels that no entry covers, and entries that cover no kernel.
    pub(super) fn uncovered(&self, kernels: &[&str]) -> Vec<String> {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        let bare = kernels.iter().filter(|k| !self.kernels.iter().any(|e| glob(&e.name, k)));
        let idle = self.kernels.iter().filter(|e| !kernels.iter().any(|k| glob(&e.name, k)));
        let bare = bare.map(|k| format!("{k}: no entry of {file} covers it"));
        bare.chain(idle.map(|e| format!("{file}: `{}` covers no kernel", e.name))).collect()
    }

    /// What `measured` breaks of its limits, and of its targets beyond them. A later entry of the file goes before an earlier one.
    pub(super) fn broken(&self, measured: &Measured) -> (Vec<Violation>, Vec<Violation>) {
        let entries = self.kernels.iter().filter(|e| glob(&e.name, &measured.kernel));
        let both = entries.fold((Limits::default(), Limits::default()), |(limits, target), e| {
            (limits.or(e.budget), target.or(e.target))
        });
        let mut broken = forbidden(measured);
        broken.extend(both.0.broken(measured));
        (broken, both.1.broken(measured))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{
        ptxas::Resources,
        sass::{Hot, Mix},
    };

    const FILE: &str = r#"
        [[kernels]]
        name = "gemm_*"
        budget = { max_registers = 128, min_hmma_per_ldsm = 2 }
        target.min_hmma_per_ldsm = 4
        [[kernels]]
        name = "gemm_nt_*"
        budget.max_registers = 255
    "#;

    fn measured(kernel: &str) -> Measured {
        let hot =
            Hot { is_loop: true, instructions: 100, hmma: 30, ldsm_x4: 10.0, shared_clocks: 40.0, tensor_clocks: 60.0 };
        Measured {
            kernel: kernel.into(),
            file: "gemm".into(),
            arch: 86,
            resources: Resources { registers: 200, ..Resources::default() },
            mix: Mix { instructions: 300, hmma: 30, hot, ..Mix::default() },
        }
    }

    fn broken(file: &str, measured: &Measured) -> (Vec<String>, Vec<String>) {
        let budgets: Budgets = toml::from_str(file).unwrap();
        let (broken, missed) = budgets.broken(measured);
        let texts = |v: Vec<Violation>| v.iter().map(ToString::to_string).collect();
        (texts(broken), texts(missed))
    }

    #[test]
    fn later_entries_go_before_earlier_ones() {
        let missed = "gemm_nt_bf16, sm_86: HMMA : LDSM.x4 in the hot loop: expected at least 4, got 3";
        assert_eq!(broken(FILE, &measured("gemm_nt_bf16")), (vec![], vec![missed.to_owned()]));
        let high = "gemm_tn_bf16, sm_86: registers: expected at most 128, got 200";
        assert_eq!(broken(FILE, &measured("gemm_tn_bf16")).0, [high]);
    }

    #[test]
    fn every_bound_is_looked_at() {
        let file = r#"kernels = [{ name = "*", budget = { max_registers = 1, max_shared = -1, max_shared_over_tensor = 0.6,
            min_hmma_per_ldsm = 3.5, min_hmma_share = 0.4, min_loads_in_flight = 4, min_wide_loads = 1, min_wide_stores = 1 } }]"#;
        assert_eq!(broken(file, &measured("a")).0.len(), 8);
        let file = r#"kernels = [{ name = "*", budget = { max_registers = 200, max_shared = 0, max_shared_over_tensor = 0.7,
            min_hmma_per_ldsm = 3, min_hmma_share = 0.3, min_loads_in_flight = 0, min_wide_loads = 0, min_wide_stores = 0 } }]"#;
        assert_eq!(broken(file, &measured("a")).0, [] as [String; 0]);
    }

    #[test]
    fn what_has_no_products_reaches_no_ratio() {
        let mut plain = measured("gemm_nt_bf16");
        plain.mix = Mix::default();
        assert_eq!(broken(FILE, &plain).0.len(), 1);
    }

    #[test]
    fn nothing_is_spilled_kept_locally_or_added_atomically() {
        let mut bad = measured("gemm_nt_bf16");
        bad.resources = Resources { registers: 1, spill_stores: 1, spill_loads: 1, stack: 1, shared: 0 };
        bad.mix = Mix { local: 1, float_atomics: 1, ..bad.mix };
        assert_eq!(broken(FILE, &bad).0.len(), 5);
    }

    #[test]
    fn kernels_and_entries_cover_each_other() {
        let budgets: Budgets = toml::from_str(FILE).unwrap();
        assert_eq!(budgets.uncovered(&["gemm_nt_bf16"]), [] as [String; 0]);
        let found = budgets.uncovered(&["gemm_tn_bf16", "cast"]);
        assert!(found.len() == 2 && found[0].starts_with("cast: ") && found[1].contains("`gemm_nt_*`"), "{found:?}");
    }

    #[test]
    fn a_failure_on_two_architectures_is_told_once() {
        let on =
            |arch, got| Violation { kernel: "a".into(), archs: vec![arch], what: "b", expected: "none".into(), got };
        let joined = Violation::joined(vec![on(80, 1.0), on(86, 2.0), on(90, 1.0)]);
        let texts: Vec<_> = joined.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["a, sm_80/90: b: expected none, got 1", "a, sm_86: b: expected none, got 2"]);
    }

    #[test]
    fn a_mistyped_bound_is_refused() {
        assert!(toml::from_str::<Budgets>(r#"kernels = [{ name = "*", budget.max_register = 1 }]"#).is_err());
    }
}
