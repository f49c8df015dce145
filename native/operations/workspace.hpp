// Scratch memory of the calling thread: kept from call to call, so that a run allocates nothing once it is warm.
#pragma once

#include <cstddef>

namespace isogrid {

// At least `floats` floats at a cache line's boundary, or null. Valid until this thread asks for the same slot again.
enum class Slot { tile, sums };
float* workspace(Slot slot, std::size_t floats) noexcept;

}  // namespace isogrid
