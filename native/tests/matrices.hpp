// Random numbers and sparse matrices to test the operations with.
//
// Whole numbers are the default: their sums are exact in f32 whatever the order of the additions, so that a result is
// either right to the last bit or wrong. Real numbers are for the tolerances.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "isogrid/matrix.hpp"

namespace isogrid::tests {

using Random = std::mt19937_64;
// On the heap and exactly as long as asked for, so that the address sanitizer sees the first float too far.
using Floats = std::vector<float>;

constexpr float infinite = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

enum class Numbers { whole, real };

inline int between(Random& random, int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
}

inline bool chance(Random& random, double probability) {
    return std::bernoulli_distribution(probability)(random);
}

template <class T>
const T& one_of(Random& random, const std::vector<T>& choices) {
    return choices[static_cast<std::size_t>(between(random, 0, static_cast<int>(choices.size()) - 1))];
}

inline float number(Random& random, Numbers numbers) {
    if (numbers == Numbers::whole) return static_cast<float>(between(random, -8, 8));
    return std::normal_distribution<float>()(random);
}

inline Floats floats(Random& random, std::size_t size, Numbers numbers = Numbers::whole) {
    Floats all(size);
    for (float& value : all) value = number(random, numbers);
    return all;
}

// IEEE 754-2008, 3.4, straight from the text and in double.
inline double half_value(std::uint16_t bits) {
    const int exponent = bits >> 10 & 31;
    const int fraction = bits & 1023;
    double size = std::ldexp(1024 + fraction, exponent - 25);
    if (exponent == 0) size = std::ldexp(fraction, -24);
    if (exponent == 31) size = fraction == 0 ? HUGE_VAL : std::nan("");
    return (bits & 0x8000) != 0 ? -size : size;
}

// The half that is this whole number; none of the two is zero or larger than 2048.
inline std::uint16_t whole_half(int value) {
    int exponent = 0;
    while (std::abs(value) >> (exponent + 1) != 0) ++exponent;
    const int fraction = (std::abs(value) << (10 - exponent)) & 1023;
    return static_cast<std::uint16_t>((value < 0 ? 0x8000 : 0) | (exponent + 15) << 10 | fraction);
}

// A sparse matrix that owns its arrays.
struct Weights {
    std::int32_t rows = 0;
    std::int32_t columns = 0;
    ValueType type = ValueType::f32;
    std::vector<std::int64_t> row_begin{0};
    std::vector<std::int32_t> column;
    std::vector<float> f32;
    std::vector<std::uint16_t> f16;
    std::vector<std::int8_t> int8;
    std::vector<float> scales;

    SparseMatrix view() const {
        const void* values = f32.data();
        if (type == ValueType::f16) values = f16.data();
        if (type == ValueType::int8) values = int8.data();
        return {rows,
                columns,
                {row_begin.data(), row_begin.size()},
                {column.data(), column.size()},
                values,
                type,
                type == ValueType::int8 ? scales.data() : nullptr};
    }

    double value(std::int32_t row, std::int64_t entry) const {
        const auto i = static_cast<std::size_t>(entry);
        if (type == ValueType::f32) return f32[i];
        if (type == ValueType::f16) return half_value(f16[i]);
        return static_cast<double>(int8[i]) * static_cast<double>(scales[static_cast<std::size_t>(row)]);
    }

    // Calls body(row, column, value) for every entry.
    template <class Body>
    void each(const Body& body) const {
        for (std::int32_t r = 0; r < rows; ++r) {
            const auto row = static_cast<std::size_t>(r);
            for (std::int64_t i = row_begin[row]; i < row_begin[row + 1]; ++i)
                body(r, column[static_cast<std::size_t>(i)], value(r, i));
        }
    }

    void add_entry(Random& random, std::int32_t at, Numbers numbers) {
        column.push_back(at);
        const int whole = between(random, 1, 8) * (chance(random, 0.5) ? 1 : -1);
        const bool rounded = numbers == Numbers::whole;
        switch (type) {
            case ValueType::f32:
                f32.push_back(rounded ? static_cast<float>(whole) : number(random, numbers));
                break;
            case ValueType::f16: {
                // Any sign and fraction, magnitudes from 2^-5 to 2.
                const int bits = between(random, 0, 1) << 15 | between(random, 10, 15) << 10 | between(random, 0, 1023);
                f16.push_back(rounded ? whole_half(whole) : static_cast<std::uint16_t>(bits));
                break;
            }
            case ValueType::int8:
                int8.push_back(static_cast<std::int8_t>(rounded ? whole : between(random, -127, 127)));
                break;
        }
    }

    void end_row(Random& random, Numbers numbers) {
        row_begin.push_back(static_cast<std::int64_t>(column.size()));
        if (type != ValueType::int8) return;
        const float scale = numbers == Numbers::whole ? std::ldexp(1.0f, between(random, -2, 2)) : 0.01f;
        scales.push_back(scale * (numbers == Numbers::whole ? 1.0f : std::exp(number(random, numbers))));
    }
};

// Each weight there with probability `density`; where that is neither 0 nor 1, some rows are empty and some full. Rows
// that go into fours are often alike in fours, but for a few weights.
inline Weights random_weights(Random& random, std::int32_t rows, std::int32_t columns, double density,
                              ValueType type = ValueType::f32, Numbers numbers = Numbers::whole) {
    Weights weights;
    weights.rows = rows;
    weights.columns = columns;
    weights.type = type;
    std::bernoulli_distribution usual(density);
    const bool mixed = density > 0.0 && density < 1.0;
    const bool fours = mixed && rows % 4 == 0 && chance(random, 0.7);
    std::bernoulli_distribution odd(chance(random, 0.5) ? 0.05 : 0.0);
    std::vector<bool> there(static_cast<std::size_t>(columns));
    for (std::int32_t r = 0; r < rows; ++r) {
        if (!fours || r % 4 == 0) {
            const int kind = mixed ? between(random, 0, 19) : 2;
            for (std::size_t c = 0; c < there.size(); ++c) there[c] = kind == 1 || (kind > 1 && usual(random));
        }
        for (std::int32_t c = 0; c < columns; ++c) {
            if (there[static_cast<std::size_t>(c)] != (fours && odd(random))) weights.add_entry(random, c, numbers);
        }
        weights.end_row(random, numbers);
    }
    return weights;
}

inline const std::vector<ValueType> value_types{ValueType::f32, ValueType::f16, ValueType::int8};

}  // namespace isogrid::tests
