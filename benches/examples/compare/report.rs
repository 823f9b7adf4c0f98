//! The tables, in Markdown: what is printed is what goes into `benches/results`.
use crate::{
    Result,
    cases::Case,
    rounds::{Times, quantile},
    side::Side,
};

/// When, where, by what: before the tables.
pub(crate) fn heading(machine: &str, ours: &Side, peers: &[Side]) -> String {
    let versions: Vec<&str> = std::iter::once(ours).chain(peers).map(|side| side.version.as_str()).collect();
    format!("\n{machine}\n\n{}.\n", versions.join("; "))
}

pub(crate) fn times_heading() -> String {
    "\nMedians of rounds in which sides take turns; the ratio is the median of the rounds' ratios, their quartiles in parentheses. A row \
     of ours without a peer has nobody to be compared with.\n\n\
     | case | unit | ours | peer | peer's | ours / peer |\n|---|---|---|---|---|---|\n"
        .into()
}

/// One row for each peer, or one without; a side that could not do the case says why.
pub(crate) fn times_rows(case: &Case, sides: &[&mut Side], times: &[Result<Times>]) -> String {
    let speed = |t: &Times| case.work / t.median();
    let (ours, peers) = match times.split_first() {
        Some((Ok(ours), peers)) => (ours, peers),
        Some((Err(problem), _)) => return format!("| {} | {} | {problem} | | | |\n", case.name, case.unit),
        None => return String::new(),
    };
    let start = format!("| {} | {} | {:.1} |", case.name, case.unit, speed(ours));
    if peers.is_empty() {
        return format!("{start} | | |\n");
    }
    let row = |(side, theirs): (&&mut Side, &Result<Times>)| {
        let theirs = match theirs {
            Ok(theirs) => theirs,
            Err(problem) => return format!("{start} {} | {problem} | |\n", side.name),
        };
        let ratios: Vec<f64> = theirs.0.iter().zip(&ours.0).map(|(theirs, ours)| theirs / ours).collect();
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| quantile(ratios.clone(), share));
        format!("{start} {} | {:.1} | {middle:.2} ({low:.2}-{high:.2}) |\n", side.name, speed(theirs))
    };
    sides.iter().skip(1).zip(peers).map(row).collect()
}

pub(crate) fn memory_heading() -> String {
    "\nPeak of resident memory (VmHWM) in MB: while the models are loaded and the optimizer is made, and during the first two steps; \
     and the speed of the second, which is one sample only.\n\n\
     | case | side | loading | steps | ours / peer | tokens/s |\n|---|---|---|---|---|---|\n"
        .into()
}

/// One side of a case: what it does to save memory, its peaks, and a peer's steps when this is our side.
pub(crate) fn memory_row(
    case: &Case,
    side: &Side,
    saving: &str,
    [load, step]: [Option<u64>; 2],
    seconds: Option<f64>,
    theirs: Option<u64>,
) -> String {
    let mb = |bytes: Option<u64>| bytes.map_or("not told".into(), |b| format!("{:.0}", b as f64 / 1e6));
    let ratio = step.zip(theirs).map_or(String::new(), |(ours, theirs)| format!("{:.2}", ours as f64 / theirs as f64));
    let speed = seconds.map_or(String::new(), |s| format!("{:.0}", case.work / s));
    let saving = if saving.is_empty() { String::new() } else { format!(", {saving}") };
    format!("| {} | {}{saving} | {} | {} | {ratio} | {speed} |\n", case.name, side.name, mb(load), mb(step))
}
