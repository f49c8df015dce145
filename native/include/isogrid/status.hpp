// How the core reports failure: a value, never an exception, because the hosts that call it (Python, ONNX Runtime, C)
// each have their own way to raise.
#pragma once

namespace isogrid {

enum class Status {
    ok,
    size_out_of_range,
    count_out_of_range,
    positions_not_ascending,
    positions_changed,
    parameter_missing,
    parameter_too_large,
    truncated,
    trailing_data,
    position_out_of_range,
    wrong_length,
    wrong_count,
    null_pointer,
    misaligned_pointer,
    out_of_memory,
    shape_out_of_range,
    wrong_shape,
    wrong_row_begin,
    columns_not_ascending,
    unknown_type,
    wrong_scales,
    unknown_activation,
    kernel_larger_than_image,
    window_too_large,
    unknown_target,
    unknown_cell,
    mixed_types,
    wrong_batch_sizes,
    index_out_of_range,
    no_packed_header,
    unknown_packed_version,
    unknown_packing,
    packed_too_short,
    packed_too_long,
    too_many_empty_rows,
    wrong_scale,
    wrong_code,
    value_not_finite,
    stored_zero,
    wrong_nonzeros,
    not_a_table,
};

// One English sentence without a full stop, for the host's own exception. Static storage.
const char* message(Status status) noexcept;

}  // namespace isogrid
