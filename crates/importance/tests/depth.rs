//! Which layers go, and what blocks turn: against the same by hand.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_importance::{BlockInfluence, DepthRanking, Distance, Error, NamedArray, RowProducts, SpanInfluence};

fn array(name: &str, values: &[f64]) -> NamedArray {
    NamedArray { name: name.into(), shape: vec![values.len()], values: values.to_vec() }
}

/// What was measured of five layers.
fn measured() -> Vec<NamedArray> {
    vec![
        array("block_influence", &[0.9, 0.2, 0.1, 0.2, 0.8]),
        array("depth.layer_nll", &[9.0, 3.5, 3.2, 3.1, 3.2]),
        array("depth.block_angular.2", &[0.5, 0.4, 0.3, 0.3]),
        array("depth.block_nll.2", &[9.0, 4.0, 4.5, 3.9]),
        array("depth.block_accuracy.2", &[0.2, 0.6, 0.6, 0.5]),
        array("depth.block_gold_nll.2", &[1.0, 3.0, 2.0, 1.0]),
        array("depth.greedy.order", &[3.0, 1.0, 2.0]),
    ]
}

#[test]
fn every_ranking_chooses_by_its_own_array() {
    use DepthRanking::{Angular, BlockInfluence, Blocks, Greedy, LmLoss, Task};
    let all = measured();
    for (ranking, n, want) in [
        (BlockInfluence, 1, &[2][..]),
        // Layers 1 and 3 are alike: the first goes.
        (BlockInfluence, 2, &[1, 2]),
        (BlockInfluence, 4, &[1, 2, 3, 4]),
        (LmLoss, 1, &[3]),
        (LmLoss, 2, &[2, 3]),
        (LmLoss, 3, &[2, 3, 4]),
        (Angular, 2, &[2, 3]),
        (Blocks, 2, &[3, 4]),
        // Blocks at 1 and at 2 have one accuracy: the right choices are more likely without the second.
        (Task, 2, &[2, 3]),
        (Greedy, 1, &[3]),
        (Greedy, 2, &[1, 3]),
        (Greedy, 3, &[1, 2, 3]),
    ] {
        assert_eq!(ranking.choose(&all, n).unwrap(), want, "{ranking:?}, {n}");
    }
}

#[test]
fn what_was_not_measured_is_said_with_the_flags_that_measure_it() {
    let all = measured();
    let says = |ranking: DepthRanking, n, text: &str| {
        let e = ranking.choose(&all, n).unwrap_err();
        assert!(matches!(e, Error::NotSwept { .. }) && e.to_string().contains(text), "{e}");
    };
    says(
        DepthRanking::Blocks,
        3,
        "`depth.block_nll.3` is missing; measure it with `paring importance --depth blocks --block-sizes 3`",
    );
    says(DepthRanking::Angular, 3, "--depth influence --block-sizes 3");
    says(DepthRanking::Task, 1, "--depth-task FILE --block-sizes 1");
    says(DepthRanking::Greedy, 4, "--depth greedy --depth-greedy 4");
    assert!(matches!(DepthRanking::LmLoss.choose(&all[..1], 1), Err(Error::NotSwept { .. })));
    assert!(matches!(DepthRanking::LmLoss.choose(&[], 1), Err(Error::NotSwept { .. })));
}

#[test]
fn what_cannot_be_is_refused() {
    for n in [0, 5, 6, usize::MAX] {
        assert_eq!(DepthRanking::LmLoss.choose(&measured(), n), Err(Error::Drop { got: n, layers: 5 }));
    }
    let with = |name: &str, values: &[f64]| {
        let mut all = measured();
        all.iter_mut().find(|a| a.name == name).unwrap().values = values.to_vec();
        all.iter_mut().find(|a| a.name == name).unwrap().shape = vec![values.len()];
        all
    };
    let shape = with("depth.layer_nll", &[1.0; 4]);
    assert!(
        matches!(DepthRanking::LmLoss.choose(&shape, 1), Err(Error::Shape { got, want, .. }) if got == [4] && want == [5])
    );
    let mut flat = measured();
    flat[1].shape = vec![5, 1];
    assert!(matches!(DepthRanking::LmLoss.choose(&flat, 1), Err(Error::Shape { .. })));
    let nan = with("depth.layer_nll", &[1.0, f64::NAN, 1.0, 1.0, 1.0]);
    assert!(matches!(DepthRanking::LmLoss.choose(&nan, 1), Err(Error::Value { index: 1, .. })));
    for order in [&[5.0, 1.0][..], &[-1.0, 1.0], &[1.5, 2.0], &[1.0, 1.0], &[f64::INFINITY, 0.0]] {
        let bad = with("depth.greedy.order", order);
        assert!(matches!(DepthRanking::Greedy.choose(&bad, 2), Err(Error::Value { .. })), "{order:?}");
    }
}

#[test]
fn blocks_of_one_layer_turn_as_block_influence_says_and_angles_are_those_of_trigonometry() {
    let mut spans = SpanInfluence::new(3, &[1, 2]).unwrap();
    assert_eq!((spans.sizes(), spans.longest()), (&[1, 2][..], 2));
    let mut single = BlockInfluence::new(3);
    // Rows at 60 and at 90 degrees to one another, of any length.
    let at = |degrees: f64, xx: f64, yy: f64| RowProducts { xy: degrees.to_radians().cos() * (xx * yy).sqrt(), xx, yy };
    let sequences = [vec![at(60.0, 4.0, 9.0), at(90.0, 1.0, 2.0)], vec![at(120.0, 0.5, 8.0)]];
    for products in &sequences {
        spans.observe(0, 1, products).unwrap();
        spans.observe(1, 0, products).unwrap();
        single.observe_products(1, products).unwrap();
    }
    assert_eq!(spans.cosine(0), single.scores(Distance::Cosine));
    assert_eq!(spans.cosine(0)[1], spans.cosine(1)[0]);
    assert_eq!(spans.cosine(1).len(), 2);
    // (60 + 90) / 2 = 75 degrees of the first sequence, 120 of the second: their mean is 97.5 of 180.
    let angle = spans.angular(1)[0];
    assert!((angle - 97.5 / 180.0).abs() < 1e-12, "{angle}");
    assert_eq!((spans.angular(0)[0], spans.angular(2)), (0.0, vec![]));
    // Roundings above 1 are no NaN.
    spans.observe(0, 2, &[RowProducts { xy: 1.0 + 1e-12, xx: 1.0, yy: 1.0 }]).unwrap();
    assert_eq!(spans.angular(0)[2], 0.0);
    assert!(matches!(spans.observe(0, 3, &sequences[0]), Err(Error::Layer { got: 3, layers: 3 })));
    assert!(matches!(spans.observe(2, 0, &sequences[0]), Err(Error::Layer { got: 2, layers: 2 })));
    assert!(matches!(spans.observe(0, 0, &[]), Err(Error::EmptySequence)));
    let nan = [RowProducts { xx: f64::NAN, ..RowProducts::default() }];
    assert!(matches!(spans.observe(0, 0, &nan), Err(Error::NotFinite { index: 0, .. })));
    for sizes in [&[0][..], &[4], &[1, 9]] {
        assert!(matches!(SpanInfluence::new(3, sizes), Err(Error::Geometry { .. })));
    }
}
