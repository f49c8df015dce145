#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "hosts.hpp"
#include "layout/blocks.hpp"
#include "matrices.hpp"

using namespace isogrid;
using namespace isogrid::tests;

namespace {

// (row, column) to value, of the rows [first, first + rows), counted from the first.
using Entries = std::map<std::pair<int, int>, double>;

Entries entries_of(const Weights& weights, int first, int rows) {
    Entries entries;
    weights.each([&](std::int32_t row, std::int32_t column, double value) {
        if (row >= first && row < first + rows) entries[{row - first, column}] = value;
    });
    return entries;
}

// Reads the layout back, checking on the way all that multiply() relies on. Errors are counted: a check for each of
// millions of entries would take longer than the layout.
Entries read_back(const Blocks& blocks, const ColumnMap& map) {
    const int taps = static_cast<int>(map.tap_offset.size());
    std::map<std::int64_t, int> column_at;
    for (int column = 0; column < map.channels * taps; ++column) {
        column_at[std::int64_t{column / taps} * map.stride + map.tap_offset[static_cast<std::size_t>(column % taps)]] =
            column;
    }
    REQUIRE(column_at.size() == static_cast<std::size_t>(map.channels * taps));
    Entries entries;
    int wrong = 0;
    int channels = 0;
    for (int block = 0; block < blocks.blocks(); ++block) {
        // What the operations pack for it.
        wrong += blocks.channel_begin(block) == channels ? 0 : 1;
        wrong += std::int64_t{channels} * map.stride == block * blocks.block_stride() ? 0 : 1;
        channels += blocks.channels(block);
    }
    wrong += channels == map.channels ? 0 : 1;
    for (int chunk = 0; chunk < blocks.chunks(); ++chunk) {
        std::int64_t in_chunk = 0;
        bool rested = false;
        for (int block = 0; block < blocks.blocks(); ++block) {
            for (const bool rest : {true, false}) {
                if (rest && !blocks.quads()) continue;
                const RowBlock part = rest ? blocks.rest(chunk, block) : blocks.at(chunk, block);
                const int lanes = part.quads ? 4 : 1;
                wrong += part.quads == (blocks.quads() && !rest) ? 0 : 1;
                std::set<int> seen;
                const std::uint8_t* row = part.rows;
                const std::uint16_t* offset = part.offsets;
                const float* value = part.values;
                for (int r = 0; r < part.run_count; ++r) {
                    if (r > 0 && part.runs[r - 1].count >= part.runs[r].count) ++wrong;
                    wrong += part.runs[r].rows > 0 ? 0 : 1;
                    for (int i = 0; i < part.runs[r].rows; ++i, ++row) {
                        const int first = lanes * *row;
                        wrong += first + lanes <= blocks.chunk_size(chunk) ? 0 : 1;
                        for (int lane = 0; lane < lanes; ++lane) wrong += seen.insert(first + lane).second ? 0 : 1;
                        for (int n = 0; n < part.runs[r].count; ++n, ++offset) {
                            const auto column = column_at.find(block * blocks.block_stride() + *offset);
                            for (int lane = 0; lane < lanes; ++lane, ++value) {
                                if (column == column_at.end()) {
                                    ++wrong;
                                    continue;
                                }
                                const std::pair place(blocks.chunk_begin(chunk) + first + lane, column->second);
                                wrong += entries.emplace(place, static_cast<double>(*value)).second ? 0 : 1;
                                ++in_chunk;
                            }
                        }
                    }
                }
                // What comes first sets the sums, what comes last stores the rows: all of them.
                const bool all = static_cast<int>(seen.size()) == blocks.chunk_size(chunk);
                if (rest ? block == 0 && !seen.empty() && !all : (block == 0 || block + 1 == blocks.blocks()) && !all) {
                    ++wrong;
                }
                // A rest that comes later is added to.
                rested = rested || (rest && block == 0 && all);
                if (rest && !seen.empty() && !rested) ++wrong;
            }
        }
        wrong += in_chunk == blocks.nonzeros(chunk) ? 0 : 1;
    }
    CHECK(wrong == 0);
    return entries;
}

}  // namespace

TEST_CASE("blocks: the layout holds the matrix and nothing else") {
    Random random(1);
    for (int round = 0; round < 200; ++round) {
        const int taps = one_of(random, std::vector<int>{1, 1, 2, 9, 25});
        const int channels = between(random, 1, taps > 9 ? 60 : 300);
        const int rows = between(random, 1, 40);
        const double density = one_of(random, std::vector<double>{0.0, 0.02, 0.2, 1.0});
        const Weights weights =
            random_weights(random, rows, channels * taps, density, one_of(random, value_types), Numbers::whole);
        // Taps at distinct places of the window, in any order.
        ColumnMap map{channels, between(random, 2 * taps, 2 * taps + 200), {}};
        std::vector<int> places(static_cast<std::size_t>(map.stride));
        std::iota(places.begin(), places.end(), 0);
        std::shuffle(places.begin(), places.end(), random);
        map.tap_offset.assign(places.begin(), places.begin() + taps);
        const int first = between(random, 0, rows - 1);
        const int count = between(random, 1, rows - first);
        const int chunk_rows = one_of(random, std::vector<int>{1, 3, 8, 32, 256});
        const int block_channels = between(random, 1, 2 * channels);
        CAPTURE(round);
        Blocks blocks;
        REQUIRE(Blocks::build(weights.view(), first, count, map, block_channels, chunk_rows, blocks) == Status::ok);
        CHECK(blocks.blocks() ==
              (channels + std::min(block_channels, channels) - 1) / std::min(block_channels, channels));
        CHECK(blocks.chunks() == (count + chunk_rows - 1) / chunk_rows);
        CHECK(read_back(blocks, map) == entries_of(weights, first, count));
    }
}

TEST_CASE("blocks: rows that are alike in fours become quads, and no others") {
    Random random(5);
    const ColumnMap map{50, 8, {0}};
    const auto layout = [&](const Weights& weights, int chunk_rows) {
        Blocks blocks;
        REQUIRE(Blocks::build(weights.view(), 0, weights.rows, map, 20, chunk_rows, blocks) == Status::ok);
        CHECK(read_back(blocks, map) == entries_of(weights, 0, weights.rows));
        return blocks.quads();
    };
    CHECK(layout(random_weights(random, 16, 50, 1.0), 8));
    CHECK_FALSE(layout(random_weights(random, 15, 50, 1.0), 8));
    // A chunk would end within a quad.
    CHECK_FALSE(layout(random_weights(random, 16, 50, 1.0), 6));
    CHECK_FALSE(layout(random_weights(random, 16, 50, 0.0), 8));
    int quads = 0;
    for (int round = 0; round < 100; ++round) quads += layout(random_weights(random, 16, 50, 0.3), 8) ? 1 : 0;
    CHECK(quads > 40);
    CHECK(quads < 90);
}

TEST_CASE("blocks: matrices that need more than one of each") {
    Random random(2);
    // More rows than a chunk can number, more columns than a block can reach.
    const Weights tall = random_weights(random, 600, 3, 0.5);
    const ColumnMap narrow{3, 64, {0}};
    Blocks blocks;
    REQUIRE(Blocks::build(tall.view(), 0, 600, narrow, 3, 1000, blocks) == Status::ok);
    CHECK(blocks.chunks() == 3);
    CHECK(read_back(blocks, narrow) == entries_of(tall, 0, 600));

    const Weights wide = random_weights(random, 5, 20'000, 0.1);
    const ColumnMap wide_map{20'000, 16, {0}};
    REQUIRE(Blocks::build(wide.view(), 0, 5, wide_map, 20'000, 256, blocks) == Status::ok);
    CHECK(blocks.blocks() > 1);
    CHECK(read_back(blocks, wide_map) == entries_of(wide, 0, 5));
}

TEST_CASE("blocks: a block reaches as far as 16 bits and no further") {
    Random random(3);
    const Weights weights = random_weights(random, 4, 6, 1.0);
    Blocks blocks;
    // Two taps at both ends of the reach, three channels.
    const ColumnMap farthest{3, 70'000, {0, 65'535}};
    REQUIRE(Blocks::build(weights.view(), 0, 4, farthest, 3, 8, blocks) == Status::ok);
    CHECK(blocks.blocks() == 3);
    CHECK(read_back(blocks, farthest) == entries_of(weights, 0, 4));
    CHECK(Blocks::build(weights.view(), 0, 4, {3, 70'000, {0, 65'536}}, 3, 8, blocks) == Status::window_too_large);
}

TEST_CASE("blocks: a tile costs more the wider it is and the more there is to do") {
    on_every_target([](const Kernels& k) {
        for (const bool quads : {false, true}) {
            const TileShape shape{100, 300, 2, 40, 5000.0, quads};
            for (int vectors = 1; vectors <= k.max_vectors; ++vectors) {
                const double cost = best_tiling(shape, vectors, k.width).cost;
                CHECK(cost > 0.0);
                CHECK(best_tiling(shape, vectors + 1, k.width).cost > cost);
                TileShape more = shape;
                more.nonzeros *= 2;
                CHECK(best_tiling(more, vectors, k.width).cost > cost);
                more = shape;
                more.rows *= 2;
                CHECK(best_tiling(more, vectors, k.width).cost > cost);
            }
        }
    });
}

TEST_CASE("blocks: long rows are cut so that a block fits the L1 cache, short ones less often") {
    const int stride = 64;
    const auto floats = [=](double density) {
        return best_tiling({1000, 4000, 1, 0, 4e6 * density}, 8, 8).block_channels * stride;
    };
    CHECK(floats(0.5) <= 8192);
    CHECK(floats(0.01) > 16384);
    CHECK(floats(0.01) <= 32768);
    CHECK(floats(0.03) >= floats(0.1));
    // All of the same width: the last one is no narrow rest.
    const int channels = best_tiling({1000, 513, 1, 0, 1e5}, 8, 8).block_channels;
    CHECK(513 % channels > channels / 2);
    // As few channels as there are, and one where not even that fits.
    CHECK(best_tiling({1000, 3, 1, 0, 1e3}, 8, 8).block_channels == 3);
    CHECK(best_tiling({1000, 3, 4, 1 << 20, 1e3}, 8, 8).block_channels == 1);
    CHECK(best_tiling({1, 1 << 28, 1, 0, 1e3}, 8, 8).block_channels >= 1);
}
