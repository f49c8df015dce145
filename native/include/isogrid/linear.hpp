// y = activation(x W' + bias + residual) for token-major activations, as PyTorch's and ONNX's linear layers have them.
#pragma once

#include <cstdint>

#include "isogrid/epilogue.hpp"
#include "isogrid/executor.hpp"
#include "isogrid/matrix.hpp"
#include "isogrid/status.hpp"

namespace isogrid {

// Thread-safe, as `Convolution` is. (Feature-major activations are a convolution with one tap over one row.)
class Linear {
  public:
    // With `skip_zeros` a single token whose activations are mostly zero costs only what the others need, for the
    // memory of a second layout.
    static Status create(const SparseMatrix& weights, const Epilogue& epilogue, bool skip_zeros, Linear** out) noexcept;
    static void destroy(Linear* operation) noexcept;

    // x: [tokens][columns]; y and `residual` (may be null): [tokens][rows].
    Status run(const Executor& executor, const float* x, std::int64_t tokens, const float* residual, float* y) noexcept;

  private:
    Linear() = default;
    ~Linear();
    struct State;
    State* state_ = nullptr;
};

}  // namespace isogrid
