// x86-64 with AVX-512 F, BW, DQ and VL (Skylake-X, Zen 4 and later). The build compiles this file for them.
//
// The rows of a tile are taken in vectors of sixteen; slices of eight rows keep those of eight.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define ISOGRID_TARGET avx512
#define ISOGRID_WIDTH 8
#define ISOGRID_WIDE_WIDTH 16
#define ISOGRID_VECTORS 16
#include "kernels/all.hpp"

namespace isogrid {

const Kernels* avx512_kernels() noexcept {
    return &avx512::table;
}

}  // namespace isogrid
#else
#include "kernels/table.hpp"

const isogrid::Kernels* isogrid::avx512_kernels() noexcept {
    return nullptr;
}
#endif
