// What the stages of the rasteriser hand to each other. Plain data: no file that includes only this one depends on
// the instruction set.
#pragma once
#include <cstdint>

namespace headway {

constexpr int kTileSize = 16;               // pixels; as gsplat
constexpr float kMinAlpha = 1.f / 255.f;    // fainter contributions are skipped
constexpr float kMinTransmittance = 1e-4f;  // a pixel is done before the Gaussian that would fall below this
constexpr float kBlur = 0.3f;               // pixels squared, added to the projected covariance
constexpr float kFar = 1e10f;               // metres
constexpr float kMinCompensation = 0.005f;  // floor of the antialiasing factor

// One subject's Gaussians as `models.gaussians.Gaussians` stores them, before activation.
struct Gaussians {
  const float* means;           // [n, 3]
  const float* quats;           // [n, 4] wxyz, any length
  const float* log_scales;      // [n, 3]
  const float* opacity_logits;  // [n]
  const float* sh;              // [n, sh_bases, 3]
  int64_t count;
  int32_t sh_bases;  // 1, 4, 9 or 16
};

// Gradients of the same tensors; every entry is written.
struct GaussianGradients {
  float *means, *quats, *log_scales, *opacity_logits, *sh;
};

struct Camera {
  float rotation[9], translation[3];  // world to camera, row-major
  float center[3];                    // in the world
  float fx, fy, cx, cy;               // pixels
  float min_x, max_x, min_y, max_y;   // limits of x/z and y/z inside which the projection's Jacobian is trusted
  int32_t width, height;              // pixels
  float near;                         // metres
  bool antialiased;
};

// Gradients of one camera's rotation (9), translation (3) and fx, fy, cx, cy.
constexpr int kCameraGradients = 16;

// A Gaussian as one camera sees it. A cache line long, because tiles read it whole and in any order.
struct alignas(64) Splat {
  float x, y;                             // pixels
  float conic_xx, conic_xy, conic_yy;     // inverse covariance
  float opacity;                          // antialiasing factor included; 0 where culled
  float max_sigma;                        // beyond this exponent alpha is below kMinAlpha, with a margin
  float half_width, half_height;          // pixels, of the ellipse alpha = kMinAlpha
  float depth;                            // metres, camera z
  float color[3];
  float unused[3];
};
static_assert(sizeof(Splat) == 64, "one cache line");

struct SplatGradient {
  float x, y;
  float cov_xx, cov_xy, cov_yy;  // of the covariance, not of its inverse: less rounding. xy: each of two equal entries
  float opacity, depth, color[3];
};

// A "hit" is a pair of a splat and a tile that its ellipse reaches.
struct TileEntry {
  int32_t splat;  // place among the image's splats
  int32_t hit;    // number of this hit
};

// One image's splats, sorted by depth, and their hits, listed once by Gaussian and once by tile.
struct Bins {
  const Splat* splats;        // [visible], front to back
  const int32_t* place;       // [n] Gaussian -> its place in `splats`, or -1 if culled
  const int32_t* first_hit;   // [n + 1] hits are numbered Gaussian by Gaussian
  const int32_t* hit_tile;    // [hits]
  const int32_t* tile_start;  // [tiles + 1] into `entries`
  const TileEntry* entries;   // [hits] tile by tile, front to back inside a tile
};

struct Image {
  int32_t width, height;
  float* color;              // [3, height, width]
  float* alpha;              // [height, width]
  float* depth;              // [height, width], sum of weight times depth, or null
  int32_t* last;             // [height, width], place in the tile's list of the last splat that counted, or -1
  const float* background;   // [3]
};

struct ImageGradients {
  const float *color, *alpha, *depth;  // of Image's members; null where none
};

// The functions that are compiled once per instruction set.
struct Kernels {
  const char* name;
  int lanes;

  // Gaussians [begin, end) to splats of every view; `splats` is [views, n].
  void (*project)(const Gaussians&, const Camera*, int views, int64_t begin, int64_t end, Splat* splats);

  // Draws one tile.
  void (*draw_tile)(const Bins&, int tile, float max_alpha, const Image&);

  // Gradients of one tile's hits, written to `gradients[hit]`. Hits behind the last splat that counted in any pixel
  // are not written: `last_splat` (a place in `splats`, or -1) tells which.
  void (*draw_tile_backward)(const Bins&, int tile, float max_alpha, const Image&, const ImageGradients&,
                             SplatGradient* gradients, int32_t* last_splat);

  // Sums the hits of Gaussians [begin, end) over tiles, then views, in that order, and takes them through the
  // projection. `gradients[view]`, `last_splat[view]`: what draw_tile_backward left. `camera_gradients`: null, or
  // [views, kCameraGradients] to which this range of Gaussians adds its part.
  void (*project_backward)(const Gaussians&, const Camera*, const Bins*, int views, int64_t begin, int64_t end,
                           const SplatGradient* const* gradients, const int32_t* const* last_splat,
                           const GaussianGradients&, float* camera_gradients);
};

}  // namespace headway
