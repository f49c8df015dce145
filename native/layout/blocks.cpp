#include "layout/blocks.hpp"

#include <algorithm>

#include "kernels/half.hpp"

namespace isogrid {
namespace {

// Floats of a tile that one block takes. The L1 cache of most processors is 32 KiB; a little less leaves more room for
// the nonzeros that stream past, but shorter rows cost more than that brings. Four times as much is half of a small L2
// cache, which the sums share.
constexpr int l1_floats = 8192;
constexpr int l2_floats = 32768;
constexpr int most_offset = 65535;

int divide_up(int a, int b) {
    return (a + b - 1) / b;
}

// Nanoseconds of a core, fitted to measurements of 2 to 10 vectors at 1 to 30 % density (docs/engine.md).
double tiling_cost(const TileShape& shape, int vectors, int lanes, int blocks, int block_floats) {
    if (shape.quads) {
        return shape.nonzeros * (0.165 * vectors + 0.03 * divide_up(vectors, 3)) +
               static_cast<double>(shape.rows) * blocks * 0.3 * vectors;
    }
    const double beyond = block_floats - l1_floats;
    const double miss = beyond > 0.0 ? 0.15 * beyond / block_floats + 0.27 * beyond / 65536.0 : 0.0;
    const int lines = divide_up(vectors * lanes, 16);
    return shape.nonzeros * (0.12 + (shape.aligned ? 0.2 : 0.29) * vectors + miss * lines) +
           static_cast<double>(shape.rows) * blocks * (3.2 + 0.25 * vectors);
}

}  // namespace

Tiling best_tiling(const TileShape& shape, int vectors, int lanes) {
    const int stride = shape.phases * (vectors * lanes + shape.reach);
    const auto channels_within = [&](int floats) { return std::clamp(floats / stride, 1, shape.channels); };
    const int least = divide_up(shape.channels, channels_within(shape.quads ? l1_floats : l2_floats));
    const int most = divide_up(shape.channels, channels_within(l1_floats));
    // Of very many not every number is worth a try.
    const int step = divide_up(most - least + 1, 64);
    Tiling best{};
    for (int blocks = least; blocks <= most; blocks += step) {
        // All about as wide: a narrow last one would cost each row as much as the others.
        const int channels = divide_up(shape.channels, blocks);
        const double cost = tiling_cost(shape, vectors, lanes, divide_up(shape.channels, channels), channels * stride);
        if (blocks == least || cost < best.cost) best = {channels, cost};
    }
    return best;
}

float value_at(const SparseMatrix& m, int row, std::int64_t i) {
    switch (m.type) {
        case ValueType::f32:
            return static_cast<const float*>(m.values)[i];
        case ValueType::f16:
            return half_to_float(static_cast<const std::uint16_t*>(m.values)[i]);
        case ValueType::int8:
            break;
    }
    return static_cast<float>(static_cast<const std::int8_t*>(m.values)[i]) * m.scales[row];
}

std::vector<bool> find_quads(const SparseMatrix& m, int first_row, int rows) {
    const std::int64_t origin = m.row_begin.data[first_row];
    const std::int64_t entries = m.row_begin.data[first_row + rows] - origin;
    std::vector<bool> shared;
    if (rows % 4 != 0) return shared;
    shared.resize(static_cast<std::size_t>(entries));
    std::int64_t found = 0;
    for (int row = first_row; row < first_row + rows; row += 4) {
        const std::int64_t* const begin = m.row_begin.data + row;
        std::int64_t at[4] = {begin[0], begin[1], begin[2], begin[3]};
        for (; at[0] < begin[1]; ++at[0]) {
            const std::int32_t column = m.column.data[at[0]];
            bool all = true;
            for (int r = 1; r < 4; ++r) {
                while (at[r] < begin[r + 1] && m.column.data[at[r]] < column) ++at[r];
                all = all && at[r] < begin[r + 1] && m.column.data[at[r]] == column;
            }
            if (!all) continue;
            for (const std::int64_t entry : at) shared[static_cast<std::size_t>(entry - origin)] = true;
            found += 4;
        }
    }
    if (2 * found <= entries) shared.clear();
    return shared;
}

void Blocks::Lists::add_row(int row, int count) {
    if (runs.size() == parts.back().run || runs.back().count != count) {
        runs.push_back({static_cast<std::uint16_t>(count), 0});
    }
    ++runs.back().rows;
    row_ids.push_back(static_cast<std::uint8_t>(row));
}

Status Blocks::build(const SparseMatrix& m, int first_row, int rows, const ColumnMap& map, int block_channels,
                     int chunk_rows, Blocks& out) {
    const int taps = static_cast<int>(map.tap_offset.size());
    const int highest = *std::max_element(map.tap_offset.begin(), map.tap_offset.end());
    if (highest > most_offset) return Status::window_too_large;
    const int by_offset = (most_offset - highest) / map.stride + 1;
    const int channels = std::clamp(block_channels, 1, std::min(map.channels, by_offset));
    out = Blocks{};
    out.rows_ = rows;
    out.channels_ = map.channels;
    out.block_channels_ = channels;
    out.chunk_rows_ = std::clamp(chunk_rows, 1, 256);
    // A chunk must not end within a quad.
    const std::vector<bool> shared = out.chunk_rows_ % 4 == 0 ? find_quads(m, first_row, rows) : std::vector<bool>{};
    out.quads_ = !shared.empty();
    out.chunks_ = (rows + out.chunk_rows_ - 1) / out.chunk_rows_;
    out.blocks_ = (map.channels + channels - 1) / channels;
    out.block_stride_ = std::int64_t{channels} * map.stride;
    const auto begin_of = [&](int row) { return m.row_begin.data[first_row + row]; };
    const std::int64_t origin = begin_of(0);
    const auto is_shared = [&](std::int64_t entry) {
        return out.quads_ && shared[static_cast<std::size_t>(entry - origin)];
    };
    const auto entries = static_cast<std::size_t>(begin_of(rows) - origin);
    (out.quads_ ? out.common_ : out.single_).values.reserve(entries);
    (out.quads_ ? out.common_ : out.single_).offsets.reserve(out.quads_ ? entries / 4 : entries);

    const int block_columns = channels * taps;
    std::vector<std::int64_t> begin;  // of each row of the chunk in this block
    std::vector<std::int64_t> end;
    std::vector<int> singles;  // how many of them stand alone
    std::vector<int> order;
    const auto at = [](auto& of, int row) -> auto& { return of[static_cast<std::size_t>(row)]; };
    const auto by = [&](const auto& count) {
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return count(a) < count(b); });
    };
    for (int chunk = 0; chunk < out.chunks_; ++chunk) {
        const int size = out.chunk_size(chunk);
        const int top = out.chunk_begin(chunk);
        out.chunk_nonzeros_.push_back(begin_of(top + size) - begin_of(top));
        bool rest = !out.quads_;
        for (std::int64_t i = begin_of(top); i < begin_of(top + size) && !rest; ++i) rest = !is_shared(i);
        begin.resize(static_cast<std::size_t>(size));
        end.resize(static_cast<std::size_t>(size));
        singles.resize(static_cast<std::size_t>(size));
        for (int r = 0; r < size; ++r) at(end, r) = begin_of(top + r);
        for (int block = 0; block < out.blocks_; ++block) {
            const bool every = block == 0 || block + 1 == out.blocks_;
            const std::int64_t end_column = std::int64_t{block + 1} * block_columns;
            const auto offset_of = [&](std::int64_t entry) {
                const int column = m.column.data[entry] - block * block_columns;
                return static_cast<std::uint16_t>(column / taps * map.stride +
                                                  map.tap_offset[static_cast<std::size_t>(column % taps)]);
            };
            order.clear();
            for (int r = 0; r < size; ++r) {
                std::int64_t i = at(begin, r) = at(end, r);
                at(singles, r) = 0;
                for (; i < begin_of(top + r + 1) && m.column.data[i] < end_column; ++i) {
                    if (!is_shared(i)) ++at(singles, r);
                }
                at(end, r) = i;
                if (at(singles, r) > 0 || (rest && (block == 0 || (every && !out.quads_)))) order.push_back(r);
            }
            by([&](int r) { return at(singles, r); });
            out.single_.begin();
            for (const int r : order) {
                out.single_.add_row(r, at(singles, r));
                for (std::int64_t i = at(begin, r); i < at(end, r); ++i) {
                    if (is_shared(i)) continue;
                    out.single_.offsets.push_back(offset_of(i));
                    out.single_.values.push_back(value_at(m, first_row + top + r, i));
                }
            }
            out.single_.end();
            if (!out.quads_) continue;

            const auto common = [&](int r) { return static_cast<int>(at(end, r) - at(begin, r)) - at(singles, r); };
            order.clear();
            for (int r = 0; r < size; r += 4) {
                if (every || common(r) > 0) order.push_back(r);
            }
            by(common);
            out.common_.begin();
            for (const int r : order) {
                out.common_.add_row(r / 4, common(r));
                std::int64_t i[4] = {at(begin, r), at(begin, r + 1), at(begin, r + 2), at(begin, r + 3)};
                for (int n = common(r); n > 0; --n) {
                    for (int lane = 0; lane < 4; ++lane) {
                        while (!is_shared(i[lane])) ++i[lane];
                        if (lane == 0) out.common_.offsets.push_back(offset_of(i[lane]));
                        out.common_.values.push_back(value_at(m, first_row + top + r + lane, i[lane]++));
                    }
                }
            }
            out.common_.end();
        }
    }
    return Status::ok;
}

RowBlock Blocks::view(const Lists& lists, int chunk, int block) const {
    const Part& part = lists.parts[static_cast<std::size_t>(chunk) * static_cast<std::size_t>(blocks_) +
                                   static_cast<std::size_t>(block)];
    const bool quads = &lists == &common_;
    return {lists.runs.data() + part.run,
            part.runs,
            lists.row_ids.data() + part.row,
            lists.offsets.data() + part.entry,
            lists.values.data() + part.entry * (quads ? 4 : 1),
            quads};
}

}  // namespace isogrid
