// Causal attention on tensor cores in the manner of FlashAttention-2 (Dao, arXiv 2307.08691): a block takes 64 queries of one head, a warp
// 16 of them with Q in registers, and goes over tiles of 64 keys with a running maximum and sum. Factors are bf16, sums f32.
//
// q is [T, heads, D], k and v [rows, kv_heads, D] in bf16 (`attention_cast_bf16` pads head_dim to D with zeros); y is f32
// [T, heads * head_dim], lse [T, heads]. Scores in units of log2 are `multiplier * s`, or `multiplier * tanh(inner * s)` where inner is not 0;
// multiplier > 0 (the host moves a negative scale into q).
#include "attention.cuh"

constexpr int QUERIES = 64, KEYS = 64, THREADS = 128;

template <int D>
__device__ __forceinline__ void forward(u8* shared, const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                                        const u32* __restrict__ pieces, float* __restrict__ y, float* __restrict__ lse, int heads,
                                        int kv_heads, int head_dim, int past, int window, float multiplier, float inner) {
    const int warp = threadIdx.x / WARP, head = blockIdx.y, kv_stride = kv_heads * D;
    const Piece piece = piece_of_block(pieces);
    const u32 k_tile = shared_address(shared), v_tile = k_tile + KEYS * D * 2;
    k += head / (heads / kv_heads) * D;
    v += head / (heads / kv_heads) * D;

    // Q passes through the tile of V once. One past the last key row that a query of this piece sees, and the first.
    const int end = past + min(piece.first + QUERIES, piece.end);
    const int low = first_key(piece.first, piece.begin, past, window);
    int row = piece.begin + (low - piece.begin) / KEYS * KEYS;
    copy_tile<D, QUERIES, THREADS>(v_tile, q + head * D, heads * D, piece.first, piece.end);
    copy_tile<D, KEYS, THREADS>(k_tile, k, kv_stride, row, end);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    u32 q_fragments[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; i++) load_a<D>(q_fragments[i], v_tile, warp * 16, i * 16);

    float sum[D / 8][4], maximum[2] = {-INFINITY_F32, -INFINITY_F32}, total[2] = {0.0f, 0.0f};
    clear(sum);
    const int first_query = piece.first + warp * 16;
    for (; row < end; row += KEYS) {
        cp_async_wait<0>();
        __syncthreads(); // K is here, and no warp reads V (or Q) any more
        copy_tile<D, KEYS, THREADS>(v_tile, v, kv_stride, row, end);
        cp_async_commit();

        float s[KEYS / 8][4];
        clear(s);
        product_rows<D>(s, q_fragments, k_tile);
        cap_scores(s, inner);
        // Some query of the warp does not see some key of the tile.
        if (row + KEYS > past + first_query + 1 || row < first_key(first_query + 15, piece.begin, past, window)) {
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int key = row + i * 8 + c_column(j), query = first_query + c_row(j);
                    // A query past the piece's end sees keys up to it: what it sums is not kept.
                    if (key > past + query || key >= end || key < first_key(query, piece.begin, past, window)) s[i][j] = -INFINITY_F32;
                }
        }
        float offset[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float m = maximum[h];
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++) m = fmaxf(m, fmaxf(s[i][2 * h], s[i][2 * h + 1]));
            m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, 1));
            m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, 2));
            // A row that has seen no key yet keeps zeros.
            offset[h] = m == -INFINITY_F32 ? 0.0f : m * multiplier;
            const float factor = ex2(maximum[h] * multiplier - offset[h]);
            maximum[h] = m;
            total[h] *= factor;
#pragma unroll
            for (int i = 0; i < D / 8; i++) sum[i][2 * h] *= factor, sum[i][2 * h + 1] *= factor;
        }
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[i][j] = ex2(fmaf(s[i][j], multiplier, -offset[j / 2]));
                total[j / 2] += s[i][j];
            }

        cp_async_wait<0>();
        __syncthreads(); // V is here, and no warp reads K any more
        if (row + KEYS < end) {
            copy_tile<D, KEYS, THREADS>(k_tile, k, kv_stride, row + KEYS, end);
            cp_async_commit();
        }
        product_columns<D>(sum, s, v_tile);
    }

#pragma unroll
    for (int h = 0; h < 2; h++) {
        total[h] += __shfl_xor_sync(ALL_LANES, total[h], 1);
        total[h] += __shfl_xor_sync(ALL_LANES, total[h], 2);
        const int t = first_query + c_row(2 * h);
        if (t < piece.end && threadIdx.x % 4 == 0) lse[(u64)(u32)t * heads + head] = maximum[h] * multiplier * LN_2 + logf(total[h]);
    }
    store_rows<D>(sum, 1.0f / total[0], 1.0f / total[1], head_dim, rows_of_pairs(y, head_dim), [&](int h) -> float* {
        const int t = first_query + c_row(2 * h);
        return t < piece.end ? y + ((u64)(u32)t * heads + head) * head_dim : nullptr;
    });
}

#define FORWARD(D, BLOCKS)                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_mma_##D(                                                         \
        const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v, const u32* __restrict__ pieces,                  \
        float* __restrict__ y, float* __restrict__ lse, int heads, int kv_heads, int head_dim, int past, int window, float multiplier,       \
        float inner) {                                                                                                                       \
        __shared__ __align__(128) u8 shared[(KEYS + QUERIES) * D * 2];                                                                       \
        forward<D>(shared, q, k, v, pieces, y, lse, heads, kv_heads, head_dim, past, window, multiplier, inner);                             \
    }
FORWARD(32, 4)
FORWARD(64, 3)
FORWARD(80, 3)
FORWARD(96, 2)
FORWARD(128, 2)
