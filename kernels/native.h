// What the programs beside this file share: vectors of the processor's width, buffers,
// and loops on XLA's threads.

#ifndef KERNELS_NATIVE_H_
#define KERNELS_NATIVE_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace convnets {

// A processor with 32 registers of kLanes floats holds sums in 24 of them, one with 16
// registers in twelve.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kSums = 24;
#elif defined(__AVX__)
constexpr int kLanes = 8, kSums = 12;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kSums = 24;
#else
constexpr int kLanes = 4, kSums = 12;
#endif
typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4)));

inline Vector Load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
inline void Store(float* to, Vector v) { *reinterpret_cast<Vector*>(to) = v; }

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Uninitialised floats that begin with a line of the cache, so that no vector lies in two
// lines. With memory aligned to 16 bytes the layers took 6% longer.
constexpr size_t kLine = 64;
struct Deleter {
  void operator()(float* floats) const {
    ::operator delete[](floats, std::align_val_t(kLine));
  }
};
using Buffer = std::unique_ptr<float[], Deleter>;

inline Buffer MakeBuffer(int64_t floats) {
  return Buffer(new (std::align_val_t(kLine)) float[floats]);
}

// What a call returns if it gets no memory; training/memory.py knows the words.
inline xla::ffi::Error OutOfMemory(const std::string& call) {
  return xla::ffi::Error(xla::ffi::ErrorCode::kResourceExhausted,
                         "Out of memory in " + call);
}

// Runs task(0, scratch), ..., task(count - 1, scratch) on the pool's threads and on this
// one. Each thread has a scratch of `floats` floats for its tasks and frees it after the
// last one, before this function returns. This thread never waits for a thread that has
// not begun, because the pool may be busy with threads that wait as it does. If a task or
// its scratch gets no memory, std::bad_alloc is thrown here, after the other tasks.
template <typename Pool, typename Task>
void InParallel(Pool& pool, int64_t count, int64_t floats, const Task& task) {
  struct Shared {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::condition_variable done;
    int64_t finished = 0;
  };
  auto shared = std::make_shared<Shared>();
  auto run = [shared, count, floats, &task] {
    int64_t mine = 0;
    {
      Buffer scratch;
      for (int64_t i; (i = shared->next.fetch_add(1)) < count; ++mine) {
        try {
          if (!scratch && floats > 0) scratch = MakeBuffer(floats);
          task(i, scratch.get());
        } catch (const std::bad_alloc&) {
          shared->failed = true;
        }
      }
    }
    if (mine == 0) return;
    std::lock_guard<std::mutex> lock(shared->mutex);
    shared->finished += mine;
    if (shared->finished == count) shared->done.notify_all();
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(run));
  run();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->done.wait(lock, [&] { return shared->finished == count; });
  if (shared->failed) throw std::bad_alloc();
}

template <typename Pool, typename Task>
void InParallel(Pool& pool, int64_t count, const Task& task) {
  InParallel(pool, count, 0, [&task](int64_t i, float*) { task(i); });
}

}  // namespace convnets

#endif  // KERNELS_NATIVE_H_
