// One direction of one layer of an LSTM or GRU with sparse matrices, as PyTorch defines them. With W x + b and U h + d
// the products with the input and with the state before, and * by element:
//
//   LSTM, gates in the order i, f, g, o            GRU, gates in the order r, z, n
//   i, f, o = sigmoid(W x + b + U h + d)           r, z = sigmoid(W x + b + U h + d)
//   g       = tanh(W x + b + U h + d)              n    = tanh(W x + b + r * (U h + d))
//   c'      = f * c + i * g                        h'   = (1 - z) * n + z * h
//   h'      = o * tanh(c')
#pragma once

#include <cstdint>

#include "isogrid/executor.hpp"
#include "isogrid/matrix.hpp"
#include "isogrid/status.hpp"

namespace isogrid {

enum class Cell : int { lstm, gru };

struct RecurrentWeights {
    Cell cell;
    bool reverse;                 // from the last step to the first
    SparseMatrix input;           // W: [gates * units][columns]
    SparseMatrix recurrent;       // U: [gates * units][units]
    const float* input_bias;      // b: one a row, or null
    const float* recurrent_bias;  // d: likewise
};

// Samples of one length, or of falling lengths as in PyTorch's packed sequences: step t has the samples 0 up to
// batch_sizes[t]. `x` holds the samples of step 0, then those of step 1, and so on: [tokens][columns].
struct Sequences {
    const float* x;
    std::int64_t steps;
    std::int64_t batch;
    const std::int64_t* batch_sizes;  // [steps], or null where each step has the whole batch
};

// All are [batch][units]. The states before may be null for zeros, and may be where the states after go; those of c
// belong to the LSTM alone.
struct States {
    const float* h;
    const float* c;
    float* last_h;
    float* last_c;
};

// Thread-safe. The one-sample layout of both matrices is made at once, the others when they are first needed.
class Recurrent {
  public:
    static Status create(const RecurrentWeights& weights, Recurrent** out) noexcept;
    static void destroy(Recurrent* operation) noexcept;

    // The state after token i goes to y[i * stride] .. y[i * stride + units - 1], so that two directions can share y.
    Status run(const Executor& executor, const Sequences& sequences, const States& states, float* y,
               std::int64_t stride) noexcept;

  private:
    Recurrent() = default;
    ~Recurrent();
    struct State;
    State* state_ = nullptr;
};

}  // namespace isogrid
