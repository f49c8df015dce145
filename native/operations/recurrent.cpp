#include "isogrid/recurrent.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "isogrid/linear.hpp"
#include "isogrid/targets.hpp"
#include "layout/slices.hpp"
#include "operations/dots.hpp"
#include "operations/pool.hpp"
#include "operations/workspace.hpp"

namespace isogrid {
namespace {

// How many multiplications a product must have before a second thread pays: waking it takes some microseconds.
constexpr std::int64_t worth_sharing = 1 << 15;
// How many units' gates must be computed before a second thread pays.
constexpr std::int64_t units_worth_sharing = 1 << 12;
// Nonzeros of a part, so that parts are small enough to be shared out evenly and large enough to be worth a task.
constexpr std::int64_t part_entries = 1 << 13;
constexpr std::int64_t most_parts = 64;
// Floats that the input products of several steps may take, so that they stay in the caches until they are used.
constexpr std::int64_t most_products = 1 << 19;

using Floats = std::unique_ptr<float[]>;

// Rows of matrices, copied one after the other.
class Rows {
  public:
    // The entries of a row, in columns from `shift` on; several of them make one row if they have no scales.
    void add(const SparseMatrix& m, std::int32_t row, std::int32_t shift) {
        const std::size_t bytes = m.type == ValueType::f32 ? 4 : m.type == ValueType::f16 ? 2 : 1;
        const auto from = static_cast<std::size_t>(m.row_begin.data[row]);
        const auto to = static_cast<std::size_t>(m.row_begin.data[row + 1]);
        for (std::size_t i = from; i < to; ++i) column_.push_back(m.column.data[i] + shift);
        const auto* const raw = static_cast<const unsigned char*>(m.values);
        values_.insert(values_.end(), raw + from * bytes, raw + to * bytes);
        if (m.scales != nullptr) scales_.push_back(m.scales[row]);
    }
    void end(const std::vector<float>& bias, std::int32_t row) {
        begin_.push_back(static_cast<std::int64_t>(column_.size()));
        bias_.push_back(bias.empty() ? 0.0f : bias[static_cast<std::size_t>(row)]);
    }
    void build(std::int32_t columns, ValueType type, Slices& out) const {
        const SparseMatrix matrix{
            static_cast<std::int32_t>(bias_.size()),   columns,        {begin_.data(), begin_.size()},
            {column_.data(), column_.size()},          values_.data(), type,
            scales_.empty() ? nullptr : scales_.data()};
        Slices::build(matrix, bias_.data(), out);
    }

  private:
    std::vector<std::int64_t> begin_{0};
    std::vector<std::int32_t> column_;
    std::vector<unsigned char> values_;
    std::vector<float> scales_;
    std::vector<float> bias_;
};

// The one-sample layouts of some units: all their gates, so that what does the products can finish the step as well.
struct Part {
    int first;
    int units;
    Slices recurrent;
    // Both matrices side by side, for a step whose input product is not there yet. Where the products of a gate are but
    // added, one row has both; otherwise the rows of the recurrent matrix follow.
    Slices both;
};

// The activations of a product: those of the input, if any, and behind them those of the state.
struct Inputs {
    const float* x;
    std::int64_t columns;
    const float* h;

    // `width` of them from `first` on, and a zero.
    void copy(std::int64_t first, std::int64_t width, float* to) const {
        const std::int64_t of_x = std::clamp<std::int64_t>(columns - first, 0, width);
        if (of_x > 0) std::memcpy(to, x + first, static_cast<std::size_t>(of_x) * sizeof(float));
        if (of_x < width) {
            std::memcpy(to + of_x, h + (first + of_x - columns),
                        static_cast<std::size_t>(width - of_x) * sizeof(float));
        }
        to[width] = 0.0f;
    }
};

// out[r] = row r of the product, with its bias. `room` is for a panel of columns and a zero, `sums` for the lanes of
// the slices.
void multiply(const Kernels& k, const Slices& layout, const Inputs& inputs, float* room, float* sums, float* out) {
    for (int panel = 0; panel < layout.panels; ++panel) {
        inputs.copy(std::int64_t{panel} * Slices::panel_columns, layout.panel_width(panel), room);
        dot(k, layout, panel, 0, layout.slices, room, sums);
    }
    const std::int32_t* const row = layout.row.data();
    const float* const bias = layout.bias.data();
    const int rows = layout.rows;  // what is no row comes last
    if (layout.scale.empty()) {
        for (int i = 0; i < rows; ++i) out[row[i]] = sums[i] + bias[i];
    } else {
        const float* const scale = layout.scale.data();
        for (int i = 0; i < rows; ++i) out[row[i]] = sums[i] * scale[i] + bias[i];
    }
}

struct DestroyLinear {
    void operator()(Linear* operation) const noexcept { Linear::destroy(operation); }
};
using OwnedLinear = std::unique_ptr<Linear, DestroyLinear>;

Status make_linear(const SparseMatrix& matrix, const std::vector<float>& bias, OwnedLinear& out) {
    Linear* made = nullptr;
    const Epilogue epilogue{bias.empty() ? nullptr : bias.data(), Activation::none, 0.0f, 0.0f};
    const Status status = Linear::create(matrix, epilogue, false, &made);
    out.reset(made);
    return status;
}

bool misaligned(const void* pointer, std::size_t size) {
    return reinterpret_cast<std::uintptr_t>(pointer) % size != 0;
}

}  // namespace

struct Recurrent::State {
    Cell cell = Cell::lstm;
    bool reverse = false;
    int gates = 0;
    int units = 0;
    int columns = 0;
    int added = 0;  // gates whose two products are but added in `Part::both`
    std::int64_t input_entries = 0;
    std::int64_t recurrent_entries = 0;
    std::vector<Part> parts;
    // For more than one sample.
    OwnedLinear input;
    OwnedLinear recurrent;

    Status build(const RecurrentWeights& weights);
    void make_part(const RecurrentWeights& w, const std::vector<float>& input_bias,
                   const std::vector<float>& recurrent_bias, Part& part) const;
    Status check(const Sequences& in, const States& states, const float* y, std::int64_t stride,
                 std::int64_t& tokens) const;
    Status run(const Executor& executor, const Sequences& in, std::int64_t tokens, const States& states, float* y,
               std::int64_t stride);

    void finish(const Kernels& k, const Gates& at, std::size_t count, const float* before, float* c, float* h) const {
        cell == Cell::lstm ? k.lstm_gates(at, count, c, h) : k.gru_gates(at, count, before, h);
    }
    Status run_part(const Part& part, const float* x, const float* products, const States& states, float* y) const;
    Status one_sample(const Executor& executor, const float* x, const float* products, const States& states, float* y);
    Status samples(const Executor& executor, std::int64_t batch, const float* products, const States& states,
                   float* room, float* y, std::int64_t stride);
};

Status Recurrent::State::build(const RecurrentWeights& w) {
    const auto rows = static_cast<std::size_t>(w.input.rows);
    cell = w.cell;
    reverse = w.reverse;
    gates = cell == Cell::lstm ? 4 : 3;
    units = w.recurrent.columns;
    columns = w.input.columns;
    // A row has but one scale, the two matrices have each their own.
    added = w.input.type == ValueType::int8 ? 0 : cell == Cell::lstm ? 4 : 2;
    input_entries = static_cast<std::int64_t>(w.input.column.size);
    recurrent_entries = static_cast<std::int64_t>(w.recurrent.column.size);

    // Both biases are added to the input's product, except the one that the GRU's reset gate is applied to.
    std::vector<float> input_bias;
    std::vector<float> recurrent_bias;
    if (w.input_bias != nullptr) input_bias.assign(w.input_bias, w.input_bias + rows);
    if (w.recurrent_bias != nullptr) {
        const std::size_t merged = cell == Cell::lstm ? rows : rows / 3 * 2;
        input_bias.resize(rows, 0.0f);
        for (std::size_t i = 0; i < merged; ++i) input_bias[i] += w.recurrent_bias[i];
        recurrent_bias.assign(rows, 0.0f);
        for (std::size_t i = merged; i < rows; ++i) recurrent_bias[i] = w.recurrent_bias[i];
    }
    Status status = make_linear(w.input, input_bias, input);
    if (status != Status::ok) return status;
    status = make_linear(w.recurrent, cell == Cell::lstm ? std::vector<float>{} : recurrent_bias, recurrent);
    if (status != Status::ok) return status;

    const auto wanted = static_cast<int>(std::clamp<std::int64_t>(recurrent_entries / part_entries, 1, most_parts));
    const int size = ((units + wanted - 1) / wanted + 7) / 8 * 8;
    for (int first = 0; first < units; first += size) {
        Part& part = parts.emplace_back();
        part.first = first;
        part.units = std::min(size, units - first);
        make_part(w, input_bias, recurrent_bias, part);
    }
    return Status::ok;
}

void Recurrent::State::make_part(const RecurrentWeights& w, const std::vector<float>& input_bias,
                                 const std::vector<float>& recurrent_bias, Part& part) const {
    Rows of_recurrent;
    Rows of_both;
    const auto over_rows = [&](int first_gate, int last_gate, const auto& body) {
        for (int gate = first_gate; gate < last_gate; ++gate) {
            for (int unit = part.first; unit < part.first + part.units; ++unit) body(gate * units + unit);
        }
    };
    over_rows(0, gates, [&](int row) {
        of_recurrent.add(w.recurrent, row, 0);
        of_recurrent.end(recurrent_bias, row);
    });
    of_recurrent.build(units, w.recurrent.type, part.recurrent);
    over_rows(0, added, [&](int row) {
        of_both.add(w.input, row, 0);
        of_both.add(w.recurrent, row, columns);
        of_both.end(input_bias, row);
    });
    over_rows(added, gates, [&](int row) {
        of_both.add(w.input, row, 0);
        of_both.end(input_bias, row);
    });
    over_rows(added, gates, [&](int row) {
        of_both.add(w.recurrent, row, columns);
        of_both.end(recurrent_bias, row);
    });
    of_both.build(columns + units, w.recurrent.type, part.both);
    // The recurrent products have room for the rows that are missing here.
    for (std::int32_t& row : part.both.row) {
        if (row >= gates * part.units) row += added * part.units;
    }
}

Status Recurrent::State::check(const Sequences& in, const States& states, const float* y, std::int64_t stride,
                               std::int64_t& tokens) const {
    constexpr std::int64_t most = std::int64_t{1} << 48;
    if (in.steps < 0 || in.batch < 0 || stride < units || stride > most) return Status::shape_out_of_range;
    // No product of tokens and one of these may overflow.
    const std::int64_t widest = std::max<std::int64_t>({stride, columns, std::int64_t{gates} * units});
    if (in.batch > most / widest || in.steps > most / widest / std::max<std::int64_t>(in.batch, 1)) {
        return Status::shape_out_of_range;
    }
    if (misaligned(in.x, sizeof(float)) || misaligned(y, sizeof(float)) || misaligned(states.h, sizeof(float)) ||
        misaligned(states.c, sizeof(float)) || misaligned(states.last_h, sizeof(float)) ||
        misaligned(states.last_c, sizeof(float)) || misaligned(in.batch_sizes, sizeof(std::int64_t))) {
        return Status::misaligned_pointer;
    }
    tokens = in.steps * in.batch;
    if (in.batch_sizes != nullptr) {
        tokens = 0;
        std::int64_t last = in.batch;
        for (std::int64_t t = 0; t < in.steps; ++t) {
            const std::int64_t here = in.batch_sizes[t];
            if (here < 1 || here > last || (t == 0 && here != in.batch)) return Status::wrong_batch_sizes;
            last = here;
            tokens += here;
        }
    }
    if (tokens > 0 && (in.x == nullptr || y == nullptr)) return Status::null_pointer;
    if (in.batch > 0 && (states.last_h == nullptr || (cell == Cell::lstm && states.last_c == nullptr))) {
        return Status::null_pointer;
    }
    return Status::ok;
}

// A step of one sample for the units of a part. The input's product is there already, [gates][units], or `x` is.
Status Recurrent::State::run_part(const Part& part, const float* x, const float* products, const States& states,
                                  float* y) const {
    const Kernels& k = kernels();
    const Slices& layout = x != nullptr ? part.both : part.recurrent;
    const auto lanes = static_cast<std::size_t>(layout.slices) * 8;
    const auto count = static_cast<std::size_t>(part.units);
    const std::size_t size = static_cast<std::size_t>(gates) * count;
    float* const room =
        workspace(Slot::tile, static_cast<std::size_t>(std::min(layout.columns, Slices::panel_columns)) + 1);
    float* const sums = workspace(Slot::sums, lanes + 2 * size);
    if (room == nullptr || sums == nullptr) return Status::out_of_memory;
    float* const from_input = sums + lanes;
    float* const from_state = from_input + size;
    Gates at{from_input, count, from_state, count};
    if (x != nullptr) {
        std::memset(from_state, 0, static_cast<std::size_t>(added) * count * sizeof(float));
        multiply(k, layout, {x, columns, states.last_h}, room, sums, from_input);
    } else {
        multiply(k, layout, {nullptr, 0, states.last_h}, room, sums, from_state);
        at.input = products + part.first;
        at.input_stride = static_cast<std::size_t>(units);
    }
    finish(k, at, count, states.last_h + part.first, cell == Cell::lstm ? states.last_c + part.first : nullptr,
           y + part.first);
    return Status::ok;
}

Status Recurrent::State::one_sample(const Executor& executor, const float* x, const float* products,
                                    const States& states, float* y) {
    const std::int64_t work = recurrent_entries + (x == nullptr ? 0 : input_entries);
    const Status status =
        run_tasks(work < worth_sharing ? serial_executor() : executor, static_cast<int>(parts.size()),
                  [&](int i) noexcept { return run_part(parts[static_cast<std::size_t>(i)], x, products, states, y); });
    if (status == Status::ok) std::memcpy(states.last_h, y, static_cast<std::size_t>(units) * sizeof(float));
    return status;
}

// A step of several samples. `room` is as large as the step's input products.
Status Recurrent::State::samples(const Executor& executor, std::int64_t batch, const float* products,
                                 const States& states, float* room, float* y, std::int64_t stride) {
    const Kernels& k = kernels();
    const Executor serial = serial_executor();
    const std::int64_t vectors = (batch + k.width - 1) / k.width;
    const Status status = recurrent->run(recurrent_entries * vectors < worth_sharing ? serial : executor, states.last_h,
                                         batch, nullptr, room);
    if (status != Status::ok) return status;
    const bool shared = batch * units >= units_worth_sharing;
    const std::int64_t tasks = shared ? std::min<std::int64_t>(batch, 2 * std::int64_t{executor.threads}) : 1;
    const auto count = static_cast<std::size_t>(units);
    return run_tasks(executor, static_cast<int>(tasks), [&](int task) noexcept {
        for (std::int64_t i = batch * task / tasks; i < batch * (task + 1) / tasks; ++i) {
            float* const h = states.last_h + i * units;
            const std::int64_t at = i * gates * units;
            finish(k, {products + at, count, room + at, count}, count, h,
                   cell == Cell::lstm ? states.last_c + i * units : nullptr, h);
            std::memcpy(y + i * stride, h, count * sizeof(float));
        }
        return Status::ok;
    });
}

Status Recurrent::State::run(const Executor& executor, const Sequences& in, std::int64_t tokens, const States& states,
                             float* y, std::int64_t stride) {
    const auto start = [&](const float* before, float* to) {
        const std::size_t bytes = static_cast<std::size_t>(in.batch * units) * sizeof(float);
        if (bytes == 0 || before == to) return;
        before == nullptr ? std::memset(to, 0, bytes) : std::memmove(to, before, bytes);
    };
    start(states.h, states.last_h);
    if (cell == Cell::lstm) start(states.c, states.last_c);
    if (tokens == 0) return Status::ok;
    if (tokens == 1) return one_sample(executor, in.x, nullptr, states, y);

    const std::int64_t rows = std::int64_t{gates} * units;
    const std::int64_t most = std::min(tokens, std::max(in.batch, most_products / rows));
    const Floats products(new float[static_cast<std::size_t>(most * rows)]);
    const Floats room(in.batch == 1 ? nullptr : new float[static_cast<std::size_t>(in.batch * rows)]);
    const auto batch_at = [&](std::int64_t done) {
        if (in.batch_sizes == nullptr) return in.batch;
        return in.batch_sizes[reverse ? in.steps - 1 - done : done];
    };
    const std::int64_t width = kernels().width;
    std::int64_t token = reverse ? tokens : 0;
    for (std::int64_t done = 0; done < in.steps;) {
        // As many steps as fit.
        std::int64_t last = done;
        std::int64_t here = 0;
        for (; last < in.steps && here + batch_at(last) <= most; ++last) here += batch_at(last);
        if (reverse) token -= here;
        const bool shared = input_entries * ((here + width - 1) / width) >= worth_sharing;
        Status status =
            input->run(shared ? executor : serial_executor(), in.x + token * columns, here, nullptr, products.get());
        if (status != Status::ok) return status;
        std::int64_t at = reverse ? here : 0;
        for (; done < last; ++done) {
            const std::int64_t batch = batch_at(done);
            if (reverse) at -= batch;
            const float* const gate = products.get() + at * rows;
            float* const to = y + (token + at) * stride;
            status = batch == 1 ? one_sample(executor, nullptr, gate, states, to)
                                : samples(executor, batch, gate, states, room.get(), to, stride);
            if (status != Status::ok) return status;
            if (!reverse) at += batch;
        }
        if (!reverse) token += here;
    }
    return Status::ok;
}

Recurrent::~Recurrent() {
    delete state_;
}

void Recurrent::destroy(Recurrent* operation) noexcept {
    delete operation;
}

Status Recurrent::create(const RecurrentWeights& weights, Recurrent** out) noexcept {
    if (weights.cell != Cell::lstm && weights.cell != Cell::gru) return Status::unknown_cell;
    for (const SparseMatrix* matrix : {&weights.input, &weights.recurrent}) {
        const Status status = isogrid::check(*matrix);
        if (status != Status::ok) return status;
    }
    const std::int64_t rows = std::int64_t{weights.cell == Cell::lstm ? 4 : 3} * weights.recurrent.columns;
    if (weights.input.rows != rows || weights.recurrent.rows != rows) return Status::wrong_shape;
    if (weights.input.type != weights.recurrent.type) return Status::mixed_types;
    try {
        auto made = std::unique_ptr<Recurrent, void (*)(Recurrent*)>(new Recurrent, &Recurrent::destroy);
        made->state_ = new State;
        const Status status = made->state_->build(weights);
        if (status == Status::ok) *out = made.release();
        return status;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

Status Recurrent::run(const Executor& executor, const Sequences& sequences, const States& states, float* y,
                      std::int64_t stride) noexcept {
    if (executor.threads < 1) return Status::shape_out_of_range;
    std::int64_t tokens = 0;
    const Status status = state_->check(sequences, states, y, stride, tokens);
    if (status != Status::ok) return status;
    try {
        return state_->run(executor, sequences, tokens, states, y, stride);
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

}  // namespace isogrid
