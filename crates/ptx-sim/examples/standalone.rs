//! Parses a PTX file, lists its kernels, and runs those without parameters:
//! `cargo run -p paring-ptx-sim --example standalone -- FILE.ptx`

use paring_ptx_sim::{Launch, Memory, Module, Options, run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: standalone FILE.ptx")?;
    let module = Module::parse(&std::fs::read_to_string(&path)?)?;
    for kernel in module.kernels() {
        println!(
            "{}: {} instructions, {} bytes of shared memory",
            kernel.name(),
            kernel.instruction_count(),
            kernel.static_shared()
        );
        for p in kernel.params() {
            println!("  {} {:?} at {}", p.name, p.ty, p.offset);
        }
        if kernel.params().is_empty() {
            let threads = kernel.max_threads().unwrap_or(32);
            let launch = Launch { grid: [1, 1, 1], block: [threads, 1, 1], ..Launch::default() };
            let report = run(kernel, &launch, &mut Memory::new(), &Options::default());
            println!("  ran {} warp instructions", report.counters.warp_instructions);
            report.findings.iter().for_each(|f| println!("  {f}"));
        }
    }
    Ok(())
}
