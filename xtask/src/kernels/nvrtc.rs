//! NVRTC, NVIDIA's run-time compiler, as a function from CUDA C++ to PTX. The library is opened at run time, because it comes with a Python
//! wheel that a build of this project does not need. This file is the only one of xtask that calls foreign functions.
#![allow(unsafe_code, reason = "foreign functions; the header of NVRTC says what they ask for")]
use libloading::Library;
use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    path::Path,
    ptr,
};

/// `nvrtcProgram`.
type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type SizeOf = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type ErrorString = unsafe extern "C" fn(c_int) -> *const c_char;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// The opened library.
pub(super) struct Nvrtc {
    create: Create,
    compile: Compile,
    destroy: Destroy,
    ptx_size: SizeOf,
    ptx: Get,
    log_size: SizeOf,
    log: Get,
    error_string: ErrorString,
    version: Version,
    /// Last, so that the functions above never outlive their code.
    _library: Library,
}

impl Nvrtc {
    /// Opens the library at `path`.
    ///
    /// # Errors
    /// Why the loader refused it, or the function that it lacks.
    pub(super) fn open(path: &Path) -> Result<Nvrtc, String> {
        // SAFETY: the initialisers of NVIDIA's library have no preconditions.
        let library = unsafe { Library::new(path) }.map_err(|e| e.to_string())?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the types above are those of nvrtc.h of release 12.
                *unsafe { library.get($name) }.map_err(|e| e.to_string())?
            };
        }
        Ok(Nvrtc {
            create: function!(b"nvrtcCreateProgram\0"),
            compile: function!(b"nvrtcCompileProgram\0"),
            destroy: function!(b"nvrtcDestroyProgram\0"),
            ptx_size: function!(b"nvrtcGetPTXSize\0"),
            ptx: function!(b"nvrtcGetPTX\0"),
            log_size: function!(b"nvrtcGetProgramLogSize\0"),
            log: function!(b"nvrtcGetProgramLog\0"),
            error_string: function!(b"nvrtcGetErrorString\0"),
            version: function!(b"nvrtcVersion\0"),
            _library: library,
        })
    }

    /// Major and minor number of the release.
    pub(super) fn version(&self) -> (i32, i32) {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two valid pointers to integers. A failure leaves the zeros, which are no release.
        unsafe { (self.version)(&mut major, &mut minor) };
        (major, minor)
    }

    /// Compiles `source`, which messages call `name`, to PTX.
    ///
    /// # Errors
    /// The compiler's messages.
    pub(super) fn compile(&self, name: &str, source: &str, options: &[String]) -> Result<String, String> {
        let c_string = |s: &str| CString::new(s).map_err(|e| format!("{name}: {e}"));
        let (c_name, c_source) = (c_string(name)?, c_string(source)?);
        let options = options.iter().map(|o| c_string(o)).collect::<Result<Vec<_>, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let n_options = c_int::try_from(options.len()).map_err(|e| e.to_string())?;
        let mut program: Program = ptr::null_mut();
        // SAFETY: strings end with a zero and live until the end of this function; no headers are handed over.
        let code =
            unsafe { (self.create)(&mut program, c_source.as_ptr(), c_name.as_ptr(), 0, ptr::null(), ptr::null()) };
        if code != 0 {
            return Err(self.message(code));
        }
        // SAFETY: `program` was created above; `options` has `n_options` strings.
        let code = unsafe { (self.compile)(program, n_options, options.as_ptr()) };
        let done = match code {
            0 => self.text(program, self.ptx_size, self.ptx),
            code => {
                let log = self.text(program, self.log_size, self.log).unwrap_or_default();
                Err(format!("{}\n{}", self.message(code), log.trim_end()))
            }
        };
        // SAFETY: created above and not used afterwards.
        unsafe { (self.destroy)(&mut program) };
        done
    }

    /// A text that the library copies out in two calls: its size with the final zero, then its bytes.
    fn text(&self, program: Program, size_of: SizeOf, get: Get) -> Result<String, String> {
        let mut n_bytes = 0;
        // SAFETY: a live program and a valid pointer.
        match unsafe { size_of(program, &mut n_bytes) } {
            0 => {}
            code => return Err(self.message(code)),
        }
        let mut bytes = vec![0_u8; n_bytes];
        // SAFETY: `bytes` has the size that the library asked for.
        match unsafe { get(program, bytes.as_mut_ptr().cast()) } {
            0 => {}
            code => return Err(self.message(code)),
        }
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        String::from_utf8(bytes).map_err(|e| e.to_string())
    }

    fn message(&self, code: c_int) -> String {
        // SAFETY: NVRTC returns a static string for every code.
        let text = unsafe { CStr::from_ptr((self.error_string)(code)) };
        text.to_string_lossy().into_owned()
    }
}
