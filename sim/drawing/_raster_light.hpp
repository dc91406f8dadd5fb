// The light and its map's matrices, in the order of operations that Bullet has. Included inside
// the namespace `raster`.
#pragma once

void multiply(const float* a, const float* b, float* result) {
  for (int j = 0; j < 4; ++j)
    for (int i = 0; i < 4; ++i)
      result[4 * j + i] = a[i] * b[4 * j] + a[4 + i] * b[4 * j + 1] + a[8 + i] * b[4 * j + 2] +
                          a[12 + i] * b[4 * j + 3];
}

struct V {
  float x, y, z;
};
float inner(V a, V b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
V scaled(V a, float f) { return {a.x * f, a.y * f, a.z * f}; }
V normal(V a) { return scaled(a, 1.0f / std::sqrt(inner(a, a))); }
V cross(V a, V b) { return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x}; }

// Bullet's light, its map of 20 x 20 m round the origin, and the one eye of all highlights: an
// orbit camera that no image moves (distance 1.5 m, yaw -80 degrees, pitch -10 degrees).
constexpr V kLamp = {-5, -40, 200};

Light make_light(V from) {
  Light light;
  const float near = 1, far = 300, reach = 10;
  const V unit = normal(from);
  const float a = unit.y * unit.y + unit.z * unit.z, k = 1.0f / std::sqrt(a);
  const V forward = normal({-from.x, -from.y, -from.z});
  const V side = normal(cross(forward, normal({0, -unit.z * k, unit.y * k})));
  const V up = cross(side, forward);
  const float view[16] = {side.x, up.x, -forward.x, 0, side.y, up.y, -forward.y, 0,
                          side.z, up.z, -forward.z, 0, -inner(side, from), -inner(up, from),
                          inner(forward, from), 1};
  float ortho[16] = {}, bias[16] = {};
  ortho[0] = ortho[5] = 2.0f / (reach + reach);
  ortho[10] = -2.0f / (far - near), ortho[14] = -(far + near) / (far - near), ortho[15] = 1;
  bias[0] = bias[5] = bias[10] = bias[12] = bias[13] = bias[14] = 0.5f, bias[15] = 1;
  multiply(ortho, view, light.clip);
  multiply(bias, light.clip, light.bias_clip);
  const double degree = 0.017453292519943295, yaw = -80 * degree, pitch = -10 * degree;
  light.position[0] = from.x, light.position[1] = from.y, light.position[2] = from.z;
  light.eye[0] = float(1.5 * std::cos(pitch) * std::sin(yaw));
  light.eye[1] = float(-1.5 * std::cos(pitch) * std::cos(yaw));
  light.eye[2] = float(-1.5 * std::sin(pitch));
  return light;
}
