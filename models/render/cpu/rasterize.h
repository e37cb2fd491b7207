// Splats to pixels, one tile at a time; front-to-back alpha blending as in gsplat.
//
// A tile is cut into blocks of kLanes pixels, one vector each, as square as they can be: splats are small, and a long
// row of pixels would mostly miss them. Splats come front to back; each visits only the blocks that its ellipse can
// reach. A tile's state stays in the level-one cache.
#pragma once
#include "types.h"
#include "vector.h"

namespace {

using headway::Bins;
using headway::Image;
using headway::ImageGradients;
using headway::kTileSize;
using headway::Splat;
using headway::SplatGradient;
using headway::TileEntry;

constexpr int kBlockWidth = kLanes >= 8 ? 4 : 2;
constexpr int kBlockHeight = kLanes / kBlockWidth;
constexpr int kAcross = kTileSize / kBlockWidth, kDown = kTileSize / kBlockHeight;  // blocks in a tile
constexpr int kBlocks = kAcross * kDown;  // at most 64, so that one bit each fits a word

struct TileArea {
  int x, y;           // first pixel
  int columns, rows;  // inside the image
};

inline TileArea tile_area(const Image& image, int tile) {
  const int across = (image.width + kTileSize - 1) / kTileSize;
  const int x = tile % across * kTileSize, y = tile / across * kTileSize;
  const int columns = image.width - x, rows = image.height - y;
  return {x, y, columns < kTileSize ? columns : kTileSize, rows < kTileSize ? rows : kTileSize};
}

// Calls visit(block, lane, pixel in the image) for every pixel of a tile that is inside the image.
template <class Visit>
inline void for_pixels(const TileArea& area, const Image& image, const Visit& visit) {
  for (int y = 0; y < area.rows; y++)
    for (int x = 0; x < area.columns; x++)
      visit(y / kBlockHeight * kAcross + x / kBlockWidth, y % kBlockHeight * kBlockWidth + x % kBlockWidth,
            int64_t(area.y + y) * image.width + area.x + x);
}

// Blocks of a tile that a splat's ellipse can reach, both ends included; a little generous.
struct Reach {
  int first_x, last_x, first_y, last_y;
};

// Range of blocks with a pixel centre in [center - half, center + half], relative to the tile's first pixel.
inline void reach_along(float center, float half, int pixels, int block, int& first, int& last) {
  constexpr float kSlack = 0.02f;  // pixels; more than rounding can move an edge
  const float low = center - half + 0.5f - kSlack, high = center + half - 0.5f + kSlack;
  first = low > 0.f ? int(low) / block : 0;
  last = (high < float(pixels - 1) ? int(high) : pixels - 1) / block;
}

inline Reach reach(const Splat& splat, const TileArea& area) {
  Reach r;
  reach_along(splat.x - float(area.x), splat.half_width, area.columns, kBlockWidth, r.first_x, r.last_x);
  reach_along(splat.y - float(area.y), splat.half_height, area.rows, kBlockHeight, r.first_y, r.last_y);
  return r;
}

// A splat over a tile: with d = centre - pixel and q = conic d, sigma = q.d / 2. Parts are worked out once by column
// and once by row of blocks.
struct Exponents {
  Floats dx[kAcross], xx[kAcross], yx[kAcross];  // dx, conic_xx dx, conic_xy dx
  Floats dy, xy, yy;                             // dy, conic_xy dy, conic_yy dy

  inline void set_columns(const Splat& splat, const TileArea& area, const Reach& r) {
    Floats offset;
    for (int i = 0; i < kLanes; i++) offset[i] = float(i % kBlockWidth) + 0.5f;
    for (int bx = r.first_x; bx <= r.last_x; bx++) {
      dx[bx] = (splat.x - float(area.x + bx * kBlockWidth)) - offset;
      xx[bx] = dx[bx] * splat.conic_xx;
      yx[bx] = dx[bx] * splat.conic_xy;
    }
  }

  inline void set_row(const Splat& splat, const TileArea& area, int by) {
    Floats offset;
    for (int i = 0; i < kLanes; i++) offset[i] = float(i / kBlockWidth) + 0.5f;
    dy = (splat.y - float(area.y + by * kBlockHeight)) - offset;
    xy = dy * splat.conic_xy;
    yy = dy * splat.conic_yy;
  }

  inline Floats qx(int bx) const { return xx[bx] + xy; }
  inline Floats qy(int bx) const { return yx[bx] + yy; }
  inline Floats sigma(int bx) const { return 0.5f * (dx[bx] * qx(bx) + dy * qy(bx)); }
};

template <bool kDepth>
struct TileState {
  Floats transmittance[kBlocks], color[3][kBlocks], depth[kDepth ? kBlocks : 1];
  Ints last[kBlocks], alive[kBlocks];
  uint64_t open = 0;  // a bit for every block with a living pixel

  TileState(const TileArea& area, const Image& image) {
    for (int i = 0; i < kBlocks; i++) {
      transmittance[i] = broadcast(1.f);
      for (int c = 0; c < 3; c++) color[c][i] = Floats{};
      if (kDepth) depth[i] = Floats{};
      last[i] = broadcast(-1);
      alive[i] = Ints{};
    }
    for_pixels(area, image, [&](int block, int lane, int64_t) {
      alive[block][lane] = -1;
      open |= 1ull << block;
    });
  }

  // Adds one splat, the `place`-th of the tile's list, to one block.
  inline void blend(int i, const Splat& splat, Floats sigma, float max_alpha, int place) {
    const Ints near = alive[i] & (sigma >= 0.f) & (sigma <= splat.max_sigma);
    if (!any(near)) return;
    const Floats alpha = minimum(broadcast(max_alpha), splat.opacity * small_exponential(-sigma));
    const Ints counts = near & (alpha >= headway::kMinAlpha);
    const Floats next = transmittance[i] * (1.f - alpha);
    const Ints done = counts & (next <= headway::kMinTransmittance), drawn = counts & ~done;
    const Floats weight = masked(drawn, alpha * transmittance[i]);
    for (int c = 0; c < 3; c++) color[c][i] += weight * splat.color[c];
    if (kDepth) depth[i] += weight * splat.depth;
    transmittance[i] = select(drawn, next, transmittance[i]);
    last[i] = drawn ? broadcast(place) : last[i];
    if (any(done)) {
      alive[i] &= ~done;
      if (!any(alive[i])) open &= ~(1ull << i);
    }
  }

  inline void store(const TileArea& area, const Image& image) const {
    const int64_t plane = int64_t(image.width) * image.height;
    for_pixels(area, image, [&](int block, int lane, int64_t pixel) {
      const float passed = transmittance[block][lane];
      image.alpha[pixel] = 1.f - passed;
      image.last[pixel] = last[block][lane];
      for (int c = 0; c < 3; c++) image.color[c * plane + pixel] = color[c][block][lane] + passed * image.background[c];
      if (kDepth) image.depth[pixel] = depth[block][lane];
    });
  }
};

// A tile's splats are spread over memory: they are fetched this many places ahead, or waiting for them would cost a
// third of the time. (In a function of its own, GCC takes the prefetch for dead code.)
constexpr int kAhead = 8;

template <bool kDepth>
void draw_tile_with(const Bins& bins, int number, float max_alpha, const Image& image) {
  const TileArea area = tile_area(image, number);
  TileState<kDepth> tile(area, image);
  Exponents exponents;
  const TileEntry* list = bins.entries + bins.tile_start[number];
  const int count = bins.tile_start[number + 1] - bins.tile_start[number];
  for (int place = 0; place < count && tile.open; place++) {
    if (place + kAhead < count) __builtin_prefetch(&bins.splats[list[place + kAhead].splat]);
    const Splat& splat = bins.splats[list[place].splat];
    const Reach r = reach(splat, area);
    exponents.set_columns(splat, area, r);
    for (int by = r.first_y; by <= r.last_y; by++) {
      exponents.set_row(splat, area, by);
      for (int bx = r.first_x; bx <= r.last_x; bx++) {
        const int i = by * kAcross + bx;
        if (tile.open >> i & 1) tile.blend(i, splat, exponents.sigma(bx), max_alpha, place);
      }
    }
  }
  tile.store(area, image);
}

void draw_tile(const Bins& bins, int number, float max_alpha, const Image& image) {
  image.depth ? draw_tile_with<true>(bins, number, max_alpha, image)
              : draw_tile_with<false>(bins, number, max_alpha, image);
}

}  // namespace
