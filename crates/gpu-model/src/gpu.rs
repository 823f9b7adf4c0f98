//! What the model has to know of a GPU: figures that its maker prints, and the few that nobody prints, each with where it is from.

/// One GPU. Rates per clock are at [`Gpu::clock_hz`], the boost clock that the maker's peak figures are stated at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// What a user calls it: `a100`.
    pub name: &'static str,
    /// What it is called on its data sheet.
    pub product: &'static str,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Boost clock.
    pub clock_hz: f64,
    /// Dense bf16 multiply-adds of one SM in a clock, with f32 sums, at the maker's peak.
    pub tensor_fma_per_clock: f64,
    /// Share of that peak that `mma.sync` reaches; the rest takes instructions that our kernels do not use.
    pub mma_sync_share: f64,
    /// f32 multiply-adds of one SM in a clock.
    pub fp32_lanes: f64,
    /// Special functions (`ex2`, `rsqrt`) of one SM in a clock.
    pub sfu_lanes: f64,
    /// Bytes of shared memory that one SM moves in a clock: 32 banks of 4 bytes.
    pub shared_bytes_per_clock: f64,
    /// Bytes that one SM takes from the L2 cache in a clock.
    pub fill_bytes_per_clock: f64,
    /// Bytes that all SMs together take from the L2 cache in a clock.
    pub l2_bytes_per_clock: f64,
    /// Size of the L2 cache.
    pub l2_bytes: f64,
    /// Bytes per second of device memory.
    pub dram_bytes_per_second: f64,
    /// Size of device memory.
    pub memory_bytes: f64,
    /// Where the figures are from, figure by figure.
    pub sources: &'static [&'static str],
}

/// Warp schedulers of an SM, each with its tensor core and a quarter of the lanes; one instruction a clock each. True from Volta to Hopper
/// (CUDA C++ programming guide, "Compute capabilities").
pub const SCHEDULERS: f64 = 4.0;

/// Threads of a warp.
pub(crate) const WARP: f64 = 32.0;

/// Multiply-adds of `mma.sync.m16n8k16`.
pub(crate) const MMA_FMA: f64 = 16.0 * 8.0 * 16.0;

const COMMON: &str = "special functions: 16 a clock and SM, one instruction a clock and scheduler, shared memory 32 banks of 4 bytes: \
                      CUDA C++ Programming Guide, arithmetic throughput and compute capabilities 8.0, 8.9, 9.0";
const FILL: &str =
    "64 bytes a clock from L2 into one SM: assumed of all three, two 32-byte sectors; NVIDIA prints none";

/// NVIDIA A100 SXM, 80 GB.
pub const A100: Gpu = Gpu {
    name: "a100",
    product: "NVIDIA A100 SXM4 80 GB",
    sms: 108,
    clock_hz: 1.41e9,
    tensor_fma_per_clock: 1024.0,
    mma_sync_share: 1.0,
    fp32_lanes: 64.0,
    sfu_lanes: 16.0,
    shared_bytes_per_clock: 128.0,
    fill_bytes_per_clock: 64.0,
    l2_bytes_per_clock: 5120.0,
    l2_bytes: 40.0 * MIB,
    dram_bytes_per_second: 2039e9,
    memory_bytes: 80.0 * GIB,
    sources: &[
        "108 SMs, 1410 MHz, 64 f32 lanes and 1024 dense bf16 multiply-adds a clock and SM (312 TFLOP/s), 40 MB of L2 at 5120 bytes a \
         clock: NVIDIA A100 Tensor Core GPU Architecture white paper (2020)",
        "2039 GB/s, 80 GB: NVIDIA A100 80GB data sheet (SXM)",
        "mma.sync is the widest tensor instruction of compute capability 8.0: share 1",
        FILL,
        COMMON,
    ],
};

/// NVIDIA H100 SXM.
pub const H100: Gpu = Gpu {
    name: "h100",
    product: "NVIDIA H100 SXM5 80 GB",
    sms: 132,
    clock_hz: 1.83e9,
    tensor_fma_per_clock: 2048.0,
    mma_sync_share: 0.653,
    fp32_lanes: 128.0,
    sfu_lanes: 16.0,
    shared_bytes_per_clock: 128.0,
    fill_bytes_per_clock: 64.0,
    l2_bytes_per_clock: 5120.0,
    l2_bytes: 50.0 * MIB,
    dram_bytes_per_second: 3350e9,
    memory_bytes: 80.0 * GIB,
    sources: &[
        "132 SMs, 1830 MHz at 989.4 TFLOP/s dense bf16 (4096 FLOP a clock and SM), 128 f32 lanes, 50 MB of L2: NVIDIA H100 Tensor Core GPU \
         Architecture white paper (2022)",
        "3.35 TB/s, 80 GB: NVIDIA H100 data sheet (SXM)",
        "mma.sync.m16n8k16 measured at 494.4 of 756.5 TFLOP/s, 65.3 %, where wgmma reaches 96 %: Luo et al., Dissecting the NVIDIA Hopper \
         Architecture, arXiv 2501.12084, tables 7 and 8 (H800 PCIe, the same SM)",
        "L2 at 5120 bytes a clock: assumed to be the A100's, since NVIDIA prints none",
        FILL,
        COMMON,
    ],
};

/// NVIDIA GeForce RTX 4090.
pub const RTX4090: Gpu = Gpu {
    name: "rtx4090",
    product: "NVIDIA GeForce RTX 4090",
    sms: 128,
    clock_hz: 2.52e9,
    tensor_fma_per_clock: 256.0,
    mma_sync_share: 1.0,
    fp32_lanes: 128.0,
    sfu_lanes: 16.0,
    shared_bytes_per_clock: 128.0,
    fill_bytes_per_clock: 64.0,
    l2_bytes_per_clock: 2048.0,
    l2_bytes: 72.0 * MIB,
    dram_bytes_per_second: 1008e9,
    memory_bytes: 24.0 * GIB,
    sources: &[
        "128 SMs, 2520 MHz, 165.2 TFLOP/s dense bf16 with f32 sums (512 FLOP a clock and SM), 128 f32 lanes, 72 MB of L2, 1008 GB/s, 24 GB: \
         NVIDIA Ada GPU Architecture white paper (2022)",
        "mma.sync is the widest tensor instruction of compute capability 8.9: share 1",
        "L2 at 2048 bytes a clock: assumed, about the 5 TB/s that Chips and Cheese measured (Microbenchmarking Nvidia's RTX 4090, 2022), since \
         NVIDIA prints none",
        FILL,
        COMMON,
    ],
};

/// The GPUs that the model knows.
pub const GPUS: [Gpu; 3] = [A100, H100, RTX4090];

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

impl Gpu {
    /// The GPU of that name, in any case.
    pub fn named(name: &str) -> Option<Gpu> {
        GPUS.into_iter().find(|g| g.name.eq_ignore_ascii_case(name))
    }

    /// Clocks that one tensor core takes for one `mma.sync.m16n8k16`.
    pub fn mma_clocks(&self) -> f64 {
        MMA_FMA * SCHEDULERS / (self.tensor_fma_per_clock * self.mma_sync_share)
    }

    /// Dense bf16 floating-point operations per second at the maker's peak.
    pub fn peak_flops(&self) -> f64 {
        2.0 * self.tensor_fma_per_clock * f64::from(self.sms) * self.clock_hz
    }

    /// The part of the peak that `mma.sync` can reach: the ceiling of our kernels.
    pub fn mma_sync_flops(&self) -> f64 {
        self.peak_flops() * self.mma_sync_share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_multiply_to_the_printed_peaks() {
        for (gpu, tflops, mma_clocks) in [(A100, 312.0, 8.0), (H100, 989.4, 6.126), (RTX4090, 165.2, 32.0)] {
            assert!((gpu.peak_flops() / 1e12 / tflops - 1.0).abs() < 2e-3, "{}: {}", gpu.name, gpu.peak_flops());
            assert!((gpu.mma_clocks() - mma_clocks).abs() < 1e-2, "{}: {}", gpu.name, gpu.mma_clocks());
        }
    }

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(Gpu::named("H100"), Some(H100));
        assert_eq!(Gpu::named("v100"), None);
    }
}
