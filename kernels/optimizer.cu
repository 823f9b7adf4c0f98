// AdamW, and f32 weights as two halves. The bits are those of `paring_optim`: nothing is fused, and roots and quotients are exact.
#include "common.cuh"

// The nearest bf16, ties away from zero, in the upper sixteen bits of memory's `high`, and what is missing in `low` (`paring_optim::split`).
__device__ __forceinline__ u16 high_of(float w) { return (u16)((__float_as_uint(w) + 0x8000u) >> 16); }
__device__ __forceinline__ u16 low_of(float w) { return (u16)__float_as_uint(w); }
__device__ __forceinline__ float joined(u32 high, u32 low) { return __uint_as_float((high - (low >> 15)) << 16 | low); }

// Moments in bf16: rounded by the instruction, which makes one NaN of all, as arithmetic does.
struct Bf16Moment {
    typedef u16 Element;
    static __device__ __forceinline__ float get(u16 x) { return Bf16::get(x); }
    static __device__ __forceinline__ u16 put(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
};

// 16 bits as they are, in the low half of a float's bits.
struct Bits {
    typedef u16 Element;
    static __device__ __forceinline__ float get(u16 x) { return __uint_as_float(x); }
    static __device__ __forceinline__ u16 put(float x) { return (u16)__float_as_uint(x); }
};

template <int N> __device__ __forceinline__ Pack<N> load_halves(const u16* high, const u16* low) {
    Pack<N> w = load_as<Bits, N>(high);
    const Pack<N> rest = load_as<Bits, N>(low);
#pragma unroll
    for (int i = 0; i < N; i++) w.at[i] = joined(__float_as_uint(w.at[i]), __float_as_uint(rest.at[i]));
    return w;
}
template <int N> __device__ __forceinline__ void store_halves(u16* high, u16* low, const Pack<N>& w) {
    Pack<N> upper, lower;
#pragma unroll
    for (int i = 0; i < N; i++) {
        upper.at[i] = __uint_as_float(high_of(w.at[i]));
        lower.at[i] = __uint_as_float(low_of(w.at[i]));
    }
    store_as<Bits, N>(high, upper);
    store_as<Bits, N>(low, lower);
}

extern "C" __global__ __launch_bounds__(256) void split_f32(const float* __restrict__ w, u16* __restrict__ high, u16* __restrict__ low, u64 n, u64 groups) {
    each_group<4>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        store_halves<N>(high + at, low + at, load<N>(w + at));
    });
}
extern "C" __global__ __launch_bounds__(256) void join_f32(const u16* __restrict__ high, const u16* __restrict__ low, float* __restrict__ w, u64 n, u64 groups) {
    each_group<4>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        store(w + at, load_halves<N>(high + at, low + at));
    });
}

// Constants of one update: `decay` is 1 - lr * weight_decay, `size` lr / bias1.
struct Step {
    float beta1, rest1, beta2, rest2, eps, decay, size, bias2_sqrt, grad_scale;
};

// One weight (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), in the order of `paring_optim::adamw_update`.
__device__ __forceinline__ void update(float& w, float& m, float& v, float grad, const Step& s) {
    grad = __fmul_rn(grad, s.grad_scale);
    m = __fadd_rn(__fmul_rn(s.beta1, m), __fmul_rn(s.rest1, grad));
    v = __fadd_rn(__fmul_rn(s.beta2, v), __fmul_rn(__fmul_rn(s.rest2, grad), grad));
    const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), s.bias2_sqrt), s.eps);
    w = __fsub_rn(__fmul_rn(w, s.decay), __fdiv_rn(__fmul_rn(s.size, m), denominator));
}

// Updates N weights that `get` reads and `put` writes; the weights see the moments before those are rounded to the type M.
template <class M, int N, class Get, class Put>
__device__ __forceinline__ void update_pack(const float* grad, typename M::Element* m, typename M::Element* v, const Step& step, Get get, Put put) {
    Pack<N> w = get(), first = load_as<M, N>(m), second = load_as<M, N>(v);
    const Pack<N> gradient = load<N>(grad);
#pragma unroll
    for (int i = 0; i < N; i++) update(w.at[i], first.at[i], second.at[i], gradient.at[i], step);
    put(w);
    store_as<M, N>(m, first);
    store_as<M, N>(v, second);
}

#define ADAMW(NAME, M)                                                                                                                              \
    extern "C" __global__ __launch_bounds__(256) void adamw_##NAME(                                                                                 \
        const float* __restrict__ grad, float* __restrict__ w, M::Element* __restrict__ m, M::Element* __restrict__ v, u64 n, u64 groups,           \
        float beta1, float rest1, float beta2, float rest2, float eps, float decay, float size, float bias2_sqrt, float grad_scale) {               \
        const Step step = {beta1, rest1, beta2, rest2, eps, decay, size, bias2_sqrt, grad_scale};                                                   \
        each_group<4>(n, groups, [=](auto width, u64 at) {                                                                                          \
            constexpr int N = decltype(width)::value;                                                                                               \
            update_pack<M, N>(                                                                                                                      \
                grad + at, m + at, v + at, step, [=] { return load<N>(w + at); }, [=](const Pack<N>& pack) { store(w + at, pack); });               \
        });                                                                                                                                         \
    }                                                                                                                                               \
    extern "C" __global__ __launch_bounds__(256) void adamw_split_##NAME(                                                                           \
        const float* __restrict__ grad, u16* __restrict__ high, u16* __restrict__ low, M::Element* __restrict__ m, M::Element* __restrict__ v,      \
        u64 n, u64 groups, float beta1, float rest1, float beta2, float rest2, float eps, float decay, float size, float bias2_sqrt,                \
        float grad_scale) {                                                                                                                         \
        const Step step = {beta1, rest1, beta2, rest2, eps, decay, size, bias2_sqrt, grad_scale};                                                   \
        each_group<4>(n, groups, [=](auto width, u64 at) {                                                                                          \
            constexpr int N = decltype(width)::value;                                                                                               \
            update_pack<M, N>(                                                                                                                      \
                grad + at, m + at, v + at, step, [=] { return load_halves<N>(high + at, low + at); },                                               \
                [=](const Pack<N>& pack) { store_halves<N>(high + at, low + at, pack); });                                                          \
        });                                                                                                                                         \
    }
ADAMW(f32, F32)
ADAMW(bf16, Bf16Moment)
