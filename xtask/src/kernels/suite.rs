//! The project's own tests of the kernels, one by one, on the simulated driver. Two variables of the environment, which nothing but that
//! driver reads, let them do more than they were written for: `PTX_SIM_LAUNCHES` names a file to which it appends every launch, and
//! `PTX_SIM_REPLACE` one that it loads in place of the module with the same kernels.
use super::files;
use crate::{
    error::{Error, Result},
    project::{cargo, root, shown},
};
use cargo_metadata::Message;
use std::{
    io::BufReader,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The crate whose tests run the kernels.
const TESTED: &str = "paring-cuda";

/// How long a test may take as it is; whole models are left to the gate.
const LIMIT: Duration = Duration::from_secs(60);

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
    pub launches: Vec<Recorded>,
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
    /// `kernel 2,1,1 128,1,1 0 00ff`.
    fn parse(line: &str) -> Option<Recorded> {
        let mut words = line.split(' ');
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

/// The tests that launch kernels, the fastest first, with what they launch.
///
/// # Errors
/// Those of cargo and of the test programs.
pub(super) fn run_all() -> Result<Vec<Test>> {
    let mut tests = list()?;
    let scratch = files::scratch("launches.txt")?;
    let listed = tests.len();
    println!("running {listed} tests as they are");
    tests.retain_mut(|test| measure(test, &scratch));
    tests.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    println!("{} of {listed} tests launch kernels", tests.len());
    Ok(tests)
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
            launches: vec![],
        }));
    }
    Ok(tests)
}

/// Runs a test as it is: how long it takes, and which kernels it launches. False when it launches none.
fn measure(test: &mut Test, launches: &Path) -> bool {
    // The driver appends.
    if launches.exists() && files::write(launches, "").is_err() {
        return false;
    }
    let start = Instant::now();
    let answer = ask(test, &[("PTX_SIM_LAUNCHES", launches)], LIMIT);
    test.seconds = start.elapsed().as_secs_f64();
    let text = std::fs::read_to_string(launches).unwrap_or_default();
    test.launches = text.lines().filter_map(Recorded::parse).collect();
    test.launches.sort();
    test.launches.dedup();
    match answer {
        Answer::Passed => {}
        Answer::TimedOut => println!("{} takes long and is left out", test.name),
        Answer::Failed | Answer::NotLoaded => println!("{} fails as it is and is left out", test.name),
    }
    answer == Answer::Passed && !test.launches.is_empty()
}

/// Runs one test, for at most `limit`.
pub(super) fn ask(test: &Test, variables: &[(&str, &Path)], limit: Duration) -> Answer {
    let mut command = Command::new(&test.program);
    command.args(["--exact", &test.name, "--test-threads", "1"]).envs(variables.iter().copied());
    command.current_dir(&test.dir);
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = quiet.spawn() else { return Answer::Failed };
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Answer::Passed,
            Ok(Some(status)) if status.code() == Some(NOT_LOADED) => return Answer::NotLoaded,
            Ok(Some(_)) => return Answer::Failed,
            Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                // It may have ended just now; either way it is gone.
                let _ = child.kill();
                let _ = child.wait();
                return Answer::TimedOut;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_are_read() {
        let read = Recorded::parse("add_f32 2,1,1 128,2,1 64 00ff07").unwrap();
        assert_eq!((read.kernel.as_str(), read.shared, read.threads()), ("add_f32", 64, 512));
        assert_eq!((read.grid, read.block), ([2, 1, 1], [128, 2, 1]));
        assert_eq!(read.parameters, [0, 255, 7]);
        assert!(Recorded::parse("add_f32 1,1,1 1,1,1 0 ").unwrap().parameters.is_empty());
        for line in ["", "add_f32", "add_f32 1,1 1,1,1 0 00", "add_f32 1,1,1 1,1,1 0 zz"] {
            assert_eq!(Recorded::parse(line), None, "{line}");
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
        let test = |program: &str| Test {
            program: program.into(),
            dir: root().into(),
            name: "a".into(),
            seconds: 0.0,
            launches: vec![],
        };
        assert_eq!(ask(&test(&script.to_string_lossy()), &[], Duration::from_millis(50)), Answer::TimedOut);
        assert_eq!(ask(&test("false"), &[], Duration::from_secs(10)), Answer::Failed);
    }
}
