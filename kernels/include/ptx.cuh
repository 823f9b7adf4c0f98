// All inline PTX of the kernels, one function an instruction. Elsewhere kernels are plain C++.
#pragma once
#include "types.cuh"

// Shared memory as the 32-bit address that instructions take.
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Copies 16 bytes from global to shared memory past the registers; bytes beyond `valid` (0 to 16) become zero and are not read.
// `__cvta_generic_to_global` keeps the address analysable for static race checkers.
__device__ __forceinline__ void cp_async_16(u32 to, const void* from, u32 valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(valid));
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n"); }
// Waits until at most `N` of the committed groups are in flight.
template <int N> __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;\n" ::"n"(N)); }

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix_x4(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}
// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

// c += a b: a is 16x16 bf16 row-major, b 16x8 bf16 column-major, c 16x8 f32 (PTX ISA, mma.m16n8k16 fragment layouts).
__device__ __forceinline__ void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four floats from 16-byte aligned shared memory. In C++ this is a float4, which NVRTC takes apart and joins again, in large kernels
// differently from run to run; as an instruction it stays one, and the PTX the same bytes.
__device__ __forceinline__ float4 load_shared_4(const float* p) {
    float4 x;
    asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];\n" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(shared_address(p)));
    return x;
}

// The smaller and the larger of two numbers; NaN when one of them is (`fminf` and `fmaxf` would drop it).
__device__ __forceinline__ float min_nan(float x, float y) {
    float z;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}
__device__ __forceinline__ float max_nan(float x, float y) {
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}

// 2^x, within 2 ulp; subnormal results become zero.
__device__ __forceinline__ float ex2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x, within 1 ulp; 0 for infinity.
__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Binary16 as its bits.
__device__ __forceinline__ float f32_from_f16(u16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ __forceinline__ u16 f16_from_f32(float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

// Two floats to shared memory at once; `to` is a multiple of 8.
__device__ __forceinline__ void store_shared_f32x2(u32 to, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1,%2};\n" ::"r"(to), "f"(x), "f"(y) : "memory");
}

// Copies 4 bytes; with `valid` = 0 the destination becomes zero and nothing is read.
__device__ __forceinline__ void cp_async_4(u32 to, const void* from, u32 valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(valid));
}
