// Splats to pixels, one tile at a time, forward and backward; front-to-back alpha blending as in gsplat.
//
// A tile's state lives in registers and level-one cache as vectors of kLanes neighbouring pixels. Splats come front
// to back; each touches only the vectors that its ellipse can reach.
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

constexpr int kPerRow = kTileSize / kLanes;
constexpr int kVectors = kTileSize * kPerRow;  // at most 64, so that one bit each fits a word

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

// Rows and vectors in a row that a splat's ellipse can reach, both ends included; a little generous.
struct Reach {
  int first_row, last_row, first, last;
};

inline int at_least(float value, int limit) { return value > float(limit) ? int(value) : limit; }
inline int at_most(float value, int limit) { return value < float(limit) ? int(value) : limit; }

inline Reach reach(const Splat& splat, const TileArea& area) {
  constexpr float kSlack = 0.02f;
  const float top = splat.y - splat.half_height - float(area.y) - 0.5f - kSlack;
  const float bottom = splat.y + splat.half_height - float(area.y) - 0.5f + kSlack;
  Reach r = {at_least(top + 1.f, 0), at_most(bottom, area.rows - 1), 0, 0};
  if (kPerRow > 1) {
    const float left = splat.x - splat.half_width - float(area.x) - 0.5f - kSlack;
    const float right = splat.x + splat.half_width - float(area.x) - 0.5f + kSlack;
    r.first = at_least(left + 1.f, 0) / kLanes;
    r.last = at_most(right, area.columns - 1) / kLanes;
  }
  return r;
}

// The exponent sigma = (A dx^2 + C dy^2) / 2 + B dx dy along one vector's columns.
struct Columns {
  Floats dx, half_square, cross;
};

inline Columns columns_of(const Splat& splat, Floats pixel_x) {
  const Floats dx = splat.x - pixel_x;
  return {dx, dx * dx * (0.5f * splat.conic_xx), dx * splat.conic_xy};
}

inline Floats exponent(const Columns& c, const Splat& splat, float dy) {
  return c.half_square + 0.5f * splat.conic_yy * dy * dy + c.cross * dy;
}

inline Ints lanes_below(int limit) {
  Ints lane;
  for (int i = 0; i < kLanes; i++) lane[i] = i;
  return lane < limit;
}

inline void store_row(float* to, int count, Floats value) {
  if (count >= kLanes) return store(to, value);
  for (int i = 0; i < count; i++) to[i] = value[i];
}

inline Floats load_row(const float* from, int count) {
  if (count >= kLanes) return load(from);
  Floats value = {};
  for (int i = 0; i < count; i++) value[i] = from[i];
  return value;
}

template <bool kDepth>
struct TileState {
  Floats transmittance[kVectors], color[3][kVectors], depth[kDepth ? kVectors : 1];
  Ints last[kVectors], alive[kVectors];
  uint64_t open = 0;  // a bit for every vector with a living pixel

  explicit TileState(const TileArea& area) {
    for (int i = 0; i < kVectors; i++) {
      const int left = area.columns - i % kPerRow * kLanes;
      transmittance[i] = broadcast(1.f);
      for (int c = 0; c < 3; c++) color[c][i] = Floats{};
      if (kDepth) depth[i] = Floats{};
      last[i] = broadcast(-1);
      alive[i] = lanes_below(left);
      if (i / kPerRow < area.rows && left > 0) open |= 1ull << i;
    }
  }
};

// Adds one splat, the `place`-th of the tile's list, to one vector of pixels.
template <bool kDepth>
inline void blend(TileState<kDepth>& tile, int i, const Splat& splat, Floats sigma, float max_alpha, int place) {
  const Ints near = tile.alive[i] & (sigma >= 0.f) & (sigma <= splat.max_sigma);
  if (!any(near)) return;
  const Floats alpha = minimum(broadcast(max_alpha), splat.opacity * exponential(-sigma));
  const Ints counts = near & (alpha >= headway::kMinAlpha);
  const Floats next = tile.transmittance[i] * (1.f - alpha);
  const Ints done = counts & (next <= headway::kMinTransmittance), drawn = counts & ~done;
  const Floats weight = masked(drawn, alpha * tile.transmittance[i]);
  for (int c = 0; c < 3; c++) tile.color[c][i] += weight * splat.color[c];
  if (kDepth) tile.depth[i] += weight * splat.depth;
  tile.transmittance[i] = select(drawn, next, tile.transmittance[i]);
  tile.last[i] = drawn ? broadcast(place) : tile.last[i];
  tile.alive[i] &= ~done;
  if (any(done) && !any(tile.alive[i])) tile.open &= ~(1ull << i);
}

template <bool kDepth>
inline void store_tile(const TileState<kDepth>& tile, const TileArea& area, const Image& image) {
  const int64_t plane = int64_t(image.width) * image.height;
  for (int row = 0; row < area.rows; row++)
    for (int part = 0; part < kPerRow; part++) {
      const int i = row * kPerRow + part, count = area.columns - part * kLanes;
      if (count <= 0) break;
      const int64_t pixel = int64_t(area.y + row) * image.width + area.x + part * kLanes;
      store_row(image.alpha + pixel, count, 1.f - tile.transmittance[i]);
      for (int c = 0; c < 3; c++)
        store_row(image.color + c * plane + pixel, count,
                  tile.color[c][i] + tile.transmittance[i] * image.background[c]);
      if (kDepth) store_row(image.depth + pixel, count, tile.depth[i]);
      memcpy(image.last + pixel, &tile.last[i], (count < kLanes ? count : kLanes) * sizeof(int32_t));
    }
}

template <bool kDepth>
void draw_tile_with(const Bins& bins, int number, float max_alpha, const Image& image) {
  const TileArea area = tile_area(image, number);
  TileState<kDepth> tile(area);
  const Floats centers = lane_numbers() + (float(area.x) + 0.5f);
  const TileEntry* list = bins.entries + bins.tile_start[number];
  const int count = bins.tile_start[number + 1] - bins.tile_start[number];
  for (int place = 0; place < count && tile.open; place++) {
    const Splat& splat = bins.splats[list[place].splat];
    const Reach r = reach(splat, area);
    for (int part = r.first; part <= r.last; part++) {
      const Columns columns = columns_of(splat, centers + float(part * kLanes));
      for (int row = r.first_row; row <= r.last_row; row++) {
        const int i = row * kPerRow + part;
        if (!(tile.open >> i & 1)) continue;
        const float dy = splat.y - (float(area.y + row) + 0.5f);
        blend(tile, i, splat, exponent(columns, splat, dy), max_alpha, place);
      }
    }
  }
  store_tile(tile, area, image);
}

void draw_tile(const Bins& bins, int number, float max_alpha, const Image& image) {
  image.depth ? draw_tile_with<true>(bins, number, max_alpha, image)
              : draw_tile_with<false>(bins, number, max_alpha, image);
}

}  // namespace
