#include "layout/slices.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "layout/blocks.hpp"

namespace isogrid {
namespace {

constexpr int lanes = 8;

// Appends the entries that `belongs` names, in the order of the rows that `out` has, `together` lanes to a column.
template <class Belongs>
void add_entries(const SparseMatrix& m, const Slices& layout, std::size_t together, const Belongs& belongs,
                 Slices::Entries& out) {
    const std::size_t bytes = m.type == ValueType::f32 ? 4 : m.type == ValueType::f16 ? 2 : 1;
    std::vector<std::int64_t> next(layout.row.size());
    for (std::size_t i = 0; i < next.size(); ++i) next[i] = layout.row[i] < 0 ? 0 : m.row_begin.data[layout.row[i]];
    std::vector<std::int64_t> end(layout.row.size());
    for (int panel = 0; panel < layout.panels; ++panel) {
        const std::int64_t first = std::int64_t{panel} * Slices::panel_columns;
        const auto nothing = static_cast<std::uint16_t>(layout.panel_width(panel));
        for (int s = 0; s < layout.slices; ++s) {
            std::int64_t steps = 0;
            for (int lane = 0; lane < lanes; ++lane) {
                const auto i = static_cast<std::size_t>(s * lanes + lane);
                end[i] = next[i];
                if (layout.row[i] < 0) continue;
                const std::int64_t last = m.row_begin.data[layout.row[i] + 1];
                std::int64_t here = 0;
                for (; end[i] < last && m.column.data[end[i]] < first + Slices::panel_columns; ++end[i]) {
                    here += belongs(end[i]) ? 1 : 0;
                }
                steps = std::max(steps, here);
            }
            const std::size_t from = out.values.size() / bytes;
            out.slice.push_back({static_cast<std::int64_t>(from / lanes), static_cast<std::int32_t>(steps)});
            const std::size_t size = from + static_cast<std::size_t>(steps) * lanes;
            out.values.resize(size * bytes, 0);
            out.column.resize(size / together, nothing);
            for (int lane = 0; lane < lanes; ++lane) {
                const auto i = static_cast<std::size_t>(s * lanes + lane);
                std::size_t to = from + static_cast<std::size_t>(lane);
                for (; next[i] < end[i]; ++next[i]) {
                    if (!belongs(next[i])) continue;
                    out.column[to / together] = static_cast<std::uint16_t>(m.column.data[next[i]] - first);
                    std::memcpy(out.values.data() + to * bytes,
                                static_cast<const unsigned char*>(m.values) + static_cast<std::size_t>(next[i]) * bytes,
                                bytes);
                    to += lanes;
                }
            }
        }
    }
}

}  // namespace

void Slices::build(const SparseMatrix& m, const float* bias, Slices& out) {
    out = Slices{};
    out.rows = m.rows;
    out.columns = m.columns;
    out.panels = (m.columns + panel_columns - 1) / panel_columns;
    out.slices = (m.rows + lanes - 1) / lanes;
    out.type = m.type;
    const std::vector<bool> shared = find_quads(m, 0, m.rows);
    const auto is_quad = [&](std::int64_t entry) { return !shared.empty() && shared[static_cast<std::size_t>(entry)]; };
    // By the entries of the first kind; the rows of a quad have one length in it, and stay together.
    std::vector<std::int64_t> length(static_cast<std::size_t>(m.rows));
    std::int64_t quads = 0;
    for (std::int32_t r = 0; r < m.rows; ++r) {
        std::int64_t& n = length[static_cast<std::size_t>(r)];
        for (std::int64_t i = m.row_begin.data[r]; i < m.row_begin.data[r + 1]; ++i) n += is_quad(i) ? 1 : 0;
        quads += n;
        if (shared.empty()) n = m.row_begin.data[r + 1] - m.row_begin.data[r];
    }
    out.row.resize(static_cast<std::size_t>(m.rows));
    std::iota(out.row.begin(), out.row.end(), 0);
    std::stable_sort(out.row.begin(), out.row.end(), [&](int a, int b) {
        return length[static_cast<std::size_t>(a)] > length[static_cast<std::size_t>(b)];
    });
    out.row.resize(static_cast<std::size_t>(out.slices) * lanes, -1);
    const auto per_lane = [&](const float* values, std::vector<float>& to) {
        for (const std::int32_t row : out.row) to.push_back(row < 0 ? 0.0f : values[row]);
    };
    if (m.scales != nullptr) per_lane(m.scales, out.scale);
    if (bias != nullptr) per_lane(bias, out.bias);

    const auto entries = static_cast<std::int64_t>(m.column.size);
    if (quads > 0) add_entries(m, out, 4, is_quad, out.quads);
    if (quads < entries || entries == 0) {
        add_entries(m, out, 1, [&](std::int64_t entry) { return !is_quad(entry); }, out.single);
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
