// Maximum over windows of NCHW images: what stands between convolutions.
#pragma once

#include <cstdint>

#include "isogrid/convolution.hpp"

namespace isogrid {

// x: [planes][shape.height][shape.width]; y: [planes] of the size that a convolution of this shape gives.
// `shape.channels` does not matter. Padding is smaller than everything, as in PyTorch; NaN is larger.
Status max_pool(const Executor& executor, const ConvolutionShape& shape, const float* x, std::int64_t planes,
                float* y) noexcept;

// Height and width of the result.
Status output_size(const ConvolutionShape& shape, int* out_height, int* out_width) noexcept;

}  // namespace isogrid
