"use strict";

// A decoder in float32, as analysis/explorer/decoders.py writes it, and what follows from its Jacobian.

function bytes(text) {
  const binary = atob(text);
  const made = new Uint8Array(binary.length);
  for (let i = 0; i < made.length; i++) made[i] = binary.charCodeAt(i);
  return made;
}

const floats = (text) => new Float32Array(bytes(text).buffer);
const sigmoid = (x) => 1 / (1 + Math.exp(-x));

// The standard normal's distribution function, by erfc to 1.2e-7 (Press et al., Numerical Recipes, erfcc).
const ERFC = [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368];

function normalCdf(x) {
  const z = Math.abs(x) * Math.SQRT1_2;
  const t = 1 / (1 + 0.5 * z);
  const tail = 0.5 * t * Math.exp(-z * z - 1.26551223 + t * ERFC.reduce((sum, c) => sum * t + c, 0));
  return x > 0 ? 1 - tail : tail;
}

// Each with its derivative.
const ACTIVATIONS = {
  relu: [(x) => (x > 0 ? x : 0), (x) => (x > 0 ? 1 : 0)],
  "leaky-relu": [(x) => (x > 0 ? x : 0.01 * x), (x) => (x > 0 ? 1 : 0.01)],
  elu: [(x) => (x > 0 ? x : Math.expm1(x)), (x) => Math.exp(Math.min(x, 0))],
  gelu: [
    (x) => x * normalCdf(x),
    (x) => normalCdf(x) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI),
  ],
  silu: [(x) => x * sigmoid(x), (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x)))],
  softplus: [(x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))), sigmoid],
  tanh: [Math.tanh, (x) => 1 - Math.tanh(x) ** 2],
};

// x W, and with a bias x W + b. Inputs that are 0, as half of a ReLU's are, cost nothing.
const LINEAR = {
  dense(layer, x, out) {
    const { weight, n_in, n_out } = layer;
    for (let i = 0; i < n_in; i++) {
      const xi = x[i];
      if (xi === 0) continue;
      for (let j = 0, w = i * n_out; j < n_out; j++, w++) out[j] += xi * weight[w];
    }
  },
  // Transposed 3x3 convolution, padding 1, channels last: pixel (i, j) adds to (stride i + ky - 1, stride j + kx - 1).
  up(layer, x, out) {
    const { weight, n_in, n_out, stride, from, to } = layer;
    const [height, width] = from;
    const [tall, wide] = to;
    for (let i = 0; i < height; i++) {
      for (let j = 0; j < width; j++) {
        for (let c = 0; c < n_in; c++) {
          const value = x[(i * width + j) * n_in + c];
          if (value === 0) continue;
          for (let k = 0; k < 9; k++) {
            const row = stride * i + Math.floor(k / 3) - 1;
            const column = stride * j + (k % 3) - 1;
            if (row < 0 || row >= tall || column < 0 || column >= wide) continue;
            let w = (c * 9 + k) * n_out;
            let at = (row * wide + column) * n_out;
            for (const end = at + n_out; at < end; at++, w++) out[at] += value * weight[w];
          }
        }
      }
    }
  },
};

const area = (layer) => (layer.to ? layer.to[0] * layer.to[1] : 1);

function opened(layer) {
  return layer && { ...layer, weight: floats(layer.weight), bias: floats(layer.bias) };
}

// The decoder that a run's JSON describes; its numbers are unpacked once.
function openDecoder(described) {
  const { mean } = described;
  return {
    ...described,
    layers: described.layers.map(opened),
    others: opened(described.others),
    mean: mean.kind === "flow" ? { ...mean, hidden: opened(mean.hidden), last: opened(mean.last) } : mean,
  };
}

function linear(layer, x, biased) {
  const out = new Float32Array(layer.n_out * area(layer));
  if (biased) for (let at = 0; at < out.length; at += layer.n_out) out.set(layer.bias, at);
  LINEAR[layer.kind](layer, x, out);
  return out;
}

// The raw output a of z, and what each layer gave before its activation.
function forward(decoder, z) {
  const before = [];
  let x = Float32Array.from(z);
  decoder.layers.forEach((layer, n) => {
    if (n) x = activated(decoder.activation, x, decoder.layers[n - 1].n_out);
    x = linear(layer, x, true);
    before.push(x);
  });
  return { a: x, others: decoder.others && linear(decoder.others, Float32Array.from(z), true), before };
}

function activated(name, x, n_out) {
  if (name !== "gated") return x.map(ACTIVATIONS[name][0]);
  const half = n_out / 2; // h sigmoid(g) of the pairs (h, g)
  return new Float32Array(x.length / 2).map((_, i) => {
    const at = i + half * Math.floor(i / half);
    return x[at] * sigmoid(x[at + half]);
  });
}

// Numbers with their channels last as a likelihood counts them, channels first.
function channelsFirst(layer, x) {
  const size = area(layer);
  return size === 1 ? x : x.map((_, i) => x[(i % size) * layer.n_out + Math.floor(i / size)]);
}

// The expected image of z, n_pixels numbers in [0, 1].
function decode(decoder, z) {
  const raw = forward(decoder, z);
  const { others } = raw;
  const a = channelsFirst(decoder.layers.at(-1), raw.a);
  const { kind, sigmoid: squashed, n_pixels, within, components, of_pixels } = decoder.mean;
  let image = new Float32Array(n_pixels);
  const location = (i) => {
    const f = squashed ? sigmoid(a[i]) : a[i];
    return within ? Math.min(Math.max(f, within[0]), within[1]) : f;
  };
  if (kind === "mixture") {
    const after = components * n_pixels;
    const logits = others ?? a.subarray(after);
    const shared = of_pixels ? null : softmax(logits.subarray(0, components));
    for (let p = 0; p < n_pixels; p++) {
      const own = shared ?? softmax(Float32Array.from({ length: components }, (_, k) => logits[k * n_pixels + p]));
      for (let k = 0; k < components; k++) image[p] += own[k] * location(k * n_pixels + p);
    }
  } else {
    for (let p = 0; p < n_pixels; p++) image[p] = location(p);
    if (kind === "flow") image = flowed(decoder.mean, image);
  }
  return image.map((value) => Math.min(Math.max(value, 0), 1));
}

function softmax(logits) {
  const most = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - most));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

// x of u, pixel by pixel: a hidden unit of degree m has seen the first m pixels, and moves those after it.
function flowed({ degrees, hidden, last }, u) {
  const before = hidden.bias.slice();
  return u.map((value, i) => {
    let [shift, logScale] = [last.bias[2 * i], last.bias[2 * i + 1]];
    for (let j = 0; j < degrees.length; j++) {
      if (degrees[j] > i || before[j] <= 0) continue;
      shift += before[j] * last.weight[j * last.n_out + 2 * i];
      logScale += before[j] * last.weight[j * last.n_out + 2 * i + 1];
    }
    const x = value * Math.exp(logScale) + shift;
    for (let j = 0; j < degrees.length; j++) if (degrees[j] > i) before[j] += x * hidden.weight[i * hidden.n_out + j];
    return x;
  });
}

// Rows of J^T at z: da/dz_i, and a itself.
function jacobian(decoder, z) {
  const { a, before } = forward(decoder, z);
  const slopes = before.slice(0, -1).map((x) => x.map(ACTIVATIONS[decoder.activation][1]));
  const [first, ...rest] = decoder.layers;
  const rows = Array.from(z, (_, i) => {
    let x = first.weight.subarray(i * first.n_out, (i + 1) * first.n_out);
    rest.forEach((layer, n) => {
      x = linear(layer, x.map((value, k) => value * slopes[n][k]), false);
    });
    return x;
  });
  return { a, rows };
}

// M = J^T I J + 1 at z, rows of float64: equation 20 of the FisherNet paper.
function precision(decoder, z) {
  const { slopes, precision: ofNoise } = decoder.information;
  const { a, rows } = jacobian(decoder, z);
  const root = Float64Array.from(a, (value) => {
    const t = Math.exp(-0.5 * Math.abs(value)); // sqrt(f (1 - f)) is t/(1 + t^2)
    return (t / (1 + t * t)) ** slopes * Math.sqrt(ofNoise);
  });
  const scaled = rows.map((row) => Float64Array.from(row, (value, p) => value * root[p]));
  return scaled.map((one, i) =>
    scaled.map((other, j) => {
      let sum = i === j ? 1 : 0;
      for (let p = 0; p < one.length; p++) sum += one[p] * other[p];
      return sum;
    }),
  );
}

// [xx, xy, yy] of axes^T M^-1 axes for two axes, by Cholesky's factor L of M: y = L^-1 axis.
function projectedCovariance(m, axes) {
  const d = m.length;
  const l = m.map((row) => row.slice());
  for (let j = 0; j < d; j++) {
    for (let k = 0; k < j; k++) for (let i = j; i < d; i++) l[i][j] -= l[i][k] * l[j][k];
    const pivot = Math.sqrt(l[j][j]);
    for (let i = j; i < d; i++) l[i][j] /= pivot;
  }
  const [x, y] = axes.map((axis) => {
    const solved = Array.from(axis);
    for (let i = 0; i < d; i++) {
      for (let k = 0; k < i; k++) solved[i] -= l[i][k] * solved[k];
      solved[i] /= l[i][i];
    }
    return solved;
  });
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  return [dot(x, x), dot(x, y), dot(y, y)];
}
