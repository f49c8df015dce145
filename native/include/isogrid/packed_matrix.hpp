// Packed weights: one sparse matrix as the bytes of an initializer of an ONNX file.
//
// Format. It is a file format: it must never change and is the same on every machine. Numbers are little-endian.
//
//   offset  type     what
//        0  8 bytes  "isogrid" and the version of this layout, the byte 1
//        8  u8       values: 0 float32, 1 float16, 2 int8
//        9  u8       positions: 0 Rice, 1 bitmap, 2 dense
//       10  u16      0
//       12  u32      rows, 1 to 2^28
//       16  u32      columns, 1 to 2^28; rows times columns at most 2^40
//       20  u32      0
//       24  u64      nonzeros
//       32           without gaps: scales, positions, values
//
// Scales are there for int8 alone: of each row the upper three bytes of a float32 whose lowest byte is zero. Positions
// are what `rice_encode` or `bitmap_encode` gives for the places of the nonzeros in C order, or nothing where zeros are
// stored too (dense). Values are those of the nonzeros in C order, of all places for dense.
#pragma once

#include <cstdint>
#include <vector>

#include "isogrid/embedding.hpp"
#include "isogrid/matrix.hpp"
#include "isogrid/status.hpp"
#include "isogrid/views.hpp"

namespace isogrid {

enum class Places { rice, bitmap, dense };

struct PackedHeader {
    std::int32_t rows;
    std::int32_t columns;
    ValueType type;
    Places places;
    std::int64_t nonzeros;
};

// Reads the header and refuses, in constant time, data that cannot be what it announces.
Status packed_header(Bytes data, PackedHeader* out) noexcept;

// A matrix that was packed. Nothing larger than a small multiple of the data is allocated, and nothing before what the
// data claim was checked.
class PackedMatrix {
  public:
    // Zeros that were stored (dense) are left out. `*out` is unspecified after a failure.
    static Status read(Bytes data, PackedMatrix* out) noexcept;
    // Valid as long as this object.
    SparseMatrix view() const noexcept;

  private:
    std::int32_t rows_ = 0;
    std::int32_t columns_ = 0;
    ValueType type_ = ValueType::f32;
    std::vector<std::int64_t> row_begin_;
    std::vector<std::int32_t> column_;
    std::vector<unsigned char> values_;
    std::vector<float> scales_;
};

// The other way to look at int8 values that were stored dense: zeros and all, for an embedding.
class PackedTable {
  public:
    // Status::not_a_table unless the data are of that kind.
    static Status read(Bytes data, PackedTable* out) noexcept;
    // Valid as long as this object and the data.
    CodedRows view() const noexcept;

  private:
    std::int32_t rows_ = 0;
    std::int32_t columns_ = 0;
    View<const std::int8_t> codes_{nullptr, 0};
    std::vector<float> scales_;
};

}  // namespace isogrid
