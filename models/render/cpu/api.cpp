// The C interface that models/render/rasterizer.py loads with ctypes: one call draws all images of a batch.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "binning.h"
#include "threads.h"
#include "types.h"

namespace headway {

extern const Kernels baseline;
#ifdef HEADWAY_X86
extern const Kernels avx2, avx512;
#endif

// Mirrored by `_Scene` in rasterizer.py. All tensors are contiguous float32; `images` = batch * views.
struct Scene {
  int64_t batch, views, count;
  int32_t width, height, sh_bases, antialiased, threads;
  float near, max_alpha;
  const float *means, *quats, *log_scales, *opacity_logits, *sh;  // [batch, count, ...]
  const float *world_to_camera, *intrinsics, *background;         // [images, 4, 4], [images, 3, 3], [images, 3]
  float *color, *alpha, *depth;  // [images, 3 | 1 | 1, height, width]; depth may be null
};

// Mirrored by `_Gradients`. Null: not given, not wanted.
struct Gradients {
  const float *color, *alpha, *depth;
  float *means, *quats, *log_scales, *opacity_logits, *sh;
  float *world_to_camera, *intrinsics;
};

namespace {

constexpr int64_t kChunk = 256;  // Gaussians per task; also the unit of the camera gradients' fixed summation order

const Kernels*& chosen_kernels() {
  static const Kernels* kernels = [] {
#ifdef HEADWAY_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"))
      return &avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) return &avx2;
#endif
    return &baseline;
  }();
  return kernels;
}

Camera make_camera(const Scene& scene, int64_t image) {
  const float* m = scene.world_to_camera + 16 * image;
  const float* k = scene.intrinsics + 9 * image;
  Camera c = {};
  for (int i = 0; i < 3; i++) {
    for (int j = 0; j < 3; j++) c.rotation[3 * i + j] = m[4 * i + j];
    c.translation[i] = m[4 * i + 3];
  }
  for (int j = 0; j < 3; j++)
    for (int i = 0; i < 3; i++) c.center[j] -= c.rotation[3 * i + j] * c.translation[i];
  c.fx = k[0], c.fy = k[4], c.cx = k[2], c.cy = k[5];
  c.width = scene.width, c.height = scene.height;
  // The image and a margin of 0.15 of it on every side.
  c.min_x = -(c.cx + 0.15f * c.width) / c.fx, c.max_x = (1.15f * c.width - c.cx) / c.fx;
  c.min_y = -(c.cy + 0.15f * c.height) / c.fy, c.max_y = (1.15f * c.height - c.cy) / c.fy;
  c.near = scene.near;
  c.antialiased = scene.antialiased != 0;
  return c;
}

Gaussians gaussians_of(const Scene& s, int64_t subject) {
  const int64_t first = subject * s.count;
  return {s.means + 3 * first, s.quats + 4 * first, s.log_scales + 3 * first, s.opacity_logits + first,
          s.sh + 3 * s.sh_bases * first, s.count, s.sh_bases};
}

// What the backward pass needs of the forward pass.
struct Frame {
  std::vector<Camera> cameras;   // [images]
  std::vector<ImageBins> bins;   // [images]
  std::unique_ptr<int32_t[]> last;  // [images, height, width]
};

Image image_of(const Scene& s, const Frame& frame, int64_t i) {
  const int64_t plane = int64_t(s.width) * s.height;
  return {s.width, s.height, s.color + 3 * plane * i, s.alpha + plane * i, s.depth ? s.depth + plane * i : nullptr,
          frame.last.get() + plane * i, s.background + 3 * i};
}

int64_t chunks_of(int64_t count) { return (count + kChunk - 1) / kChunk; }

void project_all(const Scene& s, const Kernels& kernels, Frame& frame) {
  const int64_t images = s.batch * s.views, chunks = chunks_of(s.count);
  const std::unique_ptr<Splat[]> splats(new Splat[images * s.count]);
  parallel_for(s.batch * chunks, s.threads, [&](int64_t task) {
    const int64_t subject = task / chunks, begin = task % chunks * kChunk;
    const int64_t first = subject * s.views;
    kernels.project(gaussians_of(s, subject), frame.cameras.data() + first, int(s.views), begin,
                    std::min(begin + kChunk, s.count), splats.get() + first * s.count);
  });
  parallel_for(images, s.threads, [&](int64_t i) {
    frame.bins[i] = bin_splats(splats.get() + i * s.count, s.count, s.width, s.height);
  });
}

std::unique_ptr<Frame> forward(const Scene& s) {
  const Kernels& kernels = *chosen_kernels();
  const int64_t images = s.batch * s.views, tiles = int64_t(tiles_across(s.width)) * tiles_across(s.height);
  auto frame = std::make_unique<Frame>();
  for (int64_t i = 0; i < images; i++) frame->cameras.push_back(make_camera(s, i));
  frame->bins.resize(images);
  frame->last.reset(new int32_t[images * s.width * s.height]);
  project_all(s, kernels, *frame);
  parallel_for(images * tiles, s.threads, [&](int64_t task) {
    const int64_t i = task / tiles;
    kernels.draw_tile(frame->bins[i].view(), int(task % tiles), s.max_alpha, image_of(s, *frame, i));
  });
  return frame;
}

// Gradients of the hits of one subject's images, tile by tile.
struct HitGradients {
  std::vector<std::unique_ptr<SplatGradient[]>> rows;        // [views][hits], unset where last_splat says so
  std::vector<std::vector<int32_t>> last_splat;              // [views][tiles]
  std::vector<Bins> bins;                                    // [views]
};

HitGradients draw_backward(const Scene& s, const Frame& frame, const Gradients& v, int64_t subject) {
  const Kernels& kernels = *chosen_kernels();
  const int64_t tiles = int64_t(tiles_across(s.width)) * tiles_across(s.height);
  const int64_t plane = int64_t(s.width) * s.height, first = subject * s.views;
  HitGradients out;
  for (int64_t view = 0; view < s.views; view++) {
    const ImageBins& bins = frame.bins[first + view];
    out.rows.emplace_back(new SplatGradient[bins.hits()]);
    out.last_splat.emplace_back(tiles, -1);
    out.bins.push_back(bins.view());
  }
  parallel_for(s.views * tiles, s.threads, [&](int64_t task) {
    const int64_t view = task / tiles, i = first + view;
    const ImageGradients image = {v.color ? v.color + 3 * plane * i : nullptr, v.alpha ? v.alpha + plane * i : nullptr,
                                  v.depth ? v.depth + plane * i : nullptr};
    kernels.draw_tile_backward(out.bins[view], int(task % tiles), s.max_alpha, image_of(s, frame, i), image,
                               out.rows[view].get(), out.last_splat[view].data());
  });
  return out;
}

// Sums the chunks' camera gradients in order and writes them as matrices.
void write_camera_gradients(const Scene& s, const std::vector<float>& parts, int64_t subject, const Gradients& v) {
  const int64_t stride = s.views * kCameraGradients;
  for (int64_t view = 0; view < s.views; view++) {
    double total[kCameraGradients] = {};
    for (size_t at = view * kCameraGradients; at < parts.size(); at += stride)
      for (int j = 0; j < kCameraGradients; j++) total[j] += parts[at + j];
    float* m = v.world_to_camera + 16 * (subject * s.views + view);
    float* k = v.intrinsics + 9 * (subject * s.views + view);
    std::fill(m, m + 16, 0.f), std::fill(k, k + 9, 0.f);
    for (int i = 0; i < 3; i++) {
      for (int j = 0; j < 3; j++) m[4 * i + j] = float(total[3 * i + j]);
      m[4 * i + 3] = float(total[9 + i]);
    }
    k[0] = float(total[12]), k[4] = float(total[13]), k[2] = float(total[14]), k[5] = float(total[15]);
  }
}

void backward(const Scene& s, const Frame& frame, const Gradients& v) {
  const Kernels& kernels = *chosen_kernels();
  const int64_t chunks = chunks_of(s.count);
  for (int64_t subject = 0; subject < s.batch; subject++) {  // one at a time, to bound memory
    const HitGradients hits = draw_backward(s, frame, v, subject);
    std::vector<const SplatGradient*> rows;
    std::vector<const int32_t*> last_splat;
    for (int64_t view = 0; view < s.views; view++) {
      rows.push_back(hits.rows[view].get());
      last_splat.push_back(hits.last_splat[view].data());
    }
    std::vector<float> camera_parts(v.world_to_camera ? chunks * s.views * kCameraGradients : 0, 0.f);
    const int64_t first = subject * s.count;
    const GaussianGradients out = {v.means + 3 * first, v.quats + 4 * first, v.log_scales + 3 * first,
                                   v.opacity_logits + first, v.sh + 3 * s.sh_bases * first};
    parallel_for(chunks, s.threads, [&](int64_t chunk) {
      const int64_t begin = chunk * kChunk;
      float* cameras = v.world_to_camera ? camera_parts.data() + chunk * s.views * kCameraGradients : nullptr;
      kernels.project_backward(gaussians_of(s, subject), frame.cameras.data() + subject * s.views, hits.bins.data(),
                               int(s.views), begin, std::min(begin + kChunk, s.count), rows.data(), last_splat.data(),
                               out, cameras);
    });
    if (v.world_to_camera) write_camera_gradients(s, camera_parts, subject, v);
  }
}

thread_local const char* last_error = "";

// Exceptions must not cross the C interface.
template <class Body>
bool guarded(const Body& body) {
  try {
    body();
    return true;
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
  } catch (const std::length_error&) {
    last_error = "more than 2^31 pairs of Gaussian and tile in one image";
  } catch (...) {
    last_error = "unexpected failure";
  }
  return false;
}

}  // namespace
}  // namespace headway

extern "C" {

// Draws all images. Returns what headway_backward needs, to be freed by headway_release, or null on failure.
void* headway_forward(const headway::Scene* scene) {
  void* frame = nullptr;
  headway::guarded([&] { frame = headway::forward(*scene).release(); });
  return frame;
}

// Writes all gradients; `scene` must be the one of headway_forward, its images unchanged. Returns 0 on success.
int headway_backward(const headway::Scene* scene, const void* frame, const headway::Gradients* gradients) {
  const auto body = [&] { headway::backward(*scene, *static_cast<const headway::Frame*>(frame), *gradients); };
  return headway::guarded(body) ? 0 : 1;
}

void headway_release(void* frame) { delete static_cast<headway::Frame*>(frame); }

const char* headway_last_error() { return headway::last_error; }

const char* headway_instruction_set() { return headway::chosen_kernels()->name; }

// Chooses a narrower instruction set than the machine's best. Returns 0, or 1 if the name is not known.
int headway_use_instruction_set(const char* name) {
#ifdef HEADWAY_X86
  const headway::Kernels* known[] = {&headway::baseline, &headway::avx2, &headway::avx512};
#else
  const headway::Kernels* known[] = {&headway::baseline};
#endif
  for (const headway::Kernels* kernels : known)
    if (!strcmp(kernels->name, name)) return headway::chosen_kernels() = kernels, 0;
  return 1;
}

}  // extern "C"
