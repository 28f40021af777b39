// Exact MAML in C++17, written from `tinymaml oracle spec` alone.
//
//     g++ -std=c++17 -O2 client.cpp -o client && tinymaml oracle check -- ./client
//     tinymaml oracle check -- ./client --first-order        leaves the second derivatives out, and is refused
//
// Gradients are backpropagation by hand, over any kind of number. Over dual numbers, θ + v ε, the same code gives
// g + H v ε, and so the product of the Hessian with v, of which the meta-gradient is made.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

using std::string;
using std::vector;

// ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────────

struct Json {
    enum Kind { Null, False, True, Number, String, List, Object } kind = Null;
    double number = 0;
    string text;           // as it is written, escapes included: strings are only compared and repeated
    vector<Json> items;
    vector<string> keys;   // of an object's items

    const Json* find(const string& key) const {
        auto at = std::find(keys.begin(), keys.end(), key);
        return at == keys.end() ? nullptr : &items[at - keys.begin()];
    }
    const Json& operator[](const string& key) const {
        if (const Json* found = find(key)) return *found;
        throw std::runtime_error("the field " + key + " is missing");
    }
};

class Parser {
    const char* at;

    void space() { while (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n') ++at; }
    bool next(char c) { space(); return *at == c ? (++at, true) : false; }
    void expect(char c) { if (!next(c)) throw std::runtime_error(string("the question is not JSON: wanted ") + c); }
    bool word(const char* w) { size_t n = strlen(w); return strncmp(at, w, n) == 0 ? (at += n, true) : false; }

    string text() {
        expect('"');
        const char* start = at;
        while (*at && *at != '"') at += *at == '\\' && at[1] ? 2 : 1;
        string out(start, at);
        expect('"');
        return out;
    }

public:
    explicit Parser(const string& line) : at(line.c_str()) {}

    Json value() {
        Json out;
        space();
        if (*at == '"') { out.kind = Json::String; out.text = text(); return out; }
        if (word("null")) return out;
        if (word("false")) { out.kind = Json::False; return out; }
        if (word("true")) { out.kind = Json::True; return out; }
        if (*at == '[' || *at == '{') {
            char close = *at++ == '[' ? ']' : '}';
            out.kind = close == ']' ? Json::List : Json::Object;
            if (next(close)) return out;
            do {
                if (close == '}') { space(); out.keys.push_back(text()); expect(':'); }
                out.items.push_back(value());
            } while (next(','));
            expect(close);
            return out;
        }
        char* end;
        out.kind = Json::Number;
        out.number = strtod(at, &end);
        if (end == at) throw std::runtime_error("the question is not JSON");
        at = end;
        return out;
    }
};

// ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

struct Dual {  // value + slope ε, ε² = 0
    double value, slope;
    Dual(double v = 0, double s = 0) : value(v), slope(s) {}
};
Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.slope + b.slope}; }
Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.slope - b.slope}; }
Dual operator*(Dual a, Dual b) { return {a.value * b.value, a.slope * b.value + a.value * b.slope}; }
Dual operator/(Dual a, Dual b) {
    double q = a.value / b.value;
    return {q, (a.slope - q * b.slope) / b.value};
}
Dual exp(Dual a) { double e = std::exp(a.value); return {e, e * a.slope}; }
Dual log(Dual a) { return {std::log(a.value), a.slope / a.value}; }
Dual log1p(Dual a) { return {std::log1p(a.value), a.slope / (1 + a.value)}; }
Dual sqrt(Dual a) { double r = std::sqrt(a.value); return {r, a.slope / (2 * r)}; }
Dual tanh(Dual a) { double y = std::tanh(a.value); return {y, (1 - y * y) * a.slope}; }
double value(Dual a) { return a.value; }
double value(double a) { return a; }
using std::exp; using std::log; using std::log1p; using std::sqrt; using std::tanh;

template <class T> struct Array {
    vector<int> shape;
    vector<T> data;  // row-major
    int size() const { return static_cast<int>(data.size()); }
    int last() const { return shape.back(); }
};

template <class T> Array<T> zeros(vector<int> shape) {
    size_t n = 1;
    for (int side : shape) n *= side;
    return {shape, vector<T>(n, T(0))};
}

template <class T> using Named = std::map<string, Array<T>>;

// A new array (or arrays by name) of f(a, b, …), element by element.
template <class F, class A, class... B> auto map(F f, const Array<A>& a, const Array<B>&... b) {
    Array<decltype(f(a.data[0], b.data[0]...))> out{a.shape, {}};
    for (int i = 0; i < a.size(); ++i) out.data.push_back(f(a.data[i], b.data[i]...));
    return out;
}
template <class F, class A, class... B> auto map(F f, const Named<A>& a, const Named<B>&... b) {
    Named<decltype(f(A(), B()...))> out;
    for (auto& [name, array] : a) out[name] = map(f, array, b.at(name)...);
    return out;
}

// ── layers: each puts its output in the place of x, and returns its pullback, g ↦ the cotangent of x ────────────────

template <class T> using Pullback = std::function<Array<T>(const Array<T>&)>;

// y[a] = Σ x[b] w[c] over the terms (a, b, c): a linear layer, or a convolution.
template <class T> Pullback<T> bilinear(Array<T>& x, vector<int> shape, const Array<T>& w, Array<T>& gw,
                                        vector<std::array<int, 3>> terms) {
    Array<T> in = x;
    x = zeros<T>(shape);
    for (auto [a, b, c] : terms) x.data[a] = x.data[a] + in.data[b] * w.data[c];
    return [in, &w, &gw, terms](const Array<T>& g) {
        Array<T> gx = zeros<T>(in.shape);
        for (auto [a, b, c] : terms) {
            gx.data[b] = gx.data[b] + g.data[a] * w.data[c];
            gw.data[c] = gw.data[c] + g.data[a] * in.data[b];
        }
        return gx;
    };
}

// y[a] = factor · Σ x[b] over the terms (a, b): a choice of elements, or their mean.
template <class T> Pullback<T> gather(Array<T>& x, vector<int> shape, vector<std::array<int, 2>> terms, double factor) {
    Array<T> in = x;
    x = zeros<T>(shape);
    for (auto [a, b] : terms) x.data[a] = x.data[a] + in.data[b] * T(factor);
    return [was = in.shape, terms, factor](const Array<T>& g) {
        Array<T> gx = zeros<T>(was);
        for (auto [a, b] : terms) gx.data[b] = gx.data[b] + g.data[a] * T(factor);
        return gx;
    };
}

// y = f(x) with the derivative slope(x, y), element by element.
template <class T, class F, class S> Pullback<T> elementwise(Array<T>& x, F f, S slope) {
    Array<T> y = map(f, x), slopes = map(slope, x, y);
    x = y;
    return [slopes](const Array<T>& g) { return map([](T a, T b) { return a * b; }, g, slopes); };
}

template <class T> Pullback<T> linear(Array<T>& x, const Array<T>& w, Array<T>& gw) {
    int n = x.shape[0], a = w.shape[0], b = w.shape[1];
    vector<std::array<int, 3>> terms;
    for (int i = 0; i < n; ++i)
        for (int j = 0; j < a; ++j)
            for (int k = 0; k < b; ++k) terms.push_back({i * b + k, i * a + j, j * b + k});
    return bilinear(x, {n, b}, w, gw, terms);
}

template <class T> Pullback<T> add(Array<T>& x, const Array<T>& bias, Array<T>& gbias) {
    int c = x.last();
    for (int i = 0; i < x.size(); ++i) x.data[i] = x.data[i] + bias.data[i % c];
    return [c, &gbias](const Array<T>& g) {
        for (int i = 0; i < g.size(); ++i) gbias.data[i % c] = gbias.data[i % c] + g.data[i];
        return g;
    };
}

struct Axis {  // one axis of a convolution: the length of the output, and zeros before the input
    int out, before;
    Axis(int size, int filter, int stride, const Json& padding) {
        int total;
        if (padding.kind == Json::Number) {
            before = static_cast<int>(padding.number);
            total = 2 * before;
        } else if (padding.text == "SAME") {
            total = std::max(((size + stride - 1) / stride - 1) * stride + filter - size, 0);
            before = total / 2;
        } else {
            before = total = 0;
        }
        out = (size + total - filter) / stride + 1;
    }
};

template <class T> Pullback<T> conv(Array<T>& x, const Array<T>& w, Array<T>& gw, int stride, const Json& padding) {
    int n = x.shape[0], rows = x.shape[1], columns = x.shape[2], c = x.shape[3];
    int h = w.shape[0], v = w.shape[1], o = w.shape[3];
    Axis down(rows, h, stride, padding), across(columns, v, stride, padding);
    vector<std::array<int, 3>> terms;
    for (int m = 0; m < n; ++m)
        for (int i = 0; i < down.out; ++i)
            for (int j = 0; j < across.out; ++j)
                for (int p = 0; p < h; ++p)
                    for (int q = 0; q < v; ++q) {
                        int r = i * stride + p - down.before, s = j * stride + q - across.before;
                        if (r < 0 || r >= rows || s < 0 || s >= columns) continue;
                        for (int a = 0; a < c; ++a)
                            for (int b = 0; b < o; ++b)
                                terms.push_back({((m * down.out + i) * across.out + j) * o + b,
                                                 ((m * rows + r) * columns + s) * c + a,
                                                 ((p * v + q) * c + a) * o + b});
                    }
    return bilinear(x, {n, down.out, across.out, o}, w, gw, terms);
}

template <class T> Pullback<T> batch_norm(Array<T>& x, const Array<T>& gamma, const Array<T>& beta, Array<T>& ggamma,
                                          Array<T>& gbeta) {
    int c = x.last(), n = x.size() / c;
    // The mean over all axes but the last, for each channel.
    auto mean = [c, n](const Array<T>& a) {
        vector<T> out(c, T(0));
        for (int i = 0; i < a.size(); ++i) out[i % c] = out[i % c] + a.data[i] / T(n);
        return out;
    };
    auto times = [](const Array<T>& a, const Array<T>& b) { return map([](T p, T q) { return p * q; }, a, b); };
    vector<T> centre = mean(x), inverse;
    for (int i = 0; i < x.size(); ++i) x.data[i] = x.data[i] - centre[i % c];
    for (T variance : mean(times(x, x))) inverse.push_back(T(1) / sqrt(variance + T(1.0 / 1024)));
    for (int i = 0; i < x.size(); ++i) x.data[i] = x.data[i] * inverse[i % c];
    Array<T> normal = x;
    for (int i = 0; i < x.size(); ++i) x.data[i] = x.data[i] * gamma.data[i % c] + beta.data[i % c];
    return [=, &gamma, &ggamma, &gbeta](const Array<T>& g) {
        vector<T> along = mean(times(g, normal)), average = mean(g);
        for (int k = 0; k < c; ++k) {
            ggamma.data[k] = ggamma.data[k] + along[k] * T(n);
            gbeta.data[k] = gbeta.data[k] + average[k] * T(n);
        }
        Array<T> gx = g;
        for (int i = 0; i < g.size(); ++i) {
            int k = i % c;
            gx.data[i] = gamma.data[k] * inverse[k] * (g.data[i] - average[k] - normal.data[i] * along[k]);
        }
        return gx;
    };
}

template <class T> Pullback<T> max_pool(Array<T>& x, int size) {
    int n = x.shape[0], rows = x.shape[1], columns = x.shape[2], c = x.shape[3];
    int h = rows / size, v = columns / size;
    vector<std::array<int, 2>> winners;
    for (int m = 0; m < n; ++m)
        for (int i = 0; i < h; ++i)
            for (int j = 0; j < v; ++j)
                for (int k = 0; k < c; ++k) {
                    int best = -1;
                    for (int p = 0; p < size; ++p)
                        for (int q = 0; q < size; ++q) {
                            int at = ((m * rows + i * size + p) * columns + j * size + q) * c + k;
                            if (best < 0 || value(x.data[at]) > value(x.data[best])) best = at;
                        }
                    winners.push_back({((m * h + i) * v + j) * c + k, best});
                }
    return gather(x, {n, h, v, c}, winners, 1);
}

template <class T> Pullback<T> spatial_mean(Array<T>& x) {
    int n = x.shape[0], cells = x.shape[1] * x.shape[2], c = x.shape[3];
    vector<std::array<int, 2>> terms;
    for (int i = 0; i < x.size(); ++i) terms.push_back({i / (cells * c) * c + i % c, i});
    return gather(x, {n, c}, terms, 1.0 / cells);
}

template <class T> T softplus(T x) { return value(x) > 0 ? x + log1p(exp(T(0) - x)) : log1p(exp(x)); }
template <class T> T sigmoid(T x) {
    return value(x) > 0 ? T(1) / (T(1) + exp(T(0) - x)) : exp(x) / (T(1) + exp(x));
}

// Σ_d x_d θ^d; x is data, so that nothing goes on to it.
template <class T> Pullback<T> polynomial(Array<T>& x, const Array<T>& theta, Array<T>& gtheta) {
    int n = x.shape[0], terms = x.shape[1];
    Array<T> y = zeros<T>({n}), slopes = y;
    for (int i = 0; i < n; ++i)
        for (int d = terms - 1; d >= 0; --d) {  // Horner's rule, for the value and the derivative
            slopes.data[i] = slopes.data[i] * theta.data[0] + y.data[i];
            y.data[i] = y.data[i] * theta.data[0] + x.data[i * terms + d];
        }
    x = y;
    return [slopes, &gtheta](const Array<T>& g) {
        for (int i = 0; i < g.size(); ++i) gtheta.data[0] = gtheta.data[0] + g.data[i] * slopes.data[i];
        return g;
    };
}

// ½ θᵀA θ − bᵀθ, x = [A b], A symmetric; its gradient is A θ − b.
template <class T> Pullback<T> quadratic(Array<T>& x, const Array<T>& theta, Array<T>& gtheta) {
    int n = x.shape[0], d = theta.size();
    Array<T> y = zeros<T>({n}), slopes = zeros<T>({n, d});
    for (int i = 0; i < n; ++i)
        for (int r = 0; r < d; ++r) {
            const T* row = &x.data[(i * d + r) * (d + 1)];
            T product = T(0);
            for (int s = 0; s < d; ++s) product = product + row[s] * theta.data[s];
            y.data[i] = y.data[i] + theta.data[r] * (product / T(2) - row[d]);
            slopes.data[i * d + r] = product - row[d];
        }
    x = y;
    return [slopes, d, &gtheta](const Array<T>& g) {
        for (int i = 0; i < slopes.size(); ++i)
            gtheta.data[i % d] = gtheta.data[i % d] + g.data[i / d] * slopes.data[i];
        return g;
    };
}

// [x φ]: φ behind every input.
template <class T> Pullback<T> context(Array<T>& x, const Array<T>& phi, Array<T>& gphi) {
    int a = x.last(), d = phi.size();
    Array<T> in = x;
    x.shape.back() = a + d;
    x = zeros<T>(x.shape);
    for (int i = 0; i < x.size(); ++i) {
        int row = i / (a + d), at = i % (a + d);
        x.data[i] = at < a ? in.data[row * a + at] : phi.data[at - a];
    }
    return [was = in.shape, a, d, &gphi](const Array<T>& g) {
        Array<T> gx = zeros<T>(was);
        for (int i = 0; i < g.size(); ++i) {
            int row = i / (a + d), at = i % (a + d);
            T& to = at < a ? gx.data[row * a + at] : gphi.data[at - a];
            to = to + g.data[i];
        }
        return gx;
    };
}

template <class T> vector<Pullback<T>> apply(const Json& layer, Array<T>& x, const Named<T>& params, Named<T>& grads) {
    const string& kind = layer["layer"].text;
    vector<string> names;
    if (const Json* given = layer.find("params"))
        for (const Json& name : given->items) names.push_back(name.text);
    auto p = [&](int i) -> const Array<T>& { return params.at(names.at(i)); };
    auto g = [&](int i) -> Array<T>& { return grads.at(names.at(i)); };
    auto whole = [&](const char* setting) { return static_cast<int>(layer[setting].number); };
    if (kind == "linear") {
        vector<Pullback<T>> both{linear(x, p(0), g(0))};
        if (names.size() > 1) both.push_back(add(x, p(1), g(1)));
        return both;
    }
    if (kind == "conv") return {conv(x, p(0), g(0), whole("stride"), layer["padding"])};
    if (kind == "batch_norm") return {batch_norm(x, p(0), p(1), g(0), g(1))};
    if (kind == "tanh") return {elementwise(x, [](T a) { return tanh(a); }, [](T, T y) { return T(1) - y * y; })};
    if (kind == "relu")
        return {elementwise(x, [](T a) { return value(a) > 0 ? a : T(0); },
                            [](T a, T) { return T(value(a) > 0 ? 1 : 0); })};
    if (kind == "softplus") return {elementwise(x, softplus<T>, [](T a, T) { return sigmoid(a); })};
    if (kind == "square") return {elementwise(x, [](T a) { return a * a; }, [](T a, T) { return T(2) * a; })};
    if (kind == "max_pool") return {max_pool(x, whole("size"))};
    if (kind == "spatial_mean") return {spatial_mean(x)};
    if (kind == "polynomial") return {polynomial(x, p(0), g(0))};
    if (kind == "quadratic") return {quadratic(x, p(0), g(0))};
    if (kind == "context") return {context(x, p(0), g(0))};
    if (kind == "flatten") {
        vector<int> was = x.shape;
        x.shape = {was[0], x.size() / was[0]};
        return {[was](Array<T> g) { g.shape = was; return g; }};
    }
    throw std::runtime_error("no layer " + kind + " here");
}

// ── losses: the value, and the cotangent of o ───────────────────────────────────────────────────────────────────────

template <class T> T loss_of(const string& kind, const Array<T>& o, const Array<double>& y, Array<T>& g) {
    int count = kind == "cross_entropy" ? o.shape[0] : o.size();
    T total = T(0);
    g = zeros<T>(o.shape);
    if (kind == "cross_entropy") {
        int classes = o.last();
        for (int i = 0; i < count; ++i) {
            const T* row = &o.data[i * classes];
            double most = value(row[0]);
            for (int k = 1; k < classes; ++k) most = std::max(most, value(row[k]));
            T sum = T(0);
            for (int k = 0; k < classes; ++k) sum = sum + exp(row[k] - T(most));
            int right = static_cast<int>(y.data[i]);
            total = total + log(sum) - (row[right] - T(most));
            for (int k = 0; k < classes; ++k)
                g.data[i * classes + k] = exp(row[k] - T(most)) / sum - T(k == right ? 1 : 0);
        }
    } else {
        for (int i = 0; i < count; ++i) {
            T a = o.data[i], off = kind == "mean" ? T(0) : a - T(y.data[i]);
            if (kind == "mse") { total = total + off * off; g.data[i] = T(2) * off; }
            else if (kind == "half_mse") { total = total + off * off / T(2); g.data[i] = off; }
            else if (kind == "mean") { total = total + a; g.data[i] = T(1); }
            else if (kind == "binary_cross_entropy") {
                total = total + softplus(a) - T(y.data[i]) * a;
                g.data[i] = sigmoid(a) - T(y.data[i]);
            } else throw std::runtime_error("no loss " + kind + " here");
        }
    }
    g = map([count](T a) { return a / T(count); }, g);
    return total / T(count);
}

// ── MAML ────────────────────────────────────────────────────────────────────────────────────────────────────────────

struct Batch { Array<double> x, y; };

template <class T> Named<T> gradient(const Json& model, const Named<T>& params, const Batch& batch, T& loss) {
    Named<T> grads;
    for (auto& [name, p] : params) grads[name] = zeros<T>(p.shape);
    Array<T> x = map([](double a) { return T(a); }, batch.x), g;
    vector<Pullback<T>> back;
    for (const Json& layer : model["layers"].items)
        for (auto& pullback : apply(layer, x, params, grads)) back.push_back(pullback);
    loss = loss_of(model["loss"].text, x, batch.y, g);
    for (auto pullback = back.rbegin(); pullback != back.rend(); ++pullback) g = (*pullback)(g);
    return grads;
}

// H v: the gradient at θ + v ε is g + H v ε.
Named<double> hessian_times(const Json& model, const Named<double>& theta, const Batch& batch, const Named<double>& v) {
    Dual loss;
    Named<Dual> moved = map([](double p, double s) { return Dual(p, s); }, theta, v);
    return map([](Dual g) { return g.slope; }, gradient(model, moved, batch, loss));
}

double bits(const string& digits) {  // an IEEE bit pattern in hex
    uint64_t pattern = strtoull(digits.c_str(), nullptr, 16);
    uint32_t half = static_cast<uint32_t>(pattern);
    double wide;
    float narrow;
    memcpy(&wide, &pattern, 8);
    memcpy(&narrow, &half, 4);
    return digits.size() == 8 ? narrow : wide;
}

Array<double> array(const Json& given) {
    Array<double> out;
    if (given.kind == Json::Object) {
        for (const Json& side : given["shape"].items) out.shape.push_back(static_cast<int>(side.number));
        if (const Json* numbers = given.find("int"))
            for (const Json& number : numbers->items) out.data.push_back(number.number);
        for (int width : {8, 16})
            if (const Json* digits = given.find(width == 8 ? "f4" : "f8"))
                for (size_t i = 0; i < digits->text.size(); i += width)
                    out.data.push_back(bits(digits->text.substr(i, width)));
        return out;
    }
    for (const Json* level = &given; level->kind == Json::List; level = &level->items.at(0))
        out.shape.push_back(static_cast<int>(level->items.size()));
    std::function<void(const Json&)> collect = [&](const Json& part) {
        if (part.kind == Json::List) for (const Json& item : part.items) collect(item);
        else out.data.push_back(part.number);
    };
    collect(given);
    return out;
}

// α of every element: 0 for what does not adapt.
Named<double> rates(const Json& question, const Named<double>& theta) {
    const Json &given = question["inner_lr"], &adapt = question["adapt"];
    Named<double> out;
    for (auto& [name, p] : theta) {
        bool adapts = adapt.kind == Json::Null;
        for (const Json& one : adapt.items) adapts = adapts || one.text == name;
        out[name] = given.kind == Json::Object ? array(given[name]) : map([&](double) { return given.number; }, p);
        if (!adapts) out[name] = zeros<double>(p.shape);
    }
    return out;
}

string written(const Array<double>& a, size_t axis = 0, int start = 0) {
    char number[32];
    if (axis == a.shape.size()) {
        if (!std::isfinite(a.data[start])) throw std::runtime_error("the result is not finite");
        snprintf(number, sizeof number, "%.17g", a.data[start]);
        return number;
    }
    int step = 1;
    for (size_t i = axis + 1; i < a.shape.size(); ++i) step *= a.shape[i];
    string out;
    for (int i = 0; i < a.shape[axis]; ++i) out += (i ? ", " : "") + written(a, axis + 1, start + i * step);
    return "[" + out + "]";
}

string written(const Named<double>& arrays) {
    string out;
    for (auto& [name, a] : arrays) out += (out.empty() ? "\"" : ", \"") + name + "\": " + written(a);
    return "{" + out + "}";
}

string answer(const Json& question, bool first_order) {
    if (question["format"].text.substr(0, 2) != "2.")
        throw std::runtime_error("this program knows format 2 of questions");
    if (const Json* algorithm = question.find("algorithm"))
        if (algorithm->text != "maml") throw std::runtime_error("this program knows MAML alone");
    first_order = first_order || question["first_order"].kind == Json::True;
    const Json &model = question["model"], &support = question["support"], &query = question["query"];
    Named<double> theta, total;
    for (const string& name : question["params"].keys) theta[name] = array(question["params"][name]);
    Named<double> alpha = rates(question, theta);
    auto minus = [](double a, double b) { return a - b; };
    auto times = [](double a, double b) { return a * b; };
    size_t tasks = support.items.size(), steps = static_cast<size_t>(question["inner_steps"].number);
    double meta_loss = 0, loss;
    string adapted, losses;
    for (size_t t = 0; t < tasks; ++t) {
        Batch learn{array(support.items[t]["x"]), array(support.items[t]["y"])};
        Batch test{array(query.items.at(t)["x"]), array(query.items.at(t)["y"])};
        vector<Named<double>> way{theta};
        Array<double> of_steps{{static_cast<int>(steps)}, {}};
        // θₖ₊₁ = θₖ − A ∇L_s(θₖ)
        for (size_t k = 0; k < steps; ++k) {
            way.push_back(map(minus, way[k], map(times, alpha, gradient(model, way[k], learn, loss))));
            of_steps.data.push_back(loss);
        }
        adapted += (t ? ", " : "") + written(way[steps]);
        losses += (t ? ", " : "") + written(of_steps);
        Named<double> v = gradient(model, way[steps], test, loss);
        meta_loss += loss / tasks;
        // v ← v − Hₖ A v
        for (size_t k = steps; k-- > 0 && !first_order;)
            v = map(minus, v, hessian_times(model, way[k], learn, map(times, alpha, v)));
        v = map([tasks](double a) { return a / tasks; }, v);
        total = t ? map([](double a, double b) { return a + b; }, total, v) : v;
    }
    return "\"meta_grad\": " + written(total) + ", \"meta_loss\": " + written(Array<double>{{}, {meta_loss}}) +
           ", \"adapted\": [" + adapted + "], \"losses\": [" + losses + "]";
}

int main(int argc, char** argv) {
    bool first_order = argc > 1 && string(argv[1]) == "--first-order";
    for (string line; std::getline(std::cin, line);) {
        string id, said;
        try {
            Json question = Parser(line).value();
            id = question["id"].text;
            said = answer(question, first_order);
        } catch (const std::exception& error) {
            said = string("\"error\": \"") + error.what() + "\"";
        }
        std::cout << "{\"id\": \"" << id << "\", \"format\": \"2.0\", " << said << "}" << std::endl;
    }
}
