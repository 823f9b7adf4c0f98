//! Where NVIDIA's compiler and the race prover are: in the site-packages of a Python, as pinned by `kernels/requirements.txt`. No GPU, driver
//! or CUDA toolkit is asked for.
use super::nvrtc::Nvrtc;
use crate::{
    error::{Error, Result},
    project::{root, run as run_command},
};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// Names the site-packages of another place, as `--wheels` does.
const WHEELS: &str = "PARING_KERNEL_WHEELS";

/// Makes a missing compiler an error where a check would only say that it was skipped; CI sets it.
const REQUIRE: &str = "PARING_REQUIRE_KERNEL_TOOLS";

/// Where `--install` puts the packages. git ignores it.
fn venv() -> PathBuf {
    root().join("target/kernels-venv")
}

/// The pinned programs.
#[derive(Clone, Debug)]
pub(super) struct Toolkit {
    site: PathBuf,
    pub ptxas: PathBuf,
    pub nvdisasm: PathBuf,
}

impl Toolkit {
    /// Looks in `wheels`, else where the environment says, else where `--install` puts them.
    ///
    /// # Errors
    /// [`Error::NoWheels`] when something is not there.
    pub(super) fn find(wheels: Option<&Path>) -> Result<Toolkit> {
        let named = wheels.map(Path::to_owned).or_else(|| std::env::var_os(WHEELS).map(PathBuf::from));
        let site = named.or_else(|| site_packages(&venv())).ok_or_else(|| Error::NoWheels(venv()))?;
        let toolkit = Toolkit {
            ptxas: site.join("nvidia/cuda_nvcc/bin/ptxas"),
            nvdisasm: site.join("nvidia/cu13/bin/nvdisasm"),
            site,
        };
        let needed = [&toolkit.ptxas, &toolkit.nvdisasm, &toolkit.library(), &toolkit.include()];
        match needed.iter().all(|p| p.exists()) {
            true => Ok(toolkit),
            false => Err(Error::NoWheels(toolkit.site)),
        }
    }

    /// The headers of the CUDA runtime.
    pub(super) fn include(&self) -> PathBuf {
        self.site.join("nvidia/cuda_runtime/include")
    }

    fn library(&self) -> PathBuf {
        self.site.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
    }

    /// Opens NVRTC.
    ///
    /// # Errors
    /// [`Error::Compile`] when the loader refuses it.
    pub(super) fn nvrtc(&self) -> Result<Nvrtc> {
        Nvrtc::open(&self.library()).map_err(|log| Error::Compile { file: self.library(), log })
    }

    /// A command that runs a Python module of the wheels.
    pub(super) fn python(&self, module: &str) -> Command {
        // A virtual environment has its own; for another place any Python that reads its packages will do.
        let own = self.site.ancestors().nth(3).map(|p| p.join("bin/python3")).filter(|p| p.exists());
        let mut command = Command::new(own.unwrap_or_else(|| "python3".into()));
        command.args(["-m", module]).env("PYTHONPATH", &self.site);
        command
    }
}

/// `lib/python3.*/site-packages` of a virtual environment.
fn site_packages(venv: &Path) -> Option<PathBuf> {
    let pythons = std::fs::read_dir(venv.join("lib")).ok()?.filter_map(|e| Some(e.ok()?.path().join("site-packages")));
    pythons.filter(|p| p.is_dir()).max()
}

/// Whether a missing compiler is an error.
pub(super) fn is_required() -> bool {
    std::env::var_os(REQUIRE).is_some_and(|v| !v.is_empty() && v != "0")
}

/// Makes the virtual environment and installs the pinned packages; does nothing that is done already.
///
/// # Errors
/// Those of `python3 -m venv` and of pip.
pub(super) fn install() -> Result<()> {
    let venv = venv();
    let python = venv.join("bin/python3");
    if !python.exists() {
        run_command(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    let options = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--only-binary", ":all:"];
    let requirements: [OsString; 2] = ["--requirement".into(), root().join("kernels/requirements.txt").into()];
    run_command(Command::new(python).args(options).args(requirements))?;
    let toolkit = Toolkit::find(Some(&site_packages(&venv).ok_or(Error::NoWheels(venv))?))?;
    let (major, minor) = toolkit.nvrtc()?.version();
    println!("NVRTC {major}.{minor} in {}", toolkit.site.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_without_a_compiler_says_how_to_get_one() {
        let error = Toolkit::find(Some(Path::new("no-such-place"))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no-such-place") && text.contains("--install"), "{text}");
    }
}
