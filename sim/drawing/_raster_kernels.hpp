// The drawing code, compiled once per instruction set. Included inside a namespace: no include
// guard, and no standard headers here, which must come before the compiler's target is changed.

#include "_raster_math.hpp"
#include "_raster_visible.hpp"
#include "_raster_draw.hpp"
#include "_raster_shade.hpp"

// Takes over poses and colours; marks the shapes that differ from the last draw.
inline void update(Scene& scene, const float* poses, const float* colours, uint8_t* changed) {
  ++scene.draws;
  for (size_t i = 0; i < scene.shapes.size(); ++i) {
    Shape& shape = scene.shapes[i];
    const float *pose = poses + 7 * i, *colour = colours + 4 * i;
    changed[i] = std::memcmp(shape.colour, colour, sizeof shape.colour) != 0;
    std::memcpy(shape.colour, colour, sizeof shape.colour);
    const bool moved = shape.moved == 0 || std::memcmp(shape.position, pose, 3 * sizeof(float)) ||
                       std::memcmp(shape.turn, pose + 3, 4 * sizeof(float));
    if (!moved) continue;
    changed[i] = 1;
    shape.moved = scene.draws;
    std::memcpy(shape.position, pose, sizeof shape.position);
    std::memcpy(shape.turn, pose + 3, sizeof shape.turn);
    place(scene.meshes[shape.mesh], shape);
  }
}

inline void draw_image(Scene& scene, View& view, const uint8_t* changed) {
  draw_view(scene, view);
  shade_view(scene, view, changed);
}

inline void write_output(const Scene& scene, const View& view, bool shadows, uint8_t* rgb,
                         float* depth) {
  write_image(scene, view, shadows, rgb);
  if (depth) write_depth(scene, view, depth);
}
