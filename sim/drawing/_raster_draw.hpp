// Draws the shapes of a scene into a view or the light's map. Included once per instruction set,
// inside a namespace of its own: no include guard.

inline void read_position(const Shape& shape, int32_t index, float* p) {
  p[0] = shape.x[index], p[1] = shape.y[index], p[2] = shape.z[index];
}

// What the fragment shader reads of corner `c` of a triangle.
inline void read_attributes(const Scene& scene, const Shape& shape, int32_t c, const float* p,
                            float* attributes) {
  const Mesh& mesh = scene.meshes[shape.mesh];
  const float* n = &mesh.normals[3 * c];
  attributes[kOow] = 1.0f;
  F4 q;
  std::memcpy(&q, shape.turn, sizeof q);
  const F4 normal = turned(q, F4{n[0], n[1], n[2], 0.0f});
  std::memcpy(attributes + kNormal, &normal, 3 * sizeof(float));
  std::memcpy(attributes + kUv, &mesh.uvs[2 * c], 2 * sizeof(float));
  std::memcpy(attributes + kColour, shape.colour, 3 * sizeof(float));
  const F4 shadow = transformed(scene.light.bias_clip, p[0], p[1], p[2]);
  std::memcpy(attributes + kShadow, &shadow, sizeof shadow);
  std::memcpy(attributes + kWorld, p, 3 * sizeof(float));
}

// Triangles set up for the window, a block at a time.
struct Batch {
  int32_t x[3][kBlock], y[3][kBlock];
  float z0[kBlock], zx[kBlock], zy[kBlock];

  Triangle at(int i) const {
    return {{x[0][i], x[1][i], x[2][i]}, {y[0][i], y[1][i], y[2][i]}, z0[i], zx[i], zy[i]};
  }
};

struct WindowLanes {
  float x[kBlock], y[kBlock], z[kBlock];
};

inline void project_block(const Shape& shape, const int32_t* positions, const float* matrix,
                          const Viewport& port, WindowLanes* w) {
  const float* __restrict px = shape.x.data();
  const float* __restrict py = shape.y.data();
  const float* __restrict pz = shape.z.data();
  float m[16];
  std::memcpy(m, matrix, sizeof m);
  for (int i = 0; i < kBlock; ++i) {
    const float x = px[positions[i]], y = py[positions[i]], z = pz[positions[i]];
    const float oow = 1.0f / transform(m, 3, x, y, z);
    w->x[i] = fused(transform(m, 0, x, y, z) * oow, port.scale[0], port.shift[0]);
    w->y[i] = fused(transform(m, 1, x, y, z) * oow, port.scale[1], port.shift[1]);
    w->z[i] = fused(transform(m, 2, x, y, z) * oow, port.scale[2], port.shift[2]);
  }
}

// Sets up the `count` (up to a block) chosen triangles of the lists a, b, c of corners.
inline void set_up(const Shape& shape, const int32_t* const* lists, const int32_t* chosen,
                   int count, const float* matrix, const Viewport& port, Batch* batch) {
  WindowLanes w[3];
  for (int k = 0; k < 3; ++k) {
    int32_t positions[kBlock];
    for (int i = 0; i < kBlock; ++i) positions[i] = lists[k][chosen[i < count ? i : 0]];
    project_block(shape, positions, matrix, port, &w[k]);
    for (int i = 0; i < kBlock; ++i) {
      batch->x[k][i] = snapped(w[k].x[i]);
      batch->y[k][i] = snapped(w[k].y[i]);
    }
  }
  for (int i = 0; i < kBlock; ++i) {
    const Slopes s = slopes(w[0].x[i], w[0].y[i], w[1].x[i], w[1].y[i], w[2].x[i], w[2].y[i]);
    plane(s, w[0].z[i], w[1].z[i], w[2].z[i], &batch->z0[i], &batch->zx[i], &batch->zy[i]);
  }
}

inline void full_corners(const Scene& scene, const View& view, const Shape& shape, int32_t triangle,
                         Corner* corners) {
  const Mesh& mesh = scene.meshes[shape.mesh];
  const int32_t positions[3] = {mesh.a[triangle], mesh.b[triangle], mesh.c[triangle]};
  for (int i = 0; i < 3; ++i) {
    float p[3];
    read_position(shape, positions[i], p);
    window_corner(view.clip, view.port, p[0], p[1], p[2], corners + i);
    read_attributes(scene, shape, mesh.corners[3 * triangle + i], p, corners[i].attributes);
  }
}

// Draws what is left of a triangle that crosses the border of the view volume.
inline void draw_cut(const Scene& scene, View& view, uint32_t shape, int32_t triangle, int planes,
                     ImageTarget& target) {
  Corner corners[3], rest[kMaxCorners];
  full_corners(scene, view, scene.shapes[shape], triangle, corners);
  const int count = clip(corners, planes, view.port, rest);
  std::vector<Piece>& pieces = view.pieces[shape];
  for (int i = 2; i < count; ++i) {
    const Piece piece = {{rest[i - 1], rest[i], rest[0]}};
    Triangle t;
    prepare(piece.corners, &t);
    if (!faces(t)) continue;
    if (pieces.size() > kTriangleMask) throw std::length_error("too many clipped triangles");
    target.id = kPiece | shape << kTriangleBits | uint32_t(pieces.size());
    pieces.push_back(piece);
    fill(t, target);
  }
}

inline void draw_shape(Scene& scene, View& view, uint32_t index, ImageTarget& target) {
  const Shape& shape = scene.shapes[index];
  const Mesh& mesh = scene.meshes[shape.mesh];
  view.pieces[index].clear();
  const int32_t planes =
      project(shape, padded(mesh.position_count), view.clip, view.port, scene.window_x.data(),
              scene.window_y.data(), scene.outside.data());
  if (planes & 0xff) return;
  const bool cut = planes >> 8;
  const Window window = {scene.window_x.data(), scene.window_y.data(), scene.outside.data()};
  int32_t* chosen = scene.survivors.data();
  const int32_t *a = mesh.a.data(), *b = mesh.b.data(), *c = mesh.c.data();
  const int count = cut ? select<true>(a, b, c, mesh.triangle_count, window, chosen)
                        : select<false>(a, b, c, mesh.triangle_count, window, chosen);
  const int32_t* const lists[3] = {a, b, c};
  Batch batch;
  for (int i = 0; i < count; ++i) {
    if (i % kBlock == 0)
      set_up(shape, lists, chosen + i, count - i, view.clip, view.port, &batch);
    const int32_t t = chosen[i];
    const int out = cut ? window.outside[a[t]] | window.outside[b[t]] | window.outside[c[t]] : 0;
    if (out) {
      draw_cut(scene, view, index, t, out, target);
    } else {
      target.id = index << kTriangleBits | uint32_t(t);
      fill(batch.at(i % kBlock), target);
    }
  }
}

struct Group {
  float key;
  int32_t first;  // the first shape of its mesh
};

// Hoare's quicksort around the middle, as Bullet has it: it decides in which order equal keys end.
inline void partition_sort(Group* groups, int low, int high) {
  if (low >= high) return;
  const float pivot = groups[(low + high) / 2].key;
  int i = low, j = high;
  while (i <= j) {
    while (groups[i].key < pivot) ++i;
    while (groups[j].key > pivot) --j;
    if (i > j) break;
    const Group swapped = groups[i];
    groups[i++] = groups[j];
    groups[j--] = swapped;
  }
  partition_sort(groups, low, j);
  partition_sort(groups, i, high);
}

// The shapes of a view from the farthest to the nearest: with equal depth the first one wins.
// Shapes that share a mesh are drawn together, where the first of them belongs.
inline void sort_shapes(const Scene& scene, const float* view, std::vector<int32_t>& order) {
  std::vector<Group> groups;
  const int count = int(scene.shapes.size());
  for (int i = 0; i < count; ++i) {
    if (scene.first[i] != i) continue;
    const float* p = scene.shapes[i].position;
    groups.push_back({(p[0] * view[2] + p[1] * view[6]) + p[2] * view[10], i});
  }
  partition_sort(groups.data(), 0, int(groups.size()) - 1);
  order.clear();
  for (const Group& group : groups)
    for (int i = group.first; i < count; ++i)
      if (scene.first[i] == group.first) order.push_back(i);
}

inline void draw_view(Scene& scene, View& view) {
  std::vector<int32_t> order;
  sort_shapes(scene, view.view, order);
  const uint32_t far = scene.options.depth_bits == 24 ? 0xffffffu : 0xffffu;
  std::fill(view.depth.begin(), view.depth.end(), far);
  std::fill(view.ids.begin(), view.ids.end(), kNothing);
  ImageTarget target = {0, view.port.top, view.port.width, view.port.height, view.depth.data(),
                        view.ids.data(), scene.options.depth_bits == 24, 0};
  for (int32_t index : order)
    if (scene.shapes[index].visible()) draw_shape(scene, view, uint32_t(index), target);
}

constexpr Viewport kMapPort = {
    kMapSize, kMapSize, 0, {kMapSize / 2, kMapSize / 2, 0.5f}, {kMapSize / 2, kMapSize / 2, 0.5f}};

struct Casters {
  const int32_t* corners[3];
  int count;
};

inline Casters casters(const Mesh& mesh) {
  if (mesh.sa.empty()) return {{mesh.a.data(), mesh.b.data(), mesh.c.data()}, mesh.triangle_count};
  return {{mesh.sa.data(), mesh.sb.data(), mesh.sc.data()}, mesh.shadow_count};
}

inline void light_corners(const Scene& scene, const Shape& shape, int32_t triangle,
                          Corner* corners) {
  const Mesh& mesh = scene.meshes[shape.mesh];
  const Casters list = casters(mesh);
  for (int i = 0; i < 3; ++i) {
    float p[3];
    read_position(shape, list.corners[i][triangle], p);
    window_corner(scene.light.clip, kMapPort, p[0], p[1], p[2], corners + i);
    std::memset(corners[i].attributes, 0, sizeof corners[i].attributes);
  }
}

struct Box {
  int low[2] = {kMapSize, kMapSize}, high[2] = {-1, -1};

  void add(const int32_t* x, const int32_t* y) {
    const int32_t* corners[2] = {x, y};
    for (int i = 0; i < 2; ++i) {
      const int32_t* c = corners[i];
      const int from = min3(c[0], c[1], c[2]) >> 8, to = max3(c[0], c[1], c[2]) >> 8;
      low[i] = from < low[i] ? from : low[i];
      high[i] = to > high[i] ? to : high[i];
    }
  }
};

// Calls `draw` with a caster, or with the pieces of it that lie within the light's view volume.
template <typename Draw>
inline void each_piece(const Scene& scene, const Shape& shape, int32_t triangle, Draw draw) {
  Corner corners[3], rest[kMaxCorners];
  light_corners(scene, shape, triangle, corners);
  int planes = 0;
  for (const Corner& c : corners) planes |= outside_of(c.clip[0], c.clip[1], c.clip[2], c.clip[3]);
  Triangle t;
  if (!planes) {
    prepare(corners, &t);
    if (faces(t)) draw(t);
    return;
  }
  const int count = clip(corners, planes, kMapPort, rest);
  for (int i = 2; i < count; ++i) {
    const Corner piece[3] = {rest[i - 1], rest[i], rest[0]};
    prepare(piece, &t);
    if (faces(t)) draw(t);
  }
}

// Which triangles of a shape cast shadows, and between which texels.
inline void find_casters(Scene& scene, Shape& shape) {
  const Mesh& mesh = scene.meshes[shape.mesh];
  int32_t *wx = scene.window_x.data(), *wy = scene.window_y.data(), *out = scene.outside.data();
  shape.casters.clear(), shape.cut_casters.clear();
  std::memcpy(shape.light_low, Box().low, sizeof shape.light_low);
  std::memcpy(shape.light_high, Box().high, sizeof shape.light_high);
  const int32_t planes =
      project(shape, padded(mesh.position_count), scene.light.clip, kMapPort, wx, wy, out);
  if (planes & 0xff) return;
  const bool cut = planes >> 8;
  int32_t* chosen = scene.survivors.data();
  const Casters list = casters(mesh);
  const int32_t *a = list.corners[0], *b = list.corners[1], *c = list.corners[2];
  const Window window = {wx, wy, out};
  const int count = cut ? select<true>(a, b, c, list.count, window, chosen)
                        : select<false>(a, b, c, list.count, window, chosen);
  Box box;
  for (int i = 0; i < count; ++i) {
    const int32_t t = chosen[i];
    if (cut && (out[a[t]] | out[b[t]] | out[c[t]])) {
      shape.cut_casters.push_back(t);
      each_piece(scene, shape, t, [&](const Triangle& piece) { box.add(piece.x, piece.y); });
    } else {
      const int32_t x[3] = {wx[a[t]], wx[b[t]], wx[c[t]]}, y[3] = {wy[a[t]], wy[b[t]], wy[c[t]]};
      shape.casters.push_back(t);
      box.add(x, y);
    }
  }
  std::memcpy(shape.light_low, box.low, sizeof box.low);
  std::memcpy(shape.light_high, box.high, sizeof box.high);
}

inline void draw_casters(const Scene& scene, const Shape& shape, const MapTarget& target) {
  const Casters list = casters(scene.meshes[shape.mesh]);
  const int count = int(shape.casters.size());
  Batch batch;
  for (int i = 0; i < count; ++i) {
    if (i % kBlock == 0)
      set_up(shape, list.corners, &shape.casters[i], count - i, scene.light.clip, kMapPort, &batch);
    fill(batch.at(i % kBlock), target);
  }
  for (int32_t t : shape.cut_casters)
    each_piece(scene, shape, t, [&](const Triangle& piece) { fill(piece, target); });
}

// The light's depth map, in the window that holds every shadow.
inline void draw_shadows(Scene& scene) {
  int low[2] = {kMapSize, kMapSize}, high[2] = {-1, -1};
  for (Shape& shape : scene.shapes) {
    if (shape.cast < shape.moved) find_casters(scene, shape);
    shape.cast = shape.moved;
    if (!shape.visible()) continue;
    for (int i = 0; i < 2; ++i) {
      low[i] = shape.light_low[i] < low[i] ? shape.light_low[i] : low[i];
      high[i] = shape.light_high[i] > high[i] ? shape.light_high[i] : high[i];
    }
  }
  ShadowMap& map = scene.shadow;
  constexpr int kMargin = 2;
  for (int i = 0; i < 2; ++i) {
    low[i] = (low[i] < 0 ? 0 : low[i]) - kMargin;
    high[i] = (high[i] > kMapSize - 1 ? kMapSize - 1 : high[i]) + kMargin;
  }
  map.x = low[0], map.y = low[1];
  map.width = high[0] < low[0] ? kMargin : high[0] - low[0] + 1;
  map.height = high[1] < low[1] ? kMargin : high[1] - low[1] + 1;
  map.depth.assign(size_t(map.width) * size_t(map.height), 0xffff);
  const MapTarget target = {map.x, map.y, map.width, map.height, map.depth.data()};
  for (const Shape& shape : scene.shapes) {
    if (!shape.visible()) continue;
    draw_casters(scene, shape, target);
  }
}
