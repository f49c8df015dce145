// The many-sample layout: nonzeros grouped by chunks of rows and, inside, by blocks of channels.
//
// A block is as many channels as fit the L1 cache with their tile of activations, or more where rows are short:
// fetching some activations from the L2 cache costs less then than fetching and storing sums once more. A chunk is as
// many rows as keep their sums in the L2 cache. Inside a chunk and block rows are sorted by their number of nonzeros,
// so that the loop over them has the same length again and again, which the branch predictor learns.
//
// Where most nonzeros of four neighbouring rows stand in the same columns (the pattern `Block(4, 1)` and its multiples)
// these are kept together, as quads, and what is left of each row stands beside them.
#pragma once

#include <cstdint>
#include <vector>

#include "isogrid/matrix.hpp"
#include "kernels/table.hpp"

namespace isogrid {

// Where the activations of a column lie in a packed tile: those of channel c = column / taps begin at c * stride, and
// tap column % taps is shifted by `tap_offset`.
struct ColumnMap {
    int channels;
    int stride;
    std::vector<int> tap_offset;
};

class Blocks {
  public:
    // Rows [first_row, first_row + rows) of the matrix, which has passed `check`. A block has up to `block_channels`
    // channels, as many as 16-bit offsets reach. Throws std::bad_alloc. Status::window_too_large where not even one
    // channel can be reached with them.
    static Status build(const SparseMatrix& matrix, int first_row, int rows, const ColumnMap& map, int block_channels,
                        int chunk_rows, Blocks& out);

    int chunks() const { return chunks_; }
    int blocks() const { return blocks_; }
    int chunk_begin(int chunk) const { return chunk * chunk_rows_; }
    int chunk_size(int chunk) const { return chunk + 1 < chunks_ ? chunk_rows_ : rows_ - chunk * chunk_rows_; }
    int chunk_rows() const { return chunk_rows_; }
    int channel_begin(int block) const { return block * block_channels_; }
    int channels(int block) const {
        return block + 1 < blocks_ ? block_channels_ : channels_ - block * block_channels_;
    }
    // Floats from one block's activations to the next one's.
    std::int64_t block_stride() const { return block_stride_; }
    std::int64_t nonzeros(int chunk) const { return chunk_nonzeros_[static_cast<std::size_t>(chunk)]; }
    bool quads() const { return quads_; }
    // All nonzeros of the rows or, with quads, those that four rows have in common.
    RowBlock at(int chunk, int block) const {
        return quads_ ? view(common_, chunk, block) : view(single_, chunk, block);
    }
    // With quads what is left of the rows, else nothing. Comes before the others: if there is any in the chunk, the
    // first block has it for every row.
    RowBlock rest(int chunk, int block) const { return quads_ ? view(single_, chunk, block) : RowBlock{}; }

  private:
    struct Part {
        std::size_t run, row, entry;
        int runs;
    };
    // Lists of one kind: of rows or of quads.
    struct Lists {
        std::vector<Part> parts;
        std::vector<Run> runs;
        std::vector<std::uint8_t> row_ids;
        std::vector<std::uint16_t> offsets;
        std::vector<float> values;

        void begin() { parts.push_back({runs.size(), row_ids.size(), offsets.size(), 0}); }
        void add_row(int row, int count);
        void end() { parts.back().runs = static_cast<int>(runs.size() - parts.back().run); }
    };
    RowBlock view(const Lists& lists, int chunk, int block) const;
    int rows_ = 0, chunk_rows_ = 0, chunks_ = 0, blocks_ = 0, channels_ = 0, block_channels_ = 0;
    std::int64_t block_stride_ = 0;
    bool quads_ = false;
    Lists single_;
    Lists common_;
    std::vector<std::int64_t> chunk_nonzeros_;
};

// What decides how wide tiles and how large blocks should be. Wide tiles fetch each nonzero least often; narrow ones
// leave room in the caches for more channels, and so for more nonzeros between fetching and storing a row's sums.
struct TileShape {
    int rows;
    int channels;
    int phases;
    int reach;
    double nonzeros;
    bool quads = false;
    bool aligned = true;  // activations to the vectors that they are loaded by
};

struct Tiling {
    int block_channels;
    double cost;  // of a tile, in nanoseconds of some core: only the ratios matter
};

// The best blocks for tiles of so many vectors.
Tiling best_tiling(const TileShape& shape, int vectors, int lanes);

// Which entries of rows [first_row, first_row + rows) stand in the same column in all of four neighbouring rows,
// counted from the first on; none at all unless they are more than half. Throws std::bad_alloc.
std::vector<bool> find_quads(const SparseMatrix& matrix, int first_row, int rows);

// The value of entry `i` as f32, scaled.
float value_at(const SparseMatrix& matrix, int row, std::int64_t i);

}  // namespace isogrid
