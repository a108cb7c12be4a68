"""The recipe of the demo's checkpoint: ``python -m ms_controlnet_backend.demo.training FOLDER``.

Stages, each resumable: scenes are drawn; the autoencoder is trained on them; they are encoded; its decoder is made
sharp; a text encoder, a UNet and two ControlNets are trained together on the latents. Everything is upstream's classes
on torch. ``record/`` is what the bundled checkpoint's training left: logs, curve, figures, pictures.
"""
