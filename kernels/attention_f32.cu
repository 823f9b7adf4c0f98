// Causal attention and its gradients in f32 throughout, for `AttnSpec::compute` = F32: tiles in shared memory, one fused multiply-add a
// term, sums in one order. Scores are `scale * s`, or `cap * tanh(scale * s / cap)` where cap is not 0.
//
// A block owns R rows (queries, or keys in `backward_kv`), a warp 8 of them, and streams tiles of 32 rows of the other side. In a warp,
// lane 8a + b has rows 2a and 2a + 1; of scores it has columns b, b + 8, b + 16, b + 24; of sums over D it has columns 4b .. 4b + 4, and
// every 32nd from there. Heads are padded with zeros to D. All data are f32 [T, heads * head_dim] and 4-byte aligned.
#include "attention.cuh"

constexpr int STREAM = 32, OWN_PER_WARP = 8;
// Strides in floats: rows are 16 bytes apart in the banks, and rows of scores 8 banks for every second row.
template <int D> constexpr int STRIDE = D + 4;
constexpr int P_STRIDE = STREAM + 4;

// Rows `row ..` of one head into a tile; zeros past `end` and past `head_dim`.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void load_rows(float* tile, const float* __restrict__ head, int stride, int head_dim, int row, int end) {
    static_assert(ROWS * D % (4 * THREADS) == 0, "all threads have as many elements, in fours");
#pragma unroll 4
    for (u32 i = 0; i < ROWS * D / THREADS; i++) {
        const u32 index = threadIdx.x + i * THREADS, r = index / D, c = index % D;
        tile[r * STRIDE<D> + c] = row + (int)r < end && (int)c < head_dim ? head[(u64)(row + r) * stride + c] : 0.0f;
    }
}
// The same between two barriers, into a tile that all warps read.
template <int D, int THREADS>
__device__ __forceinline__ void stream_rows(float* tile, const float* __restrict__ head, int stride, int head_dim, int row, int end) {
    __syncthreads();
    load_rows<D, STREAM, THREADS>(tile, head, stride, head_dim, row, end);
    __syncthreads();
}

__device__ __forceinline__ int lane_row() { return threadIdx.x % WARP / 8 * 2; }
__device__ __forceinline__ int lane_column() { return threadIdx.x % 8; }

__device__ __forceinline__ float dot4(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}
// s[r][i] = own row r . streamed row (lane_column + 8 i); `own` is the warp's first row.
template <int D> __device__ __forceinline__ void products(float (&s)[2][4], const float* own, const float* streamed) {
    own += lane_row() * STRIDE<D>;
    streamed += lane_column() * STRIDE<D>;
#pragma unroll
    for (int i = 0; i < 4; i++) s[0][i] = s[1][i] = 0.0f;
#pragma unroll 2
    for (int c = 0; c < D; c += 4) {
        const float4 a = load_shared_4(own + c), b = load_shared_4(own + STRIDE<D> + c);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float4 x = load_shared_4(streamed + 8 * i * STRIDE<D> + c);
            s[0][i] = dot4(a, x, s[0][i]);
            s[1][i] = dot4(b, x, s[1][i]);
        }
    }
}
// The warp's rows of scores to shared memory, where `add_rows` reads them; only this warp does.
__device__ __forceinline__ void keep(float* p, const float (&s)[2][4]) {
    __syncwarp();
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int i = 0; i < 4; i++) p[(lane_row() + r) * P_STRIDE + lane_column() + 8 * i] = s[r][i];
    __syncwarp();
}
// sum[r] += P X for the warp's rows of P and the streamed rows X.
template <int D> __device__ __forceinline__ void add_rows(float4 (&sum)[2][D / 32], const float* p, const float* streamed) {
    p += lane_row() * P_STRIDE;
    streamed += lane_column() * 4;
#pragma unroll 2
    for (int j = 0; j < STREAM; j++) {
        const float a = p[j], b = p[P_STRIDE + j];
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            const float4 x = load_shared_4(streamed + j * STRIDE<D> + i * 32);
            float4 &u = sum[0][i], &v = sum[1][i];
            u.x = fmaf(a, x.x, u.x), u.y = fmaf(a, x.y, u.y), u.z = fmaf(a, x.z, u.z), u.w = fmaf(a, x.w, u.w);
            v.x = fmaf(b, x.x, v.x), v.y = fmaf(b, x.y, v.y), v.z = fmaf(b, x.z, v.z), v.w = fmaf(b, x.w, v.w);
        }
    }
}
template <int D> __device__ __forceinline__ void zero(float4 (&sum)[2][D / 32]) {
#pragma unroll
    for (int i = 0; i < D / 32; i++) sum[0][i] = sum[1][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}
template <int D> __device__ __forceinline__ void store_row(float* row, const float4 (&sum)[D / 32], float factor, int head_dim) {
    const int left = head_dim - lane_column() * 4; // elements of the head from the lane's first one on
    row += lane_column() * 4;
#pragma unroll
    for (int i = 0; i < D / 32; i++) {
        const bool inside = i * 32 + 31 <= NARROWER_F32<D>;
        if (inside || i * 32 < left) row[i * 32] = sum[i].x * factor;
        if (inside || i * 32 + 1 < left) row[i * 32 + 1] = sum[i].y * factor;
        if (inside || i * 32 + 2 < left) row[i * 32 + 2] = sum[i].z * factor;
        if (inside || i * 32 + 3 < left) row[i * 32 + 3] = sum[i].w * factor;
    }
}
// Products become scores. Where they are capped, `slope` becomes d score / d (scale * product): 1 - tanh^2, as 1 / cosh^2, which does not
// cancel; otherwise it stays.
template <bool SLOPE> __device__ __forceinline__ void score(float (&s)[2][4], float (&slope)[2][4], float scale, float cap) {
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int i = 0; i < 4; i++) s[r][i] *= scale;
    if (cap == 0.0f) return;
    const float inverse = 1.0f / cap;
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float x = s[r][i] * inverse;
            s[r][i] = cap * tanhf(x);
            if (SLOPE) {
                const float e = exp_score(-2.0f * fabsf(x)), d = 1.0f + e;
                slope[r][i] *= __fdividef(4.0f * e, d * d);
            }
        }
}

template <int D, int THREADS>
__device__ __forceinline__ void forward(float* shared, const float* __restrict__ q, const float* __restrict__ k,
                                        const float* __restrict__ v, const u32* __restrict__ pieces, float* __restrict__ y,
                                        float* __restrict__ lse, int tokens, int heads, int kv_heads, int head_dim, int past, int window, float scale,
                                        float cap) {
    constexpr int R = THREADS / WARP * OWN_PER_WARP;
    const int warp = threadIdx.x / WARP, head = blockIdx.y, kv_stride = kv_heads * head_dim;
    const Piece piece = piece_of_block<R, Of::Queries>(pieces, tokens);
    float* const streamed = shared + R * STRIDE<D>;
    float* const p = streamed + STREAM * STRIDE<D> + warp * OWN_PER_WARP * P_STRIDE;
    const float* const own = shared + warp * OWN_PER_WARP * STRIDE<D>;
    k += head / (heads / kv_heads) * head_dim;
    v += head / (heads / kv_heads) * head_dim;
    load_rows<D, R, THREADS>(shared, q + head * head_dim, heads * head_dim, head_dim, piece.first, piece.end);

    const int first_query = piece.first + warp * OWN_PER_WARP + lane_row(), end = past + min(piece.first + R, piece.end);
    float4 sum[2][D / 32];
    zero<D>(sum);
    float maximum[2] = {-INFINITY_F32, -INFINITY_F32}, total[2] = {0.0f, 0.0f};
    for (int row = first_key(piece.first, piece.begin, past, window); row < end; row += STREAM) {
        stream_rows<D, THREADS>(streamed, k, kv_stride, head_dim, row, end);
        float s[2][4];
        products<D>(s, own, streamed);
        score<false>(s, s, scale, cap);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int query = first_query + r;
            float m = maximum[r];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = row + lane_column() + 8 * i;
                // Rows past the piece see what they like: nobody stores them.
                const bool seen = key <= past + query && key >= first_key(query, piece.begin, past, window);
                if (!seen) s[r][i] = -INFINITY_F32;
                m = fmaxf(m, s[r][i]);
            }
#pragma unroll
            for (int offset = 1; offset < 8; offset *= 2) m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, offset));
            // A row that has seen no key yet keeps zeros.
            const float offset = m == -INFINITY_F32 ? 0.0f : m, factor = exp_score(maximum[r] - offset);
            maximum[r] = m;
            total[r] *= factor;
#pragma unroll
            for (int i = 0; i < D / 32; i++) sum[r][i].x *= factor, sum[r][i].y *= factor, sum[r][i].z *= factor, sum[r][i].w *= factor;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[r][i] = exp_score(s[r][i] - offset);
                total[r] += s[r][i];
            }
        }
        keep(p, s);
        stream_rows<D, THREADS>(streamed, v, kv_stride, head_dim, row, end);
        add_rows<D>(sum, p, streamed);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int offset = 1; offset < 8; offset *= 2) total[r] += __shfl_xor_sync(ALL_LANES, total[r], offset);
        const int t = first_query + r;
        if (t >= piece.end) continue;
        const u64 at = (u64)(u32)t * heads + head;
        store_row<D>(y + at * head_dim, sum[r], 1.0f / total[r], head_dim);
        if (lane_column() == 0) lse[at] = maximum[r] + logf(total[r]);
    }
}

// `lse` and `delta` = sum_c dy_c y_c are [heads, tokens], as `attention_delta_f32` makes them.
template <int D, int THREADS>
__device__ __forceinline__ void backward_q(float* shared, const float* __restrict__ q, const float* __restrict__ k,
                                           const float* __restrict__ v, const float* __restrict__ dy, const float* __restrict__ lse,
                                           const float* __restrict__ delta, const u32* __restrict__ pieces, float* __restrict__ dq,
                                           int tokens, int heads, int kv_heads, int head_dim, int window, float scale, float cap) {
    constexpr int R = THREADS / WARP * OWN_PER_WARP;
    const int warp = threadIdx.x / WARP, head = blockIdx.y, kv_stride = kv_heads * head_dim;
    const Piece piece = piece_of_block<R, Of::Queries>(pieces, tokens);
    float* const own_dy = shared + R * STRIDE<D>;
    float* const streamed = own_dy + R * STRIDE<D>;
    float* const ds = streamed + STREAM * STRIDE<D> + warp * OWN_PER_WARP * P_STRIDE;
    const int own = warp * OWN_PER_WARP * STRIDE<D>;
    k += head / (heads / kv_heads) * head_dim;
    v += head / (heads / kv_heads) * head_dim;
    load_rows<D, R, THREADS>(shared, q + head * head_dim, heads * head_dim, head_dim, piece.first, piece.end);
    load_rows<D, R, THREADS>(own_dy, dy + head * head_dim, heads * head_dim, head_dim, piece.first, piece.end);

    const int first_query = piece.first + warp * OWN_PER_WARP + lane_row(), end = min(piece.first + R, piece.end);
    float row_lse[2], row_delta[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const u64 at = (u64)head * (u32)tokens + first_query + r;
        row_lse[r] = first_query + r < end ? lse[at] : 0.0f;
        row_delta[r] = first_query + r < end ? delta[at] : 0.0f;
    }
    float4 sum[2][D / 32];
    zero<D>(sum);
    for (int row = first_key(piece.first, piece.begin, 0, window); row < end; row += STREAM) {
        float s[2][4], dp[2][4];
        stream_rows<D, THREADS>(streamed, k, kv_stride, head_dim, row, end);
        products<D>(s, shared + own, streamed);
        stream_rows<D, THREADS>(streamed, v, kv_stride, head_dim, row, end);
        products<D>(dp, own_dy + own, streamed);
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int i = 0; i < 4; i++) dp[r][i] -= row_delta[r];
        score<true>(s, dp, scale, cap);
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int key = row + lane_column() + 8 * i, query = first_query + r;
                // Rows past the piece see what they like: nobody stores them.
                const bool seen = key <= query && key >= first_key(query, piece.begin, 0, window);
                dp[r][i] = seen ? exp_score(s[r][i] - row_lse[r]) * dp[r][i] : 0.0f;
            }
        keep(ds, dp);
        stream_rows<D, THREADS>(streamed, k, kv_stride, head_dim, row, end);
        add_rows<D>(sum, ds, streamed);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int t = first_query + r;
        if (t < piece.end) store_row<D>(dq + ((u64)(u32)t * heads + head) * head_dim, sum[r], scale, head_dim);
    }
}

template <int D, int THREADS>
__device__ __forceinline__ void backward_kv(float* shared, const float* __restrict__ q, const float* __restrict__ k,
                                            const float* __restrict__ v, const float* __restrict__ dy, const float* __restrict__ lse,
                                            const float* __restrict__ delta, const u32* __restrict__ pieces, float* __restrict__ dk,
                                            float* __restrict__ dv, int tokens, int heads, int kv_heads, int head_dim, int window,
                                            float scale, float cap) {
    constexpr int R = THREADS / WARP * OWN_PER_WARP;
    const int warp = threadIdx.x / WARP, kv_head = blockIdx.y, group = heads / kv_heads, stride = heads * head_dim;
    const Piece piece = piece_of_block<R, Of::Keys>(pieces, tokens);
    float* const own_v = shared + R * STRIDE<D>;
    float* const streamed = own_v + R * STRIDE<D>;
    float* const kept = streamed + STREAM * STRIDE<D> + warp * OWN_PER_WARP * P_STRIDE;
    const int own = warp * OWN_PER_WARP * STRIDE<D>;
    load_rows<D, R, THREADS>(shared, k + kv_head * head_dim, kv_heads * head_dim, head_dim, piece.first, piece.end);
    load_rows<D, R, THREADS>(own_v, v + kv_head * head_dim, kv_heads * head_dim, head_dim, piece.first, piece.end);

    const int own_key = piece.first + warp * OWN_PER_WARP + lane_row();
    const int end = end_query(min(piece.first + R, piece.end) - 1, piece.end, window);
    float4 dk_sum[2][D / 32], dv_sum[2][D / 32];
    zero<D>(dk_sum);
    zero<D>(dv_sum);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int row = piece.first; row < end; row += STREAM) {
            float s[2][4], dp[2][4];
            stream_rows<D, THREADS>(streamed, q + head * head_dim, stride, head_dim, row, end);
            products<D>(s, shared + own, streamed);
            stream_rows<D, THREADS>(streamed, dy + head * head_dim, stride, head_dim, row, end);
            products<D>(dp, own_v + own, streamed);
            float query_lse[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int query = row + lane_column() + 8 * i;
                const u64 at = (u64)head * (u32)tokens + (query < end ? query : row);
                query_lse[i] = lse[at];
                dp[0][i] -= delta[at];
                dp[1][i] -= delta[at];
            }
            score<true>(s, dp, scale, cap);
#pragma unroll
            for (int r = 0; r < 2; r++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int query = row + lane_column() + 8 * i, key = own_key + r;
                    const bool seen = key <= query && query < end_query(key, end, window);
                    s[r][i] = seen ? exp_score(s[r][i] - query_lse[i]) : 0.0f;
                    dp[r][i] *= s[r][i];
                }
            keep(kept, s);
            add_rows<D>(dv_sum, kept, streamed);
            keep(kept, dp);
            stream_rows<D, THREADS>(streamed, q + head * head_dim, stride, head_dim, row, end);
            add_rows<D>(dk_sum, kept, streamed);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (own_key + r >= piece.end) continue;
        const u64 at = ((u64)(u32)(own_key + r) * kv_heads + kv_head) * head_dim;
        store_row<D>(dk + at, dk_sum[r], scale, head_dim);
        store_row<D>(dv + at, dv_sum[r], 1.0f, head_dim);
    }
}

#define ATTENTION(D, THREADS, BLOCKS)                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_f32_##D(                                                                 \
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v, const u32* __restrict__ pieces,               \
        float* __restrict__ y, float* __restrict__ lse, int tokens, int heads, int kv_heads, int head_dim, int past, int window, float scale,            \
        float cap) {                                                                                                                         \
        extern __shared__ __align__(16) float shared[];                                                                                      \
        forward<D, THREADS>(shared, q, k, v, pieces, y, lse, tokens, heads, kv_heads, head_dim, past, window, scale, cap);                           \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_backward_q_f32_##D(                                                      \
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v, const float* __restrict__ dy,                 \
        const float* __restrict__ lse, const float* __restrict__ delta, const u32* __restrict__ pieces, float* __restrict__ dq, int tokens,  \
        int heads, int kv_heads, int head_dim, int window, float scale, float cap) {                                                         \
        extern __shared__ __align__(16) float shared[];                                                                                      \
        backward_q<D, THREADS>(shared, q, k, v, dy, lse, delta, pieces, dq, tokens, heads, kv_heads, head_dim, window, scale, cap);          \
    }                                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_backward_kv_f32_##D(                                                     \
        const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v, const float* __restrict__ dy,                 \
        const float* __restrict__ lse, const float* __restrict__ delta, const u32* __restrict__ pieces, float* __restrict__ dk,              \
        float* __restrict__ dv, int tokens, int heads, int kv_heads, int head_dim, int window, float scale, float cap) {                     \
        extern __shared__ __align__(16) float shared[];                                                                                      \
        backward_kv<D, THREADS>(shared, q, k, v, dy, lse, delta, pieces, dk, dv, tokens, heads, kv_heads, head_dim, window, scale, cap);     \
    }
ATTENTION(64, 128, 4)
ATTENTION(128, 128, 3)
ATTENTION(256, 64, 4)
