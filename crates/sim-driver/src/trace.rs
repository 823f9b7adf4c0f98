//! What `cargo xtask kernels` asks of this driver while the project's own tests run in it, unchanged: which kernels they launch and how, and
//! what they say when one instruction of a kernel is wrong. Nothing else reads these two variables of the environment, and without them
//! nothing here does anything.
use paring_ptx_sim::{Launch, Module};
use std::{env, fmt::Write as _, fs::OpenOptions, io::Write as _, process, sync::OnceLock};

/// Names a file that every launch is appended to: `kernel 2,1,1 128,1,1 0 00ff`, which is grid, block, dynamic shared memory and the bytes of
/// the parameters.
const LAUNCHES: &str = "PTX_SIM_LAUNCHES";

/// Names a file of PTX that is loaded in place of a module with the same kernels.
const REPLACE: &str = "PTX_SIM_REPLACE";

/// How a process ends whose replacement cannot be loaded: that is no answer of a test.
const NOT_LOADED: i32 = 86;

/// `module`, or what `cargo xtask kernels --mutate` puts in its place: for tests that run kernels without the driver.
pub fn replacement(module: Module) -> Module {
    static REPLACEMENT: OnceLock<Option<String>> = OnceLock::new();
    let text = REPLACEMENT.get_or_init(|| {
        let path = env::var_os(REPLACE)?;
        std::fs::read_to_string(path).map_err(|e| stop(&e.to_string())).ok()
    });
    let Some(text) = text else { return module };
    // Files without any of its kernels are not even parsed.
    if !module.kernels().iter().all(|k| text.contains(k.name())) {
        return module;
    }
    let other = Module::parse(text).unwrap_or_else(|e| stop(&e.to_string()));
    let names = |m: &Module| m.kernels().iter().map(|k| k.name().to_owned()).collect::<Vec<_>>();
    if names(&module) == names(&other) { other } else { module }
}

fn stop(why: &str) -> ! {
    eprintln!("{REPLACE}: {why}");
    process::exit(NOT_LOADED)
}

/// Writes a launch down, if `cargo xtask kernels` asks for that.
pub fn record_launch(kernel: &str, launch: &Launch) {
    let Some(path) = env::var_os(LAUNCHES) else { return };
    // One write a line, so that lines of several threads stay whole. A line that is lost is a launch less, and no more.
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(line(kernel, launch).as_bytes());
    }
}

fn line(kernel: &str, launch: &Launch) -> String {
    let three = |d: [u32; 3]| format!("{},{},{}", d[0], d[1], d[2]);
    let mut line = format!("{kernel} {} {} {} ", three(launch.grid), three(launch.block), launch.dynamic_shared);
    for byte in &launch.params {
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_a_line() {
        let launch = Launch { grid: [2, 1, 1], block: [64, 2, 1], dynamic_shared: 16, params: vec![0, 255, 7] };
        assert_eq!(line("add_f32", &launch), "add_f32 2,1,1 64,2,1 16 00ff07\n");
    }
}
