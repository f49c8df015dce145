// x86-64 with AVX2, FMA and F16C (Haswell, Zen and later). The build compiles this file for them.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define ISOGRID_TARGET avx2
#define ISOGRID_WIDTH 8
#define ISOGRID_VECTORS 10
#include "kernels/all.hpp"

namespace isogrid {

const Kernels* avx2_kernels() noexcept {
    return &avx2::table;
}

}  // namespace isogrid
#else
#include "kernels/table.hpp"

const isogrid::Kernels* isogrid::avx2_kernels() noexcept {
    return nullptr;
}
#endif
