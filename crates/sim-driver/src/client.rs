//! The test's side: brings the shared library into the process, before cudarc looks for a driver, and speaks to it.
#![allow(unsafe_code, reason = "opening a library, and calling what is found in it by name")]
use crate::{
    config::{Config, MOST_DEVICES},
    report::Report,
};
use std::{
    env,
    ffi::{CStr, CString, c_char, c_int, c_void},
    fmt,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *mut c_char;
}

const RTLD_NOW: c_int = 2;

/// The shared library's file.
const FILE: &str = "libptx_sim_driver.so";

/// Why there is no simulated driver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The library lies at none of the places beside the program.
    NotFound(Vec<PathBuf>),
    /// The loader refused it.
    Open(String),
    /// It is not this crate's.
    NoSymbol(&'static str),
    /// It answered a call with this `CUresult`.
    Call(&'static str, i32),
    /// More devices were asked for than there can be.
    TooMany,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound(places) => {
                write!(f, "{FILE} is at none of {places:?}; build the package paring-sim-driver")
            }
            Error::Open(why) => write!(f, "the simulated driver cannot be opened: {why}"),
            Error::NoSymbol(name) => write!(f, "the library that was opened has no {name}"),
            Error::Call(name, status) => write!(f, "{name} answered {status}"),
            Error::TooMany => write!(f, "expected at most {MOST_DEVICES} simulated devices"),
        }
    }
}

impl std::error::Error for Error {}

type SetDevices = extern "C" fn(u32) -> c_int;
type Configure = extern "C" fn(u32, *const c_char) -> c_int;
type ReportSize = extern "C" fn(u32, *mut usize) -> c_int;
type TakeReport = extern "C" fn(u32, *mut c_char, usize) -> c_int;

/// The simulated driver in this process.
#[derive(Debug)]
pub struct SimDriver {
    path: PathBuf,
    set_devices: SetDevices,
    configure: Configure,
    report_size: ReportSize,
    take_report: TakeReport,
    leased: AtomicU32,
}

fn check(name: &'static str, status: c_int) -> Result<(), Error> {
    match status {
        0 => Ok(()),
        status => Err(Error::Call(name, status)),
    }
}

/// Where the library is: beside the running test (`target/<profile>/deps`), or above it.
///
/// # Errors
/// [`Error::NotFound`] with the places that were tried.
pub fn library_path() -> Result<PathBuf, Error> {
    let program = env::current_exe().unwrap_or_default();
    let folders = program.ancestors().skip(1).take(2);
    let places: Vec<PathBuf> = folders.flat_map(|f| [f.join(FILE), f.join("deps").join(FILE)]).collect();
    match places.iter().find(|p| p.is_file()) {
        Some(found) => Ok(found.clone()),
        None => Err(Error::NotFound(places)),
    }
}

impl SimDriver {
    /// Opens the library once, by its path; from then on `dlopen("libcuda.so")` finds it by its name. Call it before anything else looks
    /// for a CUDA driver.
    ///
    /// # Errors
    /// [`Error`] when the library is not there, or another one.
    pub fn load() -> Result<&'static SimDriver, Error> {
        static LOADED: OnceLock<Result<SimDriver, Error>> = OnceLock::new();
        LOADED.get_or_init(|| SimDriver::open(&library_path()?)).as_ref().map_err(Clone::clone)
    }

    fn open(path: &Path) -> Result<SimDriver, Error> {
        let c_path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| Error::Open(e.to_string()))?;
        // SAFETY: a path with its zero byte. The library's initialisers are those of Rust's standard library; it is never closed.
        let library = unsafe { dlopen(c_path.as_ptr(), RTLD_NOW) };
        if library.is_null() {
            // SAFETY: after a failed `dlopen` on this thread: a text that is valid until the next call of the loader.
            let why = unsafe { CStr::from_ptr(dlerror()) };
            return Err(Error::Open(why.to_string_lossy().into_owned()));
        }
        let symbol = |name: &'static CStr| {
            // SAFETY: the library is open, the name ends in a zero byte.
            let found = unsafe { dlsym(library, name.as_ptr()) };
            match found.is_null() {
                true => Err(Error::NoSymbol(name.to_str().unwrap_or_default())),
                false => Ok(found),
            }
        };
        let (devices, configure) = (symbol(c"ptx_sim_set_devices")?, symbol(c"ptx_sim_configure")?);
        let (size, report) = (symbol(c"ptx_sim_report_size")?, symbol(c"ptx_sim_take_report")?);
        // SAFETY: the functions of these names in `api::control` have these types; `Status` is a C int.
        let (set_devices, configure) = unsafe {
            (
                std::mem::transmute::<*mut c_void, SetDevices>(devices),
                std::mem::transmute::<*mut c_void, Configure>(configure),
            )
        };
        // SAFETY: as above.
        let (report_size, take_report) = unsafe {
            (
                std::mem::transmute::<*mut c_void, ReportSize>(size),
                std::mem::transmute::<*mut c_void, TakeReport>(report),
            )
        };
        Ok(SimDriver { path: path.into(), set_devices, configure, report_size, take_report, leased: AtomicU32::new(0) })
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A device that nobody else in this process uses, so that tests run side by side and one that fails leaves the others alone.
    ///
    /// # Errors
    /// [`Error::TooMany`] when the process has used up its devices.
    pub fn device(&self, config: &Config) -> Result<usize, Error> {
        let ordinal = self.leased.fetch_add(1, Ordering::Relaxed);
        if ordinal as usize >= MOST_DEVICES {
            return Err(Error::TooMany);
        }
        self.set_devices(MOST_DEVICES)?;
        self.configure(ordinal as usize, config)?;
        Ok(ordinal as usize)
    }

    /// How many devices programs see; 1 at first.
    ///
    /// # Errors
    /// [`Error::Call`] for more than [`MOST_DEVICES`].
    pub fn set_devices(&self, count: usize) -> Result<(), Error> {
        check("ptx_sim_set_devices", (self.set_devices)(u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// Sets a device's configuration; work that is queued there runs under the new one.
    ///
    /// # Errors
    /// [`Error::Call`] for a device that there is not.
    pub fn configure(&self, device: usize, config: &Config) -> Result<(), Error> {
        let text = CString::new(config.to_text()).map_err(|e| Error::Open(e.to_string()))?;
        check("ptx_sim_configure", (self.configure)(device as u32, text.as_ptr()))
    }

    /// What happened on a device since this was last asked. Work that is queued has not happened.
    ///
    /// # Errors
    /// [`Error::Call`] for a device that there is not.
    pub fn take_report(&self, device: usize) -> Result<Report, Error> {
        let mut size = 0;
        check("ptx_sim_report_size", (self.report_size)(device as u32, &mut size))?;
        // Somebody may be running work on the device: a little more than it was.
        let mut buffer = vec![0_u8; size + 4096];
        check("ptx_sim_take_report", (self.take_report)(device as u32, buffer.as_mut_ptr().cast(), buffer.len()))?;
        let text = CStr::from_bytes_until_nul(&buffer).map_err(|e| Error::Open(e.to_string()))?;
        Report::from_text(&text.to_string_lossy()).ok_or(Error::NoSymbol("a report"))
    }
}

/// A device for a test.
#[derive(Clone, Copy, Debug)]
pub struct TestDevice {
    /// Its number, as `cuda:N`.
    pub ordinal: usize,
    /// The driver that simulates it; `None` where a real one was asked for.
    pub simulated: Option<&'static SimDriver>,
}

/// A simulated device of its own, or device 0 of the real driver where `PARING_REQUIRE_CUDA=1` asks for one.
///
/// # Errors
/// [`Error`] when there is no simulated driver.
pub fn device_for_tests(config: &Config) -> Result<TestDevice, Error> {
    if env::var_os("PARING_REQUIRE_CUDA").is_some_and(|v| v == "1") {
        return Ok(TestDevice { ordinal: 0, simulated: None });
    }
    let driver = SimDriver::load()?;
    Ok(TestDevice { ordinal: driver.device(config)?, simulated: Some(driver) })
}
