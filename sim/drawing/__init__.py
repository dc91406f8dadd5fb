"""Renderers of our own: the geometry that Bullet's plugin draws, drawn without its plugin.

`scene` holds what there is to draw, `fast` draws it on the CPU and `gl` through OpenGL. Which of
them a run uses is decided in `calvin_eval.sim.render`.
"""
