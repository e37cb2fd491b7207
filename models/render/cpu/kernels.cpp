// The part of the rasteriser that is compiled once per instruction set: -DHEADWAY_KERNELS names the table it makes.
//
// Nothing but that table may leave this file. A standard container or template used here would leave a shared copy
// with wide instructions, and the linker could pick it for machines that lack them.
#include "projection_backward.h"
#include "rasterize_backward.h"

#define HEADWAY_TEXT_OF(name) #name
#define HEADWAY_TEXT(name) HEADWAY_TEXT_OF(name)

namespace headway {
extern const Kernels HEADWAY_KERNELS;
const Kernels HEADWAY_KERNELS = {HEADWAY_TEXT(HEADWAY_KERNELS), kLanes, project, draw_tile, draw_tile_backward,
                                 project_backward};
}  // namespace headway
