// ggml's blocks of 32 numbers, one block a row of `WORDS` 16-bit words: the values of `crates/tensor/src/block.rs`, bit for bit.
#pragma once
#include "common.cuh"

struct Q8_0 {
    static constexpr u32 WORDS = 17;
};
struct Q4_0 {
    static constexpr u32 WORDS = 9;
};
struct Q4_1 {
    static constexpr u32 WORDS = 10;
};

// Elements 4 * group to 4 * group + 3 of consecutive blocks. Blocks are aligned to 2 bytes only, so words are read one by one.
template <class Q> __device__ __forceinline__ Pack<4> values_of(const u16* blocks, u64 group) {
    const u16* block = blocks + group / 8 * Q::WORDS;
    const u32 part = group % 8; // of the block's 8 packs
    // A NaN only has to stay one: arithmetic makes what it likes of it.
    const float d = f32_from_f16(block[0]);
    Pack<4> pack;
    if constexpr (Q::WORDS == Q8_0::WORDS) {
        const u32 bytes = block[1 + part * 2] | (u32)block[2 + part * 2] << 16;
#pragma unroll
        for (int i = 0; i < 4; i++) pack.at[i] = d * (float)((int)(bytes << (24 - 8 * i)) >> 24);
    } else {
        // The low halves of the bytes are elements 0 to 15, the high halves 16 to 31.
        constexpr u32 FIRST = Q::WORDS - 8;
        const u16* pair = block + FIRST + part % 4 * 2;
        const u32 bytes = (pair[0] | (u32)pair[1] << 16) >> part / 4 * 4;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float q = (float)(bytes >> 8 * i & 15);
            if constexpr (Q::WORDS == Q4_0::WORDS) {
                pack.at[i] = d * (q - 8.0f);
            } else {
                pack.at[i] = fmaf(d, q, f32_from_f16(block[1]));
            }
        }
    }
    return pack;
}

// Writes a block: lane j has byte j behind the scales `d` and `m`, of which Q8_0 and Q4_0 have the first; lane i writes word i.
template <class Q> __device__ __forceinline__ void store_block(u16* block, u32 byte, float d, float m) {
    constexpr u32 SCALES = Q::WORDS == Q4_1::WORDS ? 2 : 1;
    const u32 lane = threadIdx.x % WARP, from = (lane - SCALES) * 2;
    u32 word = __shfl_sync(ALL_LANES, byte, from) | __shfl_sync(ALL_LANES, byte, from + 1) << 8;
    if (lane < SCALES) word = f16_from_f32(lane == 0 ? d : m);
    if (lane < Q::WORDS) block[lane] = (u16)word;
}

// A float as Rust's `as u8` and `as i8` make it whole: towards zero, at the ends where it lies beyond them, NaN as zero.
__device__ __forceinline__ int whole_between(float x, int low, int high) { return max(low, min(high, __float2int_rz(x))); }

// Writes the block whose element number `lane` is `x`. Called by whole warps. No multiplication is fused with an addition, or ties would
// fall otherwise than in ggml. Scales are never NaN: of a NaN and a number `fmaxf` takes the number.
template <class Q> __device__ __forceinline__ void block_from(u16* block, float x) {
    if constexpr (Q::WORDS == Q8_0::WORDS) {
        const float d = __fdiv_rn(warp_max(fmaxf(fabsf(x), 0.0f)), 127.0f);
        const float scaled = __fmul_rn(x, d == 0.0f ? 0.0f : __fdiv_rn(1.0f, d));
        // To the nearest, ties away from zero.
        const float whole = truncf(scaled), rest = scaled - whole;
        const float nearest = rest >= 0.5f ? whole + 1.0f : rest <= -0.5f ? whole - 1.0f : whole;
        store_block<Q>(block, (u32)whole_between(nearest, -128, 127) & 0xff, d, 0.0f);
    } else {
        float d, least = 0.0f, level;
        if constexpr (Q::WORDS == Q4_0::WORDS) {
            // The first of the elements of the largest magnitude, with its sign.
            const float size = fmaxf(fabsf(x), 0.0f), largest = warp_max(size);
            const u32 those = __ballot_sync(ALL_LANES, size == largest), first = 31 - __clz(those & -those);
            const float extreme = __shfl_sync(ALL_LANES, largest == 0.0f ? 0.0f : x, first);
            d = __fdiv_rn(extreme, -8.0f);
            level = __fadd_rn(__fmul_rn(x, d == 0.0f ? 0.0f : __fdiv_rn(1.0f, d)), 8.5f);
        } else {
            // An infinity is beyond the largest number that the search starts from; NaN is neither least nor largest.
            least = -warp_max(fmaxf(-x, -3.402823466e38f));
            const float most = warp_max(fmaxf(x, -3.402823466e38f));
            d = __fdiv_rn(__fsub_rn(most, least), 15.0f);
            level = __fadd_rn(__fmul_rn(__fsub_rn(x, least), d == 0.0f ? 0.0f : __fdiv_rn(1.0f, d)), 0.5f);
        }
        const u32 q = (u32)whole_between(level, 0, 15);
        store_block<Q>(block, q | __shfl_down_sync(ALL_LANES, q, 16) << 4, d, least);
    }
}
