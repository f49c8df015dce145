#include "isogrid/max_pool.hpp"

#include <algorithm>
#include <new>
#include <vector>

#include "isogrid/targets.hpp"
#include "layout/geometry.hpp"
#include "operations/pool.hpp"
#include "operations/workspace.hpp"

namespace isogrid {

Status output_size(const ConvolutionShape& shape, int* out_height, int* out_width) noexcept {
    try {
        Geometry geometry;
        const Status status = make_geometry(shape, geometry);
        if (status != Status::ok) return status;
        *out_height = geometry.out_height;
        *out_width = geometry.out_width;
        return Status::ok;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

// The geometry is made anew at each call: it takes a millionth of a second, and nothing need be kept.
Status max_pool(const Executor& executor, const ConvolutionShape& shape, const float* x, std::int64_t planes,
                float* y) noexcept {
    if (planes < 0 || planes > (1 << 30) || executor.threads < 1) return Status::shape_out_of_range;
    if (planes == 0) return Status::ok;
    if (x == nullptr || y == nullptr) return Status::null_pointer;
    if ((reinterpret_cast<std::uintptr_t>(x) | reinterpret_cast<std::uintptr_t>(y)) % sizeof(float) != 0) {
        return Status::misaligned_pointer;
    }
    try {
        const Kernels& k = kernels();
        Geometry g;
        const Status status = make_geometry(shape, g);
        if (status != Status::ok) return status;
        const auto phases = g.phases.size();
        const std::int64_t padded = (std::int64_t{g.length} + k.width - 1) / k.width * k.width;
        const std::int64_t window = (padded + g.reach + k.width - 1) / k.width * k.width;
        if (window * static_cast<std::int64_t>(phases) > (1 << 30)) return Status::shape_out_of_range;
        std::vector<Segment> segments;
        std::vector<int> begin;
        for (const Phase& phase : g.phases) {
            begin.push_back(static_cast<int>(segments.size()));
            add_segments(g, phase, shape, g.first, static_cast<int>(window), segments);
        }
        begin.push_back(static_cast<int>(segments.size()));
        std::vector<std::int32_t> offsets;
        for (std::size_t t = 0; t < g.tap_shift.size(); ++t) {
            offsets.push_back(static_cast<std::int32_t>(g.tap_phase[t] * window) + g.tap_shift[t]);
        }
        const auto in_plane = static_cast<std::size_t>(shape.height) * static_cast<std::size_t>(shape.width);
        const auto out_plane = static_cast<std::size_t>(g.out_height) * static_cast<std::size_t>(g.out_width);
        const int each = static_cast<int>(std::max<std::int64_t>(1, planes / (8 * std::int64_t{executor.threads})));
        const int tasks = static_cast<int>((planes + each - 1) / each);
        return run_tasks(executor, tasks, [&](int task) noexcept {
            float* const packed = workspace(Slot::tile, phases * static_cast<std::size_t>(window));
            float* const sums = workspace(Slot::sums, static_cast<std::size_t>(padded));
            if (packed == nullptr || sums == nullptr) return Status::out_of_memory;
            const std::int64_t end = std::min(planes, std::int64_t{task + 1} * each);
            for (std::int64_t plane = std::int64_t{task} * each; plane < end; ++plane) {
                const auto p = static_cast<std::size_t>(plane);
                for (std::size_t phase = 0; phase < phases; ++phase) {
                    k.pack_planes(x + p * in_plane, in_plane, 1, segments.data() + begin[phase],
                                  begin[phase + 1] - begin[phase], shape.stride_x, -__builtin_inff(),
                                  packed + phase * static_cast<std::size_t>(window), 0);
                }
                k.slide_max(packed, offsets.data(), static_cast<int>(offsets.size()), sums, static_cast<int>(padded));
                k.store_rows({sums, g.pitch, g.out_height, g.out_width}, nullptr, {nullptr, Activation::none, 0, 0},
                             nullptr, y + p * out_plane, static_cast<std::size_t>(g.out_width));
            }
            return Status::ok;
        });
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

}  // namespace isogrid
