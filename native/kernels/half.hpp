// IEEE binary16 without hardware for it.
#pragma once

#include <cstdint>

namespace isogrid {
namespace {

inline float half_to_float(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t rest = half & 0x7fffu;
    if (rest >= 0x7c00u) return __builtin_bit_cast(float, sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    if (rest >= 0x0400u) return __builtin_bit_cast(float, sign | ((rest << 13) + 0x38000000u));
    // Subnormal: so many times 2^-24.
    const float size = static_cast<float>(rest) * 5.9604644775390625e-8f;
    return sign != 0 ? -size : size;
}

}  // namespace
}  // namespace isogrid
