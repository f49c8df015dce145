#include "isogrid/convolution.hpp"

#include <algorithm>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "isogrid/targets.hpp"
#include "layout/blocks.hpp"
#include "layout/canonical.hpp"
#include "layout/cut.hpp"
#include "layout/geometry.hpp"
#include "operations/pool.hpp"
#include "operations/tiles.hpp"
#include "operations/workspace.hpp"

namespace isogrid {
namespace {

constexpr int most_layouts = 4;  // image sizes that are kept ready

// Everything about one image size on one target.
struct Plan {
    const Kernels* kernels;
    int height, width, threads;
    Geometry geometry;
    int vectors;  // of a tile
    int tiles = 0;
    int parts = 1;  // into which the rows are shared out
    int chunk_rows;
    int window;  // floats of one phase of one channel in a packed tile
    // How the windows are filled: those of phase p of a tile are segment_begin[tile * phases + p] up to the next.
    std::vector<Segment> segments;
    std::vector<int> segment_begin;
    std::vector<Blocks> groups;
    // Depthwise: the taps of each output channel that are not zero.
    std::vector<std::int64_t> tap_begin;
    std::vector<std::int32_t> tap_offset;
    std::vector<float> tap_weight;
};

// Whether there can be so many floats at all. All sizes are positive.
bool exist(std::int64_t images, std::int64_t planes, int height, int width) {
    constexpr std::int64_t most = std::int64_t{1} << 48;
    return planes <= most / images / height / width;
}

}  // namespace

struct Convolution::State {
    Canonical weights;
    OwnedEpilogue epilogue;
    ConvolutionShape shape;
    int groups;
    std::mutex mutex;
    std::vector<std::shared_ptr<const Plan>> plans;  // most recently made first

    State(const SparseMatrix& matrix, const Epilogue& e, const ConvolutionShape& s, int g)
        : weights(matrix), epilogue(e, matrix.rows), shape(s), groups(g) {}

    bool depthwise() const { return shape.channels == 1 && groups > 1; }
    int rows_of_group() const { return weights.view().rows / groups; }

    Status make(const Kernels& k, int height, int width, int threads, Plan& plan) const;
    Status plan_for(int height, int width, int threads, std::shared_ptr<const Plan>& out);

    void pack(const Plan& plan, int tile, const float* planes, std::size_t channels, float* packed) const;
    void store(const Plan& plan, const Sums& sums, int row, int from, const float* residual, float* y) const;
    Status run_tile(const Plan& plan, int group, int tile, int chunk_begin, int chunk_end, const float* x,
                    const float* residual, float* y) const noexcept;
    Status run_channel(const Plan& plan, int row, const float* x, const float* residual, float* y) const noexcept;
};

Status Convolution::State::make(const Kernels& k, int height, int width, int threads, Plan& plan) const {
    ConvolutionShape sized = shape;
    sized.height = height;
    sized.width = width;
    plan.kernels = &k;
    plan.height = height;
    plan.width = width;
    plan.threads = threads;
    const SparseMatrix matrix = weights.view();
    const int lanes = plan.kernels->width;
    const Geometry& g = plan.geometry;
    const auto add_tile = [&](int from) {
        for (const Phase& phase : g.phases) {
            plan.segment_begin.push_back(static_cast<int>(plan.segments.size()));
            add_segments(g, phase, sized, from + g.first, plan.window, plan.segments);
        }
    };
    if (depthwise()) {
        const Status status = make_geometry(sized, plan.geometry);
        if (status != Status::ok) return status;
        const auto phases = static_cast<std::int64_t>(g.phases.size());
        if ((std::int64_t{g.length} + g.reach + lanes) * phases > (1 << 30)) return Status::shape_out_of_range;
        // Whole vectors, so that the last one is no special case.
        plan.window = round_up(round_up(g.length, lanes) + g.reach, lanes);
        add_tile(0);
        plan.segment_begin.push_back(static_cast<int>(plan.segments.size()));
        for (int row = 0; row < matrix.rows; ++row) {
            plan.tap_begin.push_back(static_cast<std::int64_t>(plan.tap_offset.size()));
            for (std::int64_t i = matrix.row_begin.data[row]; i < matrix.row_begin.data[row + 1]; ++i) {
                const auto tap = static_cast<std::size_t>(matrix.column.data[i]);
                plan.tap_offset.push_back(g.tap_phase[tap] * plan.window + g.tap_shift[tap]);
                plan.tap_weight.push_back(value_at(matrix, row, i));
            }
        }
        plan.tap_begin.push_back(static_cast<std::int64_t>(plan.tap_offset.size()));
        return Status::ok;
    }

    const int rows = rows_of_group();
    const Product product{rows, static_cast<double>(matrix.column.size) / groups, !find_quads(matrix, 0, rows).empty()};
    Cut cut;
    Status status = best_cut(sized, product, threads, lanes, k.max_vectors, cut);
    if (status != Status::ok) return status;
    plan.geometry = std::move(cut.geometry);
    plan.tiles = cut.tiles;
    plan.parts = cut.parts;
    plan.vectors = cut.vectors;
    plan.window = cut.window;
    plan.chunk_rows = std::min(256, round_up((rows + plan.parts - 1) / plan.parts, 4));

    ColumnMap map{shape.channels, static_cast<int>(g.phases.size()) * plan.window, {}};
    for (std::size_t tap = 0; tap < g.tap_shift.size(); ++tap) {
        map.tap_offset.push_back(g.tap_phase[tap] * plan.window + g.tap_shift[tap]);
    }
    plan.groups.resize(static_cast<std::size_t>(groups));
    for (int group = 0; group < groups && status == Status::ok; ++group) {
        status = Blocks::build(matrix, group * rows, rows, map, cut.block_channels, plan.chunk_rows,
                               plan.groups[static_cast<std::size_t>(group)]);
    }
    if (status != Status::ok) return status;
    // Not before it is known that a tile is small enough to be used at all.
    for (int t = 0; t < plan.tiles; ++t) add_tile(t * plan.vectors * lanes);
    plan.segment_begin.push_back(static_cast<int>(plan.segments.size()));
    return Status::ok;
}

Status Convolution::State::plan_for(int height, int width, int threads, std::shared_ptr<const Plan>& out) {
    const std::lock_guard<std::mutex> lock(mutex);
    const Kernels* now = &kernels();
    for (const auto& plan : plans) {
        if (plan->height == height && plan->width == width && plan->threads == threads && plan->kernels == now) {
            out = plan;
            return Status::ok;
        }
    }
    auto plan = std::make_shared<Plan>();
    const Status status = make(*now, height, width, threads, *plan);
    if (status != Status::ok) return status;
    plans.insert(plans.begin(), plan);
    if (plans.size() > most_layouts) plans.pop_back();
    out = std::move(plan);
    return Status::ok;
}

// The windows of a tile, channel after channel and in each phase after phase.
void Convolution::State::pack(const Plan& plan, int tile, const float* planes, std::size_t channels,
                              float* packed) const {
    const std::size_t plane = static_cast<std::size_t>(plan.height) * static_cast<std::size_t>(plan.width);
    const std::size_t phases = plan.geometry.phases.size();
    const auto window = static_cast<std::size_t>(plan.window);
    for (std::size_t p = 0; p < phases; ++p) {
        const int* const begin = plan.segment_begin.data() + static_cast<std::size_t>(tile) * phases + p;
        plan.kernels->pack_planes(planes, plane, channels, plan.segments.data() + begin[0], begin[1] - begin[0],
                                  shape.stride_x, 0.0f, packed + p * window, phases * window);
    }
}

// The flat outputs [from, from + sums.columns) of some rows, cut into the image's rows.
void Convolution::State::store(const Plan& plan, const Sums& sums, int row, int from, const float* residual,
                               float* y) const {
    const Geometry& g = plan.geometry;
    const Epilogue e = epilogue.view();
    const std::size_t image = static_cast<std::size_t>(g.out_height) * static_cast<std::size_t>(g.out_width);
    const std::size_t start = static_cast<std::size_t>(row) * image;
    const int end = std::min(from + sums.columns, g.length);
    if (g.pitch == g.out_width) {
        const std::size_t at = start + static_cast<std::size_t>(from);
        plan.kernels->store_rows({sums.data, sums.pitch, sums.rows, end - from}, epilogue.bias(row), e,
                                 residual == nullptr ? nullptr : residual + at, y + at, image);
        return;
    }
    for (int oy = from / g.pitch; oy * g.pitch < end; ++oy) {
        const int left = std::max(from, oy * g.pitch);
        const int right = std::min(end, oy * g.pitch + g.out_width);
        if (left >= right) continue;
        const std::size_t at = start + static_cast<std::size_t>(oy) * static_cast<std::size_t>(g.out_width) +
                               static_cast<std::size_t>(left - oy * g.pitch);
        plan.kernels->store_rows({sums.data + (left - from), sums.pitch, sums.rows, right - left}, epilogue.bias(row),
                                 e, residual == nullptr ? nullptr : residual + at, y + at, image);
    }
}

Status Convolution::State::run_tile(const Plan& plan, int group, int tile, int chunk_begin, int chunk_end,
                                    const float* x, const float* residual, float* y) const noexcept {
    const Geometry& g = plan.geometry;
    const Kernels& k = *plan.kernels;
    const Blocks& blocks = plan.groups[static_cast<std::size_t>(group)];
    const int columns = plan.vectors * k.width;
    const int from = tile * columns;
    const std::size_t plane = static_cast<std::size_t>(plan.height) * static_cast<std::size_t>(plan.width);
    const int first_channel = group * shape.channels;
    const auto pack_block = [&](int block, float* to) {
        const auto channel = static_cast<std::size_t>(first_channel + blocks.channel_begin(block));
        pack(plan, tile, x + channel * plane, static_cast<std::size_t>(blocks.channels(block)), to);
    };
    const Epilogue e = epilogue.view();
    const bool clip = e.activation == Activation::relu || e.activation == Activation::clip;
    // Whole tiles of images without padding are finished without going through memory once more.
    const bool direct =
        g.pitch == g.out_width && from + columns <= g.length && (clip || e.activation == Activation::none);
    const std::size_t stride = static_cast<std::size_t>(g.out_height) * static_cast<std::size_t>(g.out_width);
    const auto last = [&](int chunk, const RowBlock& block, const float* packed, float* sums, bool first_block) {
        const int row = group * rows_of_group() + blocks.chunk_begin(chunk);
        if (!direct) {
            k.multiply(block, packed, sums, plan.vectors, first_block);
            return store(plan, {sums, columns, blocks.chunk_size(chunk), columns}, row, from, residual, y);
        }
        const std::size_t at = static_cast<std::size_t>(row) * stride + static_cast<std::size_t>(from);
        const Finish finish{epilogue.bias(row),
                            residual == nullptr ? nullptr : residual + at,
                            y + at,
                            stride,
                            clip,
                            e.activation == Activation::relu ? 0.0f : e.low,
                            e.activation == Activation::relu ? __builtin_inff() : e.high};
        k.multiply_last(block, packed, sums, plan.vectors, first_block, finish);
    };
    return multiply_tile(k, blocks, plan.vectors, chunk_begin, chunk_end, pack_block, last);
}

Status Convolution::State::run_channel(const Plan& plan, int row, const float* x, const float* residual,
                                       float* y) const noexcept {
    const Geometry& g = plan.geometry;
    const Kernels& k = *plan.kernels;
    const auto phases = static_cast<std::size_t>(g.phases.size());
    const auto window = static_cast<std::size_t>(plan.window);
    float* const packed = workspace(Slot::tile, phases * window);
    const int padded = round_up(g.length, k.width);
    float* const sums = workspace(Slot::sums, static_cast<std::size_t>(padded));
    if (packed == nullptr || sums == nullptr) return Status::out_of_memory;
    const std::size_t plane = static_cast<std::size_t>(plan.height) * static_cast<std::size_t>(plan.width);
    const float* const from = x + static_cast<std::size_t>(row / rows_of_group()) * plane;
    pack(plan, 0, from, 1, packed);
    const auto r = static_cast<std::size_t>(row);
    const auto begin = static_cast<std::size_t>(plan.tap_begin[r]);
    const float* const bias = epilogue.bias(row);
    k.slide(packed, plan.tap_offset.data() + begin, plan.tap_weight.data() + begin,
            static_cast<int>(plan.tap_begin[r + 1] - plan.tap_begin[r]), bias == nullptr ? 0.0f : *bias, sums, padded);
    const std::size_t at = r * static_cast<std::size_t>(g.out_height) * static_cast<std::size_t>(g.out_width);
    k.store_rows({sums, g.pitch, g.out_height, g.out_width}, nullptr, epilogue.view(),
                 residual == nullptr ? nullptr : residual + at, y + at, static_cast<std::size_t>(g.out_width));
    return Status::ok;
}

Convolution::~Convolution() {
    delete state_;
}

void Convolution::destroy(Convolution* operation) noexcept {
    delete operation;
}

Status Convolution::create(const SparseMatrix& weights, int groups, const ConvolutionShape& shape,
                           const Epilogue& epilogue, Convolution** out) noexcept {
    const Status status = check(weights);
    if (status != Status::ok) return status;
    if (groups < 1 || weights.rows % groups != 0 || shape.channels < 1 || shape.kernel_height < 1 ||
        shape.kernel_width < 1 || shape.kernel_height > 255 || shape.kernel_width > 255 ||
        std::int64_t{shape.channels} * shape.kernel_height * shape.kernel_width != weights.columns) {
        return Status::wrong_shape;
    }
    const int activation = static_cast<int>(epilogue.activation);
    if (activation < 0 || activation >= activation_count) return Status::unknown_activation;
    try {
        auto made = std::unique_ptr<Convolution, void (*)(Convolution*)>(new Convolution, &Convolution::destroy);
        made->state_ = new State(weights, epilogue, shape, groups);
        *out = made.release();
        return Status::ok;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

Status Convolution::output_size(int height, int width, int* out_height, int* out_width) const noexcept {
    try {
        ConvolutionShape sized = state_->shape;
        sized.height = height;
        sized.width = width;
        Geometry geometry;
        const Status status = make_geometry(sized, geometry);
        if (status != Status::ok) return status;
        *out_height = geometry.out_height;
        *out_width = geometry.out_width;
        return Status::ok;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

Status Convolution::run(const Executor& executor, const float* x, std::int64_t images, int height, int width,
                        const float* residual, float* y) noexcept {
    if (images < 0 || executor.threads < 1) return Status::shape_out_of_range;
    if (images == 0) return Status::ok;
    if (x == nullptr || y == nullptr) return Status::null_pointer;
    if ((reinterpret_cast<std::uintptr_t>(x) | reinterpret_cast<std::uintptr_t>(y) |
         reinterpret_cast<std::uintptr_t>(residual)) %
            sizeof(float) !=
        0) {
        return Status::misaligned_pointer;
    }
    State& s = *state_;
    if (height < 1 || width < 1 || !exist(images, std::int64_t{s.groups} * s.shape.channels, height, width)) {
        return Status::shape_out_of_range;
    }
    const Executor host = with_useful_threads(executor);
    std::shared_ptr<const Plan> plan;
    try {
        const Status status = s.plan_for(height, width, host.threads, plan);
        if (status != Status::ok) return status;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
    const int rows = s.weights.view().rows;
    const std::int64_t in_image = std::int64_t{s.groups} * s.shape.channels * height * width;
    const std::int64_t out_image = std::int64_t{rows} * plan->geometry.out_height * plan->geometry.out_width;
    if (!exist(images, rows, plan->geometry.out_height, plan->geometry.out_width)) return Status::shape_out_of_range;
    const auto out_at = [&](const float* base, std::int64_t image) {
        return base == nullptr ? nullptr : base + image * out_image;
    };

    if (s.depthwise()) {
        if (images * rows > (1 << 30)) return Status::shape_out_of_range;
        // Several channels a task: one of a small image takes less time than handing it out.
        const int channels = std::max(1, std::min(rows / (4 * host.threads), 32768 / plan->window + 1));
        const int tasks_of_image = (rows + channels - 1) / channels;
        return run_tasks(host, static_cast<int>(images) * tasks_of_image, [&](int task) noexcept {
            const int image = task / tasks_of_image;
            const int first = task % tasks_of_image * channels;
            for (int row = first; row < std::min(rows, first + channels); ++row) {
                const Status status =
                    s.run_channel(*plan, row, x + image * in_image, out_at(residual, image), y + image * out_image);
                if (status != Status::ok) return status;
            }
            return Status::ok;
        });
    }

    const int parts = plan->parts;
    if (images * s.groups > (1 << 30) / (std::int64_t{plan->tiles} * parts)) return Status::shape_out_of_range;
    const auto units = static_cast<int>(images * s.groups * plan->tiles);
    return run_tasks(host, units * parts, [&](int task) noexcept {
        const int unit = task % units;
        const int part = task / units;
        const int tile = unit % plan->tiles;
        const int group = unit / plan->tiles % s.groups;
        const int image = unit / plan->tiles / s.groups;
        const int chunks = plan->groups.front().chunks();
        return s.run_tile(*plan, group, tile, chunks * part / parts, chunks * (part + 1) / parts, x + image * in_image,
                          out_at(residual, image), y + image * out_image);
    });
}

}  // namespace isogrid
