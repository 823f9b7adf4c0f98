//! Slicing along labelled axes: against naive indexing, on values and on bytes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_prune::{Axis, Dims, Error, LayerPlan, Plan, Selection};
use proptest::prelude::*;

fn plan() -> Plan {
    let teacher = Dims { layers: 2, hidden: 4, ffn: 3, heads: 4, kv_groups: 2, head_dim: 2, vocab: 3, tied: true };
    let layer = LayerPlan { layer: 1, ffn: vec![0, 2], heads: vec![3], kv_groups: vec![1], ..LayerPlan::default() };
    Plan::new(teacher, vec![1, 2], vec![layer]).unwrap()
}

#[test]
fn every_axis_has_its_indices() {
    let plan = plan();
    let indices = |axis, layer| plan.indices(axis, layer).map(|i| i.map(|i| i.into_owned()));
    assert_eq!(indices(Axis::Hidden, None), Ok(Some(vec![1, 2])));
    assert_eq!(indices(Axis::Ffn, Some(1)), Ok(Some(vec![0, 2])));
    assert_eq!(indices(Axis::QHeads, Some(1)), Ok(Some(vec![6, 7])));
    assert_eq!(indices(Axis::KvHeads, Some(1)), Ok(Some(vec![2, 3])));
    assert_eq!(indices(Axis::Vocab, None), Ok(None));
    assert_eq!(indices(Axis::Fixed, Some(0)), Ok(None));
    assert_eq!(indices(Axis::Ffn, Some(0)), Err(Error::DroppedLayer { layer: 0 }));
    let error = indices(Axis::KvHeads, None).unwrap_err();
    assert_eq!(error.to_string(), "not a valid plan: KvHeads is an axis of a layer, expected the layer's number");
}

#[test]
fn tensors_of_all_kinds_are_cut_where_their_axes_say() {
    use Axis::{Ffn, Fixed, Hidden, KvHeads, QHeads, Vocab};
    // Value = 10 * row + column.
    type Case = (&'static str, &'static [usize], &'static [Axis], &'static [usize], &'static [u32]);
    let cases: [Case; 6] = [
        ("embed_tokens", &[3, 4], &[Vocab, Hidden], &[3, 2], &[1, 2, 11, 12, 21, 22]),
        ("norm", &[4], &[Hidden], &[2], &[1, 2]),
        ("q_norm", &[2], &[Fixed], &[2], &[0, 1]),
        ("k_proj", &[4, 4], &[KvHeads, Hidden], &[2, 2], &[21, 22, 31, 32]),
        ("o_proj", &[4, 8], &[Hidden, QHeads], &[2, 2], &[16, 17, 26, 27]),
        ("down_proj", &[4, 3], &[Hidden, Ffn], &[2, 2], &[10, 12, 20, 22]),
    ];
    for (name, shape, axes, want_shape, want) in cases {
        let cols = if shape.len() == 2 { shape[1] } else { shape[0] };
        let values: Vec<u32> = (0..shape.iter().product()).map(|i| (i / cols * 10 + i % cols) as u32).collect();
        let cut = plan().selection(name, shape, axes, Some(1)).unwrap();
        assert_eq!(cut.shape(), want_shape, "{name}");
        assert_eq!(cut.select(&values).unwrap(), want, "{name}");
        assert_eq!(cut.is_identity(), name == "q_norm", "{name}");
    }
    let everything = Plan::everything(plan().teacher().clone()).unwrap();
    assert!(everything.selection("k_proj", &[4, 4], &[KvHeads, Hidden], Some(0)).unwrap().is_identity());
}

#[test]
fn what_does_not_fit_is_refused_with_the_tensors_name() {
    let error = plan().selection("up_proj", &[4, 3], &[Axis::Ffn, Axis::Hidden], Some(1)).unwrap_err();
    assert_eq!(error.to_string(), "`up_proj` has shape [4, 3], expected [3, 4]");
    let error = plan().selection("norm", &[4, 1], &[Axis::Hidden], None).unwrap_err();
    assert_eq!(error.to_string(), "`norm` has shape [4, 1], which is another number of dimensions than its axes");
    let cut = plan().selection("norm", &[4], &[Axis::Hidden], None).unwrap();
    assert_eq!(cut.select(&[1u8; 5]).unwrap_err().to_string(), "`norm` has 5 values, expected 4");
    assert!(matches!(cut.select_bytes(&[0; 7], 2), Err(Error::Values { .. })));
    assert_eq!(Selection::new("x", &[2, 3], vec![None, Some(vec![3])]), Err(Error::Index { got: 3, len: 3 }));
    assert!(Selection::new("x", &[usize::MAX, 2], vec![None, None]).is_err());
}

/// A shape of up to three dimensions, and lists of indices of it in any order, or none.
fn selections() -> impl Strategy<Value = (Vec<usize>, Vec<Option<Vec<usize>>>)> {
    proptest::collection::vec(1usize..6, 1..4).prop_flat_map(|shape| {
        let lists: Vec<_> =
            shape.iter().map(|&n| proptest::option::of(proptest::collection::vec(0..n, 0..5))).collect();
        (Just(shape), lists)
    })
}

proptest! {
    #[test]
    fn selecting_agrees_with_naive_indexing((shape, keep) in selections()) {
        let len: usize = shape.iter().product();
        let values: Vec<u32> = (0..len as u32).map(|i| i.wrapping_mul(0x9E37_79B9)).collect();
        let full = |d: usize| keep[d].clone().unwrap_or_else(|| (0..shape[d]).collect());
        // Flat positions, dimension by dimension.
        let mut at = vec![0];
        for d in 0..shape.len() {
            at = at.into_iter().flat_map(|a| full(d).into_iter().map(move |i| (a, i))).map(|(a, i)| a * shape[d] + i).collect();
        }
        let want: Vec<u32> = at.iter().map(|&a| values[a]).collect();
        let cut = Selection::new("x", &shape, keep.clone()).unwrap();
        prop_assert_eq!(cut.select(&values).unwrap(), want.clone());
        prop_assert_eq!(cut.shape().iter().product::<usize>(), want.len());
        let mut streamed = Vec::new();
        cut.for_each_run(&values, |run| streamed.extend_from_slice(run)).unwrap();
        prop_assert_eq!(&streamed, &want);
        for size in [1, 2, 3, 4, 8] {
            let bytes: Vec<u8> = (0..len * size).map(|i| (i * 7 % 251) as u8).collect();
            let want: Vec<u8> = at.iter().flat_map(|&a| bytes[a * size..(a + 1) * size].to_vec()).collect();
            prop_assert_eq!(cut.select_bytes(&bytes, size).unwrap(), want);
        }
    }
}
