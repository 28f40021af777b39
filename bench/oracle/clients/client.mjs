// Exact MAML in JavaScript, written from `tinymaml oracle spec` alone.
//
//     tinymaml oracle check -- node client.mjs
//     tinymaml oracle check -- node client.mjs --first-order        leaves the second derivatives out, and is refused
//
// Every number that depends on θ is a node of a graph, and a derivative is made of nodes as well: so the gradient of a
// gradient is the same function, applied twice, and the meta-loss is differentiated through the inner loop as it is.

import { createInterface } from "node:readline";

// ── a number with its history ───────────────────────────────────────────────────────────────────────────────────────

let made = 0;

class Node {
  // inputs: [[node, slope], …], where slope() gives ∂this/∂node, a number or a node
  constructor(value, inputs = []) {
    this.value = value;
    this.inputs = inputs;
    this.index = made++; // inputs are made before what is made of them
  }
}

const isNode = (a) => a instanceof Node;
const value = (a) => (isNode(a) ? a.value : a);

/** f(a, b): a plain number if both are; ∂a and ∂b give the slopes. */
function binary(f, a, b, da, db) {
  const result = f(value(a), value(b));
  const inputs = [[a, da], [b, db]].filter(([x]) => isNode(x));
  return inputs.length ? new Node(result, inputs) : result;
}

/** f(a), with the slope df(a, f(a)). */
function unary(f, a, df) {
  if (!isNode(a)) return f(a);
  const out = new Node(f(a.value));
  out.inputs = [[a, () => df(a, out)]];
  return out;
}

const add = (a, b) => (a === 0 ? b : b === 0 ? a : binary((x, y) => x + y, a, b, () => 1, () => 1));
const sub = (a, b) => (b === 0 ? a : binary((x, y) => x - y, a, b, () => 1, () => -1));
const mul = (a, b) => (a === 1 ? b : b === 1 ? a : binary((x, y) => x * y, a, b, () => b, () => a));
const div = (a, b) =>
  b === 1 ? a : binary((x, y) => x / y, a, b, () => div(1, b), () => mul(-1, div(a, mul(b, b))));
const exp = (a) => unary(Math.exp, a, (_, y) => y);
const log = (a) => unary(Math.log, a, (x) => div(1, x));
const sqrt = (a) => unary(Math.sqrt, a, (_, y) => div(0.5, y));
const tanh = (a) => unary(Math.tanh, a, (_, y) => sub(1, mul(y, y)));
const relu = (a) => (value(a) > 0 ? a : 0); // at 0 it is the constant 0, and so is its derivative
const sigmoid = (a) => (value(a) > 0 ? div(1, add(1, exp(mul(-1, a)))) : div(exp(a), add(1, exp(a))));
const softplus = (a) => unary((x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), a, sigmoid);
const sum = (numbers) => numbers.reduce(add, 0);
const mean = (numbers) => div(sum(numbers), numbers.length);
const dot = (a, b) => sum(a.map((x, i) => mul(x, b[i])));

/** ∂out/∂x for each of `leaves`, as nodes; what `leaves` were made from is not looked at. */
function gradient(out, leaves) {
  const cotangents = new Map([[out, 1]]);
  const reached = new Set(), stack = [out], ends = new Set(leaves);
  while (stack.length) {
    const node = stack.pop();
    if (!isNode(node) || reached.has(node)) continue;
    reached.add(node);
    if (!ends.has(node)) for (const [input] of node.inputs) stack.push(input);
  }
  for (const node of [...reached].sort((a, b) => b.index - a.index)) {
    if (ends.has(node)) continue;
    const g = cotangents.get(node);
    for (const [input, slope] of node.inputs)
      cotangents.set(input, add(cotangents.get(input) ?? 0, mul(g, slope())));
  }
  return leaves.map((leaf) => cotangents.get(leaf) ?? 0);
}

// ── arrays: nested lists ────────────────────────────────────────────────────────────────────────────────────────────

const map = (f, a, ...more) =>
  Array.isArray(a) ? a.map((x, i) => map(f, x, ...more.map((b) => b[i]))) : f(a, ...more);
const flat = (a) => (Array.isArray(a) ? a.flat(Infinity) : [a]);
const range = (n) => [...Array(n).keys()];
const transpose = (w) => w[0].map((_, j) => w.map((row) => row[j]));

/** The same for {name: array}. */
const mapNamed = (f, a, ...more) =>
  Object.fromEntries(Object.keys(a).map((n) => [n, map(f, a[n], ...more.map((b) => b[n]))]));

/** {name: array} of the numbers of one list. */
function unflatten(numbers, like) {
  let at = 0;
  return mapNamed(() => numbers[at++], like);
}

// ── layers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** One axis of a convolution: the length of the output, and the zeros before the input. */
function axis(size, filter, stride, padding) {
  let total = 0, before = 0;
  if (padding === "SAME") {
    total = Math.max((Math.ceil(size / stride) - 1) * stride + filter - size, 0);
    before = Math.floor(total / 2);
  } else if (padding !== "VALID") {
    before = padding;
    total = 2 * padding;
  }
  return { out: Math.floor((size + total - filter) / stride) + 1, before };
}

function conv(images, w, { stride, padding }) {
  const [rows, columns, outputs] = [images[0].length, images[0][0].length, w[0][0][0].length];
  const down = axis(rows, w.length, stride, padding), across = axis(columns, w[0].length, stride, padding);
  const pixel = (image, i, j, o) => {
    const products = [];
    w.forEach((line, p) => line.forEach((channels, q) => {
      const x = image[i * stride + p - down.before]?.[j * stride + q - across.before]; // undefined: a zero outside
      if (x) channels.forEach((filters, c) => products.push(mul(x[c], filters[o])));
    }));
    return sum(products);
  };
  return images.map((image) =>
    range(down.out).map((i) => range(across.out).map((j) => range(outputs).map((o) => pixel(image, i, j, o)))));
}

function batchNorm(x, gamma, beta) {
  const channels = gamma.map((_, c) => flat(x).filter((_, i) => i % gamma.length === c));
  const centres = channels.map(mean);
  const deviations = channels.map((values, c) =>
    sqrt(add(mean(values.map((a) => { const d = sub(a, centres[c]); return mul(d, d); })), 2 ** -10)));
  const normal = (a, c) => add(mul(div(sub(a, centres[c]), deviations[c]), gamma[c]), beta[c]);
  return mapLast((a) => a.map(normal), x);
}

function maxPool(images, size) {
  const greatest = (window) => window.reduce((best, x) => (value(x) > value(best) ? x : best)); // a tie: the first
  const cells = (n) => range(Math.floor(n / size));
  return images.map((image) => cells(image.length).map((i) => cells(image[0].length).map((j) =>
    image[0][0].map((_, c) => greatest(
      range(size).flatMap((p) => range(size).map((q) => image[i * size + p][j * size + q][c])))))));
}

/** f of each list of numbers. */
const mapLast = (f, x) => (Array.isArray(x[0]) ? x.map((part) => mapLast(f, part)) : f(x));

const LAYERS = {
  linear: (x, [w, bias]) => x.map((row) => transpose(w).map((column, k) => add(dot(row, column), bias?.[k] ?? 0))),
  conv: (x, [w], layer) => conv(x, w, layer),
  batch_norm: (x, [gamma, beta]) => batchNorm(x, gamma, beta),
  tanh: (x) => map(tanh, x),
  relu: (x) => map(relu, x),
  softplus: (x) => map(softplus, x),
  square: (x) => map((a) => mul(a, a), x),
  max_pool: (x, _, { size }) => maxPool(x, size),
  flatten: (x) => x.map(flat),
  spatial_mean: (x) => x.map((image) => image[0][0].map((_, c) => mean(image.flat().map((pixel) => pixel[c])))),
  polynomial: (x, [theta]) => x.map((row) => row.reduceRight((total, a) => add(mul(total, theta), a), 0)),
  quadratic: (x, [theta]) => x.map((rows) =>
    dot(theta, rows.map((row) => sub(mul(0.5, dot(row.slice(0, -1), theta)), row.at(-1))))),
  context: (x, [phi]) => mapLast((a) => [...a, ...phi], x),
};

// ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const squares = (o, y) => flat(map((a, b) => { const d = sub(a, b); return mul(d, d); }, o, y));

function crossEntropy(row, label) {
  const most = Math.max(...row.map(value));
  return sub(log(sum(row.map((a) => exp(sub(a, most))))), sub(row[label], most));
}

const LOSSES = {
  mse: (o, y) => mean(squares(o, y)),
  half_mse: (o, y) => mul(0.5, mean(squares(o, y))),
  cross_entropy: (o, y) => mean(o.map((row, i) => crossEntropy(row, y[i]))),
  binary_cross_entropy: (o, y) => mean(flat(map((a, b) => sub(softplus(a), mul(b, a)), o, y))),
  mean: (o) => mean(o),
};

function loss({ layers, loss }, params, { x, y }) {
  let out = x;
  for (const layer of layers) {
    if (!LAYERS[layer.layer]) throw new Error(`no layer ${layer.layer} here`);
    out = LAYERS[layer.layer](out, (layer.params ?? []).map((name) => params[name]), layer);
  }
  if (!LOSSES[loss]) throw new Error(`no loss ${loss} here`);
  return LOSSES[loss](out, y);
}

// ── MAML ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const numbersOf = (params) => Object.values(params).flatMap(flat);

/** The loss and its gradient, {name: array} of nodes, at the numbers or nodes `params`. */
function lossAndGradient(model, params, batch) {
  const out = loss(model, params, batch);
  return [out, unflatten(gradient(out, numbersOf(params)), params)];
}

/** One task: 𝓛 and its gradient at θ, and the way there. */
function task({ model, params, inner_steps }, support, query, alpha, firstOrder) {
  const theta = mapNamed((p) => new Node(p), params);
  const trace = { theta: [params], loss_s: [], grad_s: [] };
  let fast = theta;
  for (let k = 0; k < inner_steps; k++) {
    const [loss_s, grads] = lossAndGradient(model, fast, support);
    // θₖ₊₁ = θₖ − A ∇L_s(θₖ)
    const step = firstOrder ? mapNamed(value, grads) : grads;
    fast = mapNamed((p, a, g) => sub(p, mul(a, g)), fast, alpha, step);
    trace.loss_s.push(value(loss_s));
    trace.grad_s.push(mapNamed(value, grads));
    trace.theta.push(mapNamed(value, fast));
  }
  const loss_q = loss(model, fast, query);
  trace.loss_q = value(loss_q);
  trace.grad_q = unflatten(gradient(loss_q, numbersOf(fast)).map(value), params);
  return [trace, gradient(loss_q, numbersOf(theta)).map(value)];
}

function answer(question, firstOrder) {
  const { params, inner_lr, adapt } = question;
  if (!/^2\./.test(question.format)) throw new Error("this program knows format 2 of questions");
  if ((question.algorithm ?? "maml") !== "maml") throw new Error("this program knows MAML alone");
  const rates = typeof inner_lr === "number" ? mapNamed(() => inner_lr, params) : inner_lr;
  const alpha = Object.fromEntries(Object.entries(rates).map(([name, rate]) =>
    [name, adapt && !adapt.includes(name) ? map(() => 0, rate) : rate]));
  const tasks = question.support.map((support, t) =>
    task(question, support, question.query[t], alpha, firstOrder || question.first_order));
  return {
    meta_grad: unflatten(transpose(tasks.map(([, grads]) => grads)).map(mean), params),
    meta_loss: mean(tasks.map(([trace]) => trace.loss_q)),
    trace: tasks.map(([trace]) => trace),
  };
}

const firstOrder = process.argv.includes("--first-order");

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  let said;
  try {
    said = answer(question, firstOrder);
  } catch (error) {
    said = { error: `${error.message}` };
  }
  console.log(JSON.stringify({ id: question.id, format: "2.0", ...said }));
}
