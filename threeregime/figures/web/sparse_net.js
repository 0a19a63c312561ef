// A PreResNet in plain JavaScript. Only nonzero weights are computed, so a pruned net is quick.
// The examples of a batch lie beside each other: an activation is [channels, y, x, examples], with
// one row and column of zeros around the picture, the padding of 3 x 3 convolutions.

const EPSILON = 1e-5; // of batch norm

/** The bytes of base64. */
function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

/** Floats of two bytes, little-endian, as floats of four. */
function halfFloats(text) {
  const bytes = bytesOf(text);
  const values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) {
    const bits = bytes[2 * i] | (bytes[2 * i + 1] << 8);
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const size =
      exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
    values[i] = bits & 0x8000 ? -size : size;
  }
  return values;
}

/** Cut a flat array into tensors by name. */
function split(shapes, flat, statistics) {
  const tensors = {};
  let at = 0;
  for (const [name, shape] of shapes) {
    if (/running_(mean|var)$/.test(name) !== statistics) continue;
    const size = shape.reduce((a, b) => a * b, 1);
    tensors[name] = flat.subarray(at, at + size);
    at += size;
  }
  return tensors;
}

/** The two copies of a pair; a weight that both lack is zero. */
function unpackPair(shapes, pair) {
  const mask = bytesOf(pair.mask);
  return pair.copies.map((text) => {
    const kept = halfFloats(text);
    const flat = new Float32Array(8 * mask.length);
    let next = 0;
    for (let i = 0; i < flat.length; i++) if ((mask[i >> 3] >> (i & 7)) & 1) flat[i] = kept[next++];
    return split(shapes, flat, false);
  });
}

/** The dense net, with the statistics of its batch norm. */
function unpackDense(shapes, dense) {
  const statistics = new Float32Array(bytesOf(dense.statistics).buffer);
  return { ...split(shapes, halfFloats(dense.weights), false), ...split(shapes, statistics, true) };
}

/** The weights at a point of the line between two nets, as `torch.lerp` computes them. */
function between(a, b, t) {
  const net = {};
  for (const name of Object.keys(a)) {
    const [one, other] = [a[name], b[name]];
    const mixed = new Float32Array(one.length);
    for (let i = 0; i < mixed.length; i++) {
      const step = Math.fround(other[i] - one[i]);
      mixed[i] = t < 0.5 ? one[i] + t * step : other[i] - (1 - t) * step;
    }
    net[name] = mixed;
  }
  return net;
}

/** An activation with its border of zeros. */
function activation(channels, side, count) {
  const wide = side + 2;
  return { channels, side, wide, count, data: new Float32Array(channels * wide * wide * count) };
}

/** Pictures, normalised channel by channel. */
function unpackImages(packed, mean, std) {
  const [count, channels, side] = packed.shape;
  const bytes = bytesOf(packed.images);
  const into = activation(channels, side, count);
  const round = Math.fround;
  for (let n = 0, from = 0; n < count; n++)
    for (let c = 0; c < channels; c++)
      for (let y = 1; y <= side; y++)
        for (let x = 1; x <= side; x++, from++) {
          const pixel = round(bytes[from] / 255) - round(mean[c]);
          into.data[((c * into.wide + y) * into.wide + x) * count + n] = round(pixel) / round(std[c]);
        }
  return { input: into, labels: packed.labels, bytes, count, channels, side };
}

// Add some inputs times their weights to a run of outputs. Eight at a time spare loads and stores.
function addOne(out, at, length, input, o0, w0) {
  for (let i = 0; i < length; i++) out[at + i] += w0 * input[o0 + i];
}

function addTwo(out, at, length, input, base, offsets, weights, k) {
  const [o0, o1] = [base + offsets[k], base + offsets[k + 1]];
  const [w0, w1] = [weights[k], weights[k + 1]];
  for (let i = 0; i < length; i++) out[at + i] += w0 * input[o0 + i] + w1 * input[o1 + i];
}

function addFour(out, at, length, input, base, offsets, weights, k) {
  const o0 = base + offsets[k], o1 = base + offsets[k + 1];
  const o2 = base + offsets[k + 2], o3 = base + offsets[k + 3];
  const w0 = weights[k], w1 = weights[k + 1], w2 = weights[k + 2], w3 = weights[k + 3];
  for (let i = 0; i < length; i++) {
    out[at + i] +=
      w0 * input[o0 + i] + w1 * input[o1 + i] + w2 * input[o2 + i] + w3 * input[o3 + i];
  }
}

function addEight(out, at, length, input, base, offsets, weights, k) {
  const o0 = base + offsets[k], o1 = base + offsets[k + 1];
  const o2 = base + offsets[k + 2], o3 = base + offsets[k + 3];
  const o4 = base + offsets[k + 4], o5 = base + offsets[k + 5];
  const o6 = base + offsets[k + 6], o7 = base + offsets[k + 7];
  const w0 = weights[k], w1 = weights[k + 1], w2 = weights[k + 2], w3 = weights[k + 3];
  const w4 = weights[k + 4], w5 = weights[k + 5], w6 = weights[k + 6], w7 = weights[k + 7];
  for (let i = 0; i < length; i++) {
    out[at + i] +=
      w0 * input[o0 + i] + w1 * input[o1 + i] + w2 * input[o2 + i] + w3 * input[o3 + i] +
      w4 * input[o4 + i] + w5 * input[o5 + i] + w6 * input[o6 + i] + w7 * input[o7 + i];
  }
}

function addAll(out, at, length, input, base, kept, from, to) {
  const { offsets, weights } = kept;
  let k = from;
  for (; k + 8 <= to; k += 8) addEight(out, at, length, input, base, offsets, weights, k);
  if (k + 4 <= to) {
    addFour(out, at, length, input, base, offsets, weights, k);
    k += 4;
  }
  if (k + 2 <= to) {
    addTwo(out, at, length, input, base, offsets, weights, k);
    k += 2;
  }
  if (k < to) addOne(out, at, length, input, base + offsets[k], weights[k]);
}

/** The nonzero weights of a convolution, by output channel: `first[c]` to `first[c + 1]`. */
function nonzeros(weight, shape, input) {
  const [outputs, inputs, size] = shape;
  const border = size === 1 ? 1 : 0; // a 1 x 1 kernel does not see the padding
  const [first, offsets, weights] = [[0], [], []];
  for (let out = 0, i = 0; out < outputs; out++) {
    for (let c = 0; c < inputs; c++)
      for (let y = border; y < size + border; y++)
        for (let x = border; x < size + border; x++, i++) {
          if (weight[i] === 0) continue;
          offsets.push(((c * input.wide + y) * input.wide + x) * input.count);
          weights.push(weight[i]);
        }
    first.push(offsets.length);
  }
  return { first, offsets: Int32Array.from(offsets), weights: Float64Array.from(weights) };
}

/** A convolution; it is added to what the output holds, or replaces it. */
function convolve(weight, shape, stride, input, output, add = false) {
  const kept = nonzeros(weight, shape, input);
  const { first } = kept;
  const { side, wide, count, data } = output;
  // All channels at one place, then the next place: their inputs are in the fastest cache.
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const base = stride * (y * input.wide + x) * count;
      for (let out = 0; out < output.channels; out++) {
        const at = ((out * wide + y + 1) * wide + x + 1) * count;
        if (!add) data.fill(0, at, at + count);
        addAll(data, at, count, input.data, base, kept, first[out], first[out + 1]);
      }
    }
  }
}

/** Mean and variance of a channel, without its border. Four sums at a time do not wait for each other. */
function moments(input, channel) {
  const { side, wide, count, data } = input;
  let sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
  let square0 = 0, square1 = 0, square2 = 0, square3 = 0;
  for (let y = 1; y <= side; y++) {
    let i = ((channel * wide + y) * wide + 1) * count;
    const end = i + side * count;
    for (; i + 4 <= end; i += 4) {
      const a = data[i], b = data[i + 1], c = data[i + 2], d = data[i + 3];
      sum0 += a;
      sum1 += b;
      sum2 += c;
      sum3 += d;
      square0 += a * a;
      square1 += b * b;
      square2 += c * c;
      square3 += d * d;
    }
    for (; i < end; i++) {
      sum0 += data[i];
      square0 += data[i] * data[i];
    }
  }
  const all = side * side * count;
  const mean = (sum0 + sum1 + sum2 + sum3) / all;
  return [mean, Math.max(0, (square0 + square1 + square2 + square3) / all - mean * mean), all];
}

/** ReLU of scaled values; half the sum with the absolute value is the positive part, without a branch. */
function scaleAndCut(from, to, at, length, scale, shift) {
  for (let i = at; i < at + length; i++) {
    const value = scale * from[i] + shift;
    to[i] = 0.5 * (value + Math.abs(value));
  }
}

/**
 * Batch norm and ReLU.
 *
 * @param {boolean} estimate whether to normalise by the batch and to store its statistics, as
 *   PyTorch does in training, the variance without bias
 */
function normalise(net, name, input, output, estimate) {
  const [mean, variance] = [net[`${name}.running_mean`], net[`${name}.running_var`]];
  const { side, wide, count, data } = input;
  for (let c = 0; c < input.channels; c++) {
    let [centre, spread] = [mean[c], variance[c]];
    if (estimate) {
      const [average, biased, all] = moments(input, c);
      [centre, spread] = [average, biased];
      mean[c] = average;
      variance[c] = (biased * all) / (all - 1);
    }
    const scale = net[`${name}.weight`][c] / Math.sqrt(spread + EPSILON);
    const shift = net[`${name}.bias`][c] - scale * centre;
    for (let y = 1; y <= side; y++) {
      const row = ((c * wide + y) * wide + 1) * count;
      scaleAndCut(data, output.data, row, side * count, scale, shift);
    }
  }
}

/** A net's architecture with memory for its activations: it runs any weights of these shapes. */
class SparseNet {
  constructor(shapes) {
    this.shapes = Object.fromEntries(shapes);
    this.blocks = [];
    for (let k = 0; `stages.${k}.conv1.weight` in this.shapes; k++) {
      const name = `stages.${k}`;
      const wider = `${name}.shortcut.weight` in this.shapes;
      this.blocks.push({ name, wider, stride: wider ? 2 : 1 });
    }
    this.memory = new Map();
  }

  /** An activation that every pass overwrites; its border stays zero. */
  room(use, channels, side, count) {
    const key = `${use} ${channels} ${side} ${count}`;
    if (!this.memory.has(key)) this.memory.set(key, activation(channels, side, count));
    return this.memory.get(key);
  }

  convolution(net, name, stride, input, output, add) {
    const weight = `${name}.weight`;
    convolve(net[weight], this.shapes[weight], stride, input, output, add);
  }

  /** The last activations, [channels, y, x, examples]; batch norm as in `normalise`. */
  features(net, input, estimate) {
    const { count } = input;
    let { side } = input;
    let channels = this.shapes["conv.weight"][0];
    let x = this.room("sum", channels, side, count);
    this.convolution(net, "conv", 1, input, x);
    for (const { name, wider, stride } of this.blocks) {
      const first = this.room("first", channels, side, count);
      normalise(net, `${name}.norm1`, x, first, estimate);
      let sum = x;
      if (wider) {
        channels = this.shapes[`${name}.conv1.weight`][0];
        side = Math.ceil(side / stride);
        sum = this.room("sum", channels, side, count);
        this.convolution(net, `${name}.shortcut`, stride, x, sum);
      }
      const middle = this.room("middle", channels, side, count);
      this.convolution(net, `${name}.conv1`, stride, first, middle);
      const second = this.room("first", channels, side, count);
      normalise(net, `${name}.norm2`, middle, second, estimate);
      this.convolution(net, `${name}.conv2`, 1, second, sum, true);
      x = sum;
    }
    const last = this.room("middle", channels, side, count);
    normalise(net, "norm", x, last, estimate);
    return last;
  }

  /** Set the statistics of batch norm to those of some examples. */
  reestimate(net, input) {
    for (const [name, shape] of Object.entries(this.shapes)) {
      if (/running_(mean|var)$/.test(name)) net[name] ??= new Float64Array(shape[0]);
    }
    this.features(net, input, true);
  }

  /** The class that the net reads in each picture. */
  read(net, input) {
    const { channels, side, wide, count, data } = this.features(net, input, false);
    const classes = this.shapes["linear.bias"][0];
    const logits = new Float64Array(classes * count);
    const mean = new Float64Array(count);
    for (let k = 0; k < classes; k++) logits.fill(net["linear.bias"][k], k * count, (k + 1) * count);
    for (let c = 0; c < channels; c++) {
      mean.fill(0);
      for (let y = 1; y <= side; y++) {
        const row = ((c * wide + y) * wide + 1) * count;
        for (let i = 0; i < side * count; i++) mean[i % count] += data[row + i];
      }
      for (let k = 0; k < classes; k++) {
        const weight = net["linear.weight"][k * channels + c] / (side * side);
        for (let n = 0; n < count; n++) logits[k * count + n] += weight * mean[n];
      }
    }
    return Uint8Array.from(mean, (_, n) => {
      let best = 0;
      for (let k = 1; k < classes; k++) {
        if (logits[k * count + n] > logits[best * count + n]) best = k;
      }
      return best;
    });
  }
}

/** The fraction of pictures that are misread. */
function errorOf(classes, labels) {
  return classes.reduce((wrong, found, n) => wrong + (found !== labels[n]), 0) / labels.length;
}

/** LMC, Equation (1) of the paper, of the errors at equally spaced points. */
function lmcOf(curve) {
  const ends = (curve[0] + curve.at(-1)) / 2;
  return curve.map((error) => ends - error).reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
}

/** The rank of each weight by magnitude, 0 for the largest; the first among equals. */
function magnitudeRanks(weight) {
  const order = [...weight.keys()].sort((i, j) => Math.abs(weight[j]) - Math.abs(weight[i]) || i - j);
  const ranks = new Int32Array(weight.length);
  order.forEach((place, rank) => (ranks[place] = rank));
  return ranks;
}

/** How many of some weights to keep: Python's rounding, to the nearest even number from halfway. */
function keptCount(density, count) {
  const exact = density * count;
  const floor = Math.floor(exact);
  const up = exact - floor > 0.5 || (exact - floor === 0.5 && floor % 2 === 1);
  return Math.max(1, floor + up);
}
