//! Gives the shared library the name under which CUDA programs look for the driver. The loader then hands it to whoever asks for
//! `libcuda.so` once it is in the process, without any search path.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
}
