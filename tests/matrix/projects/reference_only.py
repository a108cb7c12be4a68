# In the manner of the community pipeline stable_diffusion_controlnet_reference (of 2023, still used): every transformer
# block gets a forward of its own that keeps its input in one pass ("write") and looks at it in the next ("read").
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UniPCMultistepScheduler
from diffusers.models.attention import BasicTransformerBlock
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from diffusers.utils import load_image


def torch_dfs(model):
    result = [model]
    for child in model.children():
        result += torch_dfs(child)
    return result


class StableDiffusionControlNetReferencePipeline(StableDiffusionControlNetPipeline):
    @torch.no_grad()
    def __call__(self, prompt, image, ref_image, num_inference_steps=50, guidance_scale=7.5, negative_prompt=None,
                 generator=None, controlnet_conditioning_scale=1.0, attention_auto_machine_weight=1.0,
                 gn_auto_machine_weight=1.0, style_fidelity=0.5, reference_attn=True,
                 reference_adain=True):  # fmt: skip
        device = self._execution_device
        embeds, negative_embeds = self.encode_prompt(prompt, device, 1, True, negative_prompt)
        prompt_embeds = torch.cat([negative_embeds, embeds])
        width, height = image.size
        prepared = dict(width=width, height=height, batch_size=1, num_images_per_prompt=1, device=device)
        image = self.prepare_image(image, dtype=self.controlnet.dtype, do_classifier_free_guidance=True, **prepared)
        ref_image = self.prepare_image(ref_image, dtype=prompt_embeds.dtype, **prepared)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = self.prepare_latents(1, 4, height, width, prompt_embeds.dtype, device, generator)
        ref_latents = self.vae.encode(ref_image).latent_dist.sample(generator=generator)
        ref_latents = torch.cat([4.0 * ref_latents] * 2)  # to unit variance; a random VAE's are small
        extra_step_kwargs = self.prepare_extra_step_kwargs(generator, 0.0)

        MODE = "write"
        uc_mask = torch.Tensor([1] * 1 + [0] * 1).type_as(ref_latents).bool()

        def hacked_basic_transformer_inner_forward(
            self, hidden_states, attention_mask=None, encoder_hidden_states=None, encoder_attention_mask=None,
            timestep=None, cross_attention_kwargs=None, class_labels=None, added_cond_kwargs=None,
        ):  # fmt: skip
            norm_hidden_states = self.norm1(hidden_states)
            cross_attention_kwargs = cross_attention_kwargs if cross_attention_kwargs is not None else {}
            if MODE == "write":
                self.bank.append(norm_hidden_states.detach().clone())
                attn_output = self.attn1(
                    norm_hidden_states, encoder_hidden_states=None, attention_mask=attention_mask,
                    **cross_attention_kwargs,
                )  # fmt: skip
            if MODE == "read":
                if attention_auto_machine_weight > self.attn_weight:
                    attn_output_uc = self.attn1(
                        norm_hidden_states, encoder_hidden_states=torch.cat([norm_hidden_states] + self.bank, dim=1),
                        **cross_attention_kwargs,
                    )  # fmt: skip
                    attn_output_c = attn_output_uc.clone()
                    if style_fidelity > 0:
                        attn_output_c[uc_mask] = self.attn1(
                            norm_hidden_states[uc_mask], encoder_hidden_states=norm_hidden_states[uc_mask],
                            **cross_attention_kwargs,
                        )  # fmt: skip
                    attn_output = style_fidelity * attn_output_c + (1.0 - style_fidelity) * attn_output_uc
                    self.bank.clear()
                else:
                    attn_output = self.attn1(norm_hidden_states, encoder_hidden_states=None, **cross_attention_kwargs)
            hidden_states = attn_output + hidden_states
            norm_hidden_states = self.norm2(hidden_states)
            hidden_states = (
                self.attn2(
                    norm_hidden_states, encoder_hidden_states=encoder_hidden_states,
                    attention_mask=encoder_attention_mask, **cross_attention_kwargs,
                )
                + hidden_states
            )  # fmt: skip
            return self.ff(self.norm3(hidden_states)) + hidden_states

        def hacked_mid_forward(self, *args, **kwargs):
            eps = 1e-6
            x = self.original_forward(*args, **kwargs)
            if MODE == "write":
                if gn_auto_machine_weight >= self.gn_weight:
                    var, mean = torch.var_mean(x, dim=(2, 3), keepdim=True, correction=0)
                    self.mean_bank.append(mean)
                    self.var_bank.append(var)
            if MODE == "read":
                if len(self.mean_bank) > 0 and len(self.var_bank) > 0:
                    var, mean = torch.var_mean(x, dim=(2, 3), keepdim=True, correction=0)
                    std = torch.maximum(var, torch.zeros_like(var) + eps) ** 0.5
                    mean_acc = sum(self.mean_bank) / float(len(self.mean_bank))
                    var_acc = sum(self.var_bank) / float(len(self.var_bank))
                    std_acc = torch.maximum(var_acc, torch.zeros_like(var_acc) + eps) ** 0.5
                    x_uc = (((x - mean) / std) * std_acc) + mean_acc
                    x_c = x_uc.clone()
                    if style_fidelity > 0:
                        x_c[uc_mask] = x[uc_mask]
                    x = style_fidelity * x_c + (1.0 - style_fidelity) * x_uc
                self.mean_bank = []
                self.var_bank = []
            return x

        if reference_attn:
            attn_modules = [m for m in torch_dfs(self.unet) if isinstance(m, BasicTransformerBlock)]
            attn_modules = sorted(attn_modules, key=lambda m: -m.norm1.normalized_shape[0])
            for i, module in enumerate(attn_modules):
                module._original_inner_forward = module.forward
                module.forward = hacked_basic_transformer_inner_forward.__get__(module, BasicTransformerBlock)
                module.bank = []
                module.attn_weight = float(i) / float(len(attn_modules))
        if reference_adain:
            gn_modules = [self.unet.mid_block]
            self.unet.mid_block.gn_weight = 0
            for module in gn_modules:
                if getattr(module, "original_forward", None) is None:
                    module.original_forward = module.forward
                module.forward = hacked_mid_forward.__get__(module, torch.nn.Module)
                module.mean_bank = []
                module.var_bank = []

        with self.progress_bar(total=num_inference_steps) as progress_bar:
            for t in self.scheduler.timesteps:
                model_input = self.scheduler.scale_model_input(torch.cat([latents] * 2), t)
                down, mid = self.controlnet(
                    model_input, t, encoder_hidden_states=prompt_embeds, controlnet_cond=image,
                    conditioning_scale=controlnet_conditioning_scale, return_dict=False,
                )  # fmt: skip
                noise = torch.randn(ref_latents.shape[1:], generator=generator)[None].type_as(ref_latents)
                ref_xt = self.scheduler.add_noise(ref_latents, noise, t.reshape(1))
                ref_xt = self.scheduler.scale_model_input(ref_xt, t)
                MODE = "write"
                self.unet(ref_xt, t, encoder_hidden_states=prompt_embeds, return_dict=False)
                MODE = "read"
                noise_pred = self.unet(
                    model_input, t, encoder_hidden_states=prompt_embeds, down_block_additional_residuals=down,
                    mid_block_additional_residual=mid, return_dict=False,
                )[0]  # fmt: skip
                uncond, text = noise_pred.chunk(2)
                noise_pred = uncond + guidance_scale * (text - uncond)
                latents = self.scheduler.step(noise_pred, t, latents, **extra_step_kwargs, return_dict=False)[0]
                progress_bar.update()
        image = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        image = self.image_processor.postprocess(image, output_type="pil")
        return StableDiffusionPipelineOutput(images=image, nsfw_content_detected=None)


controlnet = ControlNetModel.from_pretrained("tiny/controlnet-canny", torch_dtype=torch.float32)
pipe = StableDiffusionControlNetReferencePipeline.from_pretrained(
    "tiny/stable-diffusion-v1-5", controlnet=controlnet, safety_checker=None, torch_dtype=torch.float32
).to("cuda:0")
pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
with torch.no_grad():  # a random UNet hardly listens to its neighbours
    for module in pipe.unet.modules():
        if isinstance(module, BasicTransformerBlock):
            module.attn1.to_out[0].weight.mul_(8)
call = dict(prompt="1girl", image=load_image("pictures/canny.png"), num_inference_steps=4)
for name, reference, fidelity in (("style", "style", 0.5), ("house", "house", 0.5), ("faithful", "house", 1.0)):
    generator = torch.Generator("cpu").manual_seed(0)
    reference = load_image(f"pictures/{reference}.png")
    image = pipe(ref_image=reference, style_fidelity=fidelity, generator=generator, **call).images[0]
    image.save(f"{name}.png")
