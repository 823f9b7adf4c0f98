// Activations of MLPs, with and without a gate. Bound by memory: each element is read once and everything is computed on the way.
#include "activations.cuh"

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
