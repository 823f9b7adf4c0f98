// Operations on each element alone: conversions, sums, factors, the halves of weights. Bound by memory: a thread has one group of elements.
#include "blocks.cuh"

// y = x in another type. The value passes through f32, which holds every bf16 and f16. Groups are what 16 bytes hold of the wider type: of
// more, a warp would touch every sector twice.
template <class To, class From>
__device__ __forceinline__ void convert(const typename From::Element* x, typename To::Element* y, u64 n, u64 groups) {
    constexpr int GROUP = sizeof(typename To::Element) + sizeof(typename From::Element) > 4 ? 4 : 8;
    each_group<GROUP>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        Pack<N> pack = load_as<From, N>(x + at);
        // A NaN that is only widened becomes quiet as well.
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (isnan(pack.at[i])) pack.at[i] = __uint_as_float(__float_as_uint(pack.at[i]) | 0x400000);
        }
        store_as<To, N>(y + at, pack);
    });
}
#define CONVERT(NAME, TO, FROM)                                                                                                                \
    extern "C" __global__ __launch_bounds__(256) void NAME(const FROM::Element* __restrict__ x, TO::Element* __restrict__ y, u64 n, u64 groups) { \
        convert<TO, FROM>(x, y, n, groups);                                                                                                    \
    }
CONVERT(convert_f32_bf16, Bf16, F32)
CONVERT(convert_f32_f16, F16, F32)
CONVERT(convert_bf16_f32, F32, Bf16)
CONVERT(convert_bf16_f16, F16, Bf16)
CONVERT(convert_f16_f32, F32, F16)
CONVERT(convert_f16_bf16, Bf16, F16)

// y = the values of blocks: a thread has 4 elements of one.
template <class Q> __device__ __forceinline__ void dequantise(const u16* blocks, float* y, u64 groups, u32 vector) {
    const u64 group = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (group < groups) store_if(vector, y + group * 4, values_of<Q>(blocks, group));
}
#define DEQUANTISE(NAME, Q)                                                                                                                   \
    extern "C" __global__ __launch_bounds__(256) void NAME(const u16* __restrict__ blocks, float* __restrict__ y, u64 groups, u32 vector) { \
        dequantise<Q>(blocks, y, groups, vector);                                                                                            \
    }
DEQUANTISE(dequantise_q8_0, Q8_0)
DEQUANTISE(dequantise_q4_0, Q4_0)
DEQUANTISE(dequantise_q4_1, Q4_1)

// Blocks of the values: a warp has one, a lane an element. Elements beyond `n` count as zero, as in `paring_tensor::from_f32`.
template <class Q> __device__ __forceinline__ void quantise(const float* x, u16* blocks, u64 n) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i / WARP * WARP < n) block_from<Q>(blocks + i / WARP * Q::WORDS, i < n ? x[i] : 0.0f);
}
#define QUANTISE(NAME, Q)                                                                                                 \
    extern "C" __global__ __launch_bounds__(256) void NAME(const float* __restrict__ x, u16* __restrict__ blocks, u64 n) { \
        quantise<Q>(x, blocks, n);                                                                                        \
    }
QUANTISE(quantise_q8_0, Q8_0)
QUANTISE(quantise_q4_0, Q4_0)
QUANTISE(quantise_q4_1, Q4_1)

// y = value.
extern "C" __global__ __launch_bounds__(256) void fill_f32(float* __restrict__ y, u64 n, u64 groups, float value) {
    each_group<4>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        Pack<N> pack;
#pragma unroll
        for (int i = 0; i < N; i++) pack.at[i] = value;
        store(y + at, pack);
    });
}

// y = a + b.
extern "C" __global__ __launch_bounds__(256) void add_f32(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y, u64 n, u64 groups) {
    each_group<4>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        Pack<N> pack = load<N>(a + at);
        const Pack<N> other = load<N>(b + at);
#pragma unroll
        for (int i = 0; i < N; i++) pack.at[i] += other.at[i];
        store(y + at, pack);
    });
}

// y += x.
extern "C" __global__ __launch_bounds__(256) void accumulate_f32(const float* __restrict__ x, float* __restrict__ y, u64 n, u64 groups) {
    each_group<4>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        Pack<N> pack = load<N>(y + at);
        const Pack<N> other = load<N>(x + at);
#pragma unroll
        for (int i = 0; i < N; i++) pack.at[i] += other.at[i];
        store(y + at, pack);
    });
}

// y *= factor.
extern "C" __global__ __launch_bounds__(256) void scale_f32(float* __restrict__ y, u64 n, u64 groups, float factor) {
    each_group<4>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        Pack<N> pack = load<N>(y + at);
#pragma unroll
        for (int i = 0; i < N; i++) pack.at[i] *= factor;
        store(y + at, pack);
    });
}

// parts[block] = the sum of squares of the block's share of x, in f64. Which elements a thread adds, and in which order, depends on `n` and
// the grid only: not on `vector`, which says whether x is aligned to 16 bytes.
extern "C" __global__ __launch_bounds__(256) void sum_squares_f32(const float* __restrict__ x, double* __restrict__ parts, u64 n, u32 vector) {
    __shared__ double scratch[WARP];
    const u64 first = (u64)blockIdx.x * blockDim.x + threadIdx.x, stride = (u64)gridDim.x * blockDim.x;
    const u64 groups = n / 4;
    double sum = 0.0;
#pragma unroll 4
    for (u64 i = first; i < groups; i += stride) {
        const Pack<4> pack = load_if(vector, x + i * 4);
#pragma unroll
        for (int j = 0; j < 4; j++) sum = fma((double)pack.at[j], (double)pack.at[j], sum);
    }
    for (u64 i = groups * 4 + first; i < n; i += stride) sum = fma((double)x[i], (double)x[i], sum);
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}
// total[0] = the sum of `count` parts; one block.
extern "C" __global__ __launch_bounds__(256) void sum_parts_f64(const double* __restrict__ parts, double* __restrict__ total, u32 count) {
    __shared__ double scratch[WARP];
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) total[0] = sum;
}
