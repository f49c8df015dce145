// The one-sample layout: rows sorted by their number of nonzeros and taken eight at a time, the nonzeros of the eight
// interleaved, so that one vector holds a nonzero of each. Shorter rows are filled up with a weight of zero that points
// to a zero behind the activations: one that pointed to a real activation would make NaN of an infinite one.
//
// Where most nonzeros of four neighbouring rows stand in the same columns, these are kept apart from the others: a
// slice of them is two such quads, and has a column for each of them only.
#pragma once

#include <cstdint>
#include <vector>

#include "isogrid/matrix.hpp"
#include "kernels/table.hpp"

namespace isogrid {

struct Slices {
    // Columns are cut into panels that 16 bits can tell apart, one place being kept for the zero.
    static constexpr int panel_columns = 65535;

    int rows = 0;
    int columns = 0;
    int panels = 0;
    int slices = 0;
    ValueType type = ValueType::f32;
    // Entries of one kind; the lanes of all kinds are the same rows.
    struct Entries {
        std::vector<Slice> slice;  // [panel][slice]; none where the kind has no entries
        std::vector<std::uint16_t> column;
        std::vector<unsigned char> values;
    };
    Entries quads;
    Entries single;
    std::vector<std::int32_t> row;  // of each lane of each slice; -1 where there is none
    std::vector<float> scale;       // likewise; empty unless int8
    std::vector<float> bias;        // likewise; empty without one

    // `matrix` has passed `check`. Throws std::bad_alloc.
    static void build(const SparseMatrix& matrix, const float* bias, Slices& out);

    int panel_width(int panel) const { return panel + 1 < panels ? panel_columns : columns - panel * panel_columns; }
};

// The layout that profits from zeros among the activations: columns, cut where 16 bits no longer tell rows apart.
struct Columns {
    static constexpr int part_rows = 65536;

    int rows = 0;
    int columns = 0;
    int parts = 0;
    int part_size = 0;
    std::vector<std::int64_t> begin;  // [part][columns + 1]
    std::vector<std::uint16_t> row;   // in its part
    std::vector<float> values;

    // At least `parts` parts, so that as many threads have something to do. Throws std::bad_alloc.
    static void build(const SparseMatrix& matrix, int parts, Columns& out);
};

}  // namespace isogrid
