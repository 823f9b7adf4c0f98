//! The project's own tests of the kernels, one by one, on the simulated driver. Variables of the environment, which nothing but that driver
//! reads, let them do more than they were written for: `PTX_SIM_LAUNCHES` names a file to which it appends what is launched and which lines are
//! reached, `PTX_SIM_REPLACE` one with a kernel that takes the place of another, and `PTX_SIM_LIMIT` is when a launch of that is endless.
use super::files;
use crate::{
    error::{Error, Result},
    project::{cargo, root, shown},
};
use cargo_metadata::Message;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    hash::{DefaultHasher, Hasher},
    io::BufReader,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// The crate whose tests run the kernels.
const TESTED: &str = "paring-cuda";

/// How many times its processor time a test may last.
const PATIENCE: u32 = 20;

/// The simulated driver's file, beside the test programs.
const DRIVER: &str = "libptx_sim_driver.so";

/// Tests that are measured at a time.
const WORKERS: usize = 2;

/// The exit code of a program whose driver cannot load the replacement: no answer of a test.
const NOT_LOADED: i32 = 86;

/// What came of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Passed,
    Failed,
    TimedOut,
    /// The replacement was not run.
    NotLoaded,
}

/// One test of a test program.
#[derive(Clone, Debug)]
pub(super) struct Test {
    program: PathBuf,
    /// The directory of the crate, where cargo runs its tests.
    dir: PathBuf,
    pub name: String,
    pub seconds: f64,
    pub launches: BTreeSet<Recorded>,
    pub reached: BTreeMap<String, Reached>,
}

/// How far a test comes in a kernel.
#[derive(Clone, Debug, Default)]
pub(super) struct Reached {
    /// Lines of the PTX whose instructions some warp came to, from one.
    pub lines: BTreeSet<u32>,
    /// Warp instructions of the longest launch.
    pub instructions: u64,
}

/// What a test did, as it is remembered.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Measured {
    name: String,
    seconds: f64,
    passed: bool,
    /// What the driver wrote, every line once.
    log: BTreeSet<String>,
}

/// One launch, as the driver wrote it down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Recorded {
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    /// The bytes of the parameters.
    pub parameters: Vec<u8>,
}

impl Recorded {
    /// `launch kernel 2,1,1 128,1,1 0 00ff`.
    fn parse(line: &str) -> Option<Recorded> {
        let mut words = line.strip_prefix("launch ")?.split(' ');
        let kernel = words.next()?.to_owned();
        let mut three = || -> Option<[u32; 3]> {
            let numbers: Option<Vec<u32>> = words.next()?.split(',').map(|n| n.parse().ok()).collect();
            numbers?.try_into().ok()
        };
        let (grid, block) = (three()?, three()?);
        let shared = words.next()?.parse().ok()?;
        let hex = words.next().unwrap_or_default();
        let byte = |i: usize| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok();
        let parameters = (0..hex.len() / 2).map(byte).collect::<Option<_>>()?;
        Some(Recorded { kernel, grid, block, shared, parameters })
    }

    pub(super) fn threads(&self) -> u64 {
        self.grid.iter().chain(&self.block).map(|n| u64::from(*n)).product()
    }
}

impl Test {
    /// Takes in what the test did.
    fn learn(&mut self, measured: &Measured) {
        self.seconds = measured.seconds;
        self.launches = measured.log.iter().filter_map(|line| Recorded::parse(line)).collect();
        for line in &measured.log {
            // `covered kernel 1234 17,18,20`.
            let mut words = line.split(' ');
            let (Some("covered"), Some(kernel), Some(executed)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let reached = self.reached.entry(kernel.to_owned()).or_default();
            reached.instructions = reached.instructions.max(executed.parse().unwrap_or(0));
            reached.lines.extend(words.next().unwrap_or_default().split(',').filter_map(|l| l.parse::<u32>().ok()));
        }
    }
}

/// The tests that launch kernels, of programs whose file names contain `programs`, the fastest first, with what they launch; those that take more than `limit` seconds are left out. What a test
/// program did is remembered as long as it stays the same.
///
/// # Errors
/// Those of cargo and of the test programs; [`Error::Read`] and [`Error::Write`] of what is remembered.
pub(super) fn run_all(programs: &str, limit: f64) -> Result<Vec<Test>> {
    let mut tests = list()?;
    tests.retain(|test| test.program.file_name().is_some_and(|name| name.to_string_lossy().contains(programs)));
    let listed = tests.len();
    let mut measured: Vec<Option<Measured>> = vec![None; listed];
    let memories = keep(&mut tests)?;
    for memory in memories.values().filter(|memory| memory.is_file()) {
        let text = fs::read_to_string(memory).map_err(|source| Error::Read { path: memory.clone(), source })?;
        // One that cannot be read is written anew.
        let known: Vec<Measured> = serde_json::from_str(&text).unwrap_or_default();
        for (test, place) in tests.iter().zip(&mut measured).filter(|(test, _)| memories[&test.program] == *memory) {
            *place = known.iter().find(|k| k.name == test.name).cloned();
        }
    }
    // One that was stopped early may be given more time now.
    let is_known = |measured: &Option<Measured>| measured.as_ref().is_some_and(|m| m.passed || limit <= m.seconds);
    let open: Vec<usize> = (0..listed).filter(|i| !is_known(&measured[*i])).collect();
    println!("running {} of {listed} tests as they are", open.len());
    for (place, found) in open.iter().zip(measure_all(&tests, &open, limit)?) {
        measured[*place] = Some(found);
    }
    for (program, memory) in &memories {
        let own = tests.iter().zip(&measured).filter(|(test, _)| test.program == *program);
        let own: Vec<&Measured> = own.filter_map(|(_, measured)| measured.as_ref()).collect();
        files::write(memory, &serde_json::to_string(&own).unwrap_or_default())?;
    }
    for (test, measured) in tests.iter_mut().zip(measured.iter().flatten()) {
        match (measured.passed, measured.seconds < limit) {
            (true, true) => test.learn(measured),
            (false, true) => println!("{} fails as it is and is left out", test.name),
            (_, false) => println!("{} takes long and is left out", test.name),
        }
    }
    tests.retain(|test| !test.launches.is_empty());
    tests.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    println!("{} of {listed} tests launch kernels", tests.len());
    Ok(tests)
}

/// Copies each test program, with the driver that it looks for beside itself, to where no later build touches it. Returns for each copy the file
/// that remembers what its tests did; both are named after what is in the program and in the driver.
fn keep(tests: &mut [Test]) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let mut copies: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let mut memories = BTreeMap::new();
    for test in tests {
        if let Some(copy) = copies.get(&test.program) {
            test.program = copy.clone();
            continue;
        }
        let files = [test.program.clone(), test.program.with_file_name(DRIVER)];
        let mut hasher = DefaultHasher::new();
        for path in files.iter().filter(|path| path.is_file()) {
            hasher.write(&fs::read(path).map_err(|source| Error::Read { path: path.clone(), source })?);
        }
        let number = format!("{:016x}", hasher.finish());
        let mut copy = PathBuf::new();
        for path in files.iter().rev().filter(|path| path.is_file()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            copy = files::scratch(&format!("programs/{number}/{name}"))?;
            if !copy.is_file() {
                fs::copy(path, &copy).map_err(|source| Error::Write { path: copy.clone(), source })?;
            }
        }
        memories.insert(copy.clone(), files::scratch(&format!("measured/{number}.json"))?);
        copies.insert(std::mem::replace(&mut test.program, copy.clone()), copy);
    }
    Ok(memories)
}

/// Runs the tests at `places`.
fn measure_all(tests: &[Test], places: &[usize], limit: f64) -> Result<Vec<Measured>> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let scratch = (0..WORKERS).map(|worker| files::scratch(&format!("launches.{}.{worker}.txt", std::process::id())));
    let scratch = scratch.collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        for file in &scratch {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(place) = places.get(i) else { break };
                    let measured = measure(&tests[*place], file, limit);
                    found.lock().unwrap_or_else(PoisonError::into_inner).push((i, measured));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(i, _)| *i);
    found.into_iter().map(|(_, measured)| measured).collect()
}

/// Builds the test programs of [`TESTED`] and lists their tests.
fn list() -> Result<Vec<Test>> {
    let mut command = cargo();
    command.args(["test", "--package", TESTED, "--tests", "--no-run", "--message-format", "json-render-diagnostics"]);
    command.current_dir(root());
    let start = |source| Error::Start { command: "cargo test".into(), source };
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(start)?;
    let mut programs: Vec<(PathBuf, PathBuf)> = Vec::new();
    for message in child.stdout.take().map(|out| Message::parse_stream(BufReader::new(out))).into_iter().flatten() {
        if let Message::CompilerArtifact(artifact) = message.map_err(start)? {
            let dir = artifact.manifest_path.parent().map(PathBuf::from).unwrap_or_default();
            programs.extend(artifact.executable.filter(|_| artifact.profile.test).map(|program| (program.into(), dir)));
        }
    }
    let status = child.wait().map_err(start)?;
    if !status.success() {
        return Err(Error::Failed { command: shown(&command), code: status.code() });
    }
    let mut tests = Vec::new();
    for (program, dir) in programs {
        let (list, _) = files::output(Command::new(&program).args(["--list", "--format", "terse"]))?;
        let names = list.lines().filter_map(|l| l.strip_suffix(": test"));
        tests.extend(names.map(|name| Test {
            program: program.clone(),
            dir: dir.clone(),
            name: name.into(),
            seconds: 0.0,
            launches: BTreeSet::new(),
            reached: BTreeMap::new(),
        }));
    }
    Ok(tests)
}

/// Runs a test as it is: how long it takes, and what it launches.
fn measure(test: &Test, launches: &Path, limit: f64) -> Result<Measured> {
    // The driver appends.
    files::write(launches, "")?;
    let limit = Duration::from_secs_f64(limit);
    let (answer, seconds) = ask(test, &[("PTX_SIM_LAUNCHES", launches.as_os_str())], limit);
    let text = fs::read_to_string(launches).map_err(|source| Error::Read { path: launches.into(), source })?;
    let log = text.lines().map(str::to_owned).collect();
    Ok(Measured { name: test.name.clone(), seconds, passed: answer == Answer::Passed, log })
}

/// Runs one test, for at most `limit` of processor time. Returns also how long it ran.
pub(super) fn ask(test: &Test, variables: &[(&str, &OsStr)], limit: Duration) -> (Answer, f64) {
    let mut command = Command::new(&test.program);
    command.args(["--exact", &test.name, "--test-threads", "1"]).envs(variables.iter().copied());
    command.current_dir(&test.dir);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = quiet.spawn() else { return (Answer::Failed, 0.0) };
    let (start, mut used) = (Instant::now(), Duration::ZERO);
    let answer = loop {
        // Whoever waits, or shares the processors with many, does not use any.
        let is_late = limit < used || PATIENCE * limit < start.elapsed();
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break Answer::Passed,
            Ok(Some(status)) if status.code() == Some(NOT_LOADED) => break Answer::NotLoaded,
            Ok(Some(_)) => break Answer::Failed,
            Ok(None) if !is_late => {
                used = processor_time(child.id()).unwrap_or_else(|| start.elapsed());
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => {
                // It may have ended just now; either way it is gone.
                let _ = child.kill();
                let _ = child.wait();
                break Answer::TimedOut;
            }
        }
    };
    (answer, used.as_secs_f64())
}

/// The processor time of a running program, from `/proc/PID/stat`; `None` where there is none.
fn processor_time(id: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold spaces; the 14th and 15th field are times in hundredths of a second.
    let rest = stat.rsplit_once(") ")?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks(14)? + ticks(15)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_are_read() {
        let read = Recorded::parse("launch add_f32 2,1,1 128,2,1 64 00ff07").unwrap();
        assert_eq!((read.kernel.as_str(), read.shared, read.threads()), ("add_f32", 64, 512));
        assert_eq!((read.grid, read.block), ([2, 1, 1], [128, 2, 1]));
        assert_eq!(read.parameters, [0, 255, 7]);
        assert!(Recorded::parse("launch add_f32 1,1,1 1,1,1 0 ").unwrap().parameters.is_empty());
        for line in [
            "",
            "launch add_f32",
            "launch add_f32 1,1 1,1,1 0 00",
            "launch add_f32 1,1,1 1,1,1 0 zz",
            "covered add_f32 9 1",
        ] {
            assert_eq!(Recorded::parse(line), None, "{line}");
        }
    }

    #[test]
    fn what_a_test_reached_is_read() {
        let mut test = test("a");
        let log = ["covered add 5 1,2", "covered add 7 9", "covered other 1 ", "launch add 1,1,1 32,1,1 0 "];
        let log = log.map(str::to_owned).into();
        test.learn(&Measured { name: "a".into(), seconds: 2.0, passed: true, log });
        let add = &test.reached["add"];
        assert_eq!((add.lines.clone(), add.instructions, test.launches.len()), ([1, 2, 9].into(), 7, 1));
        assert!(test.reached["other"].lines.is_empty());
    }

    fn test(program: &str) -> Test {
        Test {
            program: program.into(),
            dir: root().into(),
            name: "a".into(),
            seconds: 0.0,
            launches: BTreeSet::new(),
            reached: BTreeMap::new(),
        }
    }

    #[test]
    fn a_test_that_hangs_is_stopped() {
        // `sleep --exact ...` and `false` stand for test programs.
        let dir = root().join("target/kernels");
        std::fs::create_dir_all(&dir).unwrap();
        let script = dir.join("hangs.sh");
        std::fs::write(&script, "#!/bin/sh\nsleep 60\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(ask(&test(&script.to_string_lossy()), &[], Duration::from_millis(50)).0, Answer::TimedOut);
        assert_eq!(ask(&test("false"), &[], Duration::from_secs(10)).0, Answer::Failed);
        assert!(processor_time(std::process::id()).is_some_and(|used| used < Duration::from_secs(3600)));
    }
}
