#include "binning.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace headway {
namespace {

struct Keyed {
  uint32_t key;
  int32_t gaussian;
};

// Depth as an integer of the same order: the bits of a positive float.
uint32_t depth_key(const Splat& splat) {
  uint32_t bits;
  memcpy(&bits, &splat.depth, sizeof bits);
  return bits;
}

// Stable radix sort. Keys are taken relative to the nearest, which leaves few digits: heads are not deep.
void sort_by_depth(std::vector<Keyed>& keyed) {
  constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;
  if (keyed.empty()) return;
  uint32_t nearest = keyed[0].key, farthest = keyed[0].key;
  for (const Keyed& k : keyed) nearest = std::min(nearest, k.key), farthest = std::max(farthest, k.key);
  std::vector<Keyed> sorted(keyed.size());
  for (int shift = 0; shift < 32 && (farthest - nearest) >> shift; shift += kDigitBits) {
    const auto digit = [&](const Keyed& k) { return (k.key - nearest) >> shift & (kDigits - 1); };
    std::array<uint32_t, kDigits + 1> start = {};
    for (const Keyed& k : keyed) start[digit(k) + 1]++;
    for (int i = 0; i < kDigits; i++) start[i + 1] += start[i];
    for (const Keyed& k : keyed) sorted[start[digit(k)]++] = k;
    keyed.swap(sorted);
  }
}

struct TileRange {
  int begin_x, end_x, begin_y, end_y;
};

// Tiles that hold a pixel centre inside [center - half, center + half].
void tile_range(float center, float half, int tiles, int& begin, int& end) {
  const float first = std::max((center - half - 0.5f) / kTileSize, 0.f);
  const float last = std::min((center + half - 0.5f) / kTileSize, float(tiles - 1));
  begin = first < float(tiles) ? int(first) : tiles;
  end = last >= 0.f ? int(last) + 1 : 0;
}

// Does the ellipse sigma <= max_sigma reach the pixel centres [x0, x1] x [y0, y1]?
class EllipseTest {
 public:
  explicit EllipseTest(const Splat& s)
      : s_(s), tilt_y_(-s.conic_xy / s.conic_yy), tilt_x_(-s.conic_xy / s.conic_xx) {}

  bool reaches(float x0, float x1, float y0, float y1) const {
    const bool inside_x = s_.x >= x0 && s_.x <= x1, inside_y = s_.y >= y0 && s_.y <= y1;
    if (inside_x && inside_y) return true;
    // The smallest sigma lies on an edge that faces the centre, where the gradient along it vanishes, or at its end.
    if (!inside_x) {
      const float dx = (s_.x < x0 ? x0 : x1) - s_.x;
      if (within(dx, std::min(y1 - s_.y, std::max(y0 - s_.y, tilt_y_ * dx)))) return true;
    }
    if (!inside_y) {
      const float dy = (s_.y < y0 ? y0 : y1) - s_.y;
      if (within(std::min(x1 - s_.x, std::max(x0 - s_.x, tilt_x_ * dy)), dy)) return true;
    }
    return false;
  }

 private:
  bool within(float dx, float dy) const {
    return 0.5f * (s_.conic_xx * dx * dx + s_.conic_yy * dy * dy) + s_.conic_xy * dx * dy <= s_.max_sigma;
  }

  const Splat& s_;
  float tilt_y_, tilt_x_;
};

// Appends the tiles that a splat hits, row by row.
void append_hits(const Splat& s, int across, int down, std::vector<int32_t>& hit_tile) {
  TileRange r;
  tile_range(s.x, s.half_width, across, r.begin_x, r.end_x);
  tile_range(s.y, s.half_height, down, r.begin_y, r.end_y);
  // A strip one tile wide is crossed from end to end.
  const bool strip = r.end_x - r.begin_x <= 1 || r.end_y - r.begin_y <= 1;
  const EllipseTest ellipse(s);
  for (int y = r.begin_y; y < r.end_y; y++)
    for (int x = r.begin_x; x < r.end_x; x++) {
      const float left = x * kTileSize + 0.5f, top = y * kTileSize + 0.5f;
      if (strip || ellipse.reaches(left, left + kTileSize - 1, top, top + kTileSize - 1))
        hit_tile.push_back(y * across + x);
    }
}

// Counting sort of hits by tile. Splats go in front to back, so every tile's list is front to back too.
void list_by_tile(ImageBins& bins, const std::vector<Keyed>& front_to_back, int tiles) {
  bins.tile_start.assign(tiles + 1, 0);
  for (int32_t tile : bins.hit_tile) bins.tile_start[tile + 1]++;
  for (int t = 0; t < tiles; t++) bins.tile_start[t + 1] += bins.tile_start[t];
  std::vector<int32_t> next(bins.tile_start.begin(), bins.tile_start.end() - 1);
  bins.entries.reset(new TileEntry[bins.hit_tile.size()]);
  for (int32_t place = 0; place < int32_t(front_to_back.size()); place++) {
    const int32_t gaussian = front_to_back[place].gaussian;
    for (int32_t hit = bins.first_hit[gaussian]; hit < bins.first_hit[gaussian + 1]; hit++)
      bins.entries[next[bins.hit_tile[hit]]++] = {place, hit};
  }
}

}  // namespace

ImageBins bin_splats(const Splat* splats, int64_t count, int width, int height) {
  ImageBins bins;
  const int across = tiles_across(width), down = tiles_across(height);
  std::vector<Keyed> keyed;
  keyed.reserve(count);
  bins.first_hit.reserve(count + 1);
  bins.hit_tile.reserve(count * 2);
  for (int64_t i = 0; i < count; i++) {
    bins.first_hit.push_back(int32_t(bins.hit_tile.size()));
    if (splats[i].opacity <= 0.f) continue;
    keyed.push_back({depth_key(splats[i]), int32_t(i)});
    append_hits(splats[i], across, down, bins.hit_tile);
    if (bins.hit_tile.size() > size_t(std::numeric_limits<int32_t>::max()))
      throw std::length_error("more than 2^31 pairs of Gaussian and tile in one image");
  }
  bins.first_hit.push_back(int32_t(bins.hit_tile.size()));

  sort_by_depth(keyed);
  bins.place.assign(count, -1);
  bins.splats.reset(new Splat[keyed.size()]);
  for (size_t place = 0; place < keyed.size(); place++) {
    bins.splats[place] = splats[keyed[place].gaussian];
    bins.place[keyed[place].gaussian] = int32_t(place);
  }
  list_by_tile(bins, keyed, across * down);
  return bins;
}

}  // namespace headway
