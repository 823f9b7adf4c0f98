// Activations of MLPs with their derivatives, for the kernels that apply them on the way.
#pragma once
#include "common.cuh"

// act(x) and its derivative; what is not used of them the compiler leaves out.
struct Both {
    float value, slope;
};

// sigmoid(z), and 1 - sigmoid(z) without cancellation: close to 1 the sigmoid may be a unit or two off, or above 1, and a large factor would
// show that.
struct Sigmoid {
    float value, rest;
};
__device__ __forceinline__ Sigmoid sigmoid_and_rest(float z) {
    const float e = exp_f32(-z), s = reciprocal(1.0f + e);
    return {s, z > 0.0f ? e * s : 1.0f - s};
}

struct Silu {
    static __device__ __forceinline__ Both at(float x) {
        const Sigmoid s = sigmoid_and_rest(x);
        return {x * s.value, s.value * fmaf(x, s.rest, 1.0f)};
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
        const float c = max_nan(min_nan(x, 12.0f), -12.0f);
        const float square = B * c * c, slope = A * fmaf(3.0f, square, 1.0f);
        const Sigmoid s = sigmoid_and_rest(A * fmaf(square, c, c));
        return {x * s.value, s.value * fmaf(c * slope, s.rest, 1.0f)};
    }
};

struct Relu2 {
    static __device__ __forceinline__ Both at(float x) {
        const float positive = max_nan(x, 0.0f);
        return {positive * positive, 2.0f * positive};
    }
};
