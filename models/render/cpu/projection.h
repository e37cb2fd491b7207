// From Gaussians in the world to splats in an image, forward and backward; EWA splatting as in gsplat.
//
// A block is kLanes Gaussians of one subject. What does not depend on the camera is worked out once per block, then
// every view of the subject is projected: the inner loops are over views.
#pragma once
#include "projection_math.h"
#include "spherical_harmonics.h"
#include "types.h"

namespace {

using headway::Bins;
using headway::Camera;
using headway::GaussianGradients;
using headway::Gaussians;
using headway::Splat;
using headway::SplatGradient;

constexpr int kMaxBases = 16;

struct Block {
  int count;                 // lanes in use
  Vec3 mean, scale;          // metres
  Floats w, inverse_length;  // of the normalised quaternion (w; v)
  Vec3 v;
  Mat3 rotation;
  Floats opacity;
  int bases;
  Vec3 sh[kMaxBases];
};

inline Block load_block(const Gaussians& g, int64_t begin, int64_t end) {
  Block block;
  block.count = int(end - begin < kLanes ? end - begin : kLanes);
  const auto column = [&](const float* data, int width, int i) {
    return load_strided(data + begin * width + i, width, block.count);
  };
  block.mean = {column(g.means, 3, 0), column(g.means, 3, 1), column(g.means, 3, 2)};
  block.scale = {exponential(column(g.log_scales, 3, 0)), exponential(column(g.log_scales, 3, 1)),
                 exponential(column(g.log_scales, 3, 2))};
  block.opacity = 1.f / (1.f + exponential(-column(g.opacity_logits, 1, 0)));
  block.w = column(g.quats, 4, 0);
  block.v = {column(g.quats, 4, 1), column(g.quats, 4, 2), column(g.quats, 4, 3)};
  block.inverse_length = 1.f / square_root(block.w * block.w + dot(block.v, block.v));
  block.w *= block.inverse_length;
  block.v = block.inverse_length * block.v;
  block.rotation = quaternion_to_matrix(block.w, block.v);
  block.bases = g.sh_bases;
  for (int k = 0; k < g.sh_bases; k++)
    block.sh[k] = {column(g.sh, 3 * g.sh_bases, 3 * k), column(g.sh, 3 * g.sh_bases, 3 * k + 1),
                   column(g.sh, 3 * g.sh_bases, 3 * k + 2)};
  return block;
}

// Everything about a block in one view that the backward pass needs again.
struct Projection {
  Vec3 local;               // mean in the camera, metres
  Mat3 axes;                // camera rotation times Gaussian rotation
  Mat3 scaled;              // the same with columns scaled: covariance = scaled scaled^T
  Floats inverse_z;
  Ints inside_x, inside_y;  // x/z (y/z) is inside the limits, so that it moves the Jacobian
  Floats slope_x, slope_y;  // clamped x/z, y/z
  Floats jxx, jxz, jyy, jyz;
  Vec3 u, v;                // rows of Jacobian times scaled: covariance in the image = [u.u, u.v; u.v, v.v]
  Floats xx, xy, yy;        // that covariance, blurred
  Floats sharp_determinant, determinant;
  Floats compensation;
};

inline Projection project_block(const Block& block, const Camera& camera) {
  Projection p;
  p.local = rotate(camera.rotation, block.mean);
  p.local = {p.local.x + camera.translation[0], p.local.y + camera.translation[1], p.local.z + camera.translation[2]};
  p.inverse_z = 1.f / p.local.z;
  const Floats ratio_x = p.local.x * p.inverse_z, ratio_y = p.local.y * p.inverse_z;
  p.slope_x = minimum(maximum(ratio_x, broadcast(camera.min_x)), broadcast(camera.max_x));
  p.slope_y = minimum(maximum(ratio_y, broadcast(camera.min_y)), broadcast(camera.max_y));
  p.inside_x = (ratio_x >= camera.min_x) & (ratio_x <= camera.max_x);
  p.inside_y = (ratio_y >= camera.min_y) & (ratio_y <= camera.max_y);
  p.jxx = camera.fx * p.inverse_z;
  p.jyy = camera.fy * p.inverse_z;
  p.jxz = -p.jxx * p.slope_x;
  p.jyz = -p.jyy * p.slope_y;

  p.axes = rotate(camera.rotation, block.rotation);
  for (int i = 0; i < 3; i++) p.scaled.row[i] = p.axes.row[i] * block.scale;
  p.u = p.jxx * p.scaled.row[0] + p.jxz * p.scaled.row[2];
  p.v = p.jyy * p.scaled.row[1] + p.jyz * p.scaled.row[2];
  const Floats sharp_xx = dot(p.u, p.u), sharp_yy = dot(p.v, p.v);
  const Vec3 normal = cross(p.u, p.v);
  p.xy = dot(p.u, p.v);
  p.xx = sharp_xx + headway::kBlur;
  p.yy = sharp_yy + headway::kBlur;
  // |u x v|^2 is u.u v.v - (u.v)^2 without the cancellation that ruins it for thin Gaussians.
  p.sharp_determinant = dot(normal, normal);
  p.determinant = p.sharp_determinant + headway::kBlur * (sharp_xx + sharp_yy + headway::kBlur);
  p.compensation = broadcast(1.f);
  if (camera.antialiased)
    p.compensation = maximum(square_root(p.sharp_determinant / p.determinant), broadcast(headway::kMinCompensation));
  return p;
}

struct Shading {
  Vec3 direction;  // from the camera centre to the mean, unit length
  Floats inverse_distance;
  Floats basis[kMaxBases];
  Vec3 color;  // before it is cut off at 0
};

inline Shading shade_block(const Block& block, const Camera& camera) {
  Shading s;
  const Vec3 ray = {block.mean.x - camera.center[0], block.mean.y - camera.center[1], block.mean.z - camera.center[2]};
  s.inverse_distance = 1.f / square_root(dot(ray, ray));
  s.direction = s.inverse_distance * ray;
  sh_basis(block.bases, s.direction, s.basis);
  s.color = {broadcast(0.5f), broadcast(0.5f), broadcast(0.5f)};
  for (int k = 0; k < block.bases; k++) s.color = s.color + s.basis[k] * block.sh[k];
  return s;
}

inline Ints finite(Floats value) { return (value < 3e38f) & (value > -3e38f); }

// Splats of one block in one view. Every test is written so that it fails for NaN: a non-finite Gaussian is culled.
inline void write_splats(const Block& block, const Camera& camera, Splat* splats) {
  const Projection p = project_block(block, camera);
  const Shading shading = shade_block(block, camera);
  const Floats opacity = block.opacity * p.compensation;
  const Floats x = camera.fx * p.local.x * p.inverse_z + camera.cx;
  const Floats y = camera.fy * p.local.y * p.inverse_z + camera.cy;
  // alpha falls to kMinAlpha where sigma = ln(opacity / kMinAlpha), an ellipse with these half extents
  const Floats sigma = logarithm(maximum(opacity * (1.f / headway::kMinAlpha), broadcast(1.f)));
  const Floats half_width = square_root(2.f * sigma * p.xx), half_height = square_root(2.f * sigma * p.yy);
  const Vec3 color = {maximum(shading.color.x, Floats{}), maximum(shading.color.y, Floats{}),
                      maximum(shading.color.z, Floats{})};

  const Ints visible = (p.local.z >= camera.near) & (p.local.z <= headway::kFar) & (p.determinant > 0.f) &
                       (opacity >= headway::kMinAlpha) & (x + half_width > 0.f) &
                       (x - half_width < float(camera.width)) & (y + half_height > 0.f) &
                       (y - half_height < float(camera.height)) & finite(p.determinant) & finite(x) & finite(y) &
                       finite(shading.color.x) & finite(shading.color.y) & finite(shading.color.z);
  const Floats shown = masked(visible, opacity), inverse = 1.f / p.determinant;
  const Floats conic_xx = p.yy * inverse, conic_xy = -p.xy * inverse, conic_yy = p.xx * inverse;
  const Floats max_sigma = sigma * 1.0001f + 1e-4f;
  for (int i = 0; i < block.count; i++)
    splats[i] = {x[i],          y[i],           conic_xx[i],   conic_xy[i],    conic_yy[i], shown[i],
                 max_sigma[i],  half_width[i],  half_height[i], p.local.z[i],
                 {color.x[i], color.y[i], color.z[i]}, {}};
}

void project(const Gaussians& g, const Camera* cameras, int views, int64_t begin, int64_t end, Splat* splats) {
  for (; begin < end; begin += kLanes) {
    const Block block = load_block(g, begin, end);
    for (int view = 0; view < views; view++) write_splats(block, cameras[view], splats + view * g.count + begin);
  }
}

}  // namespace
