// The activations on vectors. NaN comes out where NaN goes in.
//
// Polynomials are minimax fits made for these intervals (Lawson's iteration on Chebyshev nodes, coefficients rounded to
// f32): each stays within 2e-7 of its function, relative to the larger of the result and 1.

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
    const Ints exponent = (reinterpret_cast<Ints>(shifted) - reinterpret_cast<Ints>(all(rounder))) << 23;
    const Vec scaled = reinterpret_cast<Vec>(reinterpret_cast<Ints>(polynomial(r, terms)) + exponent);
    return choose(x == x, scaled, x);
}

inline Vec logistic(Vec x) {
    return all(1.0f) / (all(1.0f) + exponential(-x));
}

inline Vec hyperbolic_tangent(Vec x) {
    constexpr float near_zero[] = {1.0f, -0.333333333f, 0.133333333f, -0.0539682540f, 0.0218694885f};
    const Vec size = magnitude(x);
    const Vec far = all(1.0f) - all(2.0f) / (exponential(size + size) + all(1.0f));
    const Vec near = size * polynomial(x * x, near_zero);
    return with_sign_of(choose(size < all(0.25f), near, far), x);
}

// Below 1 a polynomial in x^2; above, 1 - exp(-x^2) times a polynomial in 1 / (1 + x).
inline Vec error_function(Vec x) {
    constexpr float below[] = {1.12837911f,    -0.37612626f,     0.112836003f,   -0.0268544443f,
                               0.00518953567f, -0.000802084222f, 7.88912294e-05f};
    constexpr float above[] = {-0.000108012107f, 0.566780627f,  0.53874743f, 0.408865094f,
                               -0.577456772f,    -0.706171036f, 1.38350332f, -0.63386482f};
    const Vec size = magnitude(x);
    const Vec near = size * polynomial(x * x, below);
    const Vec held = at_most(size, 4.0f);
    const Vec far = all(1.0f) - exponential(-held * held) * polynomial(all(1.0f) / (all(1.0f) + held), above);
    return with_sign_of(choose(size < all(1.0f), near, far), x);
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
