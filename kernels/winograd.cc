// 3x3 convolutions with stride 1 and their kernels' gradients, by Winograd's minimal
// filtering F(2x2, 3x3), for the CPU that compiles this file.
//
// The source is Lavin, Gray, 2015, Fast algorithms for convolutional neural networks,
// section 4. A tile of 2x2 outputs y sees 4x4 pixels d, and
//
//   y = A' [(G g G') * (B' d B)] A      with one product * for each of 16 elements,
//   dg = G' [(A dy A') * (B' d B)] G,   summed over tiles before the last transform.
//
// That is 16 multiplications where the definition has 36. With channels each element is a
// product of matrices, [tiles, Cin] by [Cin, Cout], or for the gradient [Cin, tiles] by
// [tiles, Cout]. Tiles are taken a block at a time, so that the data between the
// transforms stay in the cache.
//
// The order of the sums depends only on the shapes, not on the number of threads.

#include <vector>

#include "native.h"

namespace convnets {
namespace {

namespace ffi = xla::ffi;

constexpr int kElements = 16;           // a transformed tile has so many
constexpr int kRows = kSums / 2;        // Multiply takes so many tiles at once
constexpr int64_t kPanel = 2 * kLanes;  // and at most so many output channels
constexpr int64_t kCache = 256 << 10;   // a block's bytes, unless kTiles need more
constexpr int64_t kTiles = 48;          // a block's tiles, at least
constexpr int kInputs = kLanes > 4 ? kLanes / 2 : 4;  // Correlate's input channels
constexpr int64_t kPartChannels = 64;  // a part of a gradient has so many in and out
constexpr int64_t kSumsSize = kElements * kPartChannels * kPartChannels;

static_assert(kTiles % kRows == 0, "a block is a multiple of what Multiply takes");

struct Layer {
  int64_t n, h, w, cin;  // images
  int64_t ho, wo, cout;  // outputs
  int64_t low[2];        // padding above and to the left

  int64_t rows() const { return CeilDiv(ho, 2); }  // of tiles
  int64_t columns() const { return CeilDiv(wo, 2); }
  int64_t tiles() const { return n * rows() * columns(); }

  // The tiles in a block, if so many channels are transformed.
  int64_t block(int64_t channels) const {
    const int64_t fit = kCache / (4 * kElements * channels);
    const int64_t all = CeilDiv(tiles(), kRows) * kRows;
    return std::min(all, std::max(kTiles, fit / kRows * kRows));
  }
};

// A tile's place. Tiles follow each other row by row and image by image.
struct Place {
  Place(const Layer& layer, int64_t tile)
      : rows(layer.rows()),
        columns(layer.columns()),
        n(tile / columns / rows),
        row(tile / columns % rows),
        column(tile % columns) {}

  void Advance() {
    if (++column < columns) return;
    column = 0;
    if (++row < rows) return;
    row = 0;
    ++n;
  }

  int64_t rows, columns, n, row, column;
};

// Points to the size x size pixels from (h, w) on, and to `outside` where the image
// [height, width, channels] has no pixel.
template <int size, typename Float>
struct Pixels {
  Pixels(Float* image, int64_t height, int64_t width, int64_t channels, int64_t h,
         int64_t w, Float* outside) {
    Float* first = image + (h * width + w) * channels;
    if (h >= 0 && w >= 0 && h + size <= height && w + size <= width) {
      for (int i = 0; i < size; ++i) {
        for (int j = 0; j < size; ++j) at[i][j] = first + (i * width + j) * channels;
      }
      return;
    }
    for (int i = 0; i < size; ++i) {
      for (int j = 0; j < size; ++j) {
        const bool inside = h + i >= 0 && h + i < height && w + j >= 0 && w + j < width;
        at[i][j] = inside ? first + (i * width + j) * channels : outside;
      }
    }
  }

  Float* at[size][size];
};

// Transformed tiles are [kElements][channels / kLanes][block][kLanes]. Elements lie a few
// floats further apart than that, or all would share the same places of the cache.
int64_t Stride(int64_t block, int64_t channels) { return block * channels + 2 * kLanes; }

// Loads every step-th float.
Vector Gather(const float* from, int64_t step) {
  if (step == 1) return Load(from);
  Vector v;
  for (int i = 0; i < kLanes; ++i) v[i] = from[i * step];
  return v;
}

// Writes B' d B of some tiles and of `width` channels to the transformed tiles v.
void TransformImages(const Layer& layer, const float* images, int64_t first,
                     int64_t count, int64_t channel, int64_t width, int64_t block,
                     float* v) {
  const int64_t stride = Stride(block, width);
  const std::vector<float> zeros(layer.cin);
  Place place(layer, first);
  for (int64_t t = 0; t < count; ++t, place.Advance()) {
    const Pixels<4, const float> d(
        images + place.n * layer.h * layer.w * layer.cin + channel, layer.h, layer.w,
        layer.cin, 2 * place.row - layer.low[0], 2 * place.column - layer.low[1],
        zeros.data());
    for (int64_t c = 0; c < width; c += kLanes) {
      Vector b[4][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const Vector d0 = Load(d.at[0][j] + c), d1 = Load(d.at[1][j] + c),
                     d2 = Load(d.at[2][j] + c), d3 = Load(d.at[3][j] + c);
        b[0][j] = d0 - d2;
        b[1][j] = d1 + d2;
        b[2][j] = d2 - d1;
        b[3][j] = d1 - d3;
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        float* row = v + 4 * i * stride + c * block + t * kLanes;
        Store(row, b[i][0] - b[i][2]);
        Store(row + stride, b[i][1] + b[i][2]);
        Store(row + 2 * stride, b[i][2] - b[i][1]);
        Store(row + 3 * stride, b[i][1] - b[i][3]);
      }
    }
  }
}

// Writes G g G' of one panel of output channels to u, [cin][width] for each element.
void TransformKernel(const Layer& layer, const float* kernel, int64_t in_step,
                     int64_t out_step, int64_t first, int64_t width, float* u) {
  const int64_t tap = layer.cin * layer.cout, stride = Stride(layer.cin, layer.cout);
  for (int64_t i = 0; i < layer.cin; ++i) {
    for (int64_t o = 0; o < width; o += kLanes) {
      const float* g = kernel + i * in_step + (first + o) * out_step;
      Vector a[4][3];
      for (int k = 0; k < 3; ++k) {
        const Vector g0 = Gather(g + k * tap, out_step),
                     g1 = Gather(g + (3 + k) * tap, out_step),
                     g2 = Gather(g + (6 + k) * tap, out_step);
        a[0][k] = g0;
        a[1][k] = (g0 + g1 + g2) * 0.5f;
        a[2][k] = (g0 - g1 + g2) * 0.5f;
        a[3][k] = g2;
      }
      float* to = u + i * width + o;
      for (int r = 0; r < 4; ++r, to += 4 * stride) {
        Store(to, a[r][0]);
        Store(to + stride, (a[r][0] + a[r][1] + a[r][2]) * 0.5f);
        Store(to + 2 * stride, (a[r][0] - a[r][1] + a[r][2]) * 0.5f);
        Store(to + 3 * stride, a[r][2]);
      }
    }
  }
}

// Computes m [tiles, outputs] = v [tiles, cin] u [cin, outputs] of one element, for kRows
// tiles and as many outputs as `vectors` hold. Rows behind the last tile hold anything,
// and nothing reads their products.
template <int vectors>
void Multiply(const float* v, int64_t cin, int64_t block, const float* u, float* m) {
  Vector sum[kRows][vectors] = {};
  for (int64_t c = 0; c < cin; c += kLanes, v += block * kLanes) {
    for (int i = 0; i < kLanes; ++i, u += vectors * kLanes) {
      Vector y[vectors];
      for (int k = 0; k < vectors; ++k) y[k] = Load(u + k * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        for (int k = 0; k < vectors; ++k) sum[r][k] += v[r * kLanes + i] * y[k];
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < vectors; ++k) {
      Store(m + (k * block + r) * kLanes, sum[r][k]);
    }
  }
}

// Writes A' m A of the transformed tiles m to the outputs.
void TransformOutputs(const Layer& layer, const float* m, int64_t first, int64_t count,
                      int64_t block, float* outputs) {
  const int64_t stride = Stride(block, layer.cout);
  std::vector<float> nowhere(layer.cout);
  Place place(layer, first);
  for (int64_t t = 0; t < count; ++t, place.Advance()) {
    const Pixels<2, float> y(outputs + place.n * layer.ho * layer.wo * layer.cout,
                             layer.ho, layer.wo, layer.cout, 2 * place.row,
                             2 * place.column, nowhere.data());
    for (int64_t c = 0; c < layer.cout; c += kLanes) {
      Vector a[2][4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const float* column = m + j * stride + c * block + t * kLanes;
        const Vector m0 = Load(column), m1 = Load(column + 4 * stride),
                     m2 = Load(column + 8 * stride), m3 = Load(column + 12 * stride);
        a[0][j] = m0 + m1 + m2;
        a[1][j] = m1 - m2 - m3;
      }
      for (int i = 0; i < 2; ++i) {
        Store(y.at[i][0] + c, a[i][0] + a[i][1] + a[i][2]);
        Store(y.at[i][1] + c, a[i][1] - a[i][2] - a[i][3]);
      }
    }
  }
}

ffi::Error Convolution(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> images,
                       ffi::Buffer<ffi::F32> kernel, ffi::Span<const int64_t> low,
                       bool outputs_first, ffi::ResultBuffer<ffi::F32> outputs,
                       ffi::ResultBuffer<ffi::F32> workspace) try {
  const auto x = images.dimensions(), y = outputs->dimensions();
  const Layer layer = {x[0], x[1], x[2], x[3], y[1], y[2], y[3], {low[0], low[1]}};
  const int64_t in_step = outputs_first ? 1 : layer.cout;
  const int64_t out_step = outputs_first ? layer.cin : 1;
  const int64_t panels = CeilDiv(layer.cout, kPanel);
  const int64_t u_stride = Stride(layer.cin, layer.cout);
  if (workspace->element_count() < kElements * u_stride) {
    return ffi::Error::InvalidArgument("convnets_winograd: the workspace is too small");
  }
  // The transformed kernel is [kElements][panel][cin][width].
  const auto panel = [&](int64_t p) {
    return workspace->typed_data() + layer.cin * p * kPanel;
  };
  const auto width = [&](int64_t p) { return std::min(kPanel, layer.cout - p * kPanel); };
  InParallel(pool, panels, [&](int64_t p) {
    TransformKernel(layer, kernel.typed_data(), in_step, out_step, p * kPanel, width(p),
                    panel(p));
  });
  const int64_t block = layer.block(layer.cin + layer.cout), tiles = layer.tiles();
  const int64_t v_stride = Stride(block, layer.cin);
  const int64_t m_stride = Stride(block, layer.cout);
  const int64_t floats = kElements * (v_stride + m_stride);
  InParallel(pool, CeilDiv(tiles, block), floats, [&](int64_t task, float* v) {
    float* m = v + kElements * v_stride;
    const int64_t first = task * block, count = std::min(block, tiles - first);
    TransformImages(layer, images.typed_data(), first, count, 0, layer.cin, block, v);
    for (int e = 0; e < kElements; ++e) {
      for (int64_t p = 0; p < panels; ++p) {
        const float* up = panel(p) + e * u_stride;
        for (int64_t r = 0; r < count; r += kRows) {
          (width(p) == kPanel ? Multiply<2> : Multiply<1>)(
              v + e * v_stride + r * kLanes, layer.cin, block, up,
              m + e * m_stride + p * kPanel * block + r * kLanes);
        }
      }
    }
    TransformOutputs(layer, m, first, count, block, outputs->typed_data());
  });
  return ffi::Error::Success();
} catch (const std::bad_alloc&) {
  return OutOfMemory("convnets_winograd");
}

// Writes A dy A' of some tiles and of `width` channels to the transformed tiles d.
void TransformGradients(const Layer& layer, const float* dy, int64_t first,
                        int64_t count, int64_t channel, int64_t width, int64_t block,
                        float* d) {
  const int64_t stride = Stride(block, width);
  const std::vector<float> zeros(layer.cout);
  Place place(layer, first);
  for (int64_t t = 0; t < count; ++t, place.Advance()) {
    const Pixels<2, const float> y(
        dy + place.n * layer.ho * layer.wo * layer.cout + channel, layer.ho, layer.wo,
        layer.cout, 2 * place.row, 2 * place.column, zeros.data());
    for (int64_t c = 0; c < width; c += kLanes) {
      Vector a[4][2];
      for (int j = 0; j < 2; ++j) {
        const Vector y0 = Load(y.at[0][j] + c), y1 = Load(y.at[1][j] + c);
        a[0][j] = y0;
        a[1][j] = y0 + y1;
        a[2][j] = y0 - y1;
        a[3][j] = -y1;
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        float* row = d + 4 * i * stride + c * block + t * kLanes;
        Store(row, a[i][0]);
        Store(row + stride, a[i][0] + a[i][1]);
        Store(row + 2 * stride, a[i][0] - a[i][1]);
        Store(row + 3 * stride, -a[i][1]);
      }
    }
  }
}

// Adds v' d of one element to du [inputs, outputs], for kInputs inputs and as many
// outputs as `vectors` hold. The rows of du are `width` apart.
template <int vectors>
void Correlate(const float* v, const float* d, int64_t count, int64_t block, float* du,
               int64_t width) {
  Vector sum[kInputs][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < kInputs; ++r) {
    for (int k = 0; k < vectors; ++k) sum[r][k] = Load(du + r * width + k * kLanes);
  }
  for (int64_t t = 0; t < count; ++t, v += kLanes, d += kLanes) {
    Vector y[vectors];
    for (int k = 0; k < vectors; ++k) y[k] = Load(d + k * block * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kInputs; ++r) {
      for (int k = 0; k < vectors; ++k) sum[r][k] += v[r] * y[k];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kInputs; ++r) {
    for (int k = 0; k < vectors; ++k) Store(du + r * width + k * kLanes, sum[r][k]);
  }
}

// The inputs and outputs whose part of a kernel's gradient one task sums up.
struct Part {
  int64_t input, inputs, output, outputs;
};

Part PartOf(const Layer& layer, int64_t i) {
  const int64_t across = CeilDiv(layer.cout, kPartChannels);
  const int64_t input = i / across * kPartChannels, output = i % across * kPartChannels;
  return {input, std::min(kPartChannels, layer.cin - input), output,
          std::min(kPartChannels, layer.cout - output)};
}

// Adds the contribution of the tiles to du [kElements][inputs][outputs].
void Sum(const Layer& layer, const float* images, const float* dy, const Part& part,
         int64_t first, int64_t end, float* du) {
  const int64_t block = layer.block(part.inputs + part.outputs);
  const int64_t v_stride = Stride(block, part.inputs);
  const int64_t d_stride = Stride(block, part.outputs);
  const Buffer v = MakeBuffer(kElements * v_stride), d = MakeBuffer(kElements * d_stride);
  for (; first < end; first += block) {
    const int64_t count = std::min(block, end - first);
    TransformImages(layer, images, first, count, part.input, part.inputs, block,
                    v.get());
    TransformGradients(layer, dy, first, count, part.output, part.outputs, block,
                       d.get());
    float* sums = du;
    for (int e = 0; e < kElements; ++e, sums += part.inputs * part.outputs) {
      for (int64_t o = 0; o < part.outputs; o += kPanel) {
        const auto correlate = part.outputs - o > kLanes ? Correlate<2> : Correlate<1>;
        for (int64_t i = 0; i < part.inputs; i += kInputs) {
          const int64_t lane = i % kLanes;
          correlate(v.get() + e * v_stride + (i - lane) * block + lane,
                    d.get() + e * d_stride + o * block, count, block,
                    sums + i * part.outputs + o, part.outputs);
        }
      }
    }
  }
}

// Writes G' du G of the sum of all copies of du to a part of dw [3, 3, cin, cout].
void TransformSums(const Layer& layer, const float* du, int64_t copies,
                   const Part& part, float* dw) {
  const int64_t tap = layer.cin * layer.cout, size = part.inputs * part.outputs;
  for (int64_t at = 0; at < size; at += kLanes) {
    Vector u[4][4] = {};
    for (int64_t copy = 0; copy < copies; ++copy) {
      const float* from = du + copy * kSumsSize + at;
      for (int e = 0; e < kElements; ++e) u[e / 4][e % 4] += Load(from + e * size);
    }
    Vector a[3][4];
    for (int j = 0; j < 4; ++j) {
      const Vector even = (u[1][j] + u[2][j]) * 0.5f, odd = (u[1][j] - u[2][j]) * 0.5f;
      a[0][j] = u[0][j] + even;
      a[1][j] = odd;
      a[2][j] = even + u[3][j];
    }
    float* to = dw + (part.input + at / part.outputs) * layer.cout + part.output +
                at % part.outputs;
    for (int k = 0; k < 3; ++k, to += 3 * tap) {
      const Vector even = (a[k][1] + a[k][2]) * 0.5f, odd = (a[k][1] - a[k][2]) * 0.5f;
      Store(to, a[k][0] + even);
      Store(to + tap, odd);
      Store(to + 2 * tap, even + a[k][3]);
    }
  }
}

ffi::Error KernelGradient(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> images,
                          ffi::Buffer<ffi::F32> dy, ffi::Span<const int64_t> low,
                          ffi::ResultBuffer<ffi::F32> dw,
                          ffi::ResultBuffer<ffi::F32> workspace) try {
  const auto x = images.dimensions(), y = dy.dimensions();
  const Layer layer = {x[0], x[1], x[2], x[3], y[1], y[2], y[3], {low[0], low[1]}};
  // A task is one part and some of the tiles. Tasks of other tiles have their own sums.
  const int64_t tiles = layer.tiles();
  const int64_t parts =
      CeilDiv(layer.cin, kPartChannels) * CeilDiv(layer.cout, kPartChannels);
  const int64_t copies = workspace->element_count() / (parts * kSumsSize);
  if (copies == 0) {
    return ffi::Error::InvalidArgument(
        "convnets_winograd_kernel_gradient: the workspace is too small");
  }
  float* sums = workspace->typed_data();
  InParallel(pool, parts * copies, [&](int64_t task) {
    const int64_t copy = task % copies;
    float* du = sums + task * kSumsSize;
    std::fill_n(du, kSumsSize, 0.f);
    Sum(layer, images.typed_data(), dy.typed_data(), PartOf(layer, task / copies),
        tiles * copy / copies, tiles * (copy + 1) / copies, du);
  });
  InParallel(pool, parts, [&](int64_t part) {
    TransformSums(layer, sums + part * copies * kSumsSize, copies,
                  PartOf(layer, part), dw->typed_data());
  });
  return ffi::Error::Success();
} catch (const std::bad_alloc&) {
  return OutOfMemory("convnets_winograd_kernel_gradient");
}

}  // namespace
}  // namespace convnets

namespace ffi = xla::ffi;
XLA_FFI_DEFINE_HANDLER_SYMBOL(convnets_winograd, convnets::Convolution,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Attr<ffi::Span<const int64_t>>("low")
                                  .Attr<bool>("outputs_first")
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(convnets_winograd_kernel_gradient,
                              convnets::KernelGradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Attr<ffi::Span<const int64_t>>("low")
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
