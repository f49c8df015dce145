// Packed weights to test the reader with: written by the text of the format, and damaged at random.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "isogrid/bitmap.hpp"
#include "isogrid/packed_matrix.hpp"
#include "isogrid/rice.hpp"
#include "matrices.hpp"
#include "samples.hpp"

namespace isogrid::tests {

constexpr std::size_t packed_header_bytes = 32;

inline void put(ByteList& out, std::uint64_t number, int bytes) {
    for (int i = 0; i < bytes; ++i) out.push_back(static_cast<std::uint8_t>(number >> 8 * i));
}

inline void replace(ByteList& out, std::size_t at, std::uint64_t number, int bytes) {
    ByteList text;
    put(text, number, bytes);
    std::copy(text.begin(), text.end(), out.begin() + static_cast<std::ptrdiff_t>(at));
}

inline ByteList packed_start(std::uint64_t rows, std::uint64_t columns, std::uint64_t nonzeros, ValueType type,
                             Places places) {
    ByteList out{'i', 's', 'o', 'g', 'r', 'i', 'd', 1};
    put(out, type == ValueType::f32 ? 0 : type == ValueType::f16 ? 1 : 2, 1);
    put(out, static_cast<std::uint64_t>(places), 1);
    put(out, 0, 2);
    put(out, rows, 4);
    put(out, columns, 4);
    put(out, 0, 4);
    put(out, nonzeros, 8);
    return out;
}

inline std::uint32_t float_bits(float value) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// No value of `weights` is zero or infinite, and its scales have few bits.
inline ByteList packed(const Weights& weights, Places places) {
    ByteList out = packed_start(static_cast<std::uint64_t>(weights.rows), static_cast<std::uint64_t>(weights.columns),
                                weights.column.size(), weights.type, places);
    for (const float scale : weights.scales) put(out, float_bits(scale) >> 8, 3);

    PositionList positions;
    for (std::int32_t r = 0; r < weights.rows; ++r) {
        const auto row = static_cast<std::size_t>(r);
        for (std::int64_t i = weights.row_begin[row]; i < weights.row_begin[row + 1]; ++i) {
            positions.push_back(std::int64_t{r} * weights.columns + weights.column[static_cast<std::size_t>(i)]);
        }
    }
    const std::int64_t size = std::int64_t{weights.rows} * weights.columns;
    ByteList where;
    if (places == Places::rice) {
        RicePlan plan{};
        rice_plan(view(std::as_const(positions)), size, &plan);
        where.resize(plan.bytes);
        rice_encode(view(std::as_const(positions)), plan, view(where));
    } else if (places == Places::bitmap) {
        where.resize((static_cast<std::size_t>(size) + 7) / 8);
        bitmap_encode(view(std::as_const(positions)), size, view(where));
    }
    out.insert(out.end(), where.begin(), where.end());

    const auto put_value = [&](std::size_t i) {
        if (weights.type == ValueType::f32) put(out, float_bits(weights.f32[i]), 4);
        if (weights.type == ValueType::f16) put(out, weights.f16[i], 2);
        if (weights.type == ValueType::int8) put(out, static_cast<std::uint8_t>(weights.int8[i]), 1);
    };
    const int bytes = weights.type == ValueType::f32 ? 4 : weights.type == ValueType::f16 ? 2 : 1;
    std::size_t next = 0;
    if (places != Places::dense) {
        for (; next < positions.size(); ++next) put_value(next);
        return out;
    }
    for (std::int64_t place = 0; place < size; ++place) {
        if (next < positions.size() && positions[next] == place) {
            put_value(next++);
        } else {
            put(out, 0, bytes);
        }
    }
    return out;
}

inline std::string hexadecimal(const ByteList& data) {
    std::string text;
    for (const unsigned byte : data) {
        text += "0123456789abcdef"[byte >> 4];
        text += "0123456789abcdef"[byte & 15];
    }
    return text;
}

inline const std::vector<Places> all_places{Places::rice, Places::bitmap, Places::dense};

// A sound packed matrix of any kind, small.
inline ByteList random_packed(Random& random) {
    const double density = one_of<double>(random, {0.0, 0.02, 0.1, 0.5, 1.0});
    const Weights weights =
        random_weights(random, between(random, 1, 40), between(random, 1, 60), density, one_of(random, value_types));
    return packed(weights, one_of(random, all_places));
}

// Changes a few things: bits, bytes, numbers of the header, the length.
inline void damage(ByteList& data, Random& random) {
    const auto number = [&] {
        constexpr std::uint64_t one = 1;
        const std::uint64_t power = one << between(random, 0, 63);
        return power + static_cast<std::uint64_t>(between(random, -2, 2));
    };
    for (int changes = between(random, 1, 4); changes > 0; --changes) {
        if (data.empty()) return;
        const auto last = static_cast<int>(data.size()) - 1;
        const auto start = std::min(last, static_cast<int>(packed_header_bytes) + 4);
        const auto at = static_cast<std::size_t>(between(random, 0, chance(random, 0.5) ? start : last));
        switch (between(random, 0, 6)) {
            case 0:
            case 1:
                data[at] = static_cast<std::uint8_t>(data[at] ^ 1u << between(random, 0, 7));
                break;
            case 2:
                data[at] = static_cast<std::uint8_t>(between(random, 0, 255));
                break;
            case 3:
                if (data.size() < packed_header_bytes) break;
                replace(data, one_of<std::size_t>(random, {12, 16}), number(), 4);
                break;
            case 4:
                if (data.size() < packed_header_bytes) break;
                replace(data, 24, number(), 8);
                break;
            case 5:
                data.resize(at);
                break;
            case 6:
                data.insert(data.end(), static_cast<std::size_t>(between(random, 1, 9)),
                            static_cast<std::uint8_t>(between(random, 0, 255)));
                break;
        }
    }
}

// What is wrong with a matrix that the reader accepted, or nothing.
inline const char* wrong_with(const ByteList& data, const PackedMatrix& matrix) {
    const SparseMatrix m = matrix.view();
    PackedHeader header{};
    if (packed_header(view(data), &header) != Status::ok) return "the header alone is refused";
    if (m.rows != header.rows || m.columns != header.columns || m.type != header.type) return "another shape or type";
    if (m.column.size != static_cast<std::size_t>(header.nonzeros)) return "another number of nonzeros";
    if (check(m) != Status::ok) return "no matrix that an operation takes";
    for (std::size_t i = 0; i < m.column.size; ++i) {
        if (m.type == ValueType::f32) {
            const float value = static_cast<const float*>(m.values)[i];
            if (!std::isfinite(value) || value == 0.0f) return "a value that may not be";
        } else if (m.type == ValueType::f16) {
            const double value = half_value(static_cast<const std::uint16_t*>(m.values)[i]);
            if (!std::isfinite(value) || value == 0.0) return "a value that may not be";
        } else {
            const int value = static_cast<const std::int8_t*>(m.values)[i];
            if (value == 0 || value == -128) return "a code that may not be";
        }
    }
    for (std::int32_t r = 0; m.scales != nullptr && r < m.rows; ++r) {
        if (!std::isnormal(m.scales[r]) || m.scales[r] < 0) return "a scale that may not be";
    }
    return nullptr;
}

// Reads data that may be damaged, from memory of exactly their length so that the address sanitizer sees a step beyond.
// What is wrong with the answer, or nothing.
inline const char* try_reading(ByteList data, bool* accepted = nullptr) {
    data.shrink_to_fit();
    PackedMatrix matrix;
    const Status status = PackedMatrix::read(view(std::as_const(data)), &matrix);
    if (accepted != nullptr) *accepted = status == Status::ok;
    PackedTable table;
    const Status as_table = PackedTable::read(view(std::as_const(data)), &table);
    if (status != Status::ok) return as_table != Status::ok ? nullptr : "a table where there is no matrix";
    if (as_table == Status::ok) {
        const CodedRows rows = table.view();
        long long sum = 0;
        for (std::size_t i = 0; i < rows.codes.size; ++i) sum += rows.codes.data[i];
        for (std::int32_t r = 0; r < rows.rows; ++r) sum += rows.scales[r] > 0 ? 1 : 0;
        if (sum == std::numeric_limits<long long>::min()) return "cannot be, but all of it was read";
    }
    return wrong_with(data, matrix);
}

}  // namespace isogrid::tests
