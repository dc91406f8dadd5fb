#version 450
uniform mat4 clip;           // from the world to the camera's clip space
uniform mat4 shadow_lookup;  // from the world to the shadow map
in vec3 position;
in vec3 normal;
in vec2 uv;
in vec3 place;
in vec4 turn;
in vec4 tint;
out vec4 surface_tint;
out vec2 surface_uv;
out vec3 surface_normal;
out vec4 surface_place;
out vec4 shadow_place;

#include rotate

void main() {
    vec4 world = vec4(place + rotated(position, turn).xyz, 1);
    surface_tint = tint;
    surface_uv = uv;
    surface_normal = rotated(normal, turn).xyz;
    surface_place = world;
    shadow_place = shadow_lookup * world;
    gl_Position = clip * world;
}
