// Activations of MLPs, with and without a gate. Bound by memory: each element is read once and everything is computed on the way.
#include "common.cuh"

// act(x) and its derivative; what is not used of them the compiler leaves out.
struct Both {
    float value, slope;
};

struct Silu {
    static __device__ __forceinline__ Both at(float x) {
        const float s = sigmoid_f32(x);
        return {x * s, s * fmaf(x, 1.0f - s, 1.0f)};
    }
};

struct Gelu {
    // With the normal distribution Phi(x) = erfc(-x / sqrt(2)) / 2 and its density: x Phi(x) and Phi(x) + x phi(x).
    static __device__ __forceinline__ Both at(float x) {
        const float e = exp_f32(-0.5f * x * x);
        // e^(x^2) erfc(x) / t as a polynomial in t = 1 / (1 + x / 2), of x / sqrt(2): the one of `crates/cpu/src/exp.rs`, 6e-9 off.
        const float t = reciprocal(fmaf(fabsf(x), 0.35355339059327373f, 1.0f));
        float q = 0.041824833f;
        q = fmaf(q, t, -0.2263459f);
        q = fmaf(q, t, 0.47142845f);
        q = fmaf(q, t, -0.42134827f);
        q = fmaf(q, t, 0.10034505f);
        q = fmaf(q, t, -0.03958899f);
        q = fmaf(q, t, 0.085540056f);
        q = fmaf(q, t, 0.17736772f);
        q = fmaf(q, t, 0.24656123f);
        q = fmaf(q, t, 0.28212148f);
        q = fmaf(q, t, 0.28209382f);
        const float tail = 0.5f * e * t * q, distribution = x > 0.0f ? 1.0f - tail : tail;
        return {x * distribution, fmaf(x, e * 0.3989422804014327f, distribution)};
    }
};

struct GeluTanh {
    // (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel; 2 u = A (x + B x^3) with A = 2 sqrt(2 / pi).
    static __device__ __forceinline__ Both at(float x) {
        constexpr float A = 1.5957691216057308f, B = 0.044715f;
        // Beyond 12 the sigmoid is 0 or 1, and a cube of x might overflow.
        float c = x > 12.0f ? 12.0f : x;
        c = c < -12.0f ? -12.0f : c;
        const float square = B * c * c, s = sigmoid_f32(A * fmaf(square, c, c));
        const float slope = A * fmaf(3.0f, square, 1.0f);
        return {x * s, s * fmaf(c * slope, 1.0f - s, 1.0f)};
    }
};

struct Relu2 {
    static __device__ __forceinline__ Both at(float x) {
        const float positive = x < 0.0f ? 0.0f : x; // NaN stays NaN
        return {positive * positive, 2.0f * positive};
    }
};

// y = act(x).
template <class A> __device__ __forceinline__ void activation(const float* x, float* y, u64 n, u64 groups) {
    each_group<4>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        Pack<N> pack = load<N>(x + at);
#pragma unroll
        for (int i = 0; i < N; i++) pack.at[i] = A::at(pack.at[i]).value;
        store(y + at, pack);
    });
}

// dx = dy act'(x).
template <class A> __device__ __forceinline__ void activation_backward(const float* dy, const float* x, float* dx, u64 n, u64 groups) {
    each_group<4>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        Pack<N> gradient = load<N>(dy + at);
        const Pack<N> pack = load<N>(x + at);
#pragma unroll
        for (int i = 0; i < N; i++) gradient.at[i] *= A::at(pack.at[i]).slope;
        store(dx + at, gradient);
    });
}

// y = act(gate) up.
template <class A> __device__ __forceinline__ void gated(const float* gate, const float* up, float* y, u64 n, u64 groups) {
    each_group<4>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        Pack<N> pack = load<N>(gate + at);
        const Pack<N> factor = load<N>(up + at);
#pragma unroll
        for (int i = 0; i < N; i++) pack.at[i] = A::at(pack.at[i]).value * factor.at[i];
        store(y + at, pack);
    });
}

// dup = dy act(gate), dgate = dy up act'(gate).
template <class A>
__device__ __forceinline__ void gated_backward(const float* dy, const float* gate, const float* up, float* dgate, float* dup, u64 n, u64 groups) {
    each_group<4>(n, groups, [=](auto width, u64 at) {
        constexpr int N = decltype(width)::value;
        Pack<N> of_up = load<N>(dy + at), of_gate = load<N>(up + at);
        const Pack<N> pack = load<N>(gate + at);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const Both both = A::at(pack.at[i]);
            of_gate.at[i] = of_up.at[i] * of_gate.at[i] * both.slope;
            of_up.at[i] *= both.value;
        }
        store(dgate + at, of_gate);
        store(dup + at, of_up);
    });
}

#define ACTIVATION(NAME, A)                                                                                                                          \
    extern "C" __global__ __launch_bounds__(256) void activation_##NAME(const float* __restrict__ x, float* __restrict__ y, u64 n, u64 groups) {     \
        activation<A>(x, y, n, groups);                                                                                                              \
    }                                                                                                                                                \
    extern "C" __global__ __launch_bounds__(256) void activation_backward_##NAME(                                                                    \
        const float* __restrict__ dy, const float* __restrict__ x, float* __restrict__ dx, u64 n, u64 groups) {                                      \
        activation_backward<A>(dy, x, dx, n, groups);                                                                                                \
    }                                                                                                                                                \
    extern "C" __global__ __launch_bounds__(256) void gated_##NAME(                                                                                  \
        const float* __restrict__ gate, const float* __restrict__ up, float* __restrict__ y, u64 n, u64 groups) {                                    \
        gated<A>(gate, up, y, n, groups);                                                                                                            \
    }                                                                                                                                                \
    extern "C" __global__ __launch_bounds__(256) void gated_backward_##NAME(                                                                         \
        const float* __restrict__ dy, const float* __restrict__ gate, const float* __restrict__ up, float* __restrict__ dgate,                       \
        float* __restrict__ dup, u64 n, u64 groups) {                                                                                                \
        gated_backward<A>(dy, gate, up, dgate, dup, n, groups);                                                                                      \
    }
ACTIVATION(silu, Silu)
ACTIVATION(gelu, Gelu)
ACTIVATION(gelu_tanh, GeluTanh)
ACTIVATION(relu2, Relu2)
