//! `cargo xtask bench --device cuda`: products of this crate beside cuBLAS on the same device in the same run.
//!
//! Written for a machine that has a device, and untested until someone has one: no figure from it is quoted anywhere. cuBLAS gets bf16
//! operands and writes f32; ours gets f32 activations, as the trait has them, and rounds them inside the timed call.
#![allow(unsafe_code, reason = "cuBLAS's mixed-precision product has no safe wrapper; ARCHITECTURE.md names this file")]
use cudarc::{
    cublas::{CudaBlas, result::gemm_ex, sys},
    driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut},
};
use paring_cuda::Cuda;
use paring_ops::Backend;
use paring_tensor::{DType, Shape};
use std::{error::Error, ffi::c_int, process::ExitCode, sync::Arc, time::Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rounds in which the sides take turns, and products of a side's turn.
const ROUNDS: usize = 15;
const REPEATS: u32 = 20;

/// Tokens, inputs, outputs: layers of SmolLM2-135M and of Llama-3.1-8B, in prefill and decoding, and a square.
const SHAPES: [(usize, usize, usize); 9] = [
    (512, 576, 1536),
    (512, 1536, 576),
    (1, 576, 1536),
    (4096, 4096, 4096),
    (2048, 4096, 14_336),
    (2048, 14_336, 4096),
    (512, 4096, 6144),
    (1, 4096, 14_336),
    (8, 4096, 14_336),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let given = args.iter().enumerate().find_map(|(i, a)| match a.strip_prefix("--device=") {
        Some(device) => Some(device.to_string()),
        None => (a == "--device").then(|| args.get(i + 1).cloned()).flatten(),
    });
    let device = given.unwrap_or_else(|| "cuda".into());
    let ordinal = device.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or("0").parse::<usize>());
    let ordinal = ordinal.ok_or(format!("--device {device}: expected cuda or cuda:N"))?;
    let ordinal = ordinal.map_err(|e| format!("--device {device}: {e}"))?;
    let cuda = Cuda::new(ordinal)?;
    // SAFETY: only tries to open libraries.
    if !unsafe { sys::is_culib_present() } {
        return Err("cuBLAS was not found (libcublas.so cannot be opened): it comes with the CUDA toolkit".into());
    }
    let stream = CudaContext::new(ordinal)?.new_stream()?;
    let blas = CudaBlas::new(Arc::clone(&stream))?;
    println!("{}; medians of {ROUNDS} rounds in which the sides take turns\n", cuda.device_name());
    println!("| product (tokens x inputs x outputs) | ours, ms | cuBLAS, ms | cuBLAS / ours |\n|---|---|---|---|");
    for (t, k, n) in SHAPES {
        for dtype in [DType::BF16, DType::F32] {
            let x = cuda.zeros(DType::F32, Shape::new(&[t, k])?)?;
            let w = cuda.zeros(dtype, Shape::new(&[n, k])?)?;
            let mut y = cuda.alloc(DType::F32, Shape::new(&[t, n])?)?;
            let mut peer = Peer::new(&stream, t, k, n, dtype)?;
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..=ROUNDS {
                ours.push(time(|| cuda.linear(&mut y, &x, &w).map_err(Into::into), || Ok(cuda.synchronize()?))?);
                theirs.push(time(|| peer.run(&blas), || Ok(stream.synchronize()?))?);
            }
            // The first round compiles and warms up.
            let (ours, theirs) = (median(&mut ours[1..]), median(&mut theirs[1..]));
            println!("| {dtype} {t} x {k} x {n} | {ours:.4} | {theirs:.4} | {:.2} |", theirs / ours);
        }
    }
    Ok(())
}

/// Milliseconds of one product.
fn time(mut product: impl FnMut() -> Result<()>, wait: impl Fn() -> Result<()>) -> Result<f64> {
    wait()?;
    let start = Instant::now();
    for _ in 0..REPEATS {
        product()?;
    }
    wait()?;
    Ok(start.elapsed().as_secs_f64() * 1e3 / f64::from(REPEATS))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// cuBLAS's operands; bytes, because their types are told by name.
struct Peer {
    x: CudaSlice<u8>,
    w: CudaSlice<u8>,
    y: CudaSlice<u8>,
    /// Tokens, inputs, outputs.
    sizes: [c_int; 3],
    dtype: DType,
    stream: Arc<CudaStream>,
}

impl Peer {
    fn new(stream: &Arc<CudaStream>, t: usize, k: usize, n: usize, dtype: DType) -> Result<Peer> {
        let zeros = |elements: usize| stream.alloc_zeros::<u8>(elements);
        let sizes = [c_int::try_from(t)?, c_int::try_from(k)?, c_int::try_from(n)?];
        let (x, w) = (zeros(dtype.bytes(t * k))?, zeros(dtype.bytes(n * k))?);
        Ok(Peer { x, w, y: zeros(4 * t * n)?, sizes, dtype, stream: Arc::clone(stream) })
    }

    /// `y = x w^T`, row-major: for cuBLAS, which counts columns first, `y^T = w x^T`.
    fn run(&mut self, blas: &CudaBlas) -> Result<()> {
        use sys::cudaDataType_t as Type;
        use sys::{cublasComputeType_t as Compute, cublasGemmAlgo_t as Algorithm, cublasOperation_t as Order};
        let [t, k, n] = self.sizes;
        let operands = if self.dtype == DType::BF16 { Type::CUDA_R_16BF } else { Type::CUDA_R_32F };
        let (one, zero) = (1f32, 0f32);
        let ((x, _x), (w, _w)) = (self.x.device_ptr(&self.stream), self.w.device_ptr(&self.stream));
        let (y, _y) = self.y.device_ptr_mut(&self.stream);
        // SAFETY: the operands have the sizes that are passed, row-major without gaps, and live until the stream was waited for.
        unsafe {
            gemm_ex(
                *blas.handle(),
                Order::CUBLAS_OP_T,
                Order::CUBLAS_OP_N,
                n,
                t,
                k,
                (&raw const one).cast(),
                w as *const _,
                operands,
                k,
                x as *const _,
                operands,
                k,
                (&raw const zero).cast(),
                y as *mut _,
                Type::CUDA_R_32F,
                n,
                Compute::CUBLAS_COMPUTE_32F,
                Algorithm::CUBLAS_GEMM_DEFAULT,
            )?;
        }
        Ok(())
    }
}
