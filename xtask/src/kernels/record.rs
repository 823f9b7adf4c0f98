//! `cargo xtask kernels --record`: real launches for the race verifier, so that no one has to make up parameters that a kernel is never given.
//! Of what the project's tests launch, a small launch of every kernel becomes `kernels/race.toml`, with what the verifier says of them.
use super::{
    Toolkit, files,
    ptx::Entry,
    race::{self, Launch, Outcome, Verdict},
    suite::{self, Recorded},
};
use crate::error::Result;
use std::collections::BTreeMap;
use toml::Value;

/// Launches of each kernel that are tried: those after the first where the verifier does not handle it.
const TRIED: usize = 3;

/// Seconds of the longest test whose launches count: small launches are what is wanted.
const LONGEST: f64 = 60.0;

/// What opens the file.
const HEAD: &str = "\
# Launches at which sentryward proves that no two accesses race; `cargo xtask kernels --race` runs it, and fails where something else comes out.
# Written by `cargo xtask kernels --record` from launches of the project's tests: for each kernel the smallest with several blocks that it handles.
# `parameters` has a number for each parameter, or \"pointer\"; a null pointer is 0. `not-handled` is no statement about the kernel. What has
# `by_hand = true` stays when the file is written anew, at its end.
";

/// Writes the file.
///
/// # Errors
/// Those of the tests and of the verifier.
pub(super) fn run(toolkit: &Toolkit) -> Result<()> {
    let kernels = race::kernels()?;
    let recorded: Vec<Recorded> = suite::run_all("", LONGEST)?.into_iter().flat_map(|test| test.launches).collect();
    let candidates = pick(recorded, &kernels);
    let by_hand: Vec<Launch> = race::committed()?.into_iter().filter(|launch| launch.by_hand).collect();
    let mut found: Vec<Option<(Launch, Outcome)>> = vec![None; candidates.len()];
    for nth in 0..TRIED {
        let open = |of: &Option<(Launch, Outcome)>| of.as_ref().is_none_or(|(_, o)| o.verdict == Verdict::NotHandled);
        let places: Vec<usize> = (0..found.len()).filter(|i| open(&found[*i]) && nth < candidates[*i].len()).collect();
        let launches: Vec<Launch> = places.iter().map(|i| candidates[*i][nth].clone()).collect();
        let outcomes = race::verify_all(toolkit, &kernels, &launches)?;
        for (place, (launch, outcome)) in places.into_iter().zip(launches.into_iter().zip(outcomes)) {
            let is_better = found[place].is_none() || outcome.verdict != Verdict::NotHandled;
            if is_better {
                found[place] = Some((launch, outcome));
            }
        }
        // After every round, because a round takes minutes.
        let found = found.iter().flatten().map(|(l, o)| entry(l, o.verdict, &o.reason));
        let entries: Vec<String> = found.chain(by_hand.iter().map(|l| entry(l, l.expect, "by hand"))).collect();
        files::write(&race::path(), &format!("{HEAD}{}", entries.concat()))?;
    }
    Ok(())
}

/// For each kernel that is launched, the launches with the fewest threads, those of several blocks first, in the order of the kernels. They
/// differ in which parameters are zero: a null pointer may spare the verifier a branch on data.
fn pick(recorded: Vec<Recorded>, kernels: &[(Entry, String)]) -> Vec<Vec<Launch>> {
    let mut by_kernel: BTreeMap<String, Vec<Recorded>> = BTreeMap::new();
    for launch in recorded {
        by_kernel.entry(launch.kernel.clone()).or_default().push(launch);
    }
    let mut picked = Vec::new();
    for (entry, _) in kernels {
        let mut launches = by_kernel.remove(&entry.name).unwrap_or_default();
        launches.sort_by_key(|l| (l.grid == [1, 1, 1], l.threads()));
        let zeros = |l: &Launch| l.parameters.iter().map(|v| *v == Value::Integer(0)).collect::<Vec<_>>();
        let mut of_kernel: Vec<Launch> = Vec::new();
        for launch in launches.iter().filter_map(|l| decode(l, entry)) {
            if of_kernel.len() < TRIED && !of_kernel.iter().any(|known| zeros(known) == zeros(&launch)) {
                of_kernel.push(launch);
            }
        }
        picked.extend((!of_kernel.is_empty()).then_some(of_kernel));
    }
    picked
}

/// A recorded launch with its parameters as numbers, or `None` when the bytes do not fit the kernel.
fn decode(recorded: &Recorded, entry: &Entry) -> Option<Launch> {
    let mut at = 0_usize;
    let mut parameters = Vec::new();
    for (kind, _) in &entry.params {
        let size = match kind.as_str() {
            "u64" | "s64" | "b64" | "f64" => 8,
            "u32" | "s32" | "b32" | "f32" => 4,
            _ => return None,
        };
        at = at.next_multiple_of(size);
        let bytes = recorded.parameters.get(at..at + size)?;
        at += size;
        let low = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
        parameters.push(match (kind.as_str(), bytes.try_into()) {
            ("f32", _) => Value::Float(f64::from(f32::from_bits(low))),
            ("f64", Ok(bytes)) => Value::Float(f64::from_le_bytes(bytes)),
            ("s32", _) => Value::Integer(i64::from(low as i32)),
            // Memory of the simulated device begins above 32 bits, and no size reaches it.
            (_, Ok(bytes)) => match u64::from_le_bytes(bytes) {
                n if n >> 32 == 0 || kind == "s64" => Value::Integer(n as i64),
                _ => Value::String("pointer".into()),
            },
            (_, Err(_)) => Value::Integer(i64::from(low)),
        });
    }
    let trimmed = |d: [u32; 3]| {
        let n = d.iter().rposition(|n| *n != 1).map_or(1, |last| last + 1);
        d.into_iter().take(n).collect()
    };
    Some(Launch {
        kernel: entry.name.clone(),
        grid: trimmed(recorded.grid),
        block: trimmed(recorded.block),
        shared: recorded.shared,
        parameters,
        expect: Verdict::Proven,
        by_hand: false,
    })
}

/// A launch as the file has it. One that was refuted is still expected to be proven, so that it is not overlooked.
fn entry(launch: &Launch, verdict: Verdict, reason: &str) -> String {
    let values: Vec<_> = launch.parameters.iter().map(ToString::to_string).collect();
    let Launch { kernel, grid, block, shared, .. } = launch;
    let shared = if *shared == 0 { String::new() } else { format!("shared = {shared}\n") };
    let by_hand = if launch.by_hand { "by_hand = true\n" } else { "" };
    let expect = match verdict {
        Verdict::NotHandled => format!("expect = \"not-handled\" # {reason}\n"),
        Verdict::Proven | Verdict::Refuted => String::new(),
    };
    let parameters = values.join(", ");
    format!(
        "\n[[launches]]\nkernel = \"{kernel}\"\ngrid = {grid:?}\nblock = {block:?}\n{shared}parameters = [{parameters}]\n{expect}{by_hand}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> Entry {
        let params = ["u64", "u32", "u64", "f32"].iter().enumerate();
        let params = params.map(|(i, t)| ((*t).to_owned(), format!("add_param_{i}"))).collect();
        Entry { name: "add".into(), params, max_threads: Some(128), lines: 0..1 }
    }

    fn recorded(grid: u32, n: u32) -> Recorded {
        let mut parameters = 0x7_0000_0000_u64.to_le_bytes().to_vec();
        parameters.extend(n.to_le_bytes());
        parameters.extend([0; 4]);
        parameters.extend(0_u64.to_le_bytes());
        parameters.extend(0.5_f32.to_le_bytes());
        Recorded { kernel: "add".into(), grid: [grid, 1, 1], block: [64, 2, 1], shared: 16, parameters }
    }

    #[test]
    fn parameters_are_read_by_their_types() {
        let launch = decode(&recorded(2, 9), &kernel()).unwrap();
        let expected = [Value::String("pointer".into()), Value::Integer(9), Value::Integer(0), Value::Float(0.5)];
        assert_eq!(launch.parameters, expected);
        assert_eq!((launch.grid, launch.block), (vec![2], vec![64, 2]));
        let short = Recorded { parameters: vec![0; 8], ..recorded(2, 9) };
        assert_eq!(decode(&short, &kernel()), None);
    }

    #[test]
    fn small_launches_of_several_blocks_come_first() {
        let kernels = [(kernel(), String::new())];
        let recorded = vec![recorded(1, 1), recorded(8, 0), recorded(8, 2), recorded(2, 3), recorded(4, 4)];
        let picked = pick(recorded, &kernels);
        let grids: Vec<_> = picked[0].iter().map(|l| l.grid.clone()).collect();
        // The second has a zero where the first has none.
        assert_eq!((picked.len(), grids), (1, vec![vec![2], vec![8]]));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let launch = decode(&recorded(2, 9), &kernel()).unwrap();
        let kept = Launch { by_hand: true, ..launch.clone() };
        let text = [
            entry(&launch, Verdict::Proven, ""),
            entry(&launch, Verdict::NotHandled, "unsupported: \"atom\""),
            entry(&kept, kept.expect, "by hand"),
        ];
        let read: race::Launches = toml::from_str(&format!("{HEAD}{}", text.concat())).unwrap();
        assert_eq!(read.launches[0], launch);
        assert_eq!(read.launches[1].expect, Verdict::NotHandled);
        assert_eq!(read.launches[2], kept);
    }
}
