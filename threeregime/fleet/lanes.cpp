// Convolution of a fleet of M nets at once, the nets in the SIMD lanes.
// Activations are [B, H, W, C, M] in memory (a channels_last tensor of shape [B, C*M, H, W]), weights
// [Cout, Cin, k, k, M]. No lane ever needs another, so a convolution is plain multiply-adds of vectors over m.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>
#include <vector>
using at::Tensor;
using I = int64_t;

namespace {

template <typename T, int L> struct Lanes {  // L nets of type T
  typedef T V __attribute__((vector_size(L * sizeof(T))));
  typedef T Memory __attribute__((vector_size(L * sizeof(T)), aligned(sizeof(T)), may_alias));  // unaligned
  static V load(const T* p) { return *(const Memory*)p; }
  static void store(T* p, V v) { *(Memory*)p = v; }
};

struct Geometry { I B, Ci, Hi, Wi, Co, Ho, Wo, k, s, p, M; };  // of the forward convolution

// The nets in groups that fill a vector: 64 bytes while that many remain, then narrower ones for the rest.
struct Group { I m; int L; };
template <typename T> std::vector<Group> groups(I M) {
  std::vector<Group> g;
  for (I m = 0; m < M;) {
    int L = 64 / sizeof(T);
    while (L > M - m) L /= 2;
    g.push_back({m, L});
    m += L;
  }
  return g;
}
// Calls f with L as a compile-time constant.
template <typename T, typename F> void with_lanes(int L, F f) {
  switch (L) {
    case 16: if constexpr (sizeof(T) == 4) f(std::integral_constant<int, 16>()); break;
    case 8: f(std::integral_constant<int, 8>()); break;
    case 4: f(std::integral_constant<int, 4>()); break;
    case 2: f(std::integral_constant<int, 2>()); break;
    default: f(std::integral_constant<int, 1>());
  }
}

constexpr int R = 4;  // register block: R x R vectors of sums, 2R loads for every R*R multiply-adds

struct Tap { I in, w; };  // offsets of one kernel tap's input pixel and of its weight

// out[b, r] = sum over taps t and channels c of in[b, t, c] * w[t, r, c], for P images b and Q channels r: the
// same pixel of several images, so that all have the same taps inside the image and padding costs nothing.
template <typename T, int L, int P, int Q>
void pixel(const T* in, I in_b, I in_c, const T* w, I w_r, I w_c, I C, const Tap* taps, int n, T* out, I out_b) {
  using S = Lanes<T, L>;
  using V = typename S::V;
  V acc[P][Q] = {};
  for (int t = 0; t < n; t++) {
    const T *x = in + taps[t].in, *u = w + taps[t].w;
    for (I c = 0; c < C; c++, x += in_c, u += w_c) {
      V a[Q];
      #pragma GCC unroll 8
      for (int q = 0; q < Q; q++) a[q] = S::load(u + q * w_r);
      #pragma GCC unroll 8
      for (int p = 0; p < P; p++) {
        V b = S::load(x + p * in_b);
        #pragma GCC unroll 8
        for (int q = 0; q < Q; q++) acc[p][q] += a[q] * b;
      }
    }
  }
  for (int p = 0; p < P; p++)
    for (int q = 0; q < Q; q++) S::store(out + p * out_b + q * in_c, acc[p][q]);  // in_c = M there too
}

// The forward convolution, or (back) the gradient of its input: the same sum, with the roles of the channels
// swapped and the taps found from the other side.
template <typename T> void convolve(const Geometry& g, bool back, const T* in, const T* w, T* out) {
  const I kk = g.k * g.k, C = back ? g.Co : g.Ci, O = back ? g.Ci : g.Co;
  const I H = back ? g.Hi : g.Ho, W = back ? g.Wi : g.Wo, Hin = back ? g.Ho : g.Hi, Win = back ? g.Wo : g.Wi;
  const I in_b = Hin * Win * C * g.M, out_b = H * W * O * g.M;
  I w_r = g.Ci * kk * g.M, w_c = kk * g.M;
  if (back) std::swap(w_r, w_c);
  // tap i of output row h is input row source(h, i), or -1
  auto source = [&](I h, I i, I size) -> I {
    if (!back) { h = h * g.s + i - g.p; return h < size ? h : -1; }
    h += g.p - i;
    return h >= 0 && h % g.s == 0 && h / g.s < size ? h / g.s : -1;
  };
  const auto gs = groups<T>(g.M);
  const I nb = (g.B + R - 1) / R, ng = gs.size();
  at::parallel_for(0, nb * ng, 1, [&](I begin, I end) {
    std::vector<Tap> taps(kk);
    for (I task = begin; task < end; task++) with_lanes<T>(gs[task % ng].L, [&](auto l) {
      constexpr int L = l();
      const I m = gs[task % ng].m, b0 = task / ng * R, b1 = std::min(b0 + R, g.B);
      for (I h = 0; h < H; h++) for (I v = 0; v < W; v++) {
        int n = 0;
        for (I i = 0; i < g.k; i++) {
          const I hi = source(h, i, Hin);
          if (hi >= 0) for (I j = 0; j < g.k; j++) {
            const I wi = source(v, j, Win);
            if (wi >= 0) taps[n++] = {(hi * Win + wi) * C * g.M, (i * g.k + j) * g.M};
          }
        }
        auto run = [&](auto P, auto Q, I b, I o) {
          pixel<T, L, P(), Q()>(in + b * in_b + m, in_b, g.M, w + o * w_r + m, w_r, w_c, C, taps.data(), n,
                                out + b * out_b + ((h * W + v) * O + o) * g.M + m, out_b);
        };
        std::integral_constant<int, R> many;
        std::integral_constant<int, 1> one;
        for (I o = 0, q; o < O; o += q) {
          q = O - o >= R ? R : 1;
          if (b1 - b0 == R) q == R ? run(many, many, b0, o) : run(many, one, b0, o);
          else for (I b = b0; b < b1; b++) q == R ? run(one, many, b, o) : run(one, one, b, o);
        }
      }
    });
  });
}

// gw[o, c] += sum over output rows [r0, r1) (of all images, numbered b * Ho + h) of gy[o] * x[c] for tap (i, j).
template <typename T, int L, int P, int Q>
void tap_grad(const Geometry& g, I i, I j, I r0, I r1, const T* gy, const T* x, T* gw) {
  using S = Lanes<T, L>;
  using V = typename S::V;
  const I M = g.M, w_c = g.k * g.k * M, w_o = g.Ci * w_c, x_v = g.s * g.Ci * M, y_v = g.Co * M;
  // the output columns whose tap j lies inside the image
  const I v0 = std::max<I>(0, (g.p - j + g.s - 1) / g.s), v1 = std::min(g.Wo, (g.Wi - 1 + g.p - j + g.s) / g.s);
  V acc[P][Q];
  for (int p = 0; p < P; p++) for (int q = 0; q < Q; q++) acc[p][q] = S::load(gw + p * w_o + q * w_c);
  for (I r = r0, b = r0 / g.Ho, h = r0 % g.Ho; r < r1; r++, h++) {
    if (h == g.Ho) h = 0, b++;
    const I hi = h * g.s + i - g.p;
    if (hi < 0 || hi >= g.Hi) continue;
    const T *y = gy + (r * g.Wo + v0) * y_v, *u = x + ((b * g.Hi + hi) * g.Wi + v0 * g.s + j - g.p) * g.Ci * M;
    for (I v = v0; v < v1; v++, y += y_v, u += x_v) {
      V a[Q];
      #pragma GCC unroll 8
      for (int q = 0; q < Q; q++) a[q] = S::load(u + q * M);
      #pragma GCC unroll 8
      for (int p = 0; p < P; p++) {
        V d = S::load(y + p * M);
        #pragma GCC unroll 8
        for (int q = 0; q < Q; q++) acc[p][q] += a[q] * d;
      }
    }
  }
  for (int p = 0; p < P; p++) for (int q = 0; q < Q; q++) S::store(gw + p * w_o + q * w_c, acc[p][q]);
}

// The threads share out the weights, not the images, and each weight's sum runs over the images in order: the
// result is the same for any number of threads. gw starts at 0.
template <typename T> void weight_grad(const Geometry& g, const T* gy, const T* x, T* gw) {
  const auto gs = groups<T>(g.M);
  const I no = g.Co / R + g.Co % R, nc = g.Ci / R + g.Ci % R, kk = g.k * g.k, rows = g.B * g.Ho;
  const I chunk = std::max<I>(1, 128 / g.Wo);  // rows at a time, so that they stay in the cache for all taps
  auto block = [](I n, I C) { return n < C / R ? n * R : n - C / R + C / R * R; };  // blocks of R, then of 1
  at::parallel_for(0, gs.size() * no * nc * kk, 1, [&](I begin, I end) {
    for (I r = 0; r < rows; r += chunk) for (I task = begin; task < end; task++) {
      const Group& group = gs[task / (kk * nc * no)];
      const I t = task % kk, c = block(task / kk % nc, g.Ci), o = block(task / (kk * nc) % no, g.Co), m = group.m;
      with_lanes<T>(group.L, [&](auto l) {
        constexpr int L = l();
        auto f = o + R <= g.Co / R * R ? (c + R <= g.Ci / R * R ? tap_grad<T, L, R, R> : tap_grad<T, L, R, 1>)
                                       : (c + R <= g.Ci / R * R ? tap_grad<T, L, 1, R> : tap_grad<T, L, 1, 1>);
        f(g, t / g.k, t % g.k, r, std::min(r + chunk, rows), gy + o * g.M + m, x + c * g.M + m,
          gw + ((o * g.Ci + c) * kk + t) * g.M + m);
      });
    }
  });
}

Tensor nhwc(const Tensor& t) { return t.contiguous(at::MemoryFormat::ChannelsLast); }

Geometry geometry(at::IntArrayRef x, at::IntArrayRef w, I s, I p) {
  TORCH_CHECK(x.size() == 4 && w.size() == 5 && w[2] == w[3] && x[1] == w[1] * w[4] && s > 0 && p >= 0,
              "lanes: x ", x, " and weight ", w, " do not fit");
  const I k = w[2], Ho = (x[2] + 2 * p - k) / s + 1, Wo = (x[3] + 2 * p - k) / s + 1;
  TORCH_CHECK(x[2] + 2 * p >= k && x[3] + 2 * p >= k, "lanes: kernel larger than the image");
  return {x[0], w[1], x[2], x[3], w[0], Ho, Wo, k, s, p, w[4]};
}

Tensor forward(const Tensor& x_, const Tensor& w_, I s, I p) {
  const auto g = geometry(x_.sizes(), w_.sizes(), s, p);
  const auto x = nhwc(x_), w = w_.contiguous();
  auto y = at::empty({g.B, g.Co * g.M, g.Ho, g.Wo}, x.options(), at::MemoryFormat::ChannelsLast);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "lanes", [&] {
    convolve<scalar_t>(g, false, x.const_data_ptr<scalar_t>(), w.const_data_ptr<scalar_t>(), y.data_ptr<scalar_t>());
  });
  return y;
}
Tensor grad_input(const Tensor& gy_, const Tensor& w_, at::IntArrayRef shape, I s, I p) {
  const auto g = geometry(shape, w_.sizes(), s, p);
  const auto gy = nhwc(gy_), w = w_.contiguous();
  auto gx = at::empty(shape, gy.options(), at::MemoryFormat::ChannelsLast);
  AT_DISPATCH_FLOATING_TYPES(gy.scalar_type(), "lanes", [&] {
    convolve<scalar_t>(g, true, gy.const_data_ptr<scalar_t>(), w.const_data_ptr<scalar_t>(), gx.data_ptr<scalar_t>());
  });
  return gx;
}
Tensor grad_weight(const Tensor& gy_, const Tensor& x_, at::IntArrayRef shape, I s, I p) {
  const auto g = geometry(x_.sizes(), shape, s, p);
  const auto gy = nhwc(gy_), x = nhwc(x_);
  auto gw = at::zeros(shape, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "lanes", [&] {
    weight_grad<scalar_t>(g, gy.const_data_ptr<scalar_t>(), x.const_data_ptr<scalar_t>(), gw.data_ptr<scalar_t>());
  });
  return gw;
}

}  // namespace

TORCH_LIBRARY(threeregime, m) {
  m.def("conv2d(Tensor x, Tensor w, int stride, int padding) -> Tensor");
  m.def("grad_input(Tensor gy, Tensor w, SymInt[] shape, int stride, int padding) -> Tensor");
  m.def("grad_weight(Tensor gy, Tensor x, SymInt[] shape, int stride, int padding) -> Tensor");
}
TORCH_LIBRARY_IMPL(threeregime, CPU, m) {
  m.impl("conv2d", forward);
  m.impl("grad_input", grad_input);
  m.impl("grad_weight", grad_weight);
}
