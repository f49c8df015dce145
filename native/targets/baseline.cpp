// Any processor of the architecture: four lanes, which every compiler knows how to spell.
#define ISOGRID_TARGET baseline
#define ISOGRID_WIDTH 4
#define ISOGRID_VECTORS 8
#include "kernels/all.hpp"

namespace isogrid {

const Kernels* baseline_kernels() noexcept {
    return &baseline::table;
}

}  // namespace isogrid
