// Causal attention on tensor cores in the manner of FlashAttention-2 (Dao, arXiv 2307.08691): a block takes 64 M queries of one head, a warp
// 16 M of them with Q in registers, and goes over tiles of keys with a running maximum and sum. Factors are bf16, sums f32. With M = 2 each
// fragment of K and V is used twice, which halves the traffic of shared memory: so it is where registers allow it.
//
// q is [T, heads, D], k and v [rows, kv_heads, D] in bf16 (`attention_cast_bf16` pads head_dim to D with zeros); y is f32
// [T, heads * head_dim], lse [T, heads]. Scores in units of log2 are `multiplier * s`, or `multiplier * tanh(inner * s)` where inner is not 0;
// multiplier > 0 (the host moves a negative scale into q).
#include "attention.cuh"

constexpr int THREADS = 128, WARPS = THREADS / WARP;

template <int D, int M, int KEYS>
__device__ __forceinline__ void forward(u8* shared, const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                                        const u32* __restrict__ pieces, float* __restrict__ y, float* __restrict__ lse, int tokens, int heads,
                                        int kv_heads, int head_dim, int past, int window, float multiplier, float inner) {
    constexpr int ROWS = 16 * M, QUERIES = WARPS * ROWS;
    const int warp = threadIdx.x / WARP, head = blockIdx.y, kv_stride = kv_heads * D;
    const Piece piece = piece_of_block<QUERIES, Of::Queries>(pieces, tokens);
    const u32 k_tile = shared_address(shared), v_tile = k_tile + KEYS * D * 2;
    k += head / (heads / kv_heads) * D;
    v += head / (heads / kv_heads) * D;

    // One past the last key row that a query of this piece sees, and the first. Q passes through shared memory from the tile of V on, once.
    const int end = past + min(piece.first + QUERIES, piece.end);
    const int low = first_key(piece.first, piece.begin, past, window);
    int row = piece.begin + (low - piece.begin) / KEYS * KEYS;
    copy_tile<D, QUERIES, THREADS>(v_tile, q + head * D, heads * D, piece.first, piece.end);
    copy_tile<D, KEYS, THREADS>(k_tile, k, kv_stride, row, end);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    u32 q_fragments[M][D / 16][4];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < D / 16; i++) load_a<D>(q_fragments[m][i], v_tile, warp * ROWS + m * 16, i * 16);

    float sum[M][D / 8][4], maximum[M][2], total[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) {
        clear(sum[m]);
        maximum[m][0] = maximum[m][1] = -INFINITY_F32;
        total[m][0] = total[m][1] = 0.0f;
    }
    const int first_query = piece.first + warp * ROWS, last_query = min(first_query + ROWS, piece.end) - 1;
    for (; row < end; row += KEYS) {
        cp_async_wait<0>();
        __syncthreads(); // K is here, and no warp reads V (or Q) any more
        copy_tile<D, KEYS, THREADS>(v_tile, v, kv_stride, row, end);
        cp_async_commit();

        // Whether some query of the warp sees some key of the tile: then all is done for all of them.
        const bool any = first_query <= last_query && row <= past + last_query && row + KEYS > first_key(first_query, piece.begin, past, window);
        float s[M][KEYS / 8][4];
        if (any) {
#pragma unroll
            for (int m = 0; m < M; m++) clear(s[m]);
            product_rows<D>(s, q_fragments, k_tile);
            // Whether some query does not see some key.
            const bool masked = row + KEYS > past + first_query + 1 || row < first_key(last_query, piece.begin, past, window);
#pragma unroll
            for (int m = 0; m < M; m++) {
                cap_scores(s[m], inner);
                if (masked) {
#pragma unroll
                    for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                        for (int j = 0; j < 4; j++) {
                            const int key = row + i * 8 + c_column(j), query = first_query + m * 16 + c_row(j);
                            // A query past the piece's end may sum anything: it is not kept.
                            if (key > past + query || key < first_key(query, piece.begin, past, window)) s[m][i][j] = -INFINITY_F32;
                        }
                }
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float most = maximum[m][h];
#pragma unroll
                    for (int i = 0; i < KEYS / 8; i++) most = fmaxf(most, fmaxf(s[m][i][2 * h], s[m][i][2 * h + 1]));
                    most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
                    most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
                    // A row that has seen no key yet keeps zeros.
                    const float offset = most == -INFINITY_F32 ? 0.0f : most * multiplier;
                    const float factor = ex2(maximum[m][h] * multiplier - offset);
                    maximum[m][h] = most;
                    total[m][h] *= factor;
#pragma unroll
                    for (int i = 0; i < D / 8; i++) sum[m][i][2 * h] *= factor, sum[m][i][2 * h + 1] *= factor;
#pragma unroll
                    for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                        for (int j = 2 * h; j < 2 * h + 2; j++) {
                            s[m][i][j] = ex2(fmaf(s[m][i][j], multiplier, -offset));
                            total[m][h] += s[m][i][j];
                        }
                }
            }
        }

        cp_async_wait<0>();
        __syncthreads(); // V is here, and no warp reads K any more
        if (row + KEYS < end) {
            copy_tile<D, KEYS, THREADS>(k_tile, k, kv_stride, row + KEYS, end);
            cp_async_commit();
        }
        if (any) product_columns<D>(sum, s, v_tile);
    }

    const bool pairs = rows_of_pairs(y, head_dim);
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            total[m][h] += __shfl_xor_sync(ALL_LANES, total[m][h], 1);
            total[m][h] += __shfl_xor_sync(ALL_LANES, total[m][h], 2);
            const int t = first_query + m * 16 + c_row(2 * h);
            if (t < piece.end && threadIdx.x % 4 == 0)
                lse[(u64)(u32)t * heads + head] = maximum[m][h] * multiplier * LN_2 + logf(total[m][h]);
        }
        store_rows<D>(sum[m], 1.0f / total[m][0], 1.0f / total[m][1], head_dim, pairs, [&](int h) -> float* {
            const int t = first_query + m * 16 + c_row(2 * h);
            return t < piece.end ? y + ((u64)(u32)t * heads + head) * head_dim : nullptr;
        });
    }
}

#define FORWARD(D, M, KEYS, BLOCKS)                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_mma_##D(                                                         \
        const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v, const u32* __restrict__ pieces,                  \
        float* __restrict__ y, float* __restrict__ lse, int tokens, int heads, int kv_heads, int head_dim, int past, int window, float multiplier,       \
        float inner) {                                                                                                                       \
        __shared__ __align__(128) u8 shared[(KEYS + 64 * M) * D * 2];                                                                        \
        forward<D, M, KEYS>(shared, q, k, v, pieces, y, lse, tokens, heads, kv_heads, head_dim, past, window, multiplier, inner);                             \
    }
FORWARD(32, 2, 64, 2)
FORWARD(64, 2, 64, 2)
FORWARD(80, 2, 32, 2)
FORWARD(96, 2, 32, 2)
FORWARD(128, 1, 64, 2)
