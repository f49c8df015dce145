// How a convolution becomes a product of a sparse matrix with shifted rows, without im2col.
//
// A channel's plane is laid out flat with some zeros behind each row, `pitch` floats a row in all, so that every tap
// (dy, dx) of the kernel is one constant shift for all output positions: output (oy, ox) lies at oy * pitch + ox, and
// what the tap multiplies at that plus the shift. The zeros behind a row serve as the padding after it and before the
// next. With a stride the plane is first split into phases, one for each remainder of the rows and columns, within
// which the stride is 1. A linear layer on feature-major activations is the case of one tap and one row.
//
// Loads that begin at any column cross cache lines half of the time, and take half as long again. So planes may also be
// aligned: each column of the kernel has a copy of the plane, shifted so that its taps need no shift to the side, and
// `pitch` is a multiple of a vector. That takes more room in the L1 cache and more time to pack.
#pragma once

#include <cstdint>
#include <vector>

#include "isogrid/convolution.hpp"
#include "kernels/table.hpp"

namespace isogrid {

// The first multiple of `step` that is not below `value`, both positive.
template <typename Integer>
Integer round_up(Integer value, int step) {
    return (value + step - 1) / step * step;
}

struct Geometry {
    int out_height;
    int out_width;
    int pitch;
    int length;  // of the flat output: (out_height - 1) * pitch + out_width
    int first;   // the lowest shift of a tap
    int reach;   // the highest shift minus the lowest
    std::vector<Phase> phases;
    std::vector<int> tap_phase;
    std::vector<int> tap_shift;  // minus `first`, so 0 or more
};

// With `lanes` above 1 planes are aligned to vectors of so many floats. Throws std::bad_alloc.
Status make_geometry(const ConvolutionShape& shape, Geometry& out, int lanes = 1);

// The window of a phase from flat position `first` on, as segments of the image's plane. Throws std::bad_alloc.
void add_segments(const Geometry& g, const Phase& phase, const ConvolutionShape& shape, int first, int length,
                  std::vector<Segment>& out);

}  // namespace isogrid
