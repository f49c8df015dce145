#include "isogrid/embedding.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "isogrid/targets.hpp"
#include "kernels/table.hpp"
#include "operations/pool.hpp"
#include "operations/workspace.hpp"

namespace isogrid {
namespace {

// How many floats must be written before a second thread pays.
constexpr std::int64_t worth_sharing = 1 << 15;

}  // namespace

struct Embedding::State {
    std::int32_t rows = 0;
    std::int32_t columns = 0;
    std::vector<unsigned char> values;
    std::vector<float> scales;
    ValueType type = ValueType::int8;
    // Of a sparse table. 16 bits tell the columns of almost every table apart; `column` holds them where they do not.
    bool sparse = false;
    std::vector<std::int64_t> row_begin;
    std::vector<std::uint16_t> short_column;
    std::vector<std::int32_t> column;
    std::int64_t longest = 0;  // nonzeros of a row

    explicit State(const SparseMatrix& m);
    explicit State(const CodedRows& m);

    void widen(const Kernels& k, std::size_t first, std::size_t size, float scale, float* out) const;
    void row(const Kernels& k, std::size_t index, float* room, float* y) const;
};

Embedding::State::State(const SparseMatrix& m)
    : rows(m.rows),
      columns(m.columns),
      type(m.type),
      sparse(true),
      row_begin(m.row_begin.data, m.row_begin.data + m.row_begin.size) {
    values.resize(m.column.size * (m.type == ValueType::f32 ? 4 : m.type == ValueType::f16 ? 2 : 1));
    if (!values.empty()) std::memcpy(values.data(), m.values, values.size());
    if (m.scales != nullptr) scales.assign(m.scales, m.scales + m.rows);
    if (m.columns <= 1 << 16) {
        short_column.resize(m.column.size);
        for (std::size_t i = 0; i < m.column.size; ++i) short_column[i] = static_cast<std::uint16_t>(m.column.data[i]);
    } else {
        column.assign(m.column.data, m.column.data + m.column.size);
    }
    for (std::size_t r = 0; r + 1 < row_begin.size(); ++r) longest = std::max(longest, row_begin[r + 1] - row_begin[r]);
}

Embedding::State::State(const CodedRows& m)
    : rows(m.rows), columns(m.columns), values(m.codes.size), scales(m.scales, m.scales + m.rows) {
    std::memcpy(values.data(), m.codes.data, m.codes.size);
}

// Entries first .. first + size - 1 as f32.
void Embedding::State::widen(const Kernels& k, std::size_t first, std::size_t size, float scale, float* out) const {
    if (type == ValueType::f32) {
        std::memcpy(out, values.data() + first * sizeof(float), size * sizeof(float));
    } else if (type == ValueType::f16) {
        k.widen_f16(values.data() + first * sizeof(std::uint16_t), size, out);
    } else {
        k.widen_int8(values.data() + first, size, scale, out);
    }
}

void Embedding::State::row(const Kernels& k, std::size_t index, float* room, float* y) const {
    const float scale = scales.empty() ? 1.0f : scales[index];
    const auto width = static_cast<std::size_t>(columns);
    if (!sparse) return widen(k, index * width, width, scale, y);
    const auto first = static_cast<std::size_t>(row_begin[index]);
    const auto size = static_cast<std::size_t>(row_begin[index + 1]) - first;
    if (size == width) return widen(k, first, size, scale, y);
    std::memset(y, 0, width * sizeof(float));
    if (size == 0) return;
    widen(k, first, size, scale, room);
    const auto place = [=](const auto* at) {
        for (std::size_t i = 0; i < size; ++i) y[at[i]] = room[i];
    };
    column.empty() ? place(short_column.data() + first) : place(column.data() + first);
}

Embedding::~Embedding() {
    delete state_;
}

void Embedding::destroy(Embedding* operation) noexcept {
    delete operation;
}

Status Embedding::create(const SparseMatrix& table, Embedding** out) noexcept {
    const Status status = check(table);
    if (status != Status::ok) return status;
    try {
        auto made = std::unique_ptr<Embedding, void (*)(Embedding*)>(new Embedding, &Embedding::destroy);
        made->state_ = new State(table);
        *out = made.release();
        return Status::ok;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

Status Embedding::create(const CodedRows& table, Embedding** out) noexcept {
    if (table.rows < 1 || table.columns < 1 || table.rows > max_matrix_side || table.columns > max_matrix_side) {
        return Status::shape_out_of_range;
    }
    if (table.codes.data == nullptr) return Status::null_pointer;
    if (table.scales == nullptr) return Status::wrong_scales;
    if (table.codes.size != static_cast<std::size_t>(table.rows) * static_cast<std::size_t>(table.columns)) {
        return Status::wrong_shape;
    }
    try {
        auto made = std::unique_ptr<Embedding, void (*)(Embedding*)>(new Embedding, &Embedding::destroy);
        made->state_ = new State(table);
        *out = made.release();
        return Status::ok;
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory;
    }
}

Status Embedding::run(const Executor& executor, const std::int64_t* indices, std::int64_t count,
                      float* y) const noexcept {
    if (count < 0 || executor.threads < 1) return Status::shape_out_of_range;
    if (count == 0) return Status::ok;
    if (indices == nullptr || y == nullptr) return Status::null_pointer;
    if (reinterpret_cast<std::uintptr_t>(indices) % sizeof(std::int64_t) != 0 ||
        reinterpret_cast<std::uintptr_t>(y) % sizeof(float) != 0) {
        return Status::misaligned_pointer;
    }
    const State& s = *state_;
    if (count > (std::int64_t{1} << 48) / s.columns) return Status::shape_out_of_range;
    for (std::int64_t i = 0; i < count; ++i) {
        if (indices[i] < 0 || indices[i] >= s.rows) return Status::index_out_of_range;
    }
    const std::int64_t work = count * s.columns;
    const std::int64_t tasks =
        work < worth_sharing ? 1 : std::min<std::int64_t>(count, 4 * std::int64_t{executor.threads});
    return run_tasks(executor, static_cast<int>(tasks), [&](int task) noexcept {
        const Kernels& k = kernels();
        float* const room = workspace(Slot::sums, static_cast<std::size_t>(s.longest));
        if (room == nullptr && s.longest > 0) return Status::out_of_memory;
        for (std::int64_t i = count * task / tasks; i < count * (task + 1) / tasks; ++i) {
            s.row(k, static_cast<std::size_t>(indices[i]), room, y + i * s.columns);
        }
        return Status::ok;
    });
}

}  // namespace isogrid
