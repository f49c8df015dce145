#include "isogrid/bitmap.hpp"

#include <bit>
#include <cstring>

#include "codec/bits.hpp"

namespace isogrid {

namespace {

constexpr bool acceptable(std::int64_t size) noexcept {
    return size >= 0 && size <= max_tensor_size;
}

constexpr std::uint64_t bytes_for(std::int64_t size) noexcept {
    return (static_cast<std::uint64_t>(size) + 7) / 8;
}

}  // namespace

Status bitmap_plan(std::int64_t size, std::uint64_t* bytes) noexcept {
    if (!acceptable(size)) return Status::size_out_of_range;
    *bytes = bytes_for(size);
    return Status::ok;
}

Status bitmap_encode(Positions positions, std::int64_t size, MutableBytes out) noexcept {
    if (!acceptable(size)) return Status::size_out_of_range;
    if (out.size != bytes_for(size)) return Status::wrong_length;
    if (out.size > 0) std::memset(out.data, 0, out.size);
    std::int64_t next = 0;
    for (std::size_t i = 0; i < positions.size; ++i) {
        const std::int64_t position = positions.data[i];
        if (position < next || position >= size) return Status::positions_not_ascending;
        out.data[position / 8] |= static_cast<std::uint8_t>(1u << position % 8);
        next = position + 1;
    }
    return Status::ok;
}

Status bitmap_check(Bytes data, std::int64_t count, std::int64_t size) noexcept {
    if (!acceptable(size)) return Status::size_out_of_range;
    if (count < 0 || count > size) return Status::count_out_of_range;
    return data.size == bytes_for(size) ? Status::ok : Status::wrong_length;
}

Status bitmap_decode(Bytes data, std::int64_t size, MutablePositions out) noexcept {
    if (out.size > static_cast<std::uint64_t>(max_tensor_size)) return Status::count_out_of_range;
    const Status status = bitmap_check(data, static_cast<std::int64_t>(out.size), size);
    if (status != Status::ok) return status;

    std::uint64_t set = 0;
    for (std::size_t byte = 0; byte < data.size; byte += 8) {
        set += static_cast<std::uint64_t>(std::popcount(load_word(data, byte)));
    }
    if (set != out.size) return Status::wrong_count;
    if (size % 8 != 0 && data.data[data.size - 1] >> size % 8 != 0) return Status::position_out_of_range;

    std::int64_t* to = out.data;
    for (std::size_t byte = 0; byte < data.size; byte += 8) {
        for (std::uint64_t word = load_word(data, byte); word != 0; word &= word - 1) {
            *to++ = static_cast<std::int64_t>(byte) * 8 + std::countr_zero(word);
        }
    }
    return Status::ok;
}

}  // namespace isogrid
