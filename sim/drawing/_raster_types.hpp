// What the parts of the rasteriser share: the scene, the state of a draw, and its buffers.
//
// The arithmetic follows, operation by operation, what Mesa's llvmpipe does with the shaders of
// Bullet's EGL plugin: the order of additions, what is fused, how coordinates, depth, texture
// weights and colours are rounded. Where a line looks roundabout, that is why.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace raster {

// A pixel knows its triangle by one number: the shape, then the triangle within the shape. A
// triangle that crosses the border of the image is cut; its pieces are numbered on their own.
constexpr int kTriangleBits = 20;
constexpr uint32_t kTriangleMask = (1u << kTriangleBits) - 1;
constexpr uint32_t kPiece = 1u << 31;
constexpr uint32_t kNothing = 0x7fffffffu;
constexpr int kMaxShapes = (1 << (31 - kTriangleBits)) - 1;
constexpr int kMaxTriangles = 1 << kTriangleBits;

// Loops over vertices and triangles run in full blocks; arrays are padded to them.
constexpr int kBlock = 64;
inline int padded(int count) { return (count + kBlock - 1) / kBlock * kBlock; }

inline uint32_t shape_of(uint32_t id) { return (id & ~kPiece) >> kTriangleBits; }

// Interpolated quantities of a pixel: 1/w first, then what the fragment shader reads.
enum Channel {
  kOow = 0,
  kNormal = 1,
  kUv = 4,
  kColour = 6,
  kShadow = 9,
  kWorld = 13,
  kChannels = 16
};

struct Mesh {
  int corner_count = 0, triangle_count = 0, position_count = 0;
  std::vector<float> normals, uvs;      // per corner
  std::vector<int32_t> corners;         // three per triangle
  std::vector<float> x, y, z;           // distinct positions, padded
  std::vector<int32_t> a, b, c;         // per triangle, into the distinct positions, padded
  std::vector<int32_t> sa, sb, sc;      // the triangles that cast shadows, where they are others
  int shadow_count = 0;
};

struct Level {
  int width, height;
  std::vector<uint32_t> texels;         // red in the lowest byte
};

struct Texture {
  std::vector<Level> levels;
  bool power_of_two_width, power_of_two_height;
};

struct Shape {
  int mesh, texture;
  float position[3], turn[4], colour[4];
  std::vector<float> x, y, z;           // distinct positions in the world
  // What the light sees of it, kept while the shape stands still.
  std::vector<int32_t> casters;         // triangles turned away from the light that hit a texel
  std::vector<int32_t> cut_casters;     // those that cross the border of its view volume
  int light_low[2], light_high[2];      // texels that they may touch
  uint64_t moved = 0, cast = 0;         // the draws that last moved it, last found its casters
  bool visible() const { return colour[3] > 0.0f; }
};

// A corner as the clipper and the set-up see it.
struct Corner {
  float clip[4];                        // before the division
  float x, y, z, oow;                   // window coordinates and 1/w
  float attributes[kChannels];          // not yet divided by w
};

struct Piece {
  Corner corners[3];
};

// Planes of a triangle's channels: value = a0 + dx * column + dy * row.
struct Setup {
  alignas(64) float a0[kChannels], dx[kChannels], dy[kChannels];
};

struct Viewport {
  int width, height, top;               // `top`: the row of the frame buffer that is row 0 here
  float scale[3], shift[3];
};

// One camera's image, and what of it may be used again while the camera stays.
struct View {
  float view[16], projection[16], clip[16];
  Viewport port;
  uint64_t used = 0;                    // the draw that used it last
  std::vector<uint32_t> depth, ids;
  std::vector<std::vector<Piece>> pieces;  // per shape
  std::vector<uint32_t> kept_ids;       // the triangles that the shaded values below belong to
  bool kept = false;
  std::vector<float> red, green, blue, intensity, specular, weight_x, weight_y;
  std::vector<int32_t> texel_x, texel_y, reference;
};

struct Light {
  float clip[16], bias_clip[16];        // to the map's clip space, to its texture coordinates
  float position[3], eye[3];
  // Bullet's own: half of the light comes from everywhere, a shadow takes 0.3 of the rest.
  float ambient = 0.5f, shade = 0.3f, colour[3] = {1, 1, 1};
  float background[3] = {0.7f, 0.7f, 0.8f};
};

// A window of the light's depth map: all shadows, and two texels more on every side.
struct ShadowMap {
  int x = 0, y = 0, width = 2, height = 2;
  std::vector<uint16_t> depth = std::vector<uint16_t>(4, 0xffff);
};

struct Options {
  int depth_bits = 16, colour_bits = 10;
};

struct Scene {
  std::vector<Mesh> meshes;
  std::vector<Texture> textures;
  std::vector<Shape> shapes;
  std::vector<int32_t> first;           // per shape: the first shape with its mesh
  std::vector<View> views;
  Light light;
  ShadowMap shadow, no_shadow;
  Options options;
  uint64_t draws = 0;
  bool shadows_stale = true;
  // Scratch of a draw.
  std::vector<int32_t> window_x, window_y, outside;
  std::vector<int32_t> survivors;
  std::vector<int32_t> pixels;
  std::vector<Setup> setups;
  std::vector<int32_t> pixel_setup;
};

constexpr int kMapSize = 4096;
constexpr int kFrameHeight = 768;       // of the plugin's frame buffer
constexpr size_t kMaxViews = 4;

}  // namespace raster
