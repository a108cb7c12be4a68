"""The VAE. Its encoder and decoder are intercepted, not the VAE itself, so upstream's slicing and tiling still work."""

from ..hookspecs import Adapter, Site
from .matching import named

ADAPTER = Adapter(
    "autoencoder",
    named("AutoencoderKL", "AsymmetricAutoencoderKL", "AutoencoderTiny"),
    lambda vae, name: [Site(f"{name}.encoder", vae.encoder), Site(f"{name}.decoder", vae.decoder)],
)
