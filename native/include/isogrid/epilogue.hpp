// What is done to a result before it is stored: y = activation(W x + bias + residual).
#pragma once

namespace isogrid {

enum class Activation : int {
    none,
    relu,
    clip,          // min(max(x, low), high); ReLU6 is clip(0, 6)
    leaky_relu,    // x > 0 ? x : low * x
    gelu,          // x * Phi(x), with the error function
    gelu_tanh,     // the tanh approximation of it
    silu,          // x * sigmoid(x)
    hard_swish,    // x * clip(x + 3, 0, 6) / 6
    hard_sigmoid,  // clip(x + 3, 0, 6) / 6
    sigmoid,
    tanh,
    sparse_relu,  // x > low ? x : 0
    sparse_tanh,  // |x| > low ? tanh(x) : 0
};
inline constexpr int activation_count = 13;

struct Epilogue {
    const float* bias;  // one a row, or null
    Activation activation;
    float low;
    float high;
};

}  // namespace isogrid
