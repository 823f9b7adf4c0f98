//! `ptxas`, NVIDIA's assembler: PTX to machine code, and what a kernel takes of a multiprocessor.
use super::{Measured, Toolkit, files};
use crate::error::{Error, Result};
use std::path::Path;

/// Resources of one kernel, from `ptxas -v`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resources {
    /// 32-bit registers a thread.
    pub registers: u32,
    /// Bytes of registers written to and read from local memory, and of local arrays.
    pub spill_stores: u32,
    pub spill_loads: u32,
    pub stack: u32,
    /// Bytes of shared memory that the source declares with a size; what a launch adds is not in it.
    pub shared: u32,
}

/// Assembles `ptx` for `arch` into `cubin`, and says what ptxas said of each kernel.
///
/// # Errors
/// [`Error::Failed`] when ptxas refuses it, [`Error::Start`], [`Error::Unreadable`].
pub(super) fn assemble(toolkit: &Toolkit, ptx: &Path, arch: u32, cubin: &Path) -> Result<Vec<(String, Resources)>> {
    let mut command = std::process::Command::new(&toolkit.ptxas);
    command.arg("-v").arg(format!("-arch=sm_{arch}")).arg(ptx).arg("-o").arg(cubin);
    let (_, messages) = files::output(&mut command)?;
    parse(&messages).ok_or_else(|| Error::Unreadable { tool: "ptxas", file: ptx.into(), what: "what `-v` printed" })
}

/// The machine code of `ptx` for sm_80, or `None` when ptxas refuses it.
///
/// # Errors
/// [`Error::Start`], [`Error::Read`].
pub(super) fn cubin(toolkit: &Toolkit, ptx: &Path) -> Result<Option<Vec<u8>>> {
    let cubin = ptx.with_extension("cubin");
    let mut command = std::process::Command::new(&toolkit.ptxas);
    command.arg("-arch=sm_80").arg(ptx).arg("-o").arg(&cubin);
    let done = command.output().map_err(|source| Error::Start { command: crate::project::shown(&command), source })?;
    let read = || std::fs::read(&cubin).map_err(|source| Error::Read { path: cubin.clone(), source });
    done.status.success().then(read).transpose()
}

/// What `ptxas -v` printed, kernel by kernel. `None` for a form that is not known: better no figures than wrong ones.
fn parse(messages: &str) -> Option<Vec<(String, Resources)>> {
    let mut kernels: Vec<(String, Resources)> = Vec::new();
    for line in messages.lines() {
        let words: Vec<&str> = line.split([' ', ',']).filter(|w| !w.is_empty()).collect();
        let before = |word: &str| number_before(&words, &[word]);
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            kernels.push((rest.split('\'').next()?.to_owned(), Resources::default()));
        } else if line.contains("bytes stack frame") {
            let (_, kernel) = kernels.last_mut()?;
            kernel.stack = number_before(&words, &["bytes", "stack"])?;
            kernel.spill_stores = number_before(&words, &["bytes", "spill", "stores"])?;
            kernel.spill_loads = number_before(&words, &["bytes", "spill", "loads"])?;
        } else if line.contains(": Used ") {
            let (_, kernel) = kernels.last_mut()?;
            kernel.registers = before("registers")?;
            // The field is left out when it is zero.
            kernel.shared = number_before(&words, &["bytes", "smem"]).unwrap_or(0);
        }
    }
    (!kernels.is_empty() && kernels.iter().all(|(_, k)| 0 < k.registers)).then_some(kernels)
}

/// The number before a sequence of words.
fn number_before(words: &[&str], sequence: &[&str]) -> Option<u32> {
    let at = words.windows(sequence.len()).position(|w| w == sequence)?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

/// Assembles `ptx` for `arch`, disassembles the result, and joins what both say of each kernel.
///
/// # Errors
/// Those of [`assemble`] and of nvdisasm.
pub(super) fn measure(toolkit: &Toolkit, ptx: &Path, arch: u32) -> Result<Vec<Measured>> {
    let stem = ptx.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let cubin = files::scratch(&format!("{stem}.sm_{arch}.cubin"))?;
    let resources = assemble(toolkit, ptx, arch, &cubin)?;
    let mut command = std::process::Command::new(&toolkit.nvdisasm);
    command.arg("-c").arg(&cubin);
    let (sass, _) = files::output(&mut command)?;
    let mixes = super::sass::parse(&sass);
    let unreadable = || Error::Unreadable { tool: "nvdisasm", file: ptx.into(), what: "the code of a kernel" };
    let join = |(kernel, resources): (String, Resources)| {
        let (_, function) = mixes.iter().find(|(name, _)| *name == kernel).ok_or_else(unreadable)?;
        Ok(Measured { kernel, file: stem.clone(), arch, resources, mix: function.mix() })
    };
    resources.into_iter().map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a_f32' for 'sm_80'
ptxas info    : Function properties for a_f32
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers, 428 bytes cmem[0]
ptxas info    : Compiling entry function 'b_bf16' for 'sm_80'
ptxas info    : Function properties for b_bf16
    48 bytes stack frame, 44 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 128 bytes smem, 392 bytes cmem[0]
";

    #[test]
    fn every_kernel_has_its_resources() {
        let a = Resources { registers: 18, ..Resources::default() };
        let b = Resources { registers: 255, spill_stores: 44, spill_loads: 40, stack: 48, shared: 128 };
        assert_eq!(parse(MESSAGES).unwrap(), [("a_f32".into(), a), ("b_bf16".into(), b)]);
    }

    #[test]
    fn an_unknown_form_gives_no_figures() {
        assert_eq!(parse(""), None);
        assert_eq!(parse(&MESSAGES.replace("Used 18", "Takes 18")), None);
        assert_eq!(parse(&MESSAGES.replace("spill stores", "stores")), None);
    }
}
