"use strict";
// The decoder of Show, Attend and Tell (Xu et al., 2015) for one caption of one image, equation by equation. It is that
// of caption/decoders/show_attend_tell.py: weights have the names of docs/paper.md, and sums are in double precision.
// A matrix is {rows, columns, values}, its numbers row by row; a vector is a typed array. Loops are plain: with `from` and
// callbacks, a large model takes seconds.

const PAD = 0, START = 1, END = 2, UNKNOWN = 3; // of caption/data/vocabulary.py

// ---- numbers ----

function decodeBase64(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

// All 65,536 numbers of half precision: sign, exponent in 5 bits, fraction in 10.
function makeHalfTable() {
  return Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
  });
}

let halfTable = null;

// Return the matrix of {shape, half, data}; a vector is a matrix of one column.
function readMatrix({ shape, half, data }) {
  const { buffer } = decodeBase64(data), [rows, columns = 1] = shape;
  if (!half) return { rows, columns, values: new Float32Array(buffer) };
  halfTable = halfTable || makeHalfTable();
  const bits = new Uint16Array(buffer), values = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) values[i] = halfTable[bits[i]];
  return { rows, columns, values };
}

function row(matrix, index) {
  return Float64Array.from(matrix.values.subarray(index * matrix.columns, (index + 1) * matrix.columns));
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

// Return W x + b; b is a matrix of one column, and may be absent.
function linear(W, x, b) {
  const { rows, columns, values } = W, y = new Float64Array(rows);
  for (let r = 0, k = 0; r < rows; r++) {
    let sum = b ? b.values[r] : 0;
    for (let j = 0; j < columns; j++, k++) sum += values[k] * x[j];
    y[r] = sum;
  }
  return y;
}

const add = (x, y, z) => x.map((value, j) => value + y[j] + z[j]);

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

function logSoftmax(x) {
  const largest = x.reduce((a, b) => Math.max(a, b), -Infinity);
  const logSum = largest + Math.log(x.reduce((sum, value) => sum + Math.exp(value - largest), 0));
  return x.map((value) => value - logSum);
}

const softmax = (x) => logSoftmax(x).map(Math.exp);

function argmax(x) {
  let best = 0;
  for (let i = 1; i < x.length; i++) if (x[i] > x[best]) best = i;
  return best;
}

function oneHot(index, length) {
  const vector = new Float64Array(length);
  vector[index] = 1;
  return vector;
}

// Return sum_i weights_i a_i, where the a_i are the rows of a matrix.
function weightedSum(weights, a) {
  const { rows, columns, values } = a, sum = new Float64Array(columns);
  for (let i = 0, k = 0; i < rows; i++) for (let d = 0; d < columns; d++, k++) sum[d] += weights[i] * values[k];
  return sum;
}

// ---- the model ----

// Decode the weights of a model's entry once, each when it is first used.
function openModel(entry) {
  const model = { ...entry };
  for (const [name, tensor] of Object.entries(entry.weights)) {
    let matrix = null;
    Object.defineProperty(model, name, { get: () => (matrix = matrix || readMatrix(tensor)) });
  }
  return model;
}

// Return what does not depend on the words: annotation vectors a_i, keys and the mean. keys_i is W_a a_i of eq. 4.
function prepare(model, regions) {
  const a = readMatrix(regions), keys = SCORES[model.score].keys(model, a);
  return { a, keys, mean: weightedSum(new Float64Array(a.rows).fill(1 / a.rows), a) };
}

function projectRows(a, W, b) {
  const values = new Float64Array(a.rows * W.rows);
  for (let i = 0; i < a.rows; i++) values.set(linear(W, row(a, i), b), i * W.rows);
  return { rows: a.rows, columns: W.rows, values };
}


// e_ti = v . tanh(W_a a_i + W_h h_(t-1)), eq. 4
const additive = {
  keys: (model, a) => projectRows(a, model.W_a, model.b_a),
  scores(model, keys, h) {
    const { rows, columns, values } = keys, query = linear(model.W_h, h), v = model.v.values, e = new Float64Array(rows);
    for (let i = 0, k = 0; i < rows; i++)
      for (let j = 0; j < columns; j++, k++) e[i] += v[j] * Math.tanh(values[k] + query[j]);
    return e;
  },
};

// f_att(a_i, h_(t-1)) of eq. 4, as caption/attention/scores.py has it.
const SCORES = {
  additive,
  concat: additive, // W [h; a_i] = W_a a_i + W_h h
  dot: { keys: (model, a) => a, scores: (model, keys, h) => linear(keys, h) }, // h . a_i
  general: { keys: (model, a) => projectRows(a, model.W_a), scores: (model, keys, h) => linear(keys, h) }, // h . W a_i
  scaled_dot: {
    keys: (model, a) => projectRows(a, model.W_a, model.b_a), // (W_h h) . (W_a a_i) / sqrt(A)
    scores: (model, keys, h) => linear(keys, linear(model.W_h, h, model.b_h)).map((e) => e / Math.sqrt(keys.columns)),
  },
};

// Return the state before the first word: c_0 and h_0 from the mean annotation vector.
function start(model, memory) {
  return {
    h: linear(model.f_init_h, memory.mean, model.b_init_h).map(Math.tanh),
    c: linear(model.f_init_c, memory.mean, model.b_init_c).map(Math.tanh),
  };
}

// Read the word y_(t-1) in the state (h_(t-1), c_(t-1)) and return every number of the step. `forced` are weights to read
// with instead of the attention's own (Memory.forced of caption/attention/base.py); `hard` reads at the most probable
// location, eq. 9, instead of the expectation, eq. 13.
function step(model, memory, state, word, forced, hard) {
  const { a, keys } = memory, Ey = row(model.E, word), H = state.h.length;
  const e = SCORES[model.score].scores(model, keys, state.h); // eq. 4
  const alpha = softmax(e.map((score) => score / model.temperature)); // eq. 5
  const weights = forced || (hard ? oneHot(argmax(alpha), alpha.length) : alpha);
  const z = weightedSum(weights, a); // eq. 6: eq. 13, or eq. 9
  const fBeta = dot(row(model.f_beta, 0), state.h) + model.b_beta.values[0];
  const beta = sigmoid(fBeta); // section 4.2.1
  const gated = z.map((value) => beta * value);
  const gates = add(linear(model.T_E, Ey, model.b_T), linear(model.T_h, state.h), linear(model.T_z, gated)); // eq. 1
  const i = gates.slice(0, H).map(sigmoid), f = gates.slice(H, 2 * H).map(sigmoid);
  const o = gates.slice(2 * H, 3 * H).map(sigmoid), g = gates.slice(3 * H).map(Math.tanh);
  const c = i.map((_, j) => f[j] * state.c[j] + i[j] * g[j]); // eq. 2
  const h = c.map((value, j) => o[j] * Math.tanh(value)); // eq. 3
  const fromState = linear(model.L_h, h), fromImage = linear(model.L_z, gated), deep = add(Ey, fromState, fromImage);
  const logits = linear(outputWeights(model), deep, model.b_o); // eq. 7
  return {
    word, before: state, Ey, e, alpha, weights, z, fBeta, beta, gated, i, f, o, g, c, h, fromState, fromImage, deep,
    logits, logProbabilities: logSoftmax(logits),
  };
}

const outputWeights = (model) => (model.tied ? model.E : model.L_o); // L_o

// Return the addends of a word's logit in eq. 7: of the word read, of the state, of the image, and the bias.
function logitAddends(model, taken, word) {
  const weights = row(outputWeights(model), word);
  return [...[taken.Ey, taken.fromState, taken.fromImage].map((x) => dot(weights, x)), model.b_o.values[word]];
}

// Whether a word may be written at step t, counted from 0: as in greedy search with its defaults.
const mayWrite = (word, t) => word !== PAD && word !== START && word !== UNKNOWN && (word !== END || t > 0);

function mostProbable(logProbabilities, t) {
  let best = -1;
  logProbabilities.forEach((p, word) => {
    if (mayWrite(word, t) && (best < 0 || p > logProbabilities[best])) best = word;
  });
  return best;
}

// Return the steps of the greedy caption; each is that of `step` with `next`, the word written, <end> at last.
// lights[t] are weights to force at step t, or null; chosen[t] is a word to write there instead of the most probable one,
// or null. The first `kept` steps are taken over from `earlier`, of which they are known to be the same.
function decode(model, memory, lights, chosen, hard, earlier = [], kept = 0) {
  const steps = earlier.slice(0, kept);
  while (steps.length < lights.length) {
    const t = steps.length, last = steps[t - 1];
    if (last && last.next === END) break;
    const taken = step(model, memory, last || start(model, memory), last ? last.next : START, lights[t], hard);
    taken.next = chosen[t] === null ? mostProbable(taken.logProbabilities, t) : chosen[t];
    steps.push(taken);
  }
  return steps;
}
