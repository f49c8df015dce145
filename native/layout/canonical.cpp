#include "layout/canonical.hpp"

#include <cstring>

namespace isogrid {
namespace {

std::size_t bytes_of(ValueType type) {
    return type == ValueType::f32 ? 4 : type == ValueType::f16 ? 2 : 1;
}

}  // namespace

Status check(const SparseMatrix& m) noexcept {
    if (m.rows < 1 || m.columns < 1 || m.rows > max_matrix_side || m.columns > max_matrix_side) {
        return Status::shape_out_of_range;
    }
    if (m.type != ValueType::f32 && m.type != ValueType::f16 && m.type != ValueType::int8) return Status::unknown_type;
    if ((m.type == ValueType::int8) != (m.scales != nullptr)) return Status::wrong_scales;
    if (m.row_begin.data == nullptr || m.row_begin.size != static_cast<std::size_t>(m.rows) + 1) {
        return Status::wrong_row_begin;
    }
    const std::size_t entries = m.column.size;
    if (entries > 0 && (m.column.data == nullptr || m.values == nullptr)) return Status::null_pointer;
    if (m.row_begin.data[0] != 0 || m.row_begin.data[m.rows] != static_cast<std::int64_t>(entries)) {
        return Status::wrong_row_begin;
    }
    for (std::int32_t r = 0; r < m.rows; ++r) {
        const std::int64_t begin = m.row_begin.data[r];
        const std::int64_t end = m.row_begin.data[r + 1];
        if (end < begin || end > static_cast<std::int64_t>(entries)) return Status::wrong_row_begin;
        std::int32_t last = -1;
        for (std::int64_t i = begin; i < end; ++i) {
            if (m.column.data[i] <= last || m.column.data[i] >= m.columns) return Status::columns_not_ascending;
            last = m.column.data[i];
        }
    }
    return Status::ok;
}

Canonical::Canonical(const SparseMatrix& m)
    : rows_(m.rows),
      columns_(m.columns),
      type_(m.type),
      row_begin_(m.row_begin.data, m.row_begin.data + m.row_begin.size),
      column_(m.column.data, m.column.data + m.column.size),
      values_(m.column.size * bytes_of(m.type)) {
    if (!values_.empty()) std::memcpy(values_.data(), m.values, values_.size());
    if (m.scales != nullptr) scales_.assign(m.scales, m.scales + m.rows);
}

SparseMatrix Canonical::view() const {
    return {rows_,          columns_, {row_begin_.data(), row_begin_.size()},    {column_.data(), column_.size()},
            values_.data(), type_,    scales_.empty() ? nullptr : scales_.data()};
}

OwnedEpilogue::OwnedEpilogue(const Epilogue& epilogue, std::int32_t rows) : epilogue_(epilogue) {
    if (epilogue.bias != nullptr) bias_.assign(epilogue.bias, epilogue.bias + rows);
    epilogue_.bias = nullptr;
}

Epilogue OwnedEpilogue::view() const {
    Epilogue e = epilogue_;
    e.bias = bias(0);
    return e;
}

}  // namespace isogrid
