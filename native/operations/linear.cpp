#include "isogrid/linear.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "isogrid/targets.hpp"
#include "layout/blocks.hpp"
#include "layout/canonical.hpp"
#include "layout/slices.hpp"
#include "operations/dots.hpp"
#include "operations/pool.hpp"
#include "operations/tiles.hpp"
#include "operations/workspace.hpp"

namespace isogrid {
namespace {

// The share of nonzero activations up to which a single token is multiplied column by column.
constexpr double few_inputs = 0.3;

// Up to how many tokens share one pass through the layout for a single one, as measured (docs/engine.md). Four rows
// alike make eight tokens cheap in a tile, and eight of very many columns would not fit the L2 cache. Three fill a tile
// of four lanes well enough, and where widening stored values is slow it is better done once, for a tile.
int most_few(const Kernels& k, const SparseMatrix& m, bool quads) {
    if (k.width == 8) return quads || m.columns > 16384 ? 4 : 8;
    return m.type == ValueType::f32 ? 2 : 1;
}

// The layout for tiles of up to `vectors` vectors: 1, 2, 4 ... A tile may be narrower than its pitch.
struct Plan {
    const Kernels* kernels;
    int vectors;
    int chunk_rows;
    Blocks blocks;
};

}  // namespace

struct Linear::State {
    Canonical weights;
    OwnedEpilogue epilogue;
    bool skip_zeros;
    bool quads;
    std::mutex mutex;
    std::vector<std::shared_ptr<const Plan>> plans;
    std::shared_ptr<const Slices> slices;
    std::shared_ptr<const Columns> columns;

    State(const SparseMatrix& matrix, const Epilogue& e, bool skip)
        : weights(matrix),
          epilogue(e, matrix.rows),
          skip_zeros(skip),
          quads(!find_quads(matrix, 0, matrix.rows).empty()) {}

    TileShape tile_shape() const {
        const SparseMatrix m = weights.view();
        return {m.rows, m.columns, 1, 0, static_cast<double>(m.column.size), quads};
    }
    Status plan_for(const Kernels& k, int vectors, int chunk_rows, std::shared_ptr<const Plan>& out);
    std::shared_ptr<const Slices> slices_layout();
    std::shared_ptr<const Columns> columns_layout(int threads);

    Status run_one(const Executor& executor, const float* x, const float* residual, float* y);
    Status run_columns(const Executor& executor, const Columns& layout, const float* x, const float* residual,
                       float* y);
    Status run_slices(const Executor& executor, const Slices& layout, const float* x, const float* residual, float* y);
    Status run_few(const Executor& executor, const Kernels& k, const float* x, int tokens, const float* residual,
                   float* y);
    void finish(const Slices& layout, int first, int count, float* sums, const float* residual, float* y);
    Status run_many(const Executor& executor, const float* x, std::int64_t tokens, const float* residual, float* y);
};

Status Linear::State::plan_for(const Kernels& k, int vectors, int chunk_rows, std::shared_ptr<const Plan>& out) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (const auto& plan : plans) {
        if (plan->vectors == vectors && plan->chunk_rows == chunk_rows && plan->kernels == &k) {
            out = plan;
            return Status::ok;
        }
    }
    auto plan = std::make_shared<Plan>(Plan{&k, vectors, chunk_rows, {}});
    const SparseMatrix m = weights.view();
    const Status status =
        Blocks::build(m, 0, m.rows, ColumnMap{m.columns, vectors * k.width, {0}},
                      best_tiling(tile_shape(), vectors, k.width).block_channels, chunk_rows, plan->blocks);
    if (status != Status::ok) return status;
    plans.insert(plans.begin(), plan);
    constexpr std::size_t most_layouts = 4;
    if (plans.size() > most_layouts) plans.pop_back();
    out = std::move(plan);
    return Status::ok;
}

std::shared_ptr<const Slices> Linear::State::slices_layout() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (slices == nullptr) {
        auto made = std::make_shared<Slices>();
        Slices::build(weights.view(), epilogue.bias(0), *made);
        slices = std::move(made);
    }
    return slices;
}

std::shared_ptr<const Columns> Linear::State::columns_layout(int threads) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (columns == nullptr) {
        auto made = std::make_shared<Columns>();
        Columns::build(weights.view(), threads, *made);
        columns = std::move(made);
    }
    return columns;
}

Status Linear::State::run_columns(const Executor& executor, const Columns& layout, const float* x,
                                  const float* residual, float* y) {
    const Kernels& k = kernels();
    return run_tasks(executor, layout.parts, [&](int part) noexcept {
        const int top = part * layout.part_size;
        const int size = std::min(layout.part_size, layout.rows - top);
        float* const to = y + top;
        if (epilogue.bias(0) != nullptr) {
            std::memcpy(to, epilogue.bias(top), static_cast<std::size_t>(size) * sizeof(float));
        } else {
            std::memset(to, 0, static_cast<std::size_t>(size) * sizeof(float));
        }
        const std::int64_t* begin =
            layout.begin.data() + static_cast<std::size_t>(part) * (static_cast<std::size_t>(layout.columns) + 1);
        for (int c = 0; c < layout.columns; ++c) {
            if (x[c] == 0.0f) continue;
            k.scatter(layout.row.data() + begin[c], layout.values.data() + begin[c],
                      static_cast<std::size_t>(begin[c + 1] - begin[c]), x[c], to);
        }
        if (residual != nullptr) {
            for (int r = 0; r < size; ++r) to[r] += residual[top + r];
        }
        k.activate(to, static_cast<std::size_t>(size), epilogue.view());
        return Status::ok;
    });
}

// Rows are sorted by length, so tasks of equally many slices get shorter and shorter: several for each thread. Calls
// body(first, count), which returns a Status, for the slices of each task.
template <class Body>
Status run_in_tasks(const Executor& executor, const Slices& layout, const Body& body) {
    const int tasks = std::max(1, std::min(layout.slices / 16, executor.threads == 1 ? 1 : 4 * executor.threads));
    return run_tasks(executor, tasks, [&](int task) noexcept {
        const int first = static_cast<int>(std::int64_t{layout.slices} * task / tasks);
        const int last = static_cast<int>(std::int64_t{layout.slices} * (task + 1) / tasks);
        return body(first, last - first);
    });
}

// The sums of a token on their way out.
void Linear::State::finish(const Slices& layout, int first, int count, float* sums, const float* residual, float* y) {
    const auto size = static_cast<std::size_t>(count) * 8;
    const auto base = static_cast<std::size_t>(first) * 8;
    const std::int32_t* const row = layout.row.data() + base;
    for (std::size_t i = 0; i < size; ++i) {
        if (!layout.scale.empty()) sums[i] *= layout.scale[base + i];
        if (!layout.bias.empty()) sums[i] += layout.bias[base + i];
        if (residual != nullptr && row[i] >= 0) sums[i] += residual[row[i]];
    }
    kernels().activate(sums, size, epilogue.view());
    for (std::size_t i = 0; i < size; ++i) {
        if (row[i] >= 0) y[row[i]] = sums[i];
    }
}

Status Linear::State::run_slices(const Executor& executor, const Slices& layout, const float* x, const float* residual,
                                 float* y) {
    const Kernels& k = kernels();
    return run_in_tasks(executor, layout, [&](int first, int count) noexcept {
        const int widest = std::min(layout.columns, Slices::panel_columns);
        float* const inputs = workspace(Slot::tile, static_cast<std::size_t>(widest) + 1);
        float* const sums = workspace(Slot::sums, static_cast<std::size_t>(count) * 8);
        if (inputs == nullptr || sums == nullptr) return Status::out_of_memory;
        for (int panel = 0; panel < layout.panels; ++panel) {
            const auto width = static_cast<std::size_t>(layout.panel_width(panel));
            std::memcpy(inputs, x + std::int64_t{panel} * Slices::panel_columns, width * sizeof(float));
            inputs[width] = 0.0f;
            dot(k, layout, panel, first, count, inputs, sums);
        }
        finish(layout, first, count, sums, residual, y);
        return Status::ok;
    });
}

Status Linear::State::run_few(const Executor& executor, const Kernels& k, const float* x, int tokens,
                              const float* residual, float* y) {
    const auto layout = slices_layout();
    const int samples = tokens <= 2 ? 2 : tokens <= 4 ? 4 : 8;
    // Of every panel the activations and the zeros behind them; packed once, since each task needs them all.
    const auto place = [=](int panel) {
        return std::size_t{Slices::panel_columns + 1} * static_cast<std::size_t>(panel) *
               static_cast<std::size_t>(samples);
    };
    const auto places = static_cast<std::size_t>(layout->columns) + static_cast<std::size_t>(layout->panels);
    float* const packed = workspace(Slot::tile, places * static_cast<std::size_t>(samples));
    if (packed == nullptr) return Status::out_of_memory;
    for (int panel = 0; panel < layout->panels; ++panel) {
        const int width = layout->panel_width(panel);
        k.pack_few(x + std::int64_t{panel} * Slices::panel_columns, static_cast<std::size_t>(layout->columns), tokens,
                   width, samples, packed + place(panel));
        float* const behind =
            packed + place(panel) + static_cast<std::size_t>(width) * static_cast<std::size_t>(samples);
        std::fill(behind, behind + samples, 0.0f);
    }
    return run_in_tasks(executor, *layout, [&](int first, int count) noexcept {
        const std::size_t pitch = static_cast<std::size_t>(count) * 8;
        float* const sums = workspace(Slot::sums, pitch * static_cast<std::size_t>(samples));
        if (sums == nullptr) return Status::out_of_memory;
        for (int panel = 0; panel < layout->panels; ++panel) {
            few(k, *layout, panel, first, count, packed + place(panel), samples, sums, pitch);
        }
        for (int t = 0; t < tokens; ++t) {
            const std::int64_t at = std::int64_t{t} * layout->rows;
            finish(*layout, first, count, sums + static_cast<std::size_t>(t) * pitch,
                   residual == nullptr ? nullptr : residual + at, y + at);
        }
        return Status::ok;
    });
}

Status Linear::State::run_one(const Executor& executor, const float* x, const float* residual, float* y) {
    if (skip_zeros) {
        const auto by_columns = columns_layout(executor.threads);
        int nonzero = 0;
        for (int c = 0; c < by_columns->columns; ++c) nonzero += x[c] != 0.0f ? 1 : 0;
        if (nonzero <= few_inputs * by_columns->columns) return run_columns(executor, *by_columns, x, residual, y);
    }
    return run_slices(executor, *slices_layout(), x, residual, y);
}

Status Linear::State::run_many(const Executor& executor, const float* x, std::int64_t tokens, const float* residual,
                               float* y) {
    const SparseMatrix m = weights.view();
    const Kernels& k = kernels();
    const std::int64_t all = (tokens + k.width - 1) / k.width;
    // A power of two that the tokens fill. Where a target could take more than 64 of them, blocks would have too few
    // channels left: a twentieth slower on Zen 4.
    constexpr int most_columns = 64;
    const TileShape shape = tile_shape();
    const auto cost = [&](int of) { return best_tiling(shape, of, k.width).cost; };
    int vectors = 1;
    for (int wider = 2; wider <= k.max_vectors && wider * k.width <= most_columns && vectors < all; wider *= 2) {
        if (2 * cost(vectors) >= cost(wider)) vectors = wider;
    }
    std::int64_t tiles = (all + vectors - 1) / vectors;
    // One more tile, if that lets every thread have as many and leaves none of them narrow.
    const std::int64_t even = (tiles + executor.threads - 1) / executor.threads * executor.threads;
    if (even != tiles && all / even >= vectors * 5 / 8 && vectors > 2) tiles = even;
    if (tiles > (1 << 28)) return Status::shape_out_of_range;
    // Whole tiles if there are enough of them; otherwise each tile's rows are shared out too, and it is packed twice.
    const bool enough = tiles % executor.threads == 0 || tiles >= 4 * std::int64_t{executor.threads};
    const int chunk_rows = enough ? 256 : std::clamp((m.rows / (2 * executor.threads) + 7) / 8 * 8, 32, 256);
    std::shared_ptr<const Plan> plan;
    const Status status = plan_for(k, vectors, chunk_rows, plan);
    if (status != Status::ok) return status;
    const Blocks& blocks = plan->blocks;
    const int parts = enough ? 1 : std::min(blocks.chunks(), executor.threads);
    const int pitch = vectors * k.width;
    const Epilogue e = epilogue.view();

    return run_tasks(executor, static_cast<int>(tiles) * parts, [&](int task) noexcept {
        const std::int64_t tile = task % tiles;
        const int part = static_cast<int>(task / tiles);
        // Vectors are shared out evenly, so that no tile is much narrower than the others.
        const std::int64_t first = all * tile / tiles;
        const int here = static_cast<int>(all * (tile + 1) / tiles - first);
        const std::int64_t from = first * k.width;
        const int padded = here * k.width;
        const int count = static_cast<int>(std::min<std::int64_t>(padded, tokens - from));
        const auto in_stride = static_cast<std::size_t>(m.columns);
        const auto out_stride = static_cast<std::size_t>(m.rows);
        const auto pack = [&](int block, float* to) {
            k.pack_tokens(x + static_cast<std::size_t>(from) * in_stride + blocks.channel_begin(block), in_stride,
                          count, blocks.channels(block), to, pitch, padded);
        };
        const auto last = [&](int chunk, const RowBlock& block, const float* tile_x, float* sums, bool first_block) {
            k.multiply(block, tile_x, sums, here, first_block);
            const int row = blocks.chunk_begin(chunk);
            const std::size_t at = static_cast<std::size_t>(from) * out_stride + static_cast<std::size_t>(row);
            k.store_tokens({sums, padded, blocks.chunk_size(chunk), count}, epilogue.bias(row), e,
                           residual == nullptr ? nullptr : residual + at, y + at, out_stride);
        };
        return multiply_tile(k, blocks, here, blocks.chunks() * part / parts, blocks.chunks() * (part + 1) / parts,
                             pack, last);
    });
}

Linear::~Linear() {
    delete state_;
}

void Linear::destroy(Linear* operation) noexcept {
    delete operation;
}

Status Linear::create(const SparseMatrix& weights, const Epilogue& epilogue, bool skip_zeros, Linear** out) noexcept {
    const Status status = check(weights);
    if (status != Status::ok) return status;
    const int activation = static_cast<int>(epilogue.activation);
    if (activation < 0 || activation >= activation_count) return Status::unknown_activation;
    try {
        auto made = std::unique_ptr<Linear, void (*)(Linear*)>(new Linear, &Linear::destroy);
        made->state_ = new State(weights, epilogue, skip_zeros);
        *out = made.release();
        return Status::ok;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

Status Linear::run(const Executor& executor, const float* x, std::int64_t tokens, const float* residual,
                   float* y) noexcept {
    if (tokens < 0 || executor.threads < 1) return Status::shape_out_of_range;
    if (tokens == 0) return Status::ok;
    if (x == nullptr || y == nullptr) return Status::null_pointer;
    if ((reinterpret_cast<std::uintptr_t>(x) | reinterpret_cast<std::uintptr_t>(y) |
         reinterpret_cast<std::uintptr_t>(residual)) %
            sizeof(float) !=
        0) {
        return Status::misaligned_pointer;
    }
    const SparseMatrix m = state_->weights.view();
    if (tokens > (std::int64_t{1} << 48) / std::max(m.rows, m.columns)) return Status::shape_out_of_range;
    const Executor host = with_useful_threads(executor);
    try {
        if (tokens == 1) return state_->run_one(host, x, residual, y);
        const Kernels& k = kernels();
        if (tokens <= most_few(k, m, state_->quads)) {
            return state_->run_few(host, k, x, static_cast<int>(tokens), residual, y);
        }
        return state_->run_many(host, x, tokens, residual, y);
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

}  // namespace isogrid
