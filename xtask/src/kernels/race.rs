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
use std::{fmt, path::Path, time::Instant};

/// Seconds and MiB for one launch.
const SECONDS: u32 = 300;
const MEMORY: u32 = 4096;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Launches {
    #[serde(default)]
    launches: Vec<Launch>,
}

/// One launch of one kernel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Launch {
    kernel: String,
    grid: Vec<u32>,
    block: Vec<u32>,
    /// Bytes of shared memory that the launch adds.
    #[serde(default)]
    shared: u32,
    /// The last parameters, which are numbers; those before them are pointers.
    #[serde(default)]
    values: Vec<toml::Value>,
    /// Pointers that are null, by their place.
    #[serde(default)]
    null: Vec<usize>,
    /// What is known to come out.
    #[serde(default)]
    expect: Verdict,
}

/// What the verifier says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
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
    let path = root().join("kernels/race.toml");
    let toml = |source| Error::Toml { path: path.clone(), source: Box::new(source) };
    let Launches { mut launches } = toml::from_str(&read(&path)?).map_err(toml)?;
    launches.retain(|l| only.is_empty() || only.iter().any(|o| l.kernel.contains(o.as_str())));
    let mut kernels: Vec<(Entry, String)> = Vec::new();
    for source in build::sources()? {
        let text = read(&source.ptx)?;
        kernels.extend(ptx::entries(&text).into_iter().map(|entry| (entry, text.clone())));
    }
    let (mut failures, mut counts) = (Vec::new(), [0; 3]);
    println!("{:<40} {:>14} {:>6} {:<11} {:>7} {:>8}", "kernel", "grid", "block", "", "seconds", "MiB");
    for launch in &launches {
        let Some((entry, text)) = kernels.iter().find(|(e, _)| e.name == launch.kernel) else {
            failures.push(format!("{}: {} names it, and no source has it", launch.kernel, shown(&path)));
            continue;
        };
        let start = Instant::now();
        let report = match input(launch, entry) {
            Ok(input) => verify(toolkit, launch, text, &input)?,
            Err(what) => {
                failures.push(format!("{}: {what}", launch.kernel));
                continue;
            }
        };
        let (verdict, reason) = verdict(&report);
        let dims = |d: &[u32]| d.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        let (grid, block) = (dims(&launch.grid), dims(&launch.block));
        let (seconds, mib) = (start.elapsed().as_secs_f64(), report["peak_rss_mib"].as_f64().unwrap_or(0.0));
        println!("{:<40} {grid:>14} {block:>6} {verdict:<11} {seconds:>7.1} {mib:>8.0}  {reason}", launch.kernel);
        counts[verdict as usize] += 1;
        if verdict != launch.expect {
            failures.push(format!("{}: expected {}, got {verdict}: {reason}", launch.kernel, launch.expect));
        }
    }
    let [proven, refuted, not_handled] = counts;
    println!("{proven} launches proven, {refuted} refuted, {not_handled} not handled");
    let without = kernels.iter().filter(|(e, _)| !launches.iter().any(|l| l.kernel == e.name));
    let without: Vec<_> = without.map(|(e, _)| e.name.as_str()).collect();
    if only.is_empty() && !without.is_empty() {
        println!("without a launch in {}: {}", shown(&path), without.join(", "));
    }
    failures.iter().for_each(|f| println!("FAILED: {f}"));
    match failures.len() {
        0 => Ok(()),
        n => Err(Error::Kernels(n)),
    }
}

/// The verifier's input file (`spverify.kernel-input/v1`), or what does not fit the kernel.
fn input(launch: &Launch, entry: &Entry) -> std::result::Result<Value, String> {
    let n_pointers = entry.params.len().checked_sub(launch.values.len());
    let n_pointers =
        n_pointers.ok_or_else(|| format!("{} values for {} parameters", launch.values.len(), entry.params.len()))?;
    let (pointers, numbers) = entry.params.split_at(n_pointers);
    if let Some((kind, name)) = pointers.iter().find(|(kind, _)| kind != "u64") {
        return Err(format!("{name} is {kind} and not a pointer: a value is missing"));
    }
    let (mut arguments, mut declarations) = (Vec::new(), Vec::new());
    for (i, (kind, name)) in pointers.iter().enumerate() {
        match launch.null.contains(&i) {
            true => arguments.push(json!({"parameter": name, "type": kind, "value": 0})),
            false => declarations.push(json!({"parameter": name, "type": "pointer"})),
        }
    }
    for ((kind, name), value) in numbers.iter().zip(&launch.values) {
        arguments.push(json!({"parameter": name, "type": kind, "value": value}));
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
fn verify(toolkit: &Toolkit, launch: &Launch, text: &str, input: &Value) -> Result<Value> {
    let ptx = files::scratch(&format!("race/{}.ptx", launch.kernel))?;
    let json = ptx.with_extension("json");
    files::write(&ptx, &without_bfi(text))?;
    files::write(&json, &input.to_string())?;
    let mut command = toolkit.python("sentryward");
    command.arg(&ptx).arg("--input").arg(&json);
    command.args(["--timeout", &SECONDS.to_string(), "--memory-limit-mib", &MEMORY.to_string()]);
    let done = command.output().map_err(|source| Error::Start { command: crate::project::shown(&command), source })?;
    let unreadable =
        |_| Error::Unreadable { tool: "sentryward", file: Path::new(&launch.kernel).into(), what: "its report" };
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
        let text = r#"launches = [{ kernel = "add", grid = [2], block = [128], values = [7, 0.5], null = [1] }]"#;
        toml::from_str::<Launches>(text).unwrap().launches.remove(0)
    }

    fn entry(params: &[&str]) -> Entry {
        let params = params.iter().enumerate().map(|(i, t)| ((*t).to_owned(), format!("add_param_{i}"))).collect();
        Entry { name: "add".into(), params, max_threads: Some(128), lines: 0..1 }
    }

    #[test]
    fn numbers_are_the_last_parameters() {
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
        assert!(input(&launch(), &entry(&["u32"])).unwrap_err().contains("2 values for 1"));
        assert!(input(&launch(), &entry(&["u64", "u32", "u32", "f32"])).unwrap_err().contains("not a pointer"));
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
