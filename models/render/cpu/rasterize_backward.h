// Gradients of one tile's pixels by the splats that drew them.
//
// Front to back, like the forward pass. With s_j = the loss's gradient dotted with splat j's colour (and depth), a
// pixel's loss moves with alpha_k as T_k s_k - rest_k / (1 - alpha_k), where rest_k is what the splats behind k, the
// background and alpha itself add: one number per pixel, known at the start and reduced by w_k s_k at every step.
#pragma once
#include "rasterize.h"

namespace {

template <bool kDepth>
struct TileGradient {
  Floats transmittance[kVectors], rest[kVectors], v_color[3][kVectors], v_depth[kDepth ? kVectors : 1];
  Ints last[kVectors];
  int deepest[kVectors];  // largest of `last` in the vector
  int deepest_of_all = -1;

  TileGradient(const TileArea& area, const Image& image, const ImageGradients& v) {
    for (int i = 0; i < kVectors; i++) {
      transmittance[i] = broadcast(1.f);
      rest[i] = Floats{};
      for (int c = 0; c < 3; c++) v_color[c][i] = Floats{};
      if (kDepth) v_depth[i] = Floats{};
      last[i] = broadcast(-1);
      const int count = area.columns - i % kPerRow * kLanes;
      if (i / kPerRow < area.rows && count > 0) load_pixels(area, image, v, i, count);
      deepest[i] = -1;
      for (int lane = 0; lane < kLanes; lane++)
        if (last[i][lane] > deepest[i]) deepest[i] = last[i][lane];
      if (deepest[i] > deepest_of_all) deepest_of_all = deepest[i];
    }
  }

  void load_pixels(const TileArea& area, const Image& image, const ImageGradients& v, int i, int count) {
    const int64_t plane = int64_t(image.width) * image.height;
    const int64_t pixel = int64_t(area.y + i / kPerRow) * image.width + area.x + i % kPerRow * kLanes;
    memcpy(&last[i], image.last + pixel, (count < kLanes ? count : kLanes) * sizeof(int32_t));
    for (int c = 0; c < 3 && v.color; c++) {
      v_color[c][i] = load_row(v.color + c * plane + pixel, count);
      rest[i] += v_color[c][i] * load_row(image.color + c * plane + pixel, count);
    }
    if (v.alpha) rest[i] -= load_row(v.alpha + pixel, count) * (1.f - load_row(image.alpha + pixel, count));
    if (kDepth && v.depth) {
      v_depth[i] = load_row(v.depth + pixel, count);
      rest[i] += v_depth[i] * load_row(image.depth + pixel, count);
    }
  }
};

// Sums over the pixels of a tile for one splat.
template <bool kDepth>
struct SplatSums {
  Floats sigma = {}, x = {}, y = {}, xx = {}, xy = {}, yy = {}, color[3] = {}, depth = {};

  inline void add_pixels(TileGradient<kDepth>& tile, int i, const Splat& splat, const Columns& columns, float dy,
                         float max_alpha, int place) {
    const Floats exponent_ = exponent(columns, splat, dy);
    const Ints near = (tile.last[i] >= place) & (exponent_ >= 0.f) & (exponent_ <= splat.max_sigma);
    if (!any(near)) return;
    const Floats free = splat.opacity * exponential(-exponent_);
    const Floats alpha = minimum(broadcast(max_alpha), free);
    const Ints drawn = near & (alpha >= headway::kMinAlpha);
    const Floats transmittance = tile.transmittance[i], weight = masked(drawn, alpha * transmittance);
    Floats shade = tile.v_color[0][i] * splat.color[0] + tile.v_color[1][i] * splat.color[1] +
                   tile.v_color[2][i] * splat.color[2];
    if (kDepth) shade += tile.v_depth[i] * splat.depth;
    for (int c = 0; c < 3; c++) color[c] += weight * tile.v_color[c][i];
    if (kDepth) depth += weight * tile.v_depth[i];
    tile.rest[i] -= weight * shade;
    const Floats through = 1.f - alpha, v_alpha = transmittance * shade - tile.rest[i] / through;
    tile.transmittance[i] = select(drawn, transmittance * through, transmittance);
    // no gradient where alpha is clamped
    const Floats v_sigma = masked(drawn & (free <= max_alpha), -free * v_alpha);
    const Floats v_x = v_sigma * columns.dx;
    sigma += v_sigma;
    x += v_x;
    y += v_sigma * dy;
    xx += v_x * columns.dx;
    xy += v_x * dy;
    yy += v_sigma * (dy * dy);
  }

  inline SplatGradient gradient(const Splat& splat) const {
    const float sx = sum(x), sy = sum(y);
    return {splat.conic_xx * sx + splat.conic_xy * sy,
            splat.conic_xy * sx + splat.conic_yy * sy,
            0.5f * sum(xx),
            sum(xy),
            0.5f * sum(yy),
            -sum(sigma) / splat.opacity,
            kDepth ? sum(depth) : 0.f,
            {sum(color[0]), sum(color[1]), sum(color[2])}};
  }
};

template <bool kDepth>
int draw_tile_backward_with(const Bins& bins, int number, float max_alpha, const Image& image,
                            const ImageGradients& v, SplatGradient* gradients) {
  const TileArea area = tile_area(image, number);
  TileGradient<kDepth> tile(area, image, v);
  const Floats centers = lane_numbers() + (float(area.x) + 0.5f);
  const TileEntry* list = bins.entries + bins.tile_start[number];
  for (int place = 0; place <= tile.deepest_of_all; place++) {
    const Splat& splat = bins.splats[list[place].splat];
    const Reach r = reach(splat, area);
    SplatSums<kDepth> sums;
    for (int part = r.first; part <= r.last; part++) {
      const Columns columns = columns_of(splat, centers + float(part * kLanes));
      for (int row = r.first_row; row <= r.last_row; row++) {
        const int i = row * kPerRow + part;
        if (place > tile.deepest[i]) continue;
        const float dy = splat.y - (float(area.y + row) + 0.5f);
        sums.add_pixels(tile, i, splat, columns, dy, max_alpha, place);
      }
    }
    gradients[list[place].hit] = sums.gradient(splat);
  }
  return tile.deepest_of_all < 0 ? -1 : list[tile.deepest_of_all].splat;
}

void draw_tile_backward(const Bins& bins, int number, float max_alpha, const Image& image, const ImageGradients& v,
                        SplatGradient* gradients, int32_t* last_splat) {
  last_splat[number] = v.depth ? draw_tile_backward_with<true>(bins, number, max_alpha, image, v, gradients)
                               : draw_tile_backward_with<false>(bins, number, max_alpha, image, v, gradients);
}

}  // namespace
