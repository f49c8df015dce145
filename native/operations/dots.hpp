// A panel of the one-sample layout, whatever its values are and whatever kinds of entries it has.
#pragma once

#include "kernels/table.hpp"
#include "layout/slices.hpp"

namespace isogrid {

// sums[8 * i + lane] (+)= the product of slice `first` + i, for `count` slices, with the panel's activations `x` and a
// zero behind them. The first panel sets the sums.
inline void dot(const Kernels& k, const Slices& layout, int panel, int first, int count, const float* x,
                float* sums) noexcept {
    const auto product = layout.type == ValueType::f32   ? k.dot_f32
                         : layout.type == ValueType::f16 ? k.dot_f16
                                                         : k.dot_int8;
    bool set = panel == 0;
    for (const Slices::Entries* entries : {&layout.quads, &layout.single}) {
        if (entries->slice.empty()) continue;
        product(entries->slice.data() + static_cast<std::int64_t>(panel) * layout.slices + first, count,
                entries->column.data(), entries->values.data(), entries == &layout.quads, x, sums, set);
        set = false;
    }
}

}  // namespace isogrid
