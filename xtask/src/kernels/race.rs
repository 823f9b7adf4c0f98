//! `cargo xtask kernels --race`: sentryward, a static verifier, on the launches of `kernels/race.toml`. For one launch it proves that in every
//! schedule no two accesses to shared or global memory conflict and every barrier is met by the threads that it waits for, or shows where not.
use super::{
    Toolkit,
    build::{self, shown},
    files,
    ptx::{self, Entry},
};
use crate::{
    error::{Error, Result},
    project::{read, root},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fmt,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// Seconds and MiB for one launch.
const SECONDS: u32 = 120;
const MEMORY: u32 = 4096;

/// Launches at a time.
const WORKERS: usize = 2;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Launches {
    #[serde(default)]
    pub launches: Vec<Launch>,
}

/// One launch of one kernel.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Launch {
    pub kernel: String,
    pub grid: Vec<u32>,
    pub block: Vec<u32>,
    /// Bytes of shared memory that the launch adds.
    #[serde(default)]
    pub shared: u32,
    /// A number for each parameter, or `"pointer"`. A null pointer is the number 0.
    pub parameters: Vec<toml::Value>,
    /// What is known to come out.
    #[serde(default)]
    pub expect: Verdict,
    /// Whether `--record` leaves it in the file.
    #[serde(default)]
    pub by_hand: bool,
}

/// What the verifier says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    #[default]
    Proven,
    Refuted,
    NotHandled,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Proven => "proven",
            Verdict::Refuted => "REFUTED",
            Verdict::NotHandled => "not handled",
        })
    }
}

/// Runs the verifier on every launch whose kernel's name contains one of `only`.
///
/// # Errors
/// [`Error::Kernels`] when something else came out than is known; each is printed.
pub(super) fn run(toolkit: &Toolkit, only: &[String]) -> Result<()> {
    let path = path();
    let mut launches = committed()?;
    launches.retain(|l| only.is_empty() || only.iter().any(|o| l.kernel.contains(o.as_str())));
    let kernels = kernels()?;
    let outcomes = verify_all(toolkit, &kernels, &launches)?;
    let differ = launches.iter().zip(&outcomes).filter(|(launch, outcome)| launch.expect != outcome.verdict);
    let failures = differ.map(|(l, o)| format!("{}: expected {}, got {}: {}", l.kernel, l.expect, o.verdict, o.reason));
    let failures: Vec<String> = failures.collect();
    let n_without = kernels.iter().filter(|(e, _)| !launches.iter().any(|l| l.kernel == e.name)).count();
    if only.is_empty() && 0 < n_without {
        println!("{n_without} kernels have no launch in {}", shown(&path));
    }
    failures.iter().for_each(|f| println!("FAILED: {f}"));
    match failures.len() {
        0 => Ok(()),
        n => Err(Error::Kernels(n)),
    }
}

/// The committed launches.
///
/// # Errors
/// [`Error::Read`], [`Error::Toml`].
pub(super) fn committed() -> Result<Vec<Launch>> {
    let path = path();
    let Launches { launches } =
        toml::from_str(&read(&path)?).map_err(|source| Error::Toml { path: path.clone(), source: Box::new(source) })?;
    Ok(launches)
}

/// Their file.
pub(super) fn path() -> PathBuf {
    root().join("kernels/race.toml")
}

/// All kernels, each with the text of its file.
///
/// # Errors
/// [`Error::Read`].
pub(super) fn kernels() -> Result<Vec<(Entry, String)>> {
    let mut kernels = Vec::new();
    for source in build::sources()? {
        let text = read(&source.ptx)?;
        kernels.extend(ptx::entries(&text).into_iter().map(|entry| (entry, text.clone())));
    }
    Ok(kernels)
}

/// What came out for one launch.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub verdict: Verdict,
    /// Why it is not a proof.
    pub reason: String,
}

/// Runs the verifier on each launch, two at a time, and prints a table.
///
/// # Errors
/// When the verifier cannot be run.
pub(super) fn verify_all(toolkit: &Toolkit, kernels: &[(Entry, String)], launches: &[Launch]) -> Result<Vec<Outcome>> {
    println!("{:<40} {:>14} {:>7} {:<11} {:>7} {:>8}", "kernel", "grid", "block", "", "seconds", "MiB");
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(launch) = launches.get(i) else { break };
                    let outcome = verify(toolkit, kernels, launch, i);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((i, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(i, _)| *i);
    let outcomes = outcomes.into_iter().map(|(_, outcome)| outcome).collect::<Result<Vec<_>>>()?;
    let count = |verdict| outcomes.iter().filter(|o| o.verdict == verdict).count();
    let [proven, refuted, not_handled] = [Verdict::Proven, Verdict::Refuted, Verdict::NotHandled].map(count);
    let proof =
        |(launch, outcome): (&Launch, &Outcome)| (outcome.verdict == Verdict::Proven).then(|| launch.kernel.clone());
    let n_kernels = launches.iter().zip(&outcomes).filter_map(proof).collect::<BTreeSet<_>>().len();
    println!("{proven} launches of {n_kernels} kernels proven, {refuted} refuted, {not_handled} not handled");
    Ok(outcomes)
}

/// Runs the verifier on one launch, and prints a line of the table.
fn verify(toolkit: &Toolkit, kernels: &[(Entry, String)], launch: &Launch, nth: usize) -> Result<Outcome> {
    let start = Instant::now();
    let not_handled = |reason: String| (Outcome { verdict: Verdict::NotHandled, reason }, 0.0);
    let (outcome, mib) = match kernels.iter().find(|(e, _)| e.name == launch.kernel) {
        None => not_handled("no source has this kernel".into()),
        Some((entry, text)) => match input(launch, entry) {
            Err(what) => not_handled(what),
            Ok(input) => {
                let report = report(toolkit, nth, text, &input)?;
                let (verdict, reason) = verdict(&report);
                (Outcome { verdict, reason }, report["peak_rss_mib"].as_f64().unwrap_or(0.0))
            }
        },
    };
    let dims = |d: &[u32]| d.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    println!(
        "{:<40} {:>14} {:>7} {:<11} {:>7.1} {mib:>8.0}  {}",
        launch.kernel,
        dims(&launch.grid),
        dims(&launch.block),
        outcome.verdict,
        start.elapsed().as_secs_f64(),
        outcome.reason
    );
    Ok(outcome)
}

/// The verifier's input file (`spverify.kernel-input/v1`), or what does not fit the kernel.
fn input(launch: &Launch, entry: &Entry) -> std::result::Result<Value, String> {
    let (given, wanted) = (launch.parameters.len(), entry.params.len());
    if given != wanted {
        return Err(format!("{given} parameters are given, it has {wanted}"));
    }
    let (mut arguments, mut declarations) = (Vec::new(), Vec::new());
    for ((kind, name), value) in entry.params.iter().zip(&launch.parameters) {
        match value.as_str() {
            None => arguments.push(json!({"parameter": name, "type": kind, "value": value})),
            Some("pointer") if kind == "u64" => declarations.push(json!({"parameter": name, "type": "pointer"})),
            Some(text) => return Err(format!("{name} is a {kind}, not `{text}`")),
        }
    }
    let three = |d: &[u32]| (0..3).map(|i| d.get(i).copied().unwrap_or(1)).collect::<Vec<_>>();
    Ok(json!({
        "schema": "spverify.kernel-input/v1",
        "entry": entry.name,
        "launch": {
            "grid_dim": three(&launch.grid), "block_dim": three(&launch.block), "cluster_dim": [1, 1, 1],
            "dynamic_shared_bytes": launch.shared,
        },
        "arguments": arguments,
        "declarations": declarations,
    }))
}

/// The verifier's report. Its exit code is no verdict.
fn report(toolkit: &Toolkit, nth: usize, text: &str, input: &Value) -> Result<Value> {
    let ptx = files::scratch(&format!("race/{nth}.ptx"))?;
    let json = ptx.with_extension("json");
    files::write(&ptx, &without_bfi(text))?;
    files::write(&json, &input.to_string())?;
    let mut command = toolkit.python("sentryward");
    command.arg(&ptx).arg("--input").arg(&json);
    command.args(["--timeout", &SECONDS.to_string(), "--memory-limit-mib", &MEMORY.to_string()]);
    let done = command.output().map_err(|source| Error::Start { command: crate::project::shown(&command), source })?;
    let unreadable = |_| Error::Unreadable { tool: "sentryward", file: ptx.clone(), what: "its report" };
    serde_json::from_slice(&done.stdout).map_err(unreadable)
}

/// The verdict of a report, and why it is not a proof.
fn verdict(report: &Value) -> (Verdict, String) {
    let result = report["result"].as_str().unwrap_or("no result");
    let verdict = match result {
        "race_free" | "verified" => Verdict::Proven,
        "potential_race" | "not_wellsynced" | "invalid_lifecycle" => Verdict::Refuted,
        _ => Verdict::NotHandled,
    };
    if verdict == Verdict::Proven {
        return (verdict, String::new());
    }
    let first = &report["diagnostics"][0];
    let line = first["details"]["ptx_line"].as_u64().map(|l| format!(", line {l}")).unwrap_or_default();
    (verdict, format!("{result}: {}{line}", first["message"].as_str().unwrap_or("no message")))
}

/// `text` with every `bfi.b32` of a constant field written as shifts and masks, which the verifier can follow in addresses.
fn without_bfi(text: &str) -> String {
    let line = |line: &str| {
        let operands = line.trim().strip_prefix("bfi.b32")?.trim().strip_suffix(';')?;
        let [to, field, base, start, len] = operands.split(", ").collect::<Vec<_>>()[..] else { return None };
        let (start, len): (u32, u32) = (start.parse().ok()?, len.parse().ok()?);
        let mask = 1_u32.checked_shl(len).map_or(u32::MAX, |m| m - 1);
        let hole = !mask.checked_shl(start)?;
        // PTX writes immediates as signed numbers.
        let (mask, hole) = (mask as i32, hole as i32);
        Some(format!(
            "\t{{ .reg .b32 %bfi<2>; and.b32 %bfi0, {field}, {mask}; shl.b32 %bfi0, %bfi0, {start}; \
             and.b32 %bfi1, {base}, {hole}; or.b32 {to}, %bfi0, %bfi1; }}"
        ))
    };
    text.lines().map(|l| line(l).unwrap_or_else(|| l.to_owned()) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch() -> Launch {
        let text = r#"launches = [{ kernel = "add", grid = [2], block = [128], parameters = ["pointer", 0, 7, 0.5] }]"#;
        toml::from_str::<Launches>(text).unwrap().launches.remove(0)
    }

    fn entry(params: &[&str]) -> Entry {
        let params = params.iter().enumerate().map(|(i, t)| ((*t).to_owned(), format!("add_param_{i}"))).collect();
        Entry { name: "add".into(), params, max_threads: Some(128), lines: 0..1 }
    }

    #[test]
    fn pointers_are_declared_and_numbers_given() {
        let input = input(&launch(), &entry(&["u64", "u64", "u32", "f32"])).unwrap();
        assert_eq!(input["declarations"], json!([{"parameter": "add_param_0", "type": "pointer"}]));
        let arguments = json!([
            {"parameter": "add_param_1", "type": "u64", "value": 0},
            {"parameter": "add_param_2", "type": "u32", "value": 7},
            {"parameter": "add_param_3", "type": "f32", "value": 0.5},
        ]);
        assert_eq!(input["arguments"], arguments);
        assert_eq!(input["launch"]["grid_dim"], json!([2, 1, 1]));
    }

    #[test]
    fn a_launch_that_does_not_fit_is_refused() {
        assert!(input(&launch(), &entry(&["u32"])).unwrap_err().contains("4 parameters"));
        assert!(input(&launch(), &entry(&["u32", "u64", "u32", "f32"])).unwrap_err().contains("`pointer`"));
    }

    #[test]
    fn only_a_proof_is_a_proof() {
        let report = |result: &str| json!({"result": result, "diagnostics": [{"message": "two stores", "details": {"ptx_line": 9}}]});
        assert_eq!(verdict(&report("race_free")), (Verdict::Proven, String::new()));
        assert_eq!(verdict(&report("potential_race")), (Verdict::Refuted, "potential_race: two stores, line 9".into()));
        for result in ["timeout", "unsupported", "something new"] {
            assert_eq!(verdict(&report(result)).0, Verdict::NotHandled);
        }
        assert_eq!(verdict(&json!({})).0, Verdict::NotHandled);
    }

    #[test]
    fn a_field_is_put_in_by_masks() {
        let text = without_bfi("\tbfi.b32 \t%r5, %r6, %r7, 4, 8;\n\tret;\n");
        let masks =
            "and.b32 %bfi0, %r6, 255; shl.b32 %bfi0, %bfi0, 4; and.b32 %bfi1, %r7, -4081; or.b32 %r5, %bfi0, %bfi1;";
        assert!(text.contains(masks) && text.ends_with("\n\tret;\n"), "{text}");
        let variable = "\tbfi.b32 \t%r5, %r6, %r7, %r8, 8;\n";
        assert_eq!(without_bfi(variable), variable);
    }
}
