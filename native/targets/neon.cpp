// 64-bit ARM, whose thirty-two registers hold the sums of wider tiles than the baseline's.
#if defined(__aarch64__)
#define ISOGRID_TARGET neon
#define ISOGRID_WIDTH 4
#define ISOGRID_VECTORS 16
#include "kernels/all.hpp"

namespace isogrid {

const Kernels* neon_kernels() noexcept {
    return &neon::table;
}

}  // namespace isogrid
#else
#include "kernels/table.hpp"

const isogrid::Kernels* isogrid::neon_kernels() noexcept {
    return nullptr;
}
#endif
