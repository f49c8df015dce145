// The canonical sparse matrix that every layout is made from: compressed rows, as on disk and in PyTorch.
#pragma once

#include <cstdint>

#include "isogrid/status.hpp"
#include "isogrid/views.hpp"

namespace isogrid {

// The codes of int8 weights are multiplied by their row's scale; f16 is IEEE binary16.
enum class ValueType { f32, f16, int8 };

// `values` holds as many elements of `type` as `columns` has. `scales` (f32, one a row) belongs to int8 and is null
// otherwise. Row r owns the entries row_begin[r] .. row_begin[r + 1] - 1, with strictly ascending columns.
struct SparseMatrix {
    std::int32_t rows;
    std::int32_t columns;
    View<const std::int64_t> row_begin;
    View<const std::int32_t> column;
    const void* values;
    ValueType type;
    const float* scales;
};

// The largest number of rows and of columns. Small enough that products of two such sizes fit 64 bits with room to
// spare.
inline constexpr std::int32_t max_matrix_side = 1 << 28;

// Whether all of it is as said above. Every operation checks this before it builds anything.
Status check(const SparseMatrix& matrix) noexcept;

}  // namespace isogrid
