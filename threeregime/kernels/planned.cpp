// The pass of a fleet through a net: a list of operations that are run for L nets at a time (a slice), one net in each
// lane of the vector registers. A tensor of a slice is [images, height, width, channels] of vectors; no lane ever reads
// another. Every sum has one order, whichever kernel computes it: a net's numbers depend neither on its companions nor
// on the width of the vectors. Weights that are masked in every lane of a slice are skipped ("live weights"), since all
// that they add is zero.
#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <vector>
#ifndef BYTES
#define BYTES 64  // of a vector register
#endif
#define UNROLL _Pragma("GCC unroll 16")
using I = int64_t;

namespace {

enum Kind : I { CONV, NORM, ADD, CONCAT, MEAN, AVERAGE, MAX, LINEAR, RELU };
struct Op {                        // as in recorder.py
  I kind, in, other, out;          // tensors; other: residual of CONV, second of ADD and CONCAT, or -1
  I C, H, W, O, Ho, Wo, k, s, p;   // sizes of in and out; kernel, stride, padding (rows and columns of a pool: k, s)
  I w, b, stat;                    // offsets of weight or scale, of bias or shift (-1: none), of the statistics
  I relu, norm, lazy;              // ReLU after NORM; the NORM that this CONV reads through, or -1; whether a NORM is so read
};
struct Sgd { double rate, momentum, decay; };

template <int N> using Int = std::integral_constant<int, N>;
template <typename F> void blocks(I n, F f) {  // f(first, width) for blocks of 4, 2 and 1 channels
  I c = 0;
  for (; c + 4 <= n; c += 4) f(c, Int<4>());
  if (n - c >= 2) { f(c, Int<2>()); c += 2; }
  if (c < n) f(c, Int<1>());
}
// Offset of a weight in memory: [blocks of output channels][kernel][inputs][channels of the block].
I weight_at(I outputs, I inputs, I kk, I o, I c, I t) {
  const I whole = outputs / 4 * 4, first = o < whole ? o / 4 * 4 : o < whole + outputs % 4 / 2 * 2 ? whole : o;
  const I width = o < whole ? 4 : o < whole + outputs % 4 / 2 * 2 ? 2 : 1;
  return (first * kk + t * width) * inputs + c * width + o - first;
}

// --- Grids: the pixels that a convolution writes, and where it reads for them. The gradient of the input is a convolution
// of the output's gradient, one for each of the stride * stride kinds of pixels.
struct Tap { I row, column, t; };               // what it reads for pixel (0, 0), and the place in the kernel
struct Place { int32_t in, t; int8_t edge; };   // offset in the image; 1: not for the first column, 2: not for the last
struct Pixel { int32_t out, in; };              // one that is written, and the one that a tap reads for it
struct Grid {
  I H, W, C, s;                                 // image that is read, and its pixels a step
  I rows, columns, from, row, column, O;        // pixels that are written, their offsets, their channels
  std::vector<Tap> taps;                        // in the order of rows, then columns
  I tile, wide;                                 // columns at a time: in the dense kernel, and in those of live weights
  std::vector<Place> places;                    // of each tile of the dense kernel
  std::vector<int> start;
  I together;                                   // images whose rows are taken in turn
  std::vector<std::vector<std::vector<Pixel>>> pixels, alone;  // of some rows and a tap, of such images and of one
  void finish() {
    bool narrow = true;                         // at most one column of each side is outside
    for (const Tap& t : taps) narrow &= t.column >= -s && (columns - 1) * s + t.column - W < s;
    tile = narrow && columns % 4 == 0 && columns >= 8 ? 4 : 1;
    wide = !narrow ? 1 : columns % 8 == 0 ? 8 : columns % 4 == 0 ? 4 : columns % 2 == 0 ? 2 : 1;
    for (I r = 0; r < rows; r++) for (I v = 0; v < columns; v += tile) {
      start.push_back(places.size());
      for (const Tap& t : taps) {
        const I y = r * s + t.row, first = v * s + t.column, last = (v + tile - 1) * s + t.column;
        if (y < 0 || y >= H || last < 0 || first >= W) continue;
        places.push_back({int32_t((y * W + first) * C), int32_t(t.t), int8_t(first < 0 ? 1 : last >= W ? 2 : 0)});
      }
    }
    start.push_back(places.size());
    together = 16 / wide;
    const I some = std::max<I>(1, 32 / (together * columns));  // rows that fit into the first cache
    for (I r = 0; r < rows; r += some) {
      pixels.emplace_back(), alone.emplace_back();
      for (const Tap& t : taps)
        pixels.back().push_back(read_for(t, r, r + some, together)), alone.back().push_back(read_for(t, r, r + some, 1));
    }
  }
  // In the order of the kernel of live weights, which takes so many images and ``wide`` columns at a time
  std::vector<Pixel> read_for(const Tap& t, I first, I last, I images) const {
    std::vector<Pixel> r;
    for (I h = first; h < std::min(last, rows); h++) for (I tile = 0; tile < columns; tile += wide) for (I n = 0; n < images; n++)
      for (I v = tile; v < tile + wide; v++) {
        const I y = h * s + t.row, x = v * s + t.column;
        if (y < 0 || y >= H || x < 0 || x >= W) continue;
        r.push_back({int32_t(n * rows * columns * O + h * row + v * column), int32_t(((n * H + y) * W + x) * C)});
      }
    return r;
  }
};
Grid forward_grid(const Op& o) {
  Grid g{o.H, o.W, o.C, o.s, o.Ho, o.Wo, 0, o.Wo * o.O, o.O, o.O, {}, 0, 0, {}, {}};
  for (I i = 0; i < o.k; i++) for (I j = 0; j < o.k; j++) g.taps.push_back({i - o.p, j - o.p, i * o.k + j});
  g.finish();
  return g;
}
std::vector<Grid> backward_grids(const Op& o) {
  std::vector<Grid> grids;
  for (I a = 0; a < o.s; a++) for (I b = 0; b < o.s; b++) {  // pixels (a + n s, b + m s)
    const I rows = (o.H - a + o.s - 1) / o.s, columns = (o.W - b + o.s - 1) / o.s;
    Grid g{o.Ho, o.Wo, o.O, 1, rows, columns, (a * o.W + b) * o.C, o.s * o.W * o.C, o.s * o.C, o.C, {}, 0, 0, {}, {}};
    for (I i = o.k; i--;) for (I j = o.k; j--;)
      if ((a + o.p - i) % o.s == 0 && (b + o.p - j) % o.s == 0) g.taps.push_back({(a + o.p - i) / o.s, (b + o.p - j) / o.s, i * o.k + j});
    if (rows > 0 && columns > 0) { g.finish(); grids.push_back(std::move(g)); }
  }
  return grids;
}
struct Live { int32_t in, w; int16_t row, column; bool first, last; };  // offsets; first, last: outside for that column
struct Lists {  // the live weights of a grid by channel that is written, and their range for each row
  std::vector<Live> live;
  std::vector<std::pair<int, int>> range;
  bool few = false;
};

template <typename T, int SIZE> struct Plan {
  static constexpr int L = SIZE / sizeof(T);
  typedef T V __attribute__((vector_size(SIZE)));
  typedef T U __attribute__((vector_size(SIZE), aligned(sizeof(T)), may_alias));  // unaligned
  struct Memory {  // aligned vectors, in large pages where they are many
    V* at = nullptr;
    I room = 0;
    V* need(I n) {
      if (n > room) {
        std::free(at);
        const I page = n * I(sizeof(V)) < 1 << 20 ? 4096 : 2 << 20, bytes = (n * sizeof(V) + page - 1) / page * page;
        at = static_cast<V*>(std::aligned_alloc(page, bytes));
        room = at ? n : 0;
        if (!at) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (page > 4096) madvise(at, bytes, MADV_HUGEPAGE);
#endif
      }
      return at;
    }
    Memory() = default;
    Memory(Memory&& other) { *this = std::move(other); }
    Memory& operator=(Memory&& other) { std::swap(at, other.at), std::swap(room, other.room); return *this; }
    ~Memory() { std::free(at); }
  };
  struct Space {                  // of a pass
    std::vector<Memory> x, pool;  // activations; buffers of gradients, taken in turn so that few stay in the cache
    std::vector<I> g;             // buffer of the gradient of each tensor, or -1
    Memory param, turned, grad, stat, saved, scratch;
    I B = 0;
    bool kept = false;
  };
  struct Pruned {                 // of a slice
    std::vector<std::vector<Lists>> forward, backward;
    Memory mask;
  };
  std::vector<Op> ops;
  std::vector<std::vector<Grid>> forward_grids, back_grids;  // of each operation
  std::vector<I> sizes, slots, tensors, elements;  // vectors an image; buffer in evaluation; places of the parameters
  std::vector<I> stat_tensors, stat_elements;
  std::vector<T> eps;
  std::vector<Space> spaces;
  std::vector<Pruned> pruned;
  I params, stats;

  static V splat(T v) { return v - V{}; }
  // a b + c, rounded once: a compiler that is free to fuse does so in one kernel and not in another
  static V fma(V a, V b, V c) {
#ifdef __AVX512F__
    if constexpr (SIZE == 64 && sizeof(T) == 4) return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
    else if constexpr (SIZE == 64) return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#endif
#ifdef __FMA__
    if constexpr (SIZE == 32 && sizeof(T) == 4) return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
    else if constexpr (SIZE == 32) return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
    else if constexpr (SIZE == 16 && sizeof(T) == 4) return (V)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#endif
    for (int l = 0; l < L; l++) c[l] = std::fma(a[l], b[l], c[l]);
    return c;
  }
  static V relu(V v) { return v < 0 ? V{} : v; }  // NaN stays NaN: a net that diverged must not look alive
  static void clear(V* p, I n) { std::memset(static_cast<void*>(p), 0, n * sizeof(V)); }
  static void ahead(const V* p, I n) { for (I i = 0; i < n; i++) __builtin_prefetch(p + i, 1); }  // soon to be written

  // --- Packing: values [n, M] of torch, lanes from m on, as vectors [n]; lanes beyond the last net repeat it
  static V read(const T* from, I stride, I M, I m) {
    if (stride == 0) return splat(*from);
    if (stride == 1 && m + L <= M) return *reinterpret_cast<const U*>(from + m);
    V to;
    for (int l = 0; l < L; l++) to[l] = from[std::min<I>(m + l, M - 1) * stride];
    return to;
  }
  static void write(V v, I M, I m, T* to) {
    if (m + L <= M) { *reinterpret_cast<U*>(to + m) = v; return; }
    for (int l = 0; m + l < M; l++) to[m + l] = v[l];
  }
  static constexpr size_t AHEAD = 24;  // elements from request to use: the order in memory is another one
  static void pack(T* const* from, const std::vector<I>& tensor, const std::vector<I>& element, I M, I m, V* to) {
    const size_t n = tensor.size();
    for (size_t i = 0; i < n; i++) {
      const size_t next = std::min(i + AHEAD, n - 1);
      __builtin_prefetch(from[tensor[next]] + element[next] * M + m);
      to[i] = read(from[tensor[i]] + element[i] * M, 1, M, m);
    }
  }
  static void unpack(const V* from, const std::vector<I>& tensor, const std::vector<I>& element, I M, I m, T* const* to) {
    for (size_t i = 0; i < tensor.size(); i++) write(from[i], M, m, to[tensor[i]] + element[i] * M);
  }

  // --- What a convolution reads: a tensor as it is, or through batch norm and ReLU, a few images at a time
  struct Input {
    const V* x;
    I C, each;
    const V *scale, *shift;  // null: as it is
    bool positive;
    V* scratch;
    const V* images(I b, I n) const {
      const V* from = x + b * each;
      if (!scale) return from;
      blocks(C, [&](I c, auto K) {
        V a[K()], d[K()];
        for (int k = 0; k < K(); k++) a[k] = scale[c + k], d[k] = shift[c + k];
        if (positive) for (I i = c; i < n * each; i += C) for (int k = 0; k < K(); k++) scratch[i + k] = relu(fma(from[i + k], a[k], d[k]));
        else for (I i = c; i < n * each; i += C) for (int k = 0; k < K(); k++) scratch[i + k] = fma(from[i + k], a[k], d[k]);
      });
      return scratch;
    }
  };

  // --- Dense convolution: y[n, q] = start[n, q] + sum over places and channels c of x[n, place, c] w[place, c, q]
  template <int N, int D, int Q, int from, int to>  // N images, or D columns of one
  static inline void add(const Grid& g, const V* a, I x_image, const V* u, V (&acc)[N * D][Q]) {
    for (I c = 0; c < g.C; c++, a++, u += Q) {
      V r[Q];
      UNROLL for (int q = 0; q < Q; q++) r[q] = u[q];
      UNROLL for (int n = from; n < to; n++) {
        const V b = a[n / D * x_image + n % D * g.s * g.C];
        UNROLL for (int q = 0; q < Q; q++) acc[n][q] = fma(r[q], b, acc[n][q]);
      }
    }
  }
  template <int N, int D, int Q>
  static void tile(const Grid& g, const V* x, I x_image, const V* w, const Place* at, const Place* end, V* y, I y_image, const V* start) {
    V acc[N * D][Q];
    auto each = [&](int n) { return n / D * y_image + n % D * g.column; };
    UNROLL for (int n = 0; n < N * D; n++) UNROLL for (int q = 0; q < Q; q++) acc[n][q] = start ? start[each(n) + q] : V{};
    for (; at < end; at++) {
      if (D == 1 || !at->edge) add<N, D, Q, 0, N * D>(g, x + at->in, x_image, w + at->t * g.C * Q, acc);
      else if (at->edge == 1) add<N, D, Q, 1, N * D>(g, x + at->in, x_image, w + at->t * g.C * Q, acc);
      else add<N, D, Q, 0, N * D - 1>(g, x + at->in, x_image, w + at->t * g.C * Q, acc);
    }
    UNROLL for (int n = 0; n < N * D; n++) UNROLL for (int q = 0; q < Q; q++) y[each(n) + q] = acc[n][q];
  }
  static void dense(const Grid& g, I B, const Input& in, const V* w, I kk, V* y, I y_image, const V* start) {
    auto images = [&](I b, auto N, auto D) {
      const V* x = in.images(b, N());
      V* to = y + b * y_image + g.from;
      ahead(to, g.rows * g.columns == 1 ? 0 : N() * y_image - g.from);
      const V* add = start ? start + b * y_image + g.from : nullptr;
      for (I r = 0, n = 0; r < g.rows; r++) for (I v = 0; v < g.columns; v += D(), n++) {
        const I at = r * g.row + v * g.column;
        const Place *first = g.places.data() + g.start[n], *end = g.places.data() + g.start[n + 1];
        blocks(g.O, [&](I q, auto Q) {
          tile<N(), D(), Q()>(g, x, in.each, w + q * kk * g.C, first, end, to + at + q, y_image, add ? add + at + q : nullptr);
        });
      }
    };
    if (g.tile == 4) { for (I b = 0; b < B; b++) images(b, Int<1>(), Int<4>()); return; }
    I b = 0;
    for (; b + 4 <= B; b += 4) images(b, Int<4>(), Int<1>());
    for (; b < B; b++) images(b, Int<1>(), Int<1>());
  }
  // gw[q, r] += sum over pixels of x[.., q] gy[.., r]
  template <int Q, int R> static void tap_grad(const Pixel* at, const Pixel* end, const V* gy, const V* x, V* gw) {
    V acc[Q][R];
    UNROLL for (int q = 0; q < Q; q++) UNROLL for (int r = 0; r < R; r++) acc[q][r] = gw[q * R + r];
    for (; at < end; at++) {
      const V *y = gy + at->out, *u = x + at->in;
      V d[R];
      UNROLL for (int r = 0; r < R; r++) d[r] = y[r];
      UNROLL for (int q = 0; q < Q; q++) { const V a = u[q]; UNROLL for (int r = 0; r < R; r++) acc[q][r] = fma(a, d[r], acc[q][r]); }
    }
    UNROLL for (int q = 0; q < Q; q++) UNROLL for (int r = 0; r < R; r++) gw[q * R + r] = acc[q][r];
  }
  static void dense_grad(const Grid& g, I B, const V* gy, I y_image, const Input& in, I kk, V* gw) {
    for (I b = 0, n; b < B; b += n) {
      n = B - b >= g.together ? g.together : 1;
      const V *x = in.images(b, n), *y = gy + b * y_image;
      for (const auto& rows : n == g.together ? g.pixels : g.alone) blocks(g.O, [&](I r, auto R) {
        for (size_t t = 0; t < g.taps.size(); t++) blocks(g.C, [&](I q, auto Q) {
          V* w = gw + r * kk * g.C + (g.taps[t].t * g.C + q) * R();
          tap_grad<Q(), R()>(rows[t].data(), rows[t].data() + rows[t].size(), y + r, x + q, w);
        });
      });
    }
  }

  // --- The same over live weights, for N images and D columns at a time: their N D sums stay in registers
  template <int N, int D>  // y[n, v] = start[n, v] + sum over live weights of w x[n, v + their place]
  static void live_row(const Grid& g, const V* x, I x_image, const V* w, const Live* e, const Live* end, I v, V* y, I y_image, const V* start) {
    V acc[N][D];
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int t = 0; t < D; t++) acc[n][t] = start ? start[n * y_image + t * g.column] : V{};
    for (; e < end; e++) {
      const V a = w[e->w], *u = x + e->in;
      inside<D>(g, *e, v, [&](auto first, auto last) {
        for (int t = first(); t < last(); t++) for (int n = 0; n < N; n++) acc[n][t] = fma(a, u[n * x_image + t * g.s * g.C], acc[n][t]);
      });
    }
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int t = 0; t < D; t++) y[n * y_image + t * g.column] = acc[n][t];
  }
  // f(first, last) of the columns that are inside; constants, since the compiler fuses no multiply-add under a condition
  template <int D, typename F> static void inside(const Grid& g, const Live& e, I v, F f) {
    if constexpr (D == 1) { const I at = v * g.s + e.column; if (at >= 0 && at < g.W) f(Int<0>(), Int<1>()); }
    else {
      const bool first = v == 0 && e.first, last = v + D == g.columns && e.last;
      if (!first && !last) f(Int<0>(), Int<D>());
      else if (!first) f(Int<0>(), Int<D - 1>());
      else if (!last) f(Int<1>(), Int<D>());
      else f(Int<1>(), Int<D - 1>());
    }
  }
  template <int N, int D>  // gw[live] += sum over n, v of gy[n, v] x[n, v + its place]
  static void live_grad(const Grid& g, const V* x, I x_image, const V* gy, I y_image, const Live* e, const Live* end, I v, V* gw) {
    V d[N][D];
    UNROLL for (int n = 0; n < N; n++) UNROLL for (int t = 0; t < D; t++) d[n][t] = gy[n * y_image + t * g.column];
    for (; e < end; e++) {
      const V* u = x + e->in;
      V sum = gw[e->w];
      inside<D>(g, *e, v, [&](auto first, auto last) {
        for (int n = 0; n < N; n++) for (int t = first(); t < last(); t++) sum = fma(u[n * x_image + t * g.s * g.C], d[n][t], sum);
      });
      gw[e->w] = sum;
    }
  }
  // f(images, columns, image, row, column, channel, what is read, first live weight, end) for all that is written
  template <typename F> static void each_row(const Grid& g, I B, const Input& in, const Lists& l, F f) {
    auto images = [&](I b, auto N, auto D) {
      const V* x = in.images(b, N());
      for (I r = 0; r < g.rows; r++) for (I v = 0; v < g.columns; v += D()) for (I c = 0; c < g.O; c++) {
        const auto range = l.range[c * g.rows + r];
        f(N, D, b, r, v, c, x + (r * g.s * g.W + v * g.s) * g.C, l.live.data() + range.first, l.live.data() + range.second);
      }
    };
    auto all = [&](auto N, auto D) {
      I b = 0;
      for (; b + N() <= B; b += N()) images(b, N, D);
      for (; b < B; b++) images(b, Int<1>(), D);
    };
    if (g.wide == 8) all(Int<2>(), Int<8>());
    else if (g.wide == 4) all(Int<4>(), Int<4>());
    else if (g.wide == 2) all(Int<8>(), Int<2>());
    else all(Int<16>(), Int<1>());
  }
  static void live(const Grid& g, I B, const Input& in, const V* w, const Lists& l, V* y, I y_image, const V* start) {
    each_row(g, B, in, l, [&](auto N, auto D, I b, I r, I v, I c, const V* x, const Live* e, const Live* end) {
      const I at = b * y_image + g.from + r * g.row + v * g.column + c;
      if (r + v + c == 0) ahead(y + b * y_image, N() * y_image);
      live_row<N(), D()>(g, x, in.each, w, e, end, v, y + at, y_image, start ? start + at : nullptr);
    });
  }
  static void live_grads(const Grid& g, I B, const V* gy, I y_image, const Input& in, const Lists& l, V* gw) {
    each_row(g, B, in, l, [&](auto N, auto D, I b, I r, I v, I c, const V* x, const Live* e, const Live* end) {
      live_grad<N(), D()>(g, x, in.each, gy + b * y_image + r * g.row + v * g.column + c, y_image, e, end, v, gw);
    });
  }
  // turned: whether the grid is one of the gradient of the input, whose channels are the weight's inputs
  static Lists lists(const Grid& g, const Op& o, bool turned, const V* mask) {
    Lists r;
    const I kk = o.k * o.k;
    for (I q = 0; q < g.O; q++) {
      const size_t begin = r.live.size();
      for (const Tap& t : g.taps) for (I c = 0; c < g.C; c++) {
        const I w = turned ? weight_at(o.O, o.C, kk, c, q, t.t) : weight_at(o.O, o.C, kk, q, c, t.t);
        bool any = false;
        for (int l = 0; l < L; l++) any |= mask[w][l] != 0;
        if (any) r.live.push_back({int32_t((t.row * g.W + t.column) * g.C + c), int32_t(w), int16_t(t.row), int16_t(t.column),
                                   t.column < 0, (g.columns - 1) * g.s + t.column >= g.W});
      }
      for (I row = 0; row < g.rows; row++) {  // taps are in the order of rows
        int first = begin, last = r.live.size();
        while (first < last && row * g.s + r.live[first].row < 0) first++;
        while (last > first && row * g.s + r.live[last - 1].row >= g.H) last--;
        r.range.push_back({first, last});
      }
    }
    r.few = r.live.size() < LIVE * g.O * g.C * g.taps.size();
    return r;
  }
  static constexpr double LIVE = 0.6;  // share of live weights below which their kernel is the faster one

  // --- Batch norm over N pixels of K of C channels
  template <int K> static void moments(I N, I C, const V* x, V* mean, V* var) {
    V even[K] = {}, odd[K] = {}, m[K];  // two sums each, since an addition takes several cycles
    auto sum = [&](auto add) {
      I n = 0;
      for (; n + 2 <= N; n += 2) for (int k = 0; k < K; k++)
        even[k] = add(even[k], x[n * C + k], k), odd[k] = add(odd[k], x[(n + 1) * C + k], k);
      if (n < N) for (int k = 0; k < K; k++) even[k] = add(even[k], x[n * C + k], k);
    };
    sum([&](V total, V v, int) { return total + v; });
    for (int k = 0; k < K; k++) mean[k] = m[k] = (even[k] + odd[k]) / splat(N), even[k] = odd[k] = V{};
    sum([&](V total, V v, int k) { return fma(v - m[k], v - m[k], total); });
    for (int k = 0; k < K; k++) var[k] = (even[k] + odd[k]) / splat(N);
  }
  // gx = [gx +] scale (g - mean(g) - xhat mean(g xhat)) with g = gy where the ReLU after it let pass
  template <int K, bool relu>
  static void norm_back(const Op& o, I N, const V* x, const V* gy, V* gx, const V* saved, V* g_scale, V* g_shift, bool add) {
    const I C = o.C;
    V m[K], inv[K], scale[K], shift[K], s[K] = {}, t[K] = {}, a[K], d[K];
    for (int k = 0; k < K; k++) m[k] = saved[k], inv[k] = saved[C + k], scale[k] = saved[2 * C + k], shift[k] = saved[3 * C + k];
    auto passed = [&](V v, V g, int k) { return relu ? (fma(v, scale[k], shift[k]) <= 0 ? V{} : g) : g; };
    for (I n = 0; n < N; n++) UNROLL for (int k = 0; k < K; k++) {
      const V v = x[n * C + k], g = passed(v, gy[n * C + k], k);
      s[k] += g; t[k] = fma(g, v - m[k], t[k]);
    }
    for (int k = 0; k < K; k++) {
      g_scale[k] = t[k] * inv[k]; g_shift[k] = s[k];
      a[k] = -scale[k] * inv[k] * inv[k] * t[k] / splat(N);
      d[k] = -scale[k] * s[k] / splat(N) - a[k] * m[k];
    }
    for (I n = 0; n < N; n++) UNROLL for (int k = 0; k < K; k++) {
      const V v = x[n * C + k], r = fma(passed(v, gy[n * C + k], k), scale[k], fma(v, a[k], d[k]));
      gx[n * C + k] = add ? gx[n * C + k] + r : r;
    }
  }

  // --- One pass
  V* x(Space& s, I t) { return s.x[s.kept ? t : slots[t]].at; }
  Input input(Space& s, const Op& o) {
    if (o.norm < 0) return {x(s, o.in), o.C, o.H * o.W * o.C, nullptr, nullptr, false, nullptr};
    const Op& n = ops[o.norm];
    const V* saved = s.saved.at + 2 * n.stat;
    return {x(s, n.in), o.C, o.H * o.W * o.C, saved + 2 * o.C, saved + 3 * o.C, bool(n.relu), s.scratch.at};
  }
  void norm(Space& s, const Op& o, I B, T eps_, const T* momentum) {  // momentum null: in evaluation
    const I N = B * o.H * o.W;
    V *in = x(s, o.in), *run = s.stat.at + o.stat, *saved = s.saved.at + 2 * o.stat;
    V *mean = saved, *inv = saved + o.C, *scale = saved + 2 * o.C, *shift = saved + 3 * o.C;
    blocks(o.C, [&](I c, auto K) {
      V var[K()];
      if (momentum) moments<K()>(N, o.C, in + c, mean + c, var);
      for (int k = 0; k < K(); k++) {
        const I i = c + k;
        if (!momentum) mean[i] = run[i], var[k] = run[o.C + i];
        for (int l = 0; l < L; l++) inv[i][l] = 1 / std::sqrt(var[k][l] + eps_);
        scale[i] = s.param.at[o.w + i] * inv[i];
        shift[i] = s.param.at[o.b + i] - mean[i] * scale[i];
        if (momentum) {
          run[i] += splat(*momentum) * (mean[i] - run[i]);
          run[o.C + i] += splat(*momentum) * (var[k] * splat(T(N) / T(N - 1)) - run[o.C + i]);
        }
      }
      if (!o.lazy) for (I n = 0; n < N; n++) for (int k = 0; k < K(); k++) {
        const V v = fma(in[n * o.C + c + k], scale[c + k], shift[c + k]);
        x(s, o.out)[n * o.C + c + k] = o.relu ? relu(v) : v;
      }
    });
  }
  void convolve(Space& s, size_t i, const Pruned& l, I B) {
    const Op& o = ops[i];
    const Grid& g = forward_grids[i][0];
    V* y = x(s, o.out);
    const V* start = o.other >= 0 ? x(s, o.other) : nullptr;
    if (o.b >= 0) {
      for (I n = 0; n < B * o.Ho * o.Wo; n++) for (I c = 0; c < o.O; c++)
        y[n * o.O + c] = (start ? start[n * o.O + c] : V{}) + s.param.at[o.b + c];
      start = y;
    }
    const I each = o.Ho * o.Wo * o.O;
    if (!l.forward.empty() && l.forward[i][0].few) live(g, B, input(s, o), s.param.at + o.w, l.forward[i][0], y, each, start);
    else dense(g, B, input(s, o), s.param.at + o.w, o.k * o.k, y, each, start);
  }
  void convolve_back(Space& s, size_t i, const Pruned& l, I B, const V* gy) {
    const Op& o = ops[i];
    const I kk = o.k * o.k, x_image = o.H * o.W * o.C, y_image = o.Ho * o.Wo * o.O;
    const V* w = s.param.at + o.w;
    V* gw = s.grad.at + o.w;
    clear(gw, o.O * o.C * kk);
    if (!l.forward.empty() && l.forward[i][0].few) live_grads(forward_grids[i][0], B, gy, y_image, input(s, o), l.forward[i][0], gw);
    else dense_grad(forward_grids[i][0], B, gy, y_image, input(s, o), kk, gw);
    if (o.b >= 0) sum_pixels(B * o.Ho * o.Wo, o.O, gy, s.grad.at + o.b);
    if (o.in == 0) return;  // nobody asks for the gradient of the images
    const bool add = s.g[o.in] >= 0;
    V *gx = gradient(s, o.in, B), *turned = s.turned.need(o.O * o.C * kk);
    const Input read{gy, o.O, y_image, nullptr, nullptr, false, nullptr};
    bool have = false;
    for (size_t n = 0; n < back_grids[i].size(); n++) {
      const Grid& g = back_grids[i][n];
      if (!l.backward.empty() && l.backward[i][n].few) { live(g, B, read, w, l.backward[i][n], gx, x_image, add ? gx : nullptr); continue; }
      if (!have) turn(o, kk, w, turned);
      have = true;
      dense(g, B, read, turned, kk, gx, x_image, add ? gx : nullptr);
    }
  }
  static void turn(const Op& o, I kk, const V* w, V* turned) {  // the weights of a convolution from outputs to inputs
    blocks(o.O, [&](I q, auto Q) { blocks(o.C, [&](I c, auto K) {
      const V* from = w + q * kk * o.C;
      V* to = turned + c * kk * o.O;
      for (I t = 0; t < kk; t++) for (int r = 0; r < Q(); r++) for (int k = 0; k < K(); k++)
        to[(t * o.O + q + r) * K() + k] = from[(t * o.C + c + k) * Q() + r];
    }); });
  }
  static void sum_pixels(I N, I C, const V* x, V* sum) {
    clear(sum, C);
    for (I n = 0; n < N; n++) for (I c = 0; c < C; c++) sum[c] += x[n * C + c];
  }
  template <bool back> static void pool(const Op& o, I B, const V* x, V* y, V* gx, const V* gy) {  // MEAN, AVERAGE, MAX
    const V share = splat(T(1) / T(o.k * o.s));  // k rows and s columns here
    for (I b = 0; b < B; b++) for (I h = 0; h < o.Ho; h++) for (I v = 0; v < o.Wo; v++) for (I c = 0; c < o.C; c++) {
      const I at = ((b * o.Ho + h) * o.Wo + v) * o.C + c, first = ((b * o.H + h * o.k) * o.W + v * o.s) * o.C + c;
      V best = x[first], sum{};
      for (I i = 0; i < o.k; i++) for (I j = 0; j < o.s; j++) {
        const V u = x[first + (i * o.W + j) * o.C];
        sum += u;
        best = (u > best) | (u != u) ? u : best;
      }
      if (!back) { y[at] = o.kind == MAX ? best : sum * share; continue; }
      V left = gy[at];
      for (I i = 0; i < o.k; i++) for (I j = 0; j < o.s; j++) {
        const I to = first + (i * o.W + j) * o.C;
        if (o.kind != MAX) { gx[to] += gy[at] * share; continue; }
        const auto here = (x[to] == best) | ((x[to] != x[to]) & (best != best));
        gx[to] += here ? left : V{};  // the first of equals
        left = here ? V{} : left;
      }
    }
  }
  void run(Space& s, const Pruned& l, I B, const T* momentum) {
    for (size_t i = 0, n = 0; i < ops.size(); i++) {
      const Op& o = ops[i];
      const I N = B * o.H * o.W;
      V *in = x(s, o.in), *y = x(s, o.out), *p = s.param.at;
      const V* other = o.other >= 0 ? x(s, o.other) : nullptr;
      switch (o.kind) {
        case CONV: convolve(s, i, l, B); break;
        case NORM: norm(s, o, B, eps[n], momentum ? momentum + n : nullptr); n++; break;
        case ADD: for (I j = 0; j < N * o.C; j++) y[j] = in[j] + other[j]; break;
        case RELU: for (I j = 0; j < N * o.C; j++) y[j] = relu(in[j]); break;
        case CONCAT: for (I j = 0; j < N; j++) {
          std::memcpy(static_cast<void*>(y + j * o.O), in + j * o.C, o.C * sizeof(V));
          std::memcpy(static_cast<void*>(y + j * o.O + o.C), other + j * (o.O - o.C), (o.O - o.C) * sizeof(V));
        } break;
        case LINEAR: for (I b = 0; b < B; b++) for (I k = 0; k < o.O; k++) {
          V sum = o.b >= 0 ? p[o.b + k] : V{};
          for (I c = 0; c < o.C; c++) sum = fma(p[o.w + k * o.C + c], in[b * o.C + c], sum);
          y[b * o.O + k] = sum;
        } break;
        default: pool<false>(o, B, in, y, nullptr, nullptr);
      }
    }
  }
  void back(Space& s, const Pruned& l, I B) {  // s.g[last] holds the gradient of the output
    auto sum = [&](I t) {  // the gradient of a tensor, to be added to
      const bool fresh = s.g[t] < 0;
      V* g = gradient(s, t, B);
      if (fresh) clear(g, sizes[t] * B);
      return g;
    };
    auto hand_on = [&](const Op& o, I t, I n) {  // adds the gradient of the output to that of a tensor of the same shape
      if (s.g[t] < 0) { s.g[t] = s.g[o.out], s.g[o.out] = -1; return; }
      V *to = gradient(s, t, B), *from = s.pool[s.g[o.out]].at;
      for (I j = 0; j < n; j++) to[j] += from[j];
    };
    for (size_t i = ops.size(); i--;) {
      const Op& o = ops[i];
      const I N = B * o.H * o.W;
      if (s.g[o.out] < 0) continue;  // nothing depends on it
      V *in = x(s, o.in), *gy = s.pool[s.g[o.out]].at, *p = s.param.at, *gp = s.grad.at;
      switch (o.kind) {
        case CONV:
          convolve_back(s, i, l, B, gy);
          if (o.other > 0) hand_on(o, o.other, B * o.Ho * o.Wo * o.O);
          break;
        case NORM: {
          const bool add = s.g[o.in] >= 0;
          V* gx = gradient(s, o.in, B);
          blocks(o.C, [&](I c, auto K) {
            auto* norm = o.relu ? norm_back<K(), true> : norm_back<K(), false>;
            norm(o, N, in + c, gy + c, gx + c, s.saved.at + 2 * o.stat + c, gp + o.w + c, gp + o.b + c, add);
          });
        } break;
        case ADD: {
          V* gx = sum(o.in);
          for (I j = 0; j < N * o.C; j++) gx[j] += gy[j];
          hand_on(o, o.other, N * o.C);
        } break;
        case RELU: {
          V* gx = sum(o.in);
          for (I j = 0; j < N * o.C; j++) gx[j] += in[j] <= 0 ? V{} : gy[j];
        } break;
        case CONCAT: {
          V *gx = sum(o.in), *go = sum(o.other);
          const I rest = o.O - o.C;
          for (I n = 0; n < N; n++) {
            for (I c = 0; c < o.C; c++) gx[n * o.C + c] += gy[n * o.O + c];
            for (I c = 0; c < rest; c++) go[n * rest + c] += gy[n * o.O + o.C + c];
          }
        } break;
        case LINEAR: {
          V *gx = sum(o.in), *gw = gp + o.w;
          clear(gw, o.O * o.C);
          if (o.b >= 0) sum_pixels(B, o.O, gy, gp + o.b);
          for (I b = 0; b < B; b++) for (I k = 0; k < o.O; k++) for (I c = 0; c < o.C; c++) {
            gw[k * o.C + c] = fma(gy[b * o.O + k], in[b * o.C + c], gw[k * o.C + c]);
            gx[b * o.C + c] = fma(gy[b * o.O + k], p[o.w + k * o.C + c], gx[b * o.C + c]);
          }
        } break;
        default: pool<true>(o, B, in, nullptr, sum(o.in), gy);
      }
      s.g[o.out] = -1;
    }
    s.g.assign(sizes.size(), -1);
  }
  V* gradient(Space& s, I t, I B) {  // its buffer, or one that no other tensor has now
    if (s.g[t] >= 0) return s.pool[s.g[t]].at;
    for (size_t i = 0; i < s.pool.size(); i++)
      if (std::find(s.g.begin(), s.g.end(), I(i)) == s.g.end()) { s.g[t] = i; return s.pool[i].need(sizes[t] * B); }
    s.g[t] = s.pool.size();
    s.pool.reserve(sizes.size());  // buffers stay where they are
    s.pool.emplace_back();
    return s.pool.back().need(sizes[t] * B);
  }
  // In evaluation a tensor's buffer is free after its last reader.
  void assign_slots() {
    std::vector<size_t> last(sizes.size(), 0);
    for (size_t i = 0; i < ops.size(); i++) {
      last[ops[i].in] = i;
      if (ops[i].other >= 0) last[ops[i].other] = i;
      if (ops[i].norm >= 0) last[ops[ops[i].norm].in] = i;
    }
    last[ops.back().out] = ops.size();
    std::vector<I> owner{0};
    slots.assign(sizes.size(), 0);
    for (size_t i = 0; i < ops.size(); i++) {
      size_t slot = 0;
      while (slot < owner.size() && last[owner[slot]] >= i) slot++;
      if (slot == owner.size()) owner.push_back(0);
      owner[slot] = ops[i].out;
      slots[ops[i].out] = slot;
    }
  }
  Space& space(I which, I B, bool keep) {
    Space& s = spaces[which];
    s.x.resize(sizes.size()), s.g.assign(sizes.size(), -1);
    s.B = B, s.kept = keep;
    I most = 0;
    for (size_t t = 0; t < sizes.size(); t++) s.x[keep ? t : slots[t]].need(sizes[t] * B), most = std::max(most, sizes[t]);
    s.scratch.need(most * 64);
    s.param.need(params), s.grad.need(params), s.stat.need(stats), s.saved.need(2 * stats);
    return s;
  }
  // x [B, H, W, C, n] at these strides, out [B, classes, n] for the n nets of a slice, whose parameters are those from m on
  // of M; statistics change where momentum is given
  void forward(I which, I slice, bool keep, I B, I M, I m, const T* from, const I* stride, T* const* param, T* const* stat,
               const T* momentum, T* out) {
    const I some = momentum ? B : std::min<I>(B, 32), nets = std::min<I>(L, M - m);
    Space& s = space(which, some, keep);
    pack(param, tensors, elements, M, m, s.param.at);
    pack(stat, stat_tensors, stat_elements, M, m, s.stat.at);
    const I last = ops.back().out, K = sizes[last];
    const Op& o = ops[0];
    for (I b = 0; b < B; b += some) {
      const I n = std::min(some, B - b);
      V* to = x(s, 0);
      for (I i = 0; i < n; i++) for (I h = 0; h < o.H; h++) for (I w = 0; w < o.W; w++) for (I c = 0; c < o.C; c++)
        *to++ = read(from + (b + i) * stride[0] + h * stride[1] + w * stride[2] + c * stride[3], stride[4], nets, 0);
      run(s, pruned[slice], n, momentum);
      for (I i = 0; i < n * K; i++) write(x(s, last)[i], nets, 0, out + (b * K + i) * nets);
    }
    if (momentum) unpack(s.stat.at, stat_tensors, stat_elements, M, m, stat);
  }
  void backward(I which, I slice, I M, I m, const T* grad_out, T* const* grads) {  // grad_out [B, classes, n]
    Space& s = spaces[which];
    const I last = ops.back().out, n = s.B * sizes[last], nets = std::min<I>(L, M - m);
    V* g = gradient(s, last, s.B);
    for (I i = 0; i < n; i++) g[i] = read(grad_out + i * nets, 1, nets, 0);
    clear(s.grad.at, params);
    back(s, pruned[slice], s.B);
    if (grads) unpack(s.grad.at, tensors, elements, M, m, grads);
  }
  // buffer = momentum buffer + gradient + decay parameter, parameter -= rate buffer; masked ones stay zero
  void descend(I which, I slice, I M, I m, T* const* param, T* const* buffer, const Sgd& sgd) {
    const Space& s = spaces[which];
    const V rate = splat(sgd.rate), momentum = splat(sgd.momentum), decay = splat(sgd.decay), *mask = pruned[slice].mask.at;
    for (I i = 0; i < params; i++) {
      const I next = std::min<I>(i + AHEAD, params - 1);
      __builtin_prefetch(param[tensors[next]] + elements[next] * M + m, 1);
      if (buffer) __builtin_prefetch(buffer[tensors[next]] + elements[next] * M + m, 1);
      const V p = s.param.at[i];
      V g = mask ? (mask[i] != 0 ? s.grad.at[i] : V{}) : s.grad.at[i];
      g = fma(decay, p, g);
      if (buffer) {
        T* at = buffer[tensors[i]] + elements[i] * M;
        g = fma(momentum, read(at, 1, M, m), g);
        write(g, M, m, at);
      }
      write(fma(-rate, g, p), M, m, param[tensors[i]] + elements[i] * M);
    }
  }
  // Live weights of a slice from now on, by masks that lie as the parameters do.
  void masks(I slice, I M, I m, T* const* values) {
    Pruned& l = pruned[slice];
    l = Pruned();
    pack(values, tensors, elements, M, m, l.mask.need(params));
    for (size_t i = 0; i < ops.size(); i++) {
      l.forward.emplace_back(), l.backward.emplace_back();
      if (ops[i].kind != CONV) continue;
      l.forward[i].push_back(lists(forward_grids[i][0], ops[i], false, l.mask.at + ops[i].w));
      for (const Grid& g : back_grids[i]) l.backward[i].push_back(lists(g, ops[i], true, l.mask.at + ops[i].w));
    }
  }
};

// counts: operations, tensors, parameters, statistics, norms, slices; a pass of each slice has a space, and one more
template <typename P> void* make(const I* counts, const Op* ops, const I* sizes, const I* tensors, const I* elements,
                                 const I* stat_tensors, const I* stat_elements, const double* eps) {
  auto* p = new P;
  p->ops.assign(ops, ops + counts[0]);
  p->sizes.assign(sizes, sizes + counts[1]);
  p->params = counts[2], p->stats = counts[3];
  p->tensors.assign(tensors, tensors + counts[2]), p->elements.assign(elements, elements + counts[2]);
  p->stat_tensors.assign(stat_tensors, stat_tensors + counts[3]), p->stat_elements.assign(stat_elements, stat_elements + counts[3]);
  p->eps.assign(eps, eps + counts[4]);
  p->pruned.resize(counts[5]);
  p->spaces.resize(counts[5] + 1);
  for (const Op& o : p->ops) {
    p->forward_grids.emplace_back(), p->back_grids.emplace_back();
    if (o.kind == CONV) p->forward_grids.back().push_back(forward_grid(o)), p->back_grids.back() = backward_grids(o);
  }
  p->assign_slots();
  return p;
}

}  // namespace

// Each returns 1 if there is no memory left.
#define METHOD(name, suffix, T, SIZE, parameters, ...) \
  int plan_##name##_##suffix parameters try { static_cast<Plan<T, SIZE>*>(p)->name(__VA_ARGS__); return 0; }             \
  catch (const std::bad_alloc&) { return 1; }
#define EXPORT(T, SIZE, suffix)                                                                                         \
  void* plan_new_##suffix(const I* n, const Op* o, const I* z, const I* t, const I* e, const I* st, const I* se,        \
                          const double* eps) { return make<Plan<T, SIZE>>(n, o, z, t, e, st, se, eps); }                \
  void plan_free_##suffix(void* p) { delete static_cast<Plan<T, SIZE>*>(p); }                                           \
  METHOD(forward, suffix, T, SIZE, (void* p, I which, I slice, I keep, I B, I M, I m, const T* x, const I* stride,      \
         T* const* param, T* const* stat, const T* momentum, T* out), which, slice, keep, B, M, m, x, stride, param,    \
         stat, momentum, out)                                                                                           \
  METHOD(backward, suffix, T, SIZE, (void* p, I which, I slice, I M, I m, const T* grad_out, T* const* grads), which,   \
         slice, M, m, grad_out, grads)                                                                                  \
  METHOD(descend, suffix, T, SIZE, (void* p, I which, I slice, I M, I m, T* const* param, T* const* buffer,             \
         const Sgd* sgd), which, slice, M, m, param, buffer, *sgd)                                                      \
  METHOD(masks, suffix, T, SIZE, (void* p, I, I slice, I M, I m, T* const* masks), slice, M, m, masks)
extern "C" {
EXPORT(float, BYTES, float)
EXPORT(float, BYTES / 2, half_float)
EXPORT(double, BYTES, double)
int plan_bytes() { return BYTES; }
}
