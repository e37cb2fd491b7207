// Real spherical harmonics up to degree 3 in gsplat's and 3DGS's order and signs (Sloan, JCGT 2013).
#pragma once
#include "projection_math.h"

namespace {

constexpr float kSh0 = 0.2820947917738781f;
constexpr float kSh1 = 0.48860251190292f;
constexpr float kSh2[4] = {1.092548430592079f, 0.9461746957575601f, 0.3153915652525201f, 0.5462742152960395f};
constexpr float kSh3[6] = {0.5900435899266435f, 2.890611442640554f, 2.285228997322329f,
                           0.4570457994644658f, 1.865881662950577f, 1.119528997770346f};
constexpr float kSh3zxy = 1.445305721320277f;

// The first `bases` (1, 4, 9 or 16) basis functions at the unit direction d.
inline void sh_basis(int bases, const Vec3& d, Floats* basis) {
  const Floats x = d.x, y = d.y, z = d.z;
  basis[0] = broadcast(kSh0);
  if (bases < 4) return;
  basis[1] = -kSh1 * y;
  basis[2] = kSh1 * z;
  basis[3] = -kSh1 * x;
  if (bases < 9) return;
  const Floats xx = x * x, yy = y * y, zz = z * z, difference = xx - yy;
  basis[4] = kSh2[0] * x * y;
  basis[5] = -kSh2[0] * y * z;
  basis[6] = kSh2[1] * zz - kSh2[2];
  basis[7] = -kSh2[0] * x * z;
  basis[8] = kSh2[3] * difference;
  if (bases < 16) return;
  const Floats ring = kSh3[3] - kSh3[2] * zz;
  basis[9] = -kSh3[0] * y * (3.f * xx - yy);
  basis[10] = kSh3[1] * x * y * z;
  basis[11] = y * ring;
  basis[12] = z * (kSh3[4] * zz - kSh3[5]);
  basis[13] = x * ring;
  basis[14] = kSh3zxy * z * difference;
  basis[15] = -kSh3[0] * x * (xx - 3.f * yy);
}

// Gradient of sum_k weight[k] basis[k] by the direction, as if its three components were free.
inline Vec3 sh_gradient(int bases, const Vec3& d, const Floats* weight) {
  const Floats x = d.x, y = d.y, z = d.z;
  Vec3 g = {Floats{}, Floats{}, Floats{}};
  if (bases < 4) return g;
  g.x = -kSh1 * weight[3];
  g.y = -kSh1 * weight[1];
  g.z = kSh1 * weight[2];
  if (bases < 9) return g;
  g.x += kSh2[0] * (y * weight[4] - z * weight[7]) + 2.f * kSh2[3] * x * weight[8];
  g.y += kSh2[0] * (x * weight[4] - z * weight[5]) - 2.f * kSh2[3] * y * weight[8];
  g.z += 2.f * kSh2[1] * z * weight[6] - kSh2[0] * (y * weight[5] + x * weight[7]);
  if (bases < 16) return g;
  const Floats xx = x * x, yy = y * y, zz = z * z, difference = xx - yy;
  const Floats ring = kSh3[3] - kSh3[2] * zz;
  g.x += -6.f * kSh3[0] * x * y * weight[9] + kSh3[1] * y * z * weight[10] + ring * weight[13] +
         2.f * kSh3zxy * x * z * weight[14] - 3.f * kSh3[0] * difference * weight[15];
  g.y += -3.f * kSh3[0] * difference * weight[9] + kSh3[1] * x * z * weight[10] + ring * weight[11] -
         2.f * kSh3zxy * y * z * weight[14] + 6.f * kSh3[0] * x * y * weight[15];
  g.z += kSh3[1] * x * y * weight[10] - 2.f * kSh3[2] * z * (y * weight[11] + x * weight[13]) +
         (3.f * kSh3[4] * zz - kSh3[5]) * weight[12] + kSh3zxy * difference * weight[14];
  return g;
}

}  // namespace
