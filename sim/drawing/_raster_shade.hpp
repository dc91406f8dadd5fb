// The colour of each pixel, once it is known which triangle it shows. Included once per
// instruction set, inside a namespace of its own: no include guard.

using Lanes = float[kBlock];

inline void make_setup(const Scene& scene, const View& view, uint32_t id, Setup* setup) {
  const uint32_t index = shape_of(id);
  Corner own[3];
  const Corner* corners = own;
  if (id & kPiece)
    corners = view.pieces[index][id & kTriangleMask].corners;
  else
    full_corners(scene, view, scene.shapes[index], int32_t(id & kTriangleMask), own);
  const Slopes s = slopes(corners);
  const Corner &a = corners[0], &b = corners[1], &c = corners[2];
  for (int i = 0; i < kChannels; ++i)
    plane(s, a.attributes[i] * a.oow, b.attributes[i] * b.oow, c.attributes[i] * c.oow,
          &setup->a0[i], &setup->dx[i], &setup->dy[i]);
}

inline float channel_at(const Setup& s, int channel, float x, float y) {
  return fused(s.dy[channel], y, fused(s.dx[channel], x, s.a0[channel]));
}

// Level of detail from the change of the texture coordinates within a block of 2 x 2 pixels.
inline float detail(const Setup& s, const Level& base, int x, int y) {
  float u[3], v[3];
  for (int i = 0; i < 3; ++i) {
    const float px = float((x & ~1) + (i == 1)), py = float((y & ~1) + (i == 2));
    const float w = 1.0f / channel_at(s, kOow, px, py);
    u[i] = channel_at(s, kUv, px, py) * w;
    v[i] = channel_at(s, kUv + 1, px, py) * w;
  }
  const float width = float(base.width), height = float(base.height);
  const float ux = (u[1] - u[0]) * width, uy = (u[2] - u[0]) * width;
  const float vx = (v[1] - v[0]) * height, vy = (v[2] - v[0]) * height;
  const float across = ux * ux + vx * vx, along = uy * uy + vy * vy;
  const int32_t bits = bits_of(across > along ? across : along);
  const float exponent = float(((bits >> 23) & 0xff) - 128);
  return 0.5f * (exponent + float_of((bits & 0x007fffff) | 0x3f800000));
}

// A texture coordinate as a texel and a weight of 8 bits; `next` is the texel after it.
inline void wrap(float coordinate, int size, bool power_of_two, int* texel, int* next,
                 int* weight) {
  int32_t fixed;
  if (power_of_two) {
    fixed = int32_t(std::nearbyint(coordinate * float(size << 8))) - 128;
    *texel = (fixed >> 8) & (size - 1);
  } else {
    const float part = coordinate - std::floor(coordinate);
    fixed = int32_t(std::nearbyint(part * float(size) * 256.0f)) - 128;
    const int32_t t = fixed >> 8;
    *texel = t < 0 ? size - 1 : t < size - 1 ? t : size - 1;
  }
  *weight = fixed & 255;
  *next = *texel == size - 1 ? 0 : *texel + 1;
}

// From `a` to `b` by `weight` of 256, rounded, all channels at once.
inline uint32_t mix(uint32_t a, uint32_t b, int weight) {
  constexpr uint32_t kOdd = 0x00ff00ff, kHalves = 0x00800080;
  const uint32_t to = uint32_t(weight), from = 256 - to;
  const uint32_t red_blue = ((a & kOdd) * from + (b & kOdd) * to + kHalves) >> 8 & kOdd;
  const uint32_t green = (a >> 8 & 255) * from + (b >> 8 & 255) * to + 128;
  return red_blue | (green & 0xff00);
}

inline uint32_t sample_level(const Texture& texture, const Level& level, float u, float v) {
  int x0, x1, y0, y1, wx, wy;
  wrap(u, level.width, texture.power_of_two_width, &x0, &x1, &wx);
  wrap(v, level.height, texture.power_of_two_height, &y0, &y1, &wy);
  const uint32_t* row0 = level.texels.data() + size_t(y0) * size_t(level.width);
  const uint32_t* row1 = level.texels.data() + size_t(y1) * size_t(level.width);
  return mix(mix(row0[x0], row0[x1], wx), mix(row1[x0], row1[x1], wx), wy);
}

inline uint32_t sample(const Texture& texture, float u, float v, float lod) {
  const int last = int(texture.levels.size()) - 1;
  int level = 0, weight = 0;
  if (lod >= float(last)) {
    level = last;
  } else if (lod > 0.0f) {
    level = int(lod);
    weight = int((lod - float(level)) * 256.0f);
  }
  const uint32_t near = sample_level(texture, texture.levels[level], u, v);
  if (!weight) return near;
  return mix(near, sample_level(texture, texture.levels[level + 1], u, v), weight);
}

// Values of up to a block of pixels, channel by channel.
struct Fragments {
  alignas(64) Lanes channels[kChannels];
  alignas(64) Lanes red, green, blue, intensity, specular, weight_x, weight_y;
  int32_t texel_x[kBlock], texel_y[kBlock], reference[kBlock];
  int32_t column[kBlock], row[kBlock];
};

// Columns and rows (of the frame buffer) of pixels that are listed row by row.
inline void locate(const View& view, const int32_t* pixels, int count, Fragments* f) {
  int row = pixels[0] / view.port.width, start = row * view.port.width;
  for (int i = 0; i < kBlock; ++i) {
    const int p = pixels[i < count ? i : 0];
    if (i < count)
      while (p >= start + view.port.width) ++row, start += view.port.width;
    f->column[i] = i < count ? p - start : f->column[0];
    f->row[i] = i < count ? row + view.port.top : f->row[0];
  }
}

inline void interpolate(const Scene& scene, const int32_t* setups, int count, Fragments* f) {
  for (int i = 0; i < kBlock; ++i) {
    const Setup& s = scene.setups[setups[i < count ? i : 0]];
    const float x = float(f->column[i]), y = float(f->row[i]);
    float values[kChannels];
    for (int c = 0; c < kChannels; ++c) values[c] = channel_at(s, c, x, y);
    for (int c = 0; c < kChannels; ++c) f->channels[c][i] = values[c];
  }
  float* __restrict oow = f->channels[kOow];
  for (int i = 0; i < kBlock; ++i) oow[i] = 1.0f / oow[i];
  for (int c = 1; c < kChannels; ++c) {
    float* __restrict values = f->channels[c];
    for (int i = 0; i < kBlock; ++i) values[i] *= oow[i];
  }
}

inline void paint(const Scene& scene, const View& view, const int32_t* pixels,
                  const int32_t* setups, int count, Fragments* f) {
  for (int i = 0; i < count; ++i) {
    const int texture = scene.shapes[shape_of(view.ids[pixels[i]])].texture;
    uint32_t texel = 0xffffffu;
    if (texture >= 0) {
      const Texture& t = scene.textures[texture];
      const float lod =
          detail(scene.setups[setups[i]], t.levels[0], f->column[i], f->row[i]);
      texel = sample(t, f->channels[kUv][i], f->channels[kUv + 1][i], lod);
    }
    f->red[i] = f->channels[kColour][i] * (float(texel & 255) * (1.0f / 255.0f));
    f->green[i] = f->channels[kColour + 1][i] * (float(texel >> 8 & 255) * (1.0f / 255.0f));
    f->blue[i] = f->channels[kColour + 2][i] * (float(texel >> 16 & 255) * (1.0f / 255.0f));
  }
}

struct Vector {
  float x, y, z;
};
inline float dot(const Vector& a, const Vector& b) { return (a.z * b.z + a.y * b.y) + a.x * b.x; }
inline Vector unit(const Vector& a) {
  const float r = 1.0f / __builtin_sqrtf(dot(a, a));
  return {a.x * r, a.y * r, a.z * r};
}

constexpr float kShininess = 41.0f, kGloss = 0.5f;

inline void illuminate(const Light& light, Fragments* f) {
  const Vector lamp = {light.position[0], light.position[1], light.position[2]};
  const Vector eye = {light.eye[0], light.eye[1], light.eye[2]};
  const Vector direction = unit(lamp);
  const auto& c = f->channels;
  for (int i = 0; i < kBlock; ++i) {
    const Vector n = unit({c[kNormal][i], c[kNormal + 1][i], c[kNormal + 2][i]});
    const Vector p = {c[kWorld][i], c[kWorld + 1][i], c[kWorld + 2][i]};
    const float facing = dot(n, direction);
    float limited = facing > -1.0f ? facing : -1.0f;
    limited = limited < 1.0f ? limited : 1.0f;
    f->intensity[i] = 0.5f + 0.5f * limited;
    const Vector to_lamp = unit({lamp.x - p.x, lamp.y - p.y, lamp.z - p.z});
    const Vector to_eye = unit({eye.x - p.x, eye.y - p.y, eye.z - p.z});
    const Vector in = {-to_lamp.x, -to_lamp.y, -to_lamp.z};
    const float d = dot(n, in);
    const Vector out = {in.x - 2.0f * (d * n.x), in.y - 2.0f * (d * n.y), in.z - 2.0f * (d * n.z)};
    const float along = dot(to_eye, out);
    const float shine = power(along > 0.0f ? along : 0.0f, kShininess) * kGloss;
    f->specular[i] = facing < 0.0f ? 0.0f : shine;
  }
}

constexpr int32_t kNeverLit = 1 << 20;

// Where the shadow map is read, and the least texel that leaves the pixel lit.
inline void find_shadow(Fragments* f) {
  const auto& c = f->channels;
  constexpr float kStep = 1.0f / 65535.0f;
  for (int i = 0; i < kBlock; ++i) {
    float depth = c[kShadow + 2][i] / c[kShadow + 3][i];
    depth = depth > 0.0f ? depth : 0.0f;
    depth = depth < 1.0f ? depth : 1.0f;
    const int32_t k = int32_t(depth * 65535.0f);
    const int32_t above = float(k) * kStep >= depth ? k : k + 1;
    const int32_t least = k > 0 && float(k - 1) * kStep >= depth ? k - 1 : above;
    f->reference[i] = f->intensity[i] < 0.5f ? kNeverLit : least;
    const float x = c[kShadow][i] * float(kMapSize) - 0.5f;
    const float y = c[kShadow + 1][i] * float(kMapSize) - 0.5f;
    const float left = __builtin_floorf(x), low = __builtin_floorf(y);
    f->texel_x[i] = int32_t(left), f->texel_y[i] = int32_t(low);
    f->weight_x[i] = x - left, f->weight_y[i] = y - low;
  }
}

inline void keep(const Fragments& f, const int32_t* pixels, int count, View& view) {
  for (int i = 0; i < count; ++i) {
    const int p = pixels[i];
    view.red[p] = f.red[i], view.green[p] = f.green[i], view.blue[p] = f.blue[i];
    view.intensity[p] = f.intensity[i], view.specular[p] = f.specular[i];
    view.weight_x[p] = f.weight_x[i], view.weight_y[p] = f.weight_y[i];
    view.texel_x[p] = f.texel_x[i], view.texel_y[p] = f.texel_y[i];
    view.reference[p] = f.reference[i];
  }
}

// Lists the pixels whose triangle, or whose place or colour, is not that of the values kept.
inline int list_stale(Scene& scene, View& view, const uint8_t* changed) {
  const int total = view.port.width * view.port.height;
  const uint32_t *ids = view.ids.data(), *kept = view.kept_ids.data();
  int32_t* pixels = scene.pixels.data();
  int count = 0;
  for (int p = 0; p < total; ++p) {
    const uint32_t id = ids[p];
    if (id == kNothing) continue;
    pixels[count] = p;
    count += !(view.kept && kept[p] == id && !changed[shape_of(id)]);
  }
  return count;
}

// Gives every listed pixel the planes of its triangle, made once per triangle and row of pixels.
inline void make_setups(Scene& scene, const View& view, int count) {
  scene.setups.clear();
  const int width = view.port.width;
  std::vector<std::pair<uint32_t, int32_t>> above(width, {kNothing, 0});
  uint32_t last = kNothing;
  int32_t number = 0;
  for (int i = 0; i < count; ++i) {
    const int p = scene.pixels[i];
    const uint32_t id = view.ids[p];
    auto& up = above[p % width];
    if (id != last) {
      last = id;
      if (up.first == id) {
        number = up.second;
      } else {
        number = int32_t(scene.setups.size());
        scene.setups.emplace_back();
        make_setup(scene, view, id, &scene.setups.back());
      }
    }
    up = {id, number};
    scene.pixel_setup[i] = number;
  }
}

inline void shade_view(Scene& scene, View& view, const uint8_t* changed) {
  const int count = list_stale(scene, view, changed);
  make_setups(scene, view, count);
  Fragments f;
  for (int start = 0; start < count; start += kBlock) {
    const int size = count - start < kBlock ? count - start : kBlock;
    const int32_t* pixels = scene.pixels.data() + start;
    const int32_t* setups = scene.pixel_setup.data() + start;
    locate(view, pixels, size, &f);
    interpolate(scene, setups, size, &f);
    paint(scene, view, pixels, setups, size, &f);
    illuminate(scene.light, &f);
    find_shadow(&f);
    keep(f, pixels, size, view);
  }
  view.kept_ids = view.ids;
  view.kept = true;
}

inline int limited(int value, int largest) {
  value = value > 0 ? value : 0;
  return value < largest ? value : largest;
}

// The share of light that reaches each pixel of a block: four comparisons, weighted. The map has a
// margin in which everything is lit, so what is outside is looked up there.
inline void find_light(const ShadowMap& map, const View& view, int start, int size, float* share) {
  const uint16_t* depth = map.depth.data();
  const int right = map.width - 2, top = map.height - 2, width = map.width;
  for (int i = 0; i < size; ++i) {
    const int p = start + i;
    const int column = limited(view.texel_x[p] - map.x, right);
    const int row = limited(view.texel_y[p] - map.y, top);
    const uint16_t* t = depth + size_t(row) * size_t(width) + size_t(column);
    const int32_t reference = view.reference[p];
    const float x1 = view.weight_x[p], x0 = 1.0f - x1;
    const float low = (t[0] >= reference ? x0 : 0.0f) + (t[1] >= reference ? x1 : 0.0f);
    const float high =
        (t[width] >= reference ? x0 : 0.0f) + (t[width + 1] >= reference ? x1 : 0.0f);
    share[i] = fused(view.weight_y[p], high - low, low);
  }
}

// 10 bits to 8, rounded: (value * 255 + 511) / 1023 without a division.
inline int32_t ten_to_eight(int32_t value) { return (value * 255 + 512) * 1025 >> 20; }

template <bool kTenBits>
inline int32_t to_byte(float value) {
  value = value > 0.0f ? value : 0.0f;
  value = value < 1.0f ? value : 1.0f;
  return kTenBits ? ten_to_eight(unorm16(value) >> 6) : unorm8(value);
}

// A cleared pixel: rounded to the buffer's bits, where a drawn one is cut off.
inline uint8_t cleared(float value, bool ten_bits) {
  return uint8_t(ten_bits ? ten_to_eight(int(value * 1023.0f + 0.5f)) : int(value * 255.0f + 0.5f));
}

template <bool kTenBits>
inline void light_block(const Light& light, const View& view, int start, int size,
                        const float* share, uint8_t* rgb) {
  const float ambient = light.ambient, shade = light.shade;
  const float* __restrict intensity = view.intensity.data() + start;
  const float* __restrict specular = view.specular.data() + start;
  const float* const colours[3] = {view.red.data() + start, view.green.data() + start,
                                   view.blue.data() + start};
  float factor[kBlock];
  int32_t bytes[3][kBlock];
  for (int i = 0; i < size; ++i) {
    const float shaded = (1.0f - shade) * intensity[i] + (shade * intensity[i]) * share[i];
    factor[i] = (shaded * (1.0f - ambient) + ambient) + specular[i] * share[i];
  }
  for (int c = 0; c < 3; ++c) {
    const float* __restrict colour = colours[c];
    const float lamp = light.colour[c];
    for (int i = 0; i < size; ++i) bytes[c][i] = to_byte<kTenBits>(colour[i] * (factor[i] * lamp));
  }
  for (int i = 0; i < size; ++i)
    for (int c = 0; c < 3; ++c) rgb[3 * i + c] = uint8_t(bytes[c][i]);
}

inline void write_image(const Scene& scene, const View& view, bool shadows, uint8_t* rgb) {
  const int total = view.port.width * view.port.height;
  const bool ten = scene.options.colour_bits == 10;
  uint8_t background[3];
  for (int i = 0; i < 3; ++i) background[i] = cleared(scene.light.background[i], ten);
  for (int start = 0; start < total; start += kBlock) {
    const int size = total - start < kBlock ? total - start : kBlock;
    float share[kBlock];
    find_light(shadows ? scene.shadow : scene.no_shadow, view, start, size, share);
    uint8_t* out = rgb + 3 * size_t(start);
    if (ten)
      light_block<true>(scene.light, view, start, size, share, out);
    else
      light_block<false>(scene.light, view, start, size, share, out);
    for (int i = 0; i < size; ++i)
      if (view.ids[start + i] == kNothing) std::memcpy(out + 3 * i, background, 3);
  }
}

inline void write_depth(const Scene& scene, const View& view, float* depth) {
  const int total = view.port.width * view.port.height;
  const bool deep = scene.options.depth_bits == 24;
  constexpr float kStep = 1.0f / 65535.0f;
  constexpr double kDeepStep = 1.0 / 16777215.0;
  for (int p = 0; p < total; ++p) {
    const uint32_t k = view.depth[p];
    depth[p] = deep ? float(k * kDeepStep) : float(k) * kStep;
  }
}
