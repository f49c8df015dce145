// A panel of the layout for one sample or a few, whatever its values are and whatever kinds of entries it has.
#pragma once

#include "kernels/table.hpp"
#include "layout/slices.hpp"

namespace isogrid {

// Calls body(list, set) for each kind of entries of slices [first, first + count) in a panel; with `set` it is the one
// that sets the sums.
template <class Body>
void each_kind(const Slices& layout, int panel, int first, int count, const Body& body) noexcept {
    bool set = panel == 0;
    for (const Slices::Entries* entries : {&layout.quads, &layout.single}) {
        if (entries->slice.empty()) continue;
        const std::int64_t at = std::int64_t{panel} * layout.slices + first;
        body(SliceList{entries->slice.data() + at, count, entries->column.data(), entries->values.data(),
                       entries == &layout.quads},
             set);
        set = false;
    }
}

// sums[8 * i + lane] (+)= the product of slice `first` + i, for `count` slices, with the panel's activations `x` and a
// zero behind them. The first panel sets the sums.
inline void dot(const Kernels& k, const Slices& layout, int panel, int first, int count, const float* x,
                float* sums) noexcept {
    const auto product = layout.type == ValueType::f32   ? k.dot_f32
                         : layout.type == ValueType::f16 ? k.dot_f16
                                                         : k.dot_int8;
    each_kind(layout, panel, first, count, [=](const SliceList& list, bool set) { product(list, x, sums, set); });
}

// The same for 2, 4 or 8 samples: `x` is [columns][samples], with zeros behind, and sample s has its sums at
// sums + s * pitch.
inline void few(const Kernels& k, const Slices& layout, int panel, int first, int count, const float* x, int samples,
                float* sums, std::size_t pitch) noexcept {
    const auto product = layout.type == ValueType::f32   ? k.few_f32
                         : layout.type == ValueType::f16 ? k.few_f16
                                                         : k.few_int8;
    each_kind(layout, panel, first, count,
              [=](const SliceList& list, bool set) { product(list, x, samples, sums, pitch, set); });
}

}  // namespace isogrid
