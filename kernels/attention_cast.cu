// Prepares attention on tensor cores and its backward: factors in bf16 with heads padded to a multiple of 16, and one number a query.
#include "attention.cuh"

constexpr int THREADS = 256;

// [rows, heads * head_dim] f32 times `factor` -> [rows, heads, padded] bf16, zeros in the padding. A thread makes 8 elements; `chunks` is
// rows * heads * padded / 8. With `vectors`, head_dim is a multiple of 4 and `from` aligned to 16 bytes.
extern "C" __global__ void __launch_bounds__(THREADS) attention_cast_bf16(const float* __restrict__ from, bf16* __restrict__ to, u32 chunks,
                                                                          u32 head_dim, u32 padded, u32 vectors, float factor) {
    const u32 index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= chunks) return;
    const u32 per_head = padded / 8, head = index / per_head, column = index % per_head * 8;
    from += (u64)head * head_dim + column;
    float x[8];
    if (vectors) {
#pragma unroll
        for (u32 i = 0; i < 8; i += 4) {
            float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (column + i < head_dim) four = *reinterpret_cast<const float4*>(from + i);
            x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++) x[i] = column + i < head_dim ? from[i] : 0.0f;
    }
    uint4 out;
    out.x = pack_bf16(x[0] * factor, x[1] * factor);
    out.y = pack_bf16(x[2] * factor, x[3] * factor);
    out.z = pack_bf16(x[4] * factor, x[5] * factor);
    out.w = pack_bf16(x[6] * factor, x[7] * factor);
    reinterpret_cast<uint4*>(to)[index] = out;
}

// delta = sum_c dy_c y_c of each query of each head, and its lse times `factor`, both [heads, tokens]. A warp a query and head;
// dy, y [tokens, heads * head_dim], lse [tokens, heads].
extern "C" __global__ void __launch_bounds__(THREADS) attention_delta_f32(const float* __restrict__ dy, const float* __restrict__ y,
                                                                          const float* __restrict__ lse, float* __restrict__ delta,
                                                                          float* __restrict__ scaled_lse, u32 tokens, u32 heads,
                                                                          u32 head_dim, float factor) {
    const u32 row = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= tokens * heads) return;
    dy += (u64)row * head_dim;
    y += (u64)row * head_dim;
    float sum = 0.0f;
    for (u32 c = lane; c < head_dim; c += WARP) sum = fmaf(dy[c], y[c], sum);
    sum = warp_sum(sum);
    if (lane != 0) return;
    const u64 at = (u64)(row % heads) * tokens + row / heads;
    delta[at] = sum;
    scaled_lse[at] = lse[row] * factor;
}
