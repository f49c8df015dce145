#include "layout/slices.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "layout/blocks.hpp"

namespace isogrid {
namespace {

constexpr int lanes = 8;

}  // namespace

void Slices::build(const SparseMatrix& m, const float* bias, Slices& out) {
    out = Slices{};
    out.rows = m.rows;
    out.columns = m.columns;
    out.panels = (m.columns + panel_columns - 1) / panel_columns;
    out.slices = (m.rows + lanes - 1) / lanes;
    out.type = m.type;
    const auto length = [&](std::int32_t row) { return m.row_begin.data[row + 1] - m.row_begin.data[row]; };
    out.row.resize(static_cast<std::size_t>(m.rows));
    std::iota(out.row.begin(), out.row.end(), 0);
    std::stable_sort(out.row.begin(), out.row.end(), [&](int a, int b) { return length(a) > length(b); });
    out.row.resize(static_cast<std::size_t>(out.slices) * lanes, -1);
    const auto per_lane = [&](const float* values, std::vector<float>& to) {
        for (const std::int32_t row : out.row) to.push_back(row < 0 ? 0.0f : values[row]);
    };
    if (m.scales != nullptr) per_lane(m.scales, out.scale);
    if (bias != nullptr) per_lane(bias, out.bias);

    const std::size_t bytes = m.type == ValueType::f32 ? 4 : m.type == ValueType::f16 ? 2 : 1;
    std::vector<std::int64_t> next(out.row.size());
    for (std::size_t i = 0; i < next.size(); ++i) next[i] = out.row[i] < 0 ? 0 : m.row_begin.data[out.row[i]];
    std::vector<std::int64_t> end(out.row.size());
    for (int panel = 0; panel < out.panels; ++panel) {
        const std::int64_t first = std::int64_t{panel} * panel_columns;
        const auto nothing = static_cast<std::uint16_t>(out.panel_width(panel));
        for (int s = 0; s < out.slices; ++s) {
            std::int64_t steps = 0;
            for (int lane = 0; lane < lanes; ++lane) {
                const auto i = static_cast<std::size_t>(s * lanes + lane);
                end[i] = next[i];
                if (out.row[i] < 0) continue;
                const std::int64_t last = m.row_begin.data[out.row[i] + 1];
                while (end[i] < last && m.column.data[end[i]] < first + panel_columns) ++end[i];
                steps = std::max(steps, end[i] - next[i]);
            }
            const auto begin = static_cast<std::int64_t>(out.column.size() / lanes);
            out.slice.push_back({begin, static_cast<std::int32_t>(steps)});
            const std::size_t from = out.column.size();
            out.column.resize(from + static_cast<std::size_t>(steps) * lanes, nothing);
            out.values.resize((from + static_cast<std::size_t>(steps) * lanes) * bytes, 0);
            for (int lane = 0; lane < lanes; ++lane) {
                const auto i = static_cast<std::size_t>(s * lanes + lane);
                for (std::size_t to = from + static_cast<std::size_t>(lane); next[i] < end[i]; ++next[i], to += lanes) {
                    out.column[to] = static_cast<std::uint16_t>(m.column.data[next[i]] - first);
                    std::memcpy(out.values.data() + to * bytes,
                                static_cast<const unsigned char*>(m.values) + static_cast<std::size_t>(next[i]) * bytes,
                                bytes);
                }
            }
        }
    }
}

void Columns::build(const SparseMatrix& m, int parts, Columns& out) {
    out = Columns{};
    out.rows = m.rows;
    out.columns = m.columns;
    out.part_size = std::min((m.rows + parts - 1) / std::max(parts, 1), part_rows);
    out.parts = (m.rows + out.part_size - 1) / out.part_size;
    const auto width = static_cast<std::size_t>(m.columns) + 1;
    out.begin.assign(width * static_cast<std::size_t>(out.parts), 0);
    out.row.resize(m.column.size);
    out.values.resize(m.column.size);
    std::int64_t before = 0;
    std::vector<std::int64_t> next(width);
    for (int part = 0; part < out.parts; ++part) {
        std::int64_t* begin = out.begin.data() + width * static_cast<std::size_t>(part);
        const int top = part * out.part_size;
        const int bottom = std::min(m.rows, top + out.part_size);
        for (std::int64_t i = m.row_begin.data[top]; i < m.row_begin.data[bottom]; ++i) ++begin[m.column.data[i] + 1];
        begin[0] = before;
        for (std::size_t c = 1; c < width; ++c) begin[c] += begin[c - 1];
        before = begin[width - 1];
        std::copy(begin, begin + width, next.begin());
        for (int r = top; r < bottom; ++r) {
            for (std::int64_t i = m.row_begin.data[r]; i < m.row_begin.data[r + 1]; ++i) {
                const auto to = static_cast<std::size_t>(next[static_cast<std::size_t>(m.column.data[i])]++);
                out.row[to] = static_cast<std::uint16_t>(r - top);
                out.values[to] = value_at(m, r, i);
            }
        }
    }
}

}  // namespace isogrid
