// Rows of a table, and the gradient of the table.
#include "blocks.cuh"

// y[t] = w[ids[t]]; a block has one token.
template <class S, int N>
__device__ __forceinline__ void copy_row(const typename S::Element* w, const u32* ids, float* y, u32 d) {
    const typename S::Element* row = w + (u64)ids[blockIdx.x] * d;
    float* to = y + (u64)blockIdx.x * d;
    each_of_row<N>(d, [=](u32 i) { store(to + i, load_as<S, N>(row + i)); });
}
#define EMBED(NAME, S)                                                                                                                              \
    extern "C" __global__ __launch_bounds__(256) void NAME(                                                                                         \
        const S::Element* __restrict__ w, const u32* __restrict__ ids, float* __restrict__ y, u32 d, u32 vector) {                                  \
        if (vector) {                                                                                                                               \
            copy_row<S, 4>(w, ids, y, d);                                                                                                           \
        } else {                                                                                                                                    \
            copy_row<S, 1>(w, ids, y, d);                                                                                                           \
        }                                                                                                                                           \
    }
EMBED(embed_f32, F32)
EMBED(embed_bf16, Bf16)

// The same of a table of blocks: d is a multiple of 32.
template <class Q> __device__ __forceinline__ void values_of_row(const u16* w, const u32* ids, float* y, u32 d, u32 vector) {
    const u16* row = w + (u64)ids[blockIdx.x] * (d / 32) * Q::WORDS;
    float* to = y + (u64)blockIdx.x * d;
    each_of_row<4>(d, [=](u32 i) { store_if(vector, to + i, values_of<Q>(row, i / 4)); });
}
#define EMBED_BLOCKS(NAME, Q)                                                                                         \
    extern "C" __global__ __launch_bounds__(256) void NAME(                                                           \
        const u16* __restrict__ w, const u32* __restrict__ ids, float* __restrict__ y, u32 d, u32 vector) {           \
        values_of_row<Q>(w, ids, y, d, vector);                                                                       \
    }
EMBED_BLOCKS(embed_q8_0, Q8_0)
EMBED_BLOCKS(embed_q4_0, Q4_0)
EMBED_BLOCKS(embed_q4_1, Q4_1)

// dw[id] += the rows of dy that have it. The host sorted the tokens by id, in their order among equals: entry g of `starts` is where the
// tokens of the g-th distinct id begin in `tokens`, entry g + 1 where they end. Block (g, c) has that id's columns from c * blockDim * N
// on; a thread adds its columns token by token, so the order of the sum is that of the tokens.
template <int N>
__device__ __forceinline__ void add_rows(const float* dy, const u32* tokens, const u32* starts, const u32* ids, float* dw, u32 d) {
    const u32 column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (column >= d) return;
    float* to = dw + (u64)ids[blockIdx.x] * d + column;
    Pack<N> sum = load<N>(to);
    const u32 end = starts[blockIdx.x + 1];
#pragma unroll 4
    for (u32 i = starts[blockIdx.x]; i < end; i++) {
        const Pack<N> row = load<N>(dy + (u64)tokens[i] * d + column);
#pragma unroll
        for (int j = 0; j < N; j++) sum.at[j] += row.at[j];
    }
    store(to, sum);
}
extern "C" __global__ __launch_bounds__(256) void embed_backward_f32(const float* __restrict__ dy, const u32* __restrict__ tokens, const u32* __restrict__ starts, const u32* __restrict__ ids, float* __restrict__ dw, u32 d, u32 vector) {
    if (vector) {
        add_rows<4>(dy, tokens, starts, ids, dw, d);
    } else {
        add_rows<1>(dy, tokens, starts, ids, dw, d);
    }
}
