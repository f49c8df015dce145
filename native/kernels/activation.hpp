// The activations on vectors. NaN comes out where NaN goes in.
//
// The polynomials and ratios are minimax fits made for these intervals (iteratively reweighted least squares,
// coefficients rounded to f32): in f32 each stays within 4e-7 of its function, relative to the larger of the result
// and 1.

// Horner's rule, coefficients from the constant one upwards.
template <int N>
inline Vec polynomial(Vec x, const float (&coefficients)[N]) {
    Vec sum = all(coefficients[N - 1]);
#pragma GCC unroll 16
    for (int i = N - 2; i >= 0; --i) sum = sum * x + all(coefficients[i]);
    return sum;
}

// exp(x) = 2^n exp(r), |r| <= ln(2) / 2; saturates at the ends of the normal numbers.
inline Vec exponential(Vec x) {
    constexpr float terms[] = {1.0f, 1.0f, 0.4999999106f, 0.1666641086f, 0.0416682884f, 0.0083756447f, 0.0013835802f};
    // Adding it leaves the nearest whole number in the lowest bits.
    constexpr float rounder = 12582912.0f;
    const Vec held = at_most(at_least(x, -87.0f), 88.0f);
    const Vec shifted = held * all(1.44269504f) + all(rounder);
    const Vec n = shifted - all(rounder);
    const Vec r = held - n * all(0.693145752f) - n * all(1.42860677e-6f);
    // Of NaN they are bits without a meaning, and what comes of them is not used.
    const Ints exponent = (reinterpret_cast<Ints>(shifted) - reinterpret_cast<Ints>(all(rounder))) << 23;
    const Vec scaled = reinterpret_cast<Vec>(add_bits(reinterpret_cast<Ints>(polynomial(r, terms)), exponent));
    return choose(x == x, scaled, x);
}

inline Vec logistic(Vec x) {
    return all(1.0f) / (all(1.0f) + exponential(-x));
}

// 1 with the sign of x.
inline Vec sign(Vec x) {
    return reinterpret_cast<Vec>((reinterpret_cast<Ints>(x) & ~all_ints(0x7fffffff)) |
                                 reinterpret_cast<Ints>(all(1.0f)));
}

// Both are odd and flat at the end: x P(x^2) / Q(x^2) up to where f32 cannot tell them from 1, no exponential needed.
// From there on exactly 1: what is left of it is multiplied with x in GELU.
template <int P, int Q>
inline Vec odd_ratio(Vec x, float end, const float (&above)[P], const float (&below)[Q]) {
    const Vec square = x * x;
    const Vec ratio = at_most(at_least(x * polynomial(square, above) / polynomial(square, below), -1.0f), 1.0f);
    return choose(magnitude(x) >= all(end), sign(x), ratio);
}

inline Vec hyperbolic_tangent(Vec x) {
    constexpr float above[] = {1.0f, 0.136763275f, 0.00386390835f, 2.79228625e-05f, 3.03996757e-08f, -1.20821218e-11f};
    constexpr float below[] = {1.0f, 0.470096588f, 0.0272294674f, 0.000393100287f, 1.28169813e-06f};
    return odd_ratio(x, 9.0f, above, below);
}

inline Vec error_function(Vec x) {
    constexpr float above[] = {1.12837875f,     0.206093699f,     0.0513944775f,  0.00397190545f,
                               0.000148954512f, -1.99400802e-06f, 1.99190886e-08f};
    constexpr float below[] = {1.0f, 0.515974581f, 0.117555976f, 0.0148873571f, 0.00102385494f};
    return odd_ratio(x, 3.92f, above, below);
}

struct Identity {
    Vec operator()(Vec x) const { return x; }
};
struct Relu {
    Vec operator()(Vec x) const { return at_least(x, 0.0f); }
};
struct Clip {
    float low, high;
    Vec operator()(Vec x) const { return at_most(at_least(x, low), high); }
};
struct LeakyRelu {
    float slope;
    Vec operator()(Vec x) const { return choose(x > all(0.0f), x, x * all(slope)); }
};
struct Gelu {
    Vec operator()(Vec x) const { return all(0.5f) * x * (all(1.0f) + error_function(x * all(0.707106781f))); }
};
struct GeluTanh {
    Vec operator()(Vec x) const {
        const Vec inner = all(0.797884561f) * (x + all(0.044715f) * x * x * x);
        return all(0.5f) * x * (all(1.0f) + hyperbolic_tangent(inner));
    }
};
struct Silu {
    Vec operator()(Vec x) const { return x * logistic(x); }
};
struct HardSigmoid {
    Vec operator()(Vec x) const { return at_most(at_least(x + all(3.0f), 0.0f), 6.0f) * all(1.0f / 6.0f); }
};
struct HardSwish {
    Vec operator()(Vec x) const { return x * HardSigmoid{}(x); }
};
struct Sigmoid {
    Vec operator()(Vec x) const { return logistic(x); }
};
struct Tanh {
    Vec operator()(Vec x) const { return hyperbolic_tangent(x); }
};
struct SparseRelu {
    float threshold;
    Vec operator()(Vec x) const { return choose(x <= all(threshold), Vec{}, x); }
};
struct SparseTanh {
    float threshold;
    Vec operator()(Vec x) const { return choose(magnitude(x) <= all(threshold), Vec{}, hyperbolic_tangent(x)); }
};

// Calls `body` with the function object of an activation, so that loops are compiled once for each of them.
template <class Body>
inline void with_activation(const Epilogue& epilogue, const Body& body) {
    switch (epilogue.activation) {
        case Activation::none:
            return body(Identity{});
        case Activation::relu:
            return body(Relu{});
        case Activation::clip:
            return body(Clip{epilogue.low, epilogue.high});
        case Activation::leaky_relu:
            return body(LeakyRelu{epilogue.low});
        case Activation::gelu:
            return body(Gelu{});
        case Activation::gelu_tanh:
            return body(GeluTanh{});
        case Activation::silu:
            return body(Silu{});
        case Activation::hard_swish:
            return body(HardSwish{});
        case Activation::hard_sigmoid:
            return body(HardSigmoid{});
        case Activation::sigmoid:
            return body(Sigmoid{});
        case Activation::tanh:
            return body(Tanh{});
        case Activation::sparse_relu:
            return body(SparseRelu{epilogue.low});
        case Activation::sparse_tanh:
            return body(SparseTanh{epilogue.low});
    }
}

// The first `count` floats at p, fewer than a vector, zero behind them.
inline Vec load_part(const float* p, int count) {
    float buffer[width] = {};
    for (int i = 0; i < count; ++i) buffer[i] = p[i];
    return load(buffer);
}

inline void store_part(float* p, Vec v, int count) {
    float buffer[width];
    store(buffer, v);
    for (int i = 0; i < count; ++i) p[i] = buffer[i];
}

void activate(float* x, std::size_t size, const Epilogue& epilogue) {
    with_activation(epilogue, [=](auto f) {
        std::size_t i = 0;
        for (; i + width <= size; i += width) store(x + i, f(load(x + i)));
        if (i < size) store_part(x + i, f(load_part(x + i, static_cast<int>(size - i))), static_cast<int>(size - i));
    });
}
