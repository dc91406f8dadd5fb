// A software rasteriser that draws what Bullet's EGL plugin draws on Mesa's llvmpipe.
//
// A plain C interface, called through ctypes: building it takes a C++ compiler and nothing else,
// one build serves every Python version, and ctypes releases the GIL around each call. A scene is
// used by one thread at a time; scenes share nothing.
//
// The drawing code is compiled twice, for every processor and for x86-64-v3 (AVX2, FMA), and the
// better one that runs is used. Both round alike (no contraction, no reassociation): the images do
// not depend on it. AVX-512 (x86-64-v4) brought no more speed.

#include <algorithm>
#include <cstdio>
#include <new>
#include <utility>

#include "_raster_types.hpp"

#if defined(_GLIBCXX_RELEASE) && _GLIBCXX_RELEASE >= 11
// The headers of newer compilers call this function, which the C++ library of manylinux_2_28
// lacks. With a definition of our own, a wheel built here runs there too.
void std::__throw_bad_array_new_length() { throw std::bad_alloc(); }
#endif

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"

namespace raster {
namespace portable {
#include "_raster_kernels.hpp"
}  // namespace portable

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define RASTER_X86 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,f16c,lzcnt,popcnt")
namespace v3 {
#include "_raster_kernels.hpp"
}  // namespace v3
#pragma GCC pop_options
#endif

struct Kernels {
  void (*update)(Scene&, const float*, const float*, uint8_t*);
  void (*shadows)(Scene&);
  void (*image)(Scene&, View&, const uint8_t*);
  void (*output)(const Scene&, const View&, bool, uint8_t*, float*);
};

#define RASTER_KERNELS(set) {set::update, set::draw_shadows, set::draw_image, set::write_output}

enum InstructionSet { kBest = 0, kPortable = 1, kV3 = 2 };

int choose_set(int wanted) {
#ifdef RASTER_X86
  const bool able = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2");
  return able && wanted != kPortable ? kV3 : kPortable;
#else
  (void)wanted;
  return kPortable;
#endif
}

Kernels kernels(int set) {
#ifdef RASTER_X86
  if (set == kV3) return RASTER_KERNELS(v3);
#endif
  (void)set;
  return RASTER_KERNELS(portable);
}

struct Renderer {
  Scene scene;
  Kernels kernels;
  int set;
};

#include "_raster_build.hpp"
#include "_raster_light.hpp"

// ---- Views --------------------------------------------------------------------------------------

// The buffers of a camera: those of its last image if it has not changed, else the oldest ones.
View& find_view(Scene& scene, const float* view, const float* projection, int width, int height) {
  require(width > 0 && height > 0 && width <= 16384 && height <= 16384,
          "an image must be between 1 x 1 and 16384 x 16384");
  View* oldest = nullptr;
  for (View& v : scene.views) {
    if (v.port.width == width && v.port.height == height &&
        !std::memcmp(v.view, view, sizeof v.view) &&
        !std::memcmp(v.projection, projection, sizeof v.projection))
      return v;
    if (v.used != scene.draws && (!oldest || v.used < oldest->used)) oldest = &v;
  }
  if (scene.views.size() < kMaxViews || !oldest) {
    scene.views.emplace_back();
    oldest = &scene.views.back();
  }
  const size_t size = size_t(width) * size_t(height);
  View& v = *oldest;
  std::memcpy(v.view, view, sizeof v.view);
  std::memcpy(v.projection, projection, sizeof v.projection);
  multiply(projection, view, v.clip);
  const int frame = std::max(kFrameHeight, height);
  const float w = float(width) / 2, h = float(height) / 2;
  v.port = {width, height, frame - height, {w, -h, 0.5f}, {w, float(frame) - h, 0.5f}};
  v.kept = false;
  v.depth.resize(size), v.ids.resize(size), v.pieces.resize(scene.shapes.size());
  for (auto* a : {&v.red, &v.green, &v.blue, &v.intensity, &v.specular, &v.weight_x, &v.weight_y})
    a->assign(size, 0.0f);
  for (auto* a : {&v.texel_x, &v.texel_y, &v.reference}) a->assign(size, 0);
  scene.pixels.resize(std::max(scene.pixels.size(), size + 1));
  scene.pixel_setup.resize(std::max(scene.pixel_setup.size(), size));
  return v;
}

void set_light(Scene& scene, const float* position, const float* colour, float ambient, float shade,
               const float* background) {
  Light light = make_light({position[0], position[1], position[2]});
  light.ambient = ambient, light.shade = shade;
  std::memcpy(light.colour, colour, sizeof light.colour);
  std::memcpy(light.background, background, sizeof light.background);
  scene.light = light;
  // Nothing that was computed for another light may be used again.
  scene.shadows_stale = true;
  scene.views.clear();
  for (Shape& shape : scene.shapes) shape.moved = shape.cast = 0;
}

struct Camera {
  const float *view, *projection;
  int width, height;
  uint8_t* rgb;
  float* depth;
  int shadows;
};

void draw(Renderer& renderer, const float* poses, const float* colours, const Camera* cameras,
          int count) {
  Scene& scene = renderer.scene;
  std::vector<uint8_t> changed(scene.shapes.size());
  renderer.kernels.update(scene, poses, colours, changed.data());
  // Shaded values of a view that skipped a draw may be of an older state.
  for (View& v : scene.views)
    if (v.used + 1 != scene.draws) v.kept = false;
  bool any = false;
  for (uint8_t c : changed) any |= c != 0;
  scene.shadows_stale |= any;
  for (int i = 0; i < count; ++i) {
    const Camera& c = cameras[i];
    if (c.shadows && scene.shadows_stale) {
      renderer.kernels.shadows(scene);
      scene.shadows_stale = false;
    }
    View& view = find_view(scene, c.view, c.projection, c.width, c.height);
    if (any || !view.kept) renderer.kernels.image(scene, view, changed.data());
    view.used = scene.draws;
    renderer.kernels.output(scene, view, c.shadows != 0, c.rgb, c.depth);
  }
}

template <typename Work>
int guarded(char* message, int size, Work work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(message, size_t(size), "%s", error.what());
  } catch (...) {
    std::snprintf(message, size_t(size), "unknown failure");
  }
  return 1;
}

}  // namespace raster

#pragma GCC diagnostic pop

// ---- The C interface ----------------------------------------------------------------------------

using raster::Renderer;

#pragma GCC visibility push(default)

extern "C" {

// Python refuses a library whose number is another one than it expects.
int raster_version() { return 2; }

Renderer* raster_new(int depth_bits, int colour_bits, int set) {
  try {
    auto renderer = std::make_unique<Renderer>();
    renderer->set = raster::choose_set(set);
    renderer->kernels = raster::kernels(renderer->set);
    renderer->scene.options = {depth_bits, colour_bits};
    renderer->scene.light = raster::make_light(raster::kLamp);
    return renderer.release();
  } catch (...) {
    return nullptr;
  }
}

void raster_free(Renderer* renderer) { delete renderer; }

int raster_set(const Renderer* renderer) { return renderer->set; }

int raster_add_mesh(Renderer* renderer, const float* positions, const float* normals,
                    const float* uvs, int corners, const int32_t* triangles, int count,
                    float detail, char* message, int size) {
  return raster::guarded(message, size, [&] {
    raster::add_mesh(renderer->scene, positions, normals, uvs, corners, triangles, count, detail);
  });
}

int raster_add_texture(Renderer* renderer, const uint8_t* rgb, int width, int height,
                       char* message, int size) {
  return raster::guarded(message, size,
                         [&] { raster::add_texture(renderer->scene, rgb, width, height); });
}

int raster_add_shape(Renderer* renderer, int mesh, int texture, char* message, int size) {
  return raster::guarded(message, size,
                         [&] { raster::add_shape(renderer->scene, mesh, texture); });
}

// Another light: where it is, its colour, what comes from everywhere, what a shadow takes away of
// the rest, and the colour of what is not drawn.
int raster_set_light(Renderer* renderer, const float* position, const float* colour, float ambient,
                     float shade, const float* background, char* message, int size) {
  return raster::guarded(message, size, [&] {
    raster::set_light(renderer->scene, position, colour, ambient, shade, background);
  });
}

int raster_draw(Renderer* renderer, const float* poses, const float* colours,
                const raster::Camera* cameras, int count, char* message, int size) {
  return raster::guarded(message, size,
                         [&] { raster::draw(*renderer, poses, colours, cameras, count); });
}

}  // extern "C"

#pragma GCC visibility pop
