// What crosses the core's boundary: memory that the caller owns.
#pragma once

#include <cstddef>
#include <cstdint>

namespace isogrid {

// Elements `data[0] .. data[size - 1]`. An aggregate without member functions, on purpose: it makes no inline symbol,
// and an inline symbol compiled for one instruction set could be picked by the linker for all of them.
template <class T>
struct View {
    T* data;
    std::size_t size;
};

using Bytes = View<const std::uint8_t>;
using MutableBytes = View<std::uint8_t>;

// Flat C-order indices of weights in one tensor, strictly ascending, each in [0, size of the tensor).
using Positions = View<const std::int64_t>;
using MutablePositions = View<std::int64_t>;

// The largest tensor the codecs accept, in weights. Small enough that no sum of theirs can overflow 64 bits.
inline constexpr std::int64_t max_tensor_size = std::int64_t{1} << 48;

}  // namespace isogrid
