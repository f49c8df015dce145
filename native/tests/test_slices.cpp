#include <doctest/doctest.h>

#include <algorithm>
#include <map>

#include "layout/slices.hpp"
#include "matrices.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

using Entries = std::map<std::pair<int, int>, double>;

Entries entries_of(const Weights& weights) {
    Entries entries;
    weights.each([&](std::int32_t row, std::int32_t column, double value) { entries[{row, column}] = value; });
    return entries;
}

double value_of(ValueType type, const std::vector<unsigned char>& values, std::size_t i) {
    const unsigned char* const bytes = values.data();
    if (type == ValueType::f32) return static_cast<double>(reinterpret_cast<const float*>(bytes)[i]);
    if (type == ValueType::f16) return half_value(reinterpret_cast<const std::uint16_t*>(bytes)[i]);
    return reinterpret_cast<const std::int8_t*>(bytes)[i];
}

// Reads the layout back, counting errors; `filled` counts the places that hold no entry of the matrix.
Entries read_back(const Slices& slices, int& filled) {
    Entries entries;
    filled = 0;
    int wrong = 0;
    const auto all = static_cast<std::size_t>(slices.panels) * static_cast<std::size_t>(slices.slices);
    // Something must set the sums, even to zero.
    wrong += slices.quads.slice.empty() && slices.single.slice.empty() ? 1 : 0;
    for (const Slices::Entries* kind : {&slices.quads, &slices.single}) {
        if (kind->slice.empty()) continue;
        REQUIRE(kind->slice.size() == all);
        const std::size_t together = kind == &slices.quads ? 4 : 1;
        for (std::size_t at = 0; at < 8 * all; ++at) {
            const int panel = static_cast<int>(at / 8) / slices.slices;
            const Slice& slice = kind->slice[at / 8];
            const std::size_t of_layout = at % (8 * static_cast<std::size_t>(slices.slices));
            const int row = slices.row[of_layout];
            for (std::int32_t step = 0; step < slice.steps; ++step) {
                const std::size_t i = 8 * static_cast<std::size_t>(slice.begin + step) + at % 8;
                const int column = kind->column[i / together];
                const double value = value_of(slices.type, kind->values, i);
                if (column == slices.panel_width(panel)) {
                    ++filled;
                    wrong += value == 0.0 ? 0 : 1;
                    continue;
                }
                if (row < 0 || column > slices.panel_width(panel)) ++wrong;
                const double scale = slices.scale.empty() ? 1.0 : static_cast<double>(slices.scale[of_layout]);
                const std::pair place(row, panel * Slices::panel_columns + column);
                wrong += entries.emplace(place, value * scale).second ? 0 : 1;
            }
        }
    }
    CHECK(wrong == 0);
    return entries;
}

Entries read_back(const Columns& columns) {
    Entries entries;
    int wrong = 0;
    for (int part = 0; part < columns.parts; ++part) {
        const auto first = static_cast<std::size_t>(part) * (static_cast<std::size_t>(columns.columns) + 1);
        for (int c = 0; c < columns.columns; ++c) {
            const std::int64_t begin = columns.begin[first + static_cast<std::size_t>(c)];
            const std::int64_t end = columns.begin[first + static_cast<std::size_t>(c) + 1];
            for (std::int64_t i = begin; i < end; ++i) {
                const int row = columns.row[static_cast<std::size_t>(i)];
                wrong += row < columns.part_size ? 0 : 1;
                const std::pair place(part * columns.part_size + row, c);
                const auto value = static_cast<double>(columns.values[static_cast<std::size_t>(i)]);
                wrong += entries.emplace(place, value).second ? 0 : 1;
            }
        }
    }
    CHECK(wrong == 0);
    return entries;
}

}  // namespace

TEST_CASE("slices: the layout holds the matrix; what fills it up points behind the activations") {
    Random random(1);
    int with_quads = 0;
    int with_rest = 0;
    for (int round = 0; round < 300; ++round) {
        const int rows = between(random, 1, 60);
        const double density = one_of(random, std::vector<double>{0.0, 0.05, 0.5, 1.0});
        const Weights weights =
            random_weights(random, rows, between(random, 1, 50), density, one_of(random, value_types), Numbers::whole);
        const Floats bias = floats(random, chance(random, 0.5) ? static_cast<std::size_t>(rows) : 0);
        CAPTURE(round);
        Slices slices;
        Slices::build(weights.view(), bias.empty() ? nullptr : bias.data(), slices);
        int filled = 0;
        CHECK(read_back(slices, filled) == entries_of(weights));

        // Every row once, then none; the longest rows first, so that little is filled up.
        std::vector<std::int32_t> order = slices.row;
        std::sort(order.begin(), order.end(),
                  [](auto a, auto b) { return static_cast<unsigned>(a) < static_cast<unsigned>(b); });
        for (std::size_t i = 0; i < order.size(); ++i)
            CHECK(order[i] == (i < static_cast<std::size_t>(rows) ? static_cast<int>(i) : -1));
        const auto& slice = slices.quads.slice.empty() ? slices.single.slice : slices.quads.slice;
        for (std::size_t s = 1; s < slice.size(); ++s) CHECK(slice[s - 1].steps >= slice[s].steps);
        with_quads += slices.quads.slice.empty() ? 0 : 1;
        with_rest += slices.quads.slice.empty() || slices.single.slice.empty() ? 0 : 1;
        for (std::size_t i = 0; i < slices.bias.size(); ++i) {
            const std::int32_t row = slices.row[i];
            CHECK(slices.bias[i] == (row < 0 ? 0.0f : bias[static_cast<std::size_t>(row)]));
        }
        CHECK(slices.bias.empty() == bias.empty());
    }
    CHECK(with_quads > with_rest);
    CHECK(with_rest > 5);
}

TEST_CASE("slices: columns beyond 16 bits are cut into panels") {
    Random random(2);
    for (const int columns : {65'535, 65'536, 131'071}) {
        CAPTURE(columns);
        const Weights weights = random_weights(random, 11, columns, 0.0005, ValueType::f32, Numbers::whole);
        Slices slices;
        Slices::build(weights.view(), nullptr, slices);
        CHECK(slices.panels == (columns + 65'534) / 65'535);
        int filled = 0;
        CHECK(read_back(slices, filled) == entries_of(weights));
        CHECK(filled > 0);
    }
}

TEST_CASE("columns: the layout holds the matrix, in at least as many parts as were asked for") {
    Random random(3);
    for (int round = 0; round < 300; ++round) {
        const int rows = between(random, 1, 60);
        const Weights weights =
            random_weights(random, rows, between(random, 1, 50), one_of(random, std::vector<double>{0.0, 0.1, 1.0}),
                           one_of(random, value_types), Numbers::whole);
        const int parts = between(random, 1, 9);
        CAPTURE(round);
        Columns columns;
        Columns::build(weights.view(), parts, columns);
        CHECK(read_back(columns) == entries_of(weights));
        CHECK(columns.parts * columns.part_size >= rows);
        CHECK((columns.parts - 1) * columns.part_size < rows);
        // Rows that do not divide leave fewer.
        if (rows % parts == 0) CHECK(columns.parts == parts);
    }
}

TEST_CASE("columns: rows beyond 16 bits are cut into parts") {
    Random random(4);
    for (const int rows : {65'536, 65'537, 131'073}) {
        CAPTURE(rows);
        const Weights weights = random_weights(random, rows, 3, 0.01, ValueType::f32, Numbers::whole);
        Columns columns;
        Columns::build(weights.view(), 1, columns);
        CHECK(columns.parts == (rows + 65'535) / 65'536);
        CHECK(read_back(columns) == entries_of(weights));
    }
}
