#include "layout/blocks.hpp"

#include <algorithm>

#include "kernels/half.hpp"

namespace isogrid {
namespace {

// Floats of a tile that one block takes: the L1 cache of most processors is 32 KiB. A little less leaves more room for
// the nonzeros that stream past, but shorter rows cost more than that brings.
constexpr int block_floats = 8192;
constexpr int most_offset = 65535;

// As many blocks as are needed, all about as wide: a narrow last one would cost each row as much as the others.
int block_channels(int channels, int stride) {
    const int most = std::clamp(block_floats / stride, 1, channels);
    const int blocks = (channels + most - 1) / most;
    return (channels + blocks - 1) / blocks;
}

}  // namespace

double tile_cost(const TileShape& shape, int vectors, int lanes) {
    // Nanoseconds of a core, fitted to measurements of 4 to 10 vectors at 1 to 20 % density (docs/engine.md).
    const double nonzero = 0.19 * vectors + 0.22;
    const double row_of_block = 0.6 * vectors - 0.2;
    const int stride = shape.phases * (vectors * lanes + shape.reach);
    const int blocks =
        (shape.channels + block_channels(shape.channels, stride) - 1) / block_channels(shape.channels, stride);
    return shape.nonzeros * nonzero + static_cast<double>(shape.rows) * blocks * row_of_block;
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

Status Blocks::build(const SparseMatrix& m, int first_row, int rows, const ColumnMap& map, int chunk_rows,
                     Blocks& out) {
    const int taps = static_cast<int>(map.tap_offset.size());
    const int highest = *std::max_element(map.tap_offset.begin(), map.tap_offset.end());
    if (highest > most_offset) return Status::window_too_large;
    const int by_offset = (most_offset - highest) / map.stride + 1;
    const int channels = std::min(block_channels(map.channels, map.stride), by_offset);

    out = Blocks{};
    out.rows_ = rows;
    out.channels_ = map.channels;
    out.block_channels_ = channels;
    out.chunk_rows_ = std::clamp(chunk_rows, 1, 256);
    out.chunks_ = (rows + out.chunk_rows_ - 1) / out.chunk_rows_;
    out.blocks_ = (map.channels + channels - 1) / channels;
    out.block_stride_ = std::int64_t{channels} * map.stride;
    const auto begin_of = [&](int row) { return m.row_begin.data[first_row + row]; };
    const auto entries = static_cast<std::size_t>(begin_of(rows) - begin_of(0));
    out.offsets_.reserve(entries);
    out.values_.reserve(entries);

    const int block_columns = channels * taps;
    std::vector<std::int64_t> next;  // for each row of the chunk its first entry that no block has taken
    std::vector<int> count;
    std::vector<int> order;
    for (int chunk = 0; chunk < out.chunks_; ++chunk) {
        const int size = out.chunk_size(chunk);
        const int top = out.chunk_begin(chunk);
        out.chunk_nonzeros_.push_back(begin_of(top + size) - begin_of(top));
        next.resize(static_cast<std::size_t>(size));
        for (int r = 0; r < size; ++r) next[static_cast<std::size_t>(r)] = begin_of(top + r);
        for (int block = 0; block < out.blocks_; ++block) {
            const std::int64_t end_column = std::int64_t{block + 1} * block_columns;
            count.assign(static_cast<std::size_t>(size), 0);
            order.clear();
            for (int r = 0; r < size; ++r) {
                const std::int64_t end = begin_of(top + r + 1);
                std::int64_t i = next[static_cast<std::size_t>(r)];
                while (i < end && m.column.data[i] < end_column) ++i;
                count[static_cast<std::size_t>(r)] = static_cast<int>(i - next[static_cast<std::size_t>(r)]);
                if (block == 0 || block + 1 == out.blocks_ || count[static_cast<std::size_t>(r)] > 0)
                    order.push_back(r);
            }
            std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
                return count[static_cast<std::size_t>(a)] < count[static_cast<std::size_t>(b)];
            });
            Part part{out.runs_.size(), out.row_ids_.size(), out.offsets_.size(), 0};
            for (const int r : order) {
                const int n = count[static_cast<std::size_t>(r)];
                if (out.runs_.size() == part.run || out.runs_.back().count != n) {
                    out.runs_.push_back({static_cast<std::uint16_t>(n), 0});
                }
                ++out.runs_.back().rows;
                out.row_ids_.push_back(static_cast<std::uint8_t>(r));
                std::int64_t& i = next[static_cast<std::size_t>(r)];
                for (const std::int64_t end = i + n; i < end; ++i) {
                    const int column = m.column.data[i] - block * block_columns;
                    const int offset =
                        column / taps * map.stride + map.tap_offset[static_cast<std::size_t>(column % taps)];
                    out.offsets_.push_back(static_cast<std::uint16_t>(offset));
                    out.values_.push_back(value_at(m, first_row + top + r, i));
                }
            }
            part.runs = static_cast<int>(out.runs_.size() - part.run);
            out.parts_.push_back(part);
        }
    }
    return Status::ok;
}

RowBlock Blocks::at(int chunk, int block) const {
    const Part& part =
        parts_[static_cast<std::size_t>(chunk) * static_cast<std::size_t>(blocks_) + static_cast<std::size_t>(block)];
    return {runs_.data() + part.run, part.runs, row_ids_.data() + part.row, offsets_.data() + part.entry,
            values_.data() + part.entry};
}

}  // namespace isogrid
