// What several kernels share: exponentials, reductions over a warp and a block, vectors of 16 bytes.
#pragma once
#include "ptx.cuh"

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// e^x to about 2 ulp. `ex2(x * log2(e))` alone loses as many bits as |x| has: the product is split into an integer, which is exact in
// the exponent, and a remainder in [-1/2, 1/2] (Cody and Waite).
__device__ __forceinline__ float exp_f32(float x) {
    const float n = rintf(x * 1.4426950408889634f);
    // ln 2 in two parts; the high one has zeros at its end, so n * high is exact.
    float r = fmaf(n, -0.693145751953125f, x);
    r = fmaf(n, -1.428606765330187e-06f, r);
    const float y = ex2(r * 1.4426950408889634f);
    // Two steps: 2^n itself would overflow or vanish before the product does. A NaN of x passes through y.
    const float clamped = fminf(fmaxf(n, -252.0f), 254.0f);
    const int half_n = (int)clamped / 2;
    const float low = __int_as_float((half_n + 127) << 23);
    const float high = __int_as_float(((int)clamped - half_n + 127) << 23);
    return x <= -INFINITY_F32 ? 0.0f : y * low * high;
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (u32 offset = WARP / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(ALL_LANES, v, offset);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (u32 offset = WARP / 2; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, offset));
    return v;
}
// The sum over the block, for every thread. `scratch` holds a float a warp; the block is whole warps.
__device__ __forceinline__ float block_sum(float v, float* scratch) {
    v = warp_sum(v);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    __syncthreads(); // an earlier reduction may still be reading
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    return warp_sum(lane < blockDim.x / WARP ? scratch[lane] : 0.0f);
}
__device__ __forceinline__ float block_max(float v, float* scratch) {
    v = warp_max(v);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    __syncthreads();
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    return warp_max(lane < blockDim.x / WARP ? scratch[lane] : -INFINITY_F32);
}

// Two floats rounded to bf16; `low` in the low half.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    const bf16x2 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const u32*>(&pair);
}
