// One tile of activations through all blocks and chunks of a sparse matrix.
#pragma once

#include <cstddef>

#include "isogrid/status.hpp"
#include "layout/blocks.hpp"
#include "operations/workspace.hpp"

namespace isogrid {

// Two orders give the same sums. Chunks outside: the whole tile is packed, and each chunk's sums stay near. Blocks
// outside: each block is packed just before it is used, and the sums of all chunks are kept. The one that keeps less
// memory busy is taken, so that it is the L2 cache that is busy.
//
// `pack(block, to)` fills a block's part of the tile. `last(chunk, row_block, x, sums, first)` multiplies the last
// block of a chunk and does with the sums what is to be done.
template <class Pack, class Last>
Status multiply_tile(const Kernels& k, const Blocks& blocks, int vectors, int chunk_begin, int chunk_end,
                     const Pack& pack, const Last& last) noexcept {
    // Rows that are shared out in whole chunks may leave none for the last thread.
    if (chunk_begin == chunk_end) return Status::ok;
    const auto columns = static_cast<std::size_t>(vectors) * static_cast<std::size_t>(k.width);
    const std::size_t chunk_floats = static_cast<std::size_t>(blocks.chunk_rows()) * columns;
    const auto block_floats = static_cast<std::size_t>(blocks.block_stride());
    const std::size_t all_sums = static_cast<std::size_t>(chunk_end - chunk_begin) * chunk_floats;
    const std::size_t whole_tile = static_cast<std::size_t>(blocks.blocks()) * block_floats;
    const bool blocks_outside = all_sums < whole_tile;
    float* const packed = workspace(Slot::tile, blocks_outside ? block_floats : whole_tile);
    float* const sums = workspace(Slot::sums, blocks_outside ? all_sums : chunk_floats);
    if (packed == nullptr || sums == nullptr) return Status::out_of_memory;

    const int end = blocks.blocks() - 1;
    const auto step = [&](int chunk, int block, const float* x, float* to) {
        bool first = block == 0;
        const RowBlock rest = blocks.rest(chunk, block);
        if (rest.run_count > 0) {
            k.multiply(rest, x, to, vectors, first);
            first = false;
        }
        if (block == end) {
            last(chunk, blocks.at(chunk, block), x, to, first);
        } else {
            k.multiply(blocks.at(chunk, block), x, to, vectors, first);
        }
    };
    if (blocks_outside) {
        for (int block = 0; block <= end; ++block) {
            pack(block, packed);
            for (int chunk = chunk_begin; chunk < chunk_end; ++chunk) {
                step(chunk, block, packed, sums + static_cast<std::size_t>(chunk - chunk_begin) * chunk_floats);
            }
        }
    } else {
        for (int block = 0; block <= end; ++block) pack(block, packed + static_cast<std::size_t>(block) * block_floats);
        for (int chunk = chunk_begin; chunk < chunk_end; ++chunk) {
            for (int block = 0; block <= end; ++block) {
                step(chunk, block, packed + static_cast<std::size_t>(block) * block_floats, sums);
            }
        }
    }
    return Status::ok;
}

}  // namespace isogrid
