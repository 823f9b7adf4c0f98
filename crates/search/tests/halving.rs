//! Successive halving without models: who survives, ties, cut-offs, and going on from a saved state.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_search::{CutOff, End, Go, Rung, Scorer, State, halve};

/// The true score is the candidate's distance from 37; early rungs see it in steps of 16, 4, 1.
struct Coarse {
    calls: Vec<(usize, usize)>,
}

impl Scorer for Coarse {
    type Error = String;

    fn score(&mut self, rung: usize, candidate: usize) -> Result<f64, String> {
        self.calls.push((rung, candidate));
        let distance = candidate.abs_diff(37) as f64;
        let step = [16.0, 4.0, 1.0][rung];
        Ok((distance / step).floor() * step)
    }
}

fn rungs() -> Vec<Rung> {
    [("first", 100), ("second", 40), ("third", 10)]
        .map(|(name, candidates)| Rung { name: name.into(), candidates })
        .into()
}

fn run(state: &mut State, watch: &mut dyn FnMut(&State) -> Result<Go, String>) -> (End, Vec<(usize, usize)>) {
    let mut scorer = Coarse { calls: Vec::new() };
    let end = halve(100, &rungs(), state, &mut scorer, watch).unwrap();
    (end, scorer.calls)
}

#[test]
fn the_best_survives_and_every_rung_is_as_large_as_asked() {
    let mut state = State::default();
    let (end, calls) = run(&mut state, &mut |_| Ok(Go::On));
    assert_eq!((end, state.ranking()[0]), (End::Finished, 37));
    assert_eq!(state.rungs.iter().map(|r| r.entrants.len()).collect::<Vec<_>>(), [100, 40, 10]);
    assert_eq!(calls.len(), 150);
    // 22 to 52 all score 0 in the first rung: the earlier ones go on first.
    assert_eq!(state.rungs[1].entrants[..4], [22, 23, 24, 25]);
    // 36 and 38 are as good as one another.
    assert_eq!(state.ranking()[..5], [37, 36, 38, 35, 39]);
    assert_eq!(state.ranking().len(), 100);
}

#[test]
fn a_stopped_search_goes_on_where_it_was() {
    let mut whole = State::default();
    run(&mut whole, &mut |_| Ok(Go::On));
    for stop_at in [1, 99, 100, 101, 139, 140, 149] {
        let (mut state, mut seen) = (State::default(), 0);
        let (end, first) = run(&mut state, &mut |_| {
            seen += 1;
            Ok(if seen == stop_at { Go::Stop } else { Go::On })
        });
        assert_eq!((end, first.len()), (End::Stopped, stop_at));
        // As a file would have it.
        let saved = serde_json::to_string(&state).unwrap();
        let mut state: State = serde_json::from_str(&saved).unwrap();
        let (end, rest) = run(&mut state, &mut |_| Ok(Go::On));
        assert_eq!((end, first.len() + rest.len()), (End::Finished, 150));
        assert_eq!(state, whole);
    }
}

#[test]
fn when_time_is_up_what_is_known_is_the_result() {
    let (mut state, mut seen) = (State::default(), 0);
    let (end, _) = run(&mut state, &mut |_| {
        seen += 1;
        Ok(if seen == 120 { Go::CutOff } else { Go::On })
    });
    assert_eq!(end, End::Finished);
    assert_eq!(state.cut_off, Some(CutOff { rung: "second".into(), scored: 20, entered: 40 }));
    // The twenty that were scored come first.
    let scored = &state.rungs[1].entrants[..20];
    assert!(state.ranking()[..20].iter().all(|c| scored.contains(c)));
    assert_eq!(state.ranking().len(), 100);
    // At the very end there is nothing to cut off.
    let (mut state, mut seen) = (State::default(), 0);
    run(&mut state, &mut |_| {
        seen += 1;
        Ok(if seen == 150 { Go::CutOff } else { Go::On })
    });
    assert_eq!((state.cut_off, state.rungs[2].ranking()[0]), (None, 37));
}

#[test]
fn what_is_no_number_is_the_worst_and_errors_end_the_search() {
    struct Bad;
    impl Scorer for Bad {
        type Error = String;
        fn score(&mut self, _: usize, candidate: usize) -> Result<f64, String> {
            match candidate {
                0 => Ok(f64::NAN),
                1 => Ok(f64::INFINITY),
                2 => Ok(1e300),
                _ => Err("broken".into()),
            }
        }
    }
    let rungs = [Rung { name: "only".into(), candidates: 3 }];
    let mut state = State::default();
    halve(3, &rungs, &mut state, &mut Bad, &mut |_| Ok(Go::On)).unwrap();
    assert_eq!(state.ranking(), [2, 0, 1]);
    let four = [Rung { name: "only".into(), candidates: 4 }];
    assert_eq!(halve(4, &four, &mut State::default(), &mut Bad, &mut |_| Ok(Go::On)), Err("broken".into()));
    let mut none = State::default();
    assert_eq!(halve(0, &rungs, &mut none, &mut Bad, &mut |_| Ok(Go::On)), Ok(End::Finished));
    assert!(none.ranking().is_empty());
}
