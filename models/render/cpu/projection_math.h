// Three-vectors and 3x3 matrices of which every entry is a vector of lanes: one Gaussian per lane.
#pragma once
#include "vector.h"

namespace {

struct Vec3 {
  Floats x, y, z;
};

inline Vec3 operator+(const Vec3& a, const Vec3& b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
inline Vec3 operator-(const Vec3& a, const Vec3& b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vec3 operator*(const Vec3& a, const Vec3& b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }
inline Vec3 operator*(Floats s, const Vec3& a) { return {s * a.x, s * a.y, s * a.z}; }
inline Vec3 operator*(float s, const Vec3& a) { return {s * a.x, s * a.y, s * a.z}; }
inline Floats dot(const Vec3& a, const Vec3& b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vec3 cross(const Vec3& a, const Vec3& b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

struct Mat3 {
  Vec3 row[3];
};

// camera rotation (one for all lanes) times a vector, and its transpose times a vector
inline Vec3 rotate(const float* r, const Vec3& v) {
  return {r[0] * v.x + r[1] * v.y + r[2] * v.z, r[3] * v.x + r[4] * v.y + r[5] * v.z,
          r[6] * v.x + r[7] * v.y + r[8] * v.z};
}
inline Vec3 rotate_back(const float* r, const Vec3& v) {
  return {r[0] * v.x + r[3] * v.y + r[6] * v.z, r[1] * v.x + r[4] * v.y + r[7] * v.z,
          r[2] * v.x + r[5] * v.y + r[8] * v.z};
}
inline Mat3 rotate(const float* r, const Mat3& m) {
  Mat3 out;
  for (int i = 0; i < 3; i++) out.row[i] = r[3 * i] * m.row[0] + r[3 * i + 1] * m.row[1] + r[3 * i + 2] * m.row[2];
  return out;
}
inline Mat3 rotate_back(const float* r, const Mat3& m) {
  Mat3 out;
  for (int i = 0; i < 3; i++) out.row[i] = r[i] * m.row[0] + r[3 + i] * m.row[1] + r[6 + i] * m.row[2];
  return out;
}

// Rotation of a unit quaternion (w; v).
inline Mat3 quaternion_to_matrix(Floats w, const Vec3& v) {
  const Floats x = v.x, y = v.y, z = v.z;
  return {{{1.f - 2.f * (y * y + z * z), 2.f * (x * y - w * z), 2.f * (x * z + w * y)},
           {2.f * (x * y + w * z), 1.f - 2.f * (x * x + z * z), 2.f * (y * z - w * x)},
           {2.f * (x * z - w * y), 2.f * (y * z + w * x), 1.f - 2.f * (x * x + y * y)}}};
}

}  // namespace
