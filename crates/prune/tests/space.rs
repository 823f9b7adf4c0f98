//! The space of candidates: only sizes that load, all of them within the budget, and refusals that say why.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_prune::{Dims, Mutable, ParamTarget, Space, Widths, check_loadable, count_params, kv_bytes, weight_bytes};

const SMOL: Dims =
    Dims { layers: 30, hidden: 576, ffn: 1536, heads: 9, kv_groups: 3, head_dim: 64, vocab: 49_152, tied: true };
const ALL: Mutable = Mutable { layers: true, hidden: true, ffn: true, heads: true, kv_groups: true };

fn total(d: &Dims) -> f64 {
    count_params(d).total as f64
}

#[test]
fn thousands_of_candidates_all_of_which_load() {
    let space = Space::new(&SMOL, ALL, Widths::fine(128)).unwrap();
    let (mut seen, mut first) = (std::collections::HashSet::new(), None);
    space.for_each(|d| {
        first.get_or_insert(d);
        d.check().unwrap();
        check_loadable(&SMOL, &d).unwrap();
        assert!(d.heads_per_group() <= SMOL.heads_per_group() && d.kv_groups <= SMOL.kv_groups);
        assert!(d.hidden.is_multiple_of(8) && d.ffn.is_multiple_of(64), "{d:?}");
        assert!(seen.insert(d), "{d:?} twice");
    });
    assert_eq!(first, Some(SMOL));
    assert!(10_000 < seen.len(), "{}", seen.len());
}

#[test]
fn a_rotated_basis_costs_a_tied_head_where_the_width_changes() {
    let list = |space: Space| {
        let mut all = Vec::new();
        space.for_each(|d| all.push(d));
        all
    };
    let space = Space::new(&SMOL, ALL, Widths::fine(128)).unwrap();
    let (plain, rotated) = (list(space.clone()), list(space.rotated()));
    assert_eq!(plain.len(), rotated.len());
    for (p, r) in plain.iter().zip(&rotated) {
        let head = if r.hidden == SMOL.hidden { 0 } else { SMOL.vocab * r.hidden };
        assert_eq!((total(r) - total(p), r.tied), (head as f64, head == 0), "{r:?}");
        assert_eq!(Dims { tied: true, ..*r }, *p);
    }
    assert!(rotated.iter().any(|r| !r.tied) && rotated.iter().any(|r| r.tied));
}

#[test]
fn budgets_of_any_kind_are_kept() {
    let space = Space::new(&SMOL, ALL, Widths::fine(128)).unwrap();
    let show = |n: f64| n.to_string();
    let params = space.within(0.6 * total(&SMOL), 0.03, 100, "--params", total, show).unwrap();
    assert!(200 < params.len(), "{}", params.len());
    assert!(params.iter().all(|d| (0.97..=1.0).contains(&(total(d) / 0.6 / total(&SMOL)))));
    let memory = |d: &Dims| (weight_bytes(d, 2) + kv_bytes(d, 2048, 2)) as f64;
    let small = space.within(150e6, 0.03, 100, "--memory", memory, show).unwrap();
    assert!(small.iter().all(|d| (0.97..=1.0).contains(&(memory(d) / 150e6))));
    // Too few within three parts in a hundred: more may stay unused, but what is over the budget never counts.
    let depth = Mutable { hidden: false, ffn: false, heads: false, kv_groups: false, ..ALL };
    let few = Space::new(&SMOL, depth, Widths::fine(128)).unwrap();
    let few = few.within(0.6 * total(&SMOL), 0.01, 1, "--params", total, show).unwrap();
    assert_eq!(few.iter().map(|d| d.layers).collect::<Vec<_>>(), [14]);
}

#[test]
fn budgets_that_cannot_be_are_explained() {
    let space = Space::new(&SMOL, ALL, Widths::fine(128)).unwrap();
    let refuse =
        |budget: f64| space.within(budget, 0.03, 1, "--params", total, |n| format!("{n:.0}")).unwrap_err().to_string();
    let all = total(&SMOL);
    assert_eq!(refuse(all), format!("--params of {all} leaves nothing to cut: the model has {all}; ask for less"));
    assert!(refuse(1000.0).contains("cannot be reached: the smallest candidate has"), "{}", refuse(1000.0));
    for none in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(refuse(none).contains("expected a positive number"));
    }
}

#[test]
fn parts_and_numbers_count_what_they_say() {
    let budget = |t: ParamTarget| t.budget(&SMOL).map(|(n, count)| (n, count(&SMOL)));
    let p = count_params(&SMOL);
    assert_eq!(budget(ParamTarget::Fraction(0.5)), Ok((0.5 * p.non_embedding as f64, p.non_embedding)));
    assert_eq!(budget(ParamTarget::FractionOfTotal(0.5)), Ok((0.5 * p.total as f64, p.total)));
    assert_eq!(budget(ParamTarget::Absolute(7)), Ok((7.0, p.total)));
    assert_eq!(budget(ParamTarget::AbsoluteNonEmbedding(7)), Ok((7.0, p.non_embedding)));
    assert!(budget(ParamTarget::FractionOfTotal(1.5)).is_err());
}
