//! What `cargo xtask kernels` asks of this driver while the project's own tests run in it, unchanged: which kernels they launch and how, which
//! instructions they come to, and what they say when one instruction of a kernel is wrong. Nothing else reads these variables of the
//! environment, and without them nothing here does anything.
use paring_ptx_sim::{Kernel, Launch, Memory, Module, Options, Report};
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process,
    sync::{Mutex, OnceLock, PoisonError},
};

/// Names a file that launches are appended to: `launch kernel 2,1,1 128,1,1 0 00ff`, which is grid, block, dynamic shared memory and the bytes
/// of the parameters; and, where one came further than those before it, `covered kernel 1234 17,18,20`: warp instructions and lines of the PTX.
const LAUNCHES: &str = "PTX_SIM_LAUNCHES";

/// Names a file of PTX whose kernel takes the place of the one with its name.
const REPLACE: &str = "PTX_SIM_REPLACE";

/// After how many warp instructions a launch of the replaced kernel counts as endless.
const LIMIT: &str = "PTX_SIM_LIMIT";

/// How a process ends whose replacement cannot be loaded: that is no answer of a test.
const NOT_LOADED: i32 = 86;

/// The kernel that takes another's place.
fn substitute() -> Option<&'static Kernel> {
    static SUBSTITUTE: OnceLock<Option<Module>> = OnceLock::new();
    let module = SUBSTITUTE.get_or_init(|| {
        let path = env::var_os(REPLACE)?;
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| stop(&e.to_string()));
        Some(Module::parse(&text).unwrap_or_else(|e| stop(&e.to_string())))
    });
    module.as_ref()?.kernels().first()
}

fn stop(why: &str) -> ! {
    eprintln!("{REPLACE}: {why}");
    process::exit(NOT_LOADED)
}

/// `module`, with the kernel that `cargo xtask kernels --mutate` puts into it: for tests that run kernels without the driver.
pub fn replacement(mut module: Module) -> Module {
    if let Some(kernel) = substitute() {
        module.replace(kernel);
    }
    module
}

/// Runs a kernel as [`paring_ptx_sim::run`] does, and writes it down if `cargo xtask kernels` asks for that.
pub fn run(kernel: &Kernel, launch: &Launch, memory: &mut Memory, options: &Options) -> Report {
    let mut options = *options;
    if substitute().is_some_and(|other| other.name() == kernel.name())
        && let Some(limit) = env::var(LIMIT).ok().and_then(|limit| limit.parse().ok())
    {
        options.max_instructions = options.max_instructions.min(limit);
    }
    let report = paring_ptx_sim::run(kernel, launch, memory, &options);
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    if let Some(path) = FILE.get_or_init(|| env::var_os(LAUNCHES).map(PathBuf::from)) {
        append(path, &line(kernel.name(), launch));
        static SEEN: Mutex<Seen> = Mutex::new(BTreeMap::new());
        let seen = &mut SEEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = news(seen, kernel.name(), &report) {
            append(path, &line);
        }
    }
    report
}

/// One write a line, so that lines of several threads stay whole. A line that is lost is a launch less, and no more.
fn append(path: &Path, line: &str) {
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(line.as_bytes());
    }
}

fn line(kernel: &str, launch: &Launch) -> String {
    let three = |d: [u32; 3]| format!("{},{},{}", d[0], d[1], d[2]);
    let mut line = format!("launch {kernel} {} {} {} ", three(launch.grid), three(launch.block), launch.dynamic_shared);
    for byte in &launch.params {
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    line
}

/// Of each kernel the lines that were reached, and the most warp instructions of a launch.
type Seen = BTreeMap<String, (BTreeSet<u32>, u64)>;

/// What a launch adds to `seen`, as a line.
fn news(seen: &mut Seen, kernel: &str, report: &Report) -> Option<String> {
    let (lines, most) = seen.entry(kernel.to_owned()).or_default();
    let executed = report.counters.warp_instructions;
    let new: Vec<String> = report.covered.iter().filter(|l| lines.insert(**l)).map(ToString::to_string).collect();
    let is_longer = *most < executed;
    *most = executed.max(*most);
    (is_longer || !new.is_empty()).then(|| format!("covered {kernel} {executed} {}\n", new.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_a_line() {
        let launch = Launch { grid: [2, 1, 1], block: [64, 2, 1], dynamic_shared: 16, params: vec![0, 255, 7] };
        assert_eq!(line("add_f32", &launch), "launch add_f32 2,1,1 64,2,1 16 00ff07\n");
    }

    #[test]
    fn only_what_is_new_is_written() {
        let mut seen = Seen::new();
        let mut news = |executed, covered: &[u32]| {
            let mut report = Report { covered: covered.to_vec(), ..Report::default() };
            report.counters.warp_instructions = executed;
            news(&mut seen, "add", &report)
        };
        assert_eq!(news(5, &[1, 2]).as_deref(), Some("covered add 5 1,2\n"));
        assert_eq!(news(4, &[2]), None);
        assert_eq!(news(4, &[2, 3]).as_deref(), Some("covered add 4 3\n"));
        assert_eq!(news(6, &[2]).as_deref(), Some("covered add 6 \n"));
    }
}
