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
  Floats transmittance[kBlocks], rest[kBlocks], v_color[3][kBlocks], v_depth[kDepth ? kBlocks : 1];
  Ints last[kBlocks];
  int deepest[kBlocks];  // largest of `last` in the block
  int deepest_of_all = -1;

  TileGradient(const TileArea& area, const Image& image, const ImageGradients& v) {
    for (int i = 0; i < kBlocks; i++) {
      transmittance[i] = broadcast(1.f);
      rest[i] = Floats{};
      for (int c = 0; c < 3; c++) v_color[c][i] = Floats{};
      if (kDepth) v_depth[i] = Floats{};
      last[i] = broadcast(-1);
      deepest[i] = -1;
    }
    for_pixels(area, image, [&](int block, int lane, int64_t pixel) { load_pixel(image, v, block, lane, pixel); });
    for (int i = 0; i < kBlocks; i++)
      if (deepest[i] > deepest_of_all) deepest_of_all = deepest[i];
  }

  inline void load_pixel(const Image& image, const ImageGradients& v, int block, int lane, int64_t pixel) {
    const int64_t plane = int64_t(image.width) * image.height;
    last[block][lane] = image.last[pixel];
    if (image.last[pixel] > deepest[block]) deepest[block] = image.last[pixel];
    float sum = v.alpha ? -v.alpha[pixel] * (1.f - image.alpha[pixel]) : 0.f;
    for (int c = 0; c < 3 && v.color; c++) {
      v_color[c][block][lane] = v.color[c * plane + pixel];
      sum += v.color[c * plane + pixel] * image.color[c * plane + pixel];
    }
    if (kDepth) {
      v_depth[block][lane] = v.depth[pixel];
      sum += v.depth[pixel] * image.depth[pixel];
    }
    rest[block][lane] = sum;
  }
};

// Sums over the pixels of a tile for one splat.
template <bool kDepth>
struct SplatSums {
  Floats sigma = {}, x = {}, y = {}, xx = {}, xy = {}, yy = {}, color[3] = {}, depth = {};

  inline void add_block(TileGradient<kDepth>& tile, int i, const Splat& splat, const Exponents& exponents, int bx,
                        float max_alpha, int place) {
    const Floats exponent = exponents.sigma(bx), qx = exponents.qx(bx), qy = exponents.qy(bx);
    const Ints near = (tile.last[i] >= place) & (exponent >= 0.f) & (exponent <= splat.max_sigma);
    if (!any(near)) return;
    const Floats free = splat.opacity * small_exponential(-exponent);
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
    const Floats v_x = v_sigma * qx, v_y = v_sigma * qy;
    sigma += v_sigma;
    x += v_x;
    y += v_y;
    xx += v_x * qx;
    xy += v_x * qy;
    yy += v_y * qy;
  }

  inline SplatGradient gradient(const Splat& splat) const {
    const Quad first = sums(x, y, xx, xy), second = sums(yy, sigma, color[0], color[1]);
    const Quad third = sums(color[2], kDepth ? depth : color[2], color[2], color[2]);
    // sigma moves with the centre as q and with the covariance as -q q^T / 2
    return {first[0],          first[1],
            -0.5f * first[2],  -0.5f * first[3],
            -0.5f * second[0], -second[1] / splat.opacity,
            kDepth ? third[1] : 0.f, {second[2], second[3], third[0]}};
  }
};

template <bool kDepth>
int draw_tile_backward_with(const Bins& bins, int number, float max_alpha, const Image& image,
                            const ImageGradients& v, SplatGradient* gradients) {
  const TileArea area = tile_area(image, number);
  TileGradient<kDepth> tile(area, image, v);
  Exponents exponents;
  const TileEntry* list = bins.entries + bins.tile_start[number];
  for (int place = 0; place <= tile.deepest_of_all; place++) {
    if (place + kAhead <= tile.deepest_of_all) __builtin_prefetch(&bins.splats[list[place + kAhead].splat]);
    const Splat& splat = bins.splats[list[place].splat];
    const Reach r = reach(splat, area);
    SplatSums<kDepth> sums;
    exponents.set_columns(splat, area, r);
    for (int by = r.first_y; by <= r.last_y; by++) {
      exponents.set_row(splat, area, by);
      for (int bx = r.first_x; bx <= r.last_x; bx++) {
        const int i = by * kAcross + bx;
        if (place <= tile.deepest[i]) sums.add_block(tile, i, splat, exponents, bx, max_alpha, place);
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
