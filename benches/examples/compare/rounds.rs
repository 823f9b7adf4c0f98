//! Sides take turns, so that what else the machine does falls on all of them.
use crate::{
    Result,
    cases::{Case, SAVINGS},
    report,
    roofline::Ceilings,
    side::{Side, Start},
};
use std::{io::Write, thread::sleep, time::Duration};

/// Between sides: a pool whose workers spin for a while after their work disturbs whatever is timed next.
const PAUSE: Duration = Duration::from_millis(30);

/// A sample is at least this long, in seconds; fast cases are repeated.
const SAMPLE: f64 = 0.1;

/// Seconds of every round.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Times(pub(crate) Vec<f64>);

impl Times {
    pub(crate) fn median(&self) -> f64 {
        quantile(self.0.clone(), 0.5)
    }
}

/// The value below which a share of `values` lies; between two of them, their mean by distance.
pub(crate) fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let at = share * last as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// How many rounds a case of that many seconds gets.
fn default_rounds(slowest: f64) -> usize {
    match slowest {
        s if s < 1.0 => 9,
        s if s < 5.0 => 5,
        _ => 3,
    }
}

/// Runs every case on our side and on each peer that has it; prints rows as they are done and returns the table.
///
/// Then the roofline of our side.
pub(crate) fn times(ours: &mut Side, peers: &mut [Side], cases: &[Case], rounds: Option<usize>) -> Result<String> {
    let (mut text, mut seconds) = (report::times_heading(), Vec::new());
    print!("{text}");
    for case in cases {
        let mut sides: Vec<&mut Side> = vec![ours];
        sides.extend(peers.iter_mut().filter(|peer| peer.reads(case.format)));
        let times = one(&mut sides, case, rounds)?;
        let rows = report::times_rows(case, &sides, &times);
        print!("{rows}");
        std::io::stdout().flush()?;
        text += &rows;
        if let Some(Ok(ours)) = times.first() {
            seconds.push((case.name.as_str(), &case.cost, ours.median()));
        }
    }
    let roofline = Ceilings::measured(ours)?.table(seconds.into_iter());
    print!("{roofline}");
    Ok(text + &roofline)
}

/// Times of every side, of a peer that cannot do the case the reason.
fn one(sides: &mut [&mut Side], case: &Case, rounds: Option<usize>) -> Result<Vec<Result<Times>>> {
    let (mut times, mut slowest) = (Vec::new(), 0f64);
    for side in &mut *sides {
        // The first run finds pages, plans and pools; it is no sample.
        let warm = side.set_up(&case.line).and_then(|()| side.run(0.0)).map(|s| slowest = slowest.max(s));
        times.push(warm.map(|()| Times::default()));
        if let [Err(_)] = times.as_slice() {
            break;
        }
    }
    for round in 0..rounds.unwrap_or_else(|| default_rounds(slowest)).max(1) {
        // Whoever is first in one round is last in the next: what is warm, and for whom, evens out.
        for i in 0..sides.len() {
            let i = (i + round) % sides.len();
            if let Ok(times) = &mut times[i] {
                sleep(PAUSE);
                times.0.push(sides[i].run(SAMPLE)?);
            }
        }
    }
    Ok(times)
}

/// Steps that are looked at: the optimizer's state may be there only after the first.
const STEPS: usize = 2;

/// The peaks of memory of distillation, each side in a process that has done nothing else: peers first, then ours by every way to save.
pub(crate) fn memory(start: &Start<'_>, cases: &[Case], peers: &[Side]) -> Result<String> {
    let mut text = report::memory_heading();
    print!("{text}");
    for case in cases {
        let mut theirs = None;
        let peers = peers.iter().filter(|p| p.reads(case.format)).map(|p| (Some(p.name.as_str()), ("", &[][..])));
        for (peer, (saving, options)) in peers.chain(SAVINGS.map(|saving| (None, saving))) {
            let mut side = peer.map_or_else(|| start.ours(), |name| start.peer(name))?;
            let mut line = case.line.clone();
            options.iter().for_each(|&option| line[option] = true.into());
            side.set_up(&line)?;
            let load = side.memory(true)?;
            let seconds = (0..STEPS).map(|_| side.run(0.0)).collect::<Result<Vec<f64>>>()?;
            let step = side.memory(false)?;
            let row = report::memory_row(case, &side, saving, [load, step], seconds.last().copied(), theirs);
            if peer.is_some() {
                theirs = step;
            }
            print!("{row}");
            std::io::stdout().flush()?;
            text += &row;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!(quantile(vec![3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(vec![4.0, 1.0, 2.0, 3.0], 0.5), 2.5);
        assert_eq!((quantile(vec![5.0, 7.0], 0.0), quantile(vec![5.0, 7.0], 1.0)), (5.0, 7.0));
        assert!(quantile(vec![], 0.5).is_nan());
    }
}
