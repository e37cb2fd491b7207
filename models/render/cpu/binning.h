// Sorting an image's splats by depth and dealing them out to tiles.
#pragma once
#include <memory>
#include <vector>

#include "types.h"

namespace headway {

inline int tiles_across(int pixels) { return (pixels + kTileSize - 1) / kTileSize; }

// Owns what a Bins points to.
struct ImageBins {
  std::unique_ptr<Splat[]> splats;
  std::unique_ptr<TileEntry[]> entries;
  std::vector<int32_t> place, first_hit, hit_tile, tile_start;

  int64_t hits() const { return int64_t(hit_tile.size()); }
  Bins view() const {
    return {splats.get(), place.data(), first_hit.data(), hit_tile.data(), tile_start.data(), entries.get()};
  }
};

// `splats`: one per Gaussian, in any order, opacity 0 where culled. Throws std::length_error above 2^31 - 1 hits.
ImageBins bin_splats(const Splat* splats, int64_t count, int width, int height);

}  // namespace headway
