#include "isogrid/status.hpp"

namespace isogrid {

const char* message(Status status) noexcept {
    switch (status) {
        case Status::ok:
            return "no error";
        case Status::size_out_of_range:
            return "size must lie in [0, 2**48]";
        case Status::count_out_of_range:
            return "count must lie in [0, size]";
        case Status::positions_not_ascending:
            return "positions must be strictly ascending and lie in [0, size)";
        case Status::positions_changed:
            return "positions were changed while they were being encoded";
        case Status::parameter_missing:
            return "data is empty, its first byte must be the Rice parameter";
        case Status::parameter_too_large:
            return "the Rice parameter in the first byte must be at most 48";
        case Status::truncated:
            return "data ends before the last of the positions";
        case Status::trailing_data:
            return "data goes on after the last of the positions";
        case Status::position_out_of_range:
            return "data holds a position outside [0, size)";
        case Status::wrong_length:
            return "a bitmap must have exactly (size + 7) // 8 bytes";
        case Status::wrong_count:
            return "the bitmap's number of set bits is not count";
        case Status::null_pointer:
            return "a pointer is null where there must be data";
        case Status::misaligned_pointer:
            return "a pointer must be a multiple of the size of the numbers that it points to";
        case Status::out_of_memory:
            return "there is not enough memory";
        case Status::shape_out_of_range:
            return "a size is zero, negative or too large";
        case Status::wrong_shape:
            return "the sizes do not agree with the number of rows and columns of the weights";
        case Status::wrong_row_begin:
            return "row_begin must have rows + 1 entries that rise from 0 to the number of nonzeros";
        case Status::columns_not_ascending:
            return "the columns of a row must be strictly ascending and lie in [0, columns)";
        case Status::unknown_type:
            return "values must be f32, f16 or int8";
        case Status::wrong_scales:
            return "scales belong to int8 values, and to these alone";
        case Status::unknown_activation:
            return "there is no such activation";
        case Status::kernel_larger_than_image:
            return "the kernel does not fit into the padded image";
        case Status::window_too_large:
            return "the kernel's reach over so wide an image is too large for the sparse layout";
        case Status::unknown_target:
            return "this processor cannot run that target, or there is no such target";
        case Status::unknown_cell:
            return "the cell of a recurrent layer must be LSTM or GRU";
        case Status::mixed_types:
            return "both matrices of a recurrent layer must have values of the same type";
        case Status::wrong_batch_sizes:
            return "batch sizes must begin with the number of samples, never rise, and be at least 1";
        case Status::index_out_of_range:
            return "an index does not lie in [0, rows of the table)";
        case Status::no_packed_header:
            return "packed weights must begin with the 32 bytes of their header, and these with 'isogrid'";
        case Status::unknown_packed_version:
            return "the version of the packed weights is not 1";
        case Status::unknown_packing:
            return "the packed weights say that they hold numbers or positions of an unknown kind";
        case Status::packed_too_short:
            return "the packed weights are shorter than their header says";
        case Status::packed_too_long:
            return "the packed weights are longer than their header says";
        case Status::too_many_empty_rows:
            return "packed weights of more than 2**20 rows must have a byte for each 64 of them";
        case Status::wrong_scale:
            return "a scale is not a finite positive number of at least 2**-126";
        case Status::wrong_code:
            return "an int8 value is -128, and codes go from -127 to 127";
        case Status::value_not_finite:
            return "a stored value is not finite";
        case Status::stored_zero:
            return "a stored value is zero, and only nonzeros are stored";
        case Status::wrong_nonzeros:
            return "the number of nonzeros is not the one that the header says";
        case Status::not_a_table:
            return "the packed weights are not int8 values that are stored dense";
    }
    return "unknown status";
}

}  // namespace isogrid
