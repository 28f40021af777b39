// Exact MAML in Rust, written from `tinymaml oracle spec` alone.
//
//     rustc -O client.rs && tinymaml oracle check -- ./client
//     tinymaml oracle check -- ./client --first-order        leaves the second derivatives out, and is refused
//
// There is no backpropagation here, and no Hessian: only the forward pass, over any kind of number. The inner gradient
// is taken with dual numbers, one element of θ at a time, and so is the derivative of the whole of it, with dual
// numbers of dual numbers. That takes P² forward passes for P elements, and is for small models.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::ops::{Add, Div, Mul, Sub};

type Failed = Result<String, String>;

// ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────────

enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String), // as it is written, escapes included: strings are only compared and repeated
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

static NULL: Json = Json::Null;

impl Json {
    /// The value of a field; null if it is missing.
    fn get(&self, key: &str) -> &Json {
        match self {
            Json::Object(fields) => fields.iter().find(|(name, _)| name == key).map_or(&NULL, |(_, value)| value),
            _ => &NULL,
        }
    }
    fn list(&self) -> &[Json] {
        if let Json::List(items) = self { items } else { &[] }
    }
    fn text(&self) -> &str {
        if let Json::Text(text) = self { text } else { "" }
    }
    fn number(&self) -> f64 {
        if let Json::Number(number) = self { *number } else { f64::NAN }
    }
}

struct Parser<'a> {
    left: &'a [u8],
}

impl Parser<'_> {
    fn space(&mut self) {
        self.left = self.left.trim_ascii_start();
    }
    fn next(&mut self, word: &str) -> bool {
        self.space();
        let found = self.left.starts_with(word.as_bytes());
        if found {
            self.left = &self.left[word.len()..];
        }
        found
    }
    fn expect(&mut self, word: &str) -> Result<(), String> {
        if self.next(word) { Ok(()) } else { Err(format!("the question is not JSON: wanted {word}")) }
    }
    /// What stands before the first byte that `ends`.
    fn until(&mut self, mut ends: impl FnMut(u8) -> bool) -> String {
        let length = self.left.iter().position(|&c| ends(c)).unwrap_or(self.left.len());
        let (read, left) = self.left.split_at(length);
        self.left = left;
        String::from_utf8_lossy(read).into_owned()
    }
    fn text(&mut self) -> Failed {
        self.expect("\"")?;
        let mut escaped = false;
        let text = self.until(|c| {
            let end = c == b'"' && !escaped;
            escaped = c == b'\\' && !escaped;
            end
        });
        self.expect("\"")?;
        Ok(text)
    }
    fn value(&mut self) -> Result<Json, String> {
        for (word, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))] {
            if self.next(word) {
                return Ok(value);
            }
        }
        if self.left.first() == Some(&b'"') {
            return self.text().map(Json::Text);
        }
        if self.next("[") {
            let mut items = vec![];
            while !self.next("]") {
                if !items.is_empty() {
                    self.expect(",")?;
                }
                items.push(self.value()?);
            }
            return Ok(Json::List(items));
        }
        if self.next("{") {
            let mut fields = vec![];
            while !self.next("}") {
                if !fields.is_empty() {
                    self.expect(",")?;
                }
                self.space();
                let name = self.text()?;
                self.expect(":")?;
                fields.push((name, self.value()?));
            }
            return Ok(Json::Object(fields));
        }
        let digits = self.until(|c| !b"+-.eE0123456789".contains(&c));
        digits.parse().map(Json::Number).map_err(|_| "the question is not JSON".to_string())
    }
}

// ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

trait Number:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    fn of(x: f64) -> Self;
    fn value(self) -> f64;
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn ln_1p(self) -> Self;
    fn sqrt(self) -> Self;
    fn tanh(self) -> Self;
}

impl Number for f64 {
    fn of(x: f64) -> f64 { x }
    fn value(self) -> f64 { self }
    fn exp(self) -> f64 { self.exp() }
    fn ln(self) -> f64 { self.ln() }
    fn ln_1p(self) -> f64 { self.ln_1p() }
    fn sqrt(self) -> f64 { self.sqrt() }
    fn tanh(self) -> f64 { self.tanh() }
}

/// value + slope ε, ε² = 0
#[derive(Clone, Copy)]
struct Dual<N> {
    value: N,
    slope: N,
}

fn dual<N>(value: N, slope: N) -> Dual<N> {
    Dual { value, slope }
}

impl<N: Number> Add for Dual<N> {
    type Output = Self;
    fn add(self, b: Self) -> Self { dual(self.value + b.value, self.slope + b.slope) }
}
impl<N: Number> Sub for Dual<N> {
    type Output = Self;
    fn sub(self, b: Self) -> Self { dual(self.value - b.value, self.slope - b.slope) }
}
impl<N: Number> Mul for Dual<N> {
    type Output = Self;
    fn mul(self, b: Self) -> Self { dual(self.value * b.value, self.slope * b.value + self.value * b.slope) }
}
impl<N: Number> Div for Dual<N> {
    type Output = Self;
    fn div(self, b: Self) -> Self {
        let q = self.value / b.value;
        dual(q, (self.slope - q * b.slope) / b.value)
    }
}
impl<N: Number> Number for Dual<N> {
    fn of(x: f64) -> Self { dual(N::of(x), N::of(0.0)) }
    fn value(self) -> f64 { self.value.value() }
    fn exp(self) -> Self { dual(self.value.exp(), self.slope * self.value.exp()) }
    fn ln(self) -> Self { dual(self.value.ln(), self.slope / self.value) }
    fn ln_1p(self) -> Self { dual(self.value.ln_1p(), self.slope / (N::of(1.0) + self.value)) }
    fn sqrt(self) -> Self { dual(self.value.sqrt(), self.slope / (N::of(2.0) * self.value.sqrt())) }
    fn tanh(self) -> Self {
        let y = self.value.tanh();
        dual(y, self.slope * (N::of(1.0) - y * y))
    }
}

fn sum<N: Number>(numbers: impl Iterator<Item = N>) -> N {
    numbers.fold(N::of(0.0), |total, x| total + x)
}

fn softplus<N: Number>(x: N) -> N {
    let zero = N::of(0.0);
    if x.value() > 0.0 { x + (zero - x).exp().ln_1p() } else { x.exp().ln_1p() }
}

// ── arrays ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[derive(Clone)]
struct Array<N> {
    shape: Vec<usize>,
    data: Vec<N>, // row-major
}

type Params<N> = BTreeMap<String, Array<N>>;

impl<N: Number> Array<N> {
    fn map<M>(&self, f: impl FnMut(N) -> M) -> Array<M> {
        Array { shape: self.shape.clone(), data: self.data.iter().copied().map(f).collect() }
    }
    fn with(&self, other: &Array<N>, f: impl Fn(N, N) -> N) -> Array<N> {
        let data = self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect();
        Array { shape: self.shape.clone(), data }
    }
    fn last(&self) -> usize {
        *self.shape.last().unwrap_or(&1)
    }
}

/// f of every number of every array.
fn map<N: Number, M>(params: &Params<N>, mut f: impl FnMut(N) -> M) -> Params<M> {
    params.iter().map(|(name, p)| (name.clone(), p.map(&mut f))).collect()
}

fn with<N: Number>(a: &Params<N>, b: &Params<N>, f: impl Fn(N, N) -> N + Copy) -> Params<N> {
    a.iter().map(|(name, p)| (name.clone(), p.with(&b[name], f))).collect()
}

fn read(given: &Json) -> Array<f64> {
    fn collect(part: &Json, data: &mut Vec<f64>) {
        match part {
            Json::List(items) => items.iter().for_each(|item| collect(item, data)),
            number => data.push(number.number()),
        }
    }
    let (mut shape, mut data, mut level) = (vec![], vec![], given);
    while let Json::List(items) = level {
        shape.push(items.len());
        level = items.first().unwrap_or(&NULL);
    }
    collect(given, &mut data);
    Array { shape, data }
}

fn written(a: &Array<f64>, axis: usize, start: usize) -> Failed {
    if axis == a.shape.len() {
        let number = a.data[start]; // Rust writes the digits that are needed, and no more
        return if number.is_finite() { Ok(format!("{number:e}")) } else { Err("the result is not finite".into()) };
    }
    let step: usize = a.shape[axis + 1..].iter().product();
    let parts: Result<Vec<_>, _> = (0..a.shape[axis]).map(|i| written(a, axis + 1, start + i * step)).collect();
    Ok(format!("[{}]", parts?.join(", ")))
}

// ── layers and losses ───────────────────────────────────────────────────────────────────────────────────────────────

/// One axis of a convolution: the length of the output, and the zeros before the input.
fn axis(size: usize, filter: usize, stride: usize, padding: &Json) -> (usize, usize) {
    let (total, before) = match padding {
        Json::Number(n) => (2 * *n as usize, *n as usize),
        Json::Text(word) if word == "SAME" => {
            let total = ((size.div_ceil(stride) - 1) * stride + filter).saturating_sub(size);
            (total, total / 2)
        }
        _ => (0, 0),
    };
    ((size + total - filter) / stride + 1, before)
}

fn conv<N: Number>(x: &Array<N>, w: &Array<N>, stride: usize, padding: &Json) -> Array<N> {
    let (n, rows, columns, inputs) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
    let (h, v, outputs) = (w.shape[0], w.shape[1], w.shape[3]);
    let (down, top) = axis(rows, h, stride, padding);
    let (across, left) = axis(columns, v, stride, padding);
    let mut data = vec![N::of(0.0); n * down * across * outputs];
    for (m, i, j) in (0..n).flat_map(|m| (0..down).flat_map(move |i| (0..across).map(move |j| (m, i, j)))) {
        for (p, q) in (0..h).flat_map(|p| (0..v).map(move |q| (p, q))) {
            let (r, s) = ((i * stride + p).wrapping_sub(top), (j * stride + q).wrapping_sub(left));
            if r >= rows || s >= columns {
                continue; // a zero outside the image
            }
            for (c, o) in (0..inputs).flat_map(|c| (0..outputs).map(move |o| (c, o))) {
                let at = ((m * down + i) * across + j) * outputs + o;
                let pixel = x.data[((m * rows + r) * columns + s) * inputs + c];
                data[at] = data[at] + pixel * w.data[((p * v + q) * inputs + c) * outputs + o];
            }
        }
    }
    Array { shape: vec![n, down, across, outputs], data }
}

fn batch_norm<N: Number>(x: &Array<N>, gamma: &Array<N>, beta: &Array<N>) -> Array<N> {
    let c = x.last();
    let count = N::of((x.data.len() / c) as f64);
    let mut out = x.clone();
    for k in 0..c {
        let mean = sum(x.data.iter().skip(k).step_by(c).copied()) / count;
        let variance = sum(x.data.iter().skip(k).step_by(c).map(|&a| (a - mean) * (a - mean))) / count;
        let deviation = (variance + N::of(1.0 / 1024.0)).sqrt();
        for a in out.data.iter_mut().skip(k).step_by(c) {
            *a = (*a - mean) / deviation * gamma.data[k] + beta.data[k];
        }
    }
    out
}

fn max_pool<N: Number>(x: &Array<N>, size: usize) -> Array<N> {
    let (n, rows, columns, c) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
    let shape = vec![n, rows / size, columns / size, c];
    let mut data = vec![];
    for (m, i) in (0..n).flat_map(|m| (0..rows / size).map(move |i| (m, i))) {
        for (j, k) in (0..columns / size).flat_map(|j| (0..c).map(move |k| (j, k))) {
            let window = (0..size * size).map(|at| {
                x.data[((m * rows + i * size + at / size) * columns + j * size + at % size) * c + k]
            });
            data.extend(window.reduce(|best, a| if a.value() > best.value() { a } else { best })); // a tie: the first
        }
    }
    Array { shape, data }
}

fn layer<N: Number>(given: &Json, x: Array<N>, params: &Params<N>) -> Result<Array<N>, String> {
    let names = given.get("params").list();
    let p = |i: usize| &params[names[i].text()];
    let whole = |setting: &str| given.get(setting).number() as usize;
    let n = x.shape[0];
    Ok(match given.get("layer").text() {
        "linear" => {
            let (w, a, b) = (p(0), p(0).shape[0], p(0).shape[1]);
            let product = |at: usize| sum((0..a).map(|j| x.data[at / b * a + j] * w.data[j * b + at % b]));
            let data = (0..n * b).map(|at| if names.len() > 1 { product(at) + p(1).data[at % b] } else { product(at) });
            Array { shape: vec![n, b], data: data.collect() }
        }
        "conv" => conv(&x, p(0), whole("stride"), given.get("padding")),
        "batch_norm" => batch_norm(&x, p(0), p(1)),
        "tanh" => x.map(N::tanh),
        "relu" => x.map(|a| if a.value() > 0.0 { a } else { N::of(0.0) }),
        "softplus" => x.map(softplus),
        "square" => x.map(|a| a * a),
        "max_pool" => max_pool(&x, whole("size")),
        "flatten" => Array { shape: vec![n, x.data.len() / n], data: x.data },
        "spatial_mean" => {
            let (cells, c) = (x.shape[1] * x.shape[2], x.shape[3]);
            let mean = |at: usize| {
                sum((0..cells).map(|i| x.data[(at / c * cells + i) * c + at % c])) / N::of(cells as f64)
            };
            Array { shape: vec![n, c], data: (0..n * c).map(mean).collect() }
        }
        "polynomial" => {
            let horner = |row: &[N]| row.iter().rev().fold(N::of(0.0), |total, &a| total * p(0).data[0] + a);
            Array { shape: vec![n], data: x.data.chunks(x.shape[1]).map(horner).collect() }
        }
        "quadratic" => {
            let (theta, d) = (&p(0).data, p(0).data.len());
            let row = |r: &[N]| sum((0..d).map(|s| r[s] * theta[s])) / N::of(2.0) - r[d];
            let value = |rows: &[N]| sum(rows.chunks(d + 1).zip(theta).map(|(r, &t)| t * row(r)));
            Array { shape: vec![n], data: x.data.chunks(d * (d + 1)).map(value).collect() }
        }
        "context" => {
            let phi = &p(0).data;
            let data = x.data.chunks(x.last()).flat_map(|row| row.iter().chain(phi).copied());
            let mut shape = x.shape.clone();
            *shape.last_mut().unwrap() += phi.len();
            Array { shape, data: data.collect() }
        }
        other => return Err(format!("no layer {other} here")),
    })
}

fn loss<N: Number>(model: &Json, params: &Params<N>, (x, y): &(Array<f64>, Array<f64>)) -> Result<N, String> {
    let mut o = x.map(N::of);
    for one in model.get("layers").list() {
        o = layer(one, o, params)?;
    }
    let pairs = || o.data.iter().zip(&y.data).map(|(&a, &b)| (a, N::of(b)));
    let total = match model.get("loss").text() {
        "mse" => sum(pairs().map(|(a, b)| (a - b) * (a - b))),
        "half_mse" => sum(pairs().map(|(a, b)| (a - b) * (a - b) / N::of(2.0))),
        "binary_cross_entropy" => sum(pairs().map(|(a, b)| softplus(a) - b * a)),
        "mean" => sum(o.data.iter().copied()),
        "cross_entropy" => {
            let of_row = |(row, &label): (&[N], &f64)| {
                let most = N::of(row.iter().map(|a| a.value()).fold(f64::NEG_INFINITY, f64::max));
                sum(row.iter().map(|&a| (a - most).exp())).ln() - (row[label as usize] - most)
            };
            let count = N::of(o.shape[0] as f64);
            return Ok(sum(o.data.chunks(o.last()).zip(&y.data).map(of_row)) / count);
        }
        other => return Err(format!("no loss {other} here")),
    };
    Ok(total / N::of(o.data.len() as f64))
}

// ── MAML ────────────────────────────────────────────────────────────────────────────────────────────────────────────

type Batch = (Array<f64>, Array<f64>);

/// `params` as dual numbers, with slope 1 in element `at` of parameter `name`.
fn seeded<N: Number>(params: &Params<N>, name: &str, at: usize) -> Params<Dual<N>> {
    let mut out = map(params, |p| dual(p, N::of(0.0)));
    if let Some(p) = out.get_mut(name) {
        p.data[at].slope = N::of(1.0);
    }
    out
}

/// {name: array} of the slope that `f` gives with slope 1 in each element in turn.
fn derivative<N: Number>(
    params: &Params<N>,
    f: impl Fn(&Params<Dual<N>>) -> Result<Dual<N>, String>,
) -> Result<Params<N>, String> {
    let mut out = params.clone();
    for (name, p) in out.iter_mut() {
        for at in 0..p.data.len() {
            p.data[at] = f(&seeded(params, name, at))?.slope;
        }
    }
    Ok(out)
}

/// θ_K: θₖ₊₁ = θₖ − A ∇L_s(θₖ)
fn adapted<N: Number>(
    model: &Json,
    theta: &Params<N>,
    alpha: &Params<f64>,
    steps: usize,
    support: &Batch,
) -> Result<Params<N>, String> {
    let rate = map(alpha, N::of);
    let mut fast = theta.clone();
    for _ in 0..steps {
        let grads = derivative(&fast, |p| loss(model, p, support))?;
        fast = with(&fast, &with(&rate, &grads, |a, g| a * g), |p, step| p - step);
    }
    Ok(fast)
}

fn answer(question: &Json, first_order: bool) -> Failed {
    if !question.get("format").text().starts_with("2.") {
        return Err("this program knows format 2 of questions".into());
    }
    if !["", "maml"].contains(&question.get("algorithm").text()) {
        return Err("this program knows MAML alone".into());
    }
    let first_order = first_order || matches!(question.get("first_order"), Json::Bool(true));
    let model = question.get("model");
    let Json::Object(given) = question.get("params") else { return Err("params is no object".into()) };
    let theta: Params<f64> = given.iter().map(|(name, p)| (name.clone(), read(p))).collect();
    let mut alpha = theta.clone();
    for (name, a) in alpha.iter_mut() {
        let adapt = question.get("adapt");
        let adapts = matches!(adapt, Json::Null) || adapt.list().iter().any(|one| one.text() == name);
        *a = match question.get("inner_lr") {
            _ if !adapts => a.map(|_| 0.0),
            Json::Number(rate) => a.map(|_| *rate),
            rates => read(rates.get(name)),
        };
    }
    let steps = question.get("inner_steps").number() as usize;
    let set = |given: &Json| (read(given.get("x")), read(given.get("y")));
    let tasks = question.get("support").list().iter().zip(question.get("query").list());
    let count = question.get("support").list().len() as f64;
    let (mut meta_loss, mut meta_grad) = (0.0, map(&theta, |_| 0.0));
    for (support, query) in tasks.map(|(s, q)| (set(s), set(q))) {
        let fast = adapted(model, &theta, &alpha, steps, &support)?;
        meta_loss += loss(model, &fast, &query)? / count;
        let grads = if first_order {
            derivative(&fast, |p| loss(model, p, &query))?
        } else {
            derivative(&theta, |p| loss(model, &adapted(model, p, &alpha, steps, &support)?, &query))?
        };
        meta_grad = with(&meta_grad, &grads, |total, g| total + g / count);
    }
    let mut parts = vec![];
    for (name, g) in &meta_grad {
        parts.push(format!("\"{name}\": {}", written(g, 0, 0)?));
    }
    let meta_loss = written(&Array { shape: vec![], data: vec![meta_loss] }, 0, 0)?;
    Ok(format!("\"meta_grad\": {{{}}}, \"meta_loss\": {meta_loss}", parts.join(", ")))
}

fn main() {
    let first_order = std::env::args().any(|argument| argument == "--first-order");
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let question = Parser { left: line.as_bytes() }.value();
        let id = question.as_ref().map_or("", |q| q.get("id").text());
        let said = question.as_ref().map_err(|why| why.clone()).and_then(|q| answer(q, first_order));
        let said = said.unwrap_or_else(|why| format!("\"error\": \"{why}\""));
        println!("{{\"id\": \"{id}\", \"format\": \"2.0\", {said}}}");
        let _ = io::stdout().flush();
    }
}
