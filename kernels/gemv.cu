// y[t, n] = sum_k x[t, k] w[n, k] for few rows t: bound by reading w, once. Every sum has one order.
#include "common.cuh"

// ---- bf16 weights, rows at multiples of 16 bytes ----

// A block has 16 rows of w, of which its warps take pieces of k in turn. Tensor cores multiply: a lane loads 8 neighbours of a row at a time
// and gives them to mma as if they were the columns 2l, 2l+1, 2l+8 and 2l+9 of two steps. Both factors are permuted alike, so the sum is
// the same, and no shared memory lies between the loads and the products. x is rounded to bf16 on the way. Up to 8 * GROUPS rows of x.
template <int GROUPS>
__device__ __forceinline__ void gemv_bf16(const bf16* w, const float* x, float* y, u32 n, u32 k, u32 tokens) {
    constexpr u32 WARPS = 8, ROWS = 16, PIECE = 64, STRIDE = 20;
    __shared__ float parts[WARPS][8 * GROUPS * STRIDE]; // token by token; the stride keeps the accesses below in different banks
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4;
    const u32 row = blockIdx.x * ROWS + g;
    const bool low = row < n, high = row + 8 < n;
    const bf16* from = w + (u64)row * k + lane % 4 * 8;
    float sums[GROUPS][4];
#pragma unroll
    for (int i = 0; i < GROUPS; i++) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.0f;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    for (u32 at = warp * PIECE; at < k; at += WARPS * PIECE) {
        // Four independent loads of 16 bytes.
        uint4 weights[2][2];
#pragma unroll
        for (int s = 0; s < 2; s++) {
            const bool inside = at + s * 32 + lane % 4 * 8 < k;
            const uint4* p = reinterpret_cast<const uint4*>(from + at + s * 32);
            weights[s][0] = inside && low ? __ldcs(p) : zero;
            weights[s][1] = inside && high ? __ldcs(p + k) : zero; // 8 rows on: k pieces of 8 elements
        }
#pragma unroll
        for (int s = 0; s < 2; s++) {
            const u32 column = at + s * 32 + lane % 4 * 8;
            const u32 first[4] = {weights[s][0].x, weights[s][1].x, weights[s][0].y, weights[s][1].y};
            const u32 second[4] = {weights[s][0].z, weights[s][1].z, weights[s][0].w, weights[s][1].w};
#pragma unroll
            for (int i = 0; i < GROUPS; i++) {
                const u32 token = i * 8 + g;
                u32 b[4] = {0, 0, 0, 0};
                if (token < tokens && column < k) {
                    const float4* p = reinterpret_cast<const float4*>(x + (u64)token * k + column);
                    const float4 p0 = __ldg(p), p1 = __ldg(p + 1);
                    b[0] = pack_bf16(p0.x, p0.y), b[1] = pack_bf16(p0.z, p0.w);
                    b[2] = pack_bf16(p1.x, p1.y), b[3] = pack_bf16(p1.z, p1.w);
                }
                mma_bf16(sums[i], first, b[0], b[1]);
                mma_bf16(sums[i], second, b[2], b[3]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < GROUPS; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) parts[warp][(i * 8 + lane % 4 * 2 + e % 2) * STRIDE + g + e / 2 * 8] = sums[i][e];
    __syncthreads();
    // The warps' sums, from the first to the last.
    const u32 r = lane % ROWS, token = warp / 4 * 8 + lane / ROWS * 4 + warp % 4;
    if (token < tokens && blockIdx.x * ROWS + r < n) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; i++) sum += parts[i][token * STRIDE + r];
        y[(u64)token * n + blockIdx.x * ROWS + r] = sum;
    }
}
extern "C" __global__ __launch_bounds__(256) void gemv_bf16_t8(const bf16* __restrict__ w, const float* __restrict__ x, float* __restrict__ y,
                                                               u32 n, u32 k, u32 tokens) {
    gemv_bf16<1>(w, x, y, n, k, tokens);
}
extern "C" __global__ __launch_bounds__(256) void gemv_bf16_t16(const bf16* __restrict__ w, const float* __restrict__ x, float* __restrict__ y,
                                                                u32 n, u32 k, u32 tokens) {
    gemv_bf16<2>(w, x, y, n, k, tokens);
}

// ---- f32 weights, rows at multiples of 16 bytes: a warp a row ----

template <int TOKENS> __device__ __forceinline__ void gemv_f32(const float* w, const float* x, float* y, u32 n, u32 k, u32 tokens) {
    constexpr u32 LOADS = 4;
    const u32 lane = threadIdx.x % WARP, row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= n) return;
    const float4* from = reinterpret_cast<const float4*>(w + (u64)row * k);
    const u32 pieces = k / 4;
    float sums[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) sums[t] = 0.0f;
    for (u32 at = lane; at < pieces; at += LOADS * WARP) {
        float4 weights[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; i++)
            weights[i] = at + i * WARP < pieces ? __ldcs(from + at + i * WARP) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            if (at + i * WARP >= pieces) break;
#pragma unroll
            for (int t = 0; t < TOKENS; t++) {
                if (t >= tokens) break;
                const float4 p = __ldg(reinterpret_cast<const float4*>(x + (u64)t * k) + at + i * WARP);
                sums[t] = fmaf(weights[i].x, p.x, sums[t]);
                sums[t] = fmaf(weights[i].y, p.y, sums[t]);
                sums[t] = fmaf(weights[i].z, p.z, sums[t]);
                sums[t] = fmaf(weights[i].w, p.w, sums[t]);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        if (t >= tokens) break;
        const float sum = warp_sum(sums[t]);
        if (lane == 0) y[(u64)t * n + row] = sum;
    }
}

// ---- any weights, anywhere: a warp a row, element by element ----

struct RoundedBf16 {
    typedef bf16 Element;
    static __device__ __forceinline__ float weight(bf16 w) { return __bfloat162float(w); }
    static __device__ __forceinline__ float factor(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }
};
struct Exact {
    typedef float Element;
    static __device__ __forceinline__ float weight(float w) { return w; }
    static __device__ __forceinline__ float factor(float x) { return x; }
};

template <class S>
__device__ __forceinline__ void gemv_any(const typename S::Element* w, const float* x, float* y, u32 n, u32 k, u32 tokens) {
    constexpr int TOKENS = 8;
    const u32 lane = threadIdx.x % WARP, row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= n) return;
    const typename S::Element* from = w + (u64)row * k;
    float sums[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) sums[t] = 0.0f;
#pragma unroll 4
    for (u32 at = lane; at < k; at += WARP) {
        const float weight = S::weight(from[at]);
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            if (t < tokens) sums[t] = fmaf(weight, S::factor(x[(u64)t * k + at]), sums[t]);
        }
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        if (t >= tokens) break;
        const float sum = warp_sum(sums[t]);
        if (lane == 0) y[(u64)t * n + row] = sum;
    }
}

#define GEMV(NAME, ELEMENT, FUNCTION)                                                                                                     \
    extern "C" __global__ __launch_bounds__(256) void NAME(const ELEMENT* __restrict__ w, const float* __restrict__ x,                    \
                                                           float* __restrict__ y, u32 n, u32 k, u32 tokens) {                             \
        FUNCTION(w, x, y, n, k, tokens);                                                                                                  \
    }
GEMV(gemv_f32_t1, float, gemv_f32<1>)
GEMV(gemv_f32_t8, float, gemv_f32<8>)
GEMV(gemv_f32_any, float, gemv_any<Exact>)
GEMV(gemv_bf16_any, bf16, gemv_any<RoundedBf16>)
