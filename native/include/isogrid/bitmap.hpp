// One bit a weight: the "bitmap" storage of sparse files.
//
// Format. It is a file format: it must never change and is the same on every machine. The weight at flat position p is
// bit p % 8 (0 is the least significant) of byte p / 8. There are (size + 7) / 8 bytes, and the bits after the last
// weight are 0.
#pragma once

#include "isogrid/status.hpp"
#include "isogrid/views.hpp"

namespace isogrid {

// Bytes of the bitmap of a tensor of `size` weights.
Status bitmap_plan(std::int64_t size, std::uint64_t* bytes) noexcept;

// Writes `out`, which has exactly the planned bytes. Refuses positions that are not ascending within the size.
Status bitmap_encode(Positions positions, std::int64_t size, MutableBytes out) noexcept;

// Refuses, in constant time, data of the wrong length and counts above the size. A caller that takes `count` from a
// file calls this before it allocates: a passing count is at most eight times the bytes at hand.
Status bitmap_check(Bytes data, std::int64_t count, std::int64_t size) noexcept;

// Decodes `out.size` positions; a bitmap with another number of set bits is refused before anything is written.
Status bitmap_decode(Bytes data, std::int64_t size, MutablePositions out) noexcept;

}  // namespace isogrid
