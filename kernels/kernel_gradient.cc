// The gradient of a convolution in its kernel, for the CPU that compiles this file.
//
//   dw[kh, kw, i, o] = sum over n, h, w of
//       images[n, h * stride + kh * dilation - pad, ..., i] * dy[n, h, w, o]
//
// For each pixel that is the outer product of two short vectors, which are contiguous in
// NHWC. A block of dw stays in registers while the pixels go by; an element of the image
// is broadcast, and dy is read in whole vectors. No array is transposed.
//
// images, with their padding, and dy are copied, some pixels at a time, into panels of
// few channels that fit the second-level cache. The taps of a row of the kernel lie side
// by side in such a panel: tap kw of channel c is element kw * channels + c.
//
// Small groups are merged until they fill a vector, and only the groups' own part of such
// a dense layer is kept.
//
// The order of the sums depends only on the shapes, not on the number of threads.

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "native.h"

namespace convnets {
namespace {

namespace ffi = xla::ffi;

constexpr int64_t kOutputs = 2 * kLanes;     // a panel's channels of dy, at most
constexpr int64_t kInputs = 64;              // a panel's channels of images, at most
constexpr int64_t kCache = 512 << 10;        // bytes of one panel of each together
constexpr int64_t kTasks = 16;               // at least, where there is enough work
constexpr int64_t kPartialBytes = 16 << 20;  // of all sums but the first, at most

struct Layer {
  int64_t n, h, w, cin;    // images
  int64_t ho, wo, cout;    // dy
  int64_t kh, kw;          // kernel
  int64_t stride[2], low[2], dilation[2];
  int64_t groups, merged;  // merged groups make one dense layer

  int64_t inputs() const { return cin / groups * merged; }  // of a dense layer
  int64_t outputs() const { return cout / groups * merged; }
};

// Pixels of dy that share a panel: some rows of one image, or whole images.
struct Chunk {
  int64_t image, images, row, rows;
};

// A walk over a panel's pixels: the floats from one image, row and pixel to the next.
struct Walk {
  int64_t images, rows, columns;
  int64_t x_image, x_row, x_column;
  int64_t dy_image, dy_row;
};

// Sums up, over the pixels, the outer product of `block` elements of x and
// vectors * kLanes elements of dy.
template <int block, int vectors>
void Outer(const float* x, const float* dy, const Walk& walk, float* sums) {
  Vector sum[block][vectors] = {};
  for (int64_t n = 0; n < walk.images; ++n) {
    for (int64_t h = 0; h < walk.rows; ++h) {
      const float* px = x + n * walk.x_image + h * walk.x_row;
      const float* pdy = dy + n * walk.dy_image + h * walk.dy_row;
      for (int64_t w = 0; w < walk.columns; ++w) {
        Vector y[vectors];
        for (int v = 0; v < vectors; ++v) {
          y[v] = Load(pdy + v * kLanes);
        }
#pragma GCC unroll 32
        for (int i = 0; i < block; ++i) {
          for (int v = 0; v < vectors; ++v) sum[i][v] += px[i] * y[v];
        }
        px += walk.x_column;
        pdy += vectors * kLanes;
      }
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < block; ++i) {
    for (int v = 0; v < vectors; ++v, sums += kLanes) {
      Store(sums, sum[i][v]);
    }
  }
}

using OuterFunction = void (*)(const float*, const float*, const Walk&, float*);

// Lists Outer for one element, for two, ..., for as many as there are registers.
template <int vectors, int... blocks>
constexpr auto Outers(std::integer_sequence<int, blocks...>) {
  return std::array<OuterFunction, sizeof...(blocks)>{Outer<blocks + 1, vectors>...};
}

constexpr auto kOuter1 = Outers<1>(std::make_integer_sequence<int, kSums>());
constexpr auto kOuter2 = Outers<2>(std::make_integer_sequence<int, kSums / 2>());

// Divides all pixels of dy into `at_least` chunks, if there are as many rows.
std::vector<Chunk> Chunks(const Layer& layer, int64_t at_least) {
  const int64_t pixels =
      std::clamp<int64_t>(layer.n * layer.ho * layer.wo / at_least, 1,
                          kCache / (4 * (kInputs + kOutputs)));
  const int64_t rows = std::clamp<int64_t>(pixels / layer.wo, 1, layer.ho);
  std::vector<Chunk> chunks;
  if (rows < layer.ho) {
    const int64_t parts = CeilDiv(layer.ho, rows);
    for (int64_t n = 0; n < layer.n; ++n) {
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t row = layer.ho * i / parts;
        chunks.push_back({n, 1, row, layer.ho * (i + 1) / parts - row});
      }
    }
    return chunks;
  }
  const int64_t images = std::max<int64_t>(1, pixels / (layer.ho * layer.wo));
  const int64_t parts = CeilDiv(layer.n, images);
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t image = layer.n * i / parts;
    chunks.push_back({image, layer.n * (i + 1) / parts - image, 0, layer.ho});
  }
  return chunks;
}

// The channels that panel `p` has of a dense layer's outputs, and the panel's width.
int64_t Channels(const Layer& layer, int64_t p) {
  return std::min(kOutputs, layer.outputs() - p * kOutputs);
}

int64_t Width(int64_t channels) { return channels > kLanes ? 2 * kLanes : kLanes; }

// Fills a panel of dy, [pixels, width], with zeros behind the last channel.
void PackOutputs(const Layer& layer, const float* dy, const Chunk& chunk,
                 int64_t channel, int64_t channels, float* panel) {
  const int64_t width = Width(channels);
  for (int64_t n = 0; n < chunk.images; ++n) {
    const int64_t pixel = ((chunk.image + n) * layer.ho + chunk.row) * layer.wo;
    const float* from = dy + pixel * layer.cout + channel;
    for (int64_t i = 0; i < chunk.rows * layer.wo; ++i) {
      std::memcpy(panel, from, channels * sizeof(float));
      std::fill(panel + channels, panel + width, 0.f);
      panel += width;
      from += layer.cout;
    }
  }
}

// Fills a panel of the images, [images, rows, columns, channels], with the padding.
void PackInputs(const Layer& layer, const float* images, const Chunk& chunk,
                int64_t rows, int64_t columns, int64_t channel, int64_t channels,
                float* panel) {
  const int64_t top = chunk.row * layer.stride[0] - layer.low[0];
  const int64_t left = std::min(layer.low[1], columns);
  const int64_t inside = std::clamp<int64_t>(layer.w, 0, columns - left);
  for (int64_t n = 0; n < chunk.images; ++n) {
    for (int64_t r = 0; r < rows; ++r, panel += columns * channels) {
      const int64_t h = top + r;
      if (h < 0 || h >= layer.h) {
        std::fill(panel, panel + columns * channels, 0.f);
        continue;
      }
      float* to = std::fill_n(panel, left * channels, 0.f);
      const float* from =
          images + (((chunk.image + n) * layer.h + h) * layer.w) * layer.cin + channel;
      if (channels == layer.cin) {
        to = std::copy_n(from, inside * channels, to);
      } else {
        for (int64_t i = 0; i < inside; ++i, from += layer.cin) {
          to = std::copy_n(from, channels, to);
        }
      }
      std::fill(to, panel + columns * channels, 0.f);
    }
  }
}

// Adds a block's sums to dw; for merged groups it adds only sums whose input and output
// are in one group. `tap` is the first tap of the kernel's row, `element` the first
// element of the block.
void Add(const Layer& layer, int64_t tap, int64_t element, int64_t block,
         int64_t input, int64_t inputs, int64_t dense, int64_t output,
         int64_t outputs, const float* sums, float* dw) {
  const int64_t cin = layer.cin / layer.groups, cout = layer.cout / layer.groups;
  for (int64_t i = 0; i < block; ++i, sums += Width(outputs)) {
    const int64_t kw = (element + i) / inputs, c = input + (element + i) % inputs;
    int64_t first = 0, last = outputs;
    if (layer.merged > 1) {
      const int64_t group = c / cin;
      first = std::clamp<int64_t>(group * cout - output, 0, outputs);
      last = std::clamp<int64_t>((group + 1) * cout - output, 0, outputs);
    }
    float* to = dw + ((tap + kw) * cin + c % cin) * layer.cout + dense * layer.outputs() +
                output;
    for (int64_t o = first; o < last; ++o) to[o] += sums[o];
  }
}

// Does one task: some chunks, for some panels of the outputs of one dense layer.
void Work(const Layer& layer, const float* images, const float* dy, const Chunk* chunk,
          const Chunk* end, int64_t dense, int64_t panel, int64_t last_panel, float* dw) {
  const int64_t inputs = layer.inputs(), outputs = layer.outputs();
  const int64_t parts = CeilDiv(inputs, kInputs);
  const int64_t columns = (layer.wo - 1) * layer.stride[1] +
                          (layer.kw - 1) * layer.dilation[1] + 1;
  const auto rows_of = [&](const Chunk& chunk) {
    return (chunk.rows - 1) * layer.stride[0] + (layer.kh - 1) * layer.dilation[0] + 1;
  };
  // dy itself is the panel if one panel has all channels.
  const bool whole = outputs == layer.cout && outputs == Width(outputs);
  int64_t x_pixels = 0, most_dy_pixels = 0;
  for (const Chunk* c = chunk; c != end; ++c) {
    x_pixels = std::max(x_pixels, c->images * rows_of(*c) * columns);
    most_dy_pixels = std::max(most_dy_pixels, c->images * c->rows * layer.wo);
  }
  const Buffer x_panel = MakeBuffer(x_pixels * CeilDiv(inputs, parts));
  const Buffer dy_panels =
      MakeBuffer(whole ? 0 : (last_panel - panel) * most_dy_pixels * kOutputs);
  float sums[kSums * kLanes];
  for (; chunk != end; ++chunk) {
    const int64_t rows = rows_of(*chunk);
    const int64_t dy_pixels = chunk->images * chunk->rows * layer.wo;
    for (int64_t p = panel; p < last_panel && !whole; ++p) {
      PackOutputs(layer, dy, *chunk, dense * outputs + p * kOutputs, Channels(layer, p),
                  dy_panels.get() + (p - panel) * dy_pixels * kOutputs);
    }
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t input = inputs * part / parts;
      const int64_t channels = inputs * (part + 1) / parts - input;
      PackInputs(layer, images, *chunk, rows, columns, dense * inputs + input, channels,
                 x_panel.get());
      // Without dilation the taps of a row lie side by side.
      const int64_t segments = layer.dilation[1] == 1 ? 1 : layer.kw;
      const int64_t elements = channels * (layer.kw / segments);
      for (int64_t p = panel; p < last_panel; ++p) {
        const float* dy_panel =
            whole ? dy + (chunk->image * layer.ho + chunk->row) * layer.wo * layer.cout
                  : dy_panels.get() + (p - panel) * dy_pixels * kOutputs;
        const int64_t width = Width(Channels(layer, p));
        const Walk walk = {chunk->images,
                           chunk->rows,
                           layer.wo,
                           rows * columns * channels,
                           layer.stride[0] * columns * channels,
                           layer.stride[1] * channels,
                           chunk->rows * layer.wo * width,
                           layer.wo * width};
        const int64_t blocks = CeilDiv(elements, kSums / (width / kLanes));
        for (int64_t kh = 0; kh < layer.kh; ++kh) {
          for (int64_t s = 0; s < segments; ++s) {
            const int64_t pixel =
                kh * layer.dilation[0] * columns + s * layer.dilation[1];
            for (int64_t b = 0; b < blocks; ++b) {
              const int64_t element = elements * b / blocks;
              const int64_t block = elements * (b + 1) / blocks - element;
              const auto outer = width > kLanes ? kOuter2[block - 1] : kOuter1[block - 1];
              outer(x_panel.get() + pixel * channels + element, dy_panel, walk, sums);
              Add(layer, kh * layer.kw + s, element, block, input, channels, dense,
                  p * kOutputs, Channels(layer, p), sums, dw);
            }
          }
        }
      }
    }
  }
}

ffi::Error KernelGradient(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> images,
                          ffi::Buffer<ffi::F32> dy, ffi::Span<const int64_t> strides,
                          ffi::Span<const int64_t> low,
                          ffi::Span<const int64_t> dilation, int64_t groups,
                          ffi::ResultBuffer<ffi::F32> dw) try {
  const auto x_dims = images.dimensions(), y_dims = dy.dimensions(),
             w_dims = dw->dimensions();
  Layer layer = {x_dims[0], x_dims[1], x_dims[2], x_dims[3],
                 y_dims[1], y_dims[2], y_dims[3], w_dims[0], w_dims[1],
                 {strides[0], strides[1]}, {low[0], low[1]},
                 {dilation[0], dilation[1]}, groups, 1};
  layer.merged =
      std::gcd(groups, std::max<int64_t>(1, kLanes / (layer.cout / groups)));
  // A task is one dense layer, some of its panels of dy and some of the chunks. Tasks of
  // other chunks have their own sums.
  const int64_t layers = groups / layer.merged;
  const int64_t panels = CeilDiv(layer.outputs(), kOutputs);
  const int64_t size = dw->element_count();
  const int64_t parts = std::clamp<int64_t>(kTasks / layers, 1, panels);
  const int64_t wanted = std::clamp<int64_t>(CeilDiv(kTasks, layers * parts), 1,
                                             1 + kPartialBytes / (4 * size));
  const std::vector<Chunk> chunks = Chunks(layer, wanted);
  const int64_t copies = std::min<int64_t>(wanted, chunks.size());
  const Buffer partial = MakeBuffer((copies - 1) * size);
  InParallel(pool, layers * parts * copies, [&](int64_t task) {
    const int64_t copy = task % copies, part = task / copies % parts;
    float* sums = copy ? partial.get() + (copy - 1) * size : dw->typed_data();
    const int64_t dense = task / (copies * parts);
    const int64_t panel = panels * part / parts, last = panels * (part + 1) / parts;
    const int64_t channel = dense * layer.outputs() + panel * kOutputs;
    const int64_t channels =
        std::min(last * kOutputs, layer.outputs()) - panel * kOutputs;
    for (int64_t row = 0; row < size / layer.cout; ++row) {
      std::fill_n(sums + row * layer.cout + channel, channels, 0.f);
    }
    const int64_t count = chunks.size();
    Work(layer, images.typed_data(), dy.typed_data(),
         chunks.data() + count * copy / copies,
         chunks.data() + count * (copy + 1) / copies, dense, panel, last, sums);
  });
  for (int64_t copy = 1; copy < copies; ++copy) {
    const float* sums = partial.get() + (copy - 1) * size;
    for (int64_t i = 0; i < size; ++i) dw->typed_data()[i] += sums[i];
  }
  return ffi::Error::Success();
} catch (const std::bad_alloc&) {
  return OutOfMemory("convnets_kernel_gradient");
}

}  // namespace
}  // namespace convnets

namespace ffi = xla::ffi;
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    convnets_kernel_gradient, convnets::KernelGradient,
    ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .Arg<ffi::Buffer<ffi::F32>>()
        .Arg<ffi::Buffer<ffi::F32>>()
        .Attr<ffi::Span<const int64_t>>("strides")
        .Attr<ffi::Span<const int64_t>>("low")
        .Attr<ffi::Span<const int64_t>>("dilation")
        .Attr<int64_t>("groups")
        .Ret<ffi::Buffer<ffi::F32>>());
