#include "isogrid/rice.hpp"

#include <algorithm>
#include <bit>

#include "codec/bits.hpp"

namespace isogrid {
namespace {

constexpr std::uint64_t low_mask(int bits) noexcept {
    return (std::uint64_t{1} << bits) - 1;
}

// Both loops look at neighbours instead of carrying the last position along, so that compilers can vectorise them.
bool ascending_within(Positions positions, std::int64_t size) noexcept {
    if (positions.size == 0) return true;
    bool ascending = positions.data[0] >= 0 && positions.data[positions.size - 1] < size;
    for (std::size_t i = 1; i < positions.size; ++i) ascending &= positions.data[i - 1] < positions.data[i];
    return ascending;
}

std::uint64_t bits_with_parameter(Positions positions, int parameter) noexcept {
    const auto at = [positions](std::size_t i) noexcept { return static_cast<std::uint64_t>(positions.data[i]); };
    std::uint64_t quotients = at(0) >> parameter;
    for (std::size_t i = 1; i < positions.size; ++i) quotients += (at(i) - at(i - 1) - 1) >> parameter;
    return quotients + positions.size * static_cast<std::uint64_t>(parameter + 1);
}

}  // namespace

Status rice_plan(Positions positions, std::int64_t size, RicePlan* plan) noexcept {
    if (size < 0 || size > max_tensor_size) return Status::size_out_of_range;
    if (!ascending_within(positions, size)) return Status::positions_not_ascending;
    if (positions.size == 0) {
        *plan = {0, 1};
        return Status::ok;
    }

    // bits(k + 1) - bits(k) = n - sum(ceil((g >> k) / 2)) grows with k, so bits(k) is convex and the first place where
    // it stops falling is its minimum. The search starts next to it: the best k is near log2 of the mean gap. The clamp
    // is for positions that another thread changes meanwhile; `rice_encode` finds out.
    const auto last = static_cast<std::uint64_t>(positions.data[positions.size - 1]);
    const std::uint64_t gaps = last + 1 - positions.size;
    int parameter = std::min(static_cast<int>(std::bit_width(gaps / positions.size)), max_rice_parameter);
    std::uint64_t bits = bits_with_parameter(positions, parameter);
    while (parameter > 0) {
        const std::uint64_t fewer = bits_with_parameter(positions, parameter - 1);
        if (fewer > bits) break;
        --parameter;
        bits = fewer;
    }
    while (parameter < max_rice_parameter) {
        const std::uint64_t fewer = bits_with_parameter(positions, parameter + 1);
        if (fewer >= bits) break;
        ++parameter;
        bits = fewer;
    }
    *plan = {parameter, 1 + (bits + 7) / 8};
    return Status::ok;
}

Status rice_encode(Positions positions, const RicePlan& plan, MutableBytes out) noexcept {
    if (out.size != plan.bytes || out.size == 0) return Status::positions_changed;
    out.data[0] = static_cast<std::uint8_t>(plan.parameter);
    BitWriter writer({out.data + 1, out.size - 1});
    const int k = plan.parameter;
    std::uint64_t next = 0;
    for (std::size_t i = 0; i < positions.size; ++i) {
        const auto position = static_cast<std::uint64_t>(positions.data[i]);
        const std::uint64_t gap = position - next;
        const std::uint64_t remainder = gap & low_mask(k);
        std::uint64_t quotient = gap >> k;
        next = position + 1;

        bool fits = true;
        if (quotient <= static_cast<std::uint64_t>(BitWriter::max_bits - 1 - k)) {
            const int unary = static_cast<int>(quotient);
            fits = writer.put((remainder << 1 | 1) << unary, unary + 1 + k);
        } else {
            for (; fits && quotient >= BitWriter::max_bits; quotient -= BitWriter::max_bits) {
                fits = writer.put(0, BitWriter::max_bits);
            }
            const int unary = static_cast<int>(quotient);
            fits = fits && writer.put(std::uint64_t{1} << unary, unary + 1) && writer.put(remainder, k);
        }
        if (!fits) return Status::positions_changed;
    }
    return writer.finish() ? Status::ok : Status::positions_changed;
}

Status rice_check(Bytes data, std::int64_t count, std::int64_t size) noexcept {
    if (size < 0 || size > max_tensor_size) return Status::size_out_of_range;
    if (count < 0 || count > size) return Status::count_out_of_range;
    if (data.size == 0) return Status::parameter_missing;
    if (data.data[0] > max_rice_parameter) return Status::parameter_too_large;
    const std::uint64_t least_bits = static_cast<std::uint64_t>(count) * (1u + data.data[0]);
    return (least_bits + 7) / 8 > data.size - 1 ? Status::truncated : Status::ok;
}

Status rice_decode(Bytes data, std::int64_t size, MutablePositions out) noexcept {
    if (out.size > static_cast<std::uint64_t>(max_tensor_size)) return Status::count_out_of_range;
    const Status status = rice_check(data, static_cast<std::int64_t>(out.size), size);
    if (status != Status::ok) return status;

    const int k = data.data[0];
    BitReader reader({data.data + 1, data.size - 1});
    std::int64_t next = 0;
    for (std::size_t i = 0; i < out.size; ++i) {
        const std::uint64_t window = reader.peek();
        const int unary = std::countr_zero(window);
        std::uint64_t quotient = 0;
        std::uint64_t remainder = 0;
        if (unary + 1 + k <= BitReader::window_bits) [[likely]] {
            quotient = static_cast<std::uint64_t>(unary);
            remainder = window >> (unary + 1) & low_mask(k);
            reader.skip(unary + 1 + k);
        } else {
            if (!reader.skip_unary(&quotient)) return Status::truncated;
            // Before the shift below: a long run of zeros must not push bits out of the gap.
            if (quotient > static_cast<std::uint64_t>(size) >> k) return Status::position_out_of_range;
            remainder = reader.peek() & low_mask(k);
            reader.skip(k);
        }
        if (reader.past_end()) return Status::truncated;
        const std::uint64_t gap = quotient << k | remainder;
        if (gap >= static_cast<std::uint64_t>(size - next)) return Status::position_out_of_range;
        out.data[i] = next + static_cast<std::int64_t>(gap);
        next = out.data[i] + 1;
    }
    return reader.only_padding_left() ? Status::ok : Status::trailing_data;
}

}  // namespace isogrid
