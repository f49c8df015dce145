// Rows of a table by their numbers, as f32.
#pragma once

#include <cstdint>

#include "isogrid/executor.hpp"
#include "isogrid/matrix.hpp"
#include "isogrid/status.hpp"

namespace isogrid {

// A dense table of int8 codes, [rows][columns], each row of which is multiplied by its scale: smaller than a sparse one
// whose column numbers would take more room than the zeros.
struct CodedRows {
    std::int32_t rows;
    std::int32_t columns;
    View<const std::int8_t> codes;
    const float* scales;
};

// Thread-safe.
class Embedding {
  public:
    static Status create(const SparseMatrix& table, Embedding** out) noexcept;
    static Status create(const CodedRows& table, Embedding** out) noexcept;
    static void destroy(Embedding* operation) noexcept;

    // y: [count][columns]. Status::index_out_of_range unless every index is a row; nothing is written then.
    Status run(const Executor& executor, const std::int64_t* indices, std::int64_t count, float* y) const noexcept;

  private:
    Embedding() = default;
    ~Embedding();
    struct State;
    State* state_ = nullptr;
};

}  // namespace isogrid
