// Two-dimensional convolution (in the sense of neural networks: correlation) of NCHW images with sparse weights.
#pragma once

#include <cstdint>

#include "isogrid/epilogue.hpp"
#include "isogrid/executor.hpp"
#include "isogrid/matrix.hpp"
#include "isogrid/status.hpp"

namespace isogrid {

// `channels` are those of one group.
struct ConvolutionShape {
    int channels;
    int height, width;
    int kernel_height, kernel_width;
    int stride_y, stride_x;
    int pad_top, pad_left, pad_bottom, pad_right;
    int dilation_y, dilation_x;
};

// Weights and everything about them that does not depend on the image. Thread-safe: layouts are made when an image size
// is first met, and any number of threads may run one operation.
class Convolution {
  public:
    // The matrix has a row for each output channel, group after group, and columns in the order channel of the group,
    // kernel row, kernel column. The epilogue's bias is copied. On success `*out` owns the operation.
    static Status create(const SparseMatrix& weights, int groups, const ConvolutionShape& shape,
                         const Epilogue& epilogue, Convolution** out) noexcept;
    static void destroy(Convolution* operation) noexcept;

    // Height and width of what images of this size give.
    Status output_size(int height, int width, int* out_height, int* out_width) const noexcept;

    // x: [images][groups * channels][height][width]; y and `residual` (may be null):
    // [images][rows][out_height][out_width].
    Status run(const Executor& executor, const float* x, std::int64_t images, int height, int width,
               const float* residual, float* y) noexcept;

  private:
    Convolution() = default;
    ~Convolution();
    struct State;
    State* state_ = nullptr;
};

}  // namespace isogrid
