#version 450
uniform mat4 clip;
in vec3 position;
in vec3 place;
in vec4 turn;

#include rotate

void main() {
    gl_Position = clip * vec4(place + rotated(position, turn).xyz, 1);
}
