// What several kernels share: packs of elements, exponentials, reductions over a warp and a block.
#pragma once
#include "ptx.cuh"

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// ---- elements as they lie in memory ----

// How a number is kept, and what it is in f32. Rounding is to nearest, ties to even; a NaN keeps its sign and its upper bits and becomes
// quiet, as in the crate `half`, which the instructions of the GPU do not do.
struct F32 {
    typedef float Element;
    static __device__ __forceinline__ float get(float x) { return x; }
    static __device__ __forceinline__ float put(float x) { return x; }
};
struct Bf16 {
    typedef u16 Element;
    static __device__ __forceinline__ float get(u16 x) { return __uint_as_float((u32)x << 16); }
    static __device__ __forceinline__ u16 put(float x) {
        const u32 bits = __float_as_uint(x);
        const u32 nearest = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
        return (u16)(isnan(x) ? bits >> 16 | 0x40 : nearest);
    }
};
struct F16 {
    typedef u16 Element;
    static __device__ __forceinline__ float get(u16 x) {
        const bool is_nan = (x & 0x7fff) > 0x7c00;
        return is_nan ? __uint_as_float((u32)(x & 0x8000) << 16 | 0x7fc00000u | (u32)(x & 0x3ff) << 13) : f32_from_f16(x);
    }
    static __device__ __forceinline__ u16 put(float x) {
        const u32 bits = __float_as_uint(x);
        return isnan(x) ? (u16)(bits >> 16 & 0x8000 | 0x7e00 | bits >> 13 & 0x3ff) : f16_from_f32(x);
    }
};

// Words of 1 to 16 bytes that are read and written at once. A pack of bf16 and of f16 is half as many bytes as one of f32.
template <int BYTES> struct Word;
template <> struct Word<2> { typedef u16 Type; };
template <> struct Word<4> { typedef u32 Type; };
template <> struct Word<8> { typedef uint2 Type; };
template <> struct Word<16> { typedef uint4 Type; };

// N consecutive elements, in f32.
template <int N> struct Pack {
    float at[N];
};

// The number N as an argument.
template <int N> struct Width {
    static constexpr int value = N;
};

// Reads N elements with as few accesses as 16 bytes each allow; `p` has to be aligned to the smaller of 16 bytes and the pack.
template <class S, int N> __device__ __forceinline__ Pack<N> load_as(const typename S::Element* p) {
    constexpr int SIZE = sizeof(typename S::Element), PER_WORD = N * SIZE > 16 ? 16 / SIZE : N;
    typedef typename Word<PER_WORD * SIZE>::Type W;
    Pack<N> pack;
#pragma unroll
    for (int i = 0; i < N; i += PER_WORD) {
        union {
            W word;
            typename S::Element elements[PER_WORD];
        } u;
        u.word = *reinterpret_cast<const W*>(p + i);
#pragma unroll
        for (int j = 0; j < PER_WORD; j++) pack.at[i + j] = S::get(u.elements[j]);
    }
    return pack;
}
template <class S, int N> __device__ __forceinline__ void store_as(typename S::Element* p, const Pack<N>& pack) {
    constexpr int SIZE = sizeof(typename S::Element), PER_WORD = N * SIZE > 16 ? 16 / SIZE : N;
    typedef typename Word<PER_WORD * SIZE>::Type W;
#pragma unroll
    for (int i = 0; i < N; i += PER_WORD) {
        union {
            W word;
            typename S::Element elements[PER_WORD];
        } u;
#pragma unroll
        for (int j = 0; j < PER_WORD; j++) u.elements[j] = S::put(pack.at[i + j]);
        *reinterpret_cast<W*>(p + i) = u.word;
    }
}
template <int N> __device__ __forceinline__ Pack<N> load(const float* p) { return load_as<F32, N>(p); }
template <int N> __device__ __forceinline__ void store(float* p, const Pack<N>& pack) { store_as<F32, N>(p, pack); }
// Four elements at once if `vector`, and one by one otherwise.
__device__ __forceinline__ Pack<4> load_if(u32 vector, const float* p) {
    if (vector) return load<4>(p);
    return {p[0], p[1], p[2], p[3]};
}
__device__ __forceinline__ void store_if(u32 vector, float* p, const Pack<4>& pack) {
    if (vector) {
        store(p, pack);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) p[i] = pack.at[i];
    }
}

// Calls `f(Width<N>, at)` for the elements of this thread: the first `groups` threads have N each, those behind one each of what is left of
// `n`. The host gives 0 groups where an operand is not aligned; `thread_count` in Rust is the other side of this.
template <int N, class F> __device__ __forceinline__ void each_group(u64 n, u64 groups, F f) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < groups) {
        f(Width<N>(), i * N);
    } else if (i - groups < n - groups * N) {
        f(Width<1>(), groups * N + (i - groups));
    }
}

// Calls `f(i)` for the first element of each pack of N of a row of `d` that this thread of the block has.
template <int N, class F> __device__ __forceinline__ void each_of_row(u32 d, F f) {
    for (u32 i = threadIdx.x * N; i < d; i += blockDim.x * N) f(i);
}

// ---- functions of one number ----

// e^x, within 1.01 ulp (asserted by a test); subnormal results are right too; 0 for -inf, +inf above 88.72, NaN for NaN. No approximate
// instruction takes part, so that every device gives the same bits.
__device__ __forceinline__ float exp_f32(float x) {
    // Beyond these the result is infinite or zero.
    x = max_nan(min_nan(x, 89.0f), -104.0f);
    // x = n ln 2 + r (Cody and Waite): adding 1.5 * 2^23 + 127 rounds to a whole number; the low bits are then the exponent field of 2^n.
    constexpr float ROUND = 12582912.0f + 127.0f;
    const float rounded = fmaf(x, 1.4426950408889634f, ROUND), n = rounded - ROUND;
    // ln 2 in two parts; the high one has zeros at its end, so n * high is exact.
    float r = fmaf(n, -0.693145751953125f, x);
    r = fmaf(n, -1.428606765330187e-06f, r);
    // (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2: the polynomial of `crates/cpu/src/exp.rs`, 3e-9 off.
    float p = 1.381432e-3f;
    p = fmaf(p, r, 8.368851e-3f);
    p = fmaf(p, r, 4.16684e-2f);
    p = fmaf(p, r, 1.666652e-1f);
    p = fmaf(p, r, 4.9999994e-1f);
    const float y = 1.0f + fmaf(p * r, r, r);
    // Two steps, n / 2 rounded and the rest: 2^n itself would overflow or vanish before the product does.
    const float half = fmaf(n, 0.5f, ROUND), rest = (rounded - half) + ROUND;
    return y * __int_as_float(__float_as_int(half) << 23) * __int_as_float(__float_as_int(rest) << 23);
}

// 1 / (1 + e^-x): 0 and 1 at the ends, NaN for NaN.
__device__ __forceinline__ float sigmoid_f32(float x) { return reciprocal(1.0f + exp_f32(-x)); }

// ---- sums and maxima; the order is fixed ----

template <class T> __device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
    for (u32 offset = WARP / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(ALL_LANES, v, offset);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (u32 offset = WARP / 2; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, offset));
    return v;
}
// The sum over the block, for every thread. `scratch` holds a number a warp; the block is whole warps.
template <class T> __device__ __forceinline__ T block_sum(T v, T* scratch) {
    v = warp_sum(v);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    __syncthreads(); // an earlier reduction may still be reading
    if (lane == warp) scratch[lane] = v; // all lanes have it
    __syncthreads();
    return warp_sum(lane < blockDim.x / WARP ? scratch[lane] : (T)0);
}
__device__ __forceinline__ float block_max(float v, float* scratch) {
    v = warp_max(v);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    __syncthreads();
    if (lane == warp) scratch[lane] = v; // all lanes have it
    __syncthreads();
    return warp_max(lane < blockDim.x / WARP ? scratch[lane] : -INFINITY_F32);
}

// Two floats rounded to bf16; `low` in the low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    const bf16x2 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const u32*>(&pair);
}
