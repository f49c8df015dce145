// What an instruction set provides: one table of functions, compiled from the same sources for each of them.
//
// Files under kernels/ include no standard header with inline functions. Such a function would be compiled for the
// newest instruction set too, and the linker may keep that copy for everybody.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isogrid/epilogue.hpp"

namespace isogrid {

// Rows of a block that have the same number of nonzeros, next to each other.
struct Run {
    std::uint16_t count;
    std::uint16_t rows;
};

// The nonzeros of a chunk of rows in a block of columns, in the order of the runs. An offset leads from the block's
// activations to those that the nonzero is multiplied with, in floats.
//
// With `quads` a row stands for four neighbouring ones whose nonzeros share their columns: row r of the list is rows
// 4 r to 4 r + 3 of the chunk, and each offset has four values.
struct RowBlock {
    const Run* runs;
    int run_count;
    const std::uint8_t* rows;
    const std::uint16_t* offsets;
    const float* values;
    bool quads;
};

// A rectangle of results on its way out of the sums: [rows][pitch], of which `columns` count.
struct Sums {
    const float* data;
    int pitch;
    int rows;
    int columns;
};

// Where the rows of the last block go, finished: y + row * stride. `bias` and `residual` may be null; results are
// clipped to [low, high] if `clip` is set.
struct Finish {
    const float* bias;
    const float* residual;
    float* y;
    std::size_t stride;
    bool clip;
    float low, high;
};

// How one plane of an image becomes a flat window (see layout/geometry.hpp): position f holds the input at row
// f / pitch and column f % pitch of the phase's plane, and zero where there is none.
struct Phase {
    int first_row;     // of the image
    int first_column;  // of the image; negative where the plane begins to the left of it
    int height;        // rows of the phase's plane
    int width;         // columns of the phase's plane
    int skip;          // how many of these lie to the left of the image
};

// Part of a window: `count` floats from `from` on in the image's plane go to `to` on in the window; zeros where `from`
// is negative.
struct Segment {
    int from;
    int to;
    int count;
};

// A slice of eight rows of the one-sample layout, interleaved: the value of entry i of lane l is element 8 * i + l.
struct Slice {
    std::int64_t begin;  // of its entries, in steps of eight
    std::int32_t steps;
};

// Slices of that layout and the arrays of all entries. With `quads` four lanes share a column, and a step has two.
struct SliceList {
    const Slice* slices;
    int count;
    const std::uint16_t* columns;
    const void* values;
    bool quads;
};

// The two products of a recurrent layer's step: unit u of gate g is at input[g * input_stride + u], likewise the other.
struct Gates {
    const float* input;
    std::size_t input_stride;
    const float* recurrent;
    std::size_t recurrent_stride;
};

struct Kernels {
    const char* name;
    int width;        // floats of a vector
    int max_vectors;  // of a tile

    // sums[row] (+)= sum over the row's nonzeros of value * x[offset ..], for tiles of `vectors` vectors. With `first`
    // the sums are set, and every row of the chunk is in some run; otherwise they are added to.
    void (*multiply)(const RowBlock& block, const float* x, float* sums, int vectors, bool first);

    // The last block of a chunk, likewise, but finished and stored where they belong; every row of the chunk is in some
    // run of the last block too.
    void (*multiply_last)(const RowBlock& block, const float* x, const float* sums, int vectors, bool first,
                          const Finish& finish);
    // Depthwise: sums[p] = start + sum over taps of weights[t] * window[offsets[t] + p], for p in [0, length), whole
    // vectors.
    void (*slide)(const float* window, const std::int32_t* offsets, const float* weights, int taps, float start,
                  float* sums, int length);
    // sums[p] = the largest of window[offsets[t] + p]; NaN if one of them is.
    void (*slide_max)(const float* window, const std::int32_t* offsets, int taps, float* sums, int length);

    // [tokens][stride] to [features][pitch], `padded` columns of it, zero beyond `tokens`.
    void (*pack_tokens)(const float* x, std::size_t stride, int tokens, int features, float* out, int pitch,
                        int padded);
    // Windows of neighbouring planes, all cut alike: plane c from planes + c * plane to out + c * window. Elements of a
    // segment lie `step` floats apart in the plane.
    void (*pack_planes)(const float* planes, std::size_t plane, std::size_t channels, const Segment* segments,
                        int count, int step, float fill, float* out, std::size_t window);

    // Row r of the sums to y + r * stride, its epilogue applied; `residual` (null or laid out as y) is added before.
    void (*store_rows)(const Sums& sums, const float* bias, const Epilogue& epilogue, const float* residual, float* y,
                       std::size_t stride);
    // Transposed: column t of the sums to y + t * stride.
    void (*store_tokens)(const Sums& sums, const float* bias, const Epilogue& epilogue, const float* residual, float* y,
                         std::size_t stride);
    void (*activate)(float* x, std::size_t size, const Epilogue& epilogue);

    // out[8 * slice + lane] (+)= the lane's dot product with x.
    void (*dot_f32)(const SliceList& list, const float* x, float* out, bool first);
    void (*dot_f16)(const SliceList& list, const float* x, float* out, bool first);
    void (*dot_int8)(const SliceList& list, const float* x, float* out, bool first);

    // The same for 2 samples, or with eight lanes also 4 or 8: x is [columns][samples], and the results of sample s
    // begin at out + s * pitch.
    void (*few_f32)(const SliceList& list, const float* x, int samples, float* out, std::size_t pitch, bool first);
    void (*few_f16)(const SliceList& list, const float* x, int samples, float* out, std::size_t pitch, bool first);
    void (*few_int8)(const SliceList& list, const float* x, int samples, float* out, std::size_t pitch, bool first);
    // [tokens][stride] to [features][samples], for as many samples, of which `tokens` are there and the others zero.
    void (*pack_few)(const float* x, std::size_t stride, int tokens, int features, int samples, float* out);

    // y[row] += x * value for the entries of one column.
    void (*scatter)(const std::uint16_t* rows, const float* values, std::size_t count, float x, float* y);

    // The rest of a step of a recurrent layer (see isogrid/recurrent.hpp). `c` becomes the new cell state, `h` the new
    // state, which may be where the one `before` is.
    void (*lstm_gates)(const Gates& gates, std::size_t units, float* c, float* h);
    void (*gru_gates)(const Gates& gates, std::size_t units, const float* before, float* h);

    // Stored values to f32; int8 codes times their scale.
    void (*widen_f16)(const void* values, std::size_t size, float* out);
    void (*widen_int8)(const void* values, std::size_t size, float scale, float* out);
};

// The tables that this build has; null where the instruction set does not belong to the architecture.
const Kernels* baseline_kernels() noexcept;
const Kernels* avx2_kernels() noexcept;
const Kernels* avx512_kernels() noexcept;
const Kernels* neon_kernels() noexcept;

}  // namespace isogrid
