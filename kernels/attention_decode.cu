// Attention of one or a few queries over a long cache: the cache is read once, by blocks that each take a range of keys (a split) for all
// query heads of a key/value head, and a second kernel adds the splits up in their order. All arithmetic is f32; the cache is f32 or bf16.
//
// L lanes share a key, so a block has 128 / L places of keys, each with its own running maximum and sum; places are merged at the end in a
// fixed order. q is f32 [tokens, heads * head_dim]; the cache's rows are `kv_heads * head_dim` wide, and a head in a row is aligned to
// 16 bytes and a multiple of them long. With a table of pages, key j lies in row `pages[j >> page_shift] << page_shift | j & mask`.
// A split's y and lse go to [tokens, heads, splits, head_dim] and [tokens, heads, splits]: with one split that is the result. Scores are
// as in attention_f32.cu.
#include "attention.cuh"

constexpr int THREADS = 128, WARPS = THREADS / WARP, PER_LANE = 8;

// Which 8 elements of a row lane `l` of L has: two vectors of four floats that are L vectors apart, or one of eight bf16.
template <int L, class C> __device__ __forceinline__ int element(int l, int i);
template <> __device__ __forceinline__ int element<8, float>(int l, int i) { return (i / 4 * 8 + l) * 4 + i % 4; }
template <> __device__ __forceinline__ int element<16, float>(int l, int i) { return (i / 4 * 16 + l) * 4 + i % 4; }
template <> __device__ __forceinline__ int element<32, float>(int l, int i) { return (i / 4 * 32 + l) * 4 + i % 4; }
template <> __device__ __forceinline__ int element<8, bf16>(int l, int i) { return l * 8 + i; }
template <> __device__ __forceinline__ int element<16, bf16>(int l, int i) { return l * 8 + i; }

// Whether vector `i / 4` of a lane is in every head that L lanes are for: those that half of the lanes can hold have a kernel of their own.
template <int L, class C> __device__ __forceinline__ constexpr bool always_inside(int i) { return L > 8 && sizeof(C) == 4 && i < 4; }

// The lane's elements of a row, zeros past `head_dim`, or everywhere without `valid`.
template <int L> __device__ __forceinline__ void load_row(float (&x)[PER_LANE], const float* __restrict__ row, int l, int head_dim, bool valid) {
#pragma unroll
    for (int i = 0; i < PER_LANE; i += 4) {
        const int c = element<L, float>(l, i);
        float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (valid && (always_inside<L, float>(i) || c < head_dim)) four = *reinterpret_cast<const float4*>(row + c);
        x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
}
template <int L> __device__ __forceinline__ void load_row(float (&x)[PER_LANE], const bf16* __restrict__ row, int l, int head_dim, bool valid) {
    uint4 eight = make_uint4(0, 0, 0, 0);
    if (valid && l * 8 < head_dim) eight = *reinterpret_cast<const uint4*>(row + l * 8);
    const u32 pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __int_as_float(pairs[i] << 16);
        x[2 * i + 1] = __int_as_float(pairs[i] & 0xffff0000u);
    }
}

// The most query heads that a block takes, and how many one for up to G heads has at least.
constexpr int MOST_HEADS = 8;
template <int G> constexpr int LEAST_HEADS = G == 4 ? 2 : 1;

// U keys a place at once; G query heads a block.
template <int L, int G, int U, class C>
__device__ __forceinline__ void decode(float* shared, const float* __restrict__ q, const C* __restrict__ k, const C* __restrict__ v,
                                       const u32* __restrict__ pages, float* __restrict__ y, float* __restrict__ lse, int heads,
                                       int kv_heads, int head_dim, int past, int window, int first, int per_split, int page_shift,
                                       float scale, float cap) {
    constexpr int PLACES = THREADS / L, WIDTH = L * PER_LANE;
    const int l = threadIdx.x % L, place = threadIdx.x / L, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int token = blockIdx.z, split = blockIdx.x, splits = gridDim.x;
    const int group = heads / kv_heads;
    int kv_head = blockIdx.y, first_head = 0, n_heads = G == 1 ? 1 : group;
    if constexpr (G == MOST_HEADS) { // a larger group takes several blocks
        const u32 blocks = (u32)(group + G - 1) / G;
        kv_head = blockIdx.y / blocks;
        first_head = blockIdx.y % blocks * G;
        n_heads = min(G, group - first_head);
    }
    const int head = kv_head * group + first_head;
    const int low = max(first + split * per_split, first_key(token, 0, past, window));
    const int high = min(first + (split + 1) * per_split, past + token + 1);
    const int width = kv_heads * head_dim;
    const float inverse_cap = 1.0f / cap;
    k += kv_head * head_dim;
    v += kv_head * head_dim;

    float query[G][PER_LANE], sum[G][PER_LANE], maximum[G], total[G];
#pragma unroll
    for (int g = 0; g < G; g++) {
        maximum[g] = -INFINITY_F32;
        total[g] = 0.0f;
#pragma unroll
        for (int i = 0; i < PER_LANE; i += 4) {
            // A head is a multiple of four elements long: all four are in it, or none.
            const int c = element<L, C>(l, i);
            const bool inside = (g < LEAST_HEADS<G> || g < n_heads) && (always_inside<L, C>(i) || c < head_dim);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                query[g][i + j] = inside ? q[((u64)(u32)token * heads + head + g) * head_dim + c + j] : 0.0f;
                sum[g][i + j] = 0.0f;
            }
        }
    }

    for (int base = low; base < high; base += PLACES * U) {
        float keys[U][PER_LANE], values[U][PER_LANE];
        u64 at[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            const int key = min(base + u * PLACES + place, high - 1);
            const u32 row = pages == nullptr ? key : (pages[key >> page_shift] << page_shift) + (key & ((1 << page_shift) - 1));
            at[u] = (u64)row * width;
        }
#pragma unroll
        for (int u = 0; u < U; u++) load_row<L>(keys[u], k + at[u], l, head_dim, base + u * PLACES + place < high);
#pragma unroll
        for (int u = 0; u < U; u++) load_row<L>(values[u], v + at[u], l, head_dim, base + u * PLACES + place < high);
#pragma unroll
        for (int g = 0; g < G; g++) {
            float s[U], m = maximum[g];
#pragma unroll
            for (int u = 0; u < U; u++) {
                float dot = 0.0f;
#pragma unroll
                for (int i = 0; i < PER_LANE; i++) dot = fmaf(query[g][i], keys[u][i], dot);
#pragma unroll
                for (int offset = L / 2; offset > 0; offset /= 2) dot += __shfl_xor_sync(ALL_LANES, dot, offset);
                dot *= scale;
                if (cap != 0.0f) dot = cap * tanhf(dot * inverse_cap);
                s[u] = base + u * PLACES + place < high ? dot : -INFINITY_F32;
                m = fmaxf(m, s[u]);
            }
            // A place that has seen no key yet keeps zeros.
            const float offset = m == -INFINITY_F32 ? 0.0f : m, factor = exp_score(maximum[g] - offset);
            maximum[g] = m;
            total[g] *= factor;
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) sum[g][i] *= factor;
#pragma unroll
            for (int u = 0; u < U; u++) {
                const float p = exp_score(s[u] - offset);
                total[g] += p;
#pragma unroll
                for (int i = 0; i < PER_LANE; i++) sum[g][i] = fmaf(p, values[u][i], sum[g][i]);
            }
        }
    }

    // The places of a warp, then the warps.
    float* const maxima = shared;
    float* const totals = maxima + WARPS * G;
    float* const sums = totals + WARPS * G;
#pragma unroll
    for (int g = 0; g < G; g++) {
        float m = maximum[g];
#pragma unroll
        for (int offset = L; offset < WARP; offset *= 2) m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, offset));
        const float factor = m == -INFINITY_F32 ? 0.0f : exp_score(maximum[g] - m);
        total[g] *= factor;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) sum[g][i] *= factor;
#pragma unroll
        for (int offset = L; offset < WARP; offset *= 2) {
            total[g] += __shfl_xor_sync(ALL_LANES, total[g], offset);
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) sum[g][i] += __shfl_xor_sync(ALL_LANES, sum[g][i], offset);
        }
        if (lane < L) {
            if (lane == warp) maxima[lane * G + g] = m, totals[lane * G + g] = total[g]; // all lanes have them
            // Where a lane's two vectors are neighbours, every second group of four lanes begins with the second: the banks differ.
            const bool turn = sizeof(C) == sizeof(bf16) && l / 4 % 2 == 1;
            const float4 front = make_float4(sum[g][0], sum[g][1], sum[g][2], sum[g][3]);
            const float4 back = make_float4(sum[g][4], sum[g][5], sum[g][6], sum[g][7]);
            float4* const to = reinterpret_cast<float4*>(sums + (warp * G + g) * WIDTH);
            to[element<L, C>(l, turn ? 4 : 0) / 4] = turn ? back : front;
            to[element<L, C>(l, turn ? 0 : 4) / 4] = turn ? front : back;
        }
    }
    __syncthreads();
#pragma unroll 1
    for (u32 index = threadIdx.x; index < n_heads * WIDTH; index += THREADS) {
        const int g = index / WIDTH, c = index % WIDTH;
        float m = -INFINITY_F32, all = 0.0f, x = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) m = fmaxf(m, maxima[w * G + g]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float factor = m == -INFINITY_F32 ? 0.0f : exp_score(maxima[w * G + g] - m);
            all = fmaf(factor, totals[w * G + g], all);
            x = fmaf(factor, sums[(w * G + g) * WIDTH + c], x);
        }
        const u64 row = ((u64)(u32)token * heads + head + g) * splits + split;
        // A split of no keys, as a window leaves some, weighs nothing.
        if (c < head_dim) y[row * head_dim + c] = all == 0.0f ? 0.0f : x / all;
        if (c == 0) lse[row] = all == 0.0f ? -INFINITY_F32 : m + logf(all);
    }
}

// The sum of the splits of a query's head, weighted by their normalisers, in their order. A warp a query and head; `rows` of them.
extern "C" __global__ void __launch_bounds__(THREADS) attention_combine_f32(const float* __restrict__ split_y,
                                                                            const float* __restrict__ split_lse, float* __restrict__ y,
                                                                            float* __restrict__ lse, int rows, int splits, int head_dim) {
    const int row = blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    split_y += (u64)(u32)row * splits * head_dim;
    split_lse += (u64)(u32)row * splits;
    float m = -INFINITY_F32, total = 0.0f;
    for (int i = lane; i < splits; i += WARP) m = fmaxf(m, split_lse[i]);
    m = warp_max(m);
    for (int i = lane; i < splits; i += WARP) total += exp_score(split_lse[i] - m);
    total = warp_sum(total);
    if (lane == 0) lse[row] = m + logf(total);
    const float inverse = 1.0f / total;
    for (int c = lane; c < head_dim; c += WARP) {
        float sum = 0.0f;
#pragma unroll 4
        for (int i = 0; i < splits; i++) sum = fmaf(exp_score(split_lse[i] - m), split_y[(u64)(u32)i * head_dim + c], sum);
        y[(u64)(u32)row * head_dim + c] = sum * inverse;
    }
}

#define DECODE(TYPE, L, G, U, BLOCKS)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_decode_##TYPE##_##L##_##G(                                       \
        const float* __restrict__ q, const TYPE##_t* __restrict__ k, const TYPE##_t* __restrict__ v, const u32* __restrict__ pages,          \
        float* __restrict__ y, float* __restrict__ lse, int heads, int kv_heads, int head_dim, int past, int window, int first,              \
        int per_split, int page_shift, float scale, float cap) {                                                                \
        __shared__ __align__(16) float shared[WARPS * G * (2 + L * PER_LANE)];                                                               \
        decode<L, G, U>(shared, q, k, v, pages, y, lse, heads, kv_heads, head_dim, past, window, first, per_split, page_shift, scale, cap);  \
    }
typedef float f32_t;
typedef bf16 bf16_t;
DECODE(f32, 8, 1, 4, 4)
DECODE(f32, 8, 4, 2, 4)
DECODE(f32, 8, 8, 2, 2)
DECODE(f32, 16, 1, 4, 4)
DECODE(f32, 16, 4, 2, 4)
DECODE(f32, 16, 8, 2, 2)
DECODE(f32, 32, 1, 4, 4)
DECODE(f32, 32, 4, 2, 4)
DECODE(f32, 32, 8, 2, 2)
DECODE(bf16, 8, 1, 4, 4)
DECODE(bf16, 8, 4, 2, 4)
DECODE(bf16, 8, 8, 2, 2)
DECODE(bf16, 16, 1, 4, 4)
DECODE(bf16, 16, 4, 2, 4)
DECODE(bf16, 16, 8, 2, 2)
