// What the operations must compute, in plain scalar double code, and how far from it they may be.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "isogrid/convolution.hpp"
#include "isogrid/epilogue.hpp"
#include "matrices.hpp"

namespace isogrid::tests {

inline double activated(const Epilogue& e, double x) {
    if (std::isnan(x)) return x;
    const double low = static_cast<double>(e.low);
    const double high = static_cast<double>(e.high);
    const double gate = std::min(std::max(x + 3.0, 0.0), 6.0) / 6.0;
    switch (e.activation) {
        case Activation::none:
            return x;
        case Activation::relu:
            return std::max(x, 0.0);
        case Activation::clip:
            return std::min(std::max(x, low), high);
        case Activation::leaky_relu:
            return x > 0.0 ? x : low * x;
        case Activation::gelu:
            return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
        case Activation::gelu_tanh:
            return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
        case Activation::silu:
            return x / (1.0 + std::exp(-x));
        case Activation::hard_swish:
            return x * gate;
        case Activation::hard_sigmoid:
            return gate;
        case Activation::sigmoid:
            return 1.0 / (1.0 + std::exp(-x));
        case Activation::tanh:
            return std::tanh(x);
        case Activation::sparse_relu:
            return x > low ? x : 0.0;
        case Activation::sparse_tanh:
            return std::abs(x) > low ? std::tanh(x) : 0.0;
    }
    return std::nan("");
}

inline bool is_exact(Activation activation) {
    return activation == Activation::none || activation == Activation::relu || activation == Activation::clip ||
           activation == Activation::leaky_relu || activation == Activation::sparse_relu;
}

// Every activation, with bounds that whole numbers lie on and on either side of.
inline std::vector<Epilogue> epilogues() {
    std::vector<Epilogue> all;
    for (int a = 0; a < activation_count; ++a) {
        const auto activation = static_cast<Activation>(a);
        // A slope that is a power of two keeps exact what is exact.
        const float low = activation == Activation::clip ? -3.0f : activation == Activation::leaky_relu ? 0.25f : 2.0f;
        all.push_back({nullptr, activation, low, 6.0f});
    }
    return all;
}

// Results before the activation, and the sum of the magnitudes of all that went into each of them.
struct Expected {
    std::vector<double> sum;
    std::vector<double> magnitude;

    explicit Expected(std::size_t size) : sum(size, 0.0), magnitude(size, 0.0) {}

    void add(std::size_t at, double term) {
        sum[at] += term;
        magnitude[at] += std::abs(term);
    }
};

inline std::string at_place(std::size_t place, double got, double right) {
    char text[100];
    std::snprintf(text, sizeof text, "place %zu is %.9g and should be %.9g", place, got, right);
    return text;
}

// What no kernel computes: where it is found afterwards, nothing was written.
constexpr float untouched = 12345.25f;

// Empty if both hold the same, NaN being the same as NaN; otherwise the first place that differs.
inline std::string differs(const Floats& got, const Floats& right) {
    if (got.size() != right.size()) return "there are " + std::to_string(got.size()) + " floats";
    for (std::size_t i = 0; i < got.size(); ++i) {
        if (got[i] == right[i] || (std::isnan(got[i]) && std::isnan(right[i]))) continue;
        return at_place(i, static_cast<double>(got[i]), static_cast<double>(right[i]));
    }
    return "";
}

inline bool is_near(double got, double right, double tolerance) {
    // Covers infinities, which have no distance.
    return std::isnan(right) ? std::isnan(got) : got == right || std::abs(got - right) <= tolerance;
}

// Empty if all results are right; otherwise the first that is not. Whole numbers must come out exactly where the
// activation lets them.
inline std::string difference(const Floats& got, const Expected& expected, const Epilogue& e, Numbers numbers) {
    if (got.size() != expected.sum.size()) return "there are " + std::to_string(got.size()) + " results";
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double y = static_cast<double>(got[i]);
        const double sum = expected.sum[i];
        const double right = activated(e, sum);
        bool good = false;
        if (numbers == Numbers::whole) {
            // 4e-7 for the fits, as activation.hpp says, of numbers that the activation may multiply with `sum`.
            good = is_near(y, right, is_exact(e.activation) ? 0.0 : 4e-7 * std::max(1.0, std::abs(sum)));
        } else {
            const double tolerance = 1e-5 * expected.magnitude[i] + 1e-6;
            // The sparse activations jump; a sum beside the threshold may fall on either side of it.
            good = is_near(y, right, tolerance) || is_near(y, activated(e, sum - tolerance), tolerance) ||
                   is_near(y, activated(e, sum + tolerance), tolerance);
        }
        if (!good) return at_place(i, y, right);
    }
    return "";
}

// Bias (one a row) and residual (one a result), where there are any. `row_of` is the row of a result.
template <class RowOf>
void add_rest(Expected& expected, const Floats& bias, const Floats& residual, const RowOf& row_of) {
    for (std::size_t i = 0; i < expected.sum.size(); ++i) {
        if (!bias.empty()) expected.add(i, static_cast<double>(bias[row_of(i)]));
        if (!residual.empty()) expected.add(i, static_cast<double>(residual[i]));
    }
}

inline Expected linear_reference(const Weights& weights, const Floats& x, const Floats& bias, const Floats& residual) {
    const auto rows = static_cast<std::size_t>(weights.rows);
    const auto columns = static_cast<std::size_t>(weights.columns);
    const std::size_t tokens = x.size() / columns;
    Expected expected(tokens * rows);
    weights.each([&](std::int32_t row, std::int32_t column, double value) {
        for (std::size_t t = 0; t < tokens; ++t) {
            expected.add(t * rows + static_cast<std::size_t>(row),
                         value * static_cast<double>(x[t * columns + static_cast<std::size_t>(column)]));
        }
    });
    add_rest(expected, bias, residual, [=](std::size_t i) { return i % rows; });
    return expected;
}

// The textbook's sizes: PyTorch, torch.nn.Conv2d, "Shape". 0 or less where the kernel does not fit.
inline int output_length(int size, int before, int behind, int taps, int stride, int dilation) {
    const int room = size + before + behind - dilation * (taps - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
}

// A convolution of images of one size: `shape` with its height and width.
struct Images {
    ConvolutionShape shape;
    int groups;
    int rows;
    int images;

    int out_height() const {
        return output_length(shape.height, shape.pad_top, shape.pad_bottom, shape.kernel_height, shape.stride_y,
                             shape.dilation_y);
    }
    int out_width() const {
        return output_length(shape.width, shape.pad_left, shape.pad_right, shape.kernel_width, shape.stride_x,
                             shape.dilation_x);
    }
    std::size_t inputs() const { return volume(groups * shape.channels, shape.height, shape.width); }
    std::size_t outputs() const { return volume(rows, out_height(), out_width()); }
    std::size_t volume(int planes, int height, int width) const {
        return static_cast<std::size_t>(images) * static_cast<std::size_t>(planes) * static_cast<std::size_t>(height) *
               static_cast<std::size_t>(width);
    }

    // Calls body(output, input, value) for every product of a weight and an input that is not padding.
    template <class Body>
    void each(const Weights& weights, const Body& body) const {
        const ConvolutionShape& s = shape;
        const int taps = s.kernel_height * s.kernel_width;
        weights.each([&](std::int32_t row, std::int32_t column, double value) {
            const int channel = row / (rows / groups) * s.channels + column / taps;
            const int dy = column % taps / s.kernel_width;
            const int dx = column % s.kernel_width;
            for (int image = 0; image < images; ++image) {
                for (int oy = 0; oy < out_height(); ++oy) {
                    const int iy = oy * s.stride_y + dy * s.dilation_y - s.pad_top;
                    if (iy < 0 || iy >= s.height) continue;
                    for (int ox = 0; ox < out_width(); ++ox) {
                        const int ix = ox * s.stride_x + dx * s.dilation_x - s.pad_left;
                        if (ix < 0 || ix >= s.width) continue;
                        const int out = ((image * rows + row) * out_height() + oy) * out_width() + ox;
                        const int in = ((image * groups * s.channels + channel) * s.height + iy) * s.width + ix;
                        body(static_cast<std::size_t>(out), static_cast<std::size_t>(in), value);
                    }
                }
            }
        });
    }
};

inline Expected convolution_reference(const Weights& weights, const Images& images, const Floats& x, const Floats& bias,
                                      const Floats& residual) {
    Expected expected(images.outputs());
    images.each(weights, [&](std::size_t out, std::size_t in, double value) {
        expected.add(out, value * static_cast<double>(x[in]));
    });
    const auto plane = static_cast<std::size_t>(images.out_height() * images.out_width());
    const auto rows = static_cast<std::size_t>(images.rows);
    add_rest(expected, bias, residual, [=](std::size_t i) { return i / plane % rows; });
    return expected;
}

}  // namespace isogrid::tests
