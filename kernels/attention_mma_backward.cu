// Gradients of causal attention on tensor cores (Dao, arXiv 2307.08691, algorithm 2), without float atomics: one kernel over tiles of keys
// sums dk and dv over queries, another over tiles of queries sums dq over keys. Both make the scores again, so S and dP are multiplied
// twice; in return every sum has one order.
//
// q, dy are [T, heads, D], k, v [T, kv_heads, D] in bf16; `lse` (in units of log2) and `delta` = sum_c dy_c y_c are [heads, T]. Scores as in
// attention_mma.cu. With s = multiplier' * product: p = 2^(s - lse), ds = p (dp - delta), times 1 - tanh^2 where scores are capped.
// dq, dk, dv are f32 [T, heads * head_dim]; `scale_q` and `scale_k` are the factors of their sums.
#include "attention.cuh"

constexpr int THREADS = 128, ROWS = 64; // a warp owns 16 of the block's rows

// s becomes p, dp becomes ds. `lse(i, j)` and `delta(i, j)` belong to the query of an element, `seen(i, j)` says whether it sees the key.
template <int N, class Lse, class Delta, class Seen>
__device__ __forceinline__ void differentiate(float (&s)[N][4], float (&dp)[N][4], float multiplier, float inner, bool whole, Lse lse,
                                              Delta delta, Seen seen) {
    if (inner != 0.0f) {
        cap_scores(s, inner);
#pragma unroll
        for (int i = 0; i < N; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float slope = fmaf(-s[i][j], s[i][j], 1.0f);
                s[i][j] = ex2(fmaf(s[i][j], multiplier, -lse(i, j)));
                dp[i][j] = s[i][j] * (dp[i][j] - delta(i, j)) * slope;
            }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[i][j] = ex2(fmaf(s[i][j], multiplier, -lse(i, j)));
                dp[i][j] = s[i][j] * (dp[i][j] - delta(i, j));
            }
    }
    if (whole) return;
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (!seen(i, j)) s[i][j] = dp[i][j] = 0.0f;
}

// A piece of 64 keys of one key/value head: all query heads of its group, tiles of `QUERIES` queries from the diagonal on.
template <int D, int QUERIES>
__device__ __forceinline__ void backward_kv(u8* shared, const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                                            const bf16* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ delta,
                                            const u32* __restrict__ pieces, float* __restrict__ dk, float* __restrict__ dv, int tokens,
                                            int heads, int kv_heads, int head_dim, int window, float multiplier, float inner,
                                            float scale_k) {
    constexpr u32 TILE = QUERIES * D * 2, STAGE = 2 * TILE + 2 * QUERIES * sizeof(float);
    const int warp = threadIdx.x / WARP, kv_head = blockIdx.y, group = heads / kv_heads;
    const Piece piece = piece_of_block<ROWS, Of::Keys>(pieces, tokens);
    const u32 k_tile = shared_address(shared), v_tile = k_tile + ROWS * D * 2, stages = v_tile + ROWS * D * 2;

    const int last_key = min(piece.first + ROWS, piece.end) - 1;
    const int end = end_query(last_key, piece.end, window);
    // One step of the pipeline: a tile of q and of dy, and what belongs to its queries.
    auto copy_step = [&](u32 stage, int head, int row) {
        copy_tile<D, QUERIES, THREADS>(stage, q + head * D, heads * D, row, end);
        copy_tile<D, QUERIES, THREADS>(stage + TILE, dy + head * D, heads * D, row, end);
        if (threadIdx.x < 2 * QUERIES) {
            const int i = threadIdx.x % QUERIES;
            const bool valid = row + i < end;
            const float* from = (threadIdx.x < QUERIES ? lse : delta) + (u64)head * (u32)tokens + (valid ? row + i : row);
            cp_async_4(stage + 2 * TILE + threadIdx.x * sizeof(float), from, valid ? 4 : 0);
        }
    };
    int head = kv_head * group, row = piece.first;
    copy_tile<D, ROWS, THREADS>(k_tile, k + kv_head * D, kv_heads * D, piece.first, piece.end);
    copy_tile<D, ROWS, THREADS>(v_tile, v + kv_head * D, kv_heads * D, piece.first, piece.end);
    copy_step(stages, head, row);
    cp_async_commit();

    float dk_sum[1][D / 8][4], dv_sum[1][D / 8][4];
    clear(dk_sum[0]);
    clear(dv_sum[0]);
    const int first_key_row = piece.first + warp * 16;
    u32 stage = 0;
    while (head < (kv_head + 1) * group) {
        cp_async_wait<0>();
        __syncthreads(); // this step is here, and no warp reads the other stage any more
        const u32 q_tile = stages + stage * STAGE, dy_tile = q_tile + TILE;
        const float* of_queries = reinterpret_cast<const float*>(shared + (q_tile + 2 * TILE - k_tile));
        const int step_row = row;
        row += QUERIES;
        if (row >= end) row = piece.first, head++;
        stage ^= 1;
        if (head < (kv_head + 1) * group) {
            copy_step(stages + stage * STAGE, head, row);
            cp_async_commit();
        }

        // No query of the step sees a key of the warp.
        if (step_row + QUERIES <= first_key_row || last_key < first_key_row || step_row >= end_query(first_key_row + 15, end, window)) continue;
        // Transposed scores: rows are the warp's keys, columns queries.
        float s[1][QUERIES / 8][4], dp[1][QUERIES / 8][4];
        clear(s[0]);
        product_rows<D>(s[0], k_tile, warp * 16, q_tile);
        clear(dp[0]);
        product_rows<D>(dp[0], v_tile, warp * 16, dy_tile);
        const bool whole = step_row >= first_key_row + 15 && step_row + QUERIES <= end_query(first_key_row, end, window);
        differentiate(
            s[0], dp[0], multiplier, inner, whole, [&](int i, int j) { return of_queries[i * 8 + c_column(j)]; },
            [&](int i, int j) { return of_queries[QUERIES + i * 8 + c_column(j)]; },
            [&](int i, int j) {
                const int query = step_row + i * 8 + c_column(j), key = first_key_row + c_row(j);
                return key <= query && query < end_query(key, end, window);
            });
        product_columns<D>(dv_sum, s, dy_tile);
        product_columns<D>(dk_sum, dp, q_tile);
    }
    auto at = [&](float* to) {
        return [=](int h) -> float* {
            const int key = first_key_row + c_row(2 * h);
            return key < piece.end ? to + ((u64)(u32)key * kv_heads + kv_head) * head_dim : nullptr;
        };
    };
    store_rows<D>(dk_sum[0], scale_k, scale_k, head_dim, rows_of_pairs(dk, head_dim), at(dk));
    store_rows<D>(dv_sum[0], 1.0f, 1.0f, head_dim, rows_of_pairs(dv, head_dim), at(dv));
}

// A piece of 64 queries of one head, tiles of `KEYS` keys up to the diagonal.
template <int D, int KEYS>
__device__ __forceinline__ void backward_q(u8* shared, const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v,
                                           const bf16* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ delta,
                                           const u32* __restrict__ pieces, float* __restrict__ dq, int tokens, int heads, int kv_heads,
                                           int head_dim, int window, float multiplier, float inner, float scale_q) {
    constexpr u32 TILE = KEYS * D * 2;
    const int warp = threadIdx.x / WARP, head = blockIdx.y;
    const Piece piece = piece_of_block<ROWS, Of::Queries>(pieces, tokens);
    const u32 base = shared_address(shared);
    k += head / (heads / kv_heads) * D;
    v += head / (heads / kv_heads) * D;
    const int end = min(piece.first + ROWS, piece.end), first_query = piece.first + warp * 16;
    int row = piece.begin + (first_key(piece.first, piece.begin, 0, window) - piece.begin) / KEYS * KEYS;

    // q and dy pass through the tiles of keys once.
    copy_tile<D, ROWS, THREADS>(base, q + head * D, heads * D, piece.first, piece.end);
    copy_tile<D, ROWS, THREADS>(base + ROWS * D * 2, dy + head * D, heads * D, piece.first, piece.end);
    cp_async_commit();
    float row_lse[2], row_delta[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int t = first_query + c_row(2 * h);
        const u64 at = (u64)head * (u32)tokens + t;
        row_lse[h] = t < end ? lse[at] : 0.0f;
        row_delta[h] = t < end ? delta[at] : 0.0f;
    }
    cp_async_wait<0>();
    __syncthreads();
    u32 q_fragments[1][D / 16][4], dy_fragments[1][D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        load_a<D>(q_fragments[0][i], base, warp * 16, i * 16);
        load_a<D>(dy_fragments[0][i], base + ROWS * D * 2, warp * 16, i * 16);
    }
    __syncthreads();
    auto copy_step = [&](u32 stage, int row) {
        copy_tile<D, KEYS, THREADS>(stage, k, kv_heads * D, row, end);
        copy_tile<D, KEYS, THREADS>(stage + TILE, v, kv_heads * D, row, end);
        cp_async_commit();
    };
    copy_step(base, row);

    float sum[1][D / 8][4];
    clear(sum[0]);
    for (u32 stage = 0; row < end; row += KEYS, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads(); // this step is here, and no warp reads the other stage any more
        const u32 k_tile = base + stage * 2 * TILE, v_tile = k_tile + TILE;
        if (row + KEYS < end) copy_step(base + (stage ^ 1) * 2 * TILE, row + KEYS);
        // No query of the warp sees a key of the step.
        if (first_query >= end || row >= first_query + 16 || row + KEYS <= first_key(first_query, piece.begin, 0, window)) continue;
        float s[1][KEYS / 8][4], dp[1][KEYS / 8][4];
        clear(s[0]);
        product_rows<D>(s, q_fragments, k_tile);
        clear(dp[0]);
        product_rows<D>(dp, dy_fragments, v_tile);
        const bool whole = row + KEYS <= first_query + 1 && row >= first_key(first_query + 15, piece.begin, 0, window);
        differentiate(
            s[0], dp[0], multiplier, inner, whole, [&](int, int j) { return row_lse[j / 2]; }, [&](int, int j) { return row_delta[j / 2]; },
            [&](int i, int j) {
                const int query = first_query + c_row(j), key = row + i * 8 + c_column(j);
                return key <= query && key >= first_key(query, piece.begin, 0, window);
            });
        product_columns<D>(sum, dp, k_tile);
    }
    store_rows<D>(sum[0], scale_q, scale_q, head_dim, rows_of_pairs(dq, head_dim), [&](int h) -> float* {
        const int t = first_query + c_row(2 * h);
        return t < piece.end ? dq + ((u64)(u32)t * heads + head) * head_dim : nullptr;
    });
}

#define BACKWARD(D, QUERIES, KEYS, BLOCKS)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_backward_kv_mma_##D(                                             \
        const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v, const bf16* __restrict__ dy,                     \
        const float* __restrict__ lse, const float* __restrict__ delta, const u32* __restrict__ pieces, float* __restrict__ dk,              \
        float* __restrict__ dv, int tokens, int heads, int kv_heads, int head_dim, int window, float multiplier, float inner,                \
        float scale_k) {                                                                                                                     \
        extern __shared__ __align__(128) u8 shared[];                                                                                        \
        backward_kv<D, QUERIES>(shared, q, k, v, dy, lse, delta, pieces, dk, dv, tokens, heads, kv_heads, head_dim, window, multiplier,      \
                                inner, scale_k);                                                                                             \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_backward_q_mma_##D(                                              \
        const bf16* __restrict__ q, const bf16* __restrict__ k, const bf16* __restrict__ v, const bf16* __restrict__ dy,                     \
        const float* __restrict__ lse, const float* __restrict__ delta, const u32* __restrict__ pieces, float* __restrict__ dq, int tokens,  \
        int heads, int kv_heads, int head_dim, int window, float multiplier, float inner, float scale_q) {                                   \
        __shared__ __align__(128) u8 shared[KEYS * D * 8];                                                                \
        backward_q<D, KEYS>(shared, q, k, v, dy, lse, delta, pieces, dq, tokens, heads, kv_heads, head_dim, window, multiplier, inner,       \
                            scale_q);                                                                                                        \
    }
BACKWARD(32, 32, 64, 2)
BACKWARD(64, 32, 64, 2)
BACKWARD(80, 32, 32, 2)
BACKWARD(96, 32, 32, 2)
BACKWARD(128, 32, 32, 2)
