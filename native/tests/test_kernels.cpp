// Every function of the table of every target, on whole numbers, whose results are exact.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "hosts.hpp"
#include "matrices.hpp"
#include "reference.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

// What no kernel computes: where it is found afterwards, nothing was written.
constexpr float untouched = 12345.25f;

// Empty if both hold the same, NaN being the same as NaN; otherwise the first place that differs.
std::string differs(const Floats& got, const Floats& right) {
    if (got.size() != right.size()) return "there are " + std::to_string(got.size()) + " floats";
    for (std::size_t i = 0; i < got.size(); ++i) {
        if (got[i] == right[i] || (std::isnan(got[i]) && std::isnan(right[i]))) continue;
        return at_place(i, static_cast<double>(got[i]), static_cast<double>(right[i]));
    }
    return "";
}

// Rows of 0 to 20 nonzeros, a few of each, in the order that the layout gives them: by count, the row ids mixed.
struct Block {
    int chunk_rows = 0;
    std::vector<Run> runs;
    std::vector<std::uint8_t> rows;
    std::vector<std::uint16_t> offsets;
    Floats values;

    Block(Random& random, int reach, bool every_row) {
        std::vector<int> ids;
        for (int count = 0; count <= 20; ++count) {
            const int rows_here = between(random, 1, 3);
            runs.push_back({static_cast<std::uint16_t>(count), static_cast<std::uint16_t>(rows_here)});
            for (int entry = 0; entry < count * rows_here; ++entry) {
                offsets.push_back(static_cast<std::uint16_t>(between(random, 0, reach)));
                values.push_back(number(random, Numbers::whole));
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
    }

    RowBlock view() const {
        return {runs.data(), static_cast<int>(runs.size()), rows.data(), offsets.data(), values.data()};
    }

    // Calls body(row, first entry, entries).
    template <class Body>
    void each(const Body& body) const {
        std::size_t entry = 0;
        std::size_t at = 0;
        for (const Run& run : runs) {
            for (int i = 0; i < run.rows; ++i, ++at, entry += run.count)
                body(static_cast<std::size_t>(rows[at]), entry, static_cast<std::size_t>(run.count));
        }
    }

    // The sums of all rows, in double.
    std::vector<double> sums(const Floats& x, const Floats& before, int columns, bool first) const {
        std::vector<double> all(before.begin(), before.end());
        each([&](std::size_t row, std::size_t begin, std::size_t count) {
            for (std::size_t c = 0; c < static_cast<std::size_t>(columns); ++c) {
                double& sum = all[row * static_cast<std::size_t>(columns) + c];
                if (first) sum = 0.0;
                for (std::size_t i = begin; i < begin + count; ++i)
                    sum += static_cast<double>(values[i]) * static_cast<double>(x[offsets[i] + c]);
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
    Tile(Random& random, const Kernels& k, int vectors, bool first)
        : columns(vectors * k.width),
          block(random, 2000, first),
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
            for (const bool first : {true, false}) {
                CAPTURE(vectors);
                CAPTURE(first);
                Tile tile(random, k, vectors, first);
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
        k.multiply({&run, 1, &row, offsets.data(), values.data()}, x.data(), sums.data(), 1, true);
        CHECK(differs(sums, Floats(sums.size(), 131070.0f)) == "");
    });
}

TEST_CASE("kernels: multiply_last finishes the rows where they belong and writes nothing else") {
    on_every_target([](const Kernels& k) {
        Random random(3);
        for (int vectors = 1; vectors <= k.max_vectors; ++vectors) {
            for (int options = 0; options < 16; ++options) {
                const bool first = (options & 1) != 0;
                const bool clip = (options & 8) != 0;
                CAPTURE(vectors);
                CAPTURE(options);
                Tile tile(random, k, vectors, first);
                // Of the last block, all rows are in some run; the tile of a middle one has rows that are not.
                if (!first) tile.block = Block(random, 2000, true);
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

TEST_CASE("kernels: slide is a depthwise row of any length and number of taps") {
    on_every_target([](const Kernels& k) {
        Random random(4);
        std::vector<int> lengths;
        for (int length = 0; length <= 3 * k.width; ++length) lengths.push_back(length);
        for (const int rest : {-1, 0, 1, k.width, 2 * k.width + 1}) lengths.push_back(16 * k.width + rest);
        for (const int length : lengths) {
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

TEST_CASE("kernels: pack_tokens turns any number of tokens and features into a tile") {
    on_every_target([](const Kernels& k) {
        Random random(5);
        for (int padded = k.width; padded <= 3 * k.width; padded += k.width) {
            for (int tokens = 0; tokens <= padded; ++tokens) {
                for (int features = 0; features <= 2 * k.width + 3; ++features) {
                    CAPTURE(padded);
                    CAPTURE(tokens);
                    CAPTURE(features);
                    const int stride = features + between(random, 0, 3);
                    const int pitch = padded + between(random, 0, 2) * k.width;
                    // The last token ends where the memory does.
                    Floats x = floats(random, static_cast<std::size_t>(
                                                  std::max(0, tokens == 0 ? 0 : (tokens - 1) * stride + features)));
                    if (!x.empty())
                        x[static_cast<std::size_t>(between(random, 0, static_cast<int>(x.size()) - 1))] = not_a_number;
                    Floats right(static_cast<std::size_t>(features * pitch), untouched);
                    for (int f = 0; f < features; ++f) {
                        for (int t = 0; t < padded; ++t) {
                            right[static_cast<std::size_t>(f * pitch + t)] =
                                t < tokens ? x[static_cast<std::size_t>(t * stride + f)] : 0.0f;
                        }
                    }
                    Floats out(right.size(), untouched);
                    k.pack_tokens(x.data(), static_cast<std::size_t>(stride), tokens, features, out.data(), pitch,
                                  padded);
                    CHECK(differs(out, right) == "");
                }
            }
        }
    });
}

TEST_CASE("kernels: pack_window reads any window of any phase of a plane") {
    on_every_target([](const Kernels& k) {
        Random random(6);
        for (int round = 0; round < 4000; ++round) {
            const int stride_y = between(random, 1, 4);
            const int stride_x = between(random, 1, 4);
            const int height = between(random, 1, 9);
            const int width = chance(random, 0.3) ? between(random, 30, 90) : between(random, 1, 20);
            const Phase phase = [&] {
                const int row = between(random, 0, stride_y - 1);
                const int column = between(random, 0, stride_x - 1);
                // A plane that a phase misses has no rows or no columns.
                return Phase{row, column, row < height ? (height - row + stride_y - 1) / stride_y : 0,
                             column < width ? (width - column + stride_x - 1) / stride_x : 0};
            }();
            const int pitch = std::max(1, phase.width + between(random, 0, 12));
            const int first = between(random, -3 * pitch - 1, (phase.height + 1) * pitch);
            const int length = between(random, 0, 4 * pitch + 40);
            CAPTURE(round);
            const Floats plane = floats(random, static_cast<std::size_t>(height * width));
            Floats right;
            for (int f = first; f < first + length; ++f) {
                const int row = static_cast<int>(std::floor(static_cast<double>(f) / pitch));
                const int column = f - row * pitch;
                const bool there = row >= 0 && row < phase.height && column < phase.width;
                const int at = (phase.first_row + row * stride_y) * width + phase.first_column + column * stride_x;
                right.push_back(there ? plane[static_cast<std::size_t>(at)] : 0.0f);
            }
            right.push_back(untouched);
            Floats out(right.size(), untouched);
            k.pack_window(plane.data(), width, stride_y, stride_x, phase, pitch, first, length, out.data());
            CHECK(differs(out, right) == "");
        }
    });
}

namespace {

// Stores a rectangle of sums through store_rows, or transposed through store_tokens, and compares.
void check_store(Random& random, const Kernels& k, bool transposed, int rows, int columns, Epilogue e) {
    CAPTURE(rows);
    CAPTURE(columns);
    CAPTURE(static_cast<int>(e.activation));
    const int pitch = columns + between(random, 0, 9);
    const int inner = transposed ? rows : columns;
    const int outer = transposed ? columns : rows;
    const auto stride = static_cast<std::size_t>(inner + between(random, 0, 5));
    const std::size_t size = static_cast<std::size_t>(outer - 1) * stride + static_cast<std::size_t>(inner);
    const Floats bias = floats(random, chance(random, 0.5) ? static_cast<std::size_t>(rows) : 0);
    const Floats residual = floats(random, chance(random, 0.5) ? size : 0);
    // What lies beside the rectangle must not be touched, let alone spread.
    Floats sums(static_cast<std::size_t>((rows - 1) * pitch + columns), not_a_number);
    Floats y(size, untouched);
    Floats gaps(size, untouched);
    Expected expected(size);
    for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < columns; ++c) {
            const auto from = static_cast<std::size_t>(r * pitch + c);
            const auto to =
                static_cast<std::size_t>(transposed ? c : r) * stride + static_cast<std::size_t>(transposed ? r : c);
            sums[from] = number(random, Numbers::whole);
            if (chance(random, 0.02)) sums[from] = not_a_number;
            expected.add(to, static_cast<double>(sums[from]));
            if (!bias.empty()) expected.add(to, static_cast<double>(bias[static_cast<std::size_t>(r)]));
            if (!residual.empty()) expected.add(to, static_cast<double>(residual[to]));
            gaps[to] = 0.0f;
        }
    }
    const auto store = transposed ? k.store_tokens : k.store_rows;
    store({sums.data(), pitch, rows, columns}, bias.empty() ? nullptr : bias.data(), e,
          residual.empty() ? nullptr : residual.data(), y.data(), stride);
    for (std::size_t i = 0; i < size; ++i) {
        if (gaps[i] != untouched) continue;
        CHECK(y[i] == untouched);
        expected.sum[i] = 0.0;
        y[i] = static_cast<float>(activated(e, 0.0));
    }
    CHECK(difference(y, expected, e, Numbers::whole) == "");
}

}  // namespace

TEST_CASE("kernels: store_rows finishes rows of any size with every activation") {
    on_every_target([](const Kernels& k) {
        Random random(7);
        for (const Epilogue& e : epilogues()) {
            for (int columns = 1; columns <= 3 * k.width + 1; ++columns) {
                for (int rows = 1; rows <= 4; ++rows) check_store(random, k, false, rows, columns, e);
            }
        }
    });
}

TEST_CASE("kernels: store_tokens finishes and transposes any rectangle with every activation") {
    on_every_target([](const Kernels& k) {
        Random random(8);
        for (const Epilogue& e : epilogues()) {
            for (const int rows : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 71}) {
                for (int columns = 1; columns <= 9; ++columns) check_store(random, k, true, rows, columns, e);
            }
        }
    });
}

TEST_CASE("kernels: activations stay as near to their functions as their fits promise") {
    Floats inputs{0.0f, -0.0f, std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::min()};
    for (int i = -12000; i <= 12000; ++i) inputs.push_back(static_cast<float>(i) / 1000.0f);
    for (double size = 12.0; size < 1e30; size *= 1.07) {
        inputs.push_back(static_cast<float>(size));
        inputs.push_back(static_cast<float>(-size));
        inputs.push_back(static_cast<float>(1.0 / size));
    }
    on_every_target([&](const Kernels& k) {
        for (Epilogue e : epilogues()) {
            CAPTURE(static_cast<int>(e.activation));
            Expected expected(0);
            for (const float x : inputs) expected.sum.push_back(static_cast<double>(x));
            for (const float threshold : {0.0f, 0.25f, 4.0f}) {
                if (e.activation != Activation::clip) e.low = threshold;
                Floats y = inputs;
                k.activate(y.data(), y.size(), e);
                CHECK(difference(y, expected, e, Numbers::whole) == "");
            }
        }
    });
}

TEST_CASE("kernels: far out, activations are what they tend to") {
    on_every_target([](const Kernels& k) {
        const auto check = [&](Activation activation, float x, float limit) {
            CAPTURE(static_cast<int>(activation));
            CAPTURE(x);
            Floats y(9, x);
            k.activate(y.data(), y.size(), {nullptr, activation, 0.0f, 0.0f});
            CHECK(differs(y, Floats(9, limit)) == "");
        };
        for (const float x : {10.0f, 50.0f, 1e4f, 1e20f, std::numeric_limits<float>::max()}) {
            check(Activation::tanh, x, 1.0f);
            check(Activation::tanh, -x, -1.0f);
            check(Activation::sparse_tanh, x, 1.0f);
            check(Activation::sparse_tanh, -x, -1.0f);
            check(Activation::hard_sigmoid, x, 1.0f);
            check(Activation::hard_sigmoid, -x, 0.0f);
            check(Activation::hard_swish, -x, 0.0f);
            for (const Activation gated : {Activation::gelu, Activation::gelu_tanh}) {
                check(gated, x, x);
                check(gated, -x, 0.0f);
            }
        }
        for (const float x : {50.0f, 1e4f, 1e20f}) {
            check(Activation::sigmoid, x, 1.0f);
            check(Activation::silu, x, x);
        }
        check(Activation::tanh, infinite, 1.0f);
        check(Activation::tanh, -infinite, -1.0f);
        check(Activation::sigmoid, infinite, 1.0f);
        check(Activation::relu, -infinite, 0.0f);
        for (const Activation gated :
             {Activation::none, Activation::relu, Activation::leaky_relu, Activation::gelu, Activation::gelu_tanh,
              Activation::silu, Activation::hard_swish, Activation::sparse_relu}) {
            check(gated, infinite, infinite);
        }
    });
}

TEST_CASE("kernels: activate passes NaN through and touches nothing behind the last float") {
    on_every_target([](const Kernels& k) {
        Random random(9);
        for (const Epilogue& e : epilogues()) {
            for (std::size_t size = 0; size <= static_cast<std::size_t>(3 * k.width); ++size) {
                CAPTURE(static_cast<int>(e.activation));
                CAPTURE(size);
                Floats y = floats(random, size);
                if (size > 0)
                    y[static_cast<std::size_t>(between(random, 0, static_cast<int>(size) - 1))] = not_a_number;
                Expected expected(0);
                for (const float x : y) expected.sum.push_back(static_cast<double>(x));
                y.push_back(untouched);
                k.activate(y.data(), size, e);
                CHECK(y.back() == untouched);
                y.pop_back();
                CHECK(difference(y, expected, e, Numbers::whole) == "");
            }
        }
    });
}

namespace {

// Slices of 0 to 20 steps that do not begin at the first entry. Steps are few in slices of all-different columns.
template <class Element, class Draw, class Decode, class Dot>
void check_dot(const Kernels& k, const Dot& dot, const Draw& draw, const Decode& decode) {
    Random random(10);
    constexpr int columns = 65536;
    Floats x = floats(random, columns);
    for (const bool first : {true, false}) {
        std::vector<Slice> slices;
        std::int64_t begin = 3;
        for (int steps = 0; steps <= 20; ++steps) {
            slices.push_back({begin, steps});
            begin += steps + between(random, 0, 1);
        }
        begin = slices.back().begin + slices.back().steps;
        std::vector<std::uint16_t> column(static_cast<std::size_t>(8 * begin));
        std::vector<Element> values(column.size());
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
                    sum += decode(values[at]) * static_cast<double>(x[column[at]]);
                }
                right[8 * s + lane] = static_cast<float>(sum);
            }
        }
        right.push_back(untouched);
        out.push_back(untouched);
        CAPTURE(first);
        dot(slices.data(), static_cast<int>(slices.size()), column.data(), values.data(), x.data(), out.data(), first);
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
    dot(slices.data(), static_cast<int>(slices.size()), columns.data(), values.data(), &one, out.data(), true);
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
