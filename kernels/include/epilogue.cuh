// What becomes of the sums of a matrix product on their way out: bias, activation, residual, addition to what is there, f32 and bf16.
#pragma once
#include "activations.cuh"

// Bits of `flags`; the host side is `Epilogue` in crates/cuda/src/gemm.
constexpr u32 ACTIVATION_MASK = 7;            // 0: none, then in the order of `paring_ops::Activation`
constexpr u32 ADD = 8;                        // to what c has
constexpr u32 ALIGNED = 16;                   // rows of c, residual and bias begin at multiples of 16 bytes

__device__ __forceinline__ float activate(u32 activation, float x) {
    switch (activation) {
    case 1: return Silu::at(x).value;
    case 2: return Gelu::at(x).value;
    case 3: return GeluTanh::at(x).value;
    case 4: return Relu2::at(x).value;
    default: return x;
    }
}

// [m, n], rows without padding. c = act(sum + bias) + residual (+ c); null pointers are left out.
struct Output {
    float* c;
    bf16* c_bf16;
    const float* bias;
    const float* residual;
    u32 flags;

    // Partial sums of a part of k lie one after the other.
    __device__ __forceinline__ void select(u32 split, u64 size) {
        if (split > 0) c += split * size;
    }

    __device__ __forceinline__ float finish(float sum, float bias_n, float residual_mn, float c_mn) const {
        return activate(flags & ACTIVATION_MASK, sum + bias_n) + residual_mn + c_mn;
    }

    // One element.
    __device__ __forceinline__ void put(float sum, u64 row_start, u32 column) const {
        const u64 i = row_start + column;
        const float y = finish(sum, bias ? bias[column] : 0.0f, residual ? residual[i] : 0.0f, flags & ADD ? c[i] : 0.0f);
        if (c) c[i] = y;
        if (c_bf16) c_bf16[i] = __float2bfloat16_rn(y);
    }

    // Four of them, where everything is aligned.
    __device__ __forceinline__ void put4(float4 sum, u64 row_start, u32 column) const {
        const u64 i = row_start + column;
        const float4 zero = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const float4 b = bias ? *reinterpret_cast<const float4*>(bias + column) : zero;
        const float4 r = residual ? *reinterpret_cast<const float4*>(residual + i) : zero;
        const float4 old = flags & ADD ? *reinterpret_cast<const float4*>(c + i) : zero;
        const float4 y = make_float4(finish(sum.x, b.x, r.x, old.x), finish(sum.y, b.y, r.y, old.y), finish(sum.z, b.z, r.z, old.z),
                                     finish(sum.w, b.w, r.w, old.w));
        if (c) *reinterpret_cast<float4*>(c + i) = y;
        if (c_bf16) *reinterpret_cast<uint2*>(c_bf16 + i) = make_uint2(pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
    }
};

// ROWS x COLUMNS sums in shared memory, rows `stride` apart, to rows `row..` and columns `column..` of the output, by one warp.
template <int ROWS, int COLUMNS>
__device__ __forceinline__ void store_rows(const Output& out, const float* sums, u32 stride, u32 row, u32 column, u32 m, u32 n) {
    const u32 lane = threadIdx.x % WARP;
    if (out.flags & ALIGNED) {
#pragma unroll 1
        for (u32 i = lane; i < ROWS * COLUMNS / 4; i += WARP) {
            const u32 r = i / (COLUMNS / 4), c = i % (COLUMNS / 4) * 4;
            if (row + r < m && column + c < n) {
                out.put4(*reinterpret_cast<const float4*>(sums + r * stride + c), (u64)(row + r) * n, column + c);
            }
        }
    } else {
#pragma unroll 1
        for (u32 i = lane; i < ROWS * COLUMNS; i += WARP) {
            const u32 r = i / COLUMNS, c = i % COLUMNS;
            if (row + r < m && column + c < n) out.put(sums[r * stride + c], (u64)(row + r) * n, column + c);
        }
    }
}
