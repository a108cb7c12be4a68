"""The recipe of the demo's checkpoint: ``python -m ms_controlnet_backend.demo.training FOLDER``.

Stages, each resumable: scenes are drawn; the autoencoder is trained on them; they are encoded; its decoder is made
sharp; a text encoder, a UNet and two ControlNets are trained together on the latents. Everything is upstream's classes
on torch. ``record/`` is what the bundled checkpoint's training left: logs, curve, figures, pictures. It was trained in
two legs: with ``--scenes 16384 --decoder-steps 2400 --steps 6000`` and scenes as they come (three of ten show two
things), after which it did not know which of two things a colour belongs to; then on, as the command does now.
"""
