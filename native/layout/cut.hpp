// How the flat outputs of a convolution are cut: into tiles of so many vectors, over planes that are aligned or not,
// the rows of the matrix shared out among the threads or not. What costs least is chosen, by a model and not by the
// clock, so that the same layer is always computed in the same way.
#pragma once

#include "layout/blocks.hpp"
#include "layout/geometry.hpp"

namespace isogrid {

// What is multiplied: the matrix of one group.
struct Product {
    int rows;
    double nonzeros;
    bool quads;
};

struct Cut {
    Geometry geometry;
    int tiles;
    int parts;    // into which the rows are shared out
    int vectors;  // of a tile
    int window;   // floats of one phase of one channel in a packed tile
    int block_channels;
};

// Throws std::bad_alloc. Status::window_too_large where no tile is small enough to be packed.
Status best_cut(const ConvolutionShape& shape, const Product& product, int threads, int lanes, int max_vectors,
                Cut& out);

}  // namespace isogrid
