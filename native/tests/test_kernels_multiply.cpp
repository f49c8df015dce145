// The functions of the table that multiply, of every target, on whole numbers, whose results are exact.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "hosts.hpp"
#include "matrices.hpp"
#include "reference.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

// Rows, or quads of rows, of 0 to 20 nonzeros, a few of each, in the order that the layout gives them: by count, the
// ids mixed.
struct Block {
    bool quads = false;
    int chunk_rows = 0;
    std::vector<Run> runs;
    std::vector<std::uint8_t> rows;
    std::vector<std::uint16_t> offsets;
    Floats values;

    Block(Random& random, int reach, bool every_row, bool in_quads) : quads(in_quads) {
        std::vector<int> ids;
        for (int count = 0; count <= 20; ++count) {
            const int rows_here = between(random, 1, 3);
            runs.push_back({static_cast<std::uint16_t>(count), static_cast<std::uint16_t>(rows_here)});
            for (int entry = 0; entry < count * rows_here; ++entry) {
                offsets.push_back(static_cast<std::uint16_t>(between(random, 0, reach)));
                for (int lane = 0; lane < lanes(); ++lane) values.push_back(number(random, Numbers::whole));
            }
            chunk_rows += rows_here;
        }
        // The last activation that an offset can lead to is used.
        offsets.back() = static_cast<std::uint16_t>(reach);
        const int used = chunk_rows;
        if (!every_row) chunk_rows += 5;
        ids.resize(static_cast<std::size_t>(chunk_rows));
        std::iota(ids.begin(), ids.end(), 0);
        std::shuffle(ids.begin(), ids.end(), random);
        for (int i = 0; i < used; ++i) rows.push_back(static_cast<std::uint8_t>(ids[static_cast<std::size_t>(i)]));
        chunk_rows *= lanes();
    }

    int lanes() const { return quads ? 4 : 1; }

    RowBlock view() const {
        return {runs.data(), static_cast<int>(runs.size()), rows.data(), offsets.data(), values.data(), quads};
    }

    // Calls body(row, first offset, offsets, lane).
    template <class Body>
    void each(const Body& body) const {
        std::size_t entry = 0;
        std::size_t at = 0;
        for (const Run& run : runs) {
            for (int i = 0; i < run.rows; ++i, ++at, entry += run.count) {
                for (std::size_t lane = 0; lane < static_cast<std::size_t>(lanes()); ++lane) {
                    const auto row = static_cast<std::size_t>(lanes()) * rows[at] + lane;
                    body(row, entry, static_cast<std::size_t>(run.count), lane);
                }
            }
        }
    }

    // The sums of all rows, in double.
    std::vector<double> sums(const Floats& x, const Floats& before, int columns, bool first) const {
        std::vector<double> all(before.begin(), before.end());
        each([&](std::size_t row, std::size_t begin, std::size_t count, std::size_t lane) {
            for (std::size_t c = 0; c < static_cast<std::size_t>(columns); ++c) {
                double& sum = all[row * static_cast<std::size_t>(columns) + c];
                if (first) sum = 0.0;
                for (std::size_t i = begin; i < begin + count; ++i)
                    sum += static_cast<double>(values[static_cast<std::size_t>(lanes()) * i + lane]) *
                           static_cast<double>(x[offsets[i] + c]);
            }
        });
        return all;
    }

    // What is not multiplied with anything becomes NaN, so that touching it shows.
    void poison(Floats& x, int columns) const {
        std::vector<bool> met(x.size(), false);
        for (const std::uint16_t offset : offsets) std::fill_n(met.begin() + offset, columns, true);
        for (std::size_t i = 0; i < x.size(); ++i) {
            if (!met[i]) x[i] = not_a_number;
        }
    }
};

Floats to_floats(const std::vector<double>& all) {
    return {all.begin(), all.end()};
}

struct Tile {
    int columns;
    Block block;
    Floats x;
    Floats sums;

    // Few places, so that some are not used, for wide tiles leave none out otherwise.
    Tile(Random& random, const Kernels& k, int vectors, bool first, bool quads)
        : columns(vectors * k.width),
          block(random, 2000, first, quads),
          x(floats(random, static_cast<std::size_t>(2000 + columns))),
          sums(first ? Floats(size(), not_a_number) : floats(random, size())) {
        block.poison(x, columns);
    }
    std::size_t size() const { return static_cast<std::size_t>(block.chunk_rows) * static_cast<std::size_t>(columns); }
};

}  // namespace

TEST_CASE("kernels: multiply makes or adds to the sums, for every width of a tile and every small count") {
    on_every_target([](const Kernels& k) {
        Random random(1);
        for (int vectors = 1; vectors <= k.max_vectors; ++vectors) {
            for (const int options : {0, 1, 2, 3}) {
                const bool first = (options & 1) != 0;
                CAPTURE(vectors);
                CAPTURE(options);
                Tile tile(random, k, vectors, first, (options & 2) != 0);
                const Floats right = to_floats(tile.block.sums(tile.x, tile.sums, tile.columns, first));
                k.multiply(tile.block.view(), tile.x.data(), tile.sums.data(), vectors, first);
                CHECK(differs(tile.sums, right) == "");
            }
        }
    });
}

TEST_CASE("kernels: multiply takes as many nonzeros as a block can have") {
    on_every_target([](const Kernels& k) {
        Random random(2);
        constexpr std::uint16_t count = 65535;
        const Run run{count, 1};
        const std::uint8_t row = 0;
        std::vector<std::uint16_t> offsets(count);
        std::iota(offsets.begin(), offsets.end(), std::uint16_t{0});
        const Floats values(count, 1.0f);
        const Floats x(static_cast<std::size_t>(count + k.width), 2.0f);
        Floats sums(static_cast<std::size_t>(k.width), not_a_number);
        k.multiply({&run, 1, &row, offsets.data(), values.data(), false}, x.data(), sums.data(), 1, true);
        CHECK(differs(sums, Floats(sums.size(), 131070.0f)) == "");
    });
}

TEST_CASE("kernels: multiply_last finishes the rows where they belong and writes nothing else") {
    on_every_target([](const Kernels& k) {
        Random random(3);
        for (int vectors = 1; vectors <= k.max_vectors; ++vectors) {
            for (int options = 0; options < 32; ++options) {
                const bool quads = (options & 16) != 0;
                const bool first = (options & 1) != 0;
                const bool clip = (options & 8) != 0;
                CAPTURE(vectors);
                CAPTURE(options);
                Tile tile(random, k, vectors, first, quads);
                // Of the last block, all rows are in some run; the tile of a middle one has rows that are not.
                if (!first) tile.block = Block(random, 2000, true, quads);
                tile.x = floats(random, tile.x.size());
                tile.sums = first ? Floats(tile.size(), not_a_number) : floats(random, tile.size());
                tile.x[tile.block.offsets.back()] = not_a_number;
                tile.x[tile.block.offsets.front()] = -infinite;

                const auto stride = static_cast<std::size_t>(tile.columns + between(random, 0, 5));
                const auto rows = static_cast<std::size_t>(tile.block.chunk_rows);
                const std::size_t size = (rows - 1) * stride + static_cast<std::size_t>(tile.columns);
                const Floats bias = floats(random, (options & 2) != 0 ? rows : 0);
                const Floats residual = floats(random, (options & 4) != 0 ? size : 0);
                const std::vector<double> sums = tile.block.sums(tile.x, tile.sums, tile.columns, first);
                Floats right(size, untouched);
                for (std::size_t r = 0; r < rows; ++r) {
                    for (std::size_t c = 0; c < static_cast<std::size_t>(tile.columns); ++c) {
                        double v = sums[r * static_cast<std::size_t>(tile.columns) + c];
                        if (!bias.empty()) v += static_cast<double>(bias[r]);
                        if (!residual.empty()) v += static_cast<double>(residual[r * stride + c]);
                        if (clip) v = activated({nullptr, Activation::clip, -30.0f, 20.0f}, v);
                        right[r * stride + c] = static_cast<float>(v);
                    }
                }
                Floats y(size, untouched);
                const Floats before = tile.sums;
                k.multiply_last(tile.block.view(), tile.x.data(), tile.sums.data(), vectors, first,
                                {bias.empty() ? nullptr : bias.data(), residual.empty() ? nullptr : residual.data(),
                                 y.data(), stride, clip, -30.0f, 20.0f});
                CHECK(differs(y, right) == "");
                CHECK(differs(tile.sums, before) == "");
            }
        }
    });
}

TEST_CASE("kernels: slide is a depthwise row of any number of vectors and taps") {
    on_every_target([](const Kernels& k) {
        Random random(4);
        for (int length = k.width; length <= 20 * k.width; length += k.width) {
            for (int taps = 0; taps <= 20; ++taps) {
                CAPTURE(length);
                CAPTURE(taps);
                const Floats weights = floats(random, static_cast<std::size_t>(taps));
                std::vector<std::int32_t> offsets(static_cast<std::size_t>(taps));
                for (std::int32_t& offset : offsets) offset = between(random, 0, 30);
                if (taps > 0) offsets.back() = 30;
                const Floats window = floats(random, static_cast<std::size_t>(30 + length));
                const float start = number(random, Numbers::whole);
                Floats right(static_cast<std::size_t>(length));
                for (std::size_t p = 0; p < right.size(); ++p) {
                    double sum = static_cast<double>(start);
                    for (std::size_t t = 0; t < weights.size(); ++t) {
                        sum += static_cast<double>(weights[t]) *
                               static_cast<double>(window[static_cast<std::size_t>(offsets[t]) + p]);
                    }
                    right[p] = static_cast<float>(sum);
                }
                right.push_back(untouched);
                Floats sums(right.size(), untouched);
                k.slide(window.data(), offsets.data(), weights.data(), taps, start, sums.data(), length);
                CHECK(differs(sums, right) == "");
            }
        }
    });
}

TEST_CASE("kernels: slide_max is the largest of the taps, or NaN") {
    on_every_target([](const Kernels& k) {
        Random random(5);
        for (int length = k.width; length <= 11 * k.width; length += k.width) {
            for (int taps = 1; taps <= 20; ++taps) {
                CAPTURE(length);
                CAPTURE(taps);
                std::vector<std::int32_t> offsets(static_cast<std::size_t>(taps));
                for (std::int32_t& offset : offsets) offset = between(random, 0, 30);
                offsets.back() = 30;
                Floats window = floats(random, static_cast<std::size_t>(30 + length));
                for (float& value : window) {
                    if (chance(random, 0.1)) value = -infinite;
                    if (chance(random, 0.02)) value = not_a_number;
                }
                Floats right(static_cast<std::size_t>(length), -infinite);
                for (std::size_t p = 0; p < right.size(); ++p) {
                    for (const std::int32_t offset : offsets) {
                        const float value = window[static_cast<std::size_t>(offset) + p];
                        right[p] = std::isnan(value) || std::isnan(right[p]) ? not_a_number : std::max(right[p], value);
                    }
                }
                right.push_back(untouched);
                Floats sums(right.size(), untouched);
                k.slide_max(window.data(), offsets.data(), taps, sums.data(), length);
                CHECK(differs(sums, right) == "");
            }
        }
    });
}
