// Streams of bits in memory, least significant bit of the first byte first, on machines of either byte order.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "isogrid/views.hpp"

namespace isogrid {

inline std::uint64_t load_little_endian(const std::uint8_t* from, std::size_t bytes) noexcept {
    std::uint64_t word = 0;
    if constexpr (std::endian::native == std::endian::little) {
        std::memcpy(&word, from, bytes);
    } else {
        for (std::size_t i = 0; i < bytes; ++i) word |= std::uint64_t{from[i]} << 8 * i;
    }
    return word;
}

inline void store_little_endian(std::uint64_t word, std::uint8_t* to, std::size_t bytes) noexcept {
    if constexpr (std::endian::native == std::endian::little) {
        std::memcpy(to, &word, bytes);
    } else {
        for (std::size_t i = 0; i < bytes; ++i) to[i] = static_cast<std::uint8_t>(word >> 8 * i);
    }
}

// The eight bytes that start at `byte`, at most data.size; bytes past the end of the data count as 0.
inline std::uint64_t load_word(Bytes data, std::size_t byte) noexcept {
    const std::size_t left = data.size - byte;
    return left >= 8 ? load_little_endian(data.data + byte, 8) : load_little_endian(data.data + byte, left);
}

class BitWriter {
  public:
    // Up to 7 bits wait for their byte, so 56 more keep every shift below 64.
    static constexpr int max_bits = 56;

    explicit BitWriter(MutableBytes out) noexcept : at_(out.data), end_(out.data + out.size) {}

    // Appends the low `bits` bits of `value`, whose other bits must be 0. False when there is no room.
    bool put(std::uint64_t value, int bits) noexcept {
        waiting_ |= value << count_;
        count_ += bits;
        const auto whole = static_cast<std::size_t>(count_ / 8);
        const auto room = static_cast<std::size_t>(end_ - at_);
        if (room >= sizeof waiting_) [[likely]] {
            store_little_endian(waiting_, at_, sizeof waiting_);
        } else {
            if (whole > room) return false;
            store_little_endian(waiting_, at_, whole);
        }
        at_ += whole;
        waiting_ >>= 8 * whole;
        count_ %= 8;
        return true;
    }

    // Writes the last, partly filled byte. True when the output is then full to the byte.
    bool finish() noexcept {
        if (count_ > 0) {
            if (at_ == end_) return false;
            *at_++ = static_cast<std::uint8_t>(waiting_);
        }
        return at_ == end_;
    }

  private:
    std::uint8_t* at_;
    std::uint8_t* end_;
    std::uint64_t waiting_ = 0;
    int count_ = 0;
};

class BitReader {
  public:
    // An eight-byte load that starts at the current byte holds at least this many bits from the current bit on.
    static constexpr int window_bits = 57;

    explicit BitReader(Bytes data) noexcept : data_(data), end_(std::uint64_t{data.size} * 8) {}

    // The next bits, the first one lowest; at least `window_bits` of them are real, and 0 past the end of the data.
    std::uint64_t peek() const noexcept { return load_word(data_, bit_ / 8) >> bit_ % 8; }

    void skip(int bits) noexcept { bit_ += static_cast<std::uint64_t>(bits); }

    // Passes over zeros and the one bit after them. False when the data ends first.
    bool skip_unary(std::uint64_t* zeros) noexcept {
        for (*zeros = 0; bit_ < end_; *zeros += window_bits, skip(window_bits)) {
            const std::uint64_t window = peek();
            if (window == 0) continue;
            const int run = std::countr_zero(window);
            *zeros += static_cast<std::uint64_t>(run);
            skip(run + 1);
            return true;
        }
        return false;
    }

    // No `peek` may follow once this is true.
    bool past_end() const noexcept { return bit_ > end_; }

    bool only_padding_left() const noexcept { return end_ - bit_ < 8 && peek() == 0; }

  private:
    Bytes data_;
    std::uint64_t end_;
    std::uint64_t bit_ = 0;
};

}  // namespace isogrid
