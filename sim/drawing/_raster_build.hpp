// Takes over a scene: distinct positions, coarser shadow casters, mipmaps. Included inside the
// namespace `raster`, after the portable drawing code.
#pragma once

struct Position {
  float x, y, z;
  int32_t corner;
};

bool operator<(const Position& a, const Position& b) {
  return std::memcmp(&a, &b, 3 * sizeof(float)) < 0;
}

// Distinct positions of a mesh: corners differ in normals and texture coordinates too, but only
// positions decide what is seen. Returns the distinct position of each corner.
std::vector<int32_t> weld(Mesh& mesh, const float* positions) {
  std::vector<Position> sorted(size_t(mesh.corner_count));
  for (int i = 0; i < mesh.corner_count; ++i)
    sorted[i] = {positions[3 * i], positions[3 * i + 1], positions[3 * i + 2], i};
  std::stable_sort(sorted.begin(), sorted.end());
  std::vector<int32_t> representative(sorted.size());
  int32_t leader = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (i == 0 || sorted[i - 1] < sorted[i]) leader = sorted[i].corner;
    representative[sorted[i].corner] = leader;
  }
  // Numbered in the order of the file, in which neighbours in space mostly follow each other.
  std::vector<int32_t> number(sorted.size(), -1), result(sorted.size());
  for (int i = 0; i < mesh.corner_count; ++i) {
    const int32_t r = representative[i];
    if (number[r] < 0) {
      number[r] = int32_t(mesh.x.size());
      mesh.x.push_back(positions[3 * r]);
      mesh.y.push_back(positions[3 * r + 1]);
      mesh.z.push_back(positions[3 * r + 2]);
    }
    result[i] = number[r];
  }
  mesh.position_count = int(mesh.x.size());
  return result;
}

template <typename T>
void pad(std::vector<T>& values) {
  const T last = values.empty() ? T() : values.back();
  values.resize(size_t(padded(int(values.size()))), last);
}

// Positions that stand for all within a cube of `cell`: the mesh of the shadow may be coarser.
std::vector<int32_t> cluster(const Mesh& mesh, float cell) {
  std::vector<Position> cells(size_t(mesh.position_count));
  for (int i = 0; i < mesh.position_count; ++i)
    cells[i] = {std::floor(mesh.x[i] / cell) + 0.0f, std::floor(mesh.y[i] / cell) + 0.0f,
                std::floor(mesh.z[i] / cell) + 0.0f, i};
  std::stable_sort(cells.begin(), cells.end());
  std::vector<int32_t> result(cells.size());
  int32_t leader = 0;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i == 0 || cells[i - 1] < cells[i]) leader = cells[i].corner;
    result[cells[i].corner] = leader;
  }
  return result;
}

void add_shadow_triangles(Mesh& mesh, float detail) {
  if (detail <= 0.0f) return;
  const std::vector<int32_t> stands = cluster(mesh, detail);
  for (int i = 0; i < mesh.triangle_count; ++i) {
    const int32_t a = stands[mesh.a[i]], b = stands[mesh.b[i]], c = stands[mesh.c[i]];
    if (a == b || b == c || c == a) continue;
    mesh.sa.push_back(a), mesh.sb.push_back(b), mesh.sc.push_back(c);
  }
  mesh.shadow_count = int(mesh.sa.size());
  pad(mesh.sa), pad(mesh.sb), pad(mesh.sc);
}

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

void add_mesh(Scene& scene, const float* positions, const float* normals, const float* uvs,
              int corners, const int32_t* triangles, int count, float detail) {
  require(count <= kMaxTriangles, "a mesh has more than 1,048,576 triangles");
  for (int i = 0; i < 3 * count; ++i)
    require(triangles[i] >= 0 && triangles[i] < corners, "a triangle names a corner that is not there");
  Mesh mesh;
  mesh.corner_count = corners, mesh.triangle_count = count;
  mesh.normals.assign(normals, normals + 3 * size_t(corners));
  mesh.uvs.assign(uvs, uvs + 2 * size_t(corners));
  mesh.corners.assign(triangles, triangles + 3 * size_t(count));
  const std::vector<int32_t> position = weld(mesh, positions);
  for (int i = 0; i < count; ++i) {
    mesh.a.push_back(position[triangles[3 * i]]);
    mesh.b.push_back(position[triangles[3 * i + 1]]);
    mesh.c.push_back(position[triangles[3 * i + 2]]);
  }
  pad(mesh.a), pad(mesh.b), pad(mesh.c);
  add_shadow_triangles(mesh, detail);
  pad(mesh.x), pad(mesh.y), pad(mesh.z);
  scene.meshes.push_back(std::move(mesh));
}

int clamped(int value, int size) { return value < 0 ? 0 : value < size ? value : size - 1; }

// The next smaller picture, filtered with weights of 8 bits as the driver's copy does.
Level halved(const Level& from) {
  Level to = {std::max(1, from.width / 2), std::max(1, from.height / 2), {}};
  to.texels.resize(size_t(to.width) * size_t(to.height));
  for (int y = 0; y < to.height; ++y)
    for (int x = 0; x < to.width; ++x) {
      const int fx = int(std::nearbyint((x + 0.5f) / to.width * (from.width * 256.0f))) - 128;
      const int fy = int(std::nearbyint((y + 0.5f) / to.height * (from.height * 256.0f))) - 128;
      const int x0 = clamped(fx >> 8, from.width), x1 = clamped((fx >> 8) + 1, from.width);
      const int y0 = clamped(fy >> 8, from.height), y1 = clamped((fy >> 8) + 1, from.height);
      const uint32_t* t = from.texels.data();
      const size_t w = size_t(from.width);
      to.texels[size_t(y) * size_t(to.width) + size_t(x)] = portable::mix(
          portable::mix(t[y0 * w + x0], t[y0 * w + x1], fx & 255),
          portable::mix(t[y1 * w + x0], t[y1 * w + x1], fx & 255), fy & 255);
    }
  return to;
}

void add_texture(Scene& scene, const uint8_t* rgb, int width, int height) {
  require(width > 0 && height > 0, "a texture is empty");
  Level level = {width, height, std::vector<uint32_t>(size_t(width) * size_t(height))};
  for (size_t i = 0; i < level.texels.size(); ++i)
    level.texels[i] = rgb[3 * i] | uint32_t(rgb[3 * i + 1]) << 8 | uint32_t(rgb[3 * i + 2]) << 16;
  Texture texture = {{}, (width & (width - 1)) == 0, (height & (height - 1)) == 0};
  texture.levels.push_back(std::move(level));
  while (texture.levels.back().width > 1 || texture.levels.back().height > 1)
    texture.levels.push_back(halved(texture.levels.back()));
  scene.textures.push_back(std::move(texture));
}

void add_shape(Scene& scene, int mesh, int texture) {
  require(mesh >= 0 && mesh < int(scene.meshes.size()), "a shape names a mesh that is not there");
  require(texture < int(scene.textures.size()), "a shape names a texture that is not there");
  require(int(scene.shapes.size()) < kMaxShapes, "a scene has more than 2,046 shapes");
  Shape shape = {};
  shape.mesh = mesh, shape.texture = texture;
  const Mesh& m = scene.meshes[mesh];
  shape.x.resize(m.x.size()), shape.y.resize(m.x.size()), shape.z.resize(m.x.size());
  int first = 0;
  while (first < int(scene.shapes.size()) && scene.shapes[first].mesh != mesh) ++first;
  scene.first.push_back(first);
  scene.shapes.push_back(std::move(shape));
  const size_t positions = std::max(scene.window_x.size(), m.x.size());
  for (auto* v : {&scene.window_x, &scene.window_y, &scene.outside}) v->resize(positions);
  scene.survivors.resize(std::max(scene.survivors.size(), m.a.size() + 1));
}
