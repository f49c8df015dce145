// The functions of the table for one sample and for stored values, of every target.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "hosts.hpp"
#include "matrices.hpp"
#include "reference.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

// Slices of 0 to 20 steps that do not begin at the first entry. Steps are few in slices of all-different columns.
template <class Element, class Draw, class Decode, class Dot>
void check_dot(const Kernels& k, const Dot& dot, const Draw& draw, const Decode& decode) {
    Random random(10);
    constexpr int columns = 65536;
    Floats x = floats(random, columns);
    for (const int options : {0, 1, 2, 3}) {
        const bool first = (options & 1) != 0;
        const bool quads = (options & 2) != 0;
        const std::size_t together = quads ? 4 : 1;
        std::vector<Slice> slices;
        std::int64_t begin = 3;
        for (int steps = 0; steps <= 20; ++steps) {
            slices.push_back({begin, steps});
            begin += steps + between(random, 0, 1);
        }
        begin = slices.back().begin + slices.back().steps;
        std::vector<Element> values(static_cast<std::size_t>(8 * begin));
        std::vector<std::uint16_t> column(values.size() / together);
        for (std::uint16_t& c : column) c = static_cast<std::uint16_t>(between(random, 0, columns - 1));
        column.back() = columns - 1;
        for (Element& value : values) value = draw(random);
        Floats out = floats(random, 8 * slices.size());
        Floats right = first ? Floats(out.size(), 0.0f) : out;
        if (first) std::fill(out.begin(), out.end(), not_a_number);
        for (std::size_t s = 0; s < slices.size(); ++s) {
            for (std::size_t lane = 0; lane < 8; ++lane) {
                double sum = static_cast<double>(right[8 * s + lane]);
                for (std::size_t i = 0; i < static_cast<std::size_t>(slices[s].steps); ++i) {
                    const std::size_t at = 8 * (static_cast<std::size_t>(slices[s].begin) + i) + lane;
                    sum += decode(values[at]) * static_cast<double>(x[column[at / together]]);
                }
                right[8 * s + lane] = static_cast<float>(sum);
            }
        }
        right.push_back(untouched);
        out.push_back(untouched);
        CAPTURE(options);
        const SliceList list{slices.data(), static_cast<int>(slices.size()), column.data(), values.data(), quads};
        dot(list, x.data(), out.data(), first);
        CHECK(differs(out, right) == "");
    }
    CHECK(k.width <= 8);
}

// What a dot product makes of single weights, by which the kernel's decoding of each of them is seen.
template <class Element, class Dot>
Floats decoded(const std::vector<Element>& values, const Dot& dot) {
    std::vector<Slice> slices;
    for (std::size_t i = 0; i < values.size() / 8; ++i) slices.push_back({static_cast<std::int64_t>(i), 1});
    const std::vector<std::uint16_t> columns(values.size(), 0);
    const float one = 1.0f;
    Floats out(values.size());
    dot({slices.data(), static_cast<int>(slices.size()), columns.data(), values.data(), false}, &one, out.data(), true);
    return out;
}

}  // namespace

TEST_CASE("kernels: dot products of eight rows at once, for each type of value") {
    on_every_target([](const Kernels& k) {
        const auto whole = [](Random& random) { return between(random, 1, 8) * (chance(random, 0.5) ? 1 : -1); };
        check_dot<float>(
            k, k.dot_f32, [&](Random& random) { return static_cast<float>(whole(random)); },
            [](float value) { return static_cast<double>(value); });
        check_dot<std::uint16_t>(k, k.dot_f16, [&](Random& random) { return whole_half(whole(random)); }, half_value);
        check_dot<std::int8_t>(
            k, k.dot_int8, [](Random& random) { return static_cast<std::int8_t>(between(random, -128, 127)); },
            [](std::int8_t value) { return static_cast<double>(value); });
    });
}

TEST_CASE("kernels: every half and every byte is read as the number that it is") {
    on_every_target([](const Kernels& k) {
        std::vector<std::uint16_t> halves(65536);
        std::iota(halves.begin(), halves.end(), std::uint16_t{0});
        Floats right;
        for (const std::uint16_t half : halves) right.push_back(static_cast<float>(half_value(half)));
        CHECK(differs(decoded(halves, k.dot_f16), right) == "");

        std::vector<std::int8_t> bytes;
        right.clear();
        for (int value = -128; value <= 127; ++value) {
            bytes.push_back(static_cast<std::int8_t>(value));
            right.push_back(static_cast<float>(value));
        }
        CHECK(differs(decoded(bytes, k.dot_int8), right) == "");
    });
}

TEST_CASE("kernels: scatter adds a column to its rows and to no others") {
    on_every_target([](const Kernels& k) {
        Random random(11);
        for (std::size_t count = 0; count <= 20; ++count) {
            CAPTURE(count);
            std::vector<std::uint16_t> all(65536);
            std::iota(all.begin(), all.end(), std::uint16_t{0});
            // The first and the last row, and any between.
            std::shuffle(all.begin() + 1, all.end() - 1, random);
            std::swap(all[1], all.back());
            const std::vector<std::uint16_t> rows(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count));
            const Floats values = floats(random, count);
            const float x = number(random, Numbers::whole);
            Floats y = floats(random, 65536);
            Floats right = y;
            for (std::size_t i = 0; i < count; ++i) right[rows[i]] += x * values[i];
            k.scatter(rows.data(), values.data(), count, x, y.data());
            CHECK(differs(y, right) == "");
        }
    });
}

TEST_CASE("kernels: stored values are widened exactly, any number of them") {
    on_every_target([](const Kernels& k) {
        Random random(14);
        std::vector<std::uint16_t> halves;
        std::vector<std::int8_t> bytes;
        for (std::size_t size = 0; size <= static_cast<std::size_t>(4 * k.width + 1); ++size) {
            CAPTURE(size);
            const float scale = std::exp(number(random, Numbers::real));
            Floats right_halves;
            Floats right_bytes;
            for (const std::uint16_t half : halves) right_halves.push_back(static_cast<float>(half_value(half)));
            // Rounded once.
            for (const std::int8_t byte : bytes)
                right_bytes.push_back(static_cast<float>(static_cast<double>(byte) * static_cast<double>(scale)));
            right_halves.push_back(untouched);
            right_bytes.push_back(untouched);
            Floats out(size + 1, untouched);
            k.widen_f16(halves.data(), size, out.data());
            CHECK(differs(out, right_halves) == "");
            out.assign(size + 1, untouched);
            k.widen_int8(bytes.data(), size, scale, out.data());
            CHECK(differs(out, right_bytes) == "");
            halves.push_back(static_cast<std::uint16_t>(between(random, 0, 65535)));
            halves.shrink_to_fit();
            bytes.push_back(static_cast<std::int8_t>(between(random, -128, 127)));
            bytes.shrink_to_fit();
        }
    });
}
