// Gradients of splats taken back to Gaussians and cameras; projection.h read from the end to the beginning.
#pragma once
#include "projection.h"

namespace {

// Gradients of one block's splats in one view; 0 in lanes that are culled.
struct BlockGradient {
  Floats x, y, cov_xx, cov_xy, cov_yy, opacity, depth;
  Vec3 color;
};

// Sums each Gaussian's hits in the order of tiles. `seen` marks the lanes that had any; returns whether one had.
inline bool gather_hits(const Bins& bins, int64_t begin, int count, const SplatGradient* gradients,
                        const int32_t* last_splat, BlockGradient& out, Ints& seen) {
  constexpr int kFields = sizeof(SplatGradient) / sizeof(float);
  float total[kFields][kLanes] = {};
  seen = Ints{};
  for (int lane = 0; lane < count; lane++) {
    const int32_t splat = bins.place[begin + lane];
    for (int32_t hit = bins.first_hit[begin + lane]; hit < bins.first_hit[begin + lane + 1]; hit++) {
      if (splat > last_splat[bins.hit_tile[hit]]) continue;
      float fields[kFields];
      memcpy(fields, gradients + hit, sizeof fields);
      for (int f = 0; f < kFields; f++) total[f][lane] += fields[f];
      seen[lane] = -1;
    }
  }
  out = {load(total[0]), load(total[1]), load(total[2]), load(total[3]), load(total[4]),
         load(total[5]), load(total[6]), {load(total[7]), load(total[8]), load(total[9])}};
  return any(seen);
}

// Gradients of a block, summed over views.
struct BlockTotals {
  Vec3 mean, scale;
  Mat3 rotation;
  Floats opacity;
  Vec3 sh[kMaxBases];
};

// Lanes that a view does not show may hold infinities: they are left out rather than multiplied by zero.
inline void add(Floats& total, Ints seen, Floats part) { total += masked(seen, part); }
inline void add(Vec3& total, Ints seen, const Vec3& part) {
  add(total.x, seen, part.x);
  add(total.y, seen, part.y);
  add(total.z, seen, part.z);
}

// Colour to harmonics and, through the viewing direction, to the ray from the camera centre to the mean.
inline Vec3 shade_backward(const Block& block, const Camera& camera, const Vec3& v_color, Ints seen,
                           BlockTotals& totals) {
  const Shading s = shade_block(block, camera);
  const Vec3 v = {masked(s.color.x >= 0.f, v_color.x), masked(s.color.y >= 0.f, v_color.y),
                  masked(s.color.z >= 0.f, v_color.z)};
  Floats weight[kMaxBases];
  for (int k = 0; k < block.bases; k++) {
    add(totals.sh[k], seen, s.basis[k] * v);
    weight[k] = dot(block.sh[k], v);
  }
  const Vec3 free = sh_gradient(block.bases, s.direction, weight);
  return s.inverse_distance * (free - dot(free, s.direction) * s.direction);
}

// Antialiasing factor to the covariance in the image.
inline void compensation_backward(const Projection& p, Floats v_compensation, BlockGradient& v) {
  // sqrt(sharp determinant / determinant), but constant where it rests on its floor
  const Ints moves = p.compensation > headway::kMinCompensation;
  const Floats k = masked(moves, 0.5f * p.compensation * v_compensation);
  const Floats sharp = masked(moves, 1.f / p.sharp_determinant), blurred = 1.f / p.determinant;
  v.cov_xx += k * ((p.yy - headway::kBlur) * sharp - p.yy * blurred);
  v.cov_yy += k * ((p.xx - headway::kBlur) * sharp - p.xx * blurred);
  v.cov_xy -= k * p.xy * (sharp - blurred);
}

// Sums a view's gradients over lanes into [rotation 9, translation 3, fx, fy, cx, cy].
inline void camera_backward(const Block& block, const Camera& camera, const Projection& p, Ints seen,
                            const BlockGradient& v, const Vec3& v_local, const Vec3& v_ray, const Mat3& v_axes,
                            const Vec3& v_jx, const Vec3& v_jy, float* out) {
  const auto total = [&](Floats value) { return sum(masked(seen, value)); };
  const Floats locals[3] = {v_local.x, v_local.y, v_local.z};
  // the centre is -rotation^T translation
  const float center[3] = {-total(v_ray.x), -total(v_ray.y), -total(v_ray.z)};
  for (int i = 0; i < 3; i++) {
    const Vec3 row = locals[i] * block.mean;
    const float* r = camera.rotation + 3 * i;
    out[3 * i] += total(row.x + dot(v_axes.row[i], block.rotation.row[0])) - camera.translation[i] * center[0];
    out[3 * i + 1] += total(row.y + dot(v_axes.row[i], block.rotation.row[1])) - camera.translation[i] * center[1];
    out[3 * i + 2] += total(row.z + dot(v_axes.row[i], block.rotation.row[2])) - camera.translation[i] * center[2];
    out[9 + i] += total(locals[i]) - (r[0] * center[0] + r[1] * center[1] + r[2] * center[2]);
  }
  const Floats z1 = p.inverse_z;
  // outside the limits fx slope is constant in fx and moves with cx
  out[12] += total(z1 * (v.x * p.local.x + v_jx.x - masked(p.inside_x, v_jx.z * p.slope_x)));
  out[13] += total(z1 * (v.y * p.local.y + v_jy.y - masked(p.inside_y, v_jy.z * p.slope_y)));
  out[14] += total(v.x + masked(~p.inside_x, v_jx.z * z1));
  out[15] += total(v.y + masked(~p.inside_y, v_jy.z * z1));
}

// One view's part of the gradients of a block and, unless `v_camera` is null, of the camera.
inline void project_block_backward(const Block& block, const Camera& camera, BlockGradient v, Ints seen,
                                   BlockTotals& totals, float* v_camera) {
  const Projection p = project_block(block, camera);
  add(totals.opacity, seen, v.opacity * p.compensation);
  if (camera.antialiased) compensation_backward(p, v.opacity * block.opacity, v);
  const Vec3 v_u = 2.f * (v.cov_xx * p.u + v.cov_xy * p.v), v_v = 2.f * (v.cov_xy * p.u + v.cov_yy * p.v);
  const Vec3 v_jx = {dot(v_u, p.scaled.row[0]), Floats{}, dot(v_u, p.scaled.row[2])};
  const Vec3 v_jy = {Floats{}, dot(v_v, p.scaled.row[1]), dot(v_v, p.scaled.row[2])};
  const Mat3 v_scaled = {{p.jxx * v_u, p.jyy * v_v, p.jxz * v_u + p.jyz * v_v}};

  // The Jacobian's third column is -fx x / z^2, or -fx slope / z where x/z is outside its limits.
  const Floats z1 = p.inverse_z, pull_x = -p.jxx * v_jx.z, pull_y = -p.jyy * v_jy.z;
  const Vec3 v_local = {
      p.jxx * v.x + masked(p.inside_x, pull_x * z1),
      p.jyy * v.y + masked(p.inside_y, pull_y * z1),
      v.depth - z1 * (p.jxx * (v.x * p.local.x + v_jx.x) + p.jyy * (v.y * p.local.y + v_jy.y) +
                      pull_x * select(p.inside_x, 2.f * p.slope_x, p.slope_x) +
                      pull_y * select(p.inside_y, 2.f * p.slope_y, p.slope_y))};

  Mat3 v_axes;
  for (int i = 0; i < 3; i++) {
    v_axes.row[i] = v_scaled.row[i] * block.scale;
    add(totals.scale, seen, v_scaled.row[i] * p.axes.row[i]);
  }
  const Mat3 v_rotation = rotate_back(camera.rotation, v_axes);
  for (int i = 0; i < 3; i++) add(totals.rotation.row[i], seen, v_rotation.row[i]);
  const Vec3 v_ray = shade_backward(block, camera, v.color, seen, totals);
  add(totals.mean, seen, rotate_back(camera.rotation, v_local) + v_ray);
  if (v_camera) camera_backward(block, camera, p, seen, v, v_local, v_ray, v_axes, v_jx, v_jy, v_camera);
}

// Rotation matrix to quaternion, through the normalisation.
inline void quaternion_backward(const Block& block, const Mat3& v, Floats& v_w, Vec3& v_v) {
  const Floats w = block.w, x = block.v.x, y = block.v.y, z = block.v.z;
  const Vec3 *r = v.row;
  const Vec3 skew = {r[2].y - r[1].z, r[0].z - r[2].x, r[1].x - r[0].y};
  const Floats xy = r[0].y + r[1].x, xz = r[0].z + r[2].x, yz = r[1].z + r[2].y;
  v_w = 2.f * dot(block.v, skew);
  v_v.x = 2.f * (w * skew.x + y * xy + z * xz - 2.f * x * (r[1].y + r[2].z));
  v_v.y = 2.f * (w * skew.y + x * xy + z * yz - 2.f * y * (r[0].x + r[2].z));
  v_v.z = 2.f * (w * skew.z + x * xz + y * yz - 2.f * z * (r[0].x + r[1].y));
  const Floats along = v_w * w + dot(v_v, block.v);
  v_w = (v_w - along * w) * block.inverse_length;
  v_v = block.inverse_length * (v_v - along * block.v);
}

inline void store_totals(const Block& block, const BlockTotals& totals, Ints seen, int64_t begin,
                         const GaussianGradients& out) {
  const auto column = [&](float* data, int width, int i, Floats value) {
    store_strided(data + begin * width + i, width, block.count, masked(seen, value));
  };
  const Vec3 v_log_scale = totals.scale * block.scale;
  Floats v_w;
  Vec3 v_v;
  quaternion_backward(block, totals.rotation, v_w, v_v);
  column(out.means, 3, 0, totals.mean.x), column(out.means, 3, 1, totals.mean.y), column(out.means, 3, 2, totals.mean.z);
  column(out.quats, 4, 0, v_w), column(out.quats, 4, 1, v_v.x), column(out.quats, 4, 2, v_v.y);
  column(out.quats, 4, 3, v_v.z);
  column(out.log_scales, 3, 0, v_log_scale.x), column(out.log_scales, 3, 1, v_log_scale.y);
  column(out.log_scales, 3, 2, v_log_scale.z);
  column(out.opacity_logits, 1, 0, totals.opacity * block.opacity * (1.f - block.opacity));
  for (int k = 0; k < block.bases; k++) {
    float* first = out.sh + 3 * k;
    column(first, 3 * block.bases, 0, totals.sh[k].x), column(first, 3 * block.bases, 1, totals.sh[k].y);
    column(first, 3 * block.bases, 2, totals.sh[k].z);
  }
}

void project_backward(const Gaussians& g, const Camera* cameras, const Bins* bins, int views, int64_t begin,
                      int64_t end, const SplatGradient* const* gradients, const int32_t* const* last_splat,
                      const GaussianGradients& out, float* camera_gradients) {
  for (; begin < end; begin += kLanes) {
    const Block block = load_block(g, begin, end);
    BlockTotals totals = {};
    Ints ever = {};
    for (int view = 0; view < views; view++) {
      BlockGradient gradient;
      Ints seen;
      if (!gather_hits(bins[view], begin, block.count, gradients[view], last_splat[view], gradient, seen)) continue;
      ever |= seen;
      float* v_camera = camera_gradients ? camera_gradients + view * headway::kCameraGradients : nullptr;
      project_block_backward(block, cameras[view], gradient, seen, totals, v_camera);
    }
    store_totals(block, totals, ever, begin, out);
  }
}

}  // namespace
