// Everything a target consists of; included once by each of targets/*.cpp with
//
//   ISOGRID_TARGET      the name of its namespace
//   ISOGRID_WIDTH       floats of a vector
//   ISOGRID_WIDE_WIDTH  those of the longest one, if rows of a tile are taken in longer ones
//   ISOGRID_VECTORS     vectors of a tile: the sums of a row, which must leave registers for the rest
#include <cstddef>
#include <cstdint>

#include "kernels/half.hpp"
#include "kernels/table.hpp"

#ifndef ISOGRID_WIDE_WIDTH
#define ISOGRID_WIDE_WIDTH ISOGRID_WIDTH
#endif

namespace isogrid::ISOGRID_TARGET {
namespace {

#include "kernels/vector.hpp"
// Uses the vectors.
#include "kernels/activation.hpp"
#include "kernels/strip.hpp"
#include "kernels/values.hpp"
// Uses the values.
#include "kernels/dot.hpp"
#include "kernels/gates.hpp"
#include "kernels/quads.hpp"
// Uses quads.
#include "kernels/multiply.hpp"
#include "kernels/transpose.hpp"
// Uses transpose.
#include "kernels/few.hpp"
#include "kernels/pack.hpp"
#include "kernels/store.hpp"
// Uses the values of the slices.
#include "kernels/widen.hpp"

}  // namespace

#define ISOGRID_NAME(name) #name
#define ISOGRID_NAME_OF(name) ISOGRID_NAME(name)

constexpr Kernels table = {
    .name = ISOGRID_NAME_OF(ISOGRID_TARGET),
    .width = width,
    .max_vectors = ISOGRID_VECTORS,
    .multiply = multiply,
    .multiply_last = multiply_last,
    .slide = slide,
    .slide_max = slide_max,
    .pack_tokens = pack_tokens,
    .pack_planes = pack_planes,
    .store_rows = store_rows,
    .store_tokens = store_tokens,
    .activate = activate,
    .dot_f32 = dot_f32,
    .dot_f16 = dot_f16,
    .dot_int8 = dot_int8,
    .few_f32 = few_f32,
    .few_f16 = few_f16,
    .few_int8 = few_int8,
    .pack_few = pack_few,
    .scatter = scatter,
    .lstm_gates = lstm_gates,
    .gru_gates = gru_gates,
    .widen_f16 = widen_f16,
    .widen_int8 = widen_int8,
};

}  // namespace isogrid::ISOGRID_TARGET
