// Golomb-Rice coding of positions: the "rice" storage of sparse files.
//
// Format. It is a file format: it must never change and is the same on every machine.
//
//   byte 0        the Rice parameter k, 0 <= k <= 48
//   byte 1 ..     a stream of bits; bit j of the stream is bit j % 8 (0 is the least significant) of byte 1 + j / 8
//
// Position i is stored as the gap before it, g = p[i] - p[i-1] - 1 with p[-1] = -1, so that neighbours cost g = 0. A
// gap is g >> k in unary (that many 0 bits, then one 1 bit) followed by the k low bits of g, least significant first.
// The bits that fill up the last byte are 0, and the data ends with that byte. How many positions there are is not
// stored: the caller knows it, as it knows the tensor's size. No positions at all is the single byte k.
//
// Example: positions 2, 3, 9 with k = 1 have the gaps 2, 0, 5 and the bits 01 0 | 1 0 | 001 1, so the bytes 0x01 0x8a
// 0x01.
//
// A decoder accepts any k in range. The encoder writes the smallest k that gives the fewest bits, so equal positions
// always give equal bytes.
//
// Sources: S. W. Golomb, "Run-length encodings", IEEE Trans. Inf. Theory 12 (1966); R. F. Rice, "Some practical
// universal noiseless coding techniques", JPL Publication 79-22 (1979).
#pragma once

#include "isogrid/status.hpp"
#include "isogrid/views.hpp"

namespace isogrid {

inline constexpr int max_rice_parameter = 48;

struct RicePlan {
    int parameter;
    std::uint64_t bytes;
};

// Checks the positions and finds the best parameter. Reads the positions about four times.
Status rice_plan(Positions positions, std::int64_t size, RicePlan* plan) noexcept;

// Writes the `plan.bytes` bytes of `out`. Never writes outside it, even when another thread changes the positions after
// they were planned: that is `positions_changed`.
Status rice_encode(Positions positions, const RicePlan& plan, MutableBytes out) noexcept;

// Refuses, in constant time, data that cannot hold `count` positions of a tensor of `size` weights. A caller that takes
// `count` from a file calls this before it allocates: a passing count is at most eight times the bytes at hand.
Status rice_check(Bytes data, std::int64_t count, std::int64_t size) noexcept;

// Decodes `out.size` positions. Anything but exactly the data of a valid encoding is refused, and `out` is then
// unspecified.
Status rice_decode(Bytes data, std::int64_t size, MutablePositions out) noexcept;

}  // namespace isogrid
