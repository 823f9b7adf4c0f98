//! The self-tests: they pass on whole models, and every one of them fails when something is broken on purpose.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{FAMILIES, Golden, backends, config, random_ids, random_values};
use paring_model::{Arch, LayerArch, ParamSpec};
use paring_ops::Backend;
use paring_prune::{Basis, KvGroups, LayerPlan, Options, Plan, Residual, Scores, Target};
use paring_reference::Reference;
use paring_surgery::{
    Check, Checkpoint, Cut, Masked, Memory, MergedHeads, Order, Outcome, Permuted, ROTATION, ROUNDING, Result, Rotated,
    Verify, Weights, sizes, trial_plan,
};
use std::{collections::HashMap, ops::Range};

/// A config of four groups of three heads.
fn wide(tied: bool) -> serde_json::Value {
    let mut config = config(tied);
    for (key, value) in
        [("num_attention_heads", 12), ("num_key_value_heads", 4), ("hidden_size", 48), ("num_hidden_layers", 3)]
    {
        config[key] = value.into();
    }
    config
}

fn random(tied: bool) -> Memory {
    let arch = Arch::from_config(&wide(tied)).unwrap();
    let values: HashMap<String, Vec<f32>> = random_values(&arch, 5).into_iter().map(|(p, v)| (p.name, v)).collect();
    Memory::new(arch, |p| Ok(values[&p.name].clone())).unwrap()
}

fn scores(arch: &Arch) -> Scores {
    let list = |n: usize, salt: usize| (0..n).map(|i| ((i * 7919 + salt * 104_729) % 9973) as f64).collect::<Vec<_>>();
    let layers = |n: fn(&LayerArch) -> usize, salt: usize| {
        arch.layers.iter().enumerate().map(|(l, of)| list(n(of), salt + l)).collect()
    };
    Scores {
        hidden: list(arch.hidden, 1),
        ffn: layers(|l| l.ffn, 10),
        heads: layers(|l| l.heads, 20),
        kv_groups: layers(|l| l.kv_heads, 30),
        block_influence: list(arch.layers.len(), 40),
    }
}

fn windows(arch: &Arch) -> Vec<Vec<u32>> {
    [17, 40].map(|n| random_ids(arch.vocab, n, n as u64)).to_vec()
}

fn failed(checks: &[Check]) -> Vec<&Check> {
    checks.iter().filter(|c| c.outcome == Outcome::Failed).collect()
}

#[test]
fn whole_models_pass_on_every_backend() {
    for (name, backend) in backends() {
        for family in FAMILIES {
            let golden = Golden::open(family);
            let verify = Verify { backend: &*backend, windows: &golden.sequences, seed: 3 };
            let teacher = Checkpoint(&golden.opened);
            let plan = trial_plan(golden.arch(), 3).unwrap();
            let checks = verify.run(&teacher, &plan).unwrap();
            assert!(failed(&checks).is_empty(), "{family}, {name}: {checks:#?}");
            assert_eq!(checks.len(), 8);
            assert!(checks.iter().all(|c| c.outcome == Outcome::Passed), "the trial plan cuts every axis: {checks:#?}");
            let tmp = tempfile::tempdir().unwrap();
            let (student, config) = (Cut::new(teacher, &plan), &golden.opened.config);
            let checks = verify.saved(&student, golden.arch(), config, Some(10), &tmp.path().join("student")).unwrap();
            assert!(failed(&checks).is_empty(), "{family}, {name}: {checks:#?}");
            let names: Vec<&str> = checks.iter().map(|c| c.name.as_str()).collect();
            assert_eq!(names, ["saved", "Transformers", "llama.cpp", "vLLM"]);
        }
    }
}

#[test]
fn plans_with_combined_heads_pass_too() {
    let teacher = random(true);
    let (arch, windows) = (teacher.arch().clone(), windows(teacher.arch()));
    let verify = Verify { backend: &Reference, windows: &windows, seed: 0 };
    for (residual, kv_groups) in [
        (Residual::Paper, KvGroups::Drop),
        (Residual::Laco, KvGroups::Drop),
        (Residual::Sum, KvGroups::Mean),
        (Residual::None, KvGroups::Mean),
    ] {
        let options = Options { residual, kv_groups, ..Options::default() };
        let heads = if kv_groups == KvGroups::Mean { 8 } else { 4 };
        let target = Target { heads: Some(heads), kv_groups: Some(2), ffn: Some(96), ..Target::default() };
        let plan = Plan::choose_with(&sizes(&arch), &scores(&arch), &target, &options).unwrap();
        assert!(plan.mixes());
        let checks = verify.run(&teacher, &plan).unwrap();
        assert!(failed(&checks).is_empty(), "{residual:?} {kv_groups:?}: {checks:#?}");
        // The combination is what makes the student another model than the plain cut.
        let plain = |l: &LayerPlan| LayerPlan { mixed_queries: vec![], mixed_outputs: vec![], ..l.clone() };
        let plain = plan.layers().iter().map(plain).collect();
        let plain = Plan::new(sizes(&arch), plan.hidden().to_vec(), plain).unwrap();
        let same = verify.same_function("", &Cut::new(&teacher, &plain), &Cut::new(&teacher, &plan), ROUNDING).unwrap();
        assert_eq!(same.outcome == Outcome::Passed, residual == Residual::None, "{same:?}");
    }
}

#[test]
fn a_mean_over_equal_groups_changes_nothing() {
    // Groups 0, 1 and 2, 3 have the same keys and values: their mean is theirs, and the student computes what the teacher does.
    let teacher = random(false);
    let arch = teacher.arch().clone();
    let doubled = |p: &ParamSpec| {
        let mut v = teacher.read(p)?;
        if p.name.contains("k_proj") || p.name.contains("v_proj") {
            let group = v.len() / 4;
            v.copy_within(0..group, group);
            v.copy_within(2 * group..3 * group, 3 * group);
        }
        Ok(v)
    };
    let pairs = Memory::new(arch.clone(), doubled).unwrap();
    let options = Options { kv_groups: KvGroups::Mean, ..Options::default() };
    let target = Target { kv_groups: Some(2), ..Target::default() };
    let plan = Plan::choose_with(&sizes(&arch), &scores(&arch), &target, &options).unwrap();
    let windows = windows(&arch);
    let verify = Verify { backend: &Reference, windows: &windows, seed: 0 };
    let student = Cut::new(&pairs, &plan);
    assert_eq!((student.arch().layers[0].heads, student.arch().layers[0].kv_heads), (12, 2));
    let check = verify.same_function("", &pairs, &student, 1e-6).unwrap();
    assert_eq!(check.outcome, Outcome::Passed, "{check:?}");
}

#[test]
fn one_plan_after_another_makes_the_student_of_two_cuts() {
    let teacher = random(false);
    let arch = teacher.arch().clone();
    let first = trial_plan(&arch, 1).unwrap();
    let once = Cut::new(&teacher, &first);
    let second = trial_plan(once.arch(), 2).unwrap();
    let both = first.then(&second).unwrap();
    let windows = windows(&arch);
    let verify = Verify { backend: &Reference, windows: &windows, seed: 0 };
    let check = verify.same_bits("", &Cut::new(&once, &second), &Cut::new(&teacher, &both)).unwrap();
    assert_eq!(check.outcome, Outcome::Passed, "{check:?}");
}

#[test]
fn layers_that_differ_run_in_memory_and_say_why_they_are_not_written() {
    let teacher = random(true);
    let arch = teacher.arch().clone();
    let mut layers = Plan::everything(sizes(&arch)).unwrap().layers().to_vec();
    layers[1].ffn.truncate(31);
    layers[2].heads = vec![0, 3, 6, 9];
    let plan = Plan::new(sizes(&arch), (0..arch.hidden).collect(), layers).unwrap();
    let windows = windows(&arch);
    let verify = Verify { backend: &Reference, windows: &windows, seed: 0 };
    let checks = verify.run(&teacher, &plan).unwrap();
    assert!(failed(&checks).is_empty(), "{checks:#?}");
    let tmp = tempfile::tempdir().unwrap();
    let student = Cut::new(&teacher, &plan);
    let checks = verify.saved(&student, &arch, &wide(true), None, &tmp.path().join("student")).unwrap();
    assert_eq!(checks[0].outcome, Outcome::Skipped);
    assert!(checks[0].what.contains("layers 1, 2 differ from layer 0"), "{checks:#?}");
    assert_eq!(failed(&checks).len(), 3, "no runtime takes it: {checks:#?}");
    assert!(!tmp.path().join("student").exists());
}

/// What is done to the values of a parameter.
type Damage<'d> = dyn Fn(&ParamSpec, &mut [f32]) + Sync + 'd;

/// Weights with some of them damaged.
struct Broken<'a> {
    of: &'a dyn Weights,
    damage: &'a Damage<'a>,
    arch: Arch,
}

impl<'a> Broken<'a> {
    fn new(of: &'a dyn Weights, damage: &'a Damage<'a>) -> Self {
        Broken { of, damage, arch: of.arch().clone() }
    }
}

impl Weights for Broken<'_> {
    fn arch(&self) -> &Arch {
        &self.arch
    }

    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        let mut values = self.of.read(spec)?;
        (self.damage)(spec, &mut values);
        Ok(values)
    }
}

/// Swaps rows 0 and 1.
fn rows(width: usize, v: &mut [f32]) {
    let (first, second) = v.split_at_mut(width);
    first.swap_with_slice(&mut second[..width]);
}

/// Swaps columns 0 and 1.
fn columns(width: usize, v: &mut [f32]) {
    v.chunks_exact_mut(width).for_each(|row| row.swap(0, 1));
}

/// What is wrong, in which parameter, and what it does to its values: width and values.
type Sabotage = (&'static str, &'static str, fn(usize, &mut [f32]));

const SABOTAGES: [Sabotage; 16] = [
    ("two rows of q", "layers.1.self_attn.q_proj.weight", rows),
    ("two rows of k", "layers.1.self_attn.k_proj.weight", rows),
    ("two rows of v", "layers.1.self_attn.v_proj.weight", rows),
    ("two rows of o", "layers.1.self_attn.o_proj.weight", rows),
    ("two columns of o", "layers.1.self_attn.o_proj.weight", columns),
    ("two rows of gate", "layers.1.mlp.gate_proj.weight", rows),
    ("two rows of up", "layers.1.mlp.up_proj.weight", rows),
    ("two columns of down", "layers.1.mlp.down_proj.weight", columns),
    ("two channels of the embedding", "embed_tokens.weight", columns),
    ("two channels that up reads", "layers.0.mlp.up_proj.weight", columns),
    ("two channels that the head reads", "lm_head.weight", columns),
    ("one value zeroed", "layers.1.mlp.down_proj.weight", |_, v| v[3] = 0.0),
    ("an output forgotten", "layers.1.self_attn.o_proj.weight", |_, v| v.fill(0.0)),
    ("a value that is no number", "layers.0.self_attn.v_proj.weight", |_, v| v[0] = f32::NAN),
    ("a norm forgotten", "layers.1.input_layernorm.weight", |_, v| v.fill(0.7)),
    ("the last norm's gains in another order", "model.norm.weight", |_, v| {
        v.iter_mut().enumerate().for_each(|(i, g)| *g += 0.01 * i as f32);
        v.reverse();
    }),
];

#[test]
fn every_sabotage_of_a_parameter_is_caught_by_every_check() {
    let teacher = random(false);
    let arch = teacher.arch().clone();
    let windows = windows(&arch);
    let backend: &dyn Backend = &Reference;
    let verify = Verify { backend, windows: &windows, seed: 1 };
    let plan = trial_plan(&arch, 1).unwrap();
    let everything = Plan::everything(sizes(&arch)).unwrap();
    let kept = Cut::new(&teacher, &everything);
    let permuted = Permuted::new(&teacher, Order::random(&arch, 1)).unwrap();
    let cut = Cut::new(&teacher, &plan);
    let basis = Basis::reflection(&(0..arch.hidden).map(|i| 1.0 + i as f64).collect::<Vec<_>>()).unwrap();
    let rotated = Rotated::new(&teacher, &basis, backend).unwrap();
    for (what, name, damage) in SABOTAGES {
        let damage = move |spec: &ParamSpec, v: &mut [f32]| {
            if spec.name.ends_with(name) {
                damage(*spec.shape.last().unwrap(), v);
            }
        };
        let checks = [
            verify.same_bits("keep-all", &teacher, &Broken::new(&kept, &damage)),
            verify.same_function("permuted", &teacher, &Broken::new(&permuted, &damage), ROUNDING),
            verify.masked("masked", &teacher, &plan, &Broken::new(&cut, &damage)),
            verify.same_function("rotated", &teacher, &Broken::new(&rotated, &damage), ROTATION),
        ];
        for check in checks {
            let check = check.unwrap();
            assert_eq!(check.outcome, Outcome::Failed, "{what}: {check:?}");
        }
    }
}

/// Replaces the first of `list` in `range` by one of the range that it lacks.
fn another(list: &mut [usize], range: Range<usize>) {
    let missing = range.clone().find(|i| !list.contains(i)).unwrap();
    let at = list.iter().position(|i| range.contains(i)).unwrap();
    list[at] = missing;
    list.sort_unstable();
}

#[test]
fn a_cut_by_another_plan_is_caught() {
    let teacher = random(true);
    let arch = teacher.arch().clone();
    let windows = windows(&arch);
    let verify = Verify { backend: &Reference, windows: &windows, seed: 1 };
    let plan = trial_plan(&arch, 1).unwrap();
    let dropped = plan.dropped_layers()[0];
    type Edit<'e> = &'e dyn Fn(&mut Vec<usize>, &mut Vec<LayerPlan>);
    let cases: [(&str, Edit<'_>); 4] = [
        ("a neuron", &|_, l| another(&mut l[1].ffn, 0..160)),
        ("a head", &|_, l| {
            let group = l[0].kv_groups[0];
            another(&mut l[0].heads, 3 * group..3 * group + 3);
        }),
        ("a channel", &|h, _| another(h, 0..48)),
        ("a layer", &|_, l| l[dropped.saturating_sub(1)].layer = dropped),
    ];
    for (what, edit) in cases {
        let (mut hidden, mut layers) = (plan.hidden().to_vec(), plan.layers().to_vec());
        edit(&mut hidden, &mut layers);
        let wrong = Plan::new(sizes(&arch), hidden, layers).unwrap();
        let check = verify.masked("masked", &teacher, &plan, &Cut::new(&teacher, &wrong)).unwrap();
        assert_eq!(check.outcome, Outcome::Failed, "{what}: {check:?}");
    }
    // Combinations that are taken twice.
    let options = Options { residual: Residual::Paper, ..Options::default() };
    let target = Target { heads: Some(8), ..Target::default() };
    let mixed = Plan::choose_with(&sizes(&arch), &scores(&arch), &target, &options).unwrap();
    let merged = MergedHeads::new(&teacher, &mixed);
    let check = verify.masked("masked", &teacher, &mixed, &Cut::new(&merged, &mixed)).unwrap();
    assert_eq!(check.outcome, Outcome::Failed, "{check:?}");
    // A mask whose norms do not know that channels are gone.
    let part = (plan.hidden().len() as f64 / arch.hidden as f64).sqrt();
    let unscaled = |spec: &ParamSpec, v: &mut [f32]| {
        if spec.shape.len() == 1 {
            v.iter_mut().for_each(|g| *g = (f64::from(*g) / part) as f32);
        }
    };
    let masked = Masked::new(&teacher, &plan);
    let check =
        verify.same_function("", &Broken::new(&masked, &unscaled), &Cut::new(&teacher, &plan), ROUNDING).unwrap();
    assert_eq!(check.outcome, Outcome::Failed, "{check:?}");
    // Heads that leave their group are no order of the model's.
    let mut order = Order::random(&arch, 1);
    order.layers[0].heads.swap(0, 11);
    assert!(Permuted::new(&teacher, order).unwrap_err().to_string().contains("leaves its group"));
    let mut order = Order::random(&arch, 1);
    order.hidden[0] = order.hidden[1];
    assert!(Permuted::new(&teacher, order).unwrap_err().to_string().contains("the order of channels"));
}

#[test]
fn what_is_read_back_has_to_be_what_was_written() {
    let teacher = random(true);
    let arch = teacher.arch().clone();
    let windows = windows(&arch);
    let verify = Verify { backend: &Reference, windows: &windows, seed: 1 };
    let plan = trial_plan(&arch, 1).unwrap();
    let (cut, tmp) = (Cut::new(&teacher, &plan), tempfile::tempdir().unwrap());
    let dir = tmp.path().join("student");
    let checks = verify.saved(&cut, &arch, &wide(true), Some(301), &dir).unwrap();
    assert!(failed(&checks).is_empty(), "{checks:#?}");
    let opened = paring_model::open(&dir).unwrap();
    let reread = Checkpoint(&opened);
    let fails = |what: &str, got: &dyn Weights| {
        let check = verify.same_bits("saved", &reread, got).unwrap();
        assert_eq!(check.outcome, Outcome::Failed, "{what}: {check:?}");
    };
    fails("values that were not rounded", &cut);
    let bit = |spec: &ParamSpec, v: &mut [f32]| {
        if spec.name == "model.norm.weight" {
            v[0] = f32::from_bits(v[0].to_bits() ^ 0x0001_0000);
        }
    };
    fails("one bit of one value", &Broken::new(&reread, &bit));
    type Edit = fn(&mut Arch);
    let edits: [(&str, Edit); 3] =
        [("eps", |a| a.rms_eps *= 2.0), ("rope", |a| a.rope.theta *= 2.0), ("positions", |a| a.max_positions += 1)];
    for (what, edit) in edits {
        let mut broken = Broken::new(&reread, &|_, _| ());
        edit(&mut broken.arch);
        fails(what, &broken);
    }
    // A tokenizer that is larger than the embedding, and a directory that is there already.
    let checks = verify.saved(&cut, &arch, &wide(true), Some(302), &tmp.path().join("tokens")).unwrap();
    assert_eq!(failed(&checks).len(), 3, "{checks:#?}");
    assert!(verify.saved(&cut, &arch, &wide(true), None, &dir).is_err());
}
