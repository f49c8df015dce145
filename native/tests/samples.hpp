// Positions to test the codecs with, and words for what the codecs answer.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "isogrid/status.hpp"
#include "isogrid/views.hpp"

namespace doctest {

template <>
struct StringMaker<isogrid::Status> {
    static String convert(isogrid::Status status) { return isogrid::message(status); }
};

template <>
struct StringMaker<std::vector<std::uint8_t>> {
    static String convert(const std::vector<std::uint8_t>& bytes) {
        String text;
        for (const unsigned byte : bytes) text += toString(byte) + " ";
        return text;
    }
};

}  // namespace doctest

namespace isogrid::tests {

using PositionList = std::vector<std::int64_t>;
using ByteList = std::vector<std::uint8_t>;

struct Sample {
    PositionList positions;
    std::int64_t size;
};

inline Positions view(const PositionList& positions) {
    return {positions.data(), positions.size()};
}
inline Bytes view(const ByteList& bytes) {
    return {bytes.data(), bytes.size()};
}
inline MutableBytes view(ByteList& bytes) {
    return {bytes.data(), bytes.size()};
}
inline MutablePositions view(PositionList& positions) {
    return {positions.data(), positions.size()};
}

// Each weight active with probability `density`.
inline Sample bernoulli(std::int64_t size, double density, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::bernoulli_distribution active(density);
    Sample sample{{}, size};
    for (std::int64_t position = 0; position < size; ++position) {
        if (active(random)) sample.positions.push_back(position);
    }
    return sample;
}

// Nothing, everything, both ends, every small size, and densities from one in two thousand to nearly all.
inline std::vector<Sample> samples() {
    std::vector<Sample> all{{{}, 0}, {{}, 1}, {{}, 1000}, {{0}, 1}, {{0, 999}, 1000}, {{999}, 1000}, {{0}, 1000}};
    for (std::int64_t size = 1; size <= 130; ++size) {
        all.push_back(bernoulli(size, 1.0, 0));
        all.push_back(bernoulli(size, 0.5, static_cast<std::uint64_t>(size)));
    }
    std::uint64_t seed = 1000;
    for (const double density : {0.0005, 0.01, 0.1, 0.5, 0.9, 0.999}) all.push_back(bernoulli(20'000, density, ++seed));
    return all;
}

}  // namespace isogrid::tests
