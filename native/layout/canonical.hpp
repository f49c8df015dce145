// A sparse matrix that owns its numbers: what operations keep, to make layouts from when they need one.
#pragma once

#include <cstdint>
#include <vector>

#include "isogrid/epilogue.hpp"
#include "isogrid/matrix.hpp"

namespace isogrid {

class Canonical {
  public:
    // `matrix` has passed `check`. Throws std::bad_alloc.
    explicit Canonical(const SparseMatrix& matrix);
    SparseMatrix view() const;

  private:
    std::int32_t rows_, columns_;
    ValueType type_;
    std::vector<std::int64_t> row_begin_;
    std::vector<std::int32_t> column_;
    std::vector<unsigned char> values_;
    std::vector<float> scales_;
};

// An epilogue that owns its bias.
class OwnedEpilogue {
  public:
    OwnedEpilogue(const Epilogue& epilogue, std::int32_t rows);
    Epilogue view() const;
    // The bias from a row on, or null.
    const float* bias(int row) const { return bias_.empty() ? nullptr : bias_.data() + row; }

  private:
    std::vector<float> bias_;
    Epilogue epilogue_;
};

}  // namespace isogrid
