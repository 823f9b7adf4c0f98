// What goes before and after a matrix product: factors rounded to bf16 with rows padded to 16 bytes, and the sum of the parts of k.
#include "epilogue.cuh"

// y[r, c] = bf16(x[r, c]) for c < columns, and 0 up to `padded`, a multiple of 8. A thread writes 16 bytes.
template <class S>
__device__ __forceinline__ void cast_rows(const typename S::Element* x, bf16* y, u32 chunks, u32 columns, u32 padded, u32 vector) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= chunks) return;
    const u32 per_row = padded / 8, row = i / per_row, column = i % per_row * 8;
    const typename S::Element* from = x + (u64)row * columns + column;
    Pack<8> pack;
    if (vector) {
        pack = load_as<S, 8>(from);
    } else {
#pragma unroll
        for (int j = 0; j < 8; j++) pack.at[j] = column + j < columns ? S::get(from[j]) : 0.0f;
    }
    uint4 word;
    word.x = pack_bf16(pack.at[0], pack.at[1]);
    word.y = pack_bf16(pack.at[2], pack.at[3]);
    word.z = pack_bf16(pack.at[4], pack.at[5]);
    word.w = pack_bf16(pack.at[6], pack.at[7]);
    *reinterpret_cast<uint4*>(y + (u64)i * 8) = word;
}
extern "C" __global__ __launch_bounds__(256) void cast_rows_f32(const float* __restrict__ x, bf16* __restrict__ y, u32 chunks, u32 columns,
                                                                u32 padded, u32 vector) {
    cast_rows<F32>(x, y, chunks, columns, padded, vector);
}
extern "C" __global__ __launch_bounds__(256) void cast_rows_bf16(const u16* __restrict__ x, bf16* __restrict__ y, u32 chunks, u32 columns,
                                                                 u32 padded, u32 vector) {
    cast_rows<Bf16>(x, y, chunks, columns, padded, vector);
}

// c = epilogue of the sum over `splits` partial products of [m, n], from the first to the last. Threads have four elements each where all
// is aligned (n is then a multiple of 4), else one.
extern "C" __global__ __launch_bounds__(256) void gemm_reduce_f32(const float* __restrict__ parts, float* c, bf16* c_bf16,
                                                                  const float* bias, const float* residual, u64 size, u32 n, u32 splits,
                                                                  u32 flags) {
    const Output out{c, c_bf16, bias, residual, flags};
    const u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (flags & ALIGNED) {
        const u64 i = thread * 4;
        if (i >= size) return;
        float4 sum = *reinterpret_cast<const float4*>(parts + i);
        for (u32 s = 1; s < splits; s++) {
            const float4 part = *reinterpret_cast<const float4*>(parts + s * size + i);
            sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
        }
        const u32 column = (u32)(i % n);
        out.put4(sum, i - column, column);
    } else {
        const u64 i = thread;
        if (i >= size) return;
        float sum = parts[i];
        for (u32 s = 1; s < splits; s++) sum += parts[s * size + i];
        const u32 column = (u32)(i % n);
        out.put(sum, i - column, column);
    }
}
