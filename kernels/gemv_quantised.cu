// y[t, n] = sum_k x[t, k] w[n, k] with w in ggml's blocks, multiplied as they lie: activations are rounded to 8 bits in blocks of 32 (the
// rule is `round_block` in crates/ops/src/quantised.rs), the products of a block are integers (dp4a), scales are applied to their sum.
#include "common.cuh"

// x in blocks of 32 as scale * q: q, and for each block its scale and the sum of its q. Eight lanes have a block, 4 elements each.
extern "C" __global__ __launch_bounds__(256) void quantise_rows_f32(const float* __restrict__ x, u32* __restrict__ q, float2* __restrict__ scales,
                                                                    u32 blocks, u32 vector) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, block = i / 8;
    // Whole warps go on: lanes of the last block exchange with those behind it.
    const u32 at = block < blocks ? i : 0;
    const Pack<4> pack = load_if(vector, x + (u64)at * 4);
    // Without the sign, bits are ordered as numbers are, and NaN lies above all of them.
    u32 largest_bits = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) largest_bits = max(largest_bits, __float_as_uint(pack.at[j]) & 0x7fffffffu);
#pragma unroll
    for (u32 offset = 4; offset > 0; offset /= 2) largest_bits = max(largest_bits, __shfl_xor_sync(ALL_LANES, largest_bits, offset));
    const float largest = __uint_as_float(largest_bits);
    const bool finite = largest_bits < 0x7f800000u, counts = largest_bits >= 0x0d800000u; // 2^-100
    const float inverse = finite && counts ? __fdiv_rn(127.0f, largest) : 0.0f;
    const float scale = !finite ? __uint_as_float(0x7fc00000u) : counts ? __fdiv_rn(largest, 127.0f) : 0.0f;
    int sum = 0;
    u32 word = 0;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        // Where `inverse` is 0, so is the product, or NaN, which becomes 0.
        const int level = __float2int_rn(__fmul_rn(pack.at[j], inverse));
        sum += level;
        word |= ((u32)level & 0xff) << (8 * j);
    }
#pragma unroll
    for (u32 offset = 4; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    if (block < blocks) {
        q[i] = word;
        if (i % 8 == 0) scales[block] = make_float2(scale, (float)sum);
    }
}

// A block as it stands in shared memory: `word(i)` is its i-th word of 4 bytes. Blocks of 34 and 18 bytes begin at even addresses only, so
// their words are cut from two.
struct Words {
    const u32* from;
    u32 shift; // bits by which the block begins after a word

    __device__ __forceinline__ u32 after_scale(int i) const { return __funnelshift_rc(from[i], from[i + 1], shift + 16); }
    __device__ __forceinline__ u16 scale() const { return (u16)(from[0] >> shift); }
};

struct Q8_0 {
    static constexpr int BYTES = 34, STAGES = 4;
    u32 q[8];
    float d;
    __device__ __forceinline__ Q8_0(Words words) {
        d = f32_from_f16(words.scale());
#pragma unroll
        for (int i = 0; i < 8; i++) q[i] = words.after_scale(i);
    }
    __device__ __forceinline__ float dot(const u32 (&x)[8], float2 scale) const {
        int sum = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) sum = __dp4a((int)q[i], (int)x[i], sum);
        return d * scale.x * (float)sum;
    }
};

// The low halves of 16 bytes are elements 0 to 15, the high halves 16 to 31.
__device__ __forceinline__ int dot_nibbles(const u32 (&q)[4], const u32 (&x)[8]) {
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        sum = __dp4a((int)(q[i] & 0x0f0f0f0f), (int)x[i], sum);
        sum = __dp4a((int)(q[i] >> 4 & 0x0f0f0f0f), (int)x[i + 4], sum);
    }
    return sum;
}

struct Q4_0 {
    static constexpr int BYTES = 18, STAGES = 8;
    u32 q[4];
    float d;
    __device__ __forceinline__ Q4_0(Words words) {
        d = f32_from_f16(words.scale());
#pragma unroll
        for (int i = 0; i < 4; i++) q[i] = words.after_scale(i);
    }
    // Levels are 8 above what they mean; all of it is whole numbers below 2^24.
    __device__ __forceinline__ float dot(const u32 (&x)[8], float2 scale) const {
        return d * scale.x * fmaf(-8.0f, scale.y, (float)dot_nibbles(q, x));
    }
};

struct Q4_1 {
    static constexpr int BYTES = 20, STAGES = 8;
    u32 q[4];
    float d, m;
    // Always at a multiple of 4.
    __device__ __forceinline__ Q4_1(Words words) {
        d = f32_from_f16((u16)words.from[0]);
        m = f32_from_f16((u16)(words.from[0] >> 16));
#pragma unroll
        for (int i = 0; i < 4; i++) q[i] = words.from[i + 1];
    }
    __device__ __forceinline__ float dot(const u32 (&x)[8], float2 scale) const {
        return scale.x * fmaf(m, scale.y, d * (float)dot_nibbles(q, x));
    }
};

// `w` is a multiple of 16, and the weight begins `late` bytes behind it. A warp has a row. Its bytes pass through a ring of shared memory of
// the warp's own, 32 blocks a stage, copied in aligned pieces of 16 bytes wherever the row begins; then a lane has a block. Up to TOKENS rows
// of x at a time, further ones along blockIdx.y.
template <class Q, int TOKENS>
__device__ __forceinline__ void gemv_quantised(const unsigned char* w, const u32* x, const float2* scales, float* y, u32 n, u32 blocks,
                                               u32 tokens, u32 late) {
    constexpr u32 WARPS = 8, STAGE = WARP * Q::BYTES + 16, PIECES = (STAGE + 15) / 16;
    static_assert(STAGE % 16 == 0, "stages are aligned");
    __shared__ __align__(16) unsigned char ring[WARPS][Q::STAGES * STAGE];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = blockIdx.x * WARPS + warp;
    if (row >= n) return;
    const u32 first_token = blockIdx.y * TOKENS;
    const u64 begin = late + (u64)row * blocks * Q::BYTES;
    const u32 phase = (u32)begin % 16; // a stage of a row is a multiple of 16 bytes: the same for all
    const u32 own = shared_address(ring[warp]);
    // What is copied next, and the bytes from there to the end of the row, which are an u32 (the host sees to it).
    const unsigned char* from = w + begin - phase;
    u32 left = blocks * Q::BYTES + phase;
    auto fill = [&](u32 stage) {
#pragma unroll
        for (u32 i = 0; i < (PIECES + WARP - 1) / WARP; i++) {
            const u32 piece = i * WARP + lane;
            if (piece >= PIECES) break;
            cp_async_16(own + stage * STAGE + piece * 16, from + piece * 16, min(16, left - min(left, piece * 16)));
        }
        cp_async_commit();
        from += WARP * Q::BYTES;
        left -= min(left, WARP * Q::BYTES);
    };
#pragma unroll
    for (u32 s = 0; s < Q::STAGES - 1; s++) fill(s);

    float sums[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) sums[t] = 0.0f;
    u32 stage = 0, at = 0;
    do { // a row has a block at least
        cp_async_wait<Q::STAGES - 2>();
        __syncwarp();
        const u32 block = at + lane;
        if (block < blocks) {
            const u32 offset = stage * STAGE + phase + lane * Q::BYTES;
            const Q weights(Words{reinterpret_cast<const u32*>(ring[warp] + (offset & ~3u)), (offset & 2) * 8});
#pragma unroll
            for (int t = 0; t < TOKENS; t++) {
                if (t > 0 && first_token + t >= tokens) break;
                const u64 i = (u64)(first_token + t) * blocks + block;
                const uint4* p = reinterpret_cast<const uint4*>(x + i * 8);
                const uint4 p0 = __ldg(p), p1 = __ldg(p + 1);
                const u32 levels[8] = {p0.x, p0.y, p0.z, p0.w, p1.x, p1.y, p1.z, p1.w};
                sums[t] += weights.dot(levels, __ldg(scales + i));
            }
        }
        __syncwarp();
        // The stage before this one was read in the last round.
        fill(stage == 0 ? Q::STAGES - 1 : stage - 1);
        stage = stage == Q::STAGES - 1 ? 0 : stage + 1;
        at += WARP;
    } while (at < blocks);
    cp_async_wait<0>();
    // Lane t has the sum of token t.
    float sum = 0.0f;
#pragma unroll
    for (u32 t = 0; t < TOKENS; t++) {
        if (t > 0 && first_token + t >= tokens) break;
        const float of_token = warp_sum(sums[t]);
        if (lane == t) sum = of_token;
    }
    const u32 token = first_token + lane;
    if (lane < TOKENS && token < tokens) y[(u64)token * n + row] = sum;
}

#define GEMV(NAME, Q, TOKENS)                                                                                                             \
    extern "C" __global__ __launch_bounds__(256) void NAME(const unsigned char* __restrict__ w, const u32* __restrict__ x,                \
                                                           const float2* __restrict__ scales, float* __restrict__ y, u32 n, u32 blocks,   \
                                                           u32 tokens, u32 late) {                                                        \
        gemv_quantised<Q, TOKENS>(w, x, scales, y, n, blocks, tokens, late);                                                              \
    }
GEMV(gemv_q8_0_t1, Q8_0, 1)
GEMV(gemv_q8_0_t8, Q8_0, 8)
GEMV(gemv_q4_0_t1, Q4_0, 1)
GEMV(gemv_q4_0_t8, Q4_0, 8)
GEMV(gemv_q4_1_t1, Q4_1, 1)
GEMV(gemv_q4_1_t8, Q4_1, 8)
